//! How the simulated card's own sensors see its truth: a real card shows a value that is an average over some time and
//! that stands still until the next update. One statement per quantity; what none is said of is shown as it is at the
//! moment of the call (average power: over the second before it).
//!
//! ```text
//! sensor power_instant period=100ms window=25ms phase=13ms
//! sensor power_average period=100ms window=1s delay=5ms
//! sensor energy period=100ms
//! sensor util period=200ms
//! sensor power_samples period=20ms
//! ```
//!
//! `period` is between updates, `phase` shifts them, `window` is what a value is an average over (the period when
//! unsaid), `delay` is how long before the update that window ends. Built on [`Script::levels`] and the script's
//! integral of power alone, so that it holds for whatever these follow.

use crate::script::{Levels, Script, duration};

/// Parts that the window of a utilisation is looked at in.
const PARTS: i64 = 64;

/// What a sensor shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Field 186.
    PowerInstant,
    /// Field 185 and the plain power call.
    PowerAverage,
    /// The energy counter, as a field and as a call.
    Energy,
    /// Both utilisations.
    Util,
    /// The driver's own buffer of power samples.
    PowerSamples,
}

const QUANTITIES: [(&str, Quantity); 5] = [
    ("power_instant", Quantity::PowerInstant),
    ("power_average", Quantity::PowerAverage),
    ("energy", Quantity::Energy),
    ("util", Quantity::Util),
    ("power_samples", Quantity::PowerSamples),
];

/// When a quantity is updated and what it covers; ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sensor {
    /// Between two updates.
    pub period_ns: i64,
    /// What a value is an average over.
    pub window_ns: i64,
    /// Updates are at whole periods after the origin and this.
    pub phase_ns: i64,
    /// How long before an update its window ends.
    pub delay_ns: i64,
}

/// Every sensor that a script speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sensors(Vec<(Quantity, Sensor)>);

impl Sensors {
    /// Reads `sensor QUANTITY NAME=TIME…`, without the first word.
    pub(crate) fn take(&mut self, name: &str, values: &[&str]) -> Result<(), String> {
        let known = QUANTITIES.iter().find(|(known, _)| *known == name);
        let quantity = known.ok_or_else(|| format!("unknown sensor {name}"))?.1;
        let (mut period, mut window, mut phase, mut delay) = (0, None, 0, 0);
        for value in values {
            let (name, time) =
                value.split_once('=').ok_or_else(|| format!("expected NAME=TIME, got {value}"))?;
            let time = duration(time)?;
            match name {
                "period" => period = time,
                "window" => window = Some(time),
                "phase" => phase = time,
                "delay" => delay = time,
                _ => return Err(format!("unknown property {name} of a sensor")),
            }
        }
        let window_ns = window.unwrap_or(period);
        if period == 0 || window_ns == 0 {
            return Err("a sensor needs a period, and a window above 0".to_owned());
        }
        self.0.retain(|(of, _)| *of != quantity);
        self.0.push((quantity, Sensor { period_ns: period, window_ns, phase_ns: phase, delay_ns: delay }));
        Ok(())
    }

    fn of(&self, quantity: Quantity) -> Option<Sensor> {
        self.0.iter().find(|(of, _)| *of == quantity).map(|(_, sensor)| *sensor)
    }
}

impl Sensor {
    /// The update that is shown at a time.
    pub fn updated_ns(&self, at_ns: i64) -> i64 {
        (at_ns - self.phase_ns).div_euclid(self.period_ns) * self.period_ns + self.phase_ns
    }

    /// What the value of an update covers.
    fn covers(&self, updated_ns: i64) -> (i64, i64) {
        (updated_ns - self.delay_ns - self.window_ns, updated_ns - self.delay_ns)
    }
}

impl Script {
    /// The sensor of a quantity, where the script has one.
    pub fn sensor(&self, quantity: Quantity) -> Option<Sensor> {
        self.sensors.of(quantity)
    }

    /// What the instant power field shows, mW.
    pub fn shown_instant_mw(&self, gpu: u32, at_ns: i64) -> u32 {
        match self.sensor(Quantity::PowerInstant) {
            Some(sensor) => self.covered_mw(gpu, sensor, at_ns),
            None => self.levels(gpu, at_ns).power_w.saturating_mul(1000),
        }
    }

    /// What plain power shows, mW.
    pub fn shown_average_mw(&self, gpu: u32, at_ns: i64) -> u32 {
        match self.sensor(Quantity::PowerAverage) {
            Some(sensor) => self.covered_mw(gpu, sensor, at_ns),
            None => self.average_mw(gpu, at_ns),
        }
    }

    /// What the energy counter shows, mJ.
    pub fn shown_energy_mj(&self, gpu: u32, at_ns: i64) -> u64 {
        let counted = self.sensor(Quantity::Energy).map_or(at_ns, |s| s.covers(s.updated_ns(at_ns)).1);
        self.energy_mj(gpu, counted)
    }

    /// The levels with both utilisations as they are shown, %.
    pub fn shown_util(&self, gpu: u32, at_ns: i64) -> Levels {
        let Some(sensor) = self.sensor(Quantity::Util) else { return self.levels(gpu, at_ns) };
        let (from, to) = sensor.covers(sensor.updated_ns(at_ns));
        let part = |i: i64| self.levels(gpu, from + (to - from) / (2 * PARTS) * (2 * i + 1));
        let mean = |of: fn(&Levels) -> u32| {
            let sum: u64 = (0..PARTS).map(|i| u64::from(of(&part(i)))).sum();
            u32::try_from((sum + PARTS as u64 / 2) / PARTS as u64).unwrap_or(u32::MAX)
        };
        Levels { util: mean(|l| l.util), mem_util: mean(|l| l.mem_util), ..self.levels(gpu, at_ns) }
    }

    fn covered_mw(&self, gpu: u32, sensor: Sensor, at_ns: i64) -> u32 {
        let (from, to) = sensor.covers(sensor.updated_ns(at_ns));
        self.mean_mw(gpu, from, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn script(sensor: &str) -> Script {
        format!("phase 1s power_w=100 util=0\nphase 1s power_w=300 util=100\n{sensor}").parse().unwrap()
    }

    #[test]
    fn a_value_stands_still_between_updates_and_is_the_mean_of_its_window() {
        let script = script("sensor power_instant period=100ms window=25ms phase=13ms");
        let at = |ms| script.shown_instant_mw(0, ms * MS);
        // The edge at 1000 ms lies 12 ms before the end of the window that is shown from 1013 ms on: 13 of 25 ms are new.
        assert_eq!([at(1012), at(1013), at(1112), at(1113)], [100_000, 204_000, 204_000, 300_000]);
    }

    #[test]
    fn the_average_and_the_counter_move_in_steps() {
        let script =
            script("sensor power_average period=100ms window=1s delay=50ms\nsensor energy period=100ms");
        assert_eq!(script.shown_average_mw(0, 1_599 * MS), 190_000);
        assert_eq!(script.shown_average_mw(0, 1_600 * MS), 210_000);
        assert_eq!([1_099, 1_100].map(|ms| script.shown_energy_mj(0, ms * MS)), [100_000, 130_000]);
    }

    #[test]
    fn utilisation_is_the_share_of_its_window() {
        let script = script("sensor util period=200ms window=200ms phase=50ms");
        assert_eq!([1_049, 1_050, 1_250].map(|ms| script.shown_util(0, ms * MS).util), [0, 25, 100]);
    }

    #[test]
    fn mistakes_are_told() {
        for bad in
            ["heat period=1s", "energy", "energy period=0s", "util period=1s window=0s", "util pace=1s"]
        {
            assert!(format!("sensor {bad}").parse::<Script>().is_err(), "{bad}");
        }
    }
}
