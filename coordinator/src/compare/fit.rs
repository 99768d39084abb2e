//! May two runs be compared at all? Other servers, models, precisions and GPUs are what one compares; another workload is not.

use serde_json::Value;

use super::side::Side;

/// What stands between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    /// Why a difference would say nothing of the server.
    pub refusals: Vec<String>,
    /// What a reader must know of it.
    pub cautions: Vec<String>,
}

/// Fields of a plan that make the workload, and what they are.
const WORKLOAD: [(&str, &str); 21] = [
    ("endpoint_type", "kind of endpoint"),
    ("streaming", "streaming"),
    ("arrival_pattern", "law of arrivals"),
    ("burstiness", "burstiness"),
    ("replay_speed", "replay speed"),
    ("max_concurrency", "bound on requests in flight"),
    ("retries", "retries"),
    ("input_len", "input length"),
    ("input_len_unit", "unit of input lengths"),
    ("output_len", "output length"),
    ("prompt", "prompt"),
    ("prompt_label", "kind of prompt"),
    ("dataset", "dataset"),
    ("synthetic", "synthetic prompts"),
    ("sampling", "sampling"),
    ("temperature", "temperature"),
    ("ignore_eos", "end-of-sequence handling"),
    // It may hold whatever a server obeys, such as another max_tokens.
    ("extra_body", "extra body"),
    ("experiment", "experiment"),
    ("cells", "cells of the experiment"),
    ("control", "deliberate faults of the client"),
];

/// Fields that may move figures without being another workload.
const CIRCUMSTANCES: [(&str, &str); 11] = [
    ("num_prompts", "requests of a level"),
    ("duration_ns", "length of a level (ns)"),
    ("warmup_ns", "warm-up (ns)"),
    ("ramp_ns", "ramp (ns)"),
    ("drain_ns", "wait for what is unfinished (ns)"),
    ("request_timeout_ns", "request timeout (ns)"),
    ("read_timeout_ns", "read timeout (ns)"),
    ("http_version", "HTTP version"),
    ("agents", "agents"),
    ("seed", "seed"),
    ("trace", "trace mode"),
];

/// Longest value that is shown.
const SHOWN: usize = 60;

/// What differs in what was asked.
pub fn fit(a: &Side, b: &Side) -> Fit {
    let plans = [a, b].map(|side| serde_json::to_value(&side.plan).unwrap_or_default());
    let differing = |fields: &[(&str, &str)]| -> Vec<String> {
        fields
            .iter()
            .filter_map(|(key, what)| difference(what, plans[0].get(key), plans[1].get(key)))
            .collect()
    };
    let mut fit = Fit { refusals: differing(&WORKLOAD), cautions: differing(&CIRCUMSTANCES) };
    let axis =
        |side: &Side| side.loads.first().map(|of| of.place.load).or(side.plan.levels().first().copied());
    if let (Some(of_a), Some(of_b)) = (axis(a), axis(b))
        && of_a.is_open() != of_b.is_open()
    {
        fit.refusals.push(format!("load: A goes by {}, B by {}", of_a.axis(), of_b.axis()));
    } else if !a.loads.iter().any(|of| b.loads.iter().any(|other| other.place == of.place)) {
        let list = |side: &Side| match side.loads.as_slice() {
            [] => {
                let why = side.skipped.first().map(|(load, why)| format!(" ({}: {why})", load.name()));
                format!("none that counts{}", why.unwrap_or_default())
            }
            loads => loads.iter().map(|of| of.place.name()).collect::<Vec<_>>().join(", "),
        };
        fit.refusals.push(format!("loads: none in common: A has {}, B has {}", list(a), list(b)));
    }
    let terms = [a, b].map(|side| side.plan.slo.as_ref().map(|slo| &slo.terms));
    if let [Some(of_a), Some(of_b)] = terms
        && of_a != of_b
    {
        fit.refusals.push("SLO: the limits differ: judge both by one with --goodput".to_owned());
    }
    if a.version != b.version {
        fit.cautions.push(format!("tailcliff: {} against {}", a.version, b.version));
    }
    for (name, side) in [("A", a), ("B", b)].iter().filter(|(_, side)| !side.cut_short.is_empty()) {
        fit.cautions.push(format!("{name} is not whole: {}", side.cut_short));
    }
    fit
}

fn difference(what: &str, a: Option<&Value>, b: Option<&Value>) -> Option<String> {
    let (a, b) = (a.unwrap_or(&Value::Null), b.unwrap_or(&Value::Null));
    (a != b).then(|| match (parts(a, b), what) {
        // A prompt may be long, and private.
        (_, "prompt") => "prompt: not the same".to_owned(),
        (Some(parts), _) => format!("{what}: {parts}"),
        (None, _) => format!("{what}: {} against {}", shown(a), shown(b)),
    })
}

/// Of two objects the fields that differ.
fn parts(a: &Value, b: &Value) -> Option<String> {
    let (a, b) = (a.as_object()?, b.as_object()?);
    let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let of = |key: &&String| difference(&key.replace('_', " "), a.get(*key), b.get(*key));
    Some(keys.iter().filter_map(of).collect::<Vec<_>>().join("; "))
}

pub(super) fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let cut: String = text.chars().take(SHOWN).collect();
    if cut.len() < text.len() { cut + "…" } else { cut }
}
