//! What a run is asked to do, validated: the one form that flags and a plan file both become.

use serde::{Deserialize, Serialize};

/// A validated plan. Serialised into the journal, so it holds no secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// `http://host:port`, no trailing slash.
    pub base_url: String,
    /// Path of the endpoint.
    pub path: String,
    /// `chat` or `completions`.
    pub endpoint_type: String,
    /// Model name sent with each request.
    pub model: String,
    /// Ask for a stream.
    pub streaming: bool,
    /// Streams in flight at each level, all agents together; ascending.
    pub concurrency: Vec<u32>,
    /// Requests of each level's measured window.
    pub num_prompts: Option<u64>,
    /// Length of each level's measured window, ns.
    pub duration_ns: Option<i64>,
    /// Warm-up before each measured window, ns.
    pub warmup_ns: i64,
    /// Longest wait for unfinished requests after a window, ns.
    pub drain_ns: i64,
    /// Longest a request may take, ns.
    pub request_timeout_ns: i64,
    /// Longest silence of the server within a request, ns; `None` for no limit but the request's.
    pub read_timeout_ns: Option<i64>,
    /// `1.1` or `2`.
    pub http_version: String,
    /// The certificate of an https server is not checked.
    pub insecure: bool,
    /// Longest a connection may take, ns.
    pub connect_timeout_ns: i64,
    /// Fixed prompt, or `None` for synthetic words.
    pub prompt: Option<String>,
    /// Words of a synthetic prompt.
    pub input_len: u32,
    /// `max_tokens`.
    pub output_len: u32,
    /// Sent when set.
    pub ignore_eos: bool,
    /// Sent when set.
    pub temperature: Option<f64>,
    /// Seed of prompts.
    pub seed: u64,
    /// JSON object merged into each body.
    pub extra_body: Option<serde_json::Value>,
    /// Header names and values, values of secret-looking ones redacted.
    pub headers: Vec<(String, String)>,
    /// Agents waited for.
    pub agents: u32,
    /// Probes waited for.
    pub probes: u32,
    /// GPU poll interval of the embedded probe, ns; `None` when probes decide for themselves.
    pub gpu_interval_ns: Option<i64>,
    /// Thresholds of knee and cliff.
    pub cliff: CliffRule,
    /// Trace mode: agents tell the stages of requests and the lag of each thread.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub trace: bool,
    /// Facts given by the user (`--metadata k=v`).
    pub metadata: Vec<(String, String)>,
}

/// Thresholds of the cliff search, all flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CliffRule {
    /// `e2e`, `ttft` or `itl`.
    pub metric: String,
    /// Percentile judged, in percent.
    pub percentile: f64,
    /// The cliff is the first level whose percentile exceeds this multiple of the lowest level's.
    pub multiple: f64,
    /// The knee is the last level before the throughput gain falls below this share of the concurrency gain.
    pub gain_share: f64,
}

impl Default for CliffRule {
    fn default() -> Self {
        Self { metric: "e2e".to_owned(), percentile: 95.0, multiple: 3.0, gain_share: 0.5 }
    }
}
