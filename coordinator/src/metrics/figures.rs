//! The figures that a scrape reads: plain data, a copy of which is taken for each state of the run.

use std::collections::BTreeMap;

use tailcliff_proto::histogram::LatencyHistogram;

use crate::axis::Load;
use crate::stored::Drive;

/// Upper ends of the buckets of latencies, ns.
pub const BOUNDS_NS: [u64; 19] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    25_000_000_000,
    50_000_000_000,
    100_000_000_000,
    250_000_000_000,
    1_000_000_000_000,
    3_600_000_000_000,
];

/// What the run does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nodes are awaited, or readied for a level.
    #[default]
    Waiting,
    /// A level runs.
    Measuring,
    /// No more load: what was measured is written.
    Over,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Measuring, Self::Over];

    /// The name in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Measuring => "measuring",
            Self::Over => "over",
        }
    }
}

/// A latency's distribution in classic buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Buckets {
    /// Values up to each of [`BOUNDS_NS`], to the histogram's precision.
    pub up_to: [u64; BOUNDS_NS.len()],
    /// Values in all.
    pub count: u64,
    /// Sum in seconds, to the histogram's precision.
    pub sum_s: f64,
}

impl Buckets {
    /// Of a histogram.
    pub fn of(histogram: &LatencyHistogram) -> Self {
        let hdr = histogram.hdr();
        Self {
            up_to: BOUNDS_NS.map(|bound| hdr.count_between(0, bound)),
            count: histogram.len(),
            sum_s: histogram.mean_ns().map_or(0.0, |mean| mean * histogram.len() as f64 / 1e9),
        }
    }
}

/// One level so far, of all agents and all phases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LevelFigures {
    /// Which.
    pub drive: Drive,
    /// What is asked for.
    pub load: Load,
    /// Requests sent or given up.
    pub released: u64,
    /// Whole answers.
    pub completed: u64,
    /// Errors.
    pub failed: u64,
    /// Given up at the level's end.
    pub incomplete: u64,
    /// Second and later tries.
    pub retried: u64,
    /// Had to wait for a place.
    pub held_back: u64,
    /// Tokens that came.
    pub output_tokens: u64,
    /// Right now.
    pub in_flight: u64,
    /// Intended send → first token.
    pub ttft: Buckets,
    /// Intended send → end.
    pub e2e: Buckets,
}

/// A GPU's newest readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GpuFigures {
    /// Made up.
    pub simulated: bool,
    /// W.
    pub power_w: Option<f64>,
    /// 0 to 1.
    pub utilisation: Option<f64>,
    /// Hz.
    pub sm_clock_hz: Option<f64>,
    /// Bytes.
    pub memory_used: Option<u64>,
}

/// A node as it is connected.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeFigures {
    /// Its name.
    pub name: String,
    /// It makes load; else it samples.
    pub is_agent: bool,
    /// It has a connection.
    pub connected: bool,
    /// How far its stamps may be off now, ns; `None` before the first exchange.
    pub clock_bound_ns: Option<i64>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// What the run does.
    pub state: State,
    /// Levels planned.
    pub planned: usize,
    /// Levels that began, in their order.
    pub levels: Vec<LevelFigures>,
    /// The last of these is running.
    pub running: bool,
    /// Nodes.
    pub nodes: Vec<NodeFigures>,
    /// GPUs by probe and index.
    pub gpus: BTreeMap<(String, u32), GpuFigures>,
}

impl Figures {
    /// Of a run that has not begun.
    pub fn new(planned: usize) -> Self {
        Self { planned, ..Self::default() }
    }
}
