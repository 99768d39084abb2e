//! The driver's own buffers of samples, which it stamps itself with the wall clock, finer than any polling: power each
//! ~20 ms on an H100. Only what is newer than the last seen is taken; its stamps are carried to the raw clock.

use nvml_wrapper::device::Device;
use nvml_wrapper::enum_wrappers::device::Sampling;
use nvml_wrapper::error::NvmlError;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;

use super::answers::{Answers, Loss, Reading};
use super::fields::whole;

/// The wall clock may be slewed by this much between a sample and its reading (what Linux does at most: 500 ppm).
const SLEW: f64 = 500e-6;
/// The offset between the clocks is measured so often at each read.
const TRIES: usize = 3;
/// A stamp further back or ahead is no time of the wall clock's, ns.
const OLDEST_NS: i64 = 3_600_000_000_000;
const NEWEST_NS: i64 = 1_000_000_000;

/// One buffer of one card.
#[derive(Debug)]
pub(crate) struct Buffer {
    reading: Reading,
    signal: v1::Signal,
    kind: Sampling,
    last_seen_us: u64,
    offset: Option<Offset>,
}

/// Wall clock minus raw clock, ns, and how far that may be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offset {
    ns: i64,
    bound_ns: i64,
    raw_ns: i64,
}

impl Offset {
    /// The narrowest of a few tries: between two of these reads a thread may have to wait for its core.
    fn now() -> Self {
        let tries = (0..TRIES).map(|_| Self::once());
        tries.min_by_key(|offset| offset.bound_ns).unwrap_or_else(Self::once)
    }

    fn once() -> Self {
        let before = HostClock.now();
        let wall = HostClock.realtime();
        let after = HostClock.now();
        let raw_ns = before + (after - before) / 2;
        Self { ns: wall - raw_ns, bound_ns: (after - before + 1) / 2, raw_ns }
    }
}

impl Buffer {
    /// Of power, utilisation and memory utilisation; what they hold from before now is not taken.
    pub(crate) fn all() -> [Self; 3] {
        let now_us = HostClock.realtime().unsigned_abs() / 1_000;
        let of = |reading, signal, kind| Self { reading, signal, kind, last_seen_us: now_us, offset: None };
        [
            of(Reading::PowerSamples, v1::Signal::PowerSamples, Sampling::Power),
            of(Reading::UtilSamples, v1::Signal::GpuUtilSamples, Sampling::GpuUtilization),
            of(Reading::MemUtilSamples, v1::Signal::MemUtilSamples, Sampling::MemoryUtilization),
        ]
    }

    /// What came into it since the last time.
    ///
    /// # Errors
    /// When the card is gone.
    pub(crate) fn read(
        &mut self,
        gpu: u32,
        device: &Device<'_>,
        answers: &mut Answers,
    ) -> Result<Option<v1::DriverSamples>, Loss> {
        let read = || match device.samples(self.kind, self.last_seen_us) {
            // Nothing new.
            Err(NvmlError::NotFound | NvmlError::NoData) => Ok(Vec::new()),
            other => other,
        };
        let Some(samples) = answers.ask(self.reading, read)? else { return Ok(None) };
        let scale = if self.signal == v1::Signal::PowerSamples { 1e-3 } else { 1.0 };
        let read = samples.iter().filter_map(|s| Some((s.timestamp, whole(&s.value)? as f64 * scale)));
        let newer: Vec<(u64, f64)> = read.filter(|(us, _)| *us > self.last_seen_us).collect();
        let now = Offset::now();
        let before = self.offset.replace(now);
        let carried = carry(newer, now, before);
        let Some(&(last_us, ..)) = carried.samples.last() else { return Ok(None) };
        self.last_seen_us = last_us;
        Ok(Some(v1::DriverSamples {
            gpu,
            signal: self.signal as i32,
            raw_ns: carried.samples.iter().map(|&(_, raw, _)| raw).collect(),
            values: carried.samples.iter().map(|&(.., value)| value).collect(),
            bound_ns: carried.bound_ns,
        }))
    }
}

/// Samples on the raw clock: (the driver's stamp in µs, ns, value).
struct Carried {
    samples: Vec<(u64, i64, f64)>,
    bound_ns: i64,
}

/// Carries stamps over by the offset as it is now. The bound holds the measuring of the offset, a stamp's own grain, what
/// the wall clock may be slewed since the oldest sample, and any step since the offset was last measured.
fn carry(mut newer: Vec<(u64, f64)>, now: Offset, before: Option<Offset>) -> Carried {
    newer.sort_by_key(|(us, _)| *us);
    newer.dedup_by_key(|(us, _)| *us);
    let raw = |us: u64| i64::try_from(us).ok()?.checked_mul(1_000)?.checked_sub(now.ns);
    let possible = (now.raw_ns - OLDEST_NS)..(now.raw_ns + NEWEST_NS);
    let placed = newer.into_iter().filter_map(|(us, value)| Some((us, raw(us)?, value)));
    let samples: Vec<_> = placed.filter(|(_, raw, _)| possible.contains(raw)).collect();
    let age = samples.first().map_or(0, |(_, raw, _)| (now.raw_ns - raw).max(0));
    let slewed = (age as f64 * SLEW).ceil() as i64;
    let moved = before.map_or(0, |before| {
        let slews = ((now.raw_ns - before.raw_ns) as f64 * SLEW).ceil() as i64;
        // Less than slewing may do is in the bound already.
        let by = (now.ns - before.ns).abs();
        if by > slews + now.bound_ns + before.bound_ns { by } else { 0 }
    });
    Carried { samples, bound_ns: now.bound_ns + 1_000 + slewed + moved }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn offset(ns: i64, raw_ns: i64) -> Offset {
        Offset { ns, bound_ns: 50, raw_ns }
    }

    #[test]
    fn stamps_are_carried_by_the_offset_and_sorted_each_once() {
        let wall = 1_700_000_000 * S;
        let us = |raw: i64| ((wall + raw) / 1_000).unsigned_abs();
        let samples = vec![(us(9 * S), 2.0), (us(8 * S), 1.0), (us(9 * S), 2.0)];
        let carried = carry(samples, offset(wall, 10 * S), Some(offset(wall, 9 * S)));
        assert_eq!(carried.samples, [(us(8 * S), 8 * S, 1.0), (us(9 * S), 9 * S, 2.0)]);
        // 500 ppm of the two seconds since the oldest.
        assert_eq!(carried.bound_ns, 50 + 1_000 + 1_000_000);
    }

    #[test]
    fn a_step_of_the_wall_clock_widens_the_bound_and_absurd_stamps_are_left_out() {
        let wall = 1_700_000_000 * S;
        let stamp = ((wall + 9 * S) / 1_000).unsigned_abs();
        let carried = carry(vec![(stamp, 1.0)], offset(wall, 10 * S), Some(offset(wall - S / 2, 9 * S)));
        assert!(carried.bound_ns > S / 2 && carried.samples.len() == 1, "{}", carried.bound_ns);
        for absurd in [0, 12_345, u64::MAX, stamp + 5_000_000] {
            assert!(carry(vec![(absurd, 1.0)], offset(wall, 10 * S), None).samples.is_empty(), "{absurd}");
        }
    }
}
