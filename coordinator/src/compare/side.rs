//! One run, as a comparison needs it.

use serde_json::Value;

use crate::axis::Load;
use crate::blocks::{BLOCKS, Block};
use crate::certificate::Verdict;
use crate::levels::Level;
use crate::merge::{Merged, last_tries};
use crate::plan::Plan;

/// Failures that are enough to speak of a load at which nothing completed.
const ENOUGH_FAILED: u64 = 40;

/// A load, its repeats apart.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The load.
    pub load: Load,
    /// Blocks of each repeat.
    pub repeats: Vec<Vec<Block>>,
}

/// A run.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// Name of the run.
    pub name: String,
    /// Version of tailcliff that made it.
    pub version: String,
    /// What was asked.
    pub plan: Plan,
    /// Loads that count, ascending.
    pub loads: Vec<Loaded>,
    /// Loads left out, and why.
    pub skipped: Vec<(Load, String)>,
    /// Words on its knee, its cliff and its SLO; empty where it has none.
    pub words: [String; 3],
    /// `environment.json`.
    pub environment: Value,
    /// Why it is not whole; empty when it is.
    pub cut_short: String,
}

impl Side {
    /// A run with its environment.
    pub fn of(merged: &Merged, environment: Value) -> Self {
        let mut side = Self {
            name: merged.header.name.clone(),
            version: merged.header.tailcliff_version.clone(),
            plan: merged.header.plan.clone(),
            words: [
                merged.knee.words.clone(),
                merged.cliff.words.clone(),
                merged.slo.as_ref().map_or_else(String::new, |slo| slo.words.clone()),
            ],
            environment,
            cut_short: match &merged.end {
                None => "its journal was not closed".to_owned(),
                Some(end) => end.cut_short.clone(),
            },
            ..Self::default()
        };
        last_tries(&merged.levels).for_each(|level| side.add(level));
        side.loads.sort_by(|a, b| a.load.x().total_cmp(&b.load.x()));
        side
    }

    fn add(&mut self, level: &Level) {
        let blocks = blocks(level);
        let why = match level.certificate.verdict {
            Verdict::Void => Some("void"),
            Verdict::ClientBound if level.measured.completed > 0 => {
                Some("client-bound: the client was the limit, not the server")
            }
            _ if blocks.is_empty() => Some("no window to judge"),
            _ => None,
        };
        if let Some(why) = why {
            self.skipped.push((level.load, why.to_owned()));
            return;
        }
        match self.loads.iter_mut().find(|of| of.load == level.load) {
            Some(of) => of.repeats.push(blocks),
            None => self.loads.push(Loaded { load: level.load, repeats: vec![blocks] }),
        }
    }
}

/// Where nothing completed there may be no window, and a share of errors needs none.
fn blocks(level: &Level) -> Vec<Block> {
    let counts = &level.measured;
    if level.blocks.is_empty() && counts.completed == 0 && counts.failed >= ENOUGH_FAILED {
        let each = Block { failed: counts.failed / BLOCKS as u64, ..Block::default() };
        return vec![each; BLOCKS];
    }
    level.blocks.clone()
}

/// Names that tell them apart.
pub(super) fn names(a: &Side, b: &Side) -> (String, String) {
    if a.name == b.name {
        (format!("{} (A)", a.name), format!("{} (B)", b.name))
    } else {
        (a.name.clone(), b.name.clone())
    }
}

/// What is said of places on the axis, where either run has it.
pub(super) fn places(a: &Side, b: &Side) -> Vec<(&'static str, String, String)> {
    let all = ["knee", "cliff", "SLO"].into_iter().zip(a.words.iter().zip(&b.words));
    let told = all.filter(|(_, (a, b))| !a.is_empty() || !b.is_empty());
    told.map(|(what, (a, b))| (what, a.clone(), b.clone())).collect()
}
