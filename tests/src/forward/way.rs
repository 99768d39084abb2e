//! How long one way through a forwarder takes.

use std::time::Duration;

/// Least that is awaited asleep: a sleep may end this much late, and the rest is spun.
const SPIN_NS: i64 = 80_000;
/// Jitter is exponential and ends here, in multiples of its mean.
const LONGEST: f64 = 10.0;

/// One way's delay: a constant, and jitter on top that is drawn for every piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// What every byte takes.
    pub base: Duration,
    /// Mean of the exponential jitter.
    pub jitter: Duration,
    /// Of the jitter.
    pub seed: u64,
}

impl Way {
    /// A constant delay.
    pub fn constant(base: Duration) -> Self {
        Self { base, ..Self::default() }
    }

    pub(super) fn delay_ns(&self, random: &mut fastrand::Rng) -> i64 {
        let jitter = (-(1.0 - random.f64()).ln()).min(LONGEST) * self.jitter.as_nanos() as f64;
        i64::try_from(self.base.as_nanos()).unwrap_or(i64::MAX / 2) + jitter as i64
    }
}

/// Waits for a moment of the raw clock, to the microsecond.
pub(super) fn wait_until(due_ns: i64) {
    use tailcliff_proto::clock::HostClock;
    let ahead = due_ns - HostClock.now() - SPIN_NS;
    if ahead > 0 {
        std::thread::sleep(Duration::from_nanos(ahead.unsigned_abs()));
    }
    while HostClock.now() < due_ns {
        std::hint::spin_loop();
    }
}
