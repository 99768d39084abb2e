//! Experiments beside the sweep: a baseline, a grid of prompt and answer sizes, an overload and what came after it. Pure:
//! the levels of a run in, findings with their numbers out. Their rungs are few requests each, so that figures are exact
//! order statistics of the requests and not read from histograms.

pub mod baseline;
pub mod figures;
pub mod grid;
pub mod overload;
pub mod single;

use crate::axis::Load;
use crate::knee::{Cliff, Knee, duration};
use crate::levels::Level;
use crate::plan::{Cell, Plan};

use baseline::Baseline;
use grid::Grid;
use overload::Overload;

/// Role of the rung that shows what is usual.
pub const BASELINE: &str = "baseline";
/// Role of a rung with more load than its timeout allows.
pub const OVERLOAD: &str = "overload";
/// Role of the rung that watches the server afterwards.
pub const RECOVERY: &str = "recovery";

/// What a run's experiment came to.
#[derive(Clone, Debug, Default)]
pub enum Experiment {
    /// None of its own: knee and cliff are the findings.
    #[default]
    Sweep,
    /// Latency without load; `None` when nothing completed.
    Baseline(Option<Baseline>),
    /// Latency over prompt and answer size.
    Grid(Grid),
    /// What failed under a short timeout, and what came after.
    Overload(Overload),
}

impl Experiment {
    /// Of a plan's levels, each rung's last try.
    pub fn of<'a>(plan: &Plan, levels: impl Iterator<Item = &'a Level>) -> Self {
        match plan.experiment.as_str() {
            "baseline" => Self::Baseline(Baseline::of(levels)),
            "grid" => Self::Grid(Grid::of(plan, levels)),
            "overload" => Self::Overload(Overload::of(plan, levels)),
            _ => Self::Sweep,
        }
    }
}

/// Its name in outputs.
pub fn name(plan: &Plan) -> &str {
    if plan.experiment.is_empty() { "sweep" } else { &plan.experiment }
}

/// Why an experiment has neither knee nor cliff; `None` for a sweep, which may.
fn unjudged(plan: &Plan) -> Option<&'static str> {
    match plan.experiment.as_str() {
        "" => None,
        "baseline" => Some("a baseline has one level"),
        "grid" => Some("the cells of a grid ask for different work, not for more of it"),
        _ => Some(
            "under a short timeout the slow requests fail, and those that are left say nothing of the tail",
        ),
    }
}

/// Knee and cliff of an experiment that has none say why; of a sweep they stay as they are.
pub(crate) fn without_knee(plan: &Plan, (knee, cliff): (Knee, Cliff)) -> (Knee, Cliff) {
    let Some(why) = unjudged(plan) else { return (knee, cliff) };
    let words = format!("knee and cliff not judged: {why}");
    (
        Knee { words: words.clone(), ..Knee::default() },
        Cliff { words, judged: cliff.judged, ..Cliff::default() },
    )
}

/// What the rungs of a plan are called, in their order; none for a sweep, whose levels are called by their load.
pub fn names(plan: &Plan) -> Vec<String> {
    plan.levels().iter().zip(&plan.cells).map(|(load, cell)| rung_name(*load, cell)).collect()
}

/// What a rung is called.
pub fn rung_name(load: Load, cell: &Cell) -> String {
    let streams = match load {
        Load::Streams(1) => "one at a time".to_owned(),
        load => load.words(),
    };
    match (cell.prompt_chars, cell.output_len, cell.request_timeout_ns) {
        (Some(chars), Some(tokens), _) => format!("{chars} characters × {tokens} tokens"),
        (_, _, Some(ns)) if cell.role == OVERLOAD => {
            format!("{} at timeout {}", load.words(), duration(ns.max(0).unsigned_abs()))
        }
        _ if !cell.role.is_empty() => format!("{}, {streams}", cell.role),
        _ => load.words(),
    }
}

impl Level {
    /// What it is called among its run's levels.
    pub fn name(&self) -> String {
        self.cell.as_ref().map_or_else(|| self.load.to_string(), |cell| rung_name(self.load, cell))
    }

    /// What it is for in its experiment; `None` where all rungs are alike.
    pub fn role(&self) -> Option<&str> {
        self.cell.as_ref().map(|cell| cell.role.as_str()).filter(|role| !role.is_empty())
    }

    /// No completed request is a finding here, and no failure of the run.
    pub fn may_complete_nothing(&self) -> bool {
        matches!(self.role(), Some(OVERLOAD | RECOVERY))
    }
}

#[cfg(test)]
mod tests;
