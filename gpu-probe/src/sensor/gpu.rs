//! What one GPU's signals have shown, and what is said of each.

use std::collections::BTreeMap;

use tailcliff_proto::v1::{self, Signal};

use super::changes::{Changes, Period, Update};
use super::notes;
use super::reference::Cells;
use super::stamped::{Gpm, Stamped};
use super::window::{Found, Search};

/// Cells that a reference needs, and the longest that they may be, ns.
const FEWEST_CELLS: usize = 100;
const COARSEST_NS: f64 = 250e6;
/// What has changed by less than this is not said again.
const MATERIAL: f64 = 0.05;

/// A window with a narrower bar than this share of it is not sought again: a sensor does not change.
const SETTLED: f64 = 0.06;

/// A reading that took so many times the usual, and so much more, ns, was held up.
const HELD_UP: i64 = 4;
const HELD_UP_NS: i64 = 1_000_000;

const POLLED: [Signal; 10] = [
    Signal::PowerInstant,
    Signal::PowerAverage,
    Signal::Energy,
    Signal::GpuUtil,
    Signal::MemUtil,
    Signal::SmClock,
    Signal::MemClock,
    Signal::MemUsed,
    Signal::Temperature,
    Signal::Throttle,
];

#[derive(Debug, Default)]
pub(super) struct Gpu {
    polled: BTreeMap<Signal, Changes>,
    stamped: BTreeMap<Signal, Stamped>,
    pub(super) gpm: Gpm,
    windows: BTreeMap<Signal, Found>,
    pub(super) said: BTreeMap<Signal, v1::SensorReport>,
}

impl Gpu {
    pub(super) fn poll(&mut self, sample: &v1::GpuSample) {
        // Power is read at the stamp; the rest about the middle of the reading.
        let later = sample.raw_ns.saturating_add(sample.read_ns.clamp(0, 1_000_000_000) / 2);
        for signal in POLLED {
            let Some(value) = value(sample, signal) else { continue };
            let power = matches!(signal, Signal::PowerInstant | Signal::PowerAverage);
            let changes = self.polled.entry(signal).or_default();
            // Held up between its stamp and its calls: when it was read is not known well enough to date a change by it.
            let held_up =
                sample.read_ns > changes.reads.usual().saturating_mul(HELD_UP).saturating_add(HELD_UP_NS);
            changes.reads.push(sample.read_ns);
            if !held_up {
                changes.poll(if power { sample.raw_ns } else { later }, value);
            }
        }
    }

    pub(super) fn stamped(&mut self, samples: &v1::DriverSamples) {
        let signal = samples.signal();
        if !matches!(signal, Signal::PowerSamples | Signal::GpuUtilSamples | Signal::MemUtilSamples) {
            return;
        }
        self.stamped.entry(signal).or_default().see(samples);
    }

    pub(super) fn signals(&self) -> impl Iterator<Item = Signal> {
        let gpm = (self.gpm.seen > 0).then_some(Signal::Gpm);
        self.polled.keys().chain(self.stamped.keys()).copied().chain(gpm)
    }

    /// Signals whose window is still to be found, or not well known.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = Signal> {
        let known = |signal: &Signal| match self.windows.get(signal) {
            Some(Found::Window(window)) => window.bar_ns < SETTLED * window.window_ns,
            _ => false,
        };
        self.signals().filter(move |signal| notes::has_window(*signal) && !known(signal))
    }

    /// The finest account of power at hand.
    fn reference(&self) -> Option<Cells> {
        let of_samples = || {
            let samples = &self.stamped.get(&Signal::PowerSamples)?.samples;
            Cells::of_samples(&samples.iter().copied().collect::<Vec<_>>())
        };
        let of_energy = || {
            let energy = self.polled.get(&Signal::Energy)?;
            let steps = energy.updates().map(|u| Update { value: u.value / 1e3, ..*u });
            Cells::of_energy(&steps.collect::<Vec<_>>(), energy.period())
        };
        let good = |cells: &Cells| cells.len() >= FEWEST_CELLS && cells.spacing_ns <= COARSEST_NS;
        of_samples().filter(good).or_else(|| of_energy().filter(good))
    }

    pub(super) fn search(&self, signal: Signal) -> Option<Search> {
        let cells = self.reference()?;
        let power = matches!(signal, Signal::PowerInstant | Signal::PowerAverage);
        let (updates, period): (Vec<Update>, _) = match self.polled.get(&signal) {
            Some(changes) => {
                let unit = if power { 1e3 } else { 1.0 };
                let updates = changes.updates().map(|u| Update { value: u.value / unit, ..*u });
                (updates.collect(), changes.period())
            }
            None => (self.stamped.get(&signal)?.updates(), None),
        };
        Search::new(&cells, &updates, period, !power)
    }

    /// Keeps what is known best: power may have moved well only in an earlier minute.
    pub(super) fn found(&mut self, signal: Signal, found: Found) {
        let better = match (self.windows.get(&signal), found) {
            (Some(Found::Window(old)), Found::Window(new)) => {
                new.bar_ns / new.window_ns <= old.bar_ns / old.window_ns
            }
            (Some(Found::Window(_)), _) => false,
            (Some(Found::AtMost(_)), Found::Nothing) => false,
            _ => true,
        };
        if better {
            self.windows.insert(signal, found);
        }
    }

    pub(super) fn report(&self, index: u32, signal: Signal) -> Option<v1::SensorReport> {
        let mut report = match signal {
            Signal::Gpm => self.gpm.report()?,
            _ => match (self.polled.get(&signal), self.stamped.get(&signal)) {
                (Some(changes), _) => of_changes(changes, signal),
                (None, Some(stamped)) => stamped.report(),
                (None, None) => return None,
            },
        };
        let found = self.windows.get(&signal).copied();
        if let Some(Found::Window(window)) = found {
            report.window_ns = Some(window.window_ns as i64);
            report.window_bar_ns = Some(window.bar_ns as i64);
            report.delay_ns = Some(window.delay_ns as i64);
        }
        report.note = notes::note(signal, &report, found);
        (report.gpu, report.signal) = (index, signal as i32);
        Some(report)
    }

    /// Whether a report says more than the one before it, or something else.
    pub(super) fn is_news(&self, report: &v1::SensorReport) -> bool {
        let Some(said) = self.said.get(&report.signal()) else { return true };
        let moved = |old: Option<i64>, new: Option<i64>| match (old, new) {
            (Some(old), Some(new)) => {
                (new - old).unsigned_abs() as f64 > MATERIAL * old.unsigned_abs() as f64
            }
            (old, new) => old != new,
        };
        let halved = said.window_bar_ns.zip(report.window_bar_ns).is_some_and(|(old, new)| new < old / 2);
        moved(said.period_ns, report.period_ns) || moved(said.window_ns, report.window_ns) || halved
    }
}

fn value(sample: &v1::GpuSample, signal: Signal) -> Option<f64> {
    let whole = |value: Option<u32>| value.map(f64::from);
    let long = |value: Option<u64>| value.map(|v| v as f64);
    match signal {
        Signal::PowerInstant => whole(sample.power_instant_mw),
        Signal::PowerAverage => whole(sample.power_average_mw),
        Signal::Energy => long(sample.energy_mj),
        Signal::GpuUtil => whole(sample.gpu_util_pct),
        Signal::MemUtil => whole(sample.mem_util_pct),
        Signal::SmClock => whole(sample.sm_clock_mhz),
        Signal::MemClock => whole(sample.mem_clock_mhz),
        Signal::MemUsed => long(sample.mem_used_bytes),
        Signal::Temperature => whole(sample.temperature_c),
        Signal::Throttle => long(sample.throttle_reasons),
        _ => None,
    }
}

fn of_changes(changes: &Changes, signal: Signal) -> v1::SensorReport {
    let method = if signal == Signal::Energy { "energy_steps" } else { "changes" };
    v1::SensorReport {
        poll_ns: changes.polls.median(),
        read_ns: changes.reads.median(),
        updates: changes.seen,
        method: method.to_owned(),
        from_raw_ns: changes.first_ns.unwrap_or(0),
        to_raw_ns: changes.last_ns().unwrap_or(0),
        ..with_period(changes.period())
    }
}

pub(super) fn with_period(period: Option<Period>) -> v1::SensorReport {
    v1::SensorReport {
        period_ns: period.map(|p| p.median_ns as i64),
        period_low_ns: period.map(|p| p.low_ns as i64),
        period_high_ns: period.map(|p| p.high_ns as i64),
        ..Default::default()
    }
}
