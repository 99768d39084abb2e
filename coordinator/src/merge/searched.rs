//! What a search makes of merged levels, while the run goes on and afterwards.

use crate::axis::Load;
use crate::certificate::Verdict;
use crate::inside::Index;
use crate::knee::{Cliff, Knee, caveats};
use crate::levels::Level;
use crate::plan::{AutoPlan, Plan};
use crate::run::rule;
use crate::search::estimate::Estimate;
use crate::search::seen::{Seen, Trouble};
use crate::search::{DRAWS_TOLD, Lengths, Rule, Search};
use crate::stored::{Drive, LevelLog, RunData};

use super::timeline::Timeline;
use super::{last_tries, merge_level, tally};

/// Levels below which a curve of three numbers says nothing.
const LEVELS_MIN: usize = 4;

/// What a search saw of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Searched {
    /// Levels that it drove.
    pub levels: usize,
    /// Time that they took, s.
    pub seconds: f64,
    /// Width of the intervals that was asked for, as a share.
    pub resolution: f64,
}

/// One level of a run that is under way; `None` when the journal does not know it.
pub fn seen_of(data: &RunData, level: u32) -> Option<Seen> {
    let (timeline, log) = (Timeline::of(data), data.levels.iter().rfind(|log| log.drive.level == level)?);
    // What probes say is no matter to a search.
    Some(of_log(data, log, &timeline))
}

/// Every level that the run went on from, in the order driven.
pub fn seen_so_far(data: &RunData) -> Vec<Seen> {
    let timeline = Timeline::of(data);
    data.levels.iter().filter(|log| log.passed).map(|log| of_log(data, log, &timeline)).collect()
}

fn of_log(data: &RunData, log: &LevelLog, timeline: &Timeline) -> Seen {
    let tally = tally::tally(data, log.drive.level, timeline, &Index::default());
    let level = merge_level(data, log, tally, timeline, &[]);
    seen(&data.header.plan, log, &level)
}

fn seen(plan: &Plan, log: &LevelLog, level: &Level) -> Seen {
    let trouble = match level.certificate.verdict {
        Verdict::Void => Some(Trouble::Void("void".to_owned())),
        Verdict::ClientBound => Some(Trouble::ClientBound),
        Verdict::Ok | Verdict::Thin => None,
    };
    let ended_ns = level.ended_ref_ns.map_or(0, |end| end.saturating_sub(level.start_ref_ns));
    let (warmup_ns, duration_ns) = log.lengths(plan);
    let took_ns = ended_ns.max(warmup_ns.saturating_add(duration_ns.unwrap_or(0)));
    Seen::of(level.load, took_ns as f64 / 1e9, &level.blocks, &plan.cliff.metric, trouble)
}

/// Adds intervals to knee and cliff, and where levels were searched for, takes the knee from its estimate: neighbours a few
/// per cent apart differ by luck.
pub(super) fn estimate(
    data: &RunData,
    levels: &mut [Level],
    knee: &mut Knee,
    cliff: &mut Cliff,
) -> Option<Searched> {
    let plan = &data.header.plan;
    let open = levels.first().is_some_and(|level| level.load.is_open());
    let usual = || Rule {
        auto: AutoPlan { open, resolution: 0.1, ..AutoPlan::default() },
        cliff: plan.cliff.clone(),
        lengths: Lengths::default(),
    };
    let rule = rule(plan).unwrap_or_else(usual);
    let resolution = rule.auto.resolution;
    let mut search = Search::new(rule);
    for drive in counted(data, levels) {
        let log = data.levels.iter().find(|log| log.drive == drive);
        let level = levels.iter_mut().find(|level| level.drive == drive && !level.load.is_at_once());
        if let Some((log, level)) = log.zip(level) {
            let seen = seen(plan, log, level);
            if plan.auto.is_some() {
                level.certificate.notes.extend(left_out(&seen));
            }
            search.take(seen);
        }
    }
    if search.seen().len() >= LEVELS_MIN {
        let found = search.found(DRAWS_TOLD);
        (knee.estimate, cliff.estimate) = (found.knee, found.cliff);
        let axis = levels.first().map(|level| level.load).unwrap_or_default();
        if let Some(of) = found.knee.filter(|_| plan.auto.is_none()) {
            let but = if knee.at.is_some() { "; by the curve through" } else { "; but the curve through" };
            knee.words.push_str(&format!("{but} all levels bends at {}", words(of, axis)));
        }
        if let Some(of) = found.cliff {
            cliff.words.push_str(&format!("; the tail crosses its threshold at {}", words(of, axis)));
        }
    }
    plan.auto.as_ref()?;
    place(knee, &search);
    Some(Searched { levels: search.seen().len(), seconds: search.spent_s(), resolution })
}

/// Levels that count, in the order driven: of a search every one that it went on from, of a list the last try of each.
fn counted(data: &RunData, levels: &[Level]) -> Vec<Drive> {
    if data.header.plan.auto.is_some() {
        return data.levels.iter().filter(|log| log.passed).map(|log| log.drive).collect();
    }
    last_tries(levels).map(|level| level.drive).collect()
}

/// What of a level a search makes no use of, beyond what its certificate says already.
fn left_out(seen: &Seen) -> Option<String> {
    match &seen.trouble {
        Some(Trouble::Short) => {
            Some("the search leaves it out: too short for what a request takes".to_owned())
        }
        Some(Trouble::Drifts(share)) => Some(format!(
            "the search leaves it out: throughput changed by {:+.0} % to its end",
            share * 100.0
        )),
        None if seen.cut > 0.0 => Some(format!(
            "the search leaves out the first {:.0} % of its window, which still drifted",
            seen.cut * 100.0
        )),
        _ => None,
    }
}

/// The knee of a search is the highest load driven that does not exceed its estimate, by more than the half of a stream that
/// nobody can tell.
fn place(knee: &mut Knee, search: &Search) {
    let usable = || search.seen().iter().filter(|seen| seen.trouble.is_none()).map(|seen| seen.load);
    let at_most = |most: f64| usable().filter(|load| load.x() <= most).max_by(|a, b| a.x().total_cmp(&b.x()));
    let half = |load: Load| if load.is_open() { 0.0 } else { 0.5 };
    knee.searched_to = at_most(f64::INFINITY);
    knee.at = knee.estimate.zip(knee.searched_to).and_then(|(of, top)| at_most(of.at + half(top)));
    let mut told = match (knee.estimate, knee.searched_to) {
        (Some(of), Some(top)) => format!(
            "knee at {}: from there on throughput grows by less than the threshold's share of the load (curve through {} levels up \
             to {top})",
            words(of, top),
            usable().count()
        ),
        (None, Some(top)) => format!("no knee found up to {top}"),
        _ => "no knee to find: no usable level".to_owned(),
    };
    let is_left_out = |seen: &&Seen| matches!(seen.trouble, Some(Trouble::Short | Trouble::Drifts(_)));
    let left_out = search.seen().iter().filter(is_left_out).count();
    if left_out > 0 {
        told.push_str(&format!(
            "; {left_out} of {} levels are left out: too short, or still changing at their end",
            search.seen().len()
        ));
    }
    told.push_str(&caveats(&knee.skipped));
    knee.words = told;
}

/// An estimate with its interval, as it is said within a sentence.
pub fn words(of: Estimate, load: Load) -> String {
    let number = |x: f64| match x {
        x if x.is_infinite() => "?".to_owned(),
        x if x < 100.0 => format!("{x:.1}"),
        x => format!("{x:.0}"),
    };
    let (low, high) = (number(of.low), number(of.high));
    match load {
        Load::Streams(_) => format!("concurrency {} (95 %: {low} to {high})", number(of.at)),
        Load::Rate(_) => format!("{} req/s (95 %: {low} to {high})", number(of.at)),
    }
}
