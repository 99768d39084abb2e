//! Two runs against each other, level by level: the difference of each figure with its 95 % interval, and whether it is
//! better, worse or indistinguishable. Pure: sides in, a comparison out.
//!
//! Intervals come from a block bootstrap within each run (fixed seed), so they speak of what varied within the runs, and of
//! nothing that differs from one start of a server to the next.

mod bootstrap;
pub mod environment;
mod findings;
mod fit;
mod json;
mod markdown;
mod metric;
mod page;
mod plot;
mod side;
mod student;
mod text;

#[cfg(test)]
mod tests;

pub use findings::{Change, Estimate, Finding, Row, Verdict};
pub use fit::{Fit, fit};
pub use json::json;
pub use markdown::markdown;
pub use metric::{DEFAULT_GATES, METRICS, Metric};
pub use page::html;
pub use side::{Loaded, Place, Side};
pub use text::render;
pub(crate) use text::wrap;

/// Loads left out, and why.
type Skipped = Vec<(Place, String)>;

/// What is judged, and how large a difference must be to count.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Names of the metrics that decide the whole.
    pub gates: Vec<String>,
    /// Of latencies and rates: as a share of A's figure.
    pub min_effect: f64,
    /// Of shares (errors, SLO): as a difference of the two.
    pub min_points: f64,
}

impl Default for Rule {
    fn default() -> Self {
        let gates = DEFAULT_GATES.iter().map(|&name| name.to_owned()).collect();
        Self { gates, min_effect: 0.02, min_points: 0.005 }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Names of both runs.
    pub names: (String, String),
    /// The rule that it was judged by.
    pub rule: Rule,
    /// Loads that both runs have, ascending.
    pub rows: Vec<Row>,
    /// Loads of one run alone.
    pub alone: (Vec<Place>, Vec<Place>),
    /// Loads left out of each run, and why.
    pub skipped: (Skipped, Skipped),
    /// Where A was judged and B was not, in words: B is neither better nor as good then.
    pub owed: Vec<String>,
    /// Words on knee, cliff and SLO of each run.
    pub places: Vec<(&'static str, String, String)>,
    /// What makes them hard to compare.
    pub fit: Fit,
    /// What differs in their circumstances.
    pub environment: Vec<environment::Difference>,
    /// The gates together.
    pub verdict: Verdict,
}

/// Compares two runs. That they fit one another is not checked here but told: see [`Fit`].
pub fn compare(a: &Side, b: &Side, rule: &Rule) -> Comparison {
    let mut rows: Vec<Row> = Vec::new();
    for of_a in &a.loads {
        if let Some(of_b) = b.loads.iter().find(|of_b| of_b.place == of_a.place) {
            rows.push(findings::row(of_a, of_b, rule, rows.len() as u64));
        }
    }
    findings::judge(&mut rows, rule);
    let alone = |one: &Side, other: &Side| {
        let missing = |place: &&Place| !other.loads.iter().any(|of| of.place == **place);
        one.loads.iter().map(|of| &of.place).filter(missing).cloned().collect()
    };
    let owed = findings::owed(a, b, &rows);
    Comparison {
        names: side::names(a, b),
        verdict: findings::overall(&rows, &owed),
        owed,
        rule: rule.clone(),
        rows,
        alone: (alone(a, b), alone(b, a)),
        skipped: (a.skipped.clone(), b.skipped.clone()),
        places: side::places(a, b),
        fit: fit(a, b),
        environment: environment::differences(&a.environment, &b.environment),
    }
}
