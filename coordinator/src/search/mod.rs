//! The search for knee and cliff: which load to drive next, for how long, and when enough is known. Pure.
//!
//! It climbs by doubling until throughput no longer pays and the tail has left its baseline. Then it goes where the
//! interval of the knee says that knowledge is missing: to either side of it, nearer each time, and there again, until
//! the interval is as narrow as was asked; the same for the cliff. Each level is as long as its own requests need, by what
//! the levels before it took; one that was too short, or that still drifted, is driven again for longer.

mod ask;
pub mod estimate;
pub mod fit;
pub mod seen;
pub mod steady;

#[cfg(test)]
mod tests;

use crate::axis::Load;
use crate::plan::{AutoPlan, CliffRule};

pub use ask::{Ask, Lengths};
use estimate::{Estimate, Rung};
use seen::{Batch, Seen, Trouble};

/// Draws of a bootstrap while the search goes on, …
const DRAWS: usize = 100;
/// … and of the interval that is told.
pub const DRAWS_TOLD: usize = 400;
/// Times that a load is driven before it is given up for trouble, …
const TRIES: usize = 3;
/// … and for a client that could not drive it.
const CLIENT_TRIES: usize = 2;
/// Levels beyond which a search ends whatever its budget.
pub const LEVELS_MAX: usize = 100;

/// What a search is to find, and at what cost.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Axis, ends, resolution, budget.
    pub auto: AutoPlan,
    /// What knee and cliff are.
    pub cliff: CliffRule,
    /// How long levels are.
    pub lengths: Lengths,
}

/// The search so far.
#[derive(Clone, Debug, Default)]
pub struct Search {
    rule: Rule,
    seen: Vec<Seen>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Drive this.
    Level(Ask),
    /// Enough, and why.
    Done(String),
}

/// What is known at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Found {
    /// Where throughput stops paying.
    pub knee: Option<Estimate>,
    /// The knee is where the curve itself bends: no limit shows before it.
    pub bends: bool,
    /// Where the tail leaves its baseline.
    pub cliff: Option<Estimate>,
}

impl Search {
    /// A search that has seen nothing.
    pub fn new(rule: Rule) -> Self {
        Self { rule, seen: Vec::new() }
    }

    /// Takes in a level that was driven.
    pub fn take(&mut self, seen: Seen) {
        self.seen.push(seen);
    }

    /// All levels taken in, in the order driven.
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Time that they took, s; levels that were driven again without being looked at are not in it.
    pub fn spent_s(&self) -> f64 {
        self.seen.iter().map(|seen| seen.took_s).sum()
    }

    /// What the levels say, by so many draws.
    pub fn found(&self, draws: usize) -> Found {
        let (rungs, rule) = (self.rungs(), &self.rule.cliff);
        let whole = !self.rule.auto.open;
        let knee = estimate::knee(&rungs, rule.gain_share, whole, draws);
        Found {
            knee: knee.map(|(knee, _)| knee),
            bends: knee.is_some_and(|(_, curve)| curve.bends(rule.gain_share)),
            cliff: estimate::cliff(&rungs, rule.percentile, rule.multiple, whole, draws),
        }
    }

    /// What to drive next.
    pub fn next(&self) -> Next {
        let load = match self.again().or_else(|| self.climb()) {
            Some(load) => Some(load),
            None => self.refine(),
        };
        let Some(load) = load else { return Next::Done(self.end()) };
        if self.seen.len() >= LEVELS_MAX {
            return Next::Done(format!("{LEVELS_MAX} levels were driven"));
        }
        let ask = self.rule.lengths.ask(load, &self.seen);
        let budget_s = self.rule.auto.budget_ns as f64 / 1e9;
        if !self.seen.is_empty() && self.spent_s() + ask.seconds() > budget_s {
            return Next::Done(format!("the next level would go beyond the budget of {budget_s:.0} s"));
        }
        Next::Level(ask)
    }

    /// The last level had trouble that another try may cure: of more time, where that is to be had, or of other luck.
    fn again(&self) -> Option<Load> {
        let last = self.seen.last()?;
        let tries = self.troubled(last.load);
        let is_curable = match &last.trouble {
            None => false,
            Some(Trouble::ClientBound) => tries < CLIENT_TRIES,
            Some(Trouble::Void(_)) => tries < TRIES,
            Some(Trouble::Short | Trouble::Drifts(_)) => {
                let longer = self.rule.lengths.ask(last.load, &self.seen).duration_ns as f64 / 1e9;
                tries < TRIES && longer > last.window_s * 1.2
            }
        };
        is_curable.then_some(last.load)
    }

    /// Times that a load was driven to no use since it last was of use.
    fn troubled(&self, load: Load) -> usize {
        self.seen
            .iter()
            .rev()
            .filter(|seen| seen.load == load)
            .take_while(|seen| seen.trouble.is_some())
            .count()
    }

    /// Usable levels by where they lie on the axis, ascending; those of one load together.
    fn rungs(&self) -> Vec<Rung<'_>> {
        let mut usable: Vec<&Seen> = self.seen.iter().filter(|seen| seen.trouble.is_none()).collect();
        usable.sort_by(|a, b| a.load.x().total_cmp(&b.load.x()));
        let alike = usable.chunk_by(|a, b| a.load == b.load);
        let mut rungs: Vec<Rung<'_>> = Vec::new();
        for alike in alike {
            let batches: Vec<&Batch> = alike.iter().flat_map(|seen| seen.batches.iter()).collect();
            let asked = alike.first().map_or(0.0, |seen| seen.load.x());
            let arrived = Some(estimate::arrivals(&batches)).filter(|x| self.rule.auto.open && *x > 0.0);
            rungs.push(Rung { x: arrived.unwrap_or(asked), batches });
        }
        rungs.sort_by(|a, b| a.x.total_cmp(&b.x));
        rungs
    }

    /// Loads at and beyond which nothing is worth driving: the client was the limit, or nothing counted, whenever it was
    /// tried. What was of use at a higher load shows that it was not for the load.
    fn ceiling(&self) -> f64 {
        let judged = self.seen.iter().filter(|seen| seen.trouble.is_none()).map(|seen| seen.load.x());
        let top = judged.fold(0.0, f64::max);
        let is_beyond = |seen: &&Seen| {
            let tries = self.troubled(seen.load);
            match seen.trouble {
                Some(Trouble::ClientBound) => tries >= CLIENT_TRIES,
                Some(Trouble::Void(_)) => tries >= TRIES,
                _ => false,
            }
        };
        let beyond = self.seen.iter().filter(is_beyond).map(|seen| seen.load.x()).filter(|x| *x > top);
        beyond.fold(f64::INFINITY, f64::min)
    }

    fn load(&self, x: f64) -> Option<Load> {
        let (from, to) = (self.rule.auto.from, self.rule.auto.to);
        let load = ask::load(x.clamp(from, to), self.rule.auto.open);
        (load.x() < self.ceiling() && self.troubled(load) == 0).then_some(load)
    }

    /// Twice the highest load, while there is more to find above it.
    fn climb(&self) -> Option<Load> {
        let Some(top) = self.seen.iter().map(|seen| seen.load.x()).reduce(f64::max) else {
            return self.load(self.rule.auto.from);
        };
        if top >= self.rule.auto.to || self.is_past() {
            return None;
        }
        let next = self.load(top * 2.0)?;
        (next.x() > top).then_some(next)
    }

    /// Both have been passed: throughput does not pay any more, and the tail is beyond its multiple.
    fn is_past(&self) -> bool {
        let rungs = self.rungs();
        let rule = &self.rule.cliff;
        let gains: Vec<f64> = rungs
            .windows(2)
            .map(|pair| {
                let rate = |rung: &Rung<'_>| seen::rate(rung.batches.iter().copied());
                (rate(&pair[1]) / rate(&pair[0]) - 1.0) / (pair[1].x / pair[0].x - 1.0)
            })
            .collect();
        let flat = rungs.len() >= 4 && gains.last().is_some_and(|gain| *gain < rule.gain_share * 0.6);
        flat && estimate::cliff(&rungs, rule.percentile, rule.multiple, false, 1).is_some()
    }

    /// Where knowledge is missing, if it is.
    fn refine(&self) -> Option<Load> {
        let found = self.found(DRAWS);
        let knee = found.knee.and_then(|knee| {
            let (near, far) =
                if found.bends { (0.66, 0.4) } else { (1.0 - 0.8 * self.rung(knee.at) / knee.at, 0.66) };
            self.beside(
                knee,
                [near * knee.at, (2.0 - near) * knee.at, far * knee.at, knee.at / far],
                !found.bends,
            )
        });
        let cliff = || {
            let cliff = found.cliff?;
            let rung = 0.8 * self.rung(cliff.at);
            // It is a multiple of the lowest level's tail, of which as much is to be known.
            self.beside(
                cliff,
                [cliff.at - rung, cliff.at + rung, self.rule.auto.from, self.rule.auto.from],
                true,
            )
        };
        knee.or_else(cliff)
    }

    /// Width that an interval around `at` is to have.
    pub fn rung(&self, at: f64) -> f64 {
        let rung = self.rule.auto.resolution * at;
        if self.rule.auto.open { rung } else { rung.max(1.0) }
    }

    /// One of some places around an estimate: first those beside it that were never looked at, where it is to be seen
    /// from near; then whichever was looked at least, until the interval is narrow enough.
    fn beside(&self, of: Estimate, places: [f64; 4], from_near: bool) -> Option<Load> {
        let rung = self.rung(of.at);
        let loads: Vec<Load> = places.iter().filter_map(|&x| self.load(x)).collect();
        let looked = |load: &Load| -> f64 {
            let usable = self.seen.iter().filter(|seen| seen.trouble.is_none());
            let here = usable.filter(|seen| (seen.load.x() - load.x()).abs() <= 0.5 * rung);
            here.flat_map(|seen| &seen.batches).map(|batch| batch.completed).sum()
        };
        let unseen = loads.iter().take(2).find(|load| from_near && looked(load) == 0.0);
        if unseen.is_some() || of.width() <= rung {
            return unseen.copied();
        }
        loads.into_iter().min_by(|a, b| looked(a).total_cmp(&looked(b)))
    }

    fn end(&self) -> String {
        let found = self.found(DRAWS);
        let (ceiling, to) = (self.ceiling(), self.rule.auto.to);
        let narrow = |of: Option<Estimate>| of.is_some_and(|of| of.width() <= self.rung(of.at));
        let known = match (narrow(found.knee), narrow(found.cliff)) {
            (true, true) => return "knee and cliff are known to the resolution asked for".to_owned(),
            _ if ceiling.is_finite() => format!("no load from {ceiling} on can be judged"),
            (true, false) => {
                format!("the knee is known to the resolution asked for, and no cliff up to {to}")
            }
            (false, true) => {
                format!("the cliff is known to the resolution asked for, and no knee up to {to}")
            }
            (false, false) => format!("nothing more is to be found up to {to}"),
        };
        known + &self.too_short().unwrap_or_default()
    }

    /// Levels of no use for the length that the user gave them, if any: no search can lengthen those.
    fn too_short(&self) -> Option<String> {
        self.rule.lengths.duration_ns?;
        let (all, short) = (self.seen.len(), |seen: &&Seen| seen.trouble == Some(Trouble::Short));
        let short = self.seen.iter().filter(short).count();
        (short > 0).then(|| {
            format!("; {short} of {all} levels were too short for what a request takes: give a longer --duration, or none")
        })
    }
}
