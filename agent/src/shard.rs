//! One shard: a thread with a runtime, connections and a recorder of its own. Nothing on its request path is shared with
//! another shard but counters that only it writes.

mod closed;
mod lag;
mod open;
mod timer;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tailcliff_proto::arrivals;
use tailcliff_proto::clock::{HostClock, RawNs};
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::outbox::Outbox;
use tailcliff_proto::v1::{self, Outcome, Phase, TokenSource};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::body::{Bodies, Prepared};
use crate::cancel::Cancel;
use crate::client::{Attempt, Client};
use crate::connection;
use crate::controls::{Block, Controls};
use crate::delta::Kept;
use crate::recorder::Recorder;
use crate::schedule::{Retry, Slot};
use crate::target::Target;
use crate::trace::{Port, Trace};
use lag::Watch;
use timer::Timer;

pub(crate) use open::Part as OpenPart;

/// What a shard is to do in one level.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) level: u32,
    /// Number of the shard.
    pub(crate) shard: u32,
    pub(crate) incarnation: u64,
    pub(crate) part: Part,
    pub(crate) retry: Retry,
    pub(crate) controls: Controls,
    /// Of this shard's loop.
    pub(crate) block: Option<Block>,
    pub(crate) fresh_connections: bool,
    /// Left out of what the shard says of itself, as of every figure.
    pub(crate) warmup_ns: i64,
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

/// What makes a shard's requests due.
#[derive(Debug)]
pub(crate) enum Part {
    /// Its streams, by number.
    Closed(Vec<(u32, Slot)>),
    /// Its arrivals.
    Open(OpenPart),
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
    pub(crate) retried: AtomicU64,
    pub(crate) held_back: AtomicU64,
}

impl Gauges {
    /// It is no longer in flight, whatever is still made of its record.
    fn ended(&self, outcome: Outcome) {
        let ended = match outcome {
            Outcome::Completed => &self.completed,
            Outcome::Incomplete => &self.incomplete,
            Outcome::Failed | Outcome::Unspecified => &self.failed,
        };
        ended.fetch_add(1, Relaxed);
    }

    /// As they stand; in flight is what was released and has not ended.
    pub(crate) fn counts(&self) -> v1::LevelCounts {
        // Ends are read first: a request that ends in between must not make in-flight negative.
        let (completed, failed) = (self.completed.load(Relaxed), self.failed.load(Relaxed));
        let incomplete = self.incomplete.load(Relaxed);
        let (retried, held_back) = (self.retried.load(Relaxed), self.held_back.load(Relaxed));
        let released = self.released.load(Relaxed);
        v1::LevelCounts { released, completed, failed, incomplete, retried, held_back }
    }
}

/// What a shard says when its part of a level is over.
#[derive(Debug)]
pub(crate) struct Report {
    /// Which shard, from 0.
    pub(crate) number: u32,
    /// Streams, or most requests in flight.
    pub(crate) streams: u32,
    pub(crate) dry: Option<RawNs>,
    pub(crate) dropped_traces: u64,
    pub(crate) dropped_records: u64,
    pub(crate) dropped_windows: u64,
    pub(crate) dropped_loop_lags: u64,
    pub(crate) cpu_ns: i64,
    /// From the shard's start to its last ended request.
    pub(crate) wall_ns: i64,
    pub(crate) send_lag: LatencyHistogram,
    pub(crate) scheduler_lag: LatencyHistogram,
    /// How long bytes lay in the socket before they were read.
    pub(crate) socket_wait: LatencyHistogram,
    /// Of an open loop: what the bound on requests in flight held back, and how long.
    pub(crate) held: open::Held,
}

const FLUSH: Duration = Duration::from_millis(500);

/// Starts the thread; it makes what each stream sends first, says `ready`, waits for `start` and reports when its slots
/// are over.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub(crate) fn spawn(
    mut work: Work,
    ready: oneshot::Sender<()>,
    start: oneshot::Receiver<RawNs>,
) -> io::Result<oneshot::Receiver<Report>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let timer = {
        let _within = runtime.enter();
        Timer::new()?
    };
    let (out, report) = oneshot::channel();
    std::thread::Builder::new().name(format!("shard-{}", work.shard)).spawn(move || {
        let tasks = tokio::task::LocalSet::new();
        let ended = tasks.block_on(&runtime, async {
            let first = work.prepare(timer);
            let target = work.target.clone();
            // A failure shows in the requests, each of which asks again.
            tokio::task::spawn_local(async move { drop(connection::addresses(&target).await) });
            let _given_up = ready.send(());
            let start = tokio::select! {
                start = start => start.ok()?,
                () = work.cancel.cancelled() => return None,
            };
            Some(drive(work, first, start).await)
        });
        if let Some(report) = ended {
            // The level may have been given up.
            let _nobody = out.send(report);
        }
    })?;
    Ok(report)
}

/// What the tasks of a shard share.
#[derive(Debug)]
struct Shared {
    work: Work,
    start: RawNs,
    /// Gives up what is in flight: with the level, or earlier when this shard's drain is over. A flag of the shard's own:
    /// its streams look at it at every wake-up.
    cancel: Cancel,
    recorder: RefCell<Recorder>,
    send_lag: RefCell<LatencyHistogram>,
    socket_wait: RefCell<LatencyHistogram>,
    trace: Option<RefCell<Trace>>,
    dry: Cell<Option<RawNs>>,
}

/// What was made before the start.
enum First {
    Closed(Vec<closed::Stream>),
    Open(Timer, open::Begun),
}

/// A request to send.
struct Due {
    stream: u32,
    request: u64,
    phase: v1::Phase,
    intended: RawNs,
    /// How long the bound on requests in flight kept it waiting.
    held_ns: Option<i64>,
    prepared: Prepared,
}

/// How a request went, its last try.
struct Went {
    failed: bool,
    /// What the server said, where that is kept.
    answer: Option<String>,
}

impl Work {
    fn prepare(&mut self, timer: Timer) -> First {
        match std::mem::replace(&mut self.part, Part::Closed(Vec::new())) {
            Part::Closed(slots) => First::Closed(closed::prepare(self, slots)),
            Part::Open(part) => First::Open(timer, open::prepare(self, part)),
        }
    }

    fn client(&self) -> Client {
        let mut client = Client::new(self.target.clone(), self.fresh_connections);
        if self.bodies.wants_answers() {
            client.keep_text();
        }
        client
    }

    /// Counts by the tokenizer what the server has not counted, on another thread: it takes a microsecond a token, for
    /// which other streams would have to wait. No part of any latency, as the request has ended.
    async fn count_tokens(&self, mut record: v1::RequestRecord, said: &Kept) -> v1::RequestRecord {
        if self.bodies.counter().is_none() {
            return record;
        }
        let (bodies, said) = (self.bodies.clone(), said.clone());
        let count =
            move || bodies.counter().and_then(|c| Some(c.count(&said.answer)? + c.count(&said.beside)?));
        if let Ok(Some(tokens)) = tokio::task::spawn_blocking(count).await
            && tokens > 0
        {
            record.output_tokens = Some(tokens);
            record.token_source = TokenSource::Tokenizer as i32;
        }
        record
    }

    fn attempt(&self, due: &mut Due, attempt: u32) -> Attempt {
        // Kept only for another try: the usual single one takes it without a copy's bookkeeping.
        let body = &mut due.prepared.body;
        let body = if attempt < self.retry.tries { body.clone() } else { std::mem::take(body) };
        let (level, stream, request) = (self.level, due.stream, due.request);
        let again = if attempt > 0 { format!("-r{attempt}") } else { String::new() };
        Attempt {
            level,
            stream,
            request,
            phase: due.phase,
            intended_raw_ns: due.intended,
            request_id: format!("{:x}-{level}-{stream}-{request}{again}", self.incarnation),
            body,
            control_pause: self.controls.pause(stream, request),
        }
    }
}

async fn drive(mut work: Work, first: First, start: RawNs) -> Report {
    let (cpu_before, began, streams) = (thread_cpu_ns(), HostClock.now(), first.streams());
    let recorder = RefCell::new(Recorder::new(work.level, start, work.outbox.clone()));
    let trace = work.trace.take().map(|port| RefCell::new(port.open(start)));
    let shared = Rc::new(Shared {
        work,
        start,
        cancel: Cancel::new(),
        recorder,
        send_lag: RefCell::default(),
        socket_wait: RefCell::default(),
        trace,
        dry: Cell::default(),
    });
    let (level, number, outbox) = (shared.work.level, shared.work.shard, shared.work.outbox.clone());
    let watch = Watch::new(level, number, start + shared.work.warmup_ns, HostClock.now());
    let watch = Rc::new(RefCell::new(watch));
    let beats = [
        tokio::task::spawn_local(flush_each_beat(shared.clone(), watch.clone())),
        tokio::task::spawn_local(lag::watch(shared.clone(), watch.clone())),
        tokio::task::spawn_local(stand_still(start, shared.work.block)),
        tokio::task::spawn_local(give_up_with_the_level(shared.work.cancel.clone(), shared.cancel.clone())),
    ];
    let held = match first {
        First::Closed(streams) => {
            closed::drive(&shared, streams).await;
            open::Held::default()
        }
        First::Open(timer, prepared) => open::drive(&shared, timer, prepared).await,
    };
    beats.iter().for_each(tokio::task::JoinHandle::abort);
    let dropped_loop_lags = watch.borrow_mut().end(HostClock.now(), &outbox);
    let empty = Recorder::new(level, start, outbox);
    let mut recorder = shared.recorder.replace(empty);
    recorder.finish().await;
    Report {
        number,
        streams,
        dry: shared.dry.get(),
        dropped_traces: recorder.dropped_traces,
        dropped_records: recorder.dropped_records,
        dropped_windows: recorder.dropped_windows,
        dropped_loop_lags,
        cpu_ns: thread_cpu_ns() - cpu_before,
        wall_ns: HostClock.now() - began,
        send_lag: shared.send_lag.take(),
        scheduler_lag: std::mem::take(&mut watch.borrow_mut().histogram),
        socket_wait: shared.socket_wait.take(),
        held,
    }
}

async fn give_up_with_the_level(level: CancellationToken, shard: Cancel) {
    level.cancelled().await;
    shard.cancel();
}

impl First {
    fn streams(&self) -> u32 {
        match self {
            First::Closed(streams) => streams.len() as u32,
            First::Open(_, prepared) => prepared.limit(),
        }
    }
}

impl Shared {
    fn client(&self) -> Client {
        let mut client = self.work.client();
        self.trace(|_| client.time_code());
        client
    }

    /// Sends a request, and again if it failed and the plan says so. Every try counts from the first one's intended send,
    /// and is a record.
    async fn send(&self, client: &mut Client, mut due: Due) -> Went {
        let work = &self.work;
        let mut attempt = 0;
        loop {
            work.gauges.released.fetch_add(1, Relaxed);
            self.trace(|trace| trace.issued(due.phase));
            let mut record = client.request(work.attempt(&mut due, attempt), &self.cancel).await;
            work.gauges.ended(record.outcome());
            (record.shard, record.attempt, record.held_ns) = (work.shard, attempt, due.held_ns);
            due.prepared.about.mark(&mut record);
            let said = work.bodies.wants_answers().then(|| client.take_text());
            if let Some(said) = said.as_ref().filter(|_| record.token_source() != TokenSource::Usage) {
                record = work.count_tokens(record, said).await;
            }
            let answer = said.map(|said| said.answer);
            let went = Went { failed: record.outcome() == Outcome::Failed, answer };
            let rest = work.retry.rest_ns(&record, attempt);
            self.took(record);
            let Some(rest_ns) = rest else { return went };
            self.rest(rest_ns).await;
            if work.stop.is_cancelled() || self.cancel.is_cancelled() {
                return went;
            }
            attempt += 1;
            work.gauges.retried.fetch_add(1, Relaxed);
        }
    }

    /// Waits, unless the level is being stopped.
    async fn rest(&self, ns: i64) {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_nanos(ns.unsigned_abs())) => {}
            () = self.work.stop.cancelled() => {}
            () = self.cancel.cancelled() => {}
        }
    }

    /// The one place through which every ended try goes.
    fn took(&self, record: v1::RequestRecord) {
        // As every figure, without the warm-up: all streams start at once there, as they never do again; and without what
        // waited on purpose.
        if record.phase() != Phase::Warmup && !record.is_control() {
            self.note_own_lag(&record);
        }
        self.work.gauges.output_tokens.fetch_add(record.output_tokens.unwrap_or(0), Relaxed);
        self.trace(|trace| trace.add(&record));
        self.recorder.borrow_mut().record(record);
    }

    fn note_own_lag(&self, record: &v1::RequestRecord) {
        // The bound's doing is told beside, and a retry is meant for no moment.
        let due = record.intended_raw_ns + record.held_ns.unwrap_or(0);
        // Connecting is the network's and the server's time: our own lag ends where it begins.
        let sent = record.sent_raw_ns.filter(|_| record.reused_connection).or(record.issued_raw_ns);
        if let Some(sent) = sent.filter(|_| record.attempt == 0) {
            self.send_lag.borrow_mut().record(sent - due);
        }
        let mut waits = self.socket_wait.borrow_mut();
        for wait in arrivals::decode_waits(&record.socket_waits).flatten() {
            waits.record(i64::try_from(wait).unwrap_or(i64::MAX));
        }
    }

    fn note_held(&self) {
        self.work.gauges.held_back.fetch_add(1, Relaxed);
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

async fn flush_each_beat(shared: Rc<Shared>, watch: Rc<RefCell<Watch>>) {
    loop {
        tokio::time::sleep(FLUSH).await;
        watch.borrow_mut().hand_on(&shared.work.outbox);
        shared.recorder.borrow_mut().flush();
        shared.trace(Trace::hand_over);
    }
}

/// The control whose truth is known: nothing of this shard runs for that time.
async fn stand_still(start: RawNs, block: Option<Block>) {
    let Some(Block { at_ns, length }) = block else { return };
    let ahead = start.saturating_add(at_ns).saturating_sub(HostClock.now()).max(0);
    tokio::time::sleep(Duration::from_nanos(ahead.unsigned_abs())).await;
    std::thread::sleep(length);
}

fn thread_cpu_ns() -> i64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}
