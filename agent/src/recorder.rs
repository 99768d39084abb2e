//! What one shard has measured and not yet handed to the outbox: records, and 1-s histograms cut on edges that count
//! from the level's start. Latencies are those of completed requests; failed ones are counted beside, since a refusal in
//! a millisecond would flatter every percentile. Where there is little room, token traces go first, then records; windows
//! wait and grow.

use std::time::Duration;

use prost::Message;
use tailcliff_proto::arrivals;
use tailcliff_proto::clock::RawNs;
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::outbox::{Outbox, Worth};
use tailcliff_proto::v1::{self, Outcome, Phase};

use crate::timeline::{e2e_ns, tpot_ns, ttft_ns};

/// Width of a window, ns.
pub(crate) const WINDOW_NS: i64 = 1_000_000_000;
/// Where there is no room for all traces, one request in so many keeps its own, and so does every one with a long gap: one
/// of at least so many times its mean gap, and so many ns.
const TRACES_KEPT: u64 = 16;
const LONG_GAP: (u64, u64) = (4, 50_000_000);
/// Windows in one batch, so that some fit where many do not.
const WINDOWS_AT_ONCE: usize = 16;
/// Windows that wait for room in the outbox; beyond them the open ones grow instead, so that no value is lost.
const MOST_WINDOWS: usize = 120;
/// At the end of a level, windows wait this long for room, in so many turns.
const LAST_ROOM: (Duration, u32) = (Duration::from_millis(100), 50);

/// One shard's recorder for one level.
#[derive(Debug)]
pub(crate) struct Recorder {
    level: u32,
    start: RawNs,
    outbox: Outbox,
    open: [Option<Open>; 3],
    windows: Vec<v1::Window>,
    records: Vec<v1::RequestRecord>,
    bytes: usize,
    /// Traces that did not fit.
    pub(crate) dropped_traces: u64,
    /// Records that did not fit.
    pub(crate) dropped_records: u64,
    /// Windows that did not fit even at the end.
    pub(crate) dropped_windows: u64,
}

/// The window that a phase is in.
#[derive(Debug)]
struct Open {
    number: i64,
    ttft: LatencyHistogram,
    itl: LatencyHistogram,
    tpot: LatencyHistogram,
    e2e: LatencyHistogram,
    completed: u64,
    failed: u64,
    output_tokens: u64,
}

impl Recorder {
    /// A recorder for a level that starts at `start`.
    pub(crate) fn new(level: u32, start: RawNs, outbox: Outbox) -> Recorder {
        Recorder {
            level,
            start,
            outbox,
            open: [None, None, None],
            windows: Vec::new(),
            records: Vec::new(),
            bytes: 0,
            dropped_traces: 0,
            dropped_records: 0,
            dropped_windows: 0,
        }
    }

    /// Takes in one ended request. One that we paused on purpose is a record, but in no histogram.
    pub(crate) fn record(&mut self, record: v1::RequestRecord) {
        if !record.is_control() {
            self.count(&record);
        }
        self.bytes += record.encoded_len() + 8;
        self.records.push(record);
        if self.bytes >= self.outbox.batch_bytes() {
            self.hand_on();
        }
    }

    fn count(&mut self, record: &v1::RequestRecord) {
        let phase = match record.phase() {
            Phase::Warmup => 0,
            Phase::Measured => 1,
            Phase::Drain | Phase::Unspecified => 2,
        };
        let number = (record.done_raw_ns - self.start).div_euclid(WINDOW_NS);
        if self.open[phase].as_ref().is_some_and(|open| open.number != number && open.is_used()) {
            self.close(phase);
        }
        let open = self.open[phase].get_or_insert_with(|| Open::new(number));
        open.number = number;
        open.count(record);
    }

    /// Closes every window and hands on everything: at the beat.
    pub(crate) fn flush(&mut self) {
        (0..self.open.len()).for_each(|phase| self.close(phase));
        self.hand_on();
    }

    /// The same at the end of the level; waits for room, and counts what found none.
    pub(crate) async fn finish(&mut self) {
        let (pause, turns) = LAST_ROOM;
        self.flush();
        for _ in 0..turns {
            if self.is_empty() {
                break;
            }
            tokio::time::sleep(pause).await;
            self.flush();
        }
        let open = self.open.iter().flatten().filter(|open| open.is_used()).count();
        self.dropped_windows += (self.windows.len() + open) as u64;
    }

    fn is_empty(&self) -> bool {
        self.windows.is_empty() && !self.open.iter().flatten().any(Open::is_used)
    }

    fn close(&mut self, phase: usize) {
        if self.windows.len() >= MOST_WINDOWS {
            return;
        }
        let Some(open) = self.open[phase].as_mut().filter(|open| open.is_used()) else { return };
        let kind = [Phase::Warmup, Phase::Measured, Phase::Drain][phase];
        self.windows.push(open.to_window(self.level, kind, self.start));
        open.clear();
    }

    fn hand_on(&mut self) {
        if self.records.is_empty() && self.windows.is_empty() {
            return;
        }
        self.bytes = 0;
        let (windows, records) = (std::mem::take(&mut self.windows), std::mem::take(&mut self.records));
        let batch = v1::Batch { windows, records, ..Default::default() };
        let Err(batch) = self.outbox.push_worth(Worth::Traces, batch) else { return };
        let some = self.without_traces(*batch, |record| !keeps_trace(record));
        let Err(batch) = self.outbox.push_worth(Worth::SomeTraces, some) else { return };
        let bare = self.without_traces(*batch, |_| true);
        let Err(batch) = self.outbox.push_worth(Worth::Records, bare) else { return };
        self.dropped_records += batch.records.len() as u64;
        self.hand_on_windows(batch.windows);
    }

    /// Windows are small and worth most: they wait for room.
    fn hand_on_windows(&mut self, mut windows: Vec<v1::Window>) {
        while !windows.is_empty() {
            let rest = windows.split_off(windows.len().min(WINDOWS_AT_ONCE));
            let batch = v1::Batch { windows, ..Default::default() };
            if let Err(batch) = self.outbox.push(batch) {
                self.windows = batch.windows;
                self.windows.extend(rest);
                return;
            }
            windows = rest;
        }
    }

    fn without_traces(
        &mut self,
        mut batch: v1::Batch,
        is_left_out: impl Fn(&v1::RequestRecord) -> bool,
    ) -> v1::Batch {
        let traced = batch.records.iter_mut().filter(|record| !record.arrivals.is_empty());
        for record in traced.filter(|record| is_left_out(record)) {
            // New ones, so that the old ones' memory is free.
            (record.arrivals, record.socket_waits) = (Vec::new(), Vec::new());
            record.arrivals_dropped = true;
            self.dropped_traces += 1;
        }
        batch
    }
}

/// Whole requests, drawn by what they are and not by how they went, and all that stalled.
fn keeps_trace(record: &v1::RequestRecord) -> bool {
    let named = (u64::from(record.stream) << 40) ^ record.request;
    // Fibonacci hashing: neighbours fall far apart.
    let is_drawn = (named.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).is_multiple_of(TRACES_KEPT);
    let longest = record.longest_gap_ns.unwrap_or(0).unsigned_abs();
    is_drawn || longest >= LONG_GAP.1.max(mean_gap_ns(record).saturating_mul(LONG_GAP.0))
}

/// Of chunks; 0 where there are no two.
fn mean_gap_ns(record: &v1::RequestRecord) -> u64 {
    let span = record.last_token_raw_ns.zip(record.first_token_raw_ns);
    let span = span.map_or(0, |(last, first)| last.saturating_sub(first).unsigned_abs());
    span.checked_div(u64::from(record.content_chunks.saturating_sub(1))).unwrap_or(0)
}

impl Open {
    fn new(number: i64) -> Open {
        let empty = LatencyHistogram::default;
        Open {
            number,
            ttft: empty(),
            itl: empty(),
            tpot: empty(),
            e2e: empty(),
            completed: 0,
            failed: 0,
            output_tokens: 0,
        }
    }

    fn is_used(&self) -> bool {
        self.completed + self.failed > 0
    }

    fn count(&mut self, record: &v1::RequestRecord) {
        match record.outcome() {
            Outcome::Completed => self.completed += 1,
            Outcome::Failed => {
                self.failed += 1;
                return;
            }
            Outcome::Incomplete | Outcome::Unspecified => return,
        }
        self.output_tokens += record.output_tokens.unwrap_or(0);
        let timed = [
            (&mut self.ttft, ttft_ns(record)),
            (&mut self.tpot, tpot_ns(record)),
            (&mut self.e2e, e2e_ns(record)),
        ];
        for (histogram, value) in timed {
            if let Some(ns) = value {
                histogram.record(i64::try_from(ns).unwrap_or(i64::MAX));
            }
        }
        for arrival in arrivals::decode(&record.arrivals).skip(1).flatten() {
            self.itl.record(i64::try_from(arrival.gap_ns).unwrap_or(i64::MAX));
        }
    }

    fn to_window(&self, level: u32, phase: Phase, start: RawNs) -> v1::Window {
        let wire = |histogram: &LatencyHistogram| {
            let used = !histogram.is_empty() || histogram.out_of_range() > 0;
            used.then(|| histogram.to_wire())
        };
        let start_raw_ns = start + self.number * WINDOW_NS;
        v1::Window {
            level,
            phase: phase as i32,
            start_raw_ns,
            end_raw_ns: start_raw_ns + WINDOW_NS,
            ttft: wire(&self.ttft),
            itl: wire(&self.itl),
            tpot: wire(&self.tpot),
            e2e: wire(&self.e2e),
            completed: self.completed,
            failed: self.failed,
            output_tokens: self.output_tokens,
        }
    }

    fn clear(&mut self) {
        [&mut self.ttft, &mut self.itl, &mut self.tpot, &mut self.e2e]
            .into_iter()
            .for_each(LatencyHistogram::clear);
        (self.completed, self.failed, self.output_tokens) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tailcliff_proto::arrivals::Arrivals;

    const S: i64 = 1_000_000_000;

    fn completed(number: i64, phase: Phase) -> v1::RequestRecord {
        let intended = number * S / 7;
        let mut arrivals = Arrivals::default();
        [50_000_000, 10_000_000 + number as u64 * 1_000, 724_000_000]
            .into_iter()
            .for_each(|gap| arrivals.push(gap, 3));
        v1::RequestRecord {
            phase: phase as i32,
            outcome: Outcome::Completed as i32,
            intended_raw_ns: intended,
            first_token_raw_ns: Some(intended + 50_000_000),
            last_token_raw_ns: Some(intended + 784_000_000 + number * 1_000),
            done_raw_ns: intended + 785_000_000 + number * 1_000,
            output_tokens: Some(3),
            arrivals: arrivals.into_bytes(),
            ..Default::default()
        }
    }

    fn sum(windows: &[v1::Window], part: fn(&v1::Window) -> &Option<v1::Histogram>) -> LatencyHistogram {
        let mut sum = LatencyHistogram::default();
        for wire in windows.iter().filter_map(|w| part(w).as_ref()) {
            sum.add(&LatencyHistogram::try_from(wire).unwrap());
        }
        sum
    }

    #[test]
    fn windows_add_up_to_the_pooled_records() {
        let outbox = Outbox::new(1, 64 << 20);
        let mut recorder = Recorder::new(2, 0, outbox.clone());
        let (mut ttft, mut itl, mut e2e) =
            (LatencyHistogram::default(), LatencyHistogram::default(), LatencyHistogram::default());
        for number in 0..200 {
            let phase = if number < 50 { Phase::Warmup } else { Phase::Measured };
            let record = completed(number, phase);
            ttft.record(50_000_000);
            itl.record(10_000_000 + number * 1_000);
            itl.record(724_000_000);
            e2e.record(record.done_raw_ns - record.intended_raw_ns);
            recorder.record(record);
            if number % 31 == 0 {
                recorder.flush();
            }
        }
        recorder.flush();
        let batches = shipped(&outbox);
        let windows: Vec<_> = batches.iter().flat_map(|b| b.windows.clone()).collect();
        assert!(windows.iter().all(|w| w.level == 2 && w.end_raw_ns - w.start_raw_ns == WINDOW_NS));
        assert_eq!(windows.iter().map(|w| w.completed).sum::<u64>(), 200);
        assert_eq!(windows.iter().map(|w| w.output_tokens).sum::<u64>(), 600);
        assert_eq!(sum(&windows, |w| &w.ttft).hdr(), ttft.hdr());
        assert_eq!(sum(&windows, |w| &w.itl).hdr(), itl.hdr(), "every gap, the 724 ms ones too");
        assert_eq!(sum(&windows, |w| &w.e2e).hdr(), e2e.hdr());
        let warm = windows.iter().filter(|w| w.phase() == Phase::Warmup).map(|w| w.completed).sum::<u64>();
        assert_eq!(warm, 50, "latency belongs to the phase of the intended send");
        assert_eq!(batches.iter().map(|b| b.records.len()).sum::<usize>(), 200);
    }

    /// Every hundredth has a long gap.
    fn traced(number: i64) -> v1::RequestRecord {
        let record = completed(number, Phase::Measured);
        let longest_gap_ns = Some(if number % 100 == 99 { 900_000_000 } else { 10_000_000 });
        v1::RequestRecord { request: number as u64, longest_gap_ns, arrivals: vec![1; 200], ..record }
    }

    fn shipped(outbox: &Outbox) -> Vec<v1::Batch> {
        (0..outbox.last_seq()).filter_map(|seq| outbox.next_after(seq)).collect()
    }

    #[test]
    fn what_does_not_fit_is_left_out_traces_first_and_all_is_counted() {
        let outbox = Outbox::new(1, 1_500_000);
        let mut recorder = Recorder::new(0, 0, outbox.clone());
        let all = 3_000;
        for number in 0..all {
            recorder.record(traced(number));
            if number % 500 == 499 {
                recorder.flush();
                assert!(
                    outbox.push_worth(Worth::Gauges, v1::Batch::default()).is_ok(),
                    "gauges outlast records"
                );
            }
        }
        recorder.flush();
        assert!(recorder.windows.is_empty() && recorder.dropped_windows == 0, "windows are left out never");
        let batches = shipped(&outbox);
        let records: Vec<_> = batches.iter().flat_map(|b| &b.records).collect();
        let windows = batches.iter().flat_map(|b| &b.windows).map(|w| w.completed).sum::<u64>();
        assert_eq!((windows, records.len() as u64 + recorder.dropped_records), (all as u64, all as u64));
        let first = records.iter().position(|r| r.arrivals_dropped).unwrap() as u64;
        assert!(recorder.dropped_records > 0 && first > 100, "at first all traces, in the end no records");
        let (kept, left_out): (Vec<_>, Vec<_>) =
            records.iter().copied().skip(first as usize).partition(|r| !r.arrivals.is_empty());
        assert!(!kept.is_empty() && kept.iter().all(|r| keeps_trace(r)), "then some");
        assert!(
            kept.iter().any(|r| r.longest_gap_ns.unwrap() > LONG_GAP.1 as i64),
            "the long ones among them"
        );
        assert!(left_out.iter().all(|r| r.arrivals_dropped && r.socket_waits.is_empty()));
        assert!(recorder.dropped_traces >= left_out.len() as u64, "those of dropped records are counted too");
    }

    #[test]
    fn over_budget_one_trace_in_sixteen_is_kept_and_every_one_with_a_long_gap() {
        let drawn = (0..16_000).filter(|&n| keeps_trace(&traced(n * 100))).count();
        assert!((900..1_100).contains(&drawn), "{drawn}");
        assert!((0..1_000).all(|n| keeps_trace(&traced(n * 100 + 99))));
        let slow = v1::RequestRecord {
            first_token_raw_ns: Some(0),
            last_token_raw_ns: Some(10_000_000_000),
            content_chunks: 11,
            ..traced(99)
        };
        let kept = (0..1_600).filter(|&request| keeps_trace(&v1::RequestRecord { request, ..slow.clone() }));
        assert!(kept.count() < 200, "gaps of 900 ms are nothing special where the mean is a second");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outbox_that_is_full_for_long_costs_no_value_and_bounded_memory() {
        let outbox = Outbox::new(1, 3_400);
        assert!(outbox.push(v1::Batch { records: vec![blob(2_000)], ..Default::default() }).is_ok());
        let mut recorder = Recorder::new(0, 0, outbox.clone());
        for number in 0..3_000 {
            recorder.record(completed(number, Phase::Measured));
            recorder.flush();
        }
        assert_eq!(recorder.windows.len(), MOST_WINDOWS);
        let open = recorder.open[1].as_ref().unwrap();
        let held = recorder.windows.iter().map(|w| w.completed).sum::<u64>() + open.completed;
        assert_eq!((held, recorder.dropped_windows), (3_000, 0));
        recorder.finish().await;
        assert_eq!(recorder.dropped_windows, MOST_WINDOWS as u64 + 1, "never acked: counted");
        let roomy = Outbox::new(2, 64 << 20);
        recorder.outbox = roomy.clone();
        recorder.dropped_windows = 0;
        recorder.finish().await;
        let windows = shipped(&roomy).into_iter().flat_map(|b| b.windows);
        assert_eq!(windows.map(|w| w.completed).sum::<u64>(), 3_000);
        assert_eq!(recorder.dropped_windows, 0);
    }

    fn blob(bytes: usize) -> v1::RequestRecord {
        v1::RequestRecord { error_detail: "x".repeat(bytes), ..Default::default() }
    }
}
