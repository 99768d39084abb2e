//! An overload: what failed under a timeout too short for the load, and how; and how long after it the server answered
//! as before.

use std::collections::BTreeMap;

use crate::knee::duration;
use crate::levels::{Counts, Level};
use crate::plan::Plan;

use super::baseline::figures;
use super::figures::Figures;
use super::single::{Again, Single};
use super::{BASELINE, OVERLOAD, RECOVERY};

/// A probe is as good as before within this multiple of the baseline's p95.
pub const SLACK: f64 = 1.5;
/// As many probes in a row must be as good as before, as far as there are so many: one may be lucky.
const IN_A_ROW: usize = 3;

/// An overload and what came after it.
#[derive(Clone, Debug, Default)]
pub struct Overload {
    /// What is usual; `None` when nothing of it completed.
    pub baseline: Option<Usual>,
    /// The rungs, in the order driven.
    pub rungs: Vec<Rung>,
    /// One for each timeout.
    pub recoveries: Vec<Recovery>,
}

/// What requests take when they are alone.
#[derive(Clone, Debug, Default)]
pub struct Usual {
    /// Intended send → end, ns.
    pub e2e_ns: Figures,
    /// Intended send → first token, ns; `None` where no answer was streamed.
    pub ttft_ns: Option<Figures>,
}

/// One rung. Times in ns.
#[derive(Clone, Debug, Default)]
pub struct Rung {
    /// Its level.
    pub level: u32,
    /// Streams kept busy.
    pub concurrency: u32,
    /// Longest a request may take.
    pub timeout_ns: i64,
    /// Requests by how they ended.
    pub counts: Counts,
    /// Failures by class, the most frequent first.
    pub failures: Vec<Failures>,
    /// Of the answers that came whole.
    pub e2e_ns: Option<Figures>,
    /// Why it does not count, if so.
    pub voided: Option<String>,
}

/// Failures of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// In words.
    pub class: String,
    /// How many.
    pub count: u64,
    /// What another try would be.
    pub again: Again,
    /// What one of them said.
    pub sample: String,
}

/// The server, watched by one request after another. Times in ns.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// The timeout of the overload before, and of the probes.
    pub timeout_ns: i64,
    /// True: it answered as before within the time watched. `None`: nothing to judge by.
    pub recovered: Option<bool>,
    /// From the end of the last request of the overload to the end of the first probe as good as before: an upper bound,
    /// as no probe was sent before `probed_after_ns`.
    pub after_ns: Option<i64>,
    /// From the end of the last request of the overload to the first probe.
    pub probed_after_ns: Option<i64>,
    /// Probes that ended.
    pub probes: u64,
    /// Of these: within the slack.
    pub good: u64,
    /// In words.
    pub words: String,
}

impl Overload {
    pub(super) fn of<'a>(plan: &Plan, levels: impl Iterator<Item = &'a Level>) -> Self {
        let levels: Vec<&Level> = levels.collect();
        let of_role = |role: &'static str| levels.iter().copied().filter(move |l| l.role() == Some(role));
        let baseline = of_role(BASELINE).find(|level| level.voided.is_none()).and_then(usual);
        let planned = plan.cells.iter().filter(|cell| cell.role == RECOVERY);
        let recovery = |cell: &crate::plan::Cell| {
            let timeout_ns = cell.request_timeout_ns.unwrap_or(0);
            let under = |level: &&Level| timeout_of(level) == timeout_ns;
            let before: Vec<&Level> = of_role(OVERLOAD).filter(under).collect();
            Recovery::of(timeout_ns, baseline.as_ref(), &before, of_role(RECOVERY).find(under))
        };
        Self {
            rungs: of_role(OVERLOAD).map(rung).collect(),
            recoveries: planned.map(recovery).collect(),
            baseline,
        }
    }

    /// After every timeout; `None` when one could not be judged and none failed.
    pub fn recovered(&self) -> Option<bool> {
        let all: Vec<_> = self.recoveries.iter().map(|recovery| recovery.recovered).collect();
        match (all.contains(&Some(false)), all.contains(&None) || all.is_empty()) {
            (true, _) => Some(false),
            (false, true) => None,
            (false, false) => Some(true),
        }
    }

    /// The findings in words: what failed, whether another try would have helped, and the recoveries.
    pub fn words(&self) -> String {
        let recoveries = self.recoveries.iter().map(|recovery| recovery.words.clone());
        [self.failed_words(), self.retry_words()].into_iter().chain(recoveries).collect::<Vec<_>>().join("; ")
    }

    /// All rungs' failures by class, the most frequent first.
    pub fn failures(&self) -> Vec<Failures> {
        let counted = self.rungs.iter().filter(|rung| rung.voided.is_none());
        gathered(counted.flat_map(|rung| rung.failures.iter().cloned()))
    }

    fn ended(&self) -> (u64, u64) {
        let counted = self.rungs.iter().filter(|rung| rung.voided.is_none());
        counted.fold((0, 0), |(done, failed), r| (done + r.counts.completed, failed + r.counts.failed))
    }

    /// What failed, and how.
    pub fn failed_words(&self) -> String {
        let (completed, failed) = self.ended();
        match completed + failed {
            0 => "nothing ended under overload".to_owned(),
            n if failed == 0 => {
                format!("none of {n} requests failed: the timeout is not too short for this load")
            }
            n => {
                let classes: Vec<String> =
                    self.failures().iter().map(|f| format!("{} × {}", f.count, f.class)).collect();
                let percent = failed as f64 / n as f64 * 100.0;
                format!("{failed} of {n} requests failed ({percent:.0} %): {}", classes.join(", "))
            }
        }
    }

    /// Whether another try would have helped, as far as what was measured tells.
    pub fn retry_words(&self) -> String {
        let (completed, failed) = self.ended();
        if failed == 0 {
            return "nothing to retry".to_owned();
        }
        let of = |again: Again| -> u64 {
            self.failures().iter().filter(|f| f.again == again).map(|f| f.count).sum()
        };
        let mut all = Vec::new();
        match of(Again::TurnedAway) {
            0 => {}
            n => all.push(format!(
                "{n} were turned away without work done: for these a retry after a pause can find room, at once it adds to the crowd"
            )),
        }
        match of(Again::WorkTwice) {
            0 => {}
            n => all.push(format!(
                "{n} ran out of time while the server may still have been at them: a retry asks for the same work twice"
            )),
        }
        if completed > 0 {
            let tries = (completed + failed) as f64 / completed as f64;
            all.push(format!(
                "if each retry had fared as these tries did, every answer would have cost {tries:.1} requests"
            ));
        }
        format!("retries: {}", all.join("; "))
    }
}

fn timeout_of(level: &Level) -> i64 {
    level.cell.as_ref().and_then(|cell| cell.request_timeout_ns).unwrap_or(0)
}

fn usual(level: &Level) -> Option<Usual> {
    let e2e_ns = figures(level, |single| single.e2e_ns)?;
    Some(Usual { e2e_ns, ttft_ns: figures(level, |single| single.ttft_ns) })
}

fn rung(level: &Level) -> Rung {
    let failures = level.singles.iter().filter_map(|single| single.failure.as_ref());
    let one = |failure: &super::single::Failure| Failures {
        class: failure.class.clone(),
        count: 1,
        again: failure.again,
        sample: failure.detail.clone(),
    };
    Rung {
        level: level.drive.level,
        concurrency: level.load.concurrency().unwrap_or(0),
        timeout_ns: timeout_of(level),
        counts: level.measured,
        failures: gathered(failures.map(one)),
        e2e_ns: figures(level, |single| single.e2e_ns),
        voided: level.voided.clone(),
    }
}

/// Those of one class together, the most frequent first.
fn gathered(all: impl Iterator<Item = Failures>) -> Vec<Failures> {
    let mut by_class: BTreeMap<String, Failures> = BTreeMap::new();
    for one in all {
        let count = one.count;
        by_class.entry(one.class.clone()).or_insert(Failures { count: 0, ..one }).count += count;
    }
    let mut all: Vec<Failures> = by_class.into_values().collect();
    all.sort_by_key(|failures| std::cmp::Reverse(failures.count));
    all
}

impl Usual {
    /// A probe that took no longer than it may.
    fn is_good(&self, probe: &Single) -> bool {
        let within =
            |figures: &Figures, ns: Option<i64>| ns.is_some_and(|ns| ns as f64 <= SLACK * figures.at(95.0));
        let ttft = self.ttft_ns.as_ref().is_none_or(|figures| within(figures, probe.ttft_ns));
        probe.completed && ttft && within(&self.e2e_ns, probe.e2e_ns)
    }

    fn words(&self) -> String {
        let p95 = |figures: &Figures| duration(figures.at(95.0) as u64);
        let ttft = self.ttft_ns.as_ref().map_or_else(String::new, |ttft| format!("TTFT {}, ", p95(ttft)));
        format!("{SLACK} × the baseline's p95 ({ttft}E2E {})", p95(&self.e2e_ns))
    }
}

impl Recovery {
    fn of(timeout_ns: i64, usual: Option<&Usual>, before: &[&Level], watched: Option<&Level>) -> Self {
        let timeout = duration(timeout_ns.max(0).unsigned_abs());
        let unknown = |why: &str| Self {
            timeout_ns,
            words: format!("recovery after timeout {timeout}: not judged, {why}"),
            ..Self::default()
        };
        let Some(usual) = usual else { return unknown("as nothing of the baseline completed") };
        let Some(level) = watched.filter(|level| level.voided.is_none()) else {
            return unknown("as the run ended before it was watched");
        };
        let ends =
            before.iter().flat_map(|level| &level.singles).filter_map(|single| Some(single.times_ns?.1));
        let Some(load_end_ns) = ends.max() else { return unknown("as the end of the load is not known") };
        let probes: Vec<&Single> =
            level.singles.iter().filter(|p| p.completed || p.failure.is_some()).collect();
        let Some(first) = probes.iter().find_map(|probe| probe.times_ns) else {
            return unknown("as no probe has a place in time");
        };
        let good: Vec<bool> = probes.iter().map(|probe| usual.is_good(probe)).collect();
        let found = (0..good.len()).find(|&i| good[i..].iter().take(IN_A_ROW).all(|good| *good));
        let after_ns = found.and_then(|i| Some(probes[i].times_ns?.1.saturating_sub(load_end_ns)));
        let mut recovery = Self {
            timeout_ns,
            recovered: Some(found.is_some()),
            after_ns,
            probed_after_ns: Some(first.0.saturating_sub(load_end_ns)),
            probes: probes.len() as u64,
            good: good.iter().filter(|good| **good).count() as u64,
            words: String::new(),
        };
        let watched_ns = level.cell.as_ref().and_then(|cell| cell.duration_ns).unwrap_or(0);
        recovery.words = match after_ns {
            Some(_) => recovery.recovered_words(&timeout, usual),
            None => recovery.broken_words(&timeout, usual, watched_ns, &probes),
        };
        recovery
    }

    fn recovered_words(&self, timeout: &str, usual: &Usual) -> String {
        let span = |ns: Option<i64>| duration(ns.unwrap_or(0).max(0).unsigned_abs());
        format!(
            "recovered in {} or less after the load at timeout {timeout} ended (first probe after {}): {} of {} probes \
             within {}",
            span(self.after_ns),
            span(self.probed_after_ns),
            self.good,
            self.probes,
            usual.words()
        )
    }

    fn broken_words(&self, timeout: &str, usual: &Usual, watched_ns: i64, probes: &[&Single]) -> String {
        let failed: Vec<_> = probes.iter().filter_map(|probe| probe.failure.as_ref()).collect();
        let such = failed.last().map_or_else(String::new, |failure| format!(", such as {}", failure.class));
        format!(
            "NOT recovered within {} after the load at timeout {timeout}: {} of {} probes within {}, {} failed{such}",
            duration(watched_ns.max(0).unsigned_abs()),
            self.good,
            self.probes,
            usual.words(),
            failed.len()
        )
    }
}
