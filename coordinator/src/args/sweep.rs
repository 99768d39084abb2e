//! What to sweep: the flags that every way of running one has, and the names of a plan file.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::control::ControlArgs;
use super::experiment::ExperimentArgs;
use super::slo::SloArgs;
use super::values::{Levels, Rates, Span};

/// Names of datasets: files, then synthetic ones.
pub const DATASETS: [&str; 7] =
    ["sharegpt", "jsonl", "openai-batch", "mooncake", "random", "shared-prefix", "sessions"];

/// A sweep, by flags or by a plan file; a flag wins over the file.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct SweepArgs {
    /// YAML file with these same names.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub plan: Option<PathBuf>,
    /// Say more: -v a line each 2 s where there is no terminal, -vv trace mode (stages of requests and lag of threads in
    /// summary.json and at the end), -vvv trace mode with its live dashboard.
    #[arg(short, action = clap::ArgAction::Count)]
    #[serde(skip)]
    pub verbose: u8,
    /// The server: http://HOST:PORT, https://HOST:PORT, or HOST:PORT.
    #[arg(long)]
    pub url: Option<String>,
    /// Model name to ask for.
    #[arg(long)]
    pub model: Option<String>,
    /// Kind of endpoint [default: chat].
    #[arg(long, value_name = "KIND", value_parser = ["chat", "completions"])]
    pub endpoint_type: Option<String>,
    /// Path of the endpoint, where it is not the usual one.
    #[arg(long, value_name = "PATH")]
    pub endpoint: Option<String>,
    /// Ask for whole replies instead of streams.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub no_streaming: Option<bool>,
    /// Streams in flight at each level, ascending, or auto to search for knee and cliff [default: 1,2,4,8,16].
    #[arg(long, value_name = "N,N,…")]
    pub concurrency: Option<Levels>,
    /// Open loop instead: requests per second that arrive at each level, ascending; inf sends all at once, auto searches.
    #[arg(long, value_name = "R,R,…")]
    pub request_rate: Option<Rates>,
    /// Of a search: lowest load [default: 1].
    #[arg(long, value_name = "LOAD")]
    pub search_from: Option<f64>,
    /// Of a search: highest load [default: 512 streams, 1024 req/s].
    #[arg(long, value_name = "LOAD")]
    pub search_to: Option<f64>,
    /// Of a search: width of the intervals of knee and cliff, as a share of where they are [default: 0.1].
    #[arg(long, value_name = "SHARE")]
    pub resolution: Option<f64>,
    /// Of a search: time that all levels together may take [default: 20m].
    #[arg(long, value_name = "TIME")]
    pub budget: Option<Span>,
    /// Law of an open loop's arrivals [default: poisson, or gamma with a --burstiness].
    #[arg(long, value_name = "LAW", value_parser = ["constant", "poisson", "gamma"])]
    pub arrival_pattern: Option<String>,
    /// Shape of gamma gaps between arrivals, as in vLLM: 1 is Poisson, below it is burstier [default: 1].
    #[arg(long, value_name = "SHAPE")]
    pub burstiness: Option<f64>,
    /// Open loop at a dataset's own times, so many times as fast at each level, ascending [default with a Mooncake trace: 1].
    #[arg(long, value_name = "X,X,…")]
    pub replay_speed: Option<Rates>,
    /// Requests of an open loop in flight at most; what it holds back is counted [default: what the hosts can hold].
    #[arg(long, value_name = "N")]
    pub max_concurrency: Option<u32>,
    /// Time over which a level's load rises: part of its warm-up, and without a --warmup all of it [default: 0s].
    #[arg(long, value_name = "TIME")]
    pub ramp: Option<Span>,
    /// Times to try a request again that failed before a reply or with HTTP 429, 502, 503 or 504 [default: 0].
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// Longest rest before the first retry; it doubles with each, up to 10s, and is drawn evenly from 0 [default: 100ms].
    #[arg(long, value_name = "TIME")]
    pub retry_backoff: Option<Span>,
    /// Requests of each level [default: 80, when no --duration].
    #[arg(long, value_name = "N")]
    pub num_prompts: Option<u64>,
    /// Length of each level instead of a number of requests: 60s, 500ms, 2m.
    #[arg(long, value_name = "TIME")]
    pub duration: Option<Span>,
    /// Warm-up before each level, left out of the figures [default: 0s].
    #[arg(long, value_name = "TIME")]
    pub warmup: Option<Span>,
    /// Longest wait for unfinished requests after a level [default: the request timeout].
    #[arg(long, value_name = "TIME")]
    pub drain: Option<Span>,
    /// Longest a request may take [default: 60s].
    #[arg(long, value_name = "TIME")]
    pub request_timeout: Option<Span>,
    /// Longest silence of the server within a request, from the send on [default: the request timeout].
    #[arg(long, value_name = "TIME")]
    pub read_timeout: Option<Span>,
    /// HTTP version: 2 goes by ALPN over https, in the clear with prior knowledge [default: 1.1].
    #[arg(long, value_name = "VERSION", value_parser = ["1.1", "2"])]
    pub http_version: Option<String>,
    /// Take any certificate of an https server.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub insecure: Option<bool>,
    /// PEM certificates to trust beside the system's.
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// Longest a connection may take [default: 5s].
    #[arg(long, value_name = "TIME")]
    pub connect_timeout: Option<Span>,
    /// One prompt for all requests (servers cache it) instead of synthetic ones.
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Length of each synthetic prompt: tokens with --tokenizer, words without [default: 128].
    #[arg(long, value_name = "LENGTH")]
    pub input_len: Option<u32>,
    /// max_tokens of each request [default: the dataset's, or 128].
    #[arg(long, value_name = "TOKENS")]
    pub output_len: Option<u32>,
    /// Where prompts come from [default: random words].
    #[arg(long, value_name = "NAME", value_parser = DATASETS)]
    pub dataset_name: Option<String>,
    /// File of the dataset, read here and told to the agents.
    #[arg(long, value_name = "FILE")]
    pub dataset_path: Option<PathBuf>,
    /// Order of its entries [default: sequential for mooncake, shuffled by --seed for others].
    #[arg(long, value_name = "ORDER", value_parser = ["shuffled", "sequential"])]
    pub dataset_order: Option<String>,
    /// What a broken line does [default: stop].
    #[arg(long, value_name = "WHAT", value_parser = ["stop", "skip"])]
    pub dataset_errors: Option<String>,
    /// Entries to read [default: all].
    #[arg(long, value_name = "N")]
    pub dataset_limit: Option<usize>,
    /// Of sharegpt: whole conversations, turn by turn, instead of first prompts.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub multi_turn: Option<bool>,
    /// Spread of synthetic lengths: each lies between (1 - R) and (1 + R) times the one asked for [default: 0].
    #[arg(long, value_name = "R")]
    pub random_range_ratio: Option<f64>,
    /// Length of the beginning that synthetic prompts share, on top of --input-len [default: 0].
    #[arg(long, value_name = "LENGTH")]
    pub shared_prefix_len: Option<u32>,
    /// Different shared beginnings [default: 1].
    #[arg(long, value_name = "N")]
    pub num_prefixes: Option<u32>,
    /// Turns of each synthetic session [default: 3 for sessions].
    #[arg(long, value_name = "N")]
    pub num_turns: Option<u32>,
    /// From an answer to the next turn of a synthetic session [default: 0s].
    #[arg(long, value_name = "TIME")]
    pub turn_delay: Option<Span>,
    /// tokenizer.json of the model, or a directory that holds it: lengths and counts are in tokens.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Kind of the prompts, such as refusal or normal, recorded with each request that has no label of its own.
    #[arg(long, value_name = "LABEL")]
    pub prompt_label: Option<String>,
    /// Nucleus sampling, sent when given.
    #[arg(long)]
    pub top_p: Option<f64>,
    /// Sent when given.
    #[arg(long, allow_negative_numbers = true)]
    pub top_k: Option<i64>,
    /// Sent when given.
    #[arg(long)]
    pub min_p: Option<f64>,
    /// Sent when given.
    #[arg(long, allow_negative_numbers = true)]
    pub frequency_penalty: Option<f64>,
    /// Sent when given.
    #[arg(long, allow_negative_numbers = true)]
    pub presence_penalty: Option<f64>,
    /// Sent when given.
    #[arg(long)]
    pub repetition_penalty: Option<f64>,
    /// Text that ends an answer, repeatable, sent when given.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Ask the server to go on past the end-of-sequence token.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub ignore_eos: Option<bool>,
    /// Sampling temperature, sent when given.
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Seed of the synthetic prompts and of arrivals [default: 0].
    #[arg(long)]
    pub seed: Option<u64>,
    /// JSON object merged into each request body.
    #[arg(long, value_name = "JSON")]
    pub extra_body: Option<String>,
    /// "Name: value", repeatable.
    #[arg(long, value_name = "HEADER")]
    pub header: Vec<String>,
    /// File that holds the API key; without it OPENAI_API_KEY is used when set.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Latency that the cliff is judged on [default: e2e].
    #[arg(long, value_name = "METRIC", value_parser = ["e2e", "ttft", "itl"])]
    pub cliff_metric: Option<String>,
    /// Percentile that the cliff is judged on [default: 95].
    #[arg(long, value_name = "PERCENT")]
    pub cliff_percentile: Option<f64>,
    /// The cliff: first level over this multiple of the lowest level [default: 3].
    #[arg(long, value_name = "X")]
    pub cliff_multiple: Option<f64>,
    /// The knee: throughput gains less than this share of the concurrency gain [default: 0.5].
    #[arg(long, value_name = "SHARE")]
    pub knee_gain_share: Option<f64>,
    /// A fact to record with the run, key=value, repeatable.
    #[arg(long, value_name = "K=V")]
    pub metadata: Vec<String>,
    /// Name of the run [default: the model's].
    #[arg(long)]
    pub name: Option<String>,
    /// Where to write [default: runs/UTC-NAME].
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// What counts as good.
    #[command(flatten)]
    #[serde(flatten)]
    pub slo: SloArgs,
    /// Deliberate faults of the client.
    #[command(flatten)]
    #[serde(flatten)]
    pub control: ControlArgs,
    /// Experiments other than a sweep.
    #[command(flatten)]
    #[serde(flatten)]
    pub experiment: ExperimentArgs,
}

impl SweepArgs {
    /// These flags, with what they leave open taken from `file`.
    pub fn over(self, file: Self) -> Self {
        let list = |flags: Vec<String>, file: Vec<String>| if flags.is_empty() { file } else { flags };
        let (closed, paced) = (self.concurrency.is_some(), self.request_rate.is_some());
        Self {
            plan: self.plan,
            verbose: self.verbose,
            url: self.url.or(file.url),
            model: self.model.or(file.model),
            endpoint_type: self.endpoint_type.or(file.endpoint_type),
            endpoint: self.endpoint.or(file.endpoint),
            no_streaming: self.no_streaming.or(file.no_streaming),
            // Either kind of load on the command line replaces both of the file.
            concurrency: self.concurrency.or(file.concurrency.filter(|_| self.request_rate.is_none())),
            replay_speed: self.replay_speed.or(file.replay_speed.filter(|_| !closed && !paced)),
            request_rate: self.request_rate.or(file.request_rate.filter(|_| !closed)),
            search_from: self.search_from.or(file.search_from),
            search_to: self.search_to.or(file.search_to),
            resolution: self.resolution.or(file.resolution),
            budget: self.budget.or(file.budget),
            arrival_pattern: self.arrival_pattern.or(file.arrival_pattern.filter(|_| !closed)),
            burstiness: self.burstiness.or(file.burstiness.filter(|_| !closed)),
            max_concurrency: self.max_concurrency.or(file.max_concurrency.filter(|_| !closed)),
            ramp: self.ramp.or(file.ramp),
            retries: self.retries.or(file.retries),
            retry_backoff: self.retry_backoff.or(file.retry_backoff),
            // Either way of ending a level on the command line replaces both of the file.
            num_prompts: self.num_prompts.or(file.num_prompts.filter(|_| self.duration.is_none())),
            duration: self.duration.or(file.duration.filter(|_| self.num_prompts.is_none())),
            warmup: self.warmup.or(file.warmup),
            drain: self.drain.or(file.drain),
            request_timeout: self.request_timeout.or(file.request_timeout),
            read_timeout: self.read_timeout.or(file.read_timeout),
            http_version: self.http_version.or(file.http_version),
            insecure: self.insecure.or(file.insecure),
            ca_cert: self.ca_cert.or(file.ca_cert),
            connect_timeout: self.connect_timeout.or(file.connect_timeout),
            prompt: self.prompt.or(file.prompt),
            input_len: self.input_len.or(file.input_len),
            output_len: self.output_len.or(file.output_len),
            dataset_name: self.dataset_name.or(file.dataset_name),
            dataset_path: self.dataset_path.or(file.dataset_path),
            dataset_order: self.dataset_order.or(file.dataset_order),
            dataset_errors: self.dataset_errors.or(file.dataset_errors),
            dataset_limit: self.dataset_limit.or(file.dataset_limit),
            multi_turn: self.multi_turn.or(file.multi_turn),
            random_range_ratio: self.random_range_ratio.or(file.random_range_ratio),
            shared_prefix_len: self.shared_prefix_len.or(file.shared_prefix_len),
            num_prefixes: self.num_prefixes.or(file.num_prefixes),
            num_turns: self.num_turns.or(file.num_turns),
            turn_delay: self.turn_delay.or(file.turn_delay),
            tokenizer: self.tokenizer.or(file.tokenizer),
            prompt_label: self.prompt_label.or(file.prompt_label),
            top_p: self.top_p.or(file.top_p),
            top_k: self.top_k.or(file.top_k),
            min_p: self.min_p.or(file.min_p),
            frequency_penalty: self.frequency_penalty.or(file.frequency_penalty),
            presence_penalty: self.presence_penalty.or(file.presence_penalty),
            repetition_penalty: self.repetition_penalty.or(file.repetition_penalty),
            stop: list(self.stop, file.stop),
            ignore_eos: self.ignore_eos.or(file.ignore_eos),
            temperature: self.temperature.or(file.temperature),
            seed: self.seed.or(file.seed),
            extra_body: self.extra_body.or(file.extra_body),
            header: list(self.header, file.header),
            api_key_file: self.api_key_file.or(file.api_key_file),
            cliff_metric: self.cliff_metric.or(file.cliff_metric),
            cliff_percentile: self.cliff_percentile.or(file.cliff_percentile),
            cliff_multiple: self.cliff_multiple.or(file.cliff_multiple),
            knee_gain_share: self.knee_gain_share.or(file.knee_gain_share),
            metadata: list(self.metadata, file.metadata),
            name: self.name.or(file.name),
            output_dir: self.output_dir.or(file.output_dir),
            slo: self.slo.over(file.slo),
            control: self.control.over(file.control),
            experiment: self.experiment.over(file.experiment),
        }
    }
}
