//! What a run is asked to do, validated: the one form that flags and a plan file both become.

use serde::{Deserialize, Serialize};
use tailcliff_proto::v1;

use crate::axis::{Load, Rate};

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
    /// Closed loop: streams in flight at each level, all agents together; ascending. Empty in open loop.
    pub concurrency: Vec<u32>,
    /// Open loop: requests per second that arrive at each level, all agents together; ascending. Empty in closed loop.
    pub request_rate: Vec<Rate>,
    /// Law of an open loop's arrivals: `constant`, `poisson`, `gamma`, or `listed` for a replay.
    pub arrival_pattern: String,
    /// Of a replay: how many times as fast as the dataset's own times each level is. Empty otherwise.
    pub replay_speed: Vec<f64>,
    /// Shape of gamma gaps between arrivals.
    pub burstiness: Option<f64>,
    /// Requests of an open loop in flight at most, all agents together; `None` for what the hosts can hold.
    pub max_concurrency: Option<u32>,
    /// Within the warm-up: the rate rises over it, or streams start evenly spread over it, ns.
    pub ramp_ns: i64,
    /// Times that a failed request is tried again.
    pub retries: u32,
    /// Longest rest before the first retry, ns.
    pub retry_backoff_ns: i64,
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
    /// Length of a synthetic prompt.
    pub input_len: u32,
    /// `max_tokens` of requests that no dataset gives one.
    pub output_len: u32,
    /// Unit of input lengths: `tokens` as a given tokenizer counts them, or `words`, the stated proxy.
    pub input_len_unit: String,
    /// What prompts are drawn from; `None` for one fixed prompt.
    pub dataset: Option<DatasetFacts>,
    /// The tokenizer that was given.
    pub tokenizer: Option<TokenizerFacts>,
    /// How synthetic prompts vary.
    pub synthetic: SyntheticPlan,
    /// Sent when set.
    pub sampling: SamplingPlan,
    /// Kind of prompt of requests without a label of their own.
    pub prompt_label: Option<String>,
    /// Sent when set.
    pub ignore_eos: bool,
    /// Sent when set.
    pub temperature: Option<f64>,
    /// Seed of prompts, arrivals and the rests before retries.
    pub seed: u64,
    /// JSON object merged into each body.
    pub extra_body: Option<serde_json::Value>,
    /// Header names and values, values of secret-looking ones redacted.
    pub headers: Vec<(String, String)>,
    /// Agents waited for.
    pub agents: u32,
    /// Probes waited for.
    pub probes: u32,
    /// What becomes of a level that an agent is lost from, and who takes its place.
    pub fleet: FleetRule,
    /// GPU poll interval of the embedded probe, ns; `None` when probes decide for themselves.
    pub gpu_interval_ns: Option<i64>,
    /// Thresholds of knee and cliff.
    pub cliff: CliffRule,
    /// The levels are searched for as the run goes on; `concurrency` and `request_rate` are empty then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto: Option<AutoPlan>,
    /// What a request must keep to count as good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slo: Option<SloPlan>,
    /// Which experiment it is, where it is no sweep: `baseline`, `grid` or `overload`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub experiment: String,
    /// What single rungs ask for in place of the plan's own; as many as there are levels, or none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<Cell>,
    /// Trace mode: agents tell the stages of requests and the lag of each thread.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub trace: bool,
    /// Deliberate faults of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlPlan>,
    /// Facts given by the user (`--metadata k=v`).
    pub metadata: Vec<(String, String)>,
}

impl Plan {
    /// What each level asks for.
    pub fn levels(&self) -> Vec<Load> {
        let streams = self.concurrency.iter().map(|&streams| Load::Streams(streams));
        streams.chain(self.request_rate.iter().map(|&rate| Load::Rate(rate))).collect()
    }

    /// Warm-up of a level, ns: what comes all at once comes without one.
    pub fn warmup_of(&self, load: Load) -> i64 {
        if load.is_at_once() { 0 } else { self.warmup_ns }
    }

    /// What a rung asks for in place of the plan's own.
    pub fn cell(&self, rung: u32) -> Option<&Cell> {
        self.cells.get(rung as usize)
    }

    /// Requests of a rung's measured window, or its length in ns: one of the two.
    pub fn stop_of(&self, rung: u32) -> (Option<u64>, Option<i64>) {
        match self.cell(rung) {
            Some(Cell { duration_ns: Some(ns), .. }) => (None, Some(*ns)),
            Some(Cell { num_prompts: Some(n), .. }) => (Some(*n), None),
            _ => (self.num_prompts, self.duration_ns),
        }
    }

    /// The dataset's file, if there is one.
    pub fn file(&self) -> Option<&FileFacts> {
        self.dataset.as_ref().and_then(|dataset| dataset.file.as_ref())
    }
}

/// A search for knee and cliff along an axis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoPlan {
    /// Along offered rate instead of concurrency.
    pub open: bool,
    /// Lowest load.
    pub from: f64,
    /// Highest load.
    pub to: f64,
    /// Width that the interval of knee and cliff is to have, as a share of where they are; never less than a stream.
    pub resolution: f64,
    /// Time that all levels together may take, ns.
    pub budget_ns: i64,
}

/// Limits that a request must keep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SloPlan {
    /// `ttft`, `tpot`, `itl` (every gap of a request) or `e2e`, and its limit in ns.
    pub terms: Vec<(String, i64)>,
    /// Share of the requests that must keep all of them, such as 0.99.
    pub share: f64,
    /// What all GPUs that serve cost together, $ an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_hour: Option<f64>,
}

/// What one rung of an experiment asks for; a field that is `None` is as the plan has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cell {
    /// What it is for, such as `baseline`, `overload`, `recovery`; empty where all rungs are alike.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// Length of the prompt in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_chars: Option<u32>,
    /// `max_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_len: Option<u32>,
    /// Longest a request may take, ns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout_ns: Option<i64>,
    /// Requests of the measured window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_prompts: Option<u64>,
    /// Length of the measured window in place of a number of requests, ns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ns: Option<i64>,
}

/// Deliberate faults of the client, whose truth is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlPlan {
    /// Between the send of a chosen request and the first look at its reply, ns.
    pub pause_ns: Option<i64>,
    /// One request in so many is chosen.
    pub every: u32,
    /// One event loop of each agent stands still for so long in each level, ns.
    pub block_ns: Option<i64>,
}

impl From<&ControlPlan> for v1::Controls {
    fn from(plan: &ControlPlan) -> Self {
        let (pause_ns, block_ns) = (plan.pause_ns.unwrap_or(0), plan.block_ns.unwrap_or(0));
        Self { pause_ns, every: plan.every, block_ns }
    }
}

/// Where prompts came from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatasetFacts {
    /// As `--dataset-name` has it.
    pub name: String,
    /// What was read; `None` for a synthetic one.
    pub file: Option<FileFacts>,
}

/// What a dataset's file held, without its texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileFacts {
    /// File name, without its directory.
    pub name: String,
    /// Checksum of the file, `crc32c:…`.
    pub checksum: String,
    /// Requests and sessions.
    pub entries: u64,
    /// Requests, each turn of a session one.
    pub turns: u64,
    /// Lines left out because they are broken (`--dataset-errors skip`).
    pub broken_lines: u64,
    /// Lines left out because nothing in them can be sent.
    pub unfit_lines: u64,
    /// Some of both, with their lines.
    pub left_out_examples: Vec<String>,
    /// Mean length of the new text of a turn, in the plan's unit.
    pub mean_input_len: Option<f64>,
    /// Mean `max_tokens` of a turn that has one.
    pub mean_output_len: Option<f64>,
    /// `shuffled` or `sequential`.
    pub order: String,
    /// Entries have times of their own.
    pub has_times: bool,
    /// From the first entry's time to the last one's, ns.
    pub span_ns: Option<i64>,
    /// Every entry has a label of its own.
    pub labelled: bool,
}

/// A tokenizer, by its file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenizerFacts {
    /// File name with its directory's name, which is most often the model's.
    pub file: String,
    /// Checksum of the file, `crc32c:…`.
    pub checksum: String,
    /// Words that are one token each, of which synthetic prompts are made.
    pub one_token_words: u64,
}

/// How synthetic prompts vary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyntheticPlan {
    /// Spread of lengths, in [0, 1).
    pub random_range_ratio: f64,
    /// Length of a shared beginning, on top of the input length.
    pub shared_prefix_len: u32,
    /// Different beginnings.
    pub num_prefixes: u32,
    /// Turns of a session; 1 for single requests.
    pub num_turns: u32,
    /// From an answer to the next turn, ns.
    pub turn_delay_ns: i64,
}

/// Sampling parameters beside the temperature, each sent when set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingPlan {
    /// `top_p`.
    pub top_p: Option<f64>,
    /// `top_k`.
    pub top_k: Option<i64>,
    /// `min_p`.
    pub min_p: Option<f64>,
    /// `frequency_penalty`.
    pub frequency_penalty: Option<f64>,
    /// `presence_penalty`.
    pub presence_penalty: Option<f64>,
    /// `repetition_penalty`.
    pub repetition_penalty: Option<f64>,
    /// `stop`.
    pub stop: Vec<String>,
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
    /// The knee is the last level before the throughput gain falls below this share of the gain in load.
    pub gain_share: f64,
}

impl Default for CliffRule {
    fn default() -> Self {
        Self { metric: "e2e".to_owned(), percentile: 95.0, multiple: 3.0, gain_share: 0.5 }
    }
}

/// What becomes of a level that loses an agent, and of the agent's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FleetRule {
    /// Agents at most, later ones included; `None` for those waited for.
    pub max_agents: Option<u32>,
    /// True: the rest of the level is kept and marked. False: it is void, and run again over those who are there.
    pub keep_rest: bool,
    /// Times that a level is tried at most.
    pub attempts: u32,
    /// How long another agent is waited for before those who are left carry on alone, ns.
    pub rejoin_wait_ns: i64,
}

impl Default for FleetRule {
    fn default() -> Self {
        Self { max_agents: None, keep_rest: false, attempts: 3, rejoin_wait_ns: 15_000_000_000 }
    }
}
