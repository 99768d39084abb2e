//! What the simulated GPUs do, as text: one statement a line, `#` starts a comment, durations are `250us`, `10ms` or
//! `1.5s`.
//!
//! | statement | meaning |
//! |---|---|
//! | `gpus 2` | number of GPUs, 0 to 16 (1 when unsaid) |
//! | `step_w 5` | each GPU draws this much more than the one before it |
//! | `phase 500ms power_w=300 util=97 …` | holds these values so long; what is unsaid stays as in the phase before |
//! | `once` | the last phase is held for ever; otherwise the phases repeat |
//! | `unsupported power_instant energy` | these calls answer "not supported" (see [`Call`]) |
//! | `lost 1 2s` | GPU 1 has fallen off the bus from this time on; `lost 1 2s until 5s`: till it is there again |
//! | `call_takes 2ms` | each call sleeps so long |
//! | `init_error 9` | `nvmlInit_v2` fails with this code (9: driver not loaded) |
//! | `follow FILE` | power, utilisations, SM clock and throttle bits are as another process says there (see `follow.rs`) |
//! | `sensor power_instant period=100ms window=25ms` | how this is updated and averaged (see [`crate::sensor`]) |
//! | `origin_raw_ns 123` | `CLOCK_MONOTONIC_RAW` at which the first phase starts; the first init when unsaid |
//!
//! More statements stand in `extras.rs`; what a board is and what the stand-in of CUDA does, in `card.rs`.
//!
//! Values of a phase: `power_w`, `util`, `mem_util` (%), `sm_mhz`, `mem_mhz`, `used_mib`, `temp_c`, `throttle` (bits).

use std::str::FromStr;

use crate::card::Card;
use crate::extras::Extras;
use crate::follow::Follow;
use crate::sensor::Sensors;

/// Played when no script is named: one GPU, a second of idling and a second of work in turn.
pub const DEFAULT: &str = "\
    phase 1s power_w=60 util=0 mem_util=0 sm_mhz=345 mem_mhz=1593 used_mib=1024 temp_c=35 throttle=1\n\
    phase 1s power_w=300 util=97 mem_util=60 sm_mhz=1980 mem_mhz=2619 used_mib=40000 temp_c=61 throttle=0\n";

const MOST_GPUS: u32 = 16;
const NS: i128 = 1_000_000_000;

/// What a phase holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Board power, W.
    pub power_w: u32,
    /// SM busy, %.
    pub util: u32,
    /// Memory busy, %.
    pub mem_util: u32,
    /// SM clock, MHz.
    pub sm_mhz: u32,
    /// Memory clock, MHz.
    pub mem_mhz: u32,
    /// Memory in use, MiB.
    pub used_mib: u32,
    /// Core temperature, °C.
    pub temp_c: u32,
    /// NVML's bits for why clocks are held down.
    pub throttle: u32,
}

const IDLE: Levels = Levels {
    power_w: 60,
    util: 0,
    mem_util: 0,
    sm_mhz: 345,
    mem_mhz: 1593,
    used_mib: 1024,
    temp_c: 35,
    throttle: 1,
};

/// A call, or one field of `nvmlDeviceGetFieldValues`, that a script can switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Call {
    FieldValues,
    PowerInstant,
    PowerAverage,
    EnergyField,
    PowerUsage,
    Energy,
    Utilization,
    SmClock,
    MemClock,
    Memory,
    Temperature,
    Throttle,
    Handle,
    PowerSamples,
    UtilSamples,
    MemUtilSamples,
    GpmSupport,
    GpmSample,
    GpmMetrics,
    Events,
    MigMode,
    Processes,
    PowerLimit,
    Link,
    MaxClock,
    Identity,
}

const CALLS: [(&str, Call); 26] = [
    ("field_values", Call::FieldValues),
    ("power_instant", Call::PowerInstant),
    ("power_average", Call::PowerAverage),
    ("energy_field", Call::EnergyField),
    ("power_usage", Call::PowerUsage),
    ("energy", Call::Energy),
    ("utilization", Call::Utilization),
    ("sm_clock", Call::SmClock),
    ("mem_clock", Call::MemClock),
    ("memory", Call::Memory),
    ("temperature", Call::Temperature),
    ("throttle", Call::Throttle),
    ("handle", Call::Handle),
    ("power_samples", Call::PowerSamples),
    ("util_samples", Call::UtilSamples),
    ("mem_util_samples", Call::MemUtilSamples),
    ("gpm_support", Call::GpmSupport),
    ("gpm_sample", Call::GpmSample),
    ("gpm_metrics", Call::GpmMetrics),
    ("events", Call::Events),
    ("mig_mode", Call::MigMode),
    ("processes", Call::Processes),
    ("power_limit", Call::PowerLimit),
    ("link", Call::Link),
    ("max_clock", Call::MaxClock),
    ("identity", Call::Identity),
];

/// The call of a name.
pub(crate) fn named_call(name: &str) -> Result<Call, String> {
    let known = CALLS.iter().find(|(known, _)| *known == name);
    known.map(|(_, call)| *call).ok_or_else(|| format!("unknown call {name}"))
}

/// A script, read. Times are ns since its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub(crate) gpus: u32,
    pub(crate) call_takes_ns: i64,
    pub(crate) init_error: Option<u32>,
    pub(crate) card: Card,
    pub(crate) origin_raw_ns: Option<i64>,
    pub(crate) follow: Option<Follow>,
    pub(crate) sensors: Sensors,
    step_w: u32,
    phases: Vec<(i64, Levels)>,
    once: bool,
    unsupported: Vec<Call>,
    lost: Vec<(u32, i64, i64)>,
    pub(crate) extras: Extras,
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut script = Self {
            gpus: 1,
            call_takes_ns: 0,
            init_error: None,
            card: Card::default(),
            origin_raw_ns: None,
            follow: None,
            sensors: Sensors::default(),
            step_w: 0,
            phases: Vec::new(),
            once: false,
            unsupported: Vec::new(),
            lost: Vec::new(),
            extras: Extras::default(),
        };
        for (i, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            script.take(&words).map_err(|e| format!("line {}: {e}", i + 1))?;
        }
        if script.phases.is_empty() {
            script.phases.push((NS as i64, IDLE));
        }
        Ok(script)
    }
}

impl Script {
    fn take(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            [] => {}
            ["gpus", n] => self.gpus = number(n).filter(|n| *n <= MOST_GPUS).ok_or("gpus takes 0 to 16")?,
            ["step_w", w] => self.step_w = number(w).ok_or("step_w takes watts")?,
            ["phase", time, values @ ..] => self.add_phase(duration(time)?, values)?,
            ["once"] => self.once = true,
            ["unsupported", calls @ ..] => {
                for name in calls {
                    self.unsupported.push(named_call(name)?);
                }
            }
            ["lost", gpu, from, until @ ..] => {
                let to = match until {
                    [] => i64::MAX,
                    ["until", to] => duration(to)?,
                    _ => return Err("lost takes a GPU, a time, and maybe `until TIME`".to_owned()),
                };
                self.lost.push((number(gpu).ok_or("lost takes a GPU and a time")?, duration(from)?, to));
            }
            ["call_takes", time] => self.call_takes_ns = duration(time)?,
            ["init_error", code] => self.init_error = Some(number(code).ok_or("init_error takes a code")?),
            ["follow", path @ ..] if !path.is_empty() => self.follow = Some(Follow::new(&path.join(" "))),
            ["sensor", name, values @ ..] => self.sensors.take(name, values)?,
            ["origin_raw_ns", ns] => {
                self.origin_raw_ns = Some(ns.parse().map_err(|_| "origin_raw_ns takes ns")?);
            }
            _ if self.extras.take(words)? => {}
            _ if self.card.take(words)? => {}
            _ => return Err(format!("unknown statement {words:?}")),
        }
        Ok(())
    }

    fn add_phase(&mut self, length_ns: i64, values: &[&str]) -> Result<(), String> {
        if length_ns == 0 {
            return Err("a phase needs a length".to_owned());
        }
        let mut levels = self.phases.last().map_or(IDLE, |(_, levels)| *levels);
        for value in values {
            let bad = || format!("expected NAME=NUMBER, got {value}");
            let (name, amount) = value.split_once('=').ok_or_else(bad)?;
            *levels.named(name).ok_or_else(|| format!("unknown value {name}"))? =
                number(amount).ok_or_else(bad)?;
        }
        self.phases.push((length_ns, levels));
        Ok(())
    }

    pub(crate) fn supports(&self, call: Call) -> bool {
        !self.unsupported.contains(&call)
    }

    pub(crate) fn is_lost(&self, gpu: u32, at_ns: i64) -> bool {
        self.lost.iter().any(|&(lost, from, to)| lost == gpu && (from..to).contains(&at_ns))
    }

    /// What a GPU shows at a time; before the origin, the first phase.
    pub fn levels(&self, gpu: u32, at_ns: i64) -> Levels {
        let mut left = self.folded(at_ns.max(0));
        let mut shown = IDLE;
        for &(length, levels) in &self.phases {
            shown = levels;
            if left < length {
                break;
            }
            left -= length;
        }
        if let Some(follow) = &self.follow {
            shown = follow.levels(self.raw(at_ns), shown);
        }
        Levels { power_w: shown.power_w.saturating_add(gpu.saturating_mul(self.step_w)), ..shown }
    }

    /// Energy since the origin, mJ: the exact integral of the scripted power.
    pub fn energy_mj(&self, gpu: u32, at_ns: i64) -> u64 {
        u64::try_from(self.integral(gpu, at_ns.max(0)) / NS).unwrap_or(u64::MAX)
    }

    /// Mean power over the second before a time, mW: what NVML calls average.
    pub fn average_mw(&self, gpu: u32, at_ns: i64) -> u32 {
        self.mean_mw(gpu, at_ns - NS as i64, at_ns)
    }

    /// Mean power over a span of time, mW.
    pub(crate) fn mean_mw(&self, gpu: u32, from_ns: i64, to_ns: i64) -> u32 {
        let spent = self.integral(gpu, to_ns) - self.integral(gpu, from_ns);
        u32::try_from(spent / i128::from((to_ns - from_ns).max(1))).unwrap_or(u32::MAX)
    }

    fn raw(&self, at_ns: i64) -> i64 {
        self.origin_raw_ns.unwrap_or(0).saturating_add(at_ns)
    }

    fn period(&self) -> i64 {
        self.phases.iter().map(|(length, _)| length).sum::<i64>().max(1)
    }

    fn folded(&self, at_ns: i64) -> i64 {
        if self.once { at_ns } else { at_ns.rem_euclid(self.period()) }
    }

    /// ∫ power over [0, at], mW·ns.
    fn integral(&self, gpu: u32, at_ns: i64) -> i128 {
        let mw =
            |levels: Levels| 1000 * (i128::from(levels.power_w) + i128::from(gpu) * i128::from(self.step_w));
        if let Some(follow) = &self.follow {
            let idle_w = self.phases.first().map_or(0, |(_, levels)| levels.power_w);
            let followed = follow.integral(self.raw(0), self.raw(at_ns), idle_w);
            return 1000 * (followed + i128::from(at_ns) * i128::from(gpu) * i128::from(self.step_w));
        }
        if at_ns < 0 {
            return i128::from(at_ns) * self.phases.first().map_or(0, |(_, levels)| mw(*levels));
        }
        let whole: i128 = self.phases.iter().map(|&(length, levels)| i128::from(length) * mw(levels)).sum();
        let rounds = if self.once { 0 } else { i128::from(at_ns / self.period()) };
        let mut left = i128::from(self.folded(at_ns));
        let mut sum = rounds * whole;
        for (i, &(length, levels)) in self.phases.iter().enumerate() {
            let holds = self.once && i + 1 == self.phases.len();
            let spent = if holds { left } else { left.min(i128::from(length)) };
            sum += spent * mw(levels);
            left -= spent;
        }
        sum
    }
}

impl Levels {
    fn named(&mut self, name: &str) -> Option<&mut u32> {
        Some(match name {
            "power_w" => &mut self.power_w,
            "util" => &mut self.util,
            "mem_util" => &mut self.mem_util,
            "sm_mhz" => &mut self.sm_mhz,
            "mem_mhz" => &mut self.mem_mhz,
            "used_mib" => &mut self.used_mib,
            "temp_c" => &mut self.temp_c,
            "throttle" => &mut self.throttle,
            _ => return None,
        })
    }
}

pub(crate) fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Up to a day, so that sums of phases cannot overflow.
pub(crate) fn duration(text: &str) -> Result<i64, String> {
    let units = [("us", 1e3), ("ms", 1e6), ("s", 1e9)];
    let read = units.iter().find_map(|(unit, ns)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * ns));
    read.filter(|ns| (0.0..=86_400e9).contains(ns))
        .map(|ns| ns as i64)
        .ok_or_else(|| format!("expected a time such as 250us, 10ms or 1.5s, got {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn script(text: &str) -> Script {
        text.parse().unwrap()
    }

    #[test]
    fn phases_follow_each_other_keep_what_is_unsaid_and_repeat() {
        let square = script("phase 1s power_w=60 util=0 # idle\nphase 500ms power_w=300\nstep_w 5");
        let watts = |at| square.levels(0, at).power_w;
        assert_eq!([-1, 0, S - 1, S, S + S / 2 - 1, S + S / 2].map(watts), [60, 60, 60, 300, 300, 60]);
        assert_eq!(square.levels(3, S).power_w, 315);
        assert_eq!(square.levels(0, S).temp_c, IDLE.temp_c);
        let held = script("phase 1s power_w=60\nphase 500ms power_w=300\nonce");
        assert_eq!(held.levels(0, 100 * S).power_w, 300);
    }

    #[test]
    fn energy_and_average_are_integrals_of_power() {
        let square = script("phase 1s power_w=100\nphase 1s power_w=300");
        assert_eq!(
            [0, S / 2, S, 2 * S, 5 * S].map(|at| square.energy_mj(0, at)),
            [0, 50_000, 100_000, 400_000, 900_000]
        );
        assert_eq!(square.average_mw(0, 0), 100_000);
        assert_eq!(square.average_mw(0, S + S / 2), 200_000);
        assert_eq!(square.average_mw(0, 2 * S), 300_000);
        let held = script("phase 1s power_w=100\nphase 1s power_w=300\nonce");
        assert_eq!(held.energy_mj(0, 10 * S), 100_000 + 9 * 300_000);
    }

    #[test]
    fn mistakes_name_their_line() {
        for bad in
            ["gpus 17", "phase 0s", "phase 5", "phase 1s heat=4", "unsupported colour", "what", "lost 1"]
        {
            let said = format!("gpus 1\n{bad}").parse::<Script>().unwrap_err();
            assert!(said.starts_with("line 2: "), "{bad}: {said}");
        }
        assert!(DEFAULT.parse::<Script>().is_ok());
    }
}
