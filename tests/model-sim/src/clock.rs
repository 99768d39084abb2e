//! This crate's own door to time (it shares none with the tool under test). Stamps are ns of `CLOCK_MONOTONIC_RAW`.

use nix::time::{ClockId, clock_gettime};

/// Now, in ns of `CLOCK_MONOTONIC_RAW`: the clock of every stamp in the truth log.
pub fn raw_ns() -> i64 {
    read(ClockId::CLOCK_MONOTONIC_RAW)
}

/// Now, in ns of `CLOCK_MONOTONIC`: only for arming timers, which can't run on RAW.
pub(crate) fn monotonic_ns() -> i64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Now, in ns since the Unix epoch.
pub fn unix_ns() -> i64 {
    read(ClockId::CLOCK_REALTIME)
}

/// The RAW clock and the wall clock, read together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WallPair {
    pub(crate) raw_ns: i64,
    pub(crate) unix_ns: i64,
}

impl WallPair {
    /// The closest of a few readings, so that a task switch between the two clocks does not shift a stamp.
    pub(crate) fn read() -> Self {
        let once = || {
            let (before, unix_ns, after) = (raw_ns(), unix_ns(), raw_ns());
            (after - before, Self { raw_ns: before + (after - before) / 2, unix_ns })
        };
        let (mut width, mut pair) = once();
        for _ in 0..4 {
            let next = once();
            if next.0 < width {
                (width, pair) = next;
            }
        }
        pair
    }

    /// A stamp of the RAW clock on the wall.
    pub(crate) fn unix_ns(&self, raw_ns: i64) -> u64 {
        u64::try_from(raw_ns - self.raw_ns + self.unix_ns).unwrap_or(0)
    }
}

/// Whole seconds since the Unix epoch, for the `created` field of replies.
pub(crate) fn unix_seconds() -> i64 {
    read(ClockId::CLOCK_REALTIME) / 1_000_000_000
}

fn read(id: ClockId) -> i64 {
    // These three clocks exist on every Linux; a 0 would show at once as absurd.
    clock_gettime(id).map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}
