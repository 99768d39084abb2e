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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) raw_ns: i64,
    pub(crate) unix_ns: i64,
}

impl Pair {
    /// The two readings are tens of nanoseconds apart; a task switch between them is seen, and read over again.
    pub(crate) fn read() -> Self {
        const CLOSE_NS: i64 = 300;
        let once = || {
            let (before, unix_ns, after) = (raw_ns(), unix_ns(), raw_ns());
            (after - before, Self { raw_ns: before + (after - before) / 2, unix_ns })
        };
        let (mut width, mut pair) = once();
        for _ in 0..4 {
            if width <= CLOSE_NS {
                break;
            }
            let again = once();
            if again.0 < width {
                (width, pair) = again;
            }
        }
        pair
    }
}

/// The wall clock over a request, between its readings at both ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wall {
    pub(crate) from: Pair,
    pub(crate) to: Pair,
}

impl Wall {
    /// A stamp of the RAW clock on the wall, which may gain or lose evenly meanwhile.
    pub(crate) fn unix_ns(&self, raw_ns: i64) -> u64 {
        let [from, to] = [self.from, self.to].map(|pair| pair.unix_ns - pair.raw_ns);
        let (gone, whole) =
            (i128::from(raw_ns - self.from.raw_ns), i128::from(self.to.raw_ns - self.from.raw_ns));
        let gained = i128::from(to - from) * gone.clamp(0, whole.max(0)) / whole.max(1);
        u64::try_from(i128::from(raw_ns + from) + gained).unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_gains_is_followed() {
        let wall =
            Wall { from: Pair { raw_ns: 1_000, unix_ns: 5_000 }, to: Pair { raw_ns: 3_000, unix_ns: 7_100 } };
        assert_eq!(
            [0, 1_000, 2_000, 3_000, 4_000].map(|raw_ns| wall.unix_ns(raw_ns)),
            [4_000, 5_000, 6_050, 7_100, 8_100]
        );
        let pair = Pair::read();
        assert_eq!(Wall { from: pair, to: pair }.unix_ns(pair.raw_ns), pair.unix_ns.cast_unsigned());
    }
}
