//! What a server's launch flags say of it.

use serde_json::Value;

use super::facts::Facts;

/// Reads those that are known; what is not given is its stack's default, which nobody tells.
pub(super) fn tell(command: &[String], facts: &mut Facts) {
    let line = Line(command);
    facts.told_stack(line.stack(), "command line");
    let is_llama = facts.stack() == "llama.cpp";
    let short = |name| if is_llama { name } else { "" };
    let (batch, from) = line.number(&["max-num-seqs", "max-running-requests", "parallel", short("-np")]);
    facts.told_max_batch(batch, &from);
    let (length, from) = line.number(&["max-model-len", "context-length"]);
    facts.told_max_model_len(length, &from);
    // All of it, over the slots.
    let (tokens, from) = line.number(&["max-total-tokens", short("ctx-size"), short("-c")]);
    // 0 asks llama.cpp for as many as the model has been trained with.
    facts.told_kv_tokens(tokens.filter(|tokens| *tokens > 0), &from);
    prefix_caching(&line, facts);
    spec_decoding(&line, facts);
    for name in OTHERS {
        if let Some(value) = line.value(name) {
            facts.other(&name.replace('-', "_"), value, &source(name));
        }
    }
}

fn source(flag: &str) -> String {
    let dashes = if flag.starts_with('-') { "" } else { "--" };
    format!("{dashes}{flag} of its command line")
}

const OTHERS: [&str; 12] = [
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "data-parallel-size",
    "tp-size",
    "dtype",
    "quantization",
    "kv-cache-dtype",
    "max-num-batched-tokens",
    "chunked-prefill-size",
    "gpu-memory-utilization",
    "mem-fraction-static",
    "n-gpu-layers",
];

fn prefix_caching(line: &Line<'_>, facts: &mut Facts) {
    let flags = [
        ("enable-prefix-caching", true),
        ("no-enable-prefix-caching", false),
        ("disable-radix-cache", false),
        ("no-cache-prompt", false),
    ];
    for (flag, is_on) in flags.into_iter().filter(|(flag, _)| line.has(flag)) {
        facts.told_prefix_caching(Some(is_on), &source(flag));
    }
}

fn spec_decoding(line: &Line<'_>, facts: &mut Facts) {
    if let Some(config) = line.value("speculative-config") {
        let json: Value = serde_json::from_str(config).unwrap_or_default();
        let method = json["method"].as_str().or_else(|| json["model"].as_str().map(|_| "draft_model"));
        facts.told_spec_decoding(Some(method.unwrap_or("on")), &source("speculative-config"));
    }
    facts.told_spec_decoding(line.value("speculative-algorithm"), &source("speculative-algorithm"));
    for flag in ["model-draft", "speculative-model", "-md"] {
        if line.value(flag).is_some() {
            facts.told_spec_decoding(Some("draft_model"), &source(flag));
        }
    }
}

struct Line<'a>(&'a [String]);

impl<'a> Line<'a> {
    fn stack(&self) -> &'static str {
        let is = |word: &String| match word.rsplit('/').next().unwrap_or(word) {
            "vllm" => Some("vllm"),
            name if name.starts_with("vllm.entrypoints") => Some("vllm"),
            "sglang" | "sglang.launch_server" => Some("sglang"),
            "llama-server" => Some("llama.cpp"),
            "model-sim" => Some("model-sim"),
            _ => None,
        };
        // Interpreter, its switches, script or module.
        self.0.iter().take(4).find_map(is).unwrap_or_default()
    }

    /// `--name value` and `--name=value`, also with underscores; `-x` is taken as it is.
    fn value(&self, name: &str) -> Option<&'a str> {
        let mut words = self.0.iter().skip(1);
        while let Some(word) = words.next() {
            let (flag, value) = word.split_once('=').map_or((word.as_str(), None), |(f, v)| (f, Some(v)));
            if is_flag(flag, name) {
                return value.or_else(|| words.next().map(String::as_str));
            }
        }
        None
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().skip(1).any(|word| is_flag(word, name))
    }

    /// The first of the flags that is given, and which it is.
    fn number(&self, names: &[&str]) -> (Option<u64>, String) {
        let given = names.iter().filter(|name| !name.is_empty()).find_map(|name| {
            let value = self.value(name)?.parse().ok()?;
            Some((value, source(name)))
        });
        given.map_or((None, String::new()), |(value, from)| (Some(value), from))
    }
}

fn is_flag(word: &str, name: &str) -> bool {
    if name.starts_with('-') {
        return word == name;
    }
    word.strip_prefix("--").is_some_and(|flag| flag.len() == name.len() && flag.replace('_', "-") == name)
}
