//! `calculators` of `summary.json`: what a report's sliders start from. What a run measured is told apart from what is only
//! a place to start.

use serde_json::{Value, json};

use super::{GIB, weights};
use crate::certificate::Verdict;
use crate::merge::{Merged, last_tries};
use crate::report::text::number;

/// Users, tokens, layers, hidden, bytes, weights in GiB and lines in GiB where nothing else is known.
pub const USERS: u64 = 20;
/// Tokens of a user.
pub const SEQ_LEN: u64 = 8_192;
/// Layers.
pub const LAYERS: u64 = 80;
/// Width of the model.
pub const HIDDEN: u64 = 8_192;
/// Bytes of a value.
pub const BYTES: f64 = 2.0;
/// Weights, GiB.
pub const WEIGHTS_GIB: f64 = 130.0;
/// Cards' memory, GiB as the drawings have it.
pub const LINES_GIB: [f64; 2] = [80.0, 141.0];
/// Parameters.
pub const PARAMS: f64 = 70e9;
/// (USD, users at once) of two cards.
pub const CARDS: [(f64, f64); 2] = [(12_000.0, 5.0), (25_000.0, 20.0)];

/// Inputs of the three calculators, and what of them the run measured.
pub fn inputs(merged: &Merged) -> Value {
    let precision = |(name, bytes): (&str, f64)| json!({ "name": name, "bytes": bytes, "gib": number(Some(weights::gib(PARAMS, bytes)), 3) });
    let card = |(price_usd, users): (f64, f64)| json!({ "price_usd": price_usd, "concurrency": users });
    json!({
        "kv": {
            "users": USERS,
            "seq_len": SEQ_LEN,
            "layers": LAYERS,
            "hidden": HIDDEN,
            "kv_heads": null,
            "head_dim": null,
            "bytes": BYTES,
            "weights_gib": WEIGHTS_GIB,
            "lines_gib": LINES_GIB,
        },
        "weights": { "params": PARAMS, "precisions": weights::PRECISIONS.map(precision) },
        "cost": { "cards": CARDS.map(card) },
        "measured": measured(merged),
    })
}

fn measured(merged: &Merged) -> Value {
    let gpus = merged.nodes.iter().flat_map(|node| &node.gpus).map(|gpu| {
        let gib = Some(gpu.memory_bytes as f64 / GIB).filter(|gib| *gib > 0.0);
        json!({ "name": gpu.name, "memory_gib": number(gib, 3), "simulated": gpu.simulated })
    });
    let good = || last_tries(&merged.levels).filter(|level| level.certificate.verdict == Verdict::Ok);
    let (mut completed, mut input, mut output, mut uncounted) = (0, 0, 0, 0);
    for level in good() {
        completed += level.measured.completed;
        input += level.input_tokens;
        output += level.output_tokens;
        uncounted += level.outside.without_tokens;
    }
    // Where some have no count, the mean of the others is no mean.
    let mean = |sum: u64| (sum > 0 && uncounted == 0).then(|| sum as f64 / completed.max(1) as f64);
    let both = mean(input).zip(mean(output)).map(|(input, output)| input + output);
    json!({
        "gpus": gpus.collect::<Vec<_>>(),
        "mean_input_tokens": number(mean(input), 3),
        "mean_output_tokens": number(mean(output), 3),
        "tokens_per_request": number(both, 3),
        "concurrency_at_knee": merged.knee.at.and_then(|load| load.concurrency()),
    })
}
