//! Trace mode on the agent: where the time of each request goes, and how late each thread is, told while a level runs.
//!
//! A shard only copies the stamps of an ended request and hands them over in batches; taking requests apart, adding up
//! and encoding happen on a thread of their own ([`collect`]). A batch that finds no room is dropped and counted: load
//! is never held up. Counts are totals that travel with each batch, so they are never those of a sample.

pub(crate) mod collect;
mod connections;
mod stages;
mod tally;

use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use tailcliff_proto::clock::{HostClock, RawNs};
use tailcliff_proto::v1::{Outcome, Phase, RequestRecord, TraceCounts};

use stages::Stamps;

/// Requests handed over at once: about 30 KiB.
const BATCH: usize = 128;
/// Beats of the scheduler watch kept between two hand-overs at most.
const MOST_LAGS: usize = 1_024;
/// Batches that wait for the collecting thread.
const WAITING: usize = 64;
/// Beat of the scheduler watch.
const LAG_TICK: Duration = Duration::from_millis(10);
/// Ticks of the control thread between two hand-overs.
const CONTROL_FLUSH: usize = 50;

/// Where one thread hands over, before its level has started.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    /// Number of the shard; `None` for the control thread.
    shard: Option<u32>,
    warmup_ns: i64,
    out: SyncSender<Batch>,
}

/// What a thread hands over.
#[derive(Debug)]
pub(crate) struct Batch {
    shard: Option<u32>,
    /// Totals since the level's start.
    counts: TraceCounts,
    dropped: u64,
    samples: Vec<Stamps>,
    lags_ns: Vec<i64>,
}

/// One thread's trace of one level; what it holds is handed over when it is dropped.
#[derive(Debug)]
pub(crate) struct Trace {
    port: Port,
    measured_from: RawNs,
    counts: TraceCounts,
    dropped: u64,
    samples: Vec<Stamps>,
    lags_ns: Vec<i64>,
}

impl Port {
    /// The trace of a level that starts at `start`.
    pub(crate) fn open(self, start: RawNs) -> Trace {
        let measured_from = start + self.warmup_ns;
        Trace {
            port: self,
            measured_from,
            counts: TraceCounts::default(),
            dropped: 0,
            samples: Vec::with_capacity(BATCH),
            lags_ns: Vec::new(),
        }
    }
}

impl Trace {
    /// A request of this phase goes out.
    pub(crate) fn issued(&mut self, phase: Phase) {
        self.counts.issued += u64::from(phase == Phase::Measured);
    }

    /// Takes in an ended request; one of the warm-up or the drain is in no figure.
    pub(crate) fn add(&mut self, record: &RequestRecord) {
        if record.phase != Phase::Measured as i32 {
            return;
        }
        self.counts.output_tokens += record.output_tokens.unwrap_or(0);
        match record.outcome() {
            Outcome::Completed => self.counts.completed += 1,
            Outcome::Incomplete => self.counts.incomplete += 1,
            Outcome::Failed | Outcome::Unspecified => self.counts.failed += 1,
        }
        // A failed request has no stages to compare: it is counted.
        // A retry counts from the first try's intended send: its stages would blame us for the tries before it.
        // One that we paused on purpose has no stages of a server to show.
        if record.outcome == Outcome::Completed as i32 && record.attempt == 0 && !record.is_control() {
            self.samples.push(Stamps::of(record));
            if self.samples.len() >= BATCH {
                self.hand_over();
            }
        }
    }

    /// How late this thread came to a beat that was due at `due`.
    pub(crate) fn lag(&mut self, due: RawNs, lag_ns: i64) {
        if due < self.measured_from {
            return;
        }
        if self.lags_ns.len() >= MOST_LAGS {
            self.dropped += 1;
        } else {
            self.lags_ns.push(lag_ns);
        }
    }

    /// Hands over what there is: at the beat, so that a slow level shows too.
    pub(crate) fn hand_over(&mut self) {
        let batch = self.take();
        match self.port.out.try_send(batch) {
            Ok(()) => {}
            // The collecting thread has no time, or there is none: the load goes on.
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => {
                self.dropped += (batch.samples.len() + batch.lags_ns.len()) as u64;
            }
        }
    }

    fn take(&mut self) -> Batch {
        Batch {
            shard: self.port.shard,
            counts: self.counts,
            dropped: self.dropped,
            samples: std::mem::replace(&mut self.samples, Vec::with_capacity(BATCH)),
            lags_ns: std::mem::take(&mut self.lags_ns),
        }
    }
}

impl Drop for Trace {
    /// The last batch waits for room: the load is over, and its totals are the authoritative ones.
    fn drop(&mut self) {
        let batch = self.take();
        let _nobody = self.port.out.send(batch);
    }
}

/// Watches the thread that it runs on, which must be the control connection's; without a trace it waits for ever.
pub(crate) async fn watch_control(trace: Option<Trace>) -> std::convert::Infallible {
    let Some(mut trace) = trace else { return std::future::pending().await };
    for tick in 1usize.. {
        let due = HostClock.now() + LAG_TICK.as_nanos() as i64;
        tokio::time::sleep(LAG_TICK).await;
        trace.lag(due, (HostClock.now() - due).max(0));
        if tick.is_multiple_of(CONTROL_FLUSH) {
            trace.hand_over();
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, sync_channel};

    fn port(room: usize) -> (Port, Receiver<Batch>) {
        let (out, inbox) = sync_channel(room);
        (Port { shard: Some(3), warmup_ns: 1_000, out }, inbox)
    }

    fn record(phase: Phase, outcome: Outcome) -> RequestRecord {
        let (phase, outcome) = (phase as i32, outcome as i32);
        RequestRecord { phase, outcome, output_tokens: Some(7), done_raw_ns: 5, ..Default::default() }
    }

    #[test]
    fn warm_up_and_drain_are_in_no_figure() {
        let (port, inbox) = port(4);
        let mut trace = port.open(500);
        for phase in [Phase::Warmup, Phase::Measured, Phase::Drain] {
            trace.issued(phase);
            trace.add(&record(phase, Outcome::Completed));
        }
        trace.lag(1_499, 10);
        trace.lag(1_500, 20);
        drop(trace);
        let batch = inbox.recv().unwrap();
        let counts = TraceCounts { issued: 1, completed: 1, output_tokens: 7, ..Default::default() };
        assert_eq!((batch.counts, batch.samples.len(), batch.lags_ns), (counts, 1, vec![20]));
        assert_eq!(batch.shard, Some(3));
    }

    #[test]
    fn one_that_was_paused_on_purpose_is_counted_and_has_no_stages() {
        let (port, inbox) = port(4);
        let mut trace = port.open(0);
        let record = record(Phase::Measured, Outcome::Completed);
        trace.add(&RequestRecord { control_pause_raw_ns: Some(1), control_pause_ns: 2, ..record.clone() });
        trace.add(&record);
        drop(trace);
        let batch = inbox.recv().unwrap();
        assert_eq!((batch.counts.completed, batch.samples.len()), (2, 1));
    }

    #[test]
    fn what_finds_no_room_is_counted_and_the_totals_heal() {
        let (port, inbox) = port(1);
        let mut trace = port.open(0);
        for _ in 0..3 * BATCH {
            trace.add(&record(Phase::Measured, Outcome::Completed));
        }
        trace.add(&record(Phase::Measured, Outcome::Failed));
        let first = inbox.recv().unwrap();
        assert_eq!((first.counts.completed, first.dropped), (BATCH as u64, 0));
        trace.hand_over();
        let second = inbox.recv().unwrap();
        assert_eq!((second.counts.completed, second.counts.failed), (3 * BATCH as u64, 1));
        assert_eq!((second.dropped, second.samples.len()), (2 * BATCH as u64, 0));
    }

    #[test]
    fn a_collector_that_is_gone_stops_nothing() {
        let (port, inbox) = port(1);
        drop(inbox);
        let mut trace = port.open(0);
        (0..2 * BATCH).for_each(|_| trace.add(&record(Phase::Measured, Outcome::Completed)));
        assert_eq!(trace.counts.completed, 2 * BATCH as u64);
        assert_eq!(trace.dropped, 2 * BATCH as u64);
    }

    /// `cargo test -p tailcliff-agent --release --lib trace::tests::cost -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_request_on_the_shard() {
        let (port, inbox) = port(WAITING);
        let taker = std::thread::spawn(move || inbox.iter().map(|b| b.samples.len()).sum::<usize>());
        let mut trace = port.open(0);
        let record = record(Phase::Measured, Outcome::Completed);
        const N: usize = 2_000_000;
        let cpu = || {
            let at = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
            at.tv_sec() * 1_000_000_000 + at.tv_nsec()
        };
        let before = cpu();
        for _ in 0..N {
            trace.add(std::hint::black_box(&record));
        }
        let each = (cpu() - before) as f64 / N as f64;
        let dropped = trace.dropped;
        drop(trace);
        #[allow(clippy::print_stdout)]
        {
            println!(
                "{each:.1} ns of CPU a request, {dropped} of {N} dropped, {} taken",
                taker.join().unwrap()
            );
        }
    }
}
