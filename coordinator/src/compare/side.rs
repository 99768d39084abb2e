//! One run, as a comparison needs it.

use serde_json::{Value, json};

use crate::axis::Load;
use crate::blocks::{BLOCKS, Block};
use crate::certificate::Verdict;
use crate::experiment::{OVERLOAD, rung_name};
use crate::knee::duration;
use crate::levels::Level;
use crate::merge::{Merged, repeats};
use crate::plan::{Cell, Plan};

/// What levels must share to be repeats of one another: a load and, of an experiment, what else its rung asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// The load.
    pub load: Load,
    /// Of an experiment.
    pub cell: Option<Cell>,
}

impl Place {
    fn of(level: &Level) -> Self {
        Self { load: level.load, cell: level.cell.clone() }
    }

    /// The load's number, or the rung's name in its experiment.
    pub fn name(&self) -> String {
        self.cell.as_ref().map_or_else(|| self.load.to_string(), |cell| named(self.load, cell))
    }

    /// As it is said within a sentence.
    pub fn words(&self) -> String {
        self.cell.as_ref().map_or_else(|| self.load.words(), |cell| named(self.load, cell))
    }

    /// The load as JSON, or the rung's name.
    pub fn json(&self) -> Value {
        self.cell.as_ref().map_or_else(|| self.load.json(), |cell| json!(named(self.load, cell)))
    }
}

/// A recovery's name leaves out after which timeout it was; two runs may have several.
fn named(load: Load, cell: &Cell) -> String {
    let name = rung_name(load, cell);
    match cell.request_timeout_ns {
        Some(ns) if cell.role != OVERLOAD => {
            format!("{name}, timeout {}", duration(ns.max(0).unsigned_abs()))
        }
        _ => name,
    }
}

/// A load, its repeats apart.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Where.
    pub place: Place,
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
    /// Loads that count, ascending; rungs of an experiment in the order driven.
    pub loads: Vec<Loaded>,
    /// Loads left out, and why.
    pub skipped: Vec<(Place, String)>,
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
        repeats(&merged.levels).for_each(|level| side.add(level));
        if side.loads.iter().all(|of| of.place.cell.is_none()) {
            side.loads.sort_by(|a, b| a.place.load.x().total_cmp(&b.place.load.x()));
        }
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
            self.skipped.push((Place::of(level), why.to_owned()));
            return;
        }
        let place = Place::of(level);
        match self.loads.iter_mut().find(|of| of.place == place) {
            Some(of) => of.repeats.push(blocks),
            None => self.loads.push(Loaded { place, repeats: vec![blocks] }),
        }
    }
}

/// Where nothing completed there may be no window, and a share of errors needs none.
fn blocks(level: &Level) -> Vec<Block> {
    let counts = &level.measured;
    if level.blocks.is_empty() && counts.completed == 0 && counts.failed > 0 {
        let up_to = |i: u64| counts.failed * i / BLOCKS as u64;
        let part = |i: u64| Block { failed: up_to(i + 1) - up_to(i), ..Block::default() };
        return (0..BLOCKS as u64).map(part).collect();
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
