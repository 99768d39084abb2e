//! The driver's own buffers of samples, which it stamps itself with the wall clock, finer than any polling: power each
//! ~20 ms on an H100. Only what is newer than the last seen is taken; its stamps are carried to the raw clock.

use std::collections::VecDeque;

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
/// Stamps remembered: more than a driver keeps.
const REMEMBERED: usize = 4_096;
/// A stamp further back or ahead is no time of the wall clock's, ns.
const OLDEST_NS: i64 = 3_600_000_000_000;
const NEWEST_NS: i64 = 1_000_000_000;

/// One buffer of one card.
#[derive(Debug)]
pub(crate) struct Buffer {
    reading: Reading,
    signal: v1::Signal,
    kind: Sampling,
    seen: Seen,
    offset: Offset,
}

/// What was taken of a buffer: all up to a time, and, as the wall clock may step back over it, which stamps of late.
#[derive(Debug)]
struct Seen {
    last_us: u64,
    stamps: VecDeque<u64>,
}

/// Tells a person that the wall clock stepped back: once, though every buffer finds out.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    known: Option<Offset>,
    /// What is to be told.
    pub(crate) news: Option<String>,
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

    fn wall_us(&self) -> u64 {
        self.raw_ns.saturating_add(self.ns).unsigned_abs() / 1_000
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
        let offset = Offset::now();
        let of = |reading, signal, kind| Self {
            reading,
            signal,
            kind,
            seen: Seen::until(offset.wall_us()),
            offset,
        };
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
        steps: &mut Steps,
    ) -> Result<Option<v1::DriverSamples>, Loss> {
        let now = Offset::now();
        let before = std::mem::replace(&mut self.offset, now);
        let back_ns = stepped(before, now).map_or(0, |by| (-by).max(0));
        if back_ns > 0 {
            self.seen.step_back(back_ns);
            steps.see(back_ns, now);
        }
        let read = || match device.samples(self.kind, self.seen.last_us) {
            // Nothing new.
            Err(NvmlError::NotFound | NvmlError::NoData) => Ok(Vec::new()),
            other => other,
        };
        let Some(samples) = answers.ask(self.reading, read)? else { return Ok(None) };
        let scale = if self.signal == v1::Signal::PowerSamples { 1e-3 } else { 1.0 };
        let read = samples.iter().filter_map(|s| Some((s.timestamp, whole(&s.value)? as f64 * scale)));
        let mut newer = self.seen.newer(read);
        if back_ns > 0 {
            // Stamped before the step, and not yet taken: by which offset, nobody knows.
            newer.retain(|(us, _)| *us <= now.wall_us());
        }
        let carried = carry(newer, now, before);
        let Some(&(last_us, ..)) = carried.samples.last() else { return Ok(None) };
        self.seen.last_us = last_us;
        Ok(Some(v1::DriverSamples {
            gpu,
            signal: self.signal as i32,
            raw_ns: carried.samples.iter().map(|&(_, raw, _)| raw).collect(),
            values: carried.samples.iter().map(|&(.., value)| value).collect(),
            bound_ns: carried.bound_ns,
        }))
    }
}

impl Seen {
    fn until(last_us: u64) -> Self {
        Self { last_us, stamps: VecDeque::new() }
    }

    /// What comes now has stamps that much lower than it would have had.
    fn step_back(&mut self, by_ns: i64) {
        self.last_us = self.last_us.saturating_sub(by_ns.unsigned_abs().div_ceil(1_000));
    }

    /// Those that are new. What was there before the wall clock stepped back may have stamps after it.
    fn newer(&mut self, read: impl Iterator<Item = (u64, f64)>) -> Vec<(u64, f64)> {
        let is_new = |(us, _): &(u64, f64)| *us > self.last_us && !self.stamps.contains(us);
        let newer: Vec<_> = read.filter(is_new).collect();
        self.stamps.extend(newer.iter().map(|(us, _)| *us));
        self.stamps.drain(..self.stamps.len().saturating_sub(REMEMBERED));
        newer
    }
}

impl Steps {
    fn see(&mut self, back_ns: i64, now: Offset) {
        let known = self.known.replace(now);
        if known.is_some_and(|known| stepped(known, now).is_none()) {
            return;
        }
        let s = back_ns as f64 / 1e9;
        let what = "some of the driver's own samples about it are missing or misplaced";
        self.news = Some(format!("the wall clock stepped back by {s:.3} s: {what}"));
    }
}

/// By how much the wall clock was set between two looks at it, ns; `None` when slewing explains what it did.
fn stepped(before: Offset, now: Offset) -> Option<i64> {
    let slews = ((now.raw_ns - before.raw_ns) as f64 * SLEW).ceil() as i64;
    let by = now.ns - before.ns;
    (by.abs() > slews + now.bound_ns + before.bound_ns).then_some(by)
}

/// Samples on the raw clock: (the driver's stamp in µs, ns, value).
struct Carried {
    samples: Vec<(u64, i64, f64)>,
    bound_ns: i64,
}

/// Carries stamps over by the offset as it is now. The bound holds the measuring of the offset, a stamp's own grain, what
/// the wall clock may be slewed since the oldest sample, and any step since the offset was last measured.
fn carry(mut newer: Vec<(u64, f64)>, now: Offset, before: Offset) -> Carried {
    newer.sort_by_key(|(us, _)| *us);
    newer.dedup_by_key(|(us, _)| *us);
    let raw = |us: u64| i64::try_from(us).ok()?.checked_mul(1_000)?.checked_sub(now.ns);
    let possible = (now.raw_ns - OLDEST_NS)..(now.raw_ns + NEWEST_NS);
    let placed = newer.into_iter().filter_map(|(us, value)| Some((us, raw(us)?, value)));
    let samples: Vec<_> = placed.filter(|(_, raw, _)| possible.contains(raw)).collect();
    let age = samples.first().map_or(0, |(_, raw, _)| (now.raw_ns - raw).max(0));
    let slewed = (age as f64 * SLEW).ceil() as i64;
    // Less than slewing may do is in the bound already.
    let moved = stepped(before, now).map_or(0, i64::abs);
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
        let carried = carry(samples, offset(wall, 10 * S), offset(wall, 9 * S));
        assert_eq!(carried.samples, [(us(8 * S), 8 * S, 1.0), (us(9 * S), 9 * S, 2.0)]);
        // 500 ppm of the two seconds since the oldest.
        assert_eq!(carried.bound_ns, 50 + 1_000 + 1_000_000);
    }

    #[test]
    fn a_step_of_the_wall_clock_widens_the_bound_and_absurd_stamps_are_left_out() {
        let wall = 1_700_000_000 * S;
        let stamp = ((wall + 9 * S) / 1_000).unsigned_abs();
        let carried = carry(vec![(stamp, 1.0)], offset(wall, 10 * S), offset(wall - S / 2, 9 * S));
        assert!(carried.bound_ns > S / 2 && carried.samples.len() == 1, "{}", carried.bound_ns);
        for absurd in [0, 12_345, u64::MAX, stamp + 5_000_000] {
            assert!(
                carry(vec![(absurd, 1.0)], offset(wall, 10 * S), offset(wall, 9 * S)).samples.is_empty(),
                "{absurd}"
            );
        }
    }

    #[test]
    fn after_the_wall_clock_stepped_back_new_samples_are_taken_and_old_ones_not_again() {
        // A sample each 20 ms; the wall clock goes back by 300 ms after the one of 10 s.
        let us = |ms: u64| 1_700_000_000_000_000 + ms * 1_000;
        let all = |from: u64, to: u64| (from..=to).step_by(20).map(move |ms| (us(ms), ms as f64));
        let mut seen = Seen::until(us(9_000));
        assert_eq!(seen.newer(all(8_000, 10_000)).len(), 50);
        seen.last_us = us(10_000);
        seen.step_back(300_000_000);
        // What the driver still keeps, then what came since, which the clock stamps 9.707 s and on.
        let since = |to: u64| (9_707..=to).step_by(20).map(|ms| (us(ms), -1.0));
        let newer = seen.newer(all(8_000, 10_000).chain(since(9_800)));
        assert_eq!(newer, since(9_800).collect::<Vec<_>>());
        seen.last_us = us(9_800);
        let newer = seen.newer(all(8_000, 10_000).chain(since(9_900)));
        assert!(newer.len() == 5 && newer.iter().all(|(_, value)| *value < 0.0), "{newer:?}");
    }

    #[test]
    fn only_a_step_beyond_slewing_counts_and_it_is_told_once() {
        let wall = 1_700_000_000 * S;
        let (before, slewed) = (offset(wall, 9 * S), offset(wall - 400_000, 10 * S));
        assert_eq!(stepped(before, slewed), None);
        let now = offset(wall - 2 * S, 10 * S);
        assert_eq!((stepped(before, now), stepped(now, before)), (Some(-2 * S), Some(2 * S)));
        let mut steps = Steps::default();
        let mut told = |back_ns, now| {
            steps.see(back_ns, now);
            steps.news.take()
        };
        assert!(told(2 * S, now).unwrap().contains("back by 2.000 s"));
        assert_eq!(told(2 * S, offset(wall - 2 * S - 1_000, 11 * S)), None);
        assert!(told(3 * S, offset(wall - 5 * S, 20 * S)).is_some());
    }
}
