//! The text of the page.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use super::histogram::Histogram;
use super::{Metrics, REASONS};
use crate::engine::Load;

/// Tokens of a block of the KV cache.
const BLOCK: u64 = 16;

pub(super) fn lay_out(metrics: &Metrics, load: Option<Load>) -> String {
    let page = Page { text: String::with_capacity(16 * 1024), model: label(&metrics.model), created: 0.0 };
    let mut page = Page { created: metrics.created_ns as f64 / 1e9, ..page };
    gauges(&mut page, metrics, load);
    totals(&mut page, metrics, load);
    let histograms: [(&str, &str, &Histogram); 7] = [
        ("time_to_first_token_seconds", "Histogram of time to first token in seconds.", &metrics.ttft),
        ("inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", &metrics.itl),
        (
            "request_time_per_output_token_seconds",
            "Histogram of time_per_output_token_seconds per request.",
            &metrics.tpot,
        ),
        ("e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", &metrics.e2e),
        (
            "request_queue_time_seconds",
            "Histogram of time spent in WAITING phase for request.",
            &metrics.queue,
        ),
        (
            "request_prefill_time_seconds",
            "Histogram of time spent in PREFILL phase for request.",
            &metrics.prefill,
        ),
        (
            "request_decode_time_seconds",
            "Histogram of time spent in DECODE phase for request.",
            &metrics.decode,
        ),
    ];
    histograms.into_iter().for_each(|(name, help, histogram)| page.histogram(name, help, histogram));
    if let Some(load) = load {
        cache_config(&mut page, &load);
    }
    page.text
}

/// What holds now. Without an engine nobody waits, and there is no cache to speak of.
fn gauges(page: &mut Page, metrics: &Metrics, load: Option<Load>) {
    let in_flight = metrics.in_flight.load(Relaxed).max(0) as f64;
    let (running, waiting) = load.map_or((in_flight, 0.0), |load| (load.running as f64, load.queued as f64));
    page.gauge("num_requests_running", "Number of requests in model execution batches.", running);
    page.gauge("num_requests_waiting", "Number of requests waiting to be processed.", waiting);
    if let Some(load) = load {
        let usage = load.kv_used as f64 / load.kv_tokens.max(1) as f64;
        page.gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", usage);
    }
}

fn totals(page: &mut Page, metrics: &Metrics, load: Option<Load>) {
    let prompt = metrics.prompt_tokens.load(Relaxed) as f64;
    let output = metrics.output_tokens.load(Relaxed) as f64;
    let queries = "Prefix cache queries, in terms of number of queried tokens.";
    page.counter("prefix_cache_queries", queries, &[("", prompt)]);
    // Nothing is ever found there: the simulated cache holds no prefixes.
    page.counter(
        "prefix_cache_hits",
        "Prefix cache hits, in terms of number of cached tokens.",
        &[("", 0.0)],
    );
    let preemptions = load.map_or(0, |load| load.preemptions) as f64;
    page.counter("num_preemptions", "Cumulative number of preemption from the engine.", &[("", preemptions)]);
    page.counter("prompt_tokens", "Number of prefill tokens processed.", &[("", prompt)]);
    page.counter("generation_tokens", "Number of generation tokens processed.", &[("", output)]);
    let labels = REASONS.map(|reason| format!(r#"finished_reason="{reason}","#));
    let ended = metrics.ended.iter().map(|count| count.load(Relaxed) as f64);
    let series: Vec<(&str, f64)> = labels.iter().map(String::as_str).zip(ended).collect();
    page.counter("request_success", "Count of successfully processed requests.", &series);
}

/// How the cache is set up, in labels: those of the simulated engine that mean something, the others as they are recorded.
fn cache_config(page: &mut Page, load: &Load) {
    page.head("cache_config_info", "Information of the LLMEngine CacheConfig", "gauge");
    let (tokens, blocks) = (load.kv_tokens, load.kv_tokens / BLOCK);
    let _ = writeln!(
        page.text,
        r#"vllm:cache_config_info{{_block_size_resolved="True",block_size="{BLOCK}",cache_dtype="auto",cache_hit_alignment_tokens="None",effective_attention_block_size="{BLOCK}",enable_mamba_shared_prefix_checkpoint="False",enable_prefix_caching="False",engine="0",gpu_memory_utilization="None",hash_block_size="None",is_attention_free="False",kv_cache_dtype_skip_layers="[]",kv_cache_layout="None",kv_cache_max_concurrency="None",kv_cache_memory_bytes="None",kv_cache_size_tokens="{tokens}",kv_offloading_backend="None",kv_offloading_size="None",kv_sharing_fast_prefill="False",mamba_block_size="None",mamba_cache_dtype="auto",mamba_cache_mode="none",mamba_page_size_padded="None",mamba_ssm_cache_dtype="auto",num_cpu_blocks="None",num_gpu_blocks="{blocks}",num_gpu_blocks_override="None",prefix_cache_retention_interval="0",prefix_caching_hash_algo="None",prefix_match_unit="None",replayssm_buffer_len="16",skip_page_size_padded="None",sliding_window="None",swa_bounded_replay="True",use_kda_recoverssm="False",use_replayssm="False",user_specified_block_size="False"}} 1.0"#
    );
}

struct Page {
    text: String,
    model: String,
    created: f64,
}

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = write!(self.text, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}\n");
    }

    /// One sample; `more` are labels that stand between engine and model, each with its comma.
    fn sample(&mut self, name: &str, more: &str, value: f64) {
        let model = &self.model;
        let _ = writeln!(self.text, r#"vllm:{name}{{engine="0",{more}model_name="{model}"}} {value:?}"#);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "gauge");
        self.sample(name, "", value);
    }

    /// A total of one or more series, and since when each counts.
    fn counter(&mut self, name: &str, help: &str, series: &[(&str, f64)]) {
        let (total, created) = (format!("{name}_total"), format!("{name}_created"));
        self.head(&total, help, "counter");
        series.iter().for_each(|(more, value)| self.sample(&total, more, *value));
        self.head(&created, help, "gauge");
        series.iter().for_each(|(more, _)| self.sample(&created, more, self.created));
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, help, "histogram");
        let mut count = 0;
        for (bound, below) in histogram.cumulative() {
            self.sample(&format!("{name}_bucket"), &format!(r#"le="{bound}","#), below as f64);
            count = below;
        }
        self.sample(&format!("{name}_count"), "", count as f64);
        self.sample(&format!("{name}_sum"), "", histogram.sum_s());
        let created = format!("{name}_created");
        self.head(&created, help, "gauge");
        self.sample(&created, "", self.created);
    }
}

/// A label's value with what would end it escaped.
fn label(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}
