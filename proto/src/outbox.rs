//! What a node has measured and the coordinator has not yet put on disk: numbered batches, kept until acked and
//! replayed after a reconnect. Memory is bounded; beyond it, batches go to a spool on disk if there is one, and what does
//! not fit is handed back to its owner, who counts it.

mod segments;
mod spool;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::clock::HostClock;
use crate::link::{LinkError, MAX_MESSAGE_BYTES, Route, dial_telling};
use crate::v1;
use crate::v1::bulk_client::BulkClient;

use spool::Progress;
pub use spool::SpoolConfig;

/// Batches are cut at this size, unless memory is small.
const MOST_BATCH_BYTES: usize = 256 << 10;
/// Batches on their way to the stream, beyond those that are kept.
const IN_HAND: usize = 4;

/// A handle to one process's outbox.
#[derive(Clone, Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
}

/// How much a batch is worth when there is little room: the least valuable is left out first, while there is still room
/// for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// Every token's time.
    Traces,
    /// The times of some requests' tokens.
    SomeTraces,
    /// What became of each request.
    Records,
    /// How many requests were in flight.
    Gauges,
    /// Histograms, and whatever has nothing above it.
    Most,
}

impl Worth {
    /// Of `bytes`, those that may be in use for such a batch to be taken.
    fn of(self, bytes: usize) -> usize {
        let percent = match self {
            Self::Traces => 75,
            Self::SomeTraces => 82,
            Self::Records => 88,
            Self::Gauges => 94,
            Self::Most => 100,
        };
        bytes / 100 * percent + bytes % 100 * percent / 100
    }
}

#[derive(Debug)]
struct Shared {
    incarnation: u64,
    byte_limit: usize,
    state: Mutex<State>,
    changed: Notify,
    /// There is something for the spool's thread to do.
    work: Condvar,
}

/// In the order of their numbers: `head`, then what is on disk, then `tail`. Without a spool there is only a head.
#[derive(Debug, Default)]
struct State {
    /// Shipped next, and kept until acked.
    head: VecDeque<Kept>,
    head_cost: usize,
    /// Waits to be written.
    tail: VecDeque<Kept>,
    /// Of all, bytes.
    memory: usize,
    last_seq: u64,
    acked: u64,
    spool: Progress,
}

/// Shared, so that nothing is copied while the lock is held: shards push from their request path.
#[derive(Clone, Debug)]
struct Kept {
    batch: Arc<v1::Batch>,
    cost: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With a spool, what waits for acks has half of the memory: the other half is for what waits to be written.
    fn takes(&self, state: &State, cost: usize) -> bool {
        !state.spool.lives || state.head.is_empty() || state.head_cost + cost <= self.byte_limit / 2
    }

    /// The same for a batch that is on disk, and in memory no more.
    fn takes_back(&self, state: &State, cost: usize) -> bool {
        state.head.is_empty() || self.takes(state, cost) && state.memory + cost <= self.byte_limit
    }
}

impl State {
    /// Moves what waits to be written to the front, when nothing is between; true when that was anything.
    fn close_up(&mut self, shared: &Shared) -> bool {
        let before = self.head.len();
        while self.spool.on_disk.is_empty()
            && self.tail.front().is_some_and(|next| shared.takes(self, next.cost))
            && let Some(next) = self.tail.pop_front()
        {
            self.head_cost += next.cost;
            self.head.push_back(next);
        }
        self.head.len() > before
    }

    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.spool.on_disk.is_empty() && self.tail.is_empty()
    }
}

/// What a batch takes in memory, at most. Its text and bytes are as long as they are when encoded; numbers are longer.
fn cost(batch: &v1::Batch) -> usize {
    let records = batch.records.len() * size_of::<v1::RequestRecord>();
    let windows = batch.windows.len() * size_of::<v1::Window>();
    let gauges = batch.in_flight.len() * size_of::<v1::InFlightSample>();
    size_of::<v1::Batch>() + batch.encoded_len() + records + windows + gauges + evidence_cost(batch)
}

/// Readings of GPUs, of hosts and of event loops, beside GPU samples.
pub fn other_readings(batch: &v1::Batch) -> usize {
    let stamped = batch.driver_samples.iter().map(|of| of.raw_ns.len()).sum::<usize>();
    let each =
        [batch.host_samples.len(), batch.gpm_samples.len(), batch.gpu_events.len(), batch.loop_lags.len()];
    each.iter().sum::<usize>() + stamped + told_by_servers(batch)
}

/// What servers tell of themselves.
fn told_by_servers(batch: &v1::Batch) -> usize {
    batch.server_samples.len()
        + batch.server_spans.len()
        + batch.server_stamps.len()
        + batch.wall_clocks.len()
}

/// The part of a batch's cost that they are.
fn servers_cost(batch: &v1::Batch) -> usize {
    let histogram = |of: &v1::ServerHistogram| {
        size_of::<v1::ServerHistogram>() + (of.upper_s.len() + of.cumulative.len()) * size_of::<f64>()
    };
    let sample = |of: &v1::ServerSample| {
        let named = of.named.iter().map(|named| size_of::<v1::NamedValue>() + named.name.len());
        let text = of.endpoint.len() + of.failed.len();
        size_of::<v1::ServerSample>()
            + text
            + of.histograms.iter().map(histogram).sum::<usize>()
            + named.sum::<usize>()
    };
    let span = |of: &v1::ServerSpan| {
        let ids = of.trace_id.len() + of.span_id.len() + of.parent_span_id.len();
        size_of::<v1::ServerSpan>() + ids + of.name.len() + of.request_id.len() + of.service.len()
    };
    let stamps = |of: &v1::ServerStamps| size_of::<v1::ServerStamps>() + of.request_id.len();
    let facts = |of: &v1::ServerFacts| size_of::<v1::ServerFacts>() + of.encoded_len();
    let walls = batch.wall_clocks.len() * size_of::<v1::WallClock>();
    let tallies = batch.span_tallies.len() * size_of::<v1::SpanTally>();
    batch.server_samples.iter().map(sample).sum::<usize>()
        + batch.server_spans.iter().map(span).sum::<usize>()
        + batch.server_stamps.iter().map(stamps).sum::<usize>()
        + batch.server_facts.iter().map(facts).sum::<usize>()
        + walls
        + tallies
}

/// The part of it that is readings of GPUs, of hosts, and of the senders themselves.
fn evidence_cost(batch: &v1::Batch) -> usize {
    let samples = batch.gpu_samples.len() * size_of::<v1::GpuSample>();
    let hosts = batch.host_samples.len() * size_of::<v1::HostSample>();
    let kept = batch
        .driver_samples
        .iter()
        .map(|of| size_of::<v1::DriverSamples>() + (of.raw_ns.len() + of.values.len()) * size_of::<u64>());
    let gpm = batch.gpm_samples.len() * size_of::<v1::GpmSample>();
    let sensors = batch.sensors.len() * size_of::<v1::SensorReport>();
    let events = batch.gpu_events.len() * size_of::<v1::GpuEvent>();
    let costs = batch.probe_costs.len() * size_of::<v1::ProbeCost>();
    let lags = batch.loop_lags.len() * size_of::<v1::LoopLag>();
    samples + hosts + kept.sum::<usize>() + gpm + sensors + events + costs + lags + servers_cost(batch)
}

impl Outbox {
    /// An empty outbox that keeps at most `byte_limit` bytes of unacked batches in memory, and none elsewhere.
    pub fn new(incarnation: u64, byte_limit: usize) -> Self {
        let (state, changed, work) = (Mutex::default(), Notify::new(), Condvar::new());
        Self { shared: Arc::new(Shared { incarnation, byte_limit, state, changed, work }) }
    }

    /// From now on, what does not fit into memory goes to disk. What a person must know of that goes to `tell`. Whoever calls
    /// this must call [`Outbox::close`] in the end.
    ///
    /// # Errors
    /// When the thread that writes and reads cannot be made.
    pub fn spool(&self, config: SpoolConfig, tell: mpsc::Sender<String>) -> std::io::Result<()> {
        self.shared.state().spool.lives = true;
        let started = spool::start(Arc::clone(&self.shared), config, tell);
        if started.is_err() {
            self.shared.state().spool.lives = false;
        }
        started.map(drop)
    }

    /// Gives up what is on disk, and removes its files; [`Outbox::closed`] tells when that is done.
    pub fn close(&self) {
        self.shared.state().spool.closing = true;
        self.shared.work.notify_all();
    }

    /// Waits until no file is left, after [`Outbox::close`].
    pub async fn closed(&self) {
        self.wait(|state| !state.spool.lives).await;
    }

    /// A good size for a batch, bytes: small beside what fits.
    pub fn batch_bytes(&self) -> usize {
        (self.shared.byte_limit / 32).min(MOST_BATCH_BYTES)
    }

    /// Numbers, stamps and keeps a batch that is worth most; returns its number.
    ///
    /// # Errors
    /// The batch itself, when it does not fit.
    pub fn push(&self, batch: v1::Batch) -> Result<u64, Box<v1::Batch>> {
        self.push_worth(Worth::Most, batch)
    }

    /// The same for a batch that leaves some room to those that are worth more.
    ///
    /// # Errors
    /// The batch itself, when it does not fit.
    pub fn push_worth(&self, worth: Worth, mut batch: v1::Batch) -> Result<u64, Box<v1::Batch>> {
        let cost = cost(&batch);
        let shared = &self.shared;
        let mut state = shared.state();
        // One larger than a message may be could never be sent, and would block all behind it. Its cost is more than its
        // length with the number and the stamp, which are set below.
        if state.memory + cost > worth.of(shared.byte_limit) || cost > MAX_MESSAGE_BYTES {
            return Err(Box::new(batch));
        }
        state.last_seq += 1;
        batch.incarnation = shared.incarnation;
        batch.seq = state.last_seq;
        batch.sent_raw_ns = HostClock.now();
        state.memory += cost;
        state.tail.push_back(Kept { batch: Arc::new(batch), cost });
        state.close_up(shared);
        let (seq, waits) = (state.last_seq, !state.tail.is_empty());
        drop(state);
        if waits {
            shared.work.notify_one();
        }
        shared.changed.notify_waiters();
        Ok(seq)
    }

    /// Number of the newest batch; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.shared.state().last_seq
    }

    /// Number of the newest batch that is acked, with all before it; 0 before the first.
    pub fn acked(&self) -> u64 {
        self.shared.state().acked
    }

    /// Batches that are not acked.
    pub fn unacked(&self) -> u64 {
        let state = self.shared.state();
        state.last_seq - state.acked
    }

    /// Waits until no ack has come for so long: what is left then will hardly be taken.
    pub async fn stalled(&self, patience: Duration) {
        loop {
            let before = self.acked();
            tokio::time::sleep(patience).await;
            if self.acked() == before {
                return;
            }
        }
    }

    /// Waits until every batch is acked.
    pub async fn drained(&self) {
        self.wait(State::is_empty).await;
    }

    /// Ships batches and takes acks until `shutdown`, dialling again and replaying whenever the stream breaks.
    ///
    /// # Errors
    /// Only a malformed address or token.
    pub async fn ship(self, route: Route, shutdown: CancellationToken) -> Result<(), LinkError> {
        loop {
            let ended = tokio::select! {
                ended = self.ship_once(&route, &shutdown) => ended,
                () = shutdown.cancelled() => return Ok(()),
            };
            match ended {
                Err(fatal @ (LinkError::Address(_) | LinkError::Token)) => return Err(fatal),
                Err(LinkError::Stopped) => return Ok(()),
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    async fn ship_once(&self, route: &Route, shutdown: &CancellationToken) -> Result<(), LinkError> {
        let channel = dial_telling(route, shutdown, |_| {}).await?;
        let (out, batches) = mpsc::channel(IN_HAND);
        let mut client = BulkClient::new(channel).max_encoding_message_size(MAX_MESSAGE_BYTES);
        // The response headers may only come with the first ack, so send and receive start together.
        let receive = async {
            let mut acks = client.ship(ReceiverStream::new(batches)).await?.into_inner();
            while let Some(ack) = acks.message().await? {
                self.acknowledge(ack.through_seq);
            }
            Err(LinkError::Broken("bulk stream ended".to_owned()))
        };
        tokio::select! {
            ended = receive => ended,
            ended = self.send_from(out) => ended,
        }
    }

    /// Sends every kept batch in order, from the oldest unacked one.
    async fn send_from(&self, out: mpsc::Sender<v1::Batch>) -> Result<(), LinkError> {
        let mut sent = 0;
        loop {
            self.wait(|state| state.head.back().is_some_and(|newest| newest.batch.seq > sent)).await;
            while let Some(batch) = self.next_after(sent) {
                sent = batch.seq;
                out.send(batch).await.map_err(|_| LinkError::Broken("bulk stream closed".to_owned()))?;
            }
        }
    }

    /// The oldest batch after a number that is in memory and kept until acked.
    pub fn next_after(&self, sent: u64) -> Option<v1::Batch> {
        let batch = {
            let state = self.shared.state();
            let first = state.head.front()?.batch.seq;
            // Numbers are consecutive, so the position follows from the number.
            let position = (sent + 1).saturating_sub(first) as usize;
            Arc::clone(&state.head.get(position)?.batch)
        };
        Some(v1::Batch::clone(&batch))
    }

    fn acknowledge(&self, through: u64) {
        let mut state = self.shared.state();
        // An ack beyond what can have been sent is a broken peer's: it must not delete anything later.
        let Some(newest) = state.head.back().map(|kept| kept.batch.seq) else { return };
        state.acked = state.acked.max(through.min(newest));
        let acked = state.head.partition_point(|kept| kept.batch.seq <= state.acked);
        let freed: Vec<_> = state.head.drain(..acked).collect();
        let cost = freed.iter().map(|kept| kept.cost).sum::<usize>();
        state.head_cost -= cost;
        state.memory -= cost;
        state.close_up(&self.shared);
        let has_spool = state.spool.lives;
        drop(state);
        drop(freed);
        if has_spool {
            self.shared.work.notify_one();
        }
        self.shared.changed.notify_waiters();
    }

    async fn wait(&self, until: impl Fn(&State) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change between the two is missed.
            changed.as_mut().enable();
            if until(&self.shared.state()) {
                return;
            }
            changed.await;
        }
    }
}
