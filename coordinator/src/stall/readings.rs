//! Readings of GPUs on the coordinator's clock: all near a stall, and of the rest as many as tell what idle and busy look like.

use std::collections::BTreeMap;

use tailcliff_proto::v1::{self, NodeKind, Signal};

use crate::merge::tally::of_kind;
use crate::merge::timeline::Timeline;
use crate::stored::{Incarnation, RunData};

use super::gaps::Gap;
use super::spans::Union;
use super::{place, sensors};

/// How far before and after a stall readings are kept, ns.
const NEAR_NS: i64 = 3_000_000_000;
/// Readings of the rest that are kept of each signal, about.
const SPREAD: usize = 8_192;

/// Readings near stalls that are kept of each signal at most: 24 MiB, over an hour at 10 ms.
const MOST_NEAR: usize = 1 << 20;
/// Longest period, window, delay or reading that is believed, ns.
const LONGEST_TOLD_NS: i64 = 60_000_000_000;

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

/// The energy counter, read between two moments, mJ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Counted {
    pub(crate) began_ns: i64,
    pub(crate) ended_ns: i64,
    pub(crate) mj: u64,
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
    /// The energy counter near stalls, by time.
    pub(crate) energy: Vec<Counted>,
    /// How old what the energy counter shows may be, ns; `None` where it was not measured.
    pub(crate) energy_age_ns: Option<i64>,
    /// When it was lost, and when it was back.
    pub(crate) lost: Vec<(i64, Option<i64>)>,
    /// Readings near stalls that were too many to keep.
    pub(crate) left_out: u64,
    /// Widest bound of the probe's clock over what was read, ns.
    pub(crate) bound_ns: i64,
}

/// Every GPU of every probe.
pub(crate) fn cards(data: &RunData, timeline: &Timeline, gaps: &[Gap]) -> BTreeMap<(Incarnation, u32), Card> {
    let mut near = Union::default();
    gaps.iter().for_each(|gap| near.add(gap.from_ns - NEAR_NS, gap.to_ns + NEAR_NS));
    near.close();
    let mut cards = BTreeMap::new();
    let mut reports = BTreeMap::new();
    for (of, node) in of_kind(data, NodeKind::GpuProbe) {
        reports.insert(of, sensors(node));
        for batch in node.each_batch_with_evidence() {
            take(
                &mut cards,
                of,
                &batch,
                &|raw| place(timeline, of, raw).map(|at| (at.ns, at.bound_ns)),
                &near,
            );
        }
    }
    for (&(of, gpu), card) in &mut cards {
        let known = reports.get(&of).map_or(&[][..], Vec::as_slice);
        let report = |signal: Signal| known.iter().find(|r| r.gpu == gpu && r.signal == signal as i32);
        for (shows, series) in &mut card.series {
            series.reach = reach(*shows, report(shows.signal()));
            series.near.sort_by_key(|reading| reading.at_ns);
        }
        card.energy.sort_unstable();
        let age = |r: &v1::SensorReport| {
            Some(told(r.period_high_ns.or(r.period_ns))? + told(r.delay_ns).unwrap_or(0))
        };
        card.energy_age_ns = report(Signal::Energy).and_then(age).filter(|ns| *ns > 0);
    }
    join_restarted(data, cards)
}

/// A probe that was started again reads the same GPU as before: what both saw is one card's, so that an idle band from before
/// holds after. (In a simulation another host's card may have the same identity.)
fn join_restarted(
    data: &RunData,
    cards: BTreeMap<(Incarnation, u32), Card>,
) -> BTreeMap<(Incarnation, u32), Card> {
    let identity = |of: Incarnation, gpu: u32| {
        let hello = &data.nodes.get(&of)?.hello;
        let facts = hello.gpus.iter().find(|facts| facts.index == gpu && !facts.uuid.is_empty())?;
        Some((hello.host.as_ref()?.hostname.as_str(), facts.uuid.as_str()))
    };
    let mut joined = BTreeMap::<(Incarnation, u32), Card>::new();
    let mut first = BTreeMap::new();
    for ((of, gpu), card) in cards {
        let same = identity(of, gpu).map(|who| *first.entry(who).or_insert((of, gpu)));
        match same.and_then(|key| joined.get_mut(&key)) {
            Some(before) => before.join(card),
            None => drop(joined.insert((of, gpu), card)),
        }
    }
    joined
}

fn reach(shows: Shows, report: Option<&v1::SensorReport>) -> Reach {
    let (period, window) = shows.assumed();
    let told_period = report.and_then(|r| told(r.period_high_ns.or(r.period_ns)));
    let told_window = report.and_then(|r| Some(told(r.window_ns)? + told(r.window_bar_ns).unwrap_or(0)));
    let delay = report.and_then(|r| told(r.delay_ns)).unwrap_or(0);
    match shows {
        // It says itself of which time it speaks.
        Shows::SmActive => Reach { oldest_ns: 0, newest_ns: 0, measured: true },
        // What the driver stamped is no older than its window, which is about the time between two.
        Shows::PowerSamples => Reach {
            oldest_ns: told_window.or(told_period).unwrap_or(window) + delay,
            newest_ns: delay,
            measured: told_window.or(told_period).is_some(),
        },
        // These change with the load alone, whose rhythm is not theirs.
        Shows::SmClock | Shows::Throttle => Reach {
            oldest_ns: told_period.map_or(period, |told| told.min(period)) + delay,
            newest_ns: 0,
            measured: told_period.is_some(),
        },
        // What was polled may have stood for a period.
        _ => Reach {
            oldest_ns: told_period.unwrap_or(period) + told_window.unwrap_or(window) + delay,
            newest_ns: 0,
            measured: told_period.is_some() && told_window.is_some(),
        },
    }
}

/// A length that a sensor report may tell, ns.
fn told(ns: Option<i64>) -> Option<i64> {
    ns.filter(|ns| (0..=LONGEST_TOLD_NS).contains(ns))
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
        // Any of its readings may have been made at any moment of that time.
        let took = sample.read_ns.clamp(0, LONGEST_TOLD_NS);
        let watts = |mw: Option<u32>| mw.map(|mw| f64::from(mw) / 1e3);
        let values = [
            (Shows::PowerInstant, watts(sample.power_instant_mw)),
            (Shows::PowerAverage, watts(sample.power_average_mw)),
            (Shows::Utilisation, sample.gpu_util_pct.map(f64::from)),
            (Shows::SmClock, sample.sm_clock_mhz.map(f64::from)),
            (Shows::Throttle, sample.throttle_reasons.map(|bits| bits as f64)),
        ];
        for (shows, value) in values {
            let reading = value.map(|value| Reading { from_ns: at, at_ns: at + took, value });
            reading.into_iter().for_each(|reading| card.note(shows, reading, near));
        }
        if let Some(mj) = sample.energy_mj
            && !near.misses(at, at)
        {
            if card.energy.len() < MOST_NEAR {
                card.energy.push(Counted { began_ns: at, ended_ns: at + took, mj });
            } else {
                card.left_out += 1;
            }
        }
    }
    for told in batch.driver_samples.iter().filter(|s| s.signal == Signal::PowerSamples as i32) {
        let card = cards.entry((of, told.gpu)).or_default();
        for (&raw, &value) in told.raw_ns.iter().zip(&told.values) {
            if let Some((at, _)) = place(raw).filter(|_| value.is_finite()) {
                // Its own stamp is off by what carrying it over may be off.
                let bound = told.bound_ns.clamp(0, LONGEST_TOLD_NS);
                let reading = Reading { from_ns: at - bound, at_ns: at + bound, value };
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
    for event in &batch.gpu_events {
        let card = cards.entry((of, event.gpu)).or_default();
        let at = place(event.raw_ns).map(|(at, _)| at);
        match (event.kind.as_str(), card.lost.last_mut()) {
            ("lost", _) => card.lost.extend(at.map(|at| (at, None))),
            ("back", Some(last)) => last.1 = last.1.or(at),
            _ => {}
        }
    }
}

impl Card {
    fn join(&mut self, other: Self) {
        for (shows, theirs) in other.series {
            match self.series.get_mut(&shows) {
                Some(ours) => ours.join(theirs),
                None => drop(self.series.insert(shows, theirs)),
            }
        }
        self.energy.extend(other.energy);
        self.energy.sort_unstable();
        self.energy_age_ns = self.energy_age_ns.max(other.energy_age_ns);
        self.lost.extend(other.lost);
        self.left_out += other.left_out;
        self.bound_ns = self.bound_ns.max(other.bound_ns);
    }

    fn note(&mut self, shows: Shows, reading: Reading, near: &Union) {
        let reach = Reach { oldest_ns: 0, newest_ns: 0, measured: false };
        let new = || Series { reach, near: Vec::new(), spread: Vec::new(), stride: 1, seen: 0 };
        let series = self.series.entry(shows).or_insert_with(new);
        if !near.misses(reading.from_ns, reading.at_ns) {
            if series.near.len() < MOST_NEAR {
                series.near.push(reading);
            } else {
                self.left_out += 1;
            }
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
    fn join(&mut self, other: Self) {
        self.near.extend(other.near);
        self.near.sort_by_key(|reading| reading.at_ns);
        self.spread.extend(other.spread);
        // What was measured beats what was assumed; of two alike the wider.
        let rank = |reach: &Reach| (reach.measured, reach.oldest_ns);
        if rank(&other.reach) > rank(&self.reach) {
            self.reach = other.reach;
        }
    }

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
