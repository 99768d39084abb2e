//! Why the knee is there, what GPUs did and where time went, as JSON.

use serde_json::{Value, json};

use crate::diagnose::{Diagnosis, LevelGpu, Parts};

use super::text::{json_ms, number};

/// A diagnosis; null when there is none.
pub fn diagnosis(diagnosis: Option<&Diagnosis>) -> Value {
    let Some(found) = diagnosis else { return Value::Null };
    let evidence = found.evidence.iter().map(|e| json!({ "signal": e.signal, "words": e.words }));
    let excluded = found.excluded.iter().map(|(cause, why)| json!({ "cause": cause.as_str(), "words": why }));
    json!({
        "cause": found.cause.as_str(),
        "confidence": number(Some(found.confidence), 3),
        "candidates": found.candidates.iter().map(|cause| cause.as_str()).collect::<Vec<_>>(),
        "words": found.words,
        "evidence": evidence.collect::<Vec<_>>(),
        "excluded": excluded.collect::<Vec<_>>(),
    })
}

/// What a level's GPUs did; null without a sample.
pub fn gpu(gpu: Option<&LevelGpu>) -> Value {
    let Some(gpu) = gpu else { return Value::Null };
    json!({
        "power_w": number(gpu.power_w, 3),
        "power_limit_w": number(gpu.power_limit_w, 3),
        "gpu_util_pct": number(gpu.util_pct, 3),
        "sm_clock_mhz": number(gpu.sm_clock_mhz, 3),
        "throttled_share": number(gpu.throttled_share, 6),
        "throttle_reasons": gpu.throttle_reasons,
        "simulated": gpu.simulated,
    })
}

/// T = queue + network + compute; null where nothing tells.
pub fn parts(parts: Option<&Parts>) -> Value {
    let Some(parts) = parts else { return Value::Null };
    json!({
        "queue_ms": json_ms(Some(parts.queue_ns)),
        "network_ms": json_ms(parts.network_ns),
        "compute_ms": json_ms(Some(parts.compute_ns)),
        "client_ms": json_ms(parts.client_ns),
        "words": parts.words,
    })
}
