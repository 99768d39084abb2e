//! What one level of the sweep came to: counts, merged distributions, throughput and what qualifies them.

use std::collections::BTreeMap;

use tailcliff_proto::histogram::LatencyHistogram;

use crate::axis::Load;
use crate::blocks::Block;
use crate::certificate::Certificate;
use crate::diagnose::{LevelGpu, Parts};
use crate::experiment::single::Single;
use crate::inside::{LevelInside, ServerLevel};
use crate::little::Little;
use crate::merge::interval;
use crate::merge::starts::Starts;
use crate::merge::window::Throughput;
use crate::plan::Cell;
use crate::slo::Kept;
use crate::stored::Drive;
use crate::trace::Trace;

/// Requests by how they ended; `released()` is their sum by construction, so the identity cannot break.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Whole answers.
    pub completed: u64,
    /// Errors of any kind.
    pub failed: u64,
    /// Under way when the level ended, or given up.
    pub incomplete: u64,
    /// Released by an agent that never told how they ended, or whose record did not fit.
    pub unreported: u64,
}

impl Counts {
    /// completed + failed + incomplete + unreported.
    pub fn released(&self) -> u64 {
        self.completed + self.failed + self.incomplete + self.unreported
    }

    /// Share of the released that did not complete for a reason of its own: failed / (completed + failed); `None`
    /// when none ended.
    pub fn error_rate(&self) -> Option<f64> {
        let ended = self.completed + self.failed;
        (ended > 0).then(|| self.failed as f64 / ended as f64)
    }
}

/// A distribution: merged histogram, and the exact sum of what the records say.
#[derive(Clone, Debug, Default)]
pub struct Metric {
    /// All agents' windows of the measured phase, added.
    pub histogram: LatencyHistogram,
    /// Exact sum over the records, ns.
    pub sum_ns: i128,
    /// Values in that sum.
    pub count: u64,
}

impl Metric {
    /// Adds a value of a record to the exact sum.
    pub fn add_exact(&mut self, ns: i64, values: u64) {
        self.sum_ns += i128::from(ns);
        self.count += values;
    }

    /// Exact mean in ns; `None` when there is no value.
    pub fn mean_ns(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_ns as f64 / self.count as f64)
    }

    /// Standard deviation in ns, from the histogram; `None` when empty.
    pub fn std_ns(&self) -> Option<f64> {
        (!self.histogram.is_empty()).then(|| self.histogram.hdr().stdev())
    }

    /// Value at a percentile (0..=100) in ns; `None` when empty.
    pub fn percentile_ns(&self, percent: f64) -> Option<u64> {
        self.histogram.quantile_ns(percent / 100.0)
    }

    /// 95 % interval of a percentile in ns; `None` when there are too few values.
    pub fn interval_ns(&self, percent: f64) -> Option<(u64, u64)> {
        interval::of_histogram(&self.histogram, percent / 100.0)
    }
}

/// The four distributions of a level.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// Intended send → first token.
    pub ttft: Metric,
    /// (last − first token) / (tokens − 1), one value a request.
    pub tpot: Metric,
    /// Each gap between two content chunks.
    pub itl: Metric,
    /// Intended send → end.
    pub e2e: Metric,
}

impl Latencies {
    /// Names as vLLM's keys have them, with the distributions, in the order printed.
    pub fn named(&self) -> [(&'static str, &Metric); 4] {
        [("ttft", &self.ttft), ("tpot", &self.tpot), ("itl", &self.itl), ("e2el", &self.e2e)]
    }

    /// The distribution that a cliff rule names; E2E for a name that is none of ours.
    pub fn judged(&self, metric: &str) -> &Metric {
        match metric {
            "ttft" => &self.ttft,
            "itl" => &self.itl,
            _ => &self.e2e,
        }
    }
}

/// What was left out of a level's figures, and how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// Windows that could not be decoded.
    pub bad_windows: u64,
    /// Values that no histogram could hold.
    pub out_of_range: u64,
    /// Token traces that could not be decoded.
    pub bad_traces: u64,
    /// Token traces that the agent left out.
    pub dropped_traces: u64,
    /// Records that the agent left out.
    pub dropped_records: u64,
    /// Windows, each of one second's histograms, that the agent left out.
    pub dropped_windows: u64,
    /// Samples of what is in flight that the agent left out.
    pub dropped_in_flight: u64,
    /// Lags of agents' event loops that were not told: the shortest ones, or those without room.
    pub dropped_loop_lags: u64,
    /// Requests of an agent without a clock track: in the distributions, in no throughput.
    pub unaligned: u64,
    /// Completed requests of the measured phase that neither a server's count nor a proxy gave tokens for.
    pub without_tokens: u64,
    /// Those whose tokens are a stated proxy: chunks or words.
    pub proxy_tokens: u64,
}

/// Connections that failed at a limit of the client's host, of every phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostLimits {
    /// No file descriptor was left.
    pub descriptors: u64,
    /// No local port was left.
    pub ports: u64,
}

/// Half-widths of the error bars of a level's stamps, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockBound {
    /// Of the middle request.
    pub median_ns: i64,
    /// Of the worst.
    pub worst_ns: i64,
}

/// Rates of an open loop in its window, requests per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// That arrived, by their intended times: the law's, which only on average is the rate asked for.
    pub offered: f64,
    /// That were sent, not counting retries.
    pub achieved: f64,
}

/// What the bound on requests in flight did to an open loop.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// Requests of every phase that had to wait for one to end.
    pub requests: u64,
    /// How long each of them waited for that.
    pub waits: LatencyHistogram,
    /// Arrivals that still waited when the level ended; they are no released requests.
    pub never_sent: u64,
    /// Requests in flight at most, all agents together; `None` when an agent did not tell.
    pub bound: Option<u64>,
    /// At least one agent's bound was what its host can hold, and it was hit.
    pub own_bound_hit: bool,
}

/// One level, merged.
#[derive(Clone, Debug, Default)]
pub struct Level {
    /// Which rung of the plan, and the how-manieth try.
    pub drive: Drive,
    /// What was asked for, of all agents together.
    pub load: Load,
    /// Of an experiment: what this rung asks for in place of the plan's own.
    pub cell: Option<Cell>,
    /// Of an experiment, whose rungs are of few requests: those of the measured phase.
    pub singles: Vec<Single>,
    /// Of an open loop: the rates that it came to; `None` when no window can be named.
    pub rates: Option<Rates>,
    /// Of an open loop: what the bound on requests in flight held back.
    pub held: Option<Held>,
    /// Second and later tries among the requests of the measured phase.
    pub retried: u64,
    /// Those among them that the client paused on purpose: in the counts and the throughput, as the server worked on them,
    /// and in no latency.
    pub control_requests: u64,
    /// Common start on the coordinator's clock, ns.
    pub start_ref_ns: i64,
    /// End of the last of its requests on the same clock, ns.
    pub ended_ref_ns: Option<i64>,
    /// Requests intended in the measured phase. The phase of an unreported one is unknown; all count here.
    pub measured: Counts,
    /// Requests of every phase.
    pub all_phases: Counts,
    /// Distributions of the measured phase.
    pub latencies: Latencies,
    /// Rates; `None` when no window can be named.
    pub throughput: Option<Throughput>,
    /// The window in equal blocks, for error bars by resampling; empty without a window.
    pub blocks: Vec<Block>,
    /// What the plan's SLO says of its requests; `None` without one.
    pub kept: Option<Kept>,
    /// Prompt tokens of the completed requests of the measured phase.
    pub input_tokens: u64,
    /// Output tokens of the same.
    pub output_tokens: u64,
    /// Failed requests of the measured phase by kind.
    pub error_kinds: BTreeMap<String, u64>,
    /// One error in words.
    pub sample_error: Option<String>,
    /// When its agents really started; `None` when no start is known.
    pub starts: Option<Starts>,
    /// Error bars of its stamps; `None` when nothing could be placed.
    pub clock: Option<ClockBound>,
    /// Little's law; `None` when the evidence is thin.
    pub little: Option<Little>,
    /// Streams in flight by the agents' gauges, averaged over the window; `None` when an agent's gauge is too thin.
    pub in_flight: Option<f64>,
    /// Of these, the ones that waited for a connection; `None` without a window.
    pub connecting: Option<f64>,
    /// Answers between their first and last tokens at once in the window: the mean, and what was exceeded in 1 % of the time at
    /// most; `None` when there was none.
    pub answers_at_once: Option<(f64, f64)>,
    /// The shortest time in which a request that completed got a connection of its own, ns.
    pub quickest_connect_ns: Option<i64>,
    /// Connections that the client's own host could not give.
    pub host_limits: HostLimits,
    /// Whether these are the server's figures.
    pub certificate: Certificate,
    /// What is not in them.
    pub outside: Outside,
    /// Trace mode: stages of requests and lag of threads.
    pub trace: Option<Trace>,
    /// What the GPUs did over the window; `None` without a sample.
    pub gpu: Option<LevelGpu>,
    /// Where the time of its mean answer went; `None` where nothing tells first tokens.
    pub parts: Option<Parts>,
    /// Where the time of its requests went by the server's own word; `None` when it said nothing.
    pub inside: Option<LevelInside>,
    /// What the server's metrics say of its window; `None` without a scrape.
    pub server: Option<ServerLevel>,
    /// Why the level does not count, if so.
    pub voided: Option<String>,
    /// What befell it although it counts, such as an agent lost.
    pub marks: Vec<String>,
}
