//! What this host tells of the server's process: its command line and the variables that matter, without their secrets.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use serde::Serialize;
use tailcliff_proto::secret::is_secret;

use crate::local::{Server, processes_of};
use crate::redact::REDACTED;

/// Bytes of a command line or an environment that are read.
const MOST_BYTES: u64 = 256 << 10;
/// Variables whose names begin so are recorded.
const TELLING: [&str; 23] = [
    "CUDA_",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE",
    "NCCL_",
    "VLLM_",
    "SGLANG_",
    "SGL_",
    "HF_",
    "TRANSFORMERS_",
    "TORCH",
    "PYTORCH_",
    "TRITON_",
    "OMP_",
    "MKL_",
    "KMP_",
    "OPENBLAS_",
    "GGML_",
    "LLAMA_",
    "TOKENIZERS_",
    "ROCR_",
    "HIP_",
    "LD_PRELOAD",
    "MALLOC_",
];

/// The server as its process shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: Option<u32>,
    /// Its command line.
    pub command: Option<Vec<String>>,
    /// Of its environment what matters; `None` where it may not be read.
    pub env: Option<Vec<(String, String)>>,
    /// Why something is not known.
    pub unknown: Option<String>,
}

impl Process {
    /// Looks at it now.
    pub(super) fn look(server: Option<Server>, names: &[String]) -> Self {
        let Some(server) = server else {
            let why = "the URL leads to another host, as far as can be told from here: give --server-pid or --server-port";
            return Self { unknown: Some(why.to_owned()), ..Self::default() };
        };
        let pid = match processes_of(server).map(|pids| pids.first().copied()) {
            Ok(Some(pid)) => pid,
            Ok(None) => return Self::default(),
            Err(why) => return Self { unknown: Some(why), ..Self::default() },
        };
        let read = |name: &str| strings(PathBuf::from(format!("/proc/{pid}/{name}")));
        Self {
            pid: Some(pid),
            command: read("cmdline").map(|words| redacted_words(&words)).filter(|words| !words.is_empty()),
            env: read("environ").map(|all| kept(&all, names)),
            unknown: None,
        }
    }
}

/// Strings that end in a zero byte each.
fn strings(path: PathBuf) -> Option<Vec<String>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let printable = |word: &str| word.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(text.split_terminator('\0').map(printable).collect())
}

fn kept(all: &[String], names: &[String]) -> Vec<(String, String)> {
    let pairs = all.iter().filter_map(|pair| pair.split_once('='));
    let is_kept = |name: &str| TELLING.iter().any(|p| name.starts_with(p)) || names.iter().any(|n| n == name);
    let mut kept: Vec<(String, String)> = pairs
        .filter(|(name, _)| is_kept(name))
        .map(|(name, value)| (name.to_owned(), without_secret(name, value)))
        .collect();
    kept.sort();
    kept
}

/// A number is no secret (`--max-num-batched-tokens 4096`), and neither is a tokenizer.
fn without_secret(name: &str, value: &str) -> String {
    let name = name.to_ascii_lowercase().replace("tokenizer", "");
    let is_plain = value.parse::<f64>().is_ok() || ["true", "false", ""].contains(&value);
    if is_secret(&name) && !is_plain { REDACTED.to_owned() } else { without_user(value) }
}

/// `scheme://user:password@host` without the middle.
fn without_user(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_owned() };
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rsplit_once('@') {
        Some((user, _)) => format!("{scheme}://{REDACTED}{}", &rest[user.len()..]),
        None => value.to_owned(),
    }
}

/// Words of a command line: values of flags, and of NAME=VALUE, whose names speak of secrets are left out.
pub(super) fn redacted_words(words: &[String]) -> Vec<String> {
    let mut before: Option<&str> = None;
    let mut hide_more = false;
    let mut kept = Vec::new();
    for word in words {
        let flag = before.take();
        let text = match word.split_once('=') {
            _ if flag.is_some_and(|flag| without_secret(flag, word) == REDACTED) => {
                hide_more = true;
                REDACTED.to_owned()
            }
            // A flag may take several keys.
            _ if hide_more && !word.starts_with('-') => REDACTED.to_owned(),
            Some((name, value)) => {
                hide_more = false;
                format!("{name}={}", without_secret(name, value))
            }
            None => {
                hide_more = false;
                without_user(word)
            }
        };
        before = word.starts_with('-').then_some(word.as_str()).filter(|word| !word.contains('='));
        kept.push(if is_bearer(&text) { REDACTED.to_owned() } else { text });
    }
    kept
}

/// As servers' keys often look.
fn is_bearer(word: &str) -> bool {
    let word = word.trim_matches(['"', '\'']);
    word.len() > 16 && ["sk-", "hf_", "Bearer "].iter().any(|start| word.starts_with(start))
}

/// A shell's text, word by word: what a quote holds together is one.
pub(super) fn redacted_script(text: &str) -> String {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in text.chars() {
        match quote {
            None if c.is_whitespace() || ";|&()".contains(c) => {
                words.push(std::mem::take(&mut word));
                words.push(c.to_string());
                continue;
            }
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ => {}
        }
        word.push(c);
    }
    words.push(word);
    // Blanks between words are no values.
    let is_sign =
        |word: &String| word.trim().is_empty() || [";", "|", "&", "(", ")"].contains(&word.as_str());
    let is_word = |word: &String| !is_sign(word);
    let plain: Vec<String> = words.iter().filter(|word| is_word(word)).cloned().collect();
    let mut redacted = redacted_words(&plain).into_iter();
    words
        .iter()
        .map(|word| if is_word(word) { redacted.next().unwrap_or_default() } else { word.clone() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_command_line_is_shown_without_its_secrets() {
        let line = "vllm serve m --api-key hunter2 hunter3 --port 8000 --api-key=hunter4 --hf-token hunter5 \
                    --max-num-batched-tokens 4096 --tokenizer /models/t --tokenizer-mode auto \
                    --otlp http://me:hunter6@host:4317/x HF_TOKEN=hunter7 sk-hunter8hunter8hunter8";
        let shown = redacted_words(&words(line)).join(" ");
        assert!(!shown.contains("hunter"), "{shown}");
        for kept in ["4096", "--tokenizer /models/t", "--tokenizer-mode auto", "--port 8000", "@host:4317/x"]
        {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }

    #[test]
    fn so_is_a_script() {
        let text = "pkill -x vllm; export VLLM_API_KEY='hunter 2'\nvllm serve m --api-key \"hunter 3\" --max-tokens 5 &";
        let shown = redacted_script(text);
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.starts_with("pkill -x vllm; export VLLM_API_KEY="), "{shown}");
        assert!(shown.ends_with("--max-tokens 5 &"), "{shown}");
        assert_eq!(redacted_script("a  b&&c"), "a  b&&c");
    }

    #[test]
    fn of_an_environment_what_matters_is_kept() {
        let all =
            ["PATH=/bin", "CUDA_VISIBLE_DEVICES=0,1", "HF_TOKEN=hunter2", "MINE=x", "VLLM_USE_V1=1", "odd"];
        let kept = kept(&all.map(str::to_owned), &["MINE".to_owned()]);
        let shown: Vec<String> = kept.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(shown, ["CUDA_VISIBLE_DEVICES=0,1", "HF_TOKEN=(redacted)", "MINE=x", "VLLM_USE_V1=1"]);
    }

    #[test]
    fn this_very_process_is_found_by_its_number() {
        let seen = Process::look(Some(Server::Pid(std::process::id())), &[]);
        assert_eq!(seen.pid, Some(std::process::id()));
        assert!(seen.command.is_some_and(|words| !words.is_empty()) && seen.env.is_some());
        assert!(Process::look(None, &[]).unknown.is_some());
    }
}
