//! What a probe takes of its host, summed.

use crate::v1::ProbeCost;

impl ProbeCost {
    /// Adds what another stretch of the same probe took; it lasts from the first's beginning to the last's end.
    pub fn add(&mut self, other: &Self) {
        self.to_raw_ns = self.to_raw_ns.max(other.to_raw_ns);
        self.cpu_ns = self.cpu_ns.saturating_add(other.cpu_ns);
        self.fast_cpu_ns = self.fast_cpu_ns.saturating_add(other.fast_cpu_ns);
        self.ticks = self.ticks.saturating_add(other.ticks);
        self.missed = self.missed.saturating_add(other.missed);
        self.slow_ticks = self.slow_ticks.saturating_add(other.slow_ticks);
        self.slow_missed = self.slow_missed.saturating_add(other.slow_missed);
    }
}
