//! Why is the knee there? From what clients, GPUs, the server's host and (where it tells) the server itself showed at the
//! level before and the first one after it: the cause, or the causes that cannot be told apart and what would tell. Pure:
//! the same journal gives the same diagnosis.
//!
//! Judged by exclusion, as stalls are: first the client, then the way to it, then the GPU's cap, then the server: its KV
//! cache, its queue, its compute. A bend is a resource at its limit, and by Little's law what is added beyond that limit
//! waits for it: where the added time lies says which resource it is.

mod client;
mod evidence;
mod gpu;
mod judge;
mod parts;
mod seen;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::axis::Load;
use crate::merge::{Merged, last_tries};
use crate::stall::Stalls;
use crate::stored::RunData;

pub use gpu::LevelGpu;
pub use parts::Parts;
pub use seen::{Seen, ServerSeen};

/// What limits a server, or whoever asks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Requests wait for a place in the server's batch: its slots are all taken.
    ServerQueue,
    /// Its KV cache is full: answers are put out in mid-stream and computed again.
    KvFull,
    /// Each step takes longer the more answers share it.
    ComputeBound,
    /// The GPU's clocks are held down.
    PowerOrThermalCap,
    /// Tokens were made in time and came late.
    Network,
    /// The client was the limit.
    ClientBound,
    /// The evidence does not separate the causes that are left.
    Unknown,
}

impl Cause {
    /// The name in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::ServerQueue => "server queue",
            Cause::KvFull => "KV full / preemption",
            Cause::ComputeBound => "compute-bound",
            Cause::PowerOrThermalCap => "power or thermal cap",
            Cause::Network => "network",
            Cause::ClientBound => "client-bound",
            Cause::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One signal at the level before the bend and at the one after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Which.
    pub signal: &'static str,
    /// Its numbers.
    pub words: String,
}

/// Why the knee is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// What it is.
    pub cause: Cause,
    /// 0 to 1; 0 for `Unknown`. A judgement of how well the evidence separates, not a measured frequency.
    pub confidence: f64,
    /// Of `Unknown`: the causes that are left; else empty.
    pub candidates: Vec<Cause>,
    /// One sentence.
    pub words: String,
    /// What led to it.
    pub evidence: Vec<Evidence>,
    /// Causes that it is not, and why.
    pub excluded: Vec<(Cause, String)>,
}

/// From a level of a search to the one that it is held against, in load.
const SEARCH_APART: f64 = 1.3;

/// The outcome of asking.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diagnosed {
    /// `None` when there is no bend, or too little to judge it by.
    pub diagnosis: Option<Diagnosis>,
    /// The diagnosis in a line, or why there is none.
    pub words: String,
}

impl Diagnosed {
    fn none(why: impl Into<String>) -> Self {
        Self { diagnosis: None, words: format!("no diagnosis: {}", why.into()) }
    }
}

impl From<Diagnosis> for Diagnosed {
    fn from(diagnosis: Diagnosis) -> Self {
        Self { words: diagnosis.words.clone(), diagnosis: Some(diagnosis) }
    }
}

/// Fills in what each level's GPUs did and where its time went, and says why the knee is there.
pub(crate) fn diagnose(data: &RunData, merged: &mut Merged) {
    let gpus = gpu::of_levels(data, &merged.timeline, &merged.levels, &merged.stalls);
    for (level, gpu) in merged.levels.iter_mut().zip(gpus) {
        level.gpu = gpu;
    }
    let parts = parts::of_levels(&merged.levels);
    for (level, parts) in merged.levels.iter_mut().zip(parts) {
        level.parts = parts;
    }
    let seen = see(data, merged);
    merged.diagnosed = judge(merged, &seen);
    merged.cliff_diagnosed = judge_cliff(merged, &seen);
}

/// Why the cliff is there, where the knee is elsewhere: what bends throughput need not be what makes the tail.
fn judge_cliff(merged: &Merged, seen: &[Seen]) -> Option<Diagnosis> {
    merged.knee.at?;
    let of_knee = place(merged, seen, merged.knee.at).ok()?;
    let (below, above) = place(merged, seen, merged.cliff.at.and_then(|at| before(seen, at))).ok()?;
    if (below.load, above.load) == (of_knee.0.load, of_knee.1.load) {
        return None;
    }
    Some(judge_between(merged, seen, (below, above)))
}

/// The last level that counts below a load.
fn before(seen: &[Seen], at: Load) -> Option<Load> {
    seen.iter().filter(|level| level.counts() && level.load.x() < at.x()).map(|level| level.load).next_back()
}

/// What was seen of each rung's last try, lowest load first.
pub fn see(data: &RunData, merged: &Merged) -> Vec<Seen> {
    let mut seen: Vec<Seen> = last_tries(&merged.levels)
        .map(|level| seen::of(data, &merged.timeline, level, &merged.stalls))
        .collect();
    seen.sort_by(|a, b| a.load.x().total_cmp(&b.load.x()));
    seen
}

/// Why the knee is there, from what was seen of the levels.
pub fn judge(merged: &Merged, seen: &[Seen]) -> Diagnosed {
    let plan = &merged.header.plan;
    if ["grid", "overload"].contains(&plan.experiment.as_str()) {
        return Diagnosed::none(format!(
            "the levels of a run of --{} differ in more than load",
            plan.experiment
        ));
    }
    let (knee, cliff) = (merged.knee.at, merged.cliff.at);
    match place(merged, seen, knee.or_else(|| before(seen, cliff?))) {
        Ok(place) => judge_between(merged, seen, place).into(),
        Err(why) => client::of(&plan.cliff, seen).map_or_else(|| Diagnosed::none(why), Diagnosed::from),
    }
}

fn judge_between(merged: &Merged, seen: &[Seen], (below, above): (&Seen, &Seen)) -> Diagnosis {
    let counted = || seen.iter().filter(|level| level.counts());
    let lowest = counted().next().unwrap_or(below);
    let beyond = counted().find(|level| level.load.x() > above.load.x()).unwrap_or(above);
    // Too few answers at the very top tell nothing of how chunks came.
    let telling = counted().rfind(|level| level.together.is_some() && level.load.x() > above.load.x());
    let top = telling.unwrap_or(beyond);
    let link = judge::Link::of(&merged.header.plan);
    judge::judge(&judge::Bend { lowest, below, above, beyond, top, link })
}

/// The levels on both sides of a bend whose lower one is at `at`. Those of a search lie so close that nothing is to be seen
/// from one to the next.
fn place<'a>(merged: &Merged, seen: &'a [Seen], at: Option<Load>) -> Result<(&'a Seen, &'a Seen), String> {
    let at = at.ok_or("neither a knee nor a cliff was found")?;
    let apart = if merged.header.plan.auto.is_some() { SEARCH_APART } else { 1.0 };
    let mut usable = seen.iter().filter(|level| level.counts());
    let below = usable.clone().rfind(|level| level.load.x() <= at.x());
    let above = usable.find(|level| level.load.x() > at.x() && level.load.x() >= at.x() * apart);
    below.zip(above).ok_or_else(|| "too few levels around the knee count".to_owned())
}

/// Of a run, whether its stalls were looked for at all: without arrivals nobody knows of pauses.
fn stalls_are_known(stalls: &Stalls) -> bool {
    stalls.without_trace == 0
}
