//! One shard: a thread with a runtime, connections and a recorder of its own. Nothing on its request path is shared with
//! another shard but counters that only it writes.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use nix::time::{ClockId, clock_gettime};
use tailcliff_proto::clock::{HostClock, RawNs};
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::outbox::Outbox;
use tailcliff_proto::v1::{self, Outcome};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::body::Bodies;
use crate::cancel::Cancel;
use crate::client::{Attempt, Client};
use crate::connection;
use crate::recorder::Recorder;
use crate::schedule::{Slot, Turn};
use crate::target::Target;
use crate::trace::{Port, Trace};

/// What a shard is to do in one level.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) level: u32,
    pub(crate) incarnation: u64,
    pub(crate) slots: Vec<(u32, Slot)>,
    pub(crate) fresh_connections: bool,
    pub(crate) target: Arc<Target>,
    pub(crate) bodies: Arc<Bodies>,
    pub(crate) outbox: Outbox,
    pub(crate) gauges: Arc<Gauges>,
    /// In trace mode.
    pub(crate) trace: Option<Port>,
    /// No new requests.
    pub(crate) stop: CancellationToken,
    /// Give up those in flight.
    pub(crate) cancel: CancellationToken,
}

/// Counters that the shard writes and others read; an allocation of its own keeps each on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Gauges {
    pub(crate) released: AtomicU64,
    pub(crate) completed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) incomplete: AtomicU64,
    pub(crate) output_tokens: AtomicU64,
}

impl Gauges {
    /// As they stand; in flight is what was released and has not ended.
    pub(crate) fn counts(&self) -> v1::LevelCounts {
        // Ends are read first: a request that ends in between must not make in-flight negative.
        let (completed, failed) = (self.completed.load(Relaxed), self.failed.load(Relaxed));
        let incomplete = self.incomplete.load(Relaxed);
        v1::LevelCounts { released: self.released.load(Relaxed), completed, failed, incomplete }
    }
}

/// What a shard says when its part of a level is over.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) dry: Option<RawNs>,
    pub(crate) dropped_traces: u64,
    pub(crate) dropped_records: u64,
    pub(crate) dropped_windows: u64,
    pub(crate) cpu_ns: i64,
    pub(crate) send_lag: LatencyHistogram,
    pub(crate) scheduler_lag: LatencyHistogram,
}

const FLUSH: Duration = Duration::from_millis(500);
const LAG_TICK_NS: i64 = 10_000_000;

/// Starts the thread; it makes what each stream sends first, says `ready`, waits for `start` and reports when its slots
/// are over.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub(crate) fn spawn(
    number: usize,
    mut work: Work,
    ready: oneshot::Sender<()>,
    start: oneshot::Receiver<RawNs>,
) -> io::Result<oneshot::Receiver<Report>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (out, report) = oneshot::channel();
    std::thread::Builder::new().name(format!("shard-{number}")).spawn(move || {
        let tasks = tokio::task::LocalSet::new();
        let ended = tasks.block_on(&runtime, async {
            let streams = work.first_requests();
            let target = work.target.clone();
            // A failure shows in the requests, each of which asks again.
            tokio::task::spawn_local(async move { drop(connection::addresses(&target).await) });
            let _given_up = ready.send(());
            let start = tokio::select! {
                start = start => start.ok()?,
                () = work.cancel.cancelled() => return None,
            };
            Some(drive(work, streams, start).await)
        });
        if let Some(report) = ended {
            // The level may have been given up.
            let _nobody = out.send(report);
        }
    })?;
    Ok(report)
}

/// What the slots of a shard share.
#[derive(Debug)]
struct Shared {
    work: Work,
    cancel: Cancel,
    start: RawNs,
    recorder: RefCell<Recorder>,
    send_lag: RefCell<LatencyHistogram>,
    trace: Option<RefCell<Trace>>,
    dry: std::cell::Cell<Option<RawNs>>,
}

/// A stream with the body of its first request: written before the start, as it is no part of any latency.
struct Stream {
    number: u32,
    slot: Slot,
    body: Bytes,
}

impl Work {
    fn first_requests(&mut self) -> Vec<Stream> {
        let slots = std::mem::take(&mut self.slots);
        let first = |(number, slot): (u32, Slot)| {
            let body = self.bodies.body(self.level, number, slot.next_request());
            Stream { number, slot, body }
        };
        slots.into_iter().map(first).collect()
    }
}

async fn drive(mut work: Work, first: Vec<Stream>, start: RawNs) -> Report {
    let cpu_before = thread_cpu_ns();
    let recorder = RefCell::new(Recorder::new(work.level, start, work.outbox.clone()));
    let (send_lag, dry) = (RefCell::default(), std::cell::Cell::default());
    let trace = work.trace.take().map(|port| RefCell::new(port.open(start)));
    let shared = Rc::new(Shared { work, cancel: Cancel::new(), start, recorder, send_lag, trace, dry });
    let lag = Rc::new(RefCell::new(LatencyHistogram::default()));
    // A flag of this shard's own: streams look at it at every wake-up.
    let (told, cancel) = (shared.work.cancel.clone(), shared.cancel.clone());
    let giving_up = tokio::task::spawn_local(async move {
        told.cancelled().await;
        cancel.cancel();
    });
    let beats = [
        tokio::task::spawn_local(flush_each_beat(shared.clone())),
        tokio::task::spawn_local(watch_scheduler(shared.clone(), lag.clone())),
    ];
    let mut streams = tokio::task::JoinSet::new();
    for stream in first {
        streams.spawn_local(serve_slot(shared.clone(), stream));
    }
    while streams.join_next().await.is_some() {}
    beats.iter().for_each(tokio::task::JoinHandle::abort);
    giving_up.abort();
    let empty = Recorder::new(shared.work.level, start, shared.work.outbox.clone());
    let mut recorder = shared.recorder.replace(empty);
    recorder.finish().await;
    Report {
        dry: shared.dry.get(),
        dropped_traces: recorder.dropped_traces,
        dropped_records: recorder.dropped_records,
        dropped_windows: recorder.dropped_windows,
        cpu_ns: thread_cpu_ns() - cpu_before,
        send_lag: shared.send_lag.take(),
        scheduler_lag: lag.take(),
    }
}

/// A stream's slot from its first request to its last.
async fn serve_slot(shared: Rc<Shared>, first: Stream) {
    let work = &shared.work;
    let Stream { number: stream, mut slot, mut body } = first;
    let mut client = Client::new(work.target.clone(), work.fresh_connections);
    shared.trace(|_| client.time_code());
    // The first request is meant for the start itself, however late this task comes to it.
    let mut free = shared.start;
    while !work.stop.is_cancelled() {
        let (request, phase) = match slot.turn(free - shared.start) {
            Turn::Release { request, phase } => (request, phase),
            Turn::Dry => return shared.went_dry(free),
            Turn::Over => return,
        };
        let attempt = Attempt {
            level: work.level,
            stream,
            request,
            phase,
            intended_raw_ns: free,
            request_id: format!("{:x}-{}-{stream}-{request}", work.incarnation, work.level),
            body,
        };
        work.gauges.released.fetch_add(1, Relaxed);
        shared.trace(|trace| trace.issued(phase));
        let record = client.request(attempt, &shared.cancel).await;
        let failed = record.outcome() == Outcome::Failed;
        shared.took(record);
        // Made before the slot counts as free: writing a prompt is no part of any latency.
        body = work.bodies.body(work.level, stream, slot.next_request());
        let pause = slot.pause_ns(failed);
        if pause > 0 {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_nanos(pause.unsigned_abs())) => {}
                () = work.stop.cancelled() => {}
            }
        }
        free = HostClock.now();
    }
}

impl Shared {
    fn took(&self, record: v1::RequestRecord) {
        if let Some(sent) = record.sent_raw_ns.filter(|_| record.reused_connection) {
            self.send_lag.borrow_mut().record(sent - record.intended_raw_ns);
        } else if let Some(issued) = record.issued_raw_ns {
            // Connecting is the network's and the server's time: our own lag ends where it begins.
            self.send_lag.borrow_mut().record(issued - record.intended_raw_ns);
        }
        let gauges = &self.work.gauges;
        gauges.output_tokens.fetch_add(record.output_tokens.unwrap_or(0), Relaxed);
        let ended = match record.outcome() {
            Outcome::Completed => &gauges.completed,
            Outcome::Incomplete => &gauges.incomplete,
            Outcome::Failed | Outcome::Unspecified => &gauges.failed,
        };
        ended.fetch_add(1, Relaxed);
        self.trace(|trace| trace.add(&record));
        self.recorder.borrow_mut().record(record);
    }

    /// One look at an option where there is no trace.
    fn trace(&self, note: impl FnOnce(&mut Trace)) {
        if let Some(trace) = &self.trace {
            note(&mut trace.borrow_mut());
        }
    }

    fn went_dry(&self, at: RawNs) {
        self.dry.set(Some(self.dry.get().map_or(at, |first| first.min(at))));
    }
}

async fn flush_each_beat(shared: Rc<Shared>) {
    loop {
        tokio::time::sleep(FLUSH).await;
        shared.recorder.borrow_mut().flush();
        shared.trace(Trace::hand_over);
    }
}

/// How late this runtime gets to what is due: one timer each 10 ms, which itself ticks in milliseconds.
async fn watch_scheduler(shared: Rc<Shared>, lag: Rc<RefCell<LatencyHistogram>>) {
    loop {
        let due = HostClock.now() + LAG_TICK_NS;
        tokio::time::sleep(Duration::from_nanos(LAG_TICK_NS.unsigned_abs())).await;
        let lag_ns = (HostClock.now() - due).max(0);
        lag.borrow_mut().record(lag_ns);
        shared.trace(|trace| trace.lag(due, lag_ns));
    }
}

fn thread_cpu_ns() -> i64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}
