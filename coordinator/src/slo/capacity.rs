//! The highest load that keeps an SLO: the last level that meets it before the first that does not. Nothing is interpolated:
//! the answer is a load that was driven, and the limit lies between it and the next.

use crate::axis::Load;
use crate::blocks::Block;
use crate::certificate::Verdict;
use crate::levels::Level;
use crate::merge::repeats;
use crate::merge::timeline::Timeline;
use crate::plan::SloPlan;
use crate::stored::RunData;

use super::{Kept, Power, power, report};

/// One load of the sweep, repeats together.
#[derive(Clone, Debug, PartialEq)]
struct Step {
    load: Load,
    share: f64,
    interval: (f64, f64),
    requests: f64,
    goodput: f64,
    output_tokens: f64,
    windows: Vec<crate::merge::window::Window>,
}

/// What the capacity costs. `None` where price or power is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Economy {
    /// $ an hour, all GPUs together.
    pub usd_per_hour: Option<f64>,
    /// Mean of all GPUs at that load.
    pub power: Option<Power>,
}

/// The finding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capacity {
    /// What was asked for.
    pub slo: SloPlan,
    /// The highest load that keeps it; `None` when the lowest does not, or nothing can be judged.
    pub at: Option<Load>,
    /// Share of good requests there, and its 95 % interval.
    pub share: Option<(f64, (f64, f64))>,
    /// The whole interval there lies at the share asked for or above it.
    pub sure: bool,
    /// Completed requests per second there.
    pub request_rate: Option<f64>,
    /// Good requests per second there.
    pub goodput: Option<f64>,
    /// Output tokens per second there.
    pub output_tokens: Option<f64>,
    /// The first load that does not keep it, and its share; `None` when all do.
    pub fails_at: Option<(Load, f64)>,
    /// 95 %: it is surely kept up to the first, and surely not from the second on; `None` where no level says so.
    pub between: (Option<Load>, Option<Load>),
    /// What it costs there.
    pub economy: Economy,
    /// Levels left out, and why.
    pub skipped: Vec<(Load, String)>,
    /// The finding in words.
    pub words: String,
}

/// Finds it; `None` without an SLO.
pub fn capacity(data: &RunData, timeline: &Timeline, levels: &[Level]) -> Option<Capacity> {
    let slo = data.header.plan.slo.clone()?;
    // The rungs of an experiment differ in more than load: there is no highest one.
    if !data.header.plan.cells.is_empty() {
        return None;
    }
    let (steps, skipped) = steps(levels);
    let mut found = judge(slo, &steps, skipped);
    let best = steps.iter().find(|step| Some(step.load) == found.at);
    found.economy.power = best.and_then(|step| mean_power(data, timeline, step));
    found.economy.usd_per_hour = found.slo.usd_per_hour;
    found.words = report::words(&found);
    Some(found)
}

fn mean_power(data: &RunData, timeline: &Timeline, step: &Step) -> Option<Power> {
    let all: Option<Vec<Power>> = step.windows.iter().map(|w| power::mean(data, timeline, *w)).collect();
    let all = all?;
    let first = *all.first()?;
    Some(Power { watts: all.iter().map(|p| p.watts).sum::<f64>() / all.len() as f64, ..first })
}

fn judge(slo: SloPlan, steps: &[Step], skipped: Vec<(Load, String)>) -> Capacity {
    let fails = steps.iter().position(|step| step.share < slo.share);
    let best = fails.unwrap_or(steps.len()).checked_sub(1).and_then(|i| steps.get(i));
    let surely_not = steps.iter().position(|step| step.interval.1 < slo.share);
    let surely = steps[..surely_not.unwrap_or(steps.len())].iter().take_while(|s| s.interval.0 >= slo.share);
    Capacity {
        at: best.map(|step| step.load),
        share: best.map(|step| (step.share, step.interval)),
        sure: best.is_some_and(|step| step.interval.0 >= slo.share),
        request_rate: best.map(|step| step.requests),
        goodput: best.map(|step| step.goodput),
        output_tokens: best.map(|step| step.output_tokens),
        fails_at: fails.map(|i| (steps[i].load, steps[i].share)),
        between: (surely.last().map(|step| step.load), surely_not.map(|i| steps[i].load)),
        skipped,
        slo,
        ..Capacity::default()
    }
}

fn steps(levels: &[Level]) -> (Vec<Step>, Vec<(Load, String)>) {
    let (mut kept, mut skipped): (Vec<&Level>, Vec<_>) = (Vec::new(), Vec::new());
    for level in repeats(levels) {
        let why = match level.certificate.verdict {
            Verdict::Void => Some("void"),
            _ if level.kept.is_none_or(|kept| kept.judged() == 0) => Some("no request to judge"),
            Verdict::ClientBound => Some("client-bound: the client was the limit, not the server"),
            _ if level.load.is_at_once() => Some("all at once has no place on the axis"),
            _ => None,
        };
        match why {
            Some(why) => skipped.push((level.load, why.to_owned())),
            None => kept.push(level),
        }
    }
    kept.sort_by(|a, b| a.load.x().total_cmp(&b.load.x()));
    (kept.chunk_by(|a, b| a.load == b.load).filter_map(step).collect(), skipped)
}

fn step(repeats: &[&Level]) -> Option<Step> {
    let mut kept = Kept::default();
    for one in repeats.iter().filter_map(|level| level.kept) {
        kept = Kept {
            good: kept.good + one.good,
            bad: kept.bad + one.bad,
            censored: kept.censored + one.censored,
        };
    }
    let blocks: Vec<Block> = repeats.iter().flat_map(|level| level.blocks.iter().cloned()).collect();
    let throughputs: Vec<_> = repeats.iter().filter_map(|level| level.throughput).collect();
    let seconds: f64 = throughputs.iter().map(|t| t.window.seconds()).sum();
    let rate = |of: fn(&crate::merge::window::Throughput) -> f64| {
        let done: f64 = throughputs.iter().map(|t| of(t) * t.window.seconds()).sum();
        if seconds > 0.0 { done / seconds } else { 0.0 }
    };
    Some(Step {
        load: repeats.first()?.load,
        share: kept.share()?,
        interval: kept.interval(&blocks)?,
        requests: rate(|t| t.requests.per_s),
        goodput: rate(|t| t.good_requests.per_s),
        output_tokens: rate(|t| t.output_tokens.per_s),
        windows: throughputs.iter().map(|t| t.window).collect(),
    })
}
