//! What was typed about a cluster, validated: names, quantities and selectors are refused here in words, before an API
//! server does in its own.

use std::collections::BTreeMap;

use crate::args::k8s::K8sArgs;
use crate::config::{ConfigError, bad};

/// Longest name that leaves room for `-coordinator`, an index and the suffix of a pod in a label.
const LONGEST_RUN_ID: usize = 40;
const KIB: f64 = 1024.0;
/// Least memory that a container of ours starts in, bytes.
const LEAST_MEMORY: f64 = 16.0 * KIB * KIB;

/// Labels by which something is selected.
pub type Labels = BTreeMap<String, String>;

/// A cluster's side of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Prefix of all names, and value of the label.
    pub run_id: String,
    /// As typed.
    pub args: K8sArgs,
    /// Nodes for load.
    pub nodes: Labels,
    /// Pods of the server.
    pub server: Labels,
    /// Nodes with GPUs.
    pub gpu_nodes: Labels,
    /// Secret of the API key, and its key.
    pub api_key: Option<(String, String)>,
}

impl Settings {
    /// Of flags; `run_id` is what the run is called when nobody said.
    ///
    /// # Errors
    /// The first value that no cluster takes, with what to try.
    pub fn from_args(args: &K8sArgs, run_id: &str) -> Result<Self, ConfigError> {
        let run_id = args.run_id.clone().unwrap_or_else(|| run_id.to_owned());
        if !is_name(&run_id) || run_id.len() > LONGEST_RUN_ID || run_id.contains('.') {
            let try_this = format!("{run_id:?}: lowercase letters, digits and -, at most {LONGEST_RUN_ID}");
            return Err(bad("--run-id", try_this));
        }
        for (flag, name) in [
            ("--namespace", &args.namespace),
            ("--image-pull-secret", &args.image_pull_secret),
            ("--storage-class", &args.storage_class),
            ("--data-claim", &args.data_claim),
            ("--gpu-runtime-class", &args.gpu_runtime_class),
        ] {
            if let Some(name) = name.as_ref().filter(|name| !is_name(name)) {
                return Err(bad(flag, format!("{name:?} is no name of Kubernetes: a-z, 0-9, - and .")));
            }
        }
        quantities(args)?;
        if args.image.is_empty() || args.image.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(bad("--image", format!("{:?} is no image", args.image)));
        }
        Ok(Self {
            run_id,
            nodes: labels("--node-selector", &args.node_selector)?,
            server: labels("--server-label", &args.server_label)?,
            gpu_nodes: labels("--gpu-node-selector", &args.gpu_node_selector)?,
            api_key: args.api_key_secret.as_deref().map(secret).transpose()?,
            args: args.clone(),
        })
    }

    /// Name of an object.
    pub fn named(&self, what: &str) -> String {
        format!("{}-{what}", self.run_id)
    }
}

fn quantities(args: &K8sArgs) -> Result<(), ConfigError> {
    for (flag, quantity) in [
        ("--agent-cpu", Some(&args.agent_cpu)),
        ("--agent-memory", Some(&args.agent_memory)),
        ("--coordinator-cpu", Some(&args.coordinator_cpu)),
        ("--coordinator-memory", Some(&args.coordinator_memory)),
        ("--volume", args.volume.as_ref()),
    ] {
        if let Some(quantity) = quantity.filter(|quantity| !is_quantity(quantity)) {
            return Err(bad(flag, format!("{quantity:?} is no quantity: try 2, 500m, 512Mi or 10Gi")));
        }
    }
    for (flag, memory) in
        [("--agent-memory", &args.agent_memory), ("--coordinator-memory", &args.coordinator_memory)]
    {
        if number(memory).is_some_and(|bytes| bytes < LEAST_MEMORY) {
            return Err(bad(flag, format!("{memory:?} is less than 16Mi, in which nothing starts: try 1Gi")));
        }
    }
    if args.deadline.0 < 1_000_000_000 {
        return Err(bad("--deadline", "no pod ends within a second: try 6h"));
    }
    Ok(())
}

fn is_quantity(text: &str) -> bool {
    number(text).is_some_and(|n| n > 0.0)
}

/// Of a quantity: cores or bytes.
fn number(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let units = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"];
    let sizes = [1.0, 1e-3, 1e3, 1e6, 1e9, 1e12, KIB, KIB * KIB, KIB * KIB * KIB, KIB * KIB * KIB * KIB];
    let at = units.iter().position(|unit| *unit == &text[digits.len()..])?;
    digits.parse::<f64>().ok().map(|number| number * sizes[at])
}

/// A DNS subdomain, as objects are named.
fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 253 && text.chars().all(inner) && text.starts_with(edge) && text.ends_with(edge)
}

fn is_label_part(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.len() <= 63
        && text.chars().all(inner)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn labels(flag: &'static str, typed: &[String]) -> Result<Labels, ConfigError> {
    let label = |text: &String| {
        let (key, value) = text.split_once('=')?;
        let fine = match key.split_once('/') {
            Some((prefix, name)) => is_name(prefix) && is_label_part(name),
            None => is_label_part(key),
        };
        (fine && (value.is_empty() || is_label_part(value))).then(|| (key.to_owned(), value.to_owned()))
    };
    let wrong = |text: &String| bad(flag, format!("{text:?} is no label: try app=vllm"));
    typed.iter().map(|text| label(text).ok_or_else(|| wrong(text))).collect()
}

fn secret(typed: &str) -> Result<(String, String), ConfigError> {
    let (name, key) = typed.split_once('/').unwrap_or((typed, "api-key"));
    let fine = is_name(name)
        && !key.is_empty()
        && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    match fine {
        true => Ok((name.to_owned(), key.to_owned())),
        false => Err(bad("--api-key-secret", format!("{typed:?}: try the name of a Secret, or NAME/KEY"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_api_server_would_refuse_is_refused_here() {
        for good in ["2", "500m", "1.5", "512Mi", "10Gi"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "0", "-1", "Gi", "1GiB", "1 Gi", "inf", "nan"] {
            assert!(!is_quantity(bad), "{bad}");
        }
        assert!(is_name("a-1.b") && !is_name("") && !is_name("A") && !is_name("-a") && !is_name("a_b"));
        let all = |typed: &[&str]| {
            labels("--server-label", &typed.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(all(&["app=vllm", "nvidia.com/gpu.present=true"]).unwrap().len(), 2);
        for bad in ["app", "=x", "a b=c", "a=b c", "UPPER.com/=x", "a=b=c"] {
            assert!(all(&[bad]).is_err(), "{bad}");
        }
        assert_eq!(secret("s").unwrap(), ("s".to_owned(), "api-key".to_owned()));
        assert_eq!(secret("s/k").unwrap().1, "k");
        assert!(secret("S").is_err() && secret("s/").is_err());
    }
}
