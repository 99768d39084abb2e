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
    let parts = parts::of_levels(data, &merged.levels);
    for (level, parts) in merged.levels.iter_mut().zip(parts) {
        level.parts = parts;
    }
    let seen = see(data, merged);
    merged.diagnosed = judge(merged, &seen);
}

/// What was seen of each rung's last try, lowest load first; what a server tells of itself is still to be filled in.
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
    let rule = &plan.cliff;
    let (below, above) = match place(merged, seen) {
        Ok(place) => place,
        Err(why) => return client::of(rule, seen).map_or_else(|| Diagnosed::none(why), Diagnosed::from),
    };
    let counted = || seen.iter().filter(|level| level.counts());
    let lowest = counted().next().unwrap_or(below);
    let beyond = counted().find(|level| level.load.x() > above.load.x()).unwrap_or(above);
    // Too few answers at the very top tell nothing of how chunks came.
    let telling = counted().rfind(|level| level.together.is_some() && level.load.x() > above.load.x());
    let top = telling.unwrap_or(beyond);
    let link = judge::Link::of(plan);
    judge::judge(&judge::Bend { lowest, below, above, beyond, top, link }).into()
}

/// The levels on both sides of the knee, or where there is none of the cliff.
fn place<'a>(merged: &Merged, seen: &'a [Seen]) -> Result<(&'a Seen, &'a Seen), String> {
    let usable: Vec<&Seen> = seen.iter().filter(|level| level.counts()).collect();
    let (knee, cliff) = (&merged.knee, &merged.cliff);
    let below = match (knee.at, cliff.at) {
        (Some(at), _) => usable.iter().rposition(|level| level.load.x() <= at.x()),
        (None, Some(at)) => usable.iter().rposition(|level| level.load.x() < at.x()),
        (None, None) => return Err("neither a knee nor a cliff was found".to_owned()),
    };
    let pair = below.and_then(|i| Some((*usable.get(i)?, *usable.get(i + 1)?)));
    pair.ok_or_else(|| "too few levels around the knee count".to_owned())
}

/// Of a run, whether its stalls were looked for at all: without arrivals nobody knows of pauses.
fn stalls_are_known(stalls: &Stalls) -> bool {
    stalls.without_trace == 0
}
