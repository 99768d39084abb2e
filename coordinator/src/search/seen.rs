//! What a search knows of one level that was driven.

use crate::axis::Load;
use crate::blocks::Block;

use super::steady;

/// A batch is so many times as long as a request is worked on, so that batches tell of different requests.
const LIVES: f64 = 1.5;
/// Values kept of a batch at most, evenly thinned: what a tail needs, and no more than resampling can afford.
const VALUES_MAX: usize = 400;
/// Requests that end within a level below which it says nothing.
const ENDED_MIN: f64 = 20.0;

/// A stretch of a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Length, s.
    pub seconds: f64,
    /// Completed requests.
    pub completed: f64,
    /// Requests that arrived.
    pub arrived: f64,
    /// Values of the judged latency, ns.
    pub values: Vec<i64>,
}

/// Why a level is not judged.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// What it could not drive says nothing of the server; nor does any higher load.
    ClientBound,
    /// It does not count, or nothing completed; why.
    Void(String),
    /// Its window was too short for what a request takes.
    Short,
    /// Throughput still changed at its end, by this share.
    Drifts(f64),
}

/// One level, as far as a search asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// What it asked for.
    pub load: Load,
    /// What it took, warm-up and drain and all, s.
    pub took_s: f64,
    /// Length of its window, s.
    pub window_s: f64,
    /// Mean time that a request takes, s; in open loop the part after its first token, since beyond the capacity the wait
    /// before it is as long as the level. 0 where nothing completed.
    pub life_s: f64,
    /// The steady part of its window.
    pub batches: Vec<Batch>,
    /// Of the window, the share that was cut off because it still drifted.
    pub cut: f64,
    /// Why it is not judged, if so.
    pub trouble: Option<Trouble>,
}

impl Seen {
    /// A level of this load that took so long, with the blocks of its window; `metric` is what the cliff is judged on,
    /// `why` the reason that it does not count.
    pub fn of(load: Load, took_s: f64, blocks: &[Block], metric: &str, why: Option<Trouble>) -> Self {
        let e2e_s = mean(blocks, |block| &block.e2e_ns);
        // Waiting in a queue links no two requests' fates but by the service that both wait for.
        let worked_s = e2e_s - mean(blocks, |block| &block.ttft_ns);
        let batches = batches(blocks, worked_s, metric);
        let series: Vec<f64> = batches.iter().map(|b| b.completed / b.seconds).collect();
        let steady = steady::judge(&series);
        let cut = steady.cut as f64 / batches.len().max(1) as f64;
        let batches: Vec<Batch> = batches.into_iter().skip(steady.cut).collect();
        let ended: f64 = batches.iter().map(|b| b.completed).sum();
        let window_s: f64 = blocks.iter().map(|b| b.seconds).sum();
        let is_short = ended < ENDED_MIN || !load.is_open() && window_s < 4.0 * e2e_s;
        let nothing = (ended == 0.0).then(|| Trouble::Void("nothing completed".to_owned()));
        let trouble =
            why.or(nothing).or(is_short.then_some(Trouble::Short)).or(steady.drift.map(Trouble::Drifts));
        let life_s = if load.is_open() { worked_s } else { e2e_s };
        Self { load, took_s, window_s, life_s, batches, cut, trouble }
    }

    /// Completed requests per second.
    pub fn per_s(&self) -> f64 {
        rate(self.batches.iter())
    }
}

/// Mean of some values of all blocks, s; 0 of none.
fn mean(blocks: &[Block], values: fn(&Block) -> &Vec<i64>) -> f64 {
    let all = blocks.iter().flat_map(values);
    let (sum, n) = all.fold((0.0, 0u64), |(sum, n), &ns| (sum + ns as f64, n + 1));
    if n > 0 { sum / n as f64 / 1e9 } else { 0.0 }
}

/// Requests per second over some batches; 0 over none.
pub(super) fn rate<'a>(batches: impl Iterator<Item = &'a Batch>) -> f64 {
    let (done, seconds) = batches.fold((0.0, 0.0), |(n, s), b| (n + b.completed, s + b.seconds));
    if seconds > 0.0 { done / seconds } else { 0.0 }
}

/// Blocks joined until each is long against a life.
fn batches(blocks: &[Block], worked_s: f64, metric: &str) -> Vec<Batch> {
    let block_s = blocks.first().map_or(1.0, |block| block.seconds);
    let join = ((LIVES * worked_s / block_s).ceil() as usize).clamp(1, (blocks.len() / 4).max(1));
    // Those that do not fill a batch are left out at the start, where the load is youngest.
    let odd = blocks.len() % join;
    blocks[odd..].chunks(join).map(|part| batch(part, metric)).collect()
}

fn batch(blocks: &[Block], metric: &str) -> Batch {
    let values: Vec<i64> = blocks.iter().flat_map(|block| block.values(metric)).copied().collect();
    let every = values.len().div_ceil(VALUES_MAX).max(1);
    Batch {
        seconds: blocks.iter().map(|block| block.seconds).sum(),
        completed: blocks.iter().map(|block| block.completed).sum(),
        arrived: blocks.iter().map(|block| block.arrived as f64).sum(),
        values: values.into_iter().step_by(every).collect(),
    }
}
