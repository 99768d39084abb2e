//! What a path does to single streams for a moment: a proxy that buffers what the server says and lets it go all at once,
//! and a packet that is late with all that comes behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use tailcliff_proto::clock::HostClock;

use super::Forwarder;

/// A connection on which the server spoke within this time is one that streams, ns.
const STREAMS_NS: i64 = 200_000_000;

/// Which of the connections that stream just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// The n-th in the order of acceptance, counted round.
    One(usize),
    /// Every other one, from the first on or from the second.
    Half(usize),
}

/// What was done to a connection; ns of the raw clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which one, in the order of acceptance, from 1.
    pub connection: u64,
    /// When it was ordered.
    pub from_ns: i64,
    /// No byte that came since then left before.
    pub to_ns: i64,
}

/// What is known, and ordered, of a connection's way back.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    /// When the server last said something.
    spoke_ns: Option<i64>,
    held_until_ns: i64,
    /// The next piece is this late.
    late_ns: Option<i64>,
}

/// All connections that stand, by number.
#[derive(Debug, Default)]
pub(super) struct Flows(BTreeMap<u64, Flow>);

impl Flows {
    pub(super) fn add(&mut self, connection: u64) {
        self.0.insert(connection, Flow::default());
    }

    pub(super) fn remove(&mut self, connection: u64) {
        self.0.remove(&connection);
    }

    /// Before when a piece that the server said at `now` may not leave.
    pub(super) fn due(&mut self, connection: u64, now: i64) -> i64 {
        let Some(flow) = self.0.get_mut(&connection) else { return now };
        flow.spoke_ns = Some(now);
        flow.held_until_ns.max(now + flow.late_ns.take().unwrap_or(0))
    }

    fn chosen(&mut self, which: Which, now: i64) -> Vec<(u64, &mut Flow)> {
        let streams = |flow: &Flow| flow.spoke_ns.is_some_and(|spoke| now - spoke < STREAMS_NS);
        let mut all: Vec<_> = self
            .0
            .iter_mut()
            .filter(|(_, flow)| streams(flow))
            .map(|(number, flow)| (*number, flow))
            .collect();
        let count = all.len().max(1);
        let mut place = 0;
        all.retain(|_| {
            place += 1;
            match which {
                Which::All => true,
                Which::One(nth) => place - 1 == nth % count,
                Which::Half(nth) => (place - 1) % 2 == nth % 2,
            }
        });
        all
    }
}

impl Forwarder {
    /// Holds what the server says on some of the connections that stream, and lets it all go `time` from now.
    pub fn hold(&self, which: Which, time: Duration) -> Vec<Held> {
        self.disturb(which, time, |flow, until| flow.held_until_ns = until)
    }

    /// Has the next piece that the server says on each of them be `time` late, and with it all that comes behind.
    pub fn delay_one_piece(&self, which: Which, time: Duration) -> Vec<Held> {
        let late_ns = i64::try_from(time.as_nanos()).ok();
        self.disturb(which, time, |flow, _| flow.late_ns = late_ns)
    }

    fn disturb(&self, which: Which, time: Duration, order: impl Fn(&mut Flow, i64)) -> Vec<Held> {
        let mut state = self.shared.state();
        let from_ns = HostClock.now();
        let to_ns = from_ns.saturating_add(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
        let chosen = state.flows.chosen(which, from_ns).into_iter();
        let done = chosen.map(|(connection, flow)| {
            order(flow, to_ns);
            Held { connection, from_ns, to_ns }
        });
        done.collect()
    }
}
