//! What to change, from what a run measured and from nothing else. Each line names the figure behind it, by its key in
//! `summary.json`. Levels that are void or thin advise nothing, and nothing to advise is an answer.

mod budget;
mod limit;
mod measure;

#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use crate::certificate::Verdict;
use crate::levels::Level;
use crate::merge::{Merged, last_tries};

/// One line of advice.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// What to do, and why.
    pub words: String,
    /// `KEY = VALUE`: the figure behind it, with its key in `summary.json`.
    pub figure: String,
}

impl Advice {
    fn new(words: String, key: impl AsRef<str>, value: &Value) -> Self {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Self { words, figure: format!("{} = {value}", key.as_ref()) }
    }

    /// As a summary has it.
    pub fn json(&self) -> Value {
        json!({ "words": self.words, "figure": self.figure })
    }

    /// As a terminal has it.
    pub fn line(&self) -> String {
        format!("{} ({})", self.words, self.figure)
    }
}

/// What others found out about the run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// Why the knee is there, as `diagnosis.cause` has it.
    pub cause: Option<&'a str>,
    /// Highest load at which the SLO holds, as `slo.at` has it, on the run's own axis.
    pub slo_at: Option<f64>,
    /// 95 % interval of the knee, as `knee.estimate.ci` has it, on the run's own axis.
    pub knee_ci: Option<(f64, f64)>,
    /// Limit of the SLO on a whole request, ns.
    pub slo_e2e_ns: Option<i64>,
}

/// All advice of a run.
pub fn of(merged: &Merged) -> Vec<Advice> {
    let e2e = |slo: &crate::plan::SloPlan| {
        slo.terms.iter().find(|(name, _)| name.starts_with("e2e")).map(|(_, ns)| *ns)
    };
    let slo_e2e_ns = merged.header.plan.slo.as_ref().and_then(e2e);
    let cause = merged.diagnosed.diagnosis.as_ref().map(|diagnosis| diagnosis.cause.as_str());
    let slo_at = merged.slo.as_ref().and_then(|slo| slo.at).map(|load| load.x());
    let knee_ci = merged.knee.estimate.map(|of| (of.low, of.high)).filter(|(_, high)| high.is_finite());
    advise(merged, Known { slo_e2e_ns, cause, knee_ci, slo_at })
}

/// The same, with what others found.
pub fn advise(merged: &Merged, known: Known<'_>) -> Vec<Advice> {
    let scene = Scene::new(merged, known);
    let lines = [
        limit::concurrency(&scene),
        limit::timeout(&scene),
        limit::retries(&scene),
        budget::tokens(&scene),
        limit::next_by_cause(&scene),
    ];
    lines.into_iter().flatten().chain(measure::all(&scene)).collect()
}

/// A level with its place in `summary.json`.
#[derive(Clone, Copy)]
struct Placed<'a> {
    level: &'a Level,
    place: usize,
}

impl Placed<'_> {
    fn key(&self, key: &str) -> String {
        format!("levels[{}].{key}", self.place)
    }

    fn is(&self, verdict: Verdict) -> bool {
        self.level.certificate.verdict == verdict
    }

    /// A line that rests on one of this level's figures; `None` where that is unknown.
    fn advice(&self, merged: &Merged, words: String, key: &str) -> Option<Advice> {
        let figures = crate::report::summary::level(self.level, merged.header.started_ref_ns);
        let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
        let value = figures.get(first)?;
        let value = rest.map_or(Some(value), |rest| value.get(rest))?;
        (!value.is_null()).then(|| Advice::new(words, self.key(key), value))
    }
}

/// What is looked at.
struct Scene<'a> {
    merged: &'a Merged,
    known: Known<'a>,
    /// Of each rung, the last try, in ascending order of load.
    levels: Vec<Placed<'a>>,
}

impl<'a> Scene<'a> {
    fn new(merged: &'a Merged, known: Known<'a>) -> Self {
        let last: Vec<*const Level> = last_tries(&merged.levels).map(std::ptr::from_ref).collect();
        let all = merged.levels.iter().enumerate().map(|(place, level)| Placed { level, place });
        let mut levels: Vec<_> =
            all.filter(|placed| last.contains(&std::ptr::from_ref(placed.level))).collect();
        levels.sort_by(|a, b| a.level.load.x().total_cmp(&b.level.load.x()));
        Self { merged, known, levels }
    }

    /// Levels whose figures are the server's, and enough of them.
    fn good(&self) -> impl DoubleEndedIterator<Item = Placed<'a>> + '_ {
        self.levels
            .iter()
            .copied()
            .filter(|placed| placed.is(Verdict::Ok) && placed.level.measured.completed > 0)
    }

    fn good_at(&self, x: f64) -> Option<Placed<'a>> {
        self.good().find(|placed| placed.level.load.x() == x)
    }

    /// Where a server should work: within its SLO, else at the knee, else at the highest load that was measured well.
    fn working_level(&self) -> Option<Placed<'a>> {
        let knee = self.merged.knee.at.map(|load| load.x());
        let below = |x: f64| self.good().rfind(|placed| placed.level.load.x() <= x);
        [self.known.slo_at, knee].into_iter().flatten().find_map(below).or_else(|| self.good().next_back())
    }
}
