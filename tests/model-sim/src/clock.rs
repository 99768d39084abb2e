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

/// Whole seconds since the Unix epoch, for the `created` field of replies.
pub(crate) fn unix_seconds() -> i64 {
    read(ClockId::CLOCK_REALTIME) / 1_000_000_000
}

fn read(id: ClockId) -> i64 {
    // These three clocks exist on every Linux; a 0 would show at once as absurd.
    clock_gettime(id).map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}
