//! Readings of GPUs on the coordinator's clock: all near a stall, and of the rest as many as tell what idle and busy look like.

use std::collections::BTreeMap;

use tailcliff_proto::v1::{self, NodeKind, Signal};

use crate::merge::tally::of_kind;
use crate::merge::timeline::Timeline;
use crate::stored::{Incarnation, RunData};

use super::gaps::Gap;
use super::sensors;
use super::spans::Union;

/// How far before and after a stall readings are kept, ns.
const NEAR_NS: i64 = 3_000_000_000;
/// Readings of the rest that are kept of each signal, about.
const SPREAD: usize = 8_192;

/// What can show whether a GPU works, the most telling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shows {
    SmActive,
    PowerSamples,
    PowerInstant,
    Utilisation,
    PowerAverage,
    /// These two do not show work, but how fast it can go.
    SmClock,
    Throttle,
}

/// All of them.
pub(crate) const WORK: [Shows; 5] =
    [Shows::SmActive, Shows::PowerSamples, Shows::PowerInstant, Shows::Utilisation, Shows::PowerAverage];

impl Shows {
    /// The name in outputs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Shows::SmActive => "sm_active (GPM)",
            Shows::PowerSamples => "power (driver's buffer)",
            Shows::PowerInstant => "instant power",
            Shows::Utilisation => "utilisation",
            Shows::PowerAverage => "average power",
            Shows::SmClock => "SM clock",
            Shows::Throttle => "throttle reasons",
        }
    }

    pub(crate) fn signal(self) -> Signal {
        match self {
            Shows::SmActive => Signal::Gpm,
            Shows::PowerSamples => Signal::PowerSamples,
            Shows::PowerInstant => Signal::PowerInstant,
            Shows::Utilisation => Signal::GpuUtil,
            Shows::PowerAverage => Signal::PowerAverage,
            Shows::SmClock => Signal::SmClock,
            Shows::Throttle => Signal::Throttle,
        }
    }

    /// (period, window) taken where none was measured, ns: what NVIDIA documents or the widest seen, so that no verdict
    /// comes from a signal too slow.
    fn assumed(self) -> (i64, i64) {
        const MS: i64 = 1_000_000;
        match self {
            Shows::SmActive => (0, 0),
            Shows::PowerSamples => (0, 100 * MS),
            Shows::PowerInstant => (100 * MS, 100 * MS),
            Shows::Utilisation => (1_000 * MS, 1_000 * MS),
            Shows::PowerAverage => (100 * MS, 1_000 * MS),
            Shows::SmClock | Shows::Throttle => (100 * MS, 0),
        }
    }
}

/// A value, and when it was read or stamped; GPM says from when it speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) from_ns: i64,
    pub(crate) at_ns: i64,
    pub(crate) value: f64,
}

/// How old what a reading shows may be, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Its oldest part.
    pub(crate) oldest_ns: i64,
    /// Its newest part.
    pub(crate) newest_ns: i64,
    /// Measured, not assumed.
    pub(crate) measured: bool,
}

impl Reach {
    /// The time that a reading speaks of.
    pub(crate) fn covers(self, reading: &Reading) -> (i64, i64) {
        (reading.from_ns.saturating_sub(self.oldest_ns), reading.at_ns.saturating_sub(self.newest_ns))
    }
}

/// One signal of one GPU.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) reach: Reach,
    /// Near stalls, by time.
    pub(crate) near: Vec<Reading>,
    /// A spread over the run.
    pub(crate) spread: Vec<Reading>,
    stride: usize,
    seen: usize,
}

/// One GPU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Card {
    pub(crate) series: BTreeMap<Shows, Series>,
    /// (when read, mJ), near stalls, by time.
    pub(crate) energy: Vec<(i64, u64)>,
    /// How old what the energy counter shows may be, ns; `None` where it was not measured.
    pub(crate) energy_age_ns: Option<i64>,
    /// When it was lost, if so.
    pub(crate) lost_ns: Option<i64>,
    /// Widest bound of the probe's clock over what was read, ns.
    pub(crate) bound_ns: i64,
}

/// Every GPU of every probe.
pub(crate) fn cards(data: &RunData, timeline: &Timeline, gaps: &[Gap]) -> BTreeMap<(Incarnation, u32), Card> {
    let mut near = Union::default();
    gaps.iter().for_each(|gap| near.add(gap.from_ns - NEAR_NS, gap.to_ns + NEAR_NS));
    near.close();
    let reports = sensors(data);
    let mut cards = BTreeMap::new();
    for (of, node) in of_kind(data, NodeKind::GpuProbe) {
        for batch in node.each_batch_with_evidence() {
            take(
                &mut cards,
                of,
                &batch,
                &|raw| timeline.place(of, raw).map(|at| (at.ns, at.bound_ns)),
                &near,
            );
        }
    }
    for (&(of, gpu), card) in &mut cards {
        let report = |signal: Signal| {
            reports
                .iter()
                .find(|(o, r)| *o == of && r.gpu == gpu && r.signal == signal as i32)
                .map(|(_, r)| r)
        };
        for (shows, series) in &mut card.series {
            series.reach = reach(*shows, report(shows.signal()));
            series.near.sort_by_key(|reading| reading.at_ns);
        }
        card.energy.sort_unstable();
        let age = |r: &v1::SensorReport| {
            Some(r.period_high_ns.or(r.period_ns)?.saturating_add(r.delay_ns.unwrap_or(0)))
        };
        card.energy_age_ns = report(Signal::Energy).and_then(age).filter(|ns| *ns > 0);
    }
    cards
}

fn reach(shows: Shows, report: Option<&v1::SensorReport>) -> Reach {
    let (period, window) = shows.assumed();
    let told = |ns: Option<i64>| ns.filter(|ns| (0..=60_000_000_000).contains(ns));
    let measured = report.and_then(|r| told(r.period_high_ns.or(r.period_ns)));
    let delay = report.and_then(|r| told(r.delay_ns)).unwrap_or(0);
    let is_stamped = matches!(shows, Shows::PowerSamples | Shows::SmActive);
    // What the driver stamped is no older than its window; what was polled may have stood for a period.
    let period = if is_stamped { 0 } else { measured.unwrap_or(period) };
    let window = report.and_then(|r| told(r.window_ns)).unwrap_or(match shows {
        Shows::PowerSamples => measured.unwrap_or(window),
        _ => window,
    });
    Reach {
        oldest_ns: period + window + delay,
        newest_ns: if is_stamped { delay } else { 0 },
        measured: measured.is_some(),
    }
}

type Place<'a> = &'a dyn Fn(i64) -> Option<(i64, i64)>;

fn take(
    cards: &mut BTreeMap<(Incarnation, u32), Card>,
    of: Incarnation,
    batch: &v1::Batch,
    place: Place<'_>,
    near: &Union,
) {
    for sample in &batch.gpu_samples {
        let Some((at, bound)) = place(sample.raw_ns) else { continue };
        let card = cards.entry((of, sample.gpu)).or_default();
        card.bound_ns = card.bound_ns.max(bound);
        let watts = |mw: Option<u32>| mw.map(|mw| f64::from(mw) / 1e3);
        let values = [
            (Shows::PowerInstant, watts(sample.power_instant_mw)),
            (Shows::PowerAverage, watts(sample.power_average_mw)),
            (Shows::Utilisation, sample.gpu_util_pct.map(f64::from)),
            (Shows::SmClock, sample.sm_clock_mhz.map(f64::from)),
            (Shows::Throttle, sample.throttle_reasons.map(|bits| bits as f64)),
        ];
        for (shows, value) in values {
            let reading = value.map(|value| Reading { from_ns: at, at_ns: at, value });
            reading.into_iter().for_each(|reading| card.note(shows, reading, near));
        }
        if let Some(mj) = sample.energy_mj
            && !near.misses(at, at)
        {
            card.energy.push((at, mj));
        }
    }
    for told in batch.driver_samples.iter().filter(|s| s.signal == Signal::PowerSamples as i32) {
        let card = cards.entry((of, told.gpu)).or_default();
        for (&raw, &value) in told.raw_ns.iter().zip(&told.values) {
            if let Some((at, _)) = place(raw).filter(|_| value.is_finite()) {
                // Its own stamp is off by what carrying it over may be off.
                let reading = Reading { from_ns: at - told.bound_ns, at_ns: at + told.bound_ns, value };
                card.note(Shows::PowerSamples, reading, near);
            }
        }
    }
    for gpm in &batch.gpm_samples {
        let span = place(gpm.from_raw_ns).zip(place(gpm.to_raw_ns));
        let card = cards.entry((of, gpm.gpu)).or_default();
        if let Some(((from_ns, _), (at_ns, _))) = span
            && let Some(value) = gpm.sm_active_pct.map(f64::from).filter(|v| v.is_finite())
        {
            card.note(Shows::SmActive, Reading { from_ns, at_ns, value }, near);
        }
    }
    for event in batch.gpu_events.iter().filter(|event| event.kind == "lost") {
        let card = cards.entry((of, event.gpu)).or_default();
        card.lost_ns = place(event.raw_ns).map(|(at, _)| at).or(card.lost_ns);
    }
}

impl Card {
    fn note(&mut self, shows: Shows, reading: Reading, near: &Union) {
        let reach = Reach { oldest_ns: 0, newest_ns: 0, measured: false };
        let new = || Series { reach, near: Vec::new(), spread: Vec::new(), stride: 1, seen: 0 };
        let series = self.series.entry(shows).or_insert_with(new);
        if !near.misses(reading.from_ns, reading.at_ns) {
            series.near.push(reading);
        }
        if series.seen.is_multiple_of(series.stride) {
            series.spread.push(reading);
        }
        series.seen += 1;
        if series.spread.len() >= 2 * SPREAD {
            let mut keep = false;
            series.spread.retain(|_| {
                keep = !keep;
                keep
            });
            series.stride *= 2;
        }
    }
}

impl Series {
    /// Values of readings that speak of nothing outside [from, to].
    pub(crate) fn within(&self, from: i64, to: i64) -> Vec<f64> {
        let first = self.near.partition_point(|reading| reading.at_ns < from);
        let inside =
            self.near[first..].iter().take_while(|r| r.at_ns <= to.saturating_add(self.reach.newest_ns));
        let whole = |reading: &&Reading| {
            let (begin, end) = self.reach.covers(reading);
            begin >= from && end <= to
        };
        inside.filter(whole).map(|reading| reading.value).collect()
    }
}
