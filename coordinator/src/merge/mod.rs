//! From what a run left behind to what it says: pure, so that the same journal gives the same figures anywhere.
//!
//! Histograms are added, percentiles never averaged. Latency belongs to the phase of a request's intended send;
//! throughput to the window of its end. Counts come from records; what agents say they released beyond those is
//! `unreported`.

mod answers;
pub mod bins;
mod dataset;
pub mod interval;
pub mod nodes;
mod open;
pub(crate) mod record;
pub mod searched;
pub mod starts;
pub(crate) mod tally;
pub mod timeline;
pub mod window;

#[cfg(test)]
pub(crate) mod testrun;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_clock;
#[cfg(test)]
mod tests_controls;
#[cfg(test)]
mod tests_open;
#[cfg(test)]
mod tests_search;

use std::collections::{BTreeMap, BTreeSet};

use tailcliff_proto::v1;

use crate::certificate::{Verdict, certify};
use crate::clock::{BOUND_MAX_NS, Checked};
use crate::diagnose::{self, Diagnosed, Diagnosis};
use crate::experiment::{self, Experiment, single};
use crate::inside;
use crate::knee::{self, Cliff, Knee, Rung, duration};
use crate::levels::{ClockBound, Counts, Level};
use crate::little;
use crate::plan::Plan;
use crate::slo;
use crate::stall::{self, Stalls};
use crate::stored::{LevelLog, RunData, RunEnd, RunHeader};
use crate::trace::Trace;
use crate::untold::untold;

use bins::Bin;
use nodes::NodeSummary;
use searched::Searched;
use tally::Tally;
use timeline::{Alignment, Timeline};

/// A run, merged.
#[derive(Debug)]
pub struct Merged {
    /// What was asked.
    pub header: RunHeader,
    /// How it ended; `None` when the coordinator died.
    pub end: Option<RunEnd>,
    /// Bytes at the journal's end that were not a whole frame.
    pub torn_bytes: u64,
    /// Times that another coordinator took the run over.
    pub resumes: u32,
    /// Of these, with another clock.
    pub other_clocks: u32,
    /// Levels in the order driven; those of a search by their load.
    pub levels: Vec<Level>,
    /// What its experiment came to, where it is no sweep.
    pub experiment: Experiment,
    /// Where throughput stops growing with load.
    pub knee: Knee,
    /// Where the tail leaves its baseline.
    pub cliff: Cliff,
    /// Of a run whose levels were searched for: what that took.
    pub search: Option<Searched>,
    /// Why the knee is there.
    pub diagnosed: Diagnosed,
    /// Why the cliff is there, where that is elsewhere.
    pub cliff_diagnosed: Option<Diagnosis>,
    /// The highest load that keeps the plan's SLO; `None` without one.
    pub slo: Option<slo::Capacity>,
    /// Agents, then probes, in the order of joining.
    pub nodes: Vec<NodeSummary>,
    /// How well GPU samples and tokens lie on one another.
    pub gpu_to_token: Option<Alignment>,
    /// Does the timeline keep effects after causes?
    pub causality: Checked,
    /// Bins over time that the outputs show, judged by the clocks.
    pub bins: Vec<Bin>,
    /// Records and windows of levels that the journal does not know.
    pub stray: u64,
    /// What a reader must know, in words.
    pub warnings: Vec<String>,
    /// Metadata keys of circumstances that nobody told.
    pub untold: Vec<&'static str>,
    /// Agents' names and hosts' own ceilings, as `tailcliff calibrate` found them.
    pub calibrations: Vec<(String, v1::HostFacts)>,
    /// Where streams paused, and why.
    pub stalls: Stalls,
    /// What servers told of themselves.
    pub inside: inside::Summary,
    /// And of each request.
    pub(crate) index: inside::Index,
    /// Every node's clock track.
    pub timeline: Timeline,
}

/// Merges a run.
pub fn merge(data: &RunData) -> Merged {
    merge_by(data, stall::Rule::default())
}

/// The same, with another rule of what counts as a stall.
pub fn merge_by(data: &RunData, rule_of_stalls: stall::Rule) -> Merged {
    let timeline = Timeline::of(data);
    let beats = nodes::probe_beats(data, &timeline);
    let index = inside::Index::of(data);
    let logs: BTreeMap<u32, &LevelLog> = data.levels.iter().map(|log| (log.drive.level, log)).collect();
    let mut stray = tally::agents(data).into_iter().map(|(_, node)| node.record_count()).sum::<u64>();
    let level = |log: &LevelLog| {
        let mut tally = tally::tally(data, log.drive.level, &timeline, &index);
        let known: u64 = tally.by_agent.values().map(Counts::released).sum();
        let gathered = std::mem::take(&mut tally.inside);
        let told = gathered.matched;
        let mut level = merge_level(data, log, tally, &timeline, &beats);
        level.inside = gathered.figures(&index);
        (level, known, told)
    };
    let merged = by_two(&logs.into_values().collect::<Vec<_>>(), &level);
    stray = merged.iter().fold(stray, |stray, (_, known, _)| stray.saturating_sub(*known));
    let told = merged.iter().map(|(_, _, told)| *told).sum();
    let mut levels: Vec<Level> = merged.into_iter().map(|(level, ..)| level).collect();
    if data.header.plan.auto.is_some() {
        // They were driven in whatever order the search wanted.
        levels.sort_by(|a, b| a.load.x().total_cmp(&b.load.x()));
    }
    let servers = inside::metrics::of_levels(data, &timeline, &levels);
    levels.iter_mut().zip(servers).for_each(|(level, server)| level.server = server);
    // An earlier try of a rung says nothing that the last one does not.
    let rungs: Vec<Rung> = last_tries(&levels).map(|level| rung(data, level)).collect();
    let rule = &data.header.plan.cliff;
    let (mut knee, mut cliff) = (knee::knee(rule, &rungs), knee::cliff(rule, &rungs));
    let search = searched::estimate(data, &mut levels, &mut knee, &mut cliff);
    let (knee, cliff) = experiment::without_knee(&data.header.plan, (knee, cliff));
    let kinds = [v1::NodeKind::Agent, v1::NodeKind::GpuProbe];
    let all = kinds.into_iter().flat_map(|kind| tally::of_kind(data, kind));
    let mut merged = Merged {
        header: data.header.clone(),
        end: data.end.clone(),
        torn_bytes: data.torn_bytes,
        resumes: data.resumes,
        other_clocks: data.other_clocks,
        experiment: Experiment::of(&data.header.plan, last_tries(&levels)),
        knee,
        cliff,
        search,
        slo: slo::capacity(data, &timeline, &levels),
        diagnosed: Diagnosed::default(),
        cliff_diagnosed: None,
        nodes: all.map(|(of, node)| nodes::summarise(of, node, &timeline)).collect(),
        gpu_to_token: timeline.gpu_to_token(data),
        causality: timeline.causality(data),
        bins: Vec::new(),
        stalls: stall::stalls(data, &timeline, &levels, rule_of_stalls, &|of, record| {
            inside::told(&index, &timeline, of, record)
        }),
        levels,
        stray,
        warnings: Vec::new(),
        calibrations: calibrations(data),
        untold: untold(data).into_iter().map(|(key, _)| key).collect(),
        inside: inside::summary(data, &timeline, &index, told),
        index,
        timeline,
    };
    diagnose::diagnose(data, &mut merged);
    merged.bins = bins::bins(&merged.levels, &merged.nodes, merged.gpu_to_token);
    merged.warnings = warnings(&merged);
    merged.warnings.extend(merged.stalls.warnings.iter().cloned());
    merged.warnings.extend(merged.inside.warnings.iter().cloned());
    merged.warnings.extend(dataset::warnings(data));
    merged
}

/// Every second level on another thread: what takes the time is reading their batches again. No more than two, so that no more
/// than two are in memory.
fn by_two<T: Send>(logs: &[&LevelLog], each: &(impl Fn(&LevelLog) -> T + Sync)) -> Vec<T> {
    let part = |first: usize| logs.iter().skip(first).step_by(2).map(|log| each(log)).collect::<Vec<T>>();
    let (even, odd) = std::thread::scope(|scope| {
        let odd = scope.spawn(|| part(1));
        (part(0), odd.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (mut even, mut odd) = (even.into_iter(), odd.into_iter());
    std::iter::from_fn(|| {
        let next = even.next();
        std::mem::swap(&mut even, &mut odd);
        next
    })
    .collect()
}

fn calibrations(data: &RunData) -> Vec<(String, v1::HostFacts)> {
    let of =
        |node: &crate::stored::Node| (node.hello.name.clone(), node.hello.host.clone().unwrap_or_default());
    tally::agents(data).into_iter().map(|(_, node)| of(node)).collect()
}

fn merge_level(
    data: &RunData,
    log: &LevelLog,
    mut tally: Tally,
    timeline: &Timeline,
    beats: &[(i64, i64)],
) -> Level {
    let (measured, all_phases) = counts(log, &tally);
    let dry =
        log.done.iter().filter_map(|(&of, done)| timeline.place(of, done.dry_raw_ns?)).map(|d| d.ns).min();
    let is_left = |of| !log.done.contains_key(of) && log.marks.is_empty();
    let cut_short = log.voided.is_some() || log.shares.keys().any(is_left);
    let lengths = log.lengths(&data.header.plan);
    let window = window::choose(lengths, log.load, log.start_ref_ns, dry, cut_short, &tally.points);
    let agents: Vec<_> = log.shares.keys().copied().collect();
    let mut outside = tally.outside;
    for (_, metric) in tally.latencies.named() {
        outside.out_of_range = outside.out_of_range.saturating_add(metric.histogram.out_of_range());
    }
    let told = |part: fn(&v1::LevelDone) -> u64| log.done.values().map(part).fold(0u64, u64::saturating_add);
    outside.dropped_records = told(|done| done.dropped_records);
    outside.dropped_windows = told(|done| done.dropped_windows);
    outside.dropped_in_flight = told(|done| done.dropped_in_flight);
    outside.dropped_loop_lags = told(|done| done.dropped_loop_lags);
    // The records' own marks and the agents' sums count the same traces; a dropped record takes its mark with it.
    outside.dropped_traces = outside.dropped_traces.max(told(|done| done.dropped_token_traces));
    tally.bounds_ns.sort_unstable();
    let worst = tally.bounds_ns.last().copied();
    let median = nodes::median(std::mem::take(&mut tally.bounds_ns));
    let name = |of| data.nodes.get(&of).map_or_else(|| format!("{of:x}"), |node| node.hello.name.clone());
    // A gauge that fell silent in mid-window says nothing of the rest.
    let gauged = window.filter(|_| log.marks.is_empty());
    let mut level = Level {
        drive: log.drive,
        starts: starts::starts(log, timeline, &name),
        load: log.load,
        cell: data.header.plan.cell(log.drive.rung).cloned(),
        singles: match data.header.plan.experiment.is_empty() {
            true => Vec::new(),
            false => single::singles(data, log.drive.level, timeline),
        },
        rates: window.and_then(|w| open::rates(&data.header.plan, log, w, &tally.points)),
        held: open::held(log),
        retried: tally.retried,
        control_requests: tally.controls,
        start_ref_ns: log.start_ref_ns,
        ended_ref_ns: tally.points.iter().map(|point| point.done_ns).max(),
        measured,
        all_phases,
        throughput: window.map(|w| window::throughput(w, log.load, &tally.points)),
        blocks: window.map_or_else(Vec::new, |w| tally.lives.blocks(w, log.load, &tally.points)),
        little: gauged.and_then(|w| little::check(w, &agents, &tally.gauges, &tally.points)),
        in_flight: gauged.and_then(|w| little::in_flight(w, &agents, &tally.gauges)),
        connecting: window.map(|w| tally.connecting(w)),
        answers_at_once: window.and_then(|w| answers::at_once(w, &tally.points)),
        quickest_connect_ns: tally.quickest_connect_ns,
        host_limits: tally.host_limits,
        latencies: tally.latencies,
        kept: tally.slo.is_some().then_some(tally.kept),
        input_tokens: tally.input_tokens,
        output_tokens: tally.output_tokens,
        error_kinds: tally.error_kinds,
        sample_error: tally.sample_error,
        clock: median.zip(worst).map(|(median_ns, worst_ns)| ClockBound { median_ns, worst_ns }),
        outside,
        trace: trace(data, log),
        voided: log.voided.clone(),
        marks: log.marks.clone(),
        ..Level::default()
    };
    level.certificate = certify(&level, log, window.and_then(|w| nodes::resolution(beats, w)), &name);
    let (windows, records) =
        (tally.windows_completed, tally.measured.completed.saturating_sub(tally.controls_completed));
    if windows != records {
        let text = format!("percentiles speak of {windows} completed requests, the records of {records}");
        level.certificate.notes.push(text);
    }
    level
}

/// Of each rung of the plan, the level that was driven last. A search drives a load again as a rung of its own, so its
/// repeats are all there: for those who pool them.
pub fn repeats(levels: &[Level]) -> impl Iterator<Item = &Level> {
    let is_last = |level: &&Level| {
        let later =
            |other: &Level| other.drive.rung == level.drive.rung && other.drive.level > level.drive.level;
        !levels.iter().any(later)
    };
    levels.iter().filter(is_last)
}

/// The same, and of rungs at one load, which a search drives again where it wants to know more, the one that says most.
pub fn last_tries(levels: &[Level]) -> impl Iterator<Item = &Level> {
    let is_most = |level: &&Level| {
        let counts =
            |level: &Level| !matches!(level.certificate.verdict, Verdict::Void | Verdict::ClientBound);
        let weight = |level: &Level| (counts(level), level.measured.completed, level.drive.level);
        let is_alike = |other: &&Level| other.load == level.load && other.cell.is_none();
        level.cell.is_some() || !repeats(levels).filter(is_alike).any(|other| weight(other) > weight(level))
    };
    repeats(levels).filter(is_most)
}

/// What agents told in trace mode, in the order of joining; `None` when it was off.
fn trace(data: &RunData, log: &LevelLog) -> Option<Trace> {
    let mut trace = Trace::default();
    for (of, node) in tally::agents(data) {
        log.traces.get(&of).into_iter().for_each(|told| trace.add(&node.hello.name, told));
    }
    (trace.agents > 0).then_some(trace)
}

/// Records tell what became of requests; agents tell how many they released, in the end or at some moment. What was
/// released by then and has no record is unreported; what a dead agent released after its last word, nobody knows.
fn counts(log: &LevelLog, tally: &Tally) -> (Counts, Counts) {
    let mut all = Counts::default();
    let agents: BTreeSet<_> = log.shares.keys().chain(tally.by_agent.keys()).collect();
    for of in agents {
        let told = tally.by_agent.get(of).copied().unwrap_or_default();
        let in_the_end = log.done.get(of).and_then(|d| d.counts).map(|c| (c.released, told.released()));
        let at_last_word = || {
            let progress = log.progress.get(of)?;
            let issued = tally.issued_raw_ns.get(of).map_or(&[][..], Vec::as_slice);
            let by_then = issued.iter().filter(|&&at| at <= progress.raw_ns).count() as u64;
            Some((progress.counts?.released, by_then))
        };
        let (claimed, recorded) = in_the_end.or_else(at_last_word).unwrap_or_default();
        all.completed += told.completed;
        all.failed += told.failed;
        all.incomplete += told.incomplete;
        // A counter that a broken agent sent must not drown the sum.
        all.unreported = all.unreported.saturating_add(claimed.saturating_sub(recorded).min(u64::MAX >> 16));
    }
    (Counts { unreported: all.unreported, ..tally.measured }, all)
}

fn rung(data: &RunData, level: &Level) -> Rung {
    let rule = &data.header.plan.cliff;
    let skip = match level.certificate.verdict {
        Verdict::Void => Some("void".to_owned()),
        // Whoever was the limit: of nothing there is nothing to judge.
        _ if level.measured.completed == 0 => Some("no completed request".to_owned()),
        Verdict::ClientBound => Some("client-bound: the client was the limit, not the server".to_owned()),
        _ => None,
    };
    Rung {
        load: level.load,
        offered: level.rates.map(|rates| rates.offered),
        throughput: level.throughput.map(|t| t.requests.per_s).filter(|x| *x > 0.0),
        judged_ns: level.latencies.judged(&rule.metric).percentile_ns(rule.percentile),
        skip,
    }
}

fn warnings(merged: &Merged) -> Vec<String> {
    let mut all = Vec::new();
    let mut warn = |text: String| all.push(text);
    match &merged.end {
        None => {
            warn("the journal was not closed: the coordinator died during the run, or still runs".to_owned())
        }
        Some(end) if !end.cut_short.is_empty() => warn(format!("the run was cut short: {}", end.cut_short)),
        Some(_) => {}
    }
    if merged.resumes > 0 {
        warn(format!("the run was taken over by another coordinator {} times", merged.resumes));
    }
    if merged.other_clocks > 0 {
        let text = "it went on under another clock: what lies before and after is related by the hosts' wall clocks only";
        warn(text.to_owned());
    }
    if merged.torn_bytes > 0 {
        warn(format!("the journal's last {} bytes could not be read", merged.torn_bytes));
    }
    if merged.stray > 0 {
        warn(format!("{} records belong to no known level", merged.stray));
    }
    for (channel, c) in merged.causality.by_channel().filter(|(_, c)| c.violations > 0) {
        let (n, pairs, us) = (c.violations, c.pairs, c.worst_ns as f64 / 1e3);
        let channel = channel.as_str();
        warn(format!(
            "clock suspect: {n} of {pairs} messages arrived before they were sent, by more than the clocks' bounds \
             ({channel}, worst {us:.1} µs)"
        ));
    }
    controls(&merged.header.plan, &merged.levels).into_iter().for_each(&mut warn);
    merged.bins.iter().filter_map(Bin::warning).for_each(&mut warn);
    for node in &merged.nodes {
        node_warnings(node, merged.header.started_ref_ns, &mut warn);
    }
    all
}

/// What the client did to itself, as it was told to.
fn controls(plan: &Plan, levels: &[Level]) -> Vec<String> {
    let Some(control) = &plan.control else { return Vec::new() };
    let long = |ns: i64| duration(ns.max(0).unsigned_abs());
    let paused: u64 = levels.iter().map(|level| level.control_requests).sum();
    let pause = control.pause_ns.map(|ns| {
        format!(
            "controls: one request in {} is paused on purpose, for {} after its send: {paused} of the measured requests, which \
             are in the counts and the throughput, and in no latency figure",
            control.every,
            long(ns)
        )
    });
    let block = control.block_ns.map(|ns| {
        format!(
            "controls: one event loop of each agent stands still on purpose, for {} in the middle of each level: the latencies \
             of what it drove then are the client's",
            long(ns)
        )
    });
    pause.into_iter().chain(block).collect()
}

fn node_warnings(node: &NodeSummary, started_ref_ns: i64, warn: &mut dyn FnMut(String)) {
    let who = format!("{} {}", node.kind, node.name);
    if node.lost {
        warn(format!("{who} was lost during the run"));
    }
    if node.median_bound_ns.is_none() {
        warn(format!("{who} has no clock track: its stamps are unaligned and left out of the traces"));
    }
    if let Some(bound) = node.median_bound_ns.filter(|bound| *bound > BOUND_MAX_NS) {
        let [bound, trip] =
            [bound, node.rtt_min_ns.unwrap_or(0)].map(|ns| duration(ns.max(0).unsigned_abs()));
        warn(format!(
            "{who}: its clock is known to ±{bound} only (shortest round trip {trip}): latencies, each taken by one clock, \
             hold; what different nodes did within that time cannot be put in order"
        ));
    }
    if let Some(&(from, to)) = node.breaks.first() {
        let at = |ns: i64| ns.saturating_sub(started_ref_ns) as f64 / 1e9;
        let bound = duration(node.worst_bound_ns.unwrap_or(0).max(0).unsigned_abs());
        warn(format!(
            "{who}: its clock broke {} times (a step, a suspended machine), first between {:.1} and {:.1} s of the run; what it \
             stamped there is placed to ±{bound} at worst",
            node.breaks.len(),
            at(from),
            at(to)
        ));
    }
    if node.unaligned_gpu_samples > 0 {
        warn(format!("{who}: {} GPU samples are unaligned and left out", node.unaligned_gpu_samples));
    }
    if let Some(lost) = &node.lost_in_spool {
        warn(format!(
            "{who} could not read all of its spool: {} records, {} windows, {} in-flight and {} GPU samples and {} \
             other readings of GPUs and host are lost",
            lost.records, lost.windows, lost.in_flight, lost.gpu_samples, lost.evidence
        ));
    }
    if node.simulated_gpu {
        warn(format!("{who}: its GPU is simulated"));
    }
    if !node.gpu_absent_reason.is_empty() {
        warn(format!("{who} found no GPU: {}", node.gpu_absent_reason));
    }
}
