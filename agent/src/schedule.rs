//! The closed-loop schedule of an agent's share of a level: when each stream's slot sends, in which phase, and when it is
//! over. Pure; all times count from the level's start, ns. The schedule yields times, not permissions: a request is
//! intended at the moment its slot is free, whether or not the client manages to send it then.

use tailcliff_proto::{MAX_AGENT_STREAMS, v1};

/// Streams that one agent takes on at most.
pub const MAX_STREAMS: u32 = MAX_AGENT_STREAMS;
/// Longest warm-up, window or drain, ns: a week.
pub const LONGEST_NS: i64 = 7 * 24 * 3600 * 1_000_000_000;

/// Slots pause after failures in a row, so that a server that is down is not answered by a flood: 1 ms, doubling.
const FIRST_PAUSE_NS: i64 = 1_000_000;
const LONGEST_PAUSE_NS: i64 = 100_000_000;

/// An agent's part of a level, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Slots, each with one request in flight.
    pub streams: u32,
    /// Level-wide number of the first.
    pub first_stream: u32,
    /// What ends the measured window.
    pub stop: Stop,
    /// Warm-up before the measured window, ns.
    pub warmup_ns: i64,
    /// What unfinished requests get after the end, ns.
    pub drain_ns: i64,
    /// A new connection for each request.
    pub fresh_connections: bool,
}

/// What ends the measured window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// This many released in it; warm-up requests do not count.
    Requests(u64),
    /// Its length, ns.
    Duration(i64),
}

/// Why a share cannot be carried out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// None, or more than [`MAX_STREAMS`].
    #[error("{0} streams are not between 1 and {MAX_STREAMS}")]
    Streams(u32),
    /// The level-wide numbers overflow.
    #[error("stream numbers from {0} on do not fit in 32 bits")]
    FirstStream(u32),
    /// Neither requests nor a duration.
    #[error("the level has no end: neither requests nor a duration")]
    Endless,
    /// Negative, or over a week.
    #[error("{0} of {1} ns is not between 0 and a week")]
    Time(&'static str, i64),
}

impl TryFrom<&v1::LoadShare> for Load {
    type Error = LoadError;

    fn try_from(share: &v1::LoadShare) -> Result<Load, LoadError> {
        let streams = share.concurrency;
        if streams == 0 || streams > MAX_STREAMS {
            return Err(LoadError::Streams(streams));
        }
        share.first_stream.checked_add(streams).ok_or(LoadError::FirstStream(share.first_stream))?;
        let stop = match share.stop.ok_or(LoadError::Endless)? {
            v1::load_share::Stop::Requests(requests) => Stop::Requests(requests),
            v1::load_share::Stop::DurationNs(ns) => Stop::Duration(sane("a duration", ns)?),
        };
        Ok(Load {
            streams,
            first_stream: share.first_stream,
            stop,
            warmup_ns: sane("a warm-up", share.warmup_ns)?,
            drain_ns: sane("a drain", share.drain_ns)?,
            fresh_connections: share.fresh_connections,
        })
    }
}

fn sane(what: &'static str, ns: i64) -> Result<i64, LoadError> {
    (0..=LONGEST_NS).contains(&ns).then_some(ns).ok_or(LoadError::Time(what, ns))
}

impl Load {
    /// The slots with their level-wide stream numbers. Requests are split up front, as evenly as they can be: no slot
    /// waits for what another has left.
    pub fn slots(&self) -> impl Iterator<Item = (u32, Slot)> + '_ {
        (0..self.streams).map(|i| (self.first_stream + i, Slot::new(self.warmup_ns, self.slot_stop(i))))
    }

    fn slot_stop(&self, i: u32) -> Stop {
        let streams = u64::from(self.streams);
        match self.stop {
            Stop::Requests(n) => Stop::Requests(n / streams + u64::from(u64::from(i) < n % streams)),
            duration @ Stop::Duration(_) => duration,
        }
    }

    /// When requests still in flight are given up, counted from the start; `None` when the level ends with its last
    /// request, which the target's request timeout bounds.
    pub fn deadline_ns(&self) -> Option<i64> {
        match self.stop {
            Stop::Duration(ns) => Some(self.warmup_ns + ns + self.drain_ns),
            Stop::Requests(_) => None,
        }
    }
}

/// One stream: it has at most one request in flight.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    warmup_ns: i64,
    stop: Stop,
    released: u64,
    measured: u64,
    failures: u32,
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
    fn new(warmup_ns: i64, stop: Stop) -> Slot {
        Slot { warmup_ns, stop, released: 0, measured: 0, failures: 0 }
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

    /// Number of the request that would be next.
    pub fn next_request(&self) -> u64 {
        self.released
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
    use proptest::prelude::*;

    use super::*;

    const S: i64 = 1_000_000_000;

    fn load(streams: u32, stop: Stop, warmup_ns: i64) -> Load {
        Load { streams, first_stream: 5, stop, warmup_ns, drain_ns: 3 * S, fresh_connections: false }
    }

    /// Drives one slot with requests of `e2e_ns`; returns (phase, intended) of each release and how it ended when.
    fn drive(slot: &mut Slot, e2e_ns: i64) -> (Vec<(v1::Phase, i64)>, Turn, i64) {
        let (mut at, mut sent) = (0, Vec::new());
        loop {
            match slot.turn(at) {
                Turn::Release { request, phase } => {
                    assert_eq!(request, sent.len() as u64);
                    sent.push((phase, at));
                    at += e2e_ns;
                }
                end => return (sent, end, at),
            }
        }
    }

    proptest! {
        #[test]
        fn exactly_the_asked_requests_are_measured(
            streams in 1u32..40, requests in 0u64..500, warmup in 0i64..5 * S, e2e in S / 20..2 * S
        ) {
            let load = load(streams, Stop::Requests(requests), warmup);
            let mut shares = Vec::new();
            for (_, mut slot) in load.slots() {
                let (sent, end, at) = drive(&mut slot, e2e);
                let measured: Vec<_> = sent.iter().filter(|(p, _)| *p == v1::Phase::Measured).collect();
                prop_assert!(measured.iter().all(|(_, at)| *at >= warmup));
                prop_assert_eq!(end, if measured.is_empty() { Turn::Over } else { Turn::Dry });
                prop_assert!(sent.iter().all(|(p, at)| (*p == v1::Phase::Warmup) == (*at < warmup)));
                prop_assert_eq!(at, sent.last().map_or(0, |(_, at)| at + e2e), "dry when its last one ended");
                shares.push(measured.len() as u64);
            }
            prop_assert_eq!(shares.iter().sum::<u64>(), requests);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }

        #[test]
        fn nothing_is_released_after_the_time_is_over(
            warmup in 0i64..3 * S, duration in 0i64..3 * S, e2e in S / 50..S
        ) {
            let load = load(1, Stop::Duration(duration), warmup);
            let (_, mut slot) = load.slots().next().unwrap();
            let (sent, end, at) = drive(&mut slot, e2e);
            prop_assert_eq!(end, Turn::Over);
            prop_assert!(sent.iter().all(|(_, at)| *at < warmup + duration));
            prop_assert!(at >= warmup + duration, "it sends until then");
            prop_assert_eq!(load.deadline_ns(), Some(warmup + duration + 3 * S));
        }

        #[test]
        fn no_share_from_the_wire_panics(
            concurrency: u32, first_stream: u32, n: u64, ns: i64, warmup_ns: i64, drain_ns: i64, which in 0..3
        ) {
            let stop = [
                None,
                Some(v1::load_share::Stop::Requests(n)),
                Some(v1::load_share::Stop::DurationNs(ns)),
            ][which as usize];
            let share = v1::LoadShare {
                concurrency, first_stream, stop, warmup_ns, drain_ns, fresh_connections: false,
            };
            if let Ok(load) = Load::try_from(&share) {
                prop_assert!(load.deadline_ns().is_none_or(|ns| ns >= 0));
                prop_assert_eq!(load.slots().count() as u32, concurrency);
            }
        }
    }

    #[test]
    fn streams_are_numbered_level_wide() {
        let numbers: Vec<_> = load(3, Stop::Requests(4), 0).slots().map(|(stream, _)| stream).collect();
        assert_eq!(numbers, [5, 6, 7]);
    }

    #[test]
    fn absurd_shares_are_refused() {
        let stop = Some(v1::load_share::Stop::Requests(1));
        let good = v1::LoadShare { concurrency: 1, stop, ..Default::default() };
        assert!(Load::try_from(&good).is_ok());
        let refused = |share: v1::LoadShare| Load::try_from(&share).unwrap_err();
        assert_eq!(refused(v1::LoadShare { concurrency: 0, ..good }), LoadError::Streams(0));
        let many = MAX_STREAMS + 1;
        assert_eq!(refused(v1::LoadShare { concurrency: many, ..good }), LoadError::Streams(many));
        assert_eq!(refused(v1::LoadShare { stop: None, ..good }), LoadError::Endless);
        let last = u32::MAX;
        assert_eq!(refused(v1::LoadShare { first_stream: last, ..good }), LoadError::FirstStream(last));
        let warmup_ns = i64::MAX;
        assert_eq!(refused(v1::LoadShare { warmup_ns, ..good }), LoadError::Time("a warm-up", warmup_ns));
        assert_eq!(refused(v1::LoadShare { drain_ns: -1, ..good }), LoadError::Time("a drain", -1));
    }

    #[test]
    fn failures_in_a_row_slow_a_slot_down_and_one_success_ends_that() {
        let mut slot = Slot::new(0, Stop::Requests(1));
        let pauses: Vec<_> = (0..9).map(|_| slot.pause_ns(true) / FIRST_PAUSE_NS).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 100, 100]);
        assert_eq!(slot.pause_ns(false), 0);
        assert_eq!(slot.pause_ns(true), FIRST_PAUSE_NS);
    }
}
