//! What this host tells of the server's process: its command line and the variables that matter, without their secrets.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use serde::Serialize;
use tailcliff_proto::secret::{redacted_value, redacted_words};

use crate::local::{Server, processes_of};

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
            command: read("cmdline").map(|words| shown(&words)).filter(|words| !words.is_empty()),
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
    Some(text.split_terminator('\0').map(str::to_owned).collect())
}

fn printable(word: &str) -> String {
    word.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Lines of a shell's text are told apart before they become one.
fn shown(words: &[String]) -> Vec<String> {
    redacted_words(words).iter().map(|word| printable(word)).collect()
}

fn kept(all: &[String], names: &[String]) -> Vec<(String, String)> {
    let pairs = all.iter().filter_map(|pair| pair.split_once('='));
    let is_kept = |name: &str| TELLING.iter().any(|p| name.starts_with(p)) || names.iter().any(|n| n == name);
    let mut kept: Vec<(String, String)> = pairs
        .filter(|(name, _)| is_kept(name))
        .map(|(name, value)| (printable(name), printable(&redacted_value(name, value))))
        .collect();
    kept.sort();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_environment_what_matters_is_kept() {
        let all =
            ["PATH=/bin", "CUDA_VISIBLE_DEVICES=0,1", "HF_TOKEN=hunter2", "MINE=x", "VLLM_USE_V1=1", "odd"];
        let kept = kept(&all.map(str::to_owned), &["MINE".to_owned()]);
        let shown: Vec<String> = kept.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(shown, ["CUDA_VISIBLE_DEVICES=0,1", "HF_TOKEN=(redacted)", "MINE=x", "VLLM_USE_V1=1"]);
    }

    #[test]
    fn a_value_that_is_a_number_or_holds_a_secret_is_left_out() {
        let all =
            ["HF_TOKEN=123456", "MINE=https://h/x?api_key=hunter2", "VLLM_ARGS=serve --api-key hunter2"];
        let kept = kept(&all.map(str::to_owned), &["MINE".to_owned()]);
        let shown = kept.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
        assert!(!shown.contains("hunter") && !shown.contains("123456"), "{shown}");
        assert!(kept.len() == 3 && shown.contains("serve --api-key"), "{shown}");
    }

    #[test]
    fn a_shells_text_in_a_command_line_is_shown_in_one_line() {
        let words = ["sh", "-c", "# don't\nvllm serve m \\\n --api-key 'hunter 2'\necho ok"];
        let shown = shown(&words.map(str::to_owned)).join(" ");
        assert!(!shown.contains("hunter") && !shown.contains('\n') && shown.ends_with(" echo ok"), "{shown}");
    }

    #[test]
    fn this_very_process_is_found_by_its_number() {
        let seen = Process::look(Some(Server::Pid(std::process::id())), &[]);
        assert_eq!(seen.pid, Some(std::process::id()));
        assert!(seen.command.is_some_and(|words| !words.is_empty()) && seen.env.is_some());
        assert!(Process::look(None, &[]).unknown.is_some());
    }
}
