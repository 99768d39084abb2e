//! What metrics of known servers mean, in one vocabulary. Several engines behind one endpoint are added together, but for
//! the use of the KV cache, of which the fullest counts.

use std::collections::BTreeMap;

use tailcliff_proto::v1::ServerLatency::{self, Decode, E2e, Itl, Prefill, Queue, Tpot, Ttft};

use super::prometheus::{Line, lines};

/// One figure of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Running,
    Waiting,
    KvUsage,
    Preemptions,
    CacheQueries,
    CacheHits,
    Drafted,
    Accepted,
    PromptTokens,
    OutputTokens,
}

/// What a metric tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// These figures; rows of one dialect that tell the same figure are added.
    Tells(&'static [Figure]),
    /// A histogram of seconds.
    Times(ServerLatency),
    /// Nothing that has a figure of its own; kept by its own name, as if it had been asked for.
    Kept,
}

use Figure::{
    Accepted, CacheHits, CacheQueries, Drafted, KvUsage, OutputTokens, Preemptions, PromptTokens, Running,
    Waiting,
};
use Meaning::{Kept, Tells, Times};

/// Dialect, name, meaning. Where two dialects tell the same figure, the first that is there holds: a server that still tells
/// its older names too is not counted twice.
#[rustfmt::skip]
pub(super) const TABLE: &[(&str, &str, Meaning)] = &[
    ("vllm", "vllm:num_requests_running", Tells(&[Running])),
    ("vllm", "vllm:num_requests_waiting", Tells(&[Waiting])),
    ("vllm", "vllm:kv_cache_usage_perc", Tells(&[KvUsage])),
    ("vllm", "vllm:num_preemptions_total", Tells(&[Preemptions])),
    ("vllm", "vllm:prefix_cache_queries_total", Tells(&[CacheQueries])),
    ("vllm", "vllm:prefix_cache_hits_total", Tells(&[CacheHits])),
    ("vllm", "vllm:spec_decode_num_draft_tokens_total", Tells(&[Drafted])),
    ("vllm", "vllm:spec_decode_num_accepted_tokens_total", Tells(&[Accepted])),
    ("vllm", "vllm:prompt_tokens_total", Tells(&[PromptTokens])),
    ("vllm", "vllm:generation_tokens_total", Tells(&[OutputTokens])),
    ("vllm", "vllm:time_to_first_token_seconds", Times(Ttft)),
    ("vllm", "vllm:inter_token_latency_seconds", Times(Itl)),
    ("vllm", "vllm:request_time_per_output_token_seconds", Times(Tpot)),
    ("vllm", "vllm:e2e_request_latency_seconds", Times(E2e)),
    ("vllm", "vllm:request_queue_time_seconds", Times(Queue)),
    ("vllm", "vllm:request_prefill_time_seconds", Times(Prefill)),
    ("vllm", "vllm:request_decode_time_seconds", Times(Decode)),
    // Before 0.11; what it called the time per output token was each gap.
    ("vllm, older", "vllm:gpu_cache_usage_perc", Tells(&[KvUsage])),
    ("vllm, older", "vllm:gpu_prefix_cache_queries_total", Tells(&[CacheQueries])),
    ("vllm, older", "vllm:gpu_prefix_cache_hits_total", Tells(&[CacheHits])),
    ("vllm, older", "vllm:time_per_output_token_seconds", Times(Itl)),

    // The first counts the tokens that were processed, without those that the cache had.
    ("llama.cpp", "llamacpp:prompt_tokens_total", Tells(&[PromptTokens, CacheQueries])),
    ("llama.cpp", "llamacpp:prompt_tokens_cached_total", Tells(&[PromptTokens, CacheQueries, CacheHits])),
    ("llama.cpp", "llamacpp:requests_processing", Tells(&[Running])),
    ("llama.cpp", "llamacpp:requests_deferred", Tells(&[Waiting])),
    // Of older builds; of newer ones `/slots` tells.
    ("llama.cpp", "llamacpp:kv_cache_usage_ratio", Tells(&[KvUsage])),
    ("llama.cpp", "llamacpp:tokens_predicted_total", Tells(&[OutputTokens])),
    ("llama.cpp", "llamacpp:spec_decode_num_draft_tokens_total", Tells(&[Drafted])),
    ("llama.cpp", "llamacpp:spec_decode_num_accepted_tokens_total", Tells(&[Accepted])),

    // The prompt's tokens are all of them, of a cache or not.
    ("sglang", "sglang:num_running_reqs", Tells(&[Running])),
    ("sglang", "sglang:num_queue_reqs", Tells(&[Waiting])),
    ("sglang", "sglang:token_usage", Tells(&[KvUsage])),
    ("sglang", "sglang:num_retracted_requests_total", Tells(&[Preemptions])),
    ("sglang", "sglang:prompt_tokens_total", Tells(&[PromptTokens, CacheQueries])),
    ("sglang", "sglang:cached_tokens_total", Tells(&[CacheHits])),
    ("sglang", "sglang:generation_tokens_total", Tells(&[OutputTokens])),
    ("sglang", "sglang:time_to_first_token_seconds", Times(Ttft)),
    ("sglang", "sglang:inter_token_latency_seconds", Times(Itl)),
    ("sglang", "sglang:e2e_request_latency_seconds", Times(E2e)),
    ("sglang", "sglang:queue_time_seconds", Times(Queue)),
    // Shares of its last batches: no totals can be had of them.
    ("sglang", "sglang:cache_hit_rate", Kept),
    ("sglang", "sglang:spec_accept_length", Kept),
    ("sglang", "sglang:spec_accept_rate", Kept),

    ("tgi", "tgi_batch_current_size", Tells(&[Running])),
    ("tgi", "tgi_queue_size", Tells(&[Waiting])),
    ("tgi", "tgi_request_duration", Times(E2e)),
    ("tgi", "tgi_request_queue_duration", Times(Queue)),
    ("tgi", "tgi_request_mean_time_per_token_duration", Times(Tpot)),
];

/// Which row a name is of.
pub(super) fn row(name: &str) -> Option<usize> {
    TABLE.iter().position(|(_, of, _)| *of == name)
}

/// Processes that only help others with the same requests: SGLang's ranks of tensor and pipeline parallelism each tell the
/// same, where all of them are asked to. Ranks of data parallelism have requests of their own; where attention is parallel by
/// data, each of them begins with another rank of tensor parallelism.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    /// Of each rank of data parallelism, the first of tensor parallelism.
    first: BTreeMap<u32, u32>,
}

impl Ranks {
    pub(super) fn of(text: &str) -> Self {
        let mut first = BTreeMap::new();
        // Few have any.
        if text.contains("dp_rank=") {
            let ranks = |line: Line<'_>| Some((rank(&line, "dp_rank")?, rank(&line, "tp_rank")?));
            let sglangs = lines(text).flatten().filter(|line| line.name.starts_with("sglang:"));
            for (dp, tp) in sglangs.filter_map(ranks) {
                first.entry(dp).and_modify(|first: &mut u32| *first = tp.min(*first)).or_insert(tp);
            }
        }
        Self { first }
    }

    /// What another rank has told.
    pub(super) fn tells_again(&self, line: &Line<'_>) -> bool {
        if !line.name.starts_with("sglang:") {
            return false;
        }
        let first = rank(line, "dp_rank").and_then(|dp| self.first.get(&dp)).copied().unwrap_or(0);
        let is_other = |name, first| rank(line, name).is_some_and(|rank| rank != first);
        is_other("tp_rank", first) || is_other("pp_rank", 0)
    }
}

fn rank(line: &Line<'_>, label: &str) -> Option<u32> {
    line.label(label)?.parse().ok()
}

/// The stack by the first of its metrics; empty when none is of a known one.
pub(crate) fn stack(name: &str) -> &'static str {
    let starts = [("vllm:", "vllm"), ("llamacpp:", "llama.cpp"), ("sglang:", "sglang"), ("tgi_", "tgi")];
    starts.into_iter().find(|(start, _)| name.starts_with(start)).map_or("", |(_, stack)| stack)
}
