//! What is known of each node and its clock, for the outputs.

use std::collections::BTreeMap;

use tailcliff_proto::v1;

use crate::clock::{Exchange, TrackKind};
use crate::stored::{Incarnation, Node, RunData};

use super::timeline::Timeline;
use super::window::Window;

/// One node and the quality of its clock track.
#[derive(Clone, Debug, Default)]
pub struct NodeSummary {
    /// As it named itself.
    pub name: String,
    /// `agent` or `gpu-probe`.
    pub kind: &'static str,
    /// Order of joining among its kind.
    pub index: u32,
    /// Lost for good during the run.
    pub lost: bool,
    /// Batches on disk.
    pub batches: u64,
    /// What its batches held that could not be read back from its spool; `None` when all could.
    pub lost_in_spool: Option<v1::LostParts>,
    /// Clock exchanges answered.
    pub exchanges: u64,
    /// Pings never answered.
    pub lost_pings: u64,
    /// Number of the clock that it reads; nodes with the same number have no error between them.
    pub clock_domain: Option<usize>,
    /// `same-clock`, `fitted` or `unaligned`.
    pub clock: &'static str,
    /// Median error bar, ns.
    pub median_bound_ns: Option<i64>,
    /// Widest error bar, ns.
    pub worst_bound_ns: Option<i64>,
    /// Shortest round trip of its pings, ns: half of it is the least that the bar can be.
    pub rtt_min_ns: Option<i64>,
    /// Difference of two disjoint halves' fits, ns; blind to asymmetry.
    pub repeatability_ns: Option<i64>,
    /// Where its clock stepped or stopped: between two moments of the coordinator's clock, ns.
    pub breaks: Vec<(i64, i64)>,
    /// GPU samples sent.
    pub gpu_samples: u64,
    /// GPU samples that have no place on the timeline: in no trace.
    pub unaligned_gpu_samples: u64,
    /// Median interval between two samples of one GPU, ns.
    pub gpu_interval_ns: Option<i64>,
    /// GPUs seen when it joined.
    pub gpus: Vec<v1::GpuFacts>,
    /// Any of its GPUs is the stand-in of the tests.
    pub simulated_gpu: bool,
    /// What the probe tried when no NVML answered; empty otherwise.
    pub gpu_absent_reason: String,
    /// What its sampling took; `None` of an agent.
    pub probe_cost: Option<v1::ProbeCost>,
    /// (card, what must be known of its power readings).
    pub sensor_notes: Vec<(String, String)>,
}

pub(crate) fn summarise(of: Incarnation, node: &Node, timeline: &Timeline) -> NodeSummary {
    let (mut samples, mut unaligned) = (0, 0);
    for batch in node.each_batch_with_samples() {
        samples += batch.gpu_samples.len() as u64;
        let stamps = batch.gpu_samples.iter().map(|sample| sample.raw_ns);
        unaligned += stamps.filter(|&raw| timeline.place(of, raw).is_none()).count() as u64;
    }
    let track = timeline.track(of);
    NodeSummary {
        name: node.hello.name.clone(),
        kind: kind(node),
        index: node.index,
        lost: node.lost_ref_ns.is_some(),
        batches: node.batch_count(),
        lost_in_spool: node.lost_parts().reduce(add),
        exchanges: node.exchanges.len() as u64,
        lost_pings: node.lost_pings,
        clock_domain: timeline.domain(of),
        clock: clock(track.map_or(TrackKind::Unaligned, |t| t.kind())),
        median_bound_ns: track.and_then(|t| t.median_bound_ns()),
        worst_bound_ns: track.and_then(|t| t.worst_bound_ns()),
        rtt_min_ns: node.exchanges.iter().filter(|e| e.is_possible()).map(Exchange::round_trip).min(),
        repeatability_ns: track.and_then(|t| t.repeatability_ns()),
        breaks: track.map_or_else(Vec::new, |t| t.breaks()),
        gpu_samples: samples,
        unaligned_gpu_samples: unaligned,
        gpu_interval_ns: median(intervals(node).into_iter().map(|(_, gap)| gap).collect()),
        gpus: node.hello.gpus.clone(),
        simulated_gpu: node.hello.gpus.iter().any(|g| g.simulated),
        gpu_absent_reason: node.hello.gpu_absent_reason.clone(),
        probe_cost: probe_cost(node),
        sensor_notes: crate::report::sensors::notes(node),
    }
}

/// All that it told, together.
fn probe_cost(node: &Node) -> Option<v1::ProbeCost> {
    let mut sum: Option<v1::ProbeCost> = None;
    for batch in node.each_batch_with_evidence() {
        for cost in &batch.probe_costs {
            let first = || v1::ProbeCost { from_raw_ns: cost.from_raw_ns, ..Default::default() };
            sum.get_or_insert_with(first).add(cost);
        }
    }
    sum
}

fn add(a: v1::LostParts, b: v1::LostParts) -> v1::LostParts {
    v1::LostParts {
        records: a.records.saturating_add(b.records),
        windows: a.windows.saturating_add(b.windows),
        in_flight: a.in_flight.saturating_add(b.in_flight),
        gpu_samples: a.gpu_samples.saturating_add(b.gpu_samples),
        evidence: a.evidence.saturating_add(b.evidence),
    }
}

fn clock(kind: TrackKind) -> &'static str {
    match kind {
        TrackKind::SameClock => "same-clock",
        TrackKind::Fitted => "fitted",
        TrackKind::Unaligned => "unaligned",
    }
}

fn kind(node: &Node) -> &'static str {
    match v1::NodeKind::try_from(node.hello.node_kind) {
        Ok(v1::NodeKind::Agent) => "agent",
        Ok(v1::NodeKind::GpuProbe) => "gpu-probe",
        _ => "unknown",
    }
}

/// (raw stamp, ns since the sample before it of the same GPU) in the order sampled, of those that were read at the probe's
/// interval: what is slow to read stands in samples of its own, between them.
fn intervals(node: &Node) -> Vec<(i64, i64)> {
    let mut last = BTreeMap::new();
    let mut gaps = Vec::new();
    for batch in node.each_batch_with_samples() {
        for sample in batch.gpu_samples.iter().filter(|sample| is_of_a_tick(sample)) {
            let before = last.insert(sample.gpu, sample.raw_ns);
            gaps.extend(before.map(|before| (sample.raw_ns, sample.raw_ns.saturating_sub(before))));
        }
    }
    gaps
}

/// Power and utilisation are read at a tick, and nowhere else.
fn is_of_a_tick(sample: &v1::GpuSample) -> bool {
    sample.power_instant_mw.or(sample.power_average_mw).or(sample.gpu_util_pct).is_some()
}

/// When GPUs were sampled on the coordinator's clock, with the interval before each sample, ns.
pub(crate) fn probe_beats(data: &RunData, timeline: &Timeline) -> Vec<(i64, i64)> {
    let placed = |(of, node): (Incarnation, &Node)| {
        let gaps = intervals(node).into_iter();
        gaps.filter_map(|(raw, gap)| Some((timeline.place(of, raw)?.ns, gap))).collect::<Vec<_>>()
    };
    super::tally::of_kind(data, v1::NodeKind::GpuProbe).into_iter().flat_map(placed).collect()
}

/// Median sample interval inside a window, ns; `None` without a sample there.
pub(crate) fn resolution(beats: &[(i64, i64)], window: Window) -> Option<i64> {
    median(beats.iter().filter(|(at, _)| window.holds(*at)).map(|(_, gap)| *gap).collect())
}

/// The middle one; the upper of two.
pub(crate) fn median(mut values: Vec<i64>) -> Option<i64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}
