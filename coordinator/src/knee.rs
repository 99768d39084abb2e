//! Knee and cliff of a sweep, judged by the rule of its plan. Pure: rungs in, a finding with its numbers out.
//!
//! The **knee** is the last level before adding load stops paying: the throughput gain to the next level is below a
//! stated share of the gain in concurrency, or in open loop in the offered rate. The **cliff** is the first level whose
//! tail exceeds a stated multiple of the lowest level's. "None found up to N" is an answer. Levels that are void, where
//! nothing completed, or where the client was the limit are skipped by name: what it could not drive says nothing of the
//! server.

use crate::axis::Load;
use crate::plan::CliffRule;
use crate::search::estimate::Estimate;

/// Levels left out, and why.
pub type Skipped = Vec<(Load, String)>;

/// A level as the judgement sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rung {
    /// What it asked for.
    pub load: Load,
    /// Requests per second that arrived in open loop: the law's luck, which throughput shares, is thus no gain nor loss.
    pub offered: Option<f64>,
    /// Completed requests per second; `None` when it has none.
    pub throughput: Option<f64>,
    /// The judged percentile, ns; `None` when nothing was recorded.
    pub judged_ns: Option<u64>,
    /// Why it is left out, if so.
    pub skip: Option<String>,
}

impl Rung {
    fn x(&self) -> f64 {
        self.offered.filter(|x| *x > 0.0 && self.load.is_open()).unwrap_or_else(|| self.load.x())
    }
}

/// One step of the sweep: what more load bought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Lower level.
    pub from: Load,
    /// Higher level.
    pub to: Load,
    /// Throughput of both, requests/s.
    pub throughput: (f64, f64),
    /// (X₂/X₁ − 1) / (C₂/C₁ − 1), C being concurrency or offered rate: 1 is linear growth, 0 none, below 0 a loss.
    pub gain_share: f64,
}

/// Where throughput stops growing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Knee {
    /// The level of the knee; `None` when none was found.
    pub at: Option<Load>,
    /// Highest level looked at; `None` when there was none.
    pub searched_to: Option<Load>,
    /// Every step looked at.
    pub steps: Vec<Step>,
    /// Levels left out, and why.
    pub skipped: Skipped,
    /// Where the curve through all levels has it, with its interval; `None` with too few levels, or no knee among them.
    pub estimate: Option<Estimate>,
    /// The finding in words.
    pub words: String,
}

/// One level's tail against the baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    /// The level.
    pub load: Load,
    /// Its judged percentile, ns.
    pub judged_ns: u64,
    /// That over the baseline's.
    pub multiple: f64,
}

/// Where the tail leaves its baseline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cliff {
    /// The level of the cliff; `None` when none was found.
    pub at: Option<Load>,
    /// Highest level looked at; `None` when there was none.
    pub searched_to: Option<Load>,
    /// What is judged, such as `p95 e2e`.
    pub judged: String,
    /// Every level looked at; the first is the baseline.
    pub tails: Vec<Tail>,
    /// Levels left out, and why.
    pub skipped: Skipped,
    /// Where the tail crosses the multiple between two levels, with its interval; `None` when nowhere.
    pub estimate: Option<Estimate>,
    /// The finding in words.
    pub words: String,
}

/// Levels to judge in ascending order of load, and those left out.
fn sort<'a, T>(
    rungs: &'a [Rung],
    value: impl Fn(&Rung) -> Option<T>,
    without: &str,
) -> (Vec<(&'a Rung, T)>, Skipped) {
    let (mut kept, mut skipped) = (Vec::new(), Vec::new());
    for rung in rungs {
        match (&rung.skip, value(rung)) {
            (Some(why), _) => skipped.push((rung.load, why.clone())),
            (None, _) if rung.load.is_at_once() => {
                skipped.push((rung.load, "all at once has no place on the axis".to_owned()));
            }
            (None, None) => skipped.push((rung.load, without.to_owned())),
            (None, Some(value)) => kept.push((rung, value)),
        }
    }
    kept.sort_by(|(a, _), (b, _)| a.load.x().total_cmp(&b.load.x()));
    (kept, skipped)
}

/// Finds the knee.
pub fn knee(rule: &CliffRule, rungs: &[Rung]) -> Knee {
    let (kept, skipped) = sort(rungs, |r| r.throughput, "no throughput");
    let steps: Vec<Step> = kept.windows(2).filter_map(|pair| step(&pair[0], &pair[1])).collect();
    let found = steps.iter().find(|s| s.gain_share < rule.gain_share);
    let searched_to = kept.last().map(|(rung, _)| rung.load);
    let axis = searched_to.unwrap_or_default().axis();
    let mut words = match (found, searched_to) {
        (Some(s), _) => format!(
            "knee at {}: going to {} took throughput from {:.2} to {:.2} req/s, {:.0} % of the gain in \
             {axis} (threshold {:.0} %)",
            s.from.words(),
            s.to,
            s.throughput.0,
            s.throughput.1,
            s.gain_share * 100.0,
            rule.gain_share * 100.0
        ),
        (None, Some(n)) if steps.is_empty() => format!("no knee to find: only one usable level ({n})"),
        (None, Some(n)) => format!(
            "no knee found up to {n}: each step gained at least {:.0} % of its gain in {axis}",
            rule.gain_share * 100.0
        ),
        (None, None) => "no knee to find: no usable level".to_owned(),
    };
    words.push_str(&caveats(&skipped));
    Knee { at: found.map(|s| s.from), searched_to, steps, skipped, estimate: None, words }
}

fn step((from, low): &(&Rung, f64), (to, high): &(&Rung, f64)) -> Option<Step> {
    let more = to.x() / from.x() - 1.0;
    let gain_share = (high / low - 1.0) / more;
    let step = Step { from: from.load, to: to.load, throughput: (*low, *high), gain_share };
    (more > 0.0 && gain_share.is_finite()).then_some(step)
}

/// Finds the cliff.
pub fn cliff(rule: &CliffRule, rungs: &[Rung]) -> Cliff {
    let judged = format!("p{} {}", rule.percentile, rule.metric);
    let (kept, skipped) = sort(rungs, |r| r.judged_ns.filter(|ns| *ns > 0), "nothing recorded to judge");
    let baseline = kept.first().map(|(_, ns)| *ns as f64);
    let tail = |&(rung, judged_ns): &(&Rung, u64)| {
        Some(Tail { load: rung.load, judged_ns, multiple: judged_ns as f64 / baseline? })
    };
    let tails: Vec<Tail> = kept.iter().filter_map(tail).collect();
    let found = tails.iter().find(|t| t.multiple > rule.multiple);
    let searched_to = kept.last().map(|(rung, _)| rung.load);
    let mut words = match (found, tails.first(), searched_to) {
        (Some(t), Some(b), _) => format!(
            "{judged} cliff at {}: {} against {} at {}, {:.1} × (threshold {} ×)",
            t.load.words(),
            duration(t.judged_ns),
            duration(b.judged_ns),
            b.load,
            t.multiple,
            rule.multiple
        ),
        (None, Some(b), Some(n)) if tails.len() > 1 => format!(
            "no {judged} cliff found up to {n}: it stays within {} × its {} at {}",
            rule.multiple,
            duration(b.judged_ns),
            b.load
        ),
        (None, Some(b), _) => format!("no {judged} cliff to find: only one usable level ({})", b.load),
        _ => format!("no {judged} cliff to find: no usable level"),
    };
    words.push_str(&caveats(&skipped));
    Cliff { at: found.map(|t| t.load), searched_to, judged, tails, skipped, estimate: None, words }
}

/// What was left out, as it ends a finding.
pub(crate) fn caveats(skipped: &[(Load, String)]) -> String {
    let all: Vec<String> = skipped.iter().map(|(c, why)| format!("{c} ({why})")).collect();
    if all.is_empty() { String::new() } else { format!("; not judged: {}", all.join(", ")) }
}

/// A duration in ns for people: three digits and a unit.
pub fn duration(ns: u64) -> String {
    let ns = ns as f64;
    let (value, unit) = match ns {
        ns if ns < 999.5e3 => (ns / 1e3, "µs"),
        ns if ns < 999.5e6 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::axis::Rate;

    fn rungs(rows: &[(u32, f64, u64)]) -> Vec<Rung> {
        let rung = |&(concurrency, x, ms): &(u32, f64, u64)| Rung {
            load: Load::Streams(concurrency),
            throughput: Some(x),
            judged_ns: Some(ms * 1_000_000),
            ..Rung::default()
        };
        rows.iter().map(rung).collect()
    }

    fn both(rows: &[Rung]) -> (Option<u32>, Option<u32>) {
        let rule = CliffRule::default();
        let streams = |at: Option<Load>| at.and_then(|load| load.concurrency());
        (streams(knee(&rule, rows).at), streams(cliff(&rule, rows).at))
    }

    #[test]
    fn a_server_with_four_slots_bends_at_four() {
        let rows = rungs(&[(1, 1.0, 100), (2, 2.0, 100), (4, 3.9, 110), (8, 4.0, 220), (16, 4.0, 440)]);
        assert_eq!(both(&rows), (Some(4), Some(16)));
        let knee = knee(&CliffRule::default(), &rows);
        assert_eq!(knee.steps.len(), 4);
        assert!((knee.steps[2].gain_share - (4.0 / 3.9 - 1.0)).abs() < 1e-12);
        assert!(knee.words.contains("knee at concurrency 4") && knee.words.contains("threshold 50 %"));
    }

    #[test]
    fn none_found_is_an_answer() {
        let rows = rungs(&[(1, 1.0, 100), (2, 2.0, 120), (4, 3.6, 250)]);
        assert_eq!(both(&rows), (None, None));
        assert!(knee(&CliffRule::default(), &rows).words.starts_with("no knee found up to 4"));
        assert!(cliff(&CliffRule::default(), &rows).words.starts_with("no p95 e2e cliff found up to 4"));
    }

    #[test]
    fn throughput_that_falls_and_recovers_bends_where_it_first_falls() {
        let rows = rungs(&[(1, 1.0, 100), (2, 1.9, 100), (4, 1.5, 400), (8, 6.0, 200)]);
        assert_eq!(both(&rows), (Some(2), Some(4)));
        assert!(knee(&CliffRule::default(), &rows).steps[1].gain_share < 0.0);
    }

    #[test]
    fn one_level_or_none_has_nothing_to_find() {
        assert_eq!(both(&rungs(&[(8, 3.0, 100)])), (None, None));
        assert_eq!(both(&[]), (None, None));
        assert!(
            knee(&CliffRule::default(), &rungs(&[(8, 3.0, 100)])).words.contains("only one usable level (8)")
        );
        assert!(cliff(&CliffRule::default(), &[]).words.contains("no usable level"));
    }

    #[test]
    fn levels_that_do_not_count_are_skipped_by_name() {
        let mut rows = rungs(&[(1, 1.0, 1), (2, 2.0, 100), (4, 2.1, 310)]);
        rows[0].skip = Some("void".to_owned());
        assert_eq!(both(&rows), (Some(2), Some(4)), "the baseline is the lowest level that counts");
        let found = cliff(&CliffRule::default(), &rows);
        assert_eq!(found.skipped, [(Load::Streams(1), "void".to_owned())]);
        assert!(found.words.contains("not judged: 1 (void)"), "{}", found.words);
    }

    #[test]
    fn exactly_at_a_threshold_is_neither() {
        assert_eq!(both(&rungs(&[(1, 1.0, 100), (2, 1.5, 300)])), (None, None));
        assert_eq!(both(&rungs(&[(1, 1.0, 100), (2, 1.49, 301)])), (Some(1), Some(2)));
    }

    fn arrivals(rows: &[(f64, f64, f64, u64)]) -> Vec<Rung> {
        let rung = |&(rate, offered, x, ms): &(f64, f64, f64, u64)| Rung {
            load: Load::Rate(Rate(rate)),
            offered: Some(offered),
            throughput: Some(x),
            judged_ns: Some(ms * 1_000_000),
            ..Rung::default()
        };
        rows.iter().map(rung).collect()
    }

    /// A server of 5 requests a second: it keeps up with 2 and 4, and not with 8.
    #[test]
    fn an_open_loop_bends_where_the_server_no_longer_keeps_up() {
        let rows = arrivals(&[(2.0, 2.0, 2.0, 100), (4.0, 4.0, 4.0, 120), (8.0, 8.0, 5.0, 4_000)]);
        let rule = CliffRule::default();
        let (knee, cliff) = (knee(&rule, &rows), cliff(&rule, &rows));
        assert_eq!(knee.at, Some(Load::Rate(Rate(4.0))));
        assert!(knee.words.starts_with("knee at 4 req/s: going to 8 took"), "{}", knee.words);
        assert!(knee.words.contains("gain in offered rate"), "{}", knee.words);
        assert_eq!(cliff.at, Some(Load::Rate(Rate(8.0))));
        assert!(cliff.words.starts_with("p95 e2e cliff at 8 req/s"), "{}", cliff.words);
    }

    /// Fewer arrivals than the rate promised are no fault of the server's, which answered all of them.
    #[test]
    fn the_luck_of_the_arrivals_is_no_knee() {
        let rule = CliffRule::default();
        let unlucky = arrivals(&[(2.0, 2.6, 2.6, 100), (4.0, 3.2, 3.2, 100)]);
        assert_eq!(knee(&rule, &unlucky).at, None);
        let judged_by_the_asked: Vec<_> =
            unlucky.into_iter().map(|rung| Rung { offered: None, ..rung }).collect();
        assert_eq!(knee(&rule, &judged_by_the_asked).at, Some(Load::Rate(Rate(2.0))));
    }

    #[test]
    fn all_at_once_is_left_out_by_name() {
        let rows = arrivals(&[(2.0, 2.0, 2.0, 100), (f64::INFINITY, 50.0, 5.0, 9_000)]);
        let found = cliff(&CliffRule::default(), &rows);
        assert_eq!((found.at, found.skipped.len()), (None, 1));
        assert!(found.words.contains("not judged: inf (all at once"), "{}", found.words);
    }

    #[test]
    fn durations_keep_three_digits() {
        let seen =
            [500, 12_345, 999_499, 999_600, 1_234_567, 98_760_000, 999_600_000, 12_300_000_000].map(duration);
        assert_eq!(
            seen,
            ["0.50 µs", "12.3 µs", "999 µs", "1.00 ms", "1.23 ms", "98.8 ms", "1.00 s", "12.3 s"]
        );
    }
}
