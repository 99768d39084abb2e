//! A stream's slot of a closed loop: it sends, waits for the end, rests after a failure, and sends again.

use tailcliff_proto::v1;

use super::Stop;

/// Slots pause after failures in a row, so that a server that is down is not answered by a flood: 1 ms, doubling.
const FIRST_PAUSE_NS: i64 = 1_000_000;
const LONGEST_PAUSE_NS: i64 = 100_000_000;

/// One stream: it has at most one request in flight.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    warmup_ns: i64,
    stop: Stop,
    released: u64,
    measured: u64,
    failures: u32,
    start_ns: i64,
}

/// What a free slot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Sends its next request, numbered from 0 within the slot.
    Release {
        /// Number within the slot.
        request: u64,
        /// Phase of the moment.
        phase: v1::Phase,
    },
    /// It has sent its share of requests: from now on less than the stated concurrency is in flight.
    Dry,
    /// The time is over, or the slot had no share in the first place.
    Over,
}

impl Slot {
    pub(super) fn new(warmup_ns: i64, stop: Stop, start_ns: i64) -> Slot {
        Slot { warmup_ns, stop, released: 0, measured: 0, failures: 0, start_ns }
    }

    /// The slot is free at `since_start_ns`.
    pub fn turn(&mut self, since_start_ns: i64) -> Turn {
        if since_start_ns < self.warmup_ns {
            return self.release(v1::Phase::Warmup);
        }
        match self.stop {
            Stop::Requests(share) if self.measured < share => self.release(v1::Phase::Measured),
            Stop::Requests(0) => Turn::Over,
            Stop::Requests(_) => Turn::Dry,
            Stop::Duration(ns) if since_start_ns < self.warmup_ns + ns => self.release(v1::Phase::Measured),
            Stop::Duration(_) => Turn::Over,
        }
    }

    fn release(&mut self, phase: v1::Phase) -> Turn {
        let request = self.released;
        self.released += 1;
        self.measured += u64::from(phase == v1::Phase::Measured);
        Turn::Release { request, phase }
    }

    /// When the stream starts: later than the level on a ramp.
    pub fn start_ns(&self) -> i64 {
        self.start_ns
    }

    /// How long the slot rests after a request, ns: 0 unless it failed. The rest is part of the slot's time, not of any
    /// request's latency.
    pub fn pause_ns(&mut self, failed: bool) -> i64 {
        if !failed {
            self.failures = 0;
            return 0;
        }
        let pause = FIRST_PAUSE_NS << self.failures.min(20);
        self.failures = self.failures.saturating_add(1);
        pause.min(LONGEST_PAUSE_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_slow_a_slot_down_and_one_success_ends_that() {
        let mut slot = Slot::new(0, Stop::Requests(1), 0);
        let pauses: Vec<_> = (0..9).map(|_| slot.pause_ns(true) / FIRST_PAUSE_NS).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 100, 100]);
        assert_eq!(slot.pause_ns(false), 0);
        assert_eq!(slot.pause_ns(true), FIRST_PAUSE_NS);
    }
}
