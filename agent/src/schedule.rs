//! The schedule of an agent's share of a level: when its requests are meant to be sent, in which phase, and when it is
//! over. Pure; all times count from the level's start, ns. The schedule yields times, not permissions: in closed loop a
//! request is intended at the moment its slot is free, in open loop at its arrival, whether or not the client manages to
//! send it then.

mod arrivals;
mod open;
mod random;
mod retry;
mod slot;

use tailcliff_proto::{MAX_AGENT_STREAMS, v1};

pub use arrivals::{Arrivals, Listed, Paced, Pattern};
pub use open::{Arrival, Open, Releases};
pub use retry::Retry;
pub use slot::{Slot, Turn};

/// Streams that one agent takes on at most.
pub const MAX_STREAMS: u32 = MAX_AGENT_STREAMS;
/// Longest warm-up, window or drain, ns: a week.
pub const LONGEST_NS: i64 = 7 * 24 * 3600 * 1_000_000_000;

/// Most tries of one request beyond the first.
pub const MAX_RETRIES: u32 = 100;

/// An agent's part of a level, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// What makes requests due.
    pub model: Model,
    /// When they are tried again.
    pub retry: Retry,
    /// What ends the measured window.
    pub stop: Stop,
    /// Warm-up before the measured window, ns.
    pub warmup_ns: i64,
    /// What unfinished requests get after the end, ns.
    pub drain_ns: i64,
    /// A new connection for each request.
    pub fresh_connections: bool,
}

/// What makes requests due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Model {
    /// The end of the one before on the same stream.
    Closed(Streams),
    /// A law of their own.
    Open(Open),
}

/// An agent's part of a closed loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    /// Slots, each with one request in flight.
    pub count: u32,
    /// Level-wide number of the first.
    pub first: u32,
    /// Streams of all agents.
    pub of: u32,
    /// Time over which they start, evenly spread by their numbers, ns.
    pub ramp_ns: i64,
}

/// What ends the measured window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// This many released in it (in open loop: by all agents together); warm-up requests do not count.
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
    /// Both loads, or a share of neither.
    #[error("a share is either of streams or of arrivals")]
    Both,
    /// Not positive, or beyond belief.
    #[error("{0} requests/s is not between 0 and 10 million, nor infinite")]
    Rate(String),
    /// Not a law of ours.
    #[error("the arrival pattern is unknown: another release?")]
    Pattern,
    /// No shape of a gamma law that makes sense.
    #[error("a burstiness of {0} is not between 0.001 and 1000000")]
    Burstiness(String),
    /// No factor for a dataset's times that makes sense.
    #[error("a time scale of {0} is not between 0.000001 and 1000000")]
    TimeScale(String),
    /// No place among the agents.
    #[error("agent {0} of {1} cannot be")]
    Agent(u32, u32),
    /// The ramp outlasts the warm-up.
    #[error("a ramp of {0} ns is longer than the warm-up")]
    Ramp(i64),
    /// More than [`MAX_RETRIES`].
    #[error("{0} retries are more than {MAX_RETRIES}")]
    Retries(u32),
}

impl Load {
    /// Checks a share of a level.
    ///
    /// # Errors
    /// What makes no sense in it.
    pub fn parse(share: &v1::LoadShare, level: u32) -> Result<Load, LoadError> {
        let ramp_ns = sane("a ramp", share.ramp_ns)?;
        let warmup_ns = sane("a warm-up", share.warmup_ns)?;
        if ramp_ns > warmup_ns {
            return Err(LoadError::Ramp(ramp_ns));
        }
        let model = match &share.open {
            Some(_) if share.concurrency > 0 => return Err(LoadError::Both),
            Some(open) => Model::Open(Open::parse(open, share, ramp_ns, level)?),
            None => Model::Closed(Streams::parse(share, ramp_ns)?),
        };
        if share.retries > MAX_RETRIES {
            return Err(LoadError::Retries(share.retries));
        }
        let backoff_ns = sane("a back-off", share.retry_backoff_ns)?;
        let stop = match share.stop.ok_or(LoadError::Endless)? {
            v1::load_share::Stop::Requests(requests) => Stop::Requests(requests),
            v1::load_share::Stop::DurationNs(ns) => Stop::Duration(sane("a duration", ns)?),
        };
        Ok(Load {
            model,
            retry: Retry { tries: share.retries, backoff_ns, seed: share.seed },
            stop,
            warmup_ns,
            drain_ns: sane("a drain", share.drain_ns)?,
            fresh_connections: share.fresh_connections,
        })
    }
}

fn sane(what: &'static str, ns: i64) -> Result<i64, LoadError> {
    (0..=LONGEST_NS).contains(&ns).then_some(ns).ok_or(LoadError::Time(what, ns))
}

impl Streams {
    fn parse(share: &v1::LoadShare, ramp_ns: i64) -> Result<Streams, LoadError> {
        let (count, first) = (share.concurrency, share.first_stream);
        if count == 0 || count > MAX_STREAMS {
            return Err(LoadError::Streams(count));
        }
        let end = first.checked_add(count).ok_or(LoadError::FirstStream(first))?;
        Ok(Streams { count, first, of: share.all_streams.max(end), ramp_ns })
    }

    fn start_ns(&self, i: u32) -> i64 {
        let turn = i128::from(self.first + i) * i128::from(self.ramp_ns);
        (turn / i128::from(self.of.max(1))) as i64
    }

    /// The slots with their level-wide stream numbers. Requests are split up front, as evenly as they can be: no slot
    /// waits for what another has left.
    pub fn slots(&self, load: &Load) -> impl Iterator<Item = (u32, Slot)> {
        let (streams, warmup_ns, stop) = (*self, load.warmup_ns, load.stop);
        (0..streams.count).map(move |i| {
            let slot = Slot::new(warmup_ns, stop.of_slot(i, streams.count), streams.start_ns(i));
            (streams.first + i, slot)
        })
    }
}

impl Stop {
    fn of_slot(self, i: u32, slots: u32) -> Stop {
        let slots = u64::from(slots);
        match self {
            Stop::Requests(n) => Stop::Requests(n / slots + u64::from(u64::from(i) < n % slots)),
            duration @ Stop::Duration(_) => duration,
        }
    }
}

impl Load {
    /// When requests still in flight are given up, counted from the start; `None` when the level ends with its last
    /// request, which the target's request timeout bounds.
    pub fn deadline_ns(&self) -> Option<i64> {
        match self.stop {
            Stop::Duration(ns) => Some(self.warmup_ns + ns + self.drain_ns),
            Stop::Requests(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: i64 = 1_000_000_000;

    fn load(streams: u32, stop: Stop, warmup_ns: i64) -> Load {
        let model = Model::Closed(closed(streams));
        let retry = Retry::default();
        Load { model, retry, stop, warmup_ns, drain_ns: 3 * S, fresh_connections: false }
    }

    fn closed(count: u32) -> Streams {
        Streams { count, first: 5, of: 5 + count, ramp_ns: 0 }
    }

    fn slots(load: &Load) -> Vec<(u32, Slot)> {
        match &load.model {
            Model::Closed(streams) => streams.slots(load).collect(),
            Model::Open(_) => Vec::new(),
        }
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
            for (_, mut slot) in slots(&load) {
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
            let (_, mut slot) = slots(&load)[0];
            let (sent, end, at) = drive(&mut slot, e2e);
            prop_assert_eq!(end, Turn::Over);
            prop_assert!(sent.iter().all(|(_, at)| *at < warmup + duration));
            prop_assert!(at >= warmup + duration, "it sends until then");
            prop_assert_eq!(load.deadline_ns(), Some(warmup + duration + 3 * S));
        }

        #[test]
        fn no_share_from_the_wire_panics(
            concurrency: u32, first_stream: u32, n: u64, ns: i64, warmup_ns: i64, drain_ns: i64,
            ramp_ns: i64, which in 0..3
        ) {
            let stop = [
                None,
                Some(v1::load_share::Stop::Requests(n)),
                Some(v1::load_share::Stop::DurationNs(ns)),
            ][which as usize];
            let share =
                v1::LoadShare { concurrency, first_stream, stop, warmup_ns, drain_ns, ramp_ns, ..Default::default() };
            if let Ok(load) = Load::parse(&share, 0) {
                prop_assert!(load.deadline_ns().is_none_or(|ns| ns >= 0));
                prop_assert_eq!(slots(&load).len() as u32, concurrency);
            }
        }
    }

    #[test]
    fn streams_are_numbered_level_wide() {
        let numbers: Vec<_> =
            slots(&load(3, Stop::Requests(4), 0)).iter().map(|(stream, _)| *stream).collect();
        assert_eq!(numbers, [5, 6, 7]);
    }

    #[test]
    fn absurd_shares_are_refused() {
        let stop = Some(v1::load_share::Stop::Requests(1));
        let good = v1::LoadShare { concurrency: 1, stop, ..Default::default() };
        assert!(Load::parse(&good, 0).is_ok());
        let refused = |share: v1::LoadShare| Load::parse(&share, 0).unwrap_err();
        assert_eq!(refused(v1::LoadShare { concurrency: 0, ..good }), LoadError::Streams(0));
        let many = MAX_STREAMS + 1;
        assert_eq!(refused(v1::LoadShare { concurrency: many, ..good }), LoadError::Streams(many));
        assert_eq!(refused(v1::LoadShare { stop: None, ..good }), LoadError::Endless);
        let last = u32::MAX;
        assert_eq!(refused(v1::LoadShare { first_stream: last, ..good }), LoadError::FirstStream(last));
        let warmup_ns = i64::MAX;
        assert_eq!(refused(v1::LoadShare { warmup_ns, ..good }), LoadError::Time("a warm-up", warmup_ns));
        assert_eq!(refused(v1::LoadShare { drain_ns: -1, ..good }), LoadError::Time("a drain", -1));
        assert_eq!(refused(v1::LoadShare { ramp_ns: 5, ..good }), LoadError::Ramp(5));
        assert_eq!(refused(v1::LoadShare { retries: 101, ..good }), LoadError::Retries(101));
        let open = Some(v1::OpenLoad::default());
        assert_eq!(refused(v1::LoadShare { open, ..good }), LoadError::Both);
    }

    /// Two agents of 2 and 4 streams ramp as one of 6 would.
    #[test]
    fn streams_start_evenly_over_the_ramp_whoever_has_them() {
        let streams = |first, count| Streams { count, first, of: 6, ramp_ns: 6 * S };
        let starts = |streams: Streams| -> Vec<i64> {
            streams.slots(&load(1, Stop::Requests(1), 0)).map(|(_, slot)| slot.start_ns() / S).collect()
        };
        assert_eq!([starts(streams(0, 2)), starts(streams(2, 4))].concat(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(starts(Streams { ramp_ns: 0, ..streams(0, 3) }), [0, 0, 0]);
    }
}
