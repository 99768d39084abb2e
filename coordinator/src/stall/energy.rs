//! Joules over a stall. The energy counter moves in steps: what it shows at a time is the energy up to some moment at most
//! one period before. Readings before and after both ends therefore bound the truth from both sides.

use super::gaps::Gap;
use super::readings::{Card, Counted, Shows};

/// How old the counter may be where that was not measured: five times the 100 ms seen on an H100, ns.
const ASSUMED_AGE_NS: i64 = 500_000_000;
/// So many of the driver's power samples give a mean.
const ENOUGH_SAMPLES: usize = 5;
/// A measured 95th percentile of its period is widened by this.
const AGE_MARGIN: f64 = 1.25;

/// Energy over a stall.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Energy {
    /// Best guess, J: the counter, read between its steps.
    pub joules: f64,
    /// At least, J.
    pub low: f64,
    /// At most, J.
    pub high: f64,
    /// What it is from: `counter` bounds hold whatever the power did, `power` ones as far as its readings are typical.
    pub method: &'static str,
}

/// All GPUs together.
pub(super) fn sum(all: Vec<Energy>) -> Energy {
    let start = Energy { joules: 0.0, low: 0.0, high: 0.0, method: all.first().map_or("", |e| e.method) };
    all.iter().fold(start, |sum, one| Energy {
        joules: sum.joules + one.joules,
        low: sum.low + one.low,
        high: sum.high + one.high,
        method: if sum.method == one.method { sum.method } else { "power" },
    })
}

pub(super) fn over(card: &Card, gap: &Gap) -> Option<Energy> {
    by_counter(card, gap).or_else(|| by_power(card, gap))
}

fn by_counter(card: &Card, gap: &Gap) -> Option<Energy> {
    let age = card.energy_age_ns.map_or(ASSUMED_AGE_NS, |ns| (ns as f64 * AGE_MARGIN) as i64);
    let bound = gap.bound_ns + card.bound_ns;
    let readings = &card.energy;
    let before = |ns: i64| readings.iter().rposition(|r| r.ended_ns <= ns);
    let after = |ns: i64| readings.iter().position(|r| r.began_ns >= ns);
    // Shown at the start: no more than was used by then; and a period later, no less.
    let (start_low, start_high) = (before(gap.from_ns - bound)?, after(gap.from_ns + bound + age)?);
    let (end_low, end_high) = (before(gap.to_ns - bound)?, after(gap.to_ns + bound + age)?);
    // A counter that runs backwards was reset: a driver was loaded anew.
    if !readings.get(start_low..=end_high)?.is_sorted_by_key(|r| r.mj) {
        return None;
    }
    let joules = |from: usize, to: usize| readings[to].mj.saturating_sub(readings[from].mj) as f64 / 1e3;
    let (low, high) = (joules(start_high, end_low), joules(start_low, end_high));
    // Half a period behind on average; the driver's own power samples are finer where there are enough.
    let stepped = between(readings, gap.to_ns + age / 2)? - between(readings, gap.from_ns + age / 2)?;
    let guess = by_samples(card, gap).unwrap_or(stepped / 1e3);
    Some(Energy { joules: guess.max(low).min(high), low, high, method: "counter" })
}

/// Mean of the driver's own power samples from within, times the time.
fn by_samples(card: &Card, gap: &Gap) -> Option<f64> {
    let inside = card.series.get(&Shows::PowerSamples)?.within(gap.from_ns, gap.to_ns);
    let mean = inside.iter().sum::<f64>() / inside.len() as f64;
    (inside.len() >= ENOUGH_SAMPLES).then(|| mean * (gap.to_ns - gap.from_ns) as f64 / 1e9)
}

/// The counter at a time, on a straight line between readings, mJ.
fn between(readings: &[Counted], ns: i64) -> Option<f64> {
    let next = readings.partition_point(|r| r.began_ns < ns);
    let (b, a) = (readings.get(next)?, readings.get(next.checked_sub(1)?)?);
    let share = (ns - a.began_ns) as f64 / (b.began_ns - a.began_ns).max(1) as f64;
    Some(a.mj as f64 + share * (b.mj as f64 - a.mj as f64))
}

/// From power, for a card without a counter: mean of what speaks of the stall alone, and from the lowest to the highest
/// value near it.
fn by_power(card: &Card, gap: &Gap) -> Option<Energy> {
    let near = |shows| {
        let series = card.series.get(&shows)?;
        let (from, to) = (gap.from_ns - series.reach.oldest_ns, gap.to_ns + series.reach.oldest_ns);
        let values = series.near.iter().filter(|r| (from..=to).contains(&r.at_ns)).map(|r| r.value);
        Some((series, values.collect::<Vec<f64>>())).filter(|(_, values)| !values.is_empty())
    };
    let (series, values) = [Shows::PowerSamples, Shows::PowerInstant].into_iter().find_map(near)?;
    let seconds = (gap.to_ns - gap.from_ns) as f64 / 1e9;
    let inside = series.within(gap.from_ns, gap.to_ns);
    let of = if inside.is_empty() { &values } else { &inside };
    let joules = of.iter().sum::<f64>() / of.len() as f64 * seconds;
    let low = values.iter().copied().fold(f64::INFINITY, f64::min) * seconds;
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max) * seconds;
    Some(Energy { joules: joules.max(low).min(high), low, high, method: "power" })
}
