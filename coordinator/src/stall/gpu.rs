//! What a server's GPUs did during a stall, held against what idle and busy look like in this very run. Only readings that
//! speak of the stall alone count: a signal too slow to see it says nothing.

use std::collections::{BTreeMap, BTreeSet};

use tailcliff_proto::throttle::{POWER_CAP, SLOWING};

use crate::merge::timeline::Timeline;
use crate::stored::{Incarnation, RunData};

use super::energy::{self, Energy};
use super::gaps::Gap;
use super::name;
use super::readings::{Card, Series, Shows, WORK, cards};
use super::spans::Spans;

/// Fewer readings make no band.
const LEAST: usize = 5;
/// Where idle ends and busy begins, as shares of the way from the top of the idle band to the bottom of the busy one.
const IDLE_TO: f64 = 0.25;
const BUSY_FROM: f64 = 0.6;
/// After the last byte of a request its GPU may still be at work, ns.
const SETTLED_NS: i64 = 50_000_000;
/// Power over its busy median of a GPU that does more than usual.
const HARDER: f64 = 1.1;
/// Clocks below this share of the run's own are throttled.
const CLOCK_SHARE: f64 = 0.85;

/// What a GPU did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As when no request was in flight.
    Idle,
    /// As when tokens came.
    Busy,
    /// Its clocks were held down while it worked.
    Throttled,
    /// Neither, or signals contradict each other.
    Between,
}

impl State {
    /// The name in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Busy => "busy",
            State::Throttled => "throttled",
            State::Between => "between",
        }
    }
}

/// What one signal shows while nothing is in flight, and while tokens come, in its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bands {
    /// Median and 90th percentile when idle.
    pub idle: (f64, f64),
    /// 25th percentile and median when busy.
    pub busy: (f64, f64),
}

impl Bands {
    /// Readings of both kinds must be enough, and apart.
    fn of(idle: &mut [f64], busy: &mut [f64]) -> Option<Self> {
        if idle.len() < LEAST || busy.len() < LEAST {
            return None;
        }
        idle.sort_by(f64::total_cmp);
        busy.sort_by(f64::total_cmp);
        let bands = Self {
            idle: (quantile(idle, 0.5), quantile(idle, 0.9)),
            busy: (quantile(busy, 0.25), quantile(busy, 0.5)),
        };
        let apart = bands.busy.0 - bands.idle.1;
        let moved = bands.busy.1 - bands.idle.0;
        (apart > 0.0 && apart >= 0.2 * moved && moved > 0.02 * bands.busy.1.abs()).then_some(bands)
    }

    /// Of values that all speak of one stall.
    fn state(&self, values: &mut [f64]) -> State {
        values.sort_by(f64::total_cmp);
        let way = |value: f64| (value - self.idle.1) / (self.busy.0 - self.idle.1);
        match (way(quantile(values, 0.1)), way(quantile(values, 0.9))) {
            (_, high) if high <= IDLE_TO => State::Idle,
            (low, _) if low >= BUSY_FROM => State::Busy,
            _ => State::Between,
        }
    }
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = (q * (sorted.len() - 1) as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// A GPU and how it answers to the load.
#[derive(Clone, Debug)]
pub struct Mover {
    /// Its probe.
    pub probe: String,
    /// Its index there.
    pub gpu: u32,
    /// It is the stand-in of the tests.
    pub simulated: bool,
    /// What each signal's idle and busy look like; a signal without is not used.
    pub bands: Vec<(&'static str, Bands)>,
    /// Signals that were read and do not tell idle from busy.
    pub still: Vec<&'static str>,
}

/// GPUs over one stall.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuView {
    /// What they did.
    pub state: State,
    /// What tells so, and how many of its readings speak of the stall alone.
    pub signal: &'static str,
    /// That many.
    pub readings: usize,
    /// Their median in its unit: W or %.
    pub value: f64,
    /// What it is when idle and when busy: medians.
    pub idle: f64,
    /// See `idle`.
    pub busy: f64,
    /// Oldest part of a reading, ns: stalls much shorter are not seen.
    pub reach_ns: i64,
    /// Its reach was measured on this card, not assumed.
    pub measured: bool,
    /// How far its stamps may be off, ns.
    pub bound_ns: i64,
    /// SM clock over its median when busy.
    pub clock_share: Option<f64>,
    /// Throttle reasons seen in at least half of the readings.
    pub throttle: u64,
}

/// The GPUs of a run.
#[derive(Debug)]
pub(super) struct Gpus {
    cards: BTreeMap<(Incarnation, u32), Watched>,
    names: BTreeMap<Incarnation, String>,
    simulated: BTreeSet<(Incarnation, u32)>,
}

#[derive(Debug)]
struct Watched {
    card: Card,
    bands: BTreeMap<Shows, Bands>,
    busy_clock: Option<f64>,
}

impl Watched {
    fn of(card: Card, spans: &Spans) -> Self {
        let mut watched = Self { bands: BTreeMap::new(), busy_clock: None, card };
        for shows in WORK {
            let Some(series) = watched.card.series.get(&shows) else { continue };
            let (mut idle, mut busy) = split(series, spans);
            if let Some(bands) = Bands::of(&mut idle, &mut busy) {
                watched.bands.insert(shows, bands);
            }
        }
        if let Some(clock) = watched.card.series.get(&Shows::SmClock) {
            let (_, mut busy) = split(clock, spans);
            busy.sort_by(f64::total_cmp);
            watched.busy_clock = (busy.len() >= LEAST).then(|| quantile(&busy, 0.5));
        }
        watched
    }

    fn moves(&self) -> bool {
        !self.bands.is_empty()
    }

    fn view(&self, gap: &Gap) -> Option<GpuView> {
        let (from, to) = gap.core();
        let (from, to) = (from + self.card.bound_ns, to - self.card.bound_ns);
        let mut views: Vec<GpuView> = Vec::new();
        for (&shows, bands) in &self.bands {
            let Some(series) = self.card.series.get(&shows) else { continue };
            let mut values = series.within(from, to);
            if values.is_empty() {
                continue;
            }
            views.push(GpuView {
                state: bands.state(&mut values),
                signal: shows.as_str(),
                readings: values.len(),
                value: quantile(&values, 0.5),
                idle: bands.idle.0,
                busy: bands.busy.1,
                reach_ns: series.reach.oldest_ns,
                measured: series.reach.measured,
                bound_ns: self.card.bound_ns,
                clock_share: None,
                throttle: 0,
            });
        }
        let mut view = agreed(views)?;
        (view.clock_share, view.throttle) = self.brakes(from, to);
        let is_slowed = view.throttle != 0 && view.clock_share.is_some_and(|share| share < CLOCK_SHARE);
        if is_slowed && !(view.throttle == POWER_CAP && self.works_harder(from, to)) {
            view.state = State::Throttled;
        }
        Some(view)
    }

    /// More power than usual: it is at its cap because of what it does, and not slow because of a cap.
    fn works_harder(&self, from: i64, to: i64) -> bool {
        let mut of_power = [Shows::PowerSamples, Shows::PowerInstant].into_iter().filter_map(|shows| {
            let mut values = self.card.series.get(&shows)?.within(from, to);
            values.sort_by(f64::total_cmp);
            let usual = self.bands.get(&shows)?.busy.1;
            Some(values.get(values.len() / 2)? >= &(usual * HARDER))
        });
        of_power.next().unwrap_or(false)
    }

    /// (SM clock over its busy median, slowing reasons seen in at least half of the readings).
    fn brakes(&self, from: i64, to: i64) -> (Option<f64>, u64) {
        let values =
            |shows| self.card.series.get(&shows).map_or_else(Vec::new, |s: &Series| s.within(from, to));
        let mut clocks = values(Shows::SmClock);
        clocks.sort_by(f64::total_cmp);
        let share = self.busy_clock.filter(|clock| *clock > 0.0).zip(clocks.get(clocks.len() / 2));
        let reasons: Vec<u64> =
            values(Shows::Throttle).into_iter().map(|bits| bits as u64 & SLOWING).collect();
        let often =
            |bit: u64| 2 * reasons.iter().filter(|bits| *bits & bit != 0).count() >= reasons.len().max(1);
        let bits = (0..8).map(|i| 1u64 << i).filter(|bit| SLOWING & bit != 0 && often(*bit)).sum();
        (share.map(|(busy, clock)| clock / busy), bits)
    }
}

/// Signals that speak with one voice: of those that are clear the one with most readings, and of equals the most telling.
/// One that is between is outvoted.
fn agreed(views: Vec<GpuView>) -> Option<GpuView> {
    let says = |state: State| views.iter().any(|view| view.state == state);
    let contradict = says(State::Idle) && says(State::Busy);
    let clear = views.iter().rev().filter(|view| view.state != State::Between);
    let mut view = clear.max_by_key(|view| view.readings).or(views.first())?.clone();
    if contradict {
        view.state = State::Between;
    }
    Some(view)
}

/// Values while nothing was in flight, and while tokens came and nothing stalled.
fn split(series: &Series, spans: &Spans) -> (Vec<f64>, Vec<f64>) {
    let (mut idle, mut busy) = (Vec::new(), Vec::new());
    for reading in &series.spread {
        let (from, to) = series.reach.covers(reading);
        if spans.in_flight.misses(from.saturating_sub(SETTLED_NS), to) {
            idle.push(reading.value);
        } else if spans.streaming.covers(from, to) && spans.stalled.misses(from, to) {
            busy.push(reading.value);
        }
    }
    (idle, busy)
}

impl Gpus {
    pub(super) fn read(data: &RunData, timeline: &Timeline, gaps: &[Gap], spans: &Spans) -> Self {
        let cards = cards(data, timeline, gaps);
        let names: BTreeMap<_, _> = cards.keys().map(|&(of, _)| (of, name(data, of))).collect();
        let cards = cards.into_iter().map(|(key, card)| (key, Watched::of(card, spans))).collect();
        let gpus = |of: Incarnation| data.nodes.get(&of).map_or(&[][..], |node| &node.hello.gpus);
        let marked = |(of, _): (&Incarnation, &String)| {
            let of = *of;
            gpus(of).iter().filter(|gpu| gpu.simulated).map(move |gpu| (of, gpu.index)).collect::<Vec<_>>()
        };
        let simulated = names.iter().flat_map(marked).collect();
        Self { cards, names, simulated }
    }

    /// Over the GPUs that move with the load; else why there is none.
    pub(super) fn view(&self, gap: &Gap) -> Result<GpuView, String> {
        if self.cards.is_empty() {
            return Err("no probe read a GPU".to_owned());
        }
        let movers: Vec<&Watched> = self.cards.values().filter(|card| card.moves()).collect();
        if movers.is_empty() {
            return Err("no GPU that was read tells idle from busy".to_owned());
        }
        let views: Vec<GpuView> = movers.iter().filter_map(|card| card.view(gap)).collect();
        if views.is_empty() {
            let is_lost = |(from, back): &(i64, Option<i64>)| {
                *from < gap.to_ns && back.is_none_or(|at| at > gap.from_ns)
            };
            let lost = movers.iter().any(|card| card.card.lost.iter().any(is_lost));
            let why = if lost {
                "the GPU was lost"
            } else {
                "no reading speaks of this stall alone: the sensors are too slow for it"
            };
            return Err(why.to_owned());
        }
        let together = views.iter().all(|view| view.state == views[0].state);
        let mut view = views[0].clone();
        if !together {
            // Some worked and some did not.
            view.state = State::Between;
        }
        Ok(view)
    }

    /// Of the GPUs that move with the load: what others use is not the server's.
    pub(super) fn energy(&self, gap: &Gap) -> Option<Energy> {
        let counted = self.cards.values().filter(|card| card.moves());
        let each: Option<Vec<Energy>> = counted.map(|card| energy::over(&card.card, gap)).collect();
        each.filter(|all| !all.is_empty()).map(energy::sum)
    }

    pub(super) fn movers(&self) -> Vec<Mover> {
        let mover = |(&(of, gpu), watched): (&(Incarnation, u32), &Watched)| {
            let read = |shows: &&Shows| {
                watched.card.series.contains_key(shows) && !watched.bands.contains_key(shows)
            };
            Mover {
                probe: self.names.get(&of).cloned().unwrap_or_default(),
                gpu,
                simulated: self.simulated.contains(&(of, gpu)),
                bands: watched.bands.iter().map(|(shows, bands)| (shows.as_str(), *bands)).collect(),
                still: WORK.iter().filter(read).map(|shows| shows.as_str()).collect(),
            }
        };
        self.cards.iter().map(mover).collect()
    }

    /// When there were more readings near stalls than are kept.
    pub(super) fn too_many(&self) -> Option<String> {
        let left_out: u64 = self.cards.values().map(|card| card.card.left_out).sum();
        (left_out > 0).then(|| format!("{left_out} GPU readings near stalls were too many to judge by"))
    }

    /// A probe whose GPUs never answer to the load is on another host than the server, or the load is too small to see.
    pub(super) fn warnings(&self, data: &RunData, spans: &Spans) -> Vec<String> {
        let mut warnings = Vec::new();
        // Without whole replies' inner life nothing is known to be busy.
        if spans.streaming.is_empty() {
            return warnings;
        }
        for (of, probe) in &self.names {
            let mut own = self.cards.range((*of, 0)..=(*of, u32::MAX)).map(|(_, card)| card);
            if own.by_ref().any(Watched::moves) || data.levels.is_empty() {
                continue;
            }
            warnings.push(format!(
                "gpu-probe {probe}: none of its GPUs moves with the load (or the run has no idle second to compare with): is it on \
                 the server's node? its readings judge no stall"
            ));
        }
        warnings
    }
}
