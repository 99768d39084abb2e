//! What differs in the circumstances of two runs: leaf by leaf of `environment.json`, but for what is never the same.

use std::collections::BTreeMap;

use serde_json::Value;

use super::fit::shown;

/// Parts that differ from run to run, or that are compared as the plan.
const LEFT_OUT: [&str; 12] = [
    "run",
    "started_utc",
    "ended_utc",
    "command",
    "clock_domain",
    "plan",
    "dataset",
    "tokenizer",
    "input_len_unit",
    "tailcliff_version",
    "missing",
    "server.preflight_latency_ms",
];
/// The same of each node and server.
const LEFT_OUT_OF_NODES: [&str; 6] = ["clock", "calibration", "sensors", "uuid", "pid", "sources"];

/// A fact that is not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which, in words.
    pub fact: String,
    /// As A has it; `none` where it has not.
    pub a: String,
    /// As B has it.
    pub b: String,
}

/// All of them, by name.
pub fn differences(a: &Value, b: &Value) -> Vec<Difference> {
    let [of_a, of_b] = [a, b].map(|value| {
        let mut leaves = BTreeMap::new();
        flatten("", value, &mut leaves);
        leaves
    });
    let keys: std::collections::BTreeSet<&String> = of_a.keys().chain(of_b.keys()).collect();
    let none = || "none".to_owned();
    let pair = |key: &&String| {
        let (a, b) = (of_a.get(*key).cloned(), of_b.get(*key).cloned());
        (a != b).then(|| Difference {
            fact: in_words(key),
            a: a.unwrap_or_else(none),
            b: b.unwrap_or_else(none),
        })
    };
    keys.iter().filter_map(pair).collect()
}

fn flatten(path: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = below(key);
                let of_node = LEFT_OUT_OF_NODES.contains(&key.as_str());
                if !of_node && !LEFT_OUT.contains(&path.as_str()) {
                    flatten(&path, value, leaves);
                }
            }
        }
        Value::Array(all) => {
            all.iter().enumerate().for_each(|(i, value)| flatten(&below(&i.to_string()), value, leaves));
        }
        Value::Null => {}
        value => drop(leaves.insert(path.to_owned(), shown(value))),
    }
}

/// `probes.0.gpus.1.memory_bytes` → `probe 0, GPU 1, memory bytes`.
fn in_words(path: &str) -> String {
    let mut words = String::new();
    for part in path.split('.') {
        let is_number = part.bytes().all(|b| b.is_ascii_digit());
        let lead = if words.is_empty() {
            ""
        } else if is_number {
            " "
        } else {
            ", "
        };
        let part = match part {
            "agents" => "agent".to_owned(),
            "probes" => "probe".to_owned(),
            "gpus" => "GPU".to_owned(),
            part => part.replace('_', " "),
        };
        words = words + lead + &part;
    }
    words
}
