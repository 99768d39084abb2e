//! Curves: what an agent had in flight and what arrived there, and the readings of GPUs. Points closer than the step are
//! left out.

use std::collections::BTreeMap;
use std::io::{self, Write};

use tailcliff_proto::arrivals;
use tailcliff_proto::v1::{GpuSample, NodeKind, RequestRecord};

use super::Clock;
use super::requests::labels;
use super::wire::{Track, Writer};
use crate::merge::tally::of_kind;
use crate::stored::{Incarnation, Node, RunData};

/// What arrives is summed over at least this.
const BIN_NS: i64 = 100_000_000;

/// A curve whose points have a least distance.
pub(super) struct Curve {
    track: Track,
    step_ns: i64,
    next_ns: u64,
}

impl Curve {
    pub(super) fn new(track: Track, step_ns: i64) -> Self {
        Self { track, step_ns, next_ns: 0 }
    }

    pub(super) fn point(&mut self, trace: &mut Writer<impl Write>, at: u64, value: f64) -> io::Result<()> {
        if at < self.next_ns {
            return Ok(());
        }
        self.next_ns = at.saturating_add(self.step_ns.unsigned_abs());
        trace.value(self.track, at, value)
    }
}

/// An agent's.
pub(super) fn agent(
    trace: &mut Writer<impl Write>,
    node: &Node,
    clock: &Clock<'_>,
    (of, process): (Incarnation, Track),
) -> io::Result<()> {
    let mut in_flight = Curve::new(trace.curve(process, "in flight", "requests", 0)?, clock.step_ns());
    let chunks = trace.curve(process, "content chunks", "chunks/s", 1)?;
    let bin_ns = BIN_NS.max(clock.step_ns()).unsigned_abs();
    let mut bins: BTreeMap<u64, u32> = BTreeMap::new();
    for batch in node.each_batch() {
        for sample in &batch.in_flight {
            let Some((at, _)) = clock.place(of, sample.raw_ns) else { continue };
            in_flight.point(trace, at, f64::from(sample.in_flight))?;
        }
        for record in &batch.records {
            each_arrival(record, |raw| {
                let at = clock.place(of, raw).filter(|(at, _)| *at <= clock.span_ns.unsigned_abs());
                at.into_iter().for_each(|(at, _)| *bins.entry(at / bin_ns).or_default() += 1);
            });
        }
    }
    let per_s = |n: u32| f64::from(n) * 1e9 / bin_ns as f64;
    for (&bin, &n) in &bins {
        trace.value(chunks, bin * bin_ns, per_s(n))?;
        if !bins.contains_key(&(bin + 1)) {
            trace.value(chunks, (bin + 1) * bin_ns, 0.0)?;
        }
    }
    Ok(())
}

fn each_arrival(record: &RequestRecord, mut take: impl FnMut(i64)) {
    let mut at = record.intended_raw_ns;
    for arrival in arrivals::decode(&record.arrivals).map_while(Result::ok) {
        at = at.saturating_add_unsigned(arrival.gap_ns);
        take(at);
    }
}

/// A reading of a GPU: its name, its unit, and where it stands in a sample.
type Signal = (&'static str, &'static str, fn(&GpuSample) -> Option<f64>);

const SIGNALS: [Signal; 4] = [
    ("power", "W", |s| s.power_instant_mw.or(s.power_average_mw).map(|mw| f64::from(mw) / 1e3)),
    ("utilisation", "%", |s| s.gpu_util_pct.map(f64::from)),
    ("SM clock", "MHz", |s| s.sm_clock_mhz.map(f64::from)),
    ("memory used", "MiB", |s| s.mem_used_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20))),
];

/// Every probe's.
pub(super) fn gpus(trace: &mut Writer<impl Write>, data: &RunData, clock: &Clock<'_>) -> io::Result<()> {
    for (of, node) in of_kind(data, NodeKind::GpuProbe) {
        let mut curves: BTreeMap<(u32, usize), Curve> = BTreeMap::new();
        let mut process = None;
        for batch in node.each_batch_with_samples() {
            for sample in &batch.gpu_samples {
                let Some((at, _)) = clock.place(of, sample.raw_ns) else { continue };
                for (i, (name, unit, read)) in SIGNALS.iter().enumerate() {
                    let Some(value) = read(sample) else { continue };
                    if process.is_none() {
                        process =
                            Some(trace.process(&format!("probe {}", node.hello.name), labels(clock, of))?);
                    }
                    let Some(process) = process else { continue };
                    let curve = match curves.entry((sample.gpu, i)) {
                        std::collections::btree_map::Entry::Occupied(curve) => curve.into_mut(),
                        std::collections::btree_map::Entry::Vacant(place) => {
                            let name = format!("GPU {} {name}{}", sample.gpu, simulated(node, sample.gpu));
                            let rank = i32::try_from(sample.gpu).unwrap_or(0).saturating_mul(8) + i as i32;
                            place
                                .insert(Curve::new(trace.curve(process, &name, unit, rank)?, clock.step_ns()))
                        }
                    };
                    curve.point(trace, at, value)?;
                }
            }
        }
    }
    Ok(())
}

fn simulated(node: &Node, gpu: u32) -> &'static str {
    let is = node.hello.gpus.iter().any(|facts| facts.index == gpu && facts.simulated);
    if is { " (SIMULATED)" } else { "" }
}
