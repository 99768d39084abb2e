//! How long a level is.

use crate::axis::{Load, Rate};

use super::seen::Seen;

/// What a search asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// The load.
    pub load: Load,
    /// Warm-up, ns.
    pub warmup_ns: i64,
    /// Measured window, ns.
    pub duration_ns: i64,
}

impl Ask {
    /// What it takes at least, s.
    pub fn seconds(&self) -> f64 {
        (self.warmup_ns + self.duration_ns) as f64 / 1e9
    }
}

/// How long levels are, where the user said so or by what requests take.
#[derive(Clone, Debug)]
pub struct Lengths {
    /// Given by the user.
    pub warmup_ns: Option<i64>,
    /// Given by the user.
    pub duration_ns: Option<i64>,
    /// Of the first level, and of any other at least, ns.
    pub shortest_ns: i64,
    /// Of any level, ns.
    pub longest_ns: i64,
}

impl Default for Lengths {
    fn default() -> Self {
        Self { warmup_ns: None, duration_ns: None, shortest_ns: 2_000_000_000, longest_ns: 300_000_000_000 }
    }
}

/// Requests of a window: some 5 % on its throughput before any fit, and a p95 with an interval.
const REQUESTS: f64 = 300.0;
/// Lives of a request that a window holds at least, …
const LIVES_MIN: f64 = 8.0;
/// … and at most, when it is not long enough for `REQUESTS`.
const LIVES_MAX: f64 = 60.0;
/// Lives of a request before the window: those that started together have parted, and a queue is as long as it gets.
const WARMUP_LIVES: f64 = 2.0;

impl Lengths {
    /// A level of this load, after what was seen; longer than the last one that was of no use, where nobody said how long.
    pub(super) fn ask(&self, load: Load, seen: &[Seen]) -> Ask {
        let tries = seen.iter().filter(|seen| seen.load == load && seen.trouble.is_some()).count() as u32;
        let ask = self.of_life(load, life(load, seen));
        if self.duration_ns.is_some() {
            return ask;
        }
        let longer = ask.duration_ns.saturating_mul(1 << tries.min(3));
        Ask { duration_ns: longer.min(self.longest_ns), ..ask }
    }

    /// A level of this load, where a request takes so long.
    pub fn of_life(&self, load: Load, life_s: f64) -> Ask {
        let needed = |lives: f64| ((lives * life_s * 1e9) as i64).min(self.longest_ns);
        let lives = (REQUESTS / load.x().max(1.0)).clamp(LIVES_MIN, LIVES_MAX);
        let lives = if load.is_open() { LIVES_MIN } else { lives };
        let of_rate = if load.is_open() { (REQUESTS / load.x() * 1e9) as i64 } else { 0 };
        let duration_ns = needed(lives).max(of_rate).clamp(self.shortest_ns, self.longest_ns);
        Ask {
            load,
            warmup_ns: self.warmup_ns.unwrap_or_else(|| needed(WARMUP_LIVES)),
            duration_ns: self.duration_ns.unwrap_or(duration_ns),
        }
    }
}

/// How long a request is likely to take at a load, s: at the nearest load below or above, in proportion where more of
/// them share a throughput that grows no more. 0 before anything is known.
fn life(load: Load, seen: &[Seen]) -> f64 {
    let known = || seen.iter().filter(|seen| seen.life_s > 0.0);
    if load.is_open() {
        // The shortest is the service's own; what is longer waited, and would make levels as long as the wait.
        return known().map(|seen| seen.life_s).reduce(f64::min).unwrap_or(0.0);
    }
    let apart = |seen: &&Seen| (seen.load.x() / load.x()).ln().abs();
    let Some(nearest) = known().min_by(|a, b| apart(a).total_cmp(&apart(b))) else { return 0.0 };
    let below = known().filter(|seen| seen.load.x() < nearest.load.x());
    let before = below.max_by(|a, b| a.load.x().total_cmp(&b.load.x()));
    // As steeply as it last grew, which is not at all below a knee and in proportion beyond.
    let slope = before.map_or(0.0, |before| {
        (nearest.life_s / before.life_s).ln() / (nearest.load.x() / before.load.x()).ln()
    });
    nearest.life_s * (load.x() / nearest.load.x()).powf(slope.clamp(0.0, 1.0))
}

/// A load near `x`: a whole number of streams, or a rate of three digits.
pub(super) fn load(x: f64, open: bool) -> Load {
    if !open {
        return Load::Streams(x.round().clamp(1.0, f64::from(u32::MAX)) as u32);
    }
    let digit = 10f64.powf(x.abs().log10().floor() - 2.0);
    // Through the text that it is written as: 0.30000000000000004 is nobody's rate.
    let rounded = (x / digit).round() * digit;
    Load::Rate(Rate(format!("{rounded:.6}").parse().unwrap_or(rounded)))
}
