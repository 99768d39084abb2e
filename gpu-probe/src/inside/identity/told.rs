//! What servers answer when they are asked what they are. Of each answer only what is named here is read: SGLang's, for one,
//! has the server's key in it.

use std::borrow::Cow;

use serde_json::Value;

use super::facts::Facts;
use crate::inside::scrape::{lines, stack};

/// A path beside the metrics, and how its answer is read.
pub(super) type Path = (&'static str, fn(&Value, &mut Facts));

/// Every server has it.
pub(super) const MODELS: Path = ("v1/models", models);
/// What is asked for after it, in order.
pub(super) const PATHS: [Path; 4] = [
    ("version", version),
    ("props", props),
    // The older name of SGLang's, and today's.
    ("get_server_info", server_info),
    ("server_info", server_info),
];

/// A known server is not asked for what others have.
pub(super) fn is_asked(path: &str, stack: &str) -> bool {
    match path {
        "version" => !["sglang", "llama.cpp"].contains(&stack),
        "props" => ["llama.cpp", ""].contains(&stack),
        "get_server_info" | "server_info" => ["sglang", ""].contains(&stack),
        _ => true,
    }
}

fn models(json: &Value, facts: &mut Facts) {
    const FROM: &str = "/v1/models";
    let list = json["data"].as_array().map_or(&[][..], Vec::as_slice);
    facts.told_models(list.iter().filter_map(|model| model["id"].as_str()), FROM);
    let Some(first) = list.first() else { return };
    let owner = first["owned_by"].as_str().unwrap_or_default();
    let known =
        [("vllm", "vllm"), ("sglang", "sglang"), ("llamacpp", "llama.cpp"), ("model-sim", "model-sim")];
    let stack = known.into_iter().find(|(name, _)| *name == owner).map_or("", |(_, stack)| stack);
    facts.told_stack(stack, "/v1/models (owned_by)");
    facts.told_max_model_len(first["max_model_len"].as_u64().or(first["meta"]["n_ctx"].as_u64()), FROM);
    for name in ["n_params", "size", "ftype", "n_ctx_train"] {
        facts.other(name, &plain(&first["meta"][name]), FROM);
    }
}

fn version(json: &Value, facts: &mut Facts) {
    facts.told_version(json["version"].as_str(), "/version");
}

fn props(json: &Value, facts: &mut Facts) {
    const FROM: &str = "/props";
    let Some(slots) = json["total_slots"].as_u64() else { return };
    facts.told_stack("llama.cpp", FROM);
    facts.told_version(json["build_info"].as_str(), FROM);
    facts.told_max_batch(Some(slots), FROM);
    let settings = &json["default_generation_settings"];
    // Of one slot.
    facts.told_max_model_len(settings["n_ctx"].as_u64(), FROM);
    let types = settings["params"]["speculative.types"].as_str();
    facts.told_spec_decoding(types.map(|types| if types == "none" { "off" } else { types }), FROM);
    for name in ["model_path", "model_ftype", "endpoint_slots", "endpoint_metrics"] {
        facts.other(name, &plain(&json[name]), FROM);
    }
}

const OF_SGLANG: [&str; 20] = [
    "model_path",
    "tp_size",
    "dp_size",
    "pp_size",
    "ep_size",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "page_size",
    "chunked_prefill_size",
    "max_prefill_tokens",
    "max_total_tokens",
    "mem_fraction_static",
    "attention_backend",
    "schedule_policy",
    "schedule_conservativeness",
    "disable_cuda_graph",
    "cuda_graph_max_bs",
    "speculative_num_steps",
    "speculative_num_draft_tokens",
];

fn server_info(json: &Value, facts: &mut Facts) {
    const FROM: &str = "/get_server_info or /server_info";
    if !json["max_total_num_tokens"].is_u64() && !json["internal_states"].is_array() {
        return;
    }
    facts.told_stack("sglang", FROM);
    facts.told_version(json["version"].as_str(), FROM);
    let state = &json["internal_states"][0];
    let of_each = state["effective_max_running_requests_per_dp"].as_u64();
    facts.told_max_batch(of_each.or(json["max_running_requests"].as_u64()), FROM);
    facts.told_kv_tokens(json["max_total_num_tokens"].as_u64(), FROM);
    let length = json["context_length"].as_u64().or(json["max_req_input_len"].as_u64());
    facts.told_max_model_len(length, FROM);
    facts.told_prefix_caching(json["disable_radix_cache"].as_bool().map(|off| !off), FROM);
    let method = json.get("speculative_algorithm").map(|of| of.as_str().unwrap_or("off"));
    facts.told_spec_decoding(method, FROM);
    for name in OF_SGLANG {
        facts.other(name, &plain(&json[name]), FROM);
    }
}

const OF_VLLM: [&str; 10] = [
    "block_size",
    "num_gpu_blocks",
    "cache_dtype",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "kv_cache_max_concurrency",
    "sliding_window",
    "prefix_caching_hash_algo",
    "num_gpu_blocks_override",
    "kv_offloading_size",
];

/// What the metrics tell besides figures.
pub(super) fn metrics(text: &str, facts: &mut Facts) {
    const FROM: &str = "metrics (vllm:cache_config_info)";
    const SPEC: &str = "metrics (vllm:spec_decode_*)";
    let (mut is_vllm, mut drafts, mut kv_tokens) = (false, false, None::<u64>);
    for line in lines(text).flatten() {
        facts.told_stack(stack(line.name), "metrics (names)");
        is_vllm |= line.name.starts_with("vllm:");
        drafts |= line.name.starts_with("vllm:spec_decode_");
        if line.name == "sglang:max_total_num_tokens" {
            let whole = Some(line.value).filter(|of| (1.0..1e15).contains(of));
            facts.told_kv_tokens(whole.map(|of| of as u64), "metrics (sglang:max_total_num_tokens)");
        }
        if line.name != "vllm:cache_config_info" {
            continue;
        }
        let label = |name: &str| line.label(name).unwrap_or(Cow::Borrowed(""));
        let number = |name: &str| label(name).parse::<u64>().ok();
        let blocks = || number("block_size")?.checked_mul(number("num_gpu_blocks")?);
        // Each engine has its own.
        let tokens = number("kv_cache_size_tokens").or_else(blocks);
        kv_tokens = kv_tokens.unwrap_or(0).checked_add(tokens.unwrap_or(0)).filter(|sum| *sum > 0);
        let caches = label("enable_prefix_caching").to_ascii_lowercase().parse().ok();
        facts.told_prefix_caching(caches, FROM);
        for name in OF_VLLM {
            facts.other(name, &label(name), FROM);
        }
    }
    facts.told_kv_tokens(kv_tokens, FROM);
    // They are there only with it. Its command line tells the method; another's imitation of them tells nothing.
    if is_vllm && facts.stack() == "vllm" && !drafts {
        facts.told_spec_decoding(Some("off"), &format!("{SPEC}: there are none"));
    }
}

/// A string as it is, anything else but lists and objects as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
        other => other.to_string(),
    }
}
