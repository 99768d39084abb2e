//! What one shard has measured and not yet handed to the outbox: records, and 1-s histograms cut on edges that count
//! from the level's start. Latencies are those of completed requests; failed ones are counted beside, since a refusal in
//! a millisecond would flatter every percentile.

use std::time::Duration;

use prost::Message;
use tailcliff_proto::arrivals;
use tailcliff_proto::clock::RawNs;
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::outbox::Outbox;
use tailcliff_proto::v1::{self, Outcome, Phase};

use crate::timeline::{e2e_ns, tpot_ns, ttft_ns};

/// Width of a window, ns.
pub(crate) const WINDOW_NS: i64 = 1_000_000_000;
/// Records are handed on when they reach this many bytes.
const BATCH_BYTES: usize = 256 << 10;
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

    /// Takes in one ended request.
    pub(crate) fn record(&mut self, record: v1::RequestRecord) {
        self.count(&record);
        self.bytes += record.encoded_len() + 8;
        self.records.push(record);
        if self.bytes >= BATCH_BYTES {
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
        let Err(batch) = self.outbox.push(batch) else { return };
        let bare = self.without_traces(*batch);
        let Err(batch) = self.outbox.push(bare) else { return };
        self.dropped_records += batch.records.len() as u64;
        let Err(batch) = self.outbox.push(v1::Batch { records: Vec::new(), ..*batch }) else { return };
        // Windows are small and worth most: they wait for room.
        self.windows = batch.windows;
    }

    fn without_traces(&mut self, mut batch: v1::Batch) -> v1::Batch {
        for record in batch.records.iter_mut().filter(|record| !record.arrivals.is_empty()) {
            record.arrivals.clear();
            record.socket_waits.clear();
            record.arrivals_dropped = true;
            self.dropped_traces += 1;
        }
        batch
    }
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
        let batches: Vec<_> = (0..outbox.last_seq()).filter_map(|seq| outbox.next_after(seq)).collect();
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

    #[test]
    fn what_does_not_fit_is_left_out_traces_first_and_counted() {
        let outbox = Outbox::new(1, 1_500);
        let mut recorder = Recorder::new(0, 0, outbox.clone());
        for number in 0..40 {
            let mut record = completed(number, Phase::Measured);
            record.arrivals.resize(200, 1);
            recorder.record(v1::RequestRecord { outcome: Outcome::Failed as i32, ..record });
        }
        recorder.flush();
        assert_eq!(recorder.dropped_traces, 40);
        assert!(recorder.dropped_records > 0);
        assert!(recorder.windows.is_empty() || outbox.last_seq() == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outbox_that_is_full_for_long_costs_no_value_and_bounded_memory() {
        let outbox = Outbox::new(1, 2_000);
        assert!(outbox.push(v1::Batch { records: vec![blob(1_900)], ..Default::default() }).is_ok());
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
        let shipped = (0..roomy.last_seq()).filter_map(|seq| roomy.next_after(seq)).flat_map(|b| b.windows);
        assert_eq!(shipped.map(|w| w.completed).sum::<u64>(), 3_000);
        assert_eq!(recorder.dropped_windows, 0);
    }

    fn blob(bytes: usize) -> v1::RequestRecord {
        v1::RequestRecord { error_detail: "x".repeat(bytes), ..Default::default() }
    }
}
