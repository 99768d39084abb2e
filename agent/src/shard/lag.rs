//! How late a shard's event loop gets to what is due: one timer each 10 ms, which itself ticks in milliseconds. Every lag is
//! in a histogram; a long one is told by itself too, with its times, since a stream that seems to stall while our own loop
//! stands still says nothing of the server. Nothing of this is on the request path.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Duration;

use tailcliff_proto::clock::{HostClock, RawNs};
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::outbox::{Outbox, Worth};
use tailcliff_proto::v1;

use super::Shared;

const TICK_NS: i64 = 10_000_000;
/// A lag is told by itself from so long on, ns: a timer's own ticks and a busy moment are shorter.
const TOLD_FROM_NS: i64 = 10_000_000;
/// Lags told of one shard and level: then only those that are longer than the shortest of these.
const MOST_TOLD: usize = 1_000;

/// A shard's watch over its own loop, in one level.
#[derive(Debug)]
pub(super) struct Watch {
    level: u32,
    shard: u32,
    measured_from: RawNs,
    /// When the loop is known to have run last.
    ran: RawNs,
    /// Of the measured window and after.
    pub(super) histogram: LatencyHistogram,
    longest: Longest,
}

impl Watch {
    /// From now on.
    pub(super) fn new(level: u32, shard: u32, measured_from: RawNs, now: RawNs) -> Watch {
        let (histogram, longest) = (LatencyHistogram::default(), Longest::default());
        Watch { level, shard, measured_from, ran: now, histogram, longest }
    }

    /// The beat that was due has come; since when, and how late.
    fn beat(&mut self, now: RawNs) -> (RawNs, i64) {
        let (due, lag_ns) = self.note_long(now);
        if due >= self.measured_from {
            self.histogram.record(lag_ns);
        }
        (due, lag_ns)
    }

    /// The loop's last word, for a beat that is overdue and will not come any more.
    pub(super) fn end(&mut self, now: RawNs, outbox: &Outbox) -> u64 {
        self.note_long(now);
        self.longest.hand_on(outbox);
        self.longest.dropped
    }

    /// Tells what is waiting.
    pub(super) fn hand_on(&mut self, outbox: &Outbox) {
        self.longest.hand_on(outbox);
    }

    fn note_long(&mut self, now: RawNs) -> (RawNs, i64) {
        let due = std::mem::replace(&mut self.ran, now).saturating_add(TICK_NS);
        let lag_ns = now.saturating_sub(due).max(0);
        if lag_ns >= TOLD_FROM_NS {
            let (level, shard) = (self.level, self.shard);
            self.longest.note(v1::LoopLag { level, shard, from_raw_ns: due, to_raw_ns: now });
        }
        (due, lag_ns)
    }
}

/// The longest lags so far, each told as it comes: whoever dies in mid-level has told what it saw. A lag takes two beats at
/// least, so that there are 50 a second at most.
#[derive(Debug, Default)]
struct Longest {
    /// Lengths of the longest, ns.
    lengths: BinaryHeap<Reverse<i64>>,
    waiting: Vec<v1::LoopLag>,
    /// Not told, for want of length or room.
    dropped: u64,
}

impl Longest {
    fn note(&mut self, lag: v1::LoopLag) {
        let ns = lag.to_raw_ns - lag.from_raw_ns;
        if self.lengths.len() >= MOST_TOLD {
            if self.lengths.peek().is_some_and(|Reverse(shortest)| *shortest >= ns) {
                self.dropped += 1;
                return;
            }
            self.lengths.pop();
        }
        self.lengths.push(Reverse(ns));
        self.waiting.push(lag);
    }

    fn hand_on(&mut self, outbox: &Outbox) {
        if self.waiting.is_empty() {
            return;
        }
        let batch = v1::Batch { loop_lags: std::mem::take(&mut self.waiting), ..Default::default() };
        if let Err(batch) = outbox.push_worth(Worth::Gauges, batch) {
            self.dropped += batch.loop_lags.len() as u64;
        }
    }
}

/// Watches until it is dropped.
pub(super) async fn watch(shared: Rc<Shared>, watch: Rc<RefCell<Watch>>) {
    loop {
        tokio::time::sleep(Duration::from_nanos(TICK_NS.unsigned_abs())).await;
        let (due, lag_ns) = watch.borrow_mut().beat(HostClock.now());
        shared.trace(|trace| trace.lag(due, lag_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn told(outbox: &Outbox) -> Vec<v1::LoopLag> {
        let batches = (0..outbox.last_seq()).filter_map(|seq| outbox.next_after(seq));
        batches.flat_map(|batch| batch.loop_lags).collect()
    }

    #[test]
    fn a_lag_is_told_with_its_times_in_the_warm_up_too_and_a_small_one_is_not() {
        let outbox = Outbox::new(1, 1 << 20);
        let mut watch = Watch::new(3, 2, 1_000 * MS, 0);
        assert_eq!(watch.beat(10 * MS), (10 * MS, 0));
        assert_eq!(watch.beat(29 * MS), (20 * MS, 9 * MS), "busy, but no more");
        assert_eq!(watch.beat(339 * MS), (39 * MS, 300 * MS));
        assert!(watch.histogram.is_empty(), "figures are without the warm-up");
        watch.beat(1_010 * MS);
        assert_eq!(watch.histogram.len(), 0, "due in the warm-up");
        watch.beat(1_020 * MS);
        assert_eq!(watch.histogram.len(), 1);
        watch.hand_on(&outbox);
        assert_eq!(watch.end(1_060 * MS, &outbox), 0, "the last beat was overdue when all was over");
        let lag = |from, to| v1::LoopLag { level: 3, shard: 2, from_raw_ns: from * MS, to_raw_ns: to * MS };
        assert_eq!(told(&outbox), [lag(39, 339), lag(349, 1_010), lag(1_030, 1_060)]);
    }

    #[test]
    fn the_longest_are_told_and_the_others_counted() {
        let outbox = Outbox::new(1, 64 << 20);
        let mut watch = Watch::new(0, 0, 0, 0);
        let (mut now, all) = (0, 5_000);
        let mut lengths = Vec::new();
        for i in 0..all {
            let lag = (10 + i * 7_919 % 500) * MS;
            lengths.push(lag);
            now += TICK_NS + lag;
            watch.beat(now);
            watch.hand_on(&outbox);
        }
        let dropped = watch.end(now, &outbox);
        let told = told(&outbox);
        assert_eq!(told.len() as u64 + dropped, all as u64);
        assert!((MOST_TOLD..4 * MOST_TOLD).contains(&told.len()), "{}", told.len());
        lengths.sort_unstable();
        let mut of_told: Vec<_> = told.iter().map(|lag| lag.to_raw_ns - lag.from_raw_ns).collect();
        of_told.sort_unstable();
        let tail = |all: &[i64]| all[all.len() - MOST_TOLD..].to_vec();
        assert_eq!(tail(&of_told), tail(&lengths), "none of the longest is missing");
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut watch = Watch::new(0, 0, 0, 0);
        watch.beat(100 * MS);
        assert_eq!(watch.end(200 * MS, &Outbox::new(1, 0)), 2);
    }
}
