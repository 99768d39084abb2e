//! From two loads' blocks to differences, their intervals and verdicts.
//!
//! Latencies and rates are compared by ratio (on the log scale), shares by difference. Standard errors come from the block
//! bootstrap, with Student's t for how few blocks there are. Over the gates of all levels together, and over all other
//! figures together, p-values are adjusted by Holm's method: the chance of one false verdict among them is at most 5 %.

use crate::blocks::Block;

use super::Rule;
use super::bootstrap::{Draws, joined, likeness};
use super::metric::{METRICS, Metric};
use super::side::{Loaded, Place, Side};
use super::student;

/// Chance of a false verdict among a family of figures.
const ALPHA: f64 = 0.05;
/// Draws that must have had a value.
const ENOUGH_DRAWS: usize = 900;
/// Blocks that a standard error may come from.
const ENOUGH_BLOCKS: usize = 4;
const SEED: u64 = 0x7461_696c_636c_6966;

/// B against A.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Too little was measured to say.
    Unknown,
    /// No difference that chance or the least effect does not cover.
    Same,
    /// B is better.
    Better,
    /// B is worse.
    Worse,
}

impl Verdict {
    /// The name in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Unknown => "too little to judge",
            Verdict::Same => "indistinguishable",
            Verdict::Better => "better",
            Verdict::Worse => "worse",
        }
    }

    /// After "B is".
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Verdict::Unknown => "not to be judged: too little was measured",
            Verdict::Same => "indistinguishable from A",
            Verdict::Better => "better than A",
            Verdict::Worse => "worse than A",
        }
    }
}

/// A figure with its 95 % interval; latencies in ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// B − A and B / A, each with its 95 % interval, not adjusted for how many are looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// B − A.
    pub difference: f64,
    /// Its interval.
    pub difference_interval: (f64, f64),
    /// B / A and its interval; `None` of shares, and where one is 0.
    pub ratio: Option<(f64, (f64, f64))>,
    /// Probability of a difference so large if there were none.
    pub p: f64,
    /// The same among all that were looked at (Holm).
    pub p_adjusted: f64,
}

/// One figure of one load.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which.
    pub metric: Metric,
    /// It is one of those that decide.
    pub gate: bool,
    /// Of A; `None` when there is too little to judge it by.
    pub a: Option<Estimate>,
    /// Of B.
    pub b: Option<Estimate>,
    /// The difference; `None` when one is missing.
    pub change: Option<Change>,
    /// What it says.
    pub verdict: Verdict,
}

/// One load.
#[derive(Clone, Debug)]
pub struct Row {
    /// The load, or the rung of an experiment.
    pub place: Place,
    /// Completed requests of both within their windows.
    pub completed: (u64, u64),
    /// One for each of [`METRICS`].
    pub findings: Vec<Finding>,
}

/// A figure, its draws' spread on both scales, and how much that spread can be trusted.
#[derive(Clone, Copy, Debug)]
struct Measured {
    value: f64,
    error: f64,
    /// Of the logarithm; `None` where a draw is 0.
    log_error: Option<f64>,
    degrees: f64,
}

/// Compares one load.
pub(super) fn row(a: &Loaded, b: &Loaded, rule: &Rule, index: u64) -> Row {
    let [blocks_a, blocks_b] =
        [a, b].map(|of| of.repeats.iter().flat_map(|blocks| joined(blocks)).collect::<Vec<Block>>());
    let draws = |blocks: &[Block], side: u64| Draws::of(blocks.len(), SEED ^ (index << 1 | side));
    let (draws_a, draws_b) = (draws(&blocks_a, 0), draws(&blocks_b, 1));
    let finding = |metric: &Metric| {
        let of = |blocks: &[Block], draws: &Draws| measure(metric, blocks, draws);
        let pair = (of(&blocks_a, &draws_a), of(&blocks_b, &draws_b));
        let gate = rule.gates.iter().any(|gate| gate == metric.name);
        if metric.name == "error_rate"
            && pair.0.zip(pair.1).is_none()
            && let Some((a, b, change)) = all_failed(pair.0.map(|m| m.estimate(metric)), &blocks_a, &blocks_b)
        {
            let (a, b, change) = (Some(a), Some(b), Some(change));
            return Finding { metric: *metric, gate, a, b, change, verdict: Verdict::Unknown };
        }
        Finding {
            metric: *metric,
            gate,
            a: pair.0.map(|m| m.estimate(metric)),
            b: pair.1.map(|m| m.estimate(metric)),
            change: pair.0.zip(pair.1).map(|(a, b)| {
                let change = change(metric, &a, &b);
                let between = (a.value * b.value).sqrt();
                let p = beyond(metric, between, &blocks_a, &blocks_b).map_or(change.p, |p| p.max(change.p));
                Change { p, p_adjusted: p, ..change }
            }),
            verdict: Verdict::Unknown,
        }
    };
    let completed = |blocks: &[Block]| blocks.iter().map(|b| b.intended).sum();
    Row {
        place: a.place.clone(),
        completed: (completed(&blocks_a), completed(&blocks_b)),
        findings: METRICS.iter().map(finding).collect(),
    }
}

/// Every request of B failed, of too few for a spread over blocks. By Fisher's exact test: how likely is it that all of B's are
/// among the failed, if these were spread over both runs' requests by chance? Twice that, as it might have been A.
fn all_failed(of_a: Option<Estimate>, a: &[Block], b: &[Block]) -> Option<(Estimate, Estimate, Change)> {
    let sum = |blocks: &[Block], of: fn(&Block) -> u64| blocks.iter().map(of).sum::<u64>();
    let [(answered, failed_a), (answered_b, failed)] =
        [a, b].map(|blocks| (sum(blocks, |b| b.intended), sum(blocks, |b| b.failed)));
    if answered == 0 || failed == 0 || answered_b > 0 {
        return None;
    }
    let among = |i: u64| (failed_a + failed - i) as f64 / (answered + failed_a + failed - i) as f64;
    let p = ((0..failed).map(among).product::<f64>() * 2.0).min(1.0);
    // Clopper and Pearson's intervals of none of n and of all of n have a closed form.
    let end = |n: u64| (ALPHA / 2.0).powf(1.0 / n as f64);
    let none = (failed_a == 0).then(|| Estimate { value: 0.0, low: 0.0, high: 1.0 - end(answered) });
    let a = of_a.or(none)?;
    let b = Estimate { value: 1.0, low: end(failed), high: 1.0 };
    let difference_interval = (b.low - a.high, b.high - a.low);
    Some((a, b, Change { difference: 1.0 - a.value, difference_interval, ratio: None, p, p_adjusted: p }))
}

fn measure(metric: &Metric, blocks: &[Block], draws: &Draws) -> Option<Measured> {
    if metric.needs_slo() && blocks.iter().all(|b| b.good + b.bad == 0) {
        return None;
    }
    let (value, drawn) = metric.estimate(blocks, draws)?;
    let k = blocks.len();
    if k < ENOUGH_BLOCKS || drawn.len() < ENOUGH_DRAWS {
        return None;
    }
    // Drawing from k blocks shows (k − 1) / k of the variance, and none of what neighbours share.
    let unbiased = (k as f64 / (k - 1) as f64 * likeness(&metric.parts(value, blocks))).sqrt();
    let logs = (value > 0.0 && drawn.iter().all(|v| *v > 0.0))
        .then(|| spread(&drawn.iter().map(|v| v.ln()).collect::<Vec<_>>()) * unbiased);
    Some(Measured { value, error: spread(&drawn) * unbiased, log_error: logs, degrees: (k - 1) as f64 })
}

fn spread(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
}

impl Measured {
    fn estimate(&self, metric: &Metric) -> Estimate {
        let t = student::quantile(ALPHA, self.degrees);
        let (low, high) = match self.log_error.filter(|_| !metric.is_share()) {
            Some(error) => (self.value * (-t * error).exp(), self.value * (t * error).exp()),
            None => ((self.value - t * self.error).max(0.0), self.value + t * self.error),
        };
        let most = if metric.is_share() { 1.0 } else { f64::MAX };
        Estimate { value: self.value, low, high: high.min(most) }
    }
}

/// Welch's degrees of freedom of a difference.
fn degrees(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (va, vb) = (a.0 * a.0, b.0 * b.0);
    if va + vb <= 0.0 {
        return a.1 + b.1;
    }
    (va + vb).powi(2) / (va * va / a.1 + vb * vb / b.1)
}

fn change(metric: &Metric, a: &Measured, b: &Measured) -> Change {
    let difference = b.value - a.value;
    let error = a.error.hypot(b.error);
    let df = degrees((a.error, a.degrees), (b.error, b.degrees));
    let half = student::quantile(ALPHA, df) * error;
    let logs = a.log_error.zip(b.log_error).filter(|_| !metric.is_share());
    let ratio = logs.map(|(of_a, of_b)| {
        let (log, error) = ((b.value / a.value).ln(), of_a.hypot(of_b));
        let df = degrees((of_a, a.degrees), (of_b, b.degrees));
        let half = student::quantile(ALPHA, df) * error;
        ((log.exp(), ((log - half).exp(), (log + half).exp())), probability(log, error, df))
    });
    let p = ratio.map_or_else(|| probability(difference, error, df), |(_, p)| p);
    Change {
        difference,
        difference_interval: (difference - half, difference + half),
        ratio: ratio.map(|(ratio, _)| ratio),
        p,
        p_adjusted: p,
    }
}

/// The same question asked of ranks: do as many of A's requests as of B's lie beyond what is between
/// the two percentiles? A run
/// that was spared the rare bad moments shows a tail that is short, and a spread that is too small to tell; a difference
/// must hold both ways.
fn beyond(metric: &Metric, value: f64, a: &[Block], b: &[Block]) -> Option<f64> {
    let of = |blocks: &[Block]| {
        let parts = metric.above(value, blocks)?;
        let (above, n) = parts.iter().fold((0.0, 0.0), |(x, n), (above, of)| (x + above, n + of));
        let share = above / n;
        let rest: Vec<f64> = parts.iter().map(|(above, of)| above - share * of).collect();
        let k = rest.len() as f64;
        let squares: f64 = rest.iter().map(|r| r * r).sum();
        let error = (k / (k - 1.0) * squares * likeness(&rest)).sqrt() / n;
        Some((share, error, k - 1.0))
    };
    let (a, b) = (of(a)?, of(b)?);
    Some(probability(b.0 - a.0, a.1.hypot(b.1), degrees((a.1, a.2), (b.1, b.2))))
}

fn probability(difference: f64, error: f64, df: f64) -> f64 {
    match (difference == 0.0, error > 0.0) {
        (true, _) => 1.0,
        (false, true) => student::two_sided(difference / error, df),
        (false, false) => 0.0,
    }
}

/// Adjusts the p-values of each family, and gives each figure its verdict.
pub(super) fn judge(rows: &mut [Row], rule: &Rule) {
    for gate in [true, false] {
        let of_family = rows.iter_mut().flat_map(|row| &mut row.findings).filter(|f| f.gate == gate);
        let mut family: Vec<&mut Finding> = of_family.filter(|f| f.change.is_some()).collect();
        let p = |f: &Finding| f.change.map_or(1.0, |change| change.p);
        family.sort_by(|a, b| p(a).total_cmp(&p(b)));
        let (count, mut largest) = (family.len(), 0.0_f64);
        for (i, finding) in family.into_iter().enumerate() {
            if let Some(change) = &mut finding.change {
                largest = largest.max(change.p * (count - i) as f64).min(1.0);
                change.p_adjusted = largest;
                finding.verdict = verdict(&finding.metric, change, finding.a, rule);
            }
        }
    }
}

fn verdict(metric: &Metric, change: &Change, a: Option<Estimate>, rule: &Rule) -> Verdict {
    let from = a.map_or(0.0, |a| a.value);
    let large = if metric.is_share() {
        change.difference.abs() >= rule.min_points
    } else {
        change.difference.abs() >= rule.min_effect * from.abs()
    };
    match (large && change.p_adjusted < ALPHA, (change.difference > 0.0) == metric.higher_is_better) {
        (false, _) => Verdict::Same,
        (true, true) => Verdict::Better,
        (true, false) => Verdict::Worse,
    }
}

/// The worst of what decides; unknown where nothing could be judged, or where B owes an answer and what it gave is no worse.
pub(super) fn overall(rows: &[Row], owed: &[String]) -> Verdict {
    let gates = rows.iter().flat_map(|row| &row.findings).filter(|f| f.gate);
    match gates.map(|f| f.verdict).max().unwrap_or(Verdict::Unknown) {
        Verdict::Better | Verdict::Same if !owed.is_empty() => Verdict::Unknown,
        verdict => verdict,
    }
}

/// Where A was judged and B was not, in words: a server that did not survive a load has passed nothing there.
pub(super) fn owed(a: &Side, b: &Side, rows: &[Row]) -> Vec<String> {
    let of = |of_a: &Loaded| {
        let (row, skipped) = (
            rows.iter().find(|row| row.place == of_a.place),
            b.skipped.iter().find(|(place, _)| *place == of_a.place),
        );
        let why = match (row, skipped) {
            (Some(row), _) => row.owes()?.to_owned(),
            (None, Some((_, why))) => why.clone(),
            (None, None) if !b.cut_short.is_empty() => b.cut_short.clone(),
            (None, None) => return None,
        };
        Some(format!("A was judged at {} and B was not ({why})", of_a.place.words()))
    };
    a.loads.iter().filter_map(of).collect()
}

impl Row {
    /// Why B owes an answer here; `None` when it does not.
    fn owes(&self) -> Option<&'static str> {
        let mut gates = self.findings.iter().filter(|f| f.gate);
        match self.completed {
            (1.., 0) => Some("it completed nothing"),
            _ if gates.clone().any(|f| f.a.is_some()) && gates.all(|f| f.change.is_none()) => {
                Some("too little was measured")
            }
            _ => None,
        }
    }
}
