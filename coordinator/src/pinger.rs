//! The coordinator's end of the clock connections: a thread with a runtime of its own that pings each node in
//! back-to-back bursts and passes on the four stamps, corrected by nobody here.

mod budget;

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1::clock_server::{Clock, ClockServer};
use tailcliff_proto::v1::{self, clock_down, clock_up};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use crate::bursts::Bursts;
use crate::clock::Exchange;
use crate::door::{Door, Strangers};
use crate::service::{MAX_HEADER_BYTES, MAX_STREAMS};
use crate::stored::Incarnation;
use budget::Budget;

const PING_TIMEOUT: Duration = Duration::from_secs(1);
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// A pong or a snapshot of clocks is far smaller.
const MAX_CLOCK_BYTES: usize = 64 << 10;

/// What the clock thread has to say.
#[derive(Debug)]
pub enum ClockEvent {
    /// The answered pings of one burst, in order, and how many were lost.
    Burst {
        /// Whose clock.
        of: Incarnation,
        /// In the order made.
        exchanges: Vec<Exchange>,
        /// Not answered within a second.
        lost: u64,
    },
    /// All clocks of a node, taken after a burst.
    Snapshot(Incarnation, Box<v1::ClockSnapshot>),
}

/// A handle to the clock thread: asks for bursts outside the regular beat.
#[derive(Clone, Debug, Default)]
pub struct Pinger {
    nodes: Arc<Mutex<HashMap<Incarnation, mpsc::Sender<u32>>>>,
}

impl Pinger {
    /// Asks for a burst of `pings`; dropped when the node is gone or busy with earlier bursts.
    pub fn burst(&self, of: Incarnation, pings: u32) {
        if let Some(orders) = self.nodes().get(&of) {
            let _busy = orders.try_send(pings);
        }
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, HashMap<Incarnation, mpsc::Sender<u32>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread that serves the clock on `listener` to a fleet of so many nodes, to whom `door` lets in; events go to
/// `events`.
///
/// # Errors
/// When the runtime or the thread cannot be made.
pub fn serve(
    (listener, fleet): (std::net::TcpListener, u32),
    door: Door,
    strangers: Strangers,
    events: mpsc::Sender<ClockEvent>,
    shutdown: CancellationToken,
) -> io::Result<(Pinger, JoinHandle<()>)> {
    let pinger = Pinger::default();
    let budget = Arc::new(Budget::new(Instant::now()));
    let service = Service { pinger: pinger.clone(), fleet, budget, events, shutdown: shutdown.clone() };
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("clock-ping".to_owned());
    let handle = thread.spawn(move || {
        runtime.block_on(async {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            let clock = ClockServer::new(service).max_decoding_message_size(MAX_CLOCK_BYTES);
            let serving = tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(Duration::from_secs(5)))
                .http2_keepalive_timeout(Some(Duration::from_secs(10)))
                .max_concurrent_streams(MAX_STREAMS)
                .http2_max_header_list_size(MAX_HEADER_BYTES)
                .add_service(InterceptedService::new(clock, door.guard(&strangers)))
                .serve_with_incoming(door.guests(listener, strangers));
            // A node whose clock connection breaks dials again; the listener itself has nothing to report. Connections are
            // dropped rather than closed: a peer that is stopped would hold up the end for as long as it likes.
            tokio::select! {
                _ended = serving => {}
                () = shutdown.cancelled() => {}
            }
        });
    })?;
    Ok((pinger, handle))
}

#[derive(Debug)]
struct Service {
    pinger: Pinger,
    fleet: u32,
    budget: Arc<Budget>,
    events: mpsc::Sender<ClockEvent>,
    shutdown: CancellationToken,
}

#[tonic::async_trait]
impl Clock for Service {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<v1::ClockDown, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<v1::ClockUp>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (out, down) = mpsc::channel(8);
        let (orders, inbox) = mpsc::channel(16);
        let conversation = Conversation {
            up: request.into_inner(),
            down: out,
            pinger: self.pinger.clone(),
            fleet: self.fleet,
            budget: self.budget.clone(),
            events: self.events.clone(),
        };
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ended = conversation.hold(orders, inbox) => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(down).map(|kind| Ok(stamped(kind))))))
    }
}

/// A ping is stamped when the connection takes it, not when it is queued.
fn stamped(kind: clock_down::Kind) -> v1::ClockDown {
    let kind = match kind {
        clock_down::Kind::Ping(ping) => {
            clock_down::Kind::Ping(v1::ClockPing { t0_ns: HostClock.now(), ..ping })
        }
        other => other,
    };
    v1::ClockDown { kind: Some(kind) }
}

struct Conversation {
    up: Streaming<v1::ClockUp>,
    down: mpsc::Sender<clock_down::Kind>,
    pinger: Pinger,
    fleet: u32,
    budget: Arc<Budget>,
    events: mpsc::Sender<ClockEvent>,
}

/// The conversation is over: the node hung up, or nobody listens to us any more.
struct Over;

impl Conversation {
    async fn hold(mut self, orders: mpsc::Sender<u32>, mut inbox: mpsc::Receiver<u32>) -> Result<(), Over> {
        let hello = tokio::time::timeout(HELLO_PATIENCE, self.receive()).await.map_err(|_| Over)?;
        let of = match hello? {
            clock_up::Kind::Hello(hello) => hello.incarnation,
            _ => return Err(Over),
        };
        self.pinger.nodes().insert(of, orders.clone());
        let ended = self.ping(of, &mut inbox).await;
        let mut nodes = self.pinger.nodes();
        // A node that dialled again has put its new conversation here: leave that.
        if nodes.get(&of).is_some_and(|current| current.same_channel(&orders)) {
            nodes.remove(&of);
        }
        ended
    }

    async fn ping(&mut self, of: Incarnation, inbox: &mut mpsc::Receiver<u32>) -> Result<(), Over> {
        let mut number = 0;
        let mut pings = self.bursts().join;
        loop {
            pings = self.turn(pings, inbox).await?;
            self.burst(of, number, pings).await?;
            number += 1;
            let bursts = self.bursts();
            // Jittered by 10 %, so that bursts to many nodes do not fall together.
            let pause = bursts.pause.mul_f64(0.9 + 0.2 * fastrand::f64());
            pings = tokio::select! {
                order = inbox.recv() => order.ok_or(Over)?,
                () = tokio::time::sleep(pause) => bursts.beat,
            };
        }
    }

    /// As many as are wanted, or more when more came.
    fn bursts(&self) -> Bursts {
        Bursts::of(self.fleet.max(self.pinger.nodes().len() as u32))
    }

    /// Waits until the budget allows a burst. What is ordered meanwhile is the same burst, as long as the longer of them:
    /// both want fresh exchanges, and nobody else's turn is put off by more than the difference.
    async fn turn(&self, mut pings: u32, inbox: &mut mpsc::Receiver<u32>) -> Result<u32, Over> {
        let now = Instant::now();
        let turn = self.budget.draw(now, pings);
        while turn > Instant::now() {
            tokio::select! {
                order = inbox.recv() => {
                    let order = order.ok_or(Over)?;
                    if order > pings {
                        let _later = self.budget.draw(now, order - pings);
                        pings = order;
                    }
                }
                () = tokio::time::sleep_until(turn) => {}
            }
        }
        Ok(pings)
    }

    async fn burst(&mut self, of: Incarnation, burst: u32, pings: u32) -> Result<(), Over> {
        let (mut exchanges, mut sent) = (Vec::with_capacity(pings as usize), 0);
        let ended = self.exchange(burst, pings, &mut exchanges, &mut sent).await;
        // A connection that breaks half-way has answered some, and they count.
        let lost = sent - exchanges.len() as u64;
        self.events.send(ClockEvent::Burst { of, exchanges, lost }).await.map_err(|_| Over)?;
        ended?;
        self.send(clock_down::Kind::SnapshotRequest(v1::SnapshotRequest {})).await?;
        if let Ok(snapshot) = tokio::time::timeout(PING_TIMEOUT, self.snapshot()).await {
            let event = ClockEvent::Snapshot(of, Box::new(snapshot?));
            self.events.send(event).await.map_err(|_| Over)?;
        }
        Ok(())
    }

    async fn exchange(
        &mut self,
        burst: u32,
        pings: u32,
        exchanges: &mut Vec<Exchange>,
        sent: &mut u64,
    ) -> Result<(), Over> {
        for seq in 0..pings {
            self.send(clock_down::Kind::Ping(v1::ClockPing { burst, seq, t0_ns: 0 })).await?;
            *sent += 1;
            if let Ok(answered) = tokio::time::timeout(PING_TIMEOUT, self.pong(burst, seq)).await {
                exchanges.push(answered?);
            }
        }
        Ok(())
    }

    /// The answer to one ping; answers to earlier, timed-out ones are passed over.
    async fn pong(&mut self, burst: u32, seq: u32) -> Result<Exchange, Over> {
        loop {
            let kind = self.receive().await?;
            let t3 = HostClock.now();
            if let clock_up::Kind::Pong(pong) = kind
                && (pong.burst, pong.seq) == (burst, seq)
            {
                return Ok(Exchange { t0: pong.t0_ns, t1: pong.t1_ns, t2: pong.t2_ns, t3 });
            }
        }
    }

    async fn snapshot(&mut self) -> Result<v1::ClockSnapshot, Over> {
        loop {
            if let clock_up::Kind::Snapshot(snapshot) = self.receive().await? {
                return Ok(snapshot);
            }
        }
    }

    async fn receive(&mut self) -> Result<clock_up::Kind, Over> {
        self.up.message().await.ok().flatten().and_then(|m| m.kind).ok_or(Over)
    }

    async fn send(&self, kind: clock_down::Kind) -> Result<(), Over> {
        self.down.send(kind).await.map_err(|_| Over)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::Entry;

    use super::*;
    use crate::bursts::JOIN_BURST;

    #[tokio::test]
    async fn a_node_on_this_host_is_measured_through_its_own_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (events, mut inbox) = mpsc::channel(64);
        let shutdown = CancellationToken::new();
        let strangers = Strangers::new(mpsc::channel(1).0);
        let (_pinger, thread) =
            serve((listener, 1), Door::default(), strangers, events, shutdown.clone()).unwrap();
        let node = tailcliff_proto::pong::answer_pings(address, 42, shutdown.clone()).unwrap();
        let Some(ClockEvent::Burst { of, exchanges, lost }) = inbox.recv().await else { panic!("no burst") };
        assert_eq!((of, lost, exchanges.len()), (42, 0, JOIN_BURST as usize));
        for e in &exchanges {
            // Same host, same clock: the four stamps must be in the order of the four events.
            assert!(e.t0 <= e.t1 && e.t1 <= e.t2 && e.t2 <= e.t3, "{e:?}");
        }
        assert!(matches!(inbox.recv().await, Some(ClockEvent::Snapshot(42, _))));
        shutdown.cancel();
        tokio::task::spawn_blocking(move || (thread.join().unwrap(), node.join().unwrap())).await.unwrap();
    }

    #[tokio::test]
    async fn nodes_of_a_large_fleet_get_few_pings_each_and_all_of_them_their_turn() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (events, mut inbox) = mpsc::channel(64);
        let shutdown = CancellationToken::new();
        let (pinger, thread) = serve(
            (listener, 1_000),
            Door::default(),
            Strangers::new(mpsc::channel(1).0),
            events,
            shutdown.clone(),
        )
        .unwrap();
        let answer = |of| tailcliff_proto::pong::answer_pings(address.clone(), of, shutdown.clone()).unwrap();
        let nodes: Vec<_> = (1..=6).map(answer).collect();
        let (mut joined, mut asked) = (HashMap::new(), HashMap::new());
        while joined.len() + asked.len() < 12 {
            let Some(event) = inbox.recv().await else { panic!("the thread ended") };
            let ClockEvent::Burst { of, exchanges, .. } = event else { continue };
            match joined.entry(of) {
                Entry::Vacant(first) => {
                    first.insert(exchanges.len());
                    pinger.burst(of, 1);
                }
                Entry::Occupied(_) => drop(asked.insert(of, exchanges.len())),
            }
        }
        assert!(joined.values().all(|&n| n == 8), "{joined:?}");
        assert!(asked.values().all(|&n| n == 1), "{asked:?}");
        shutdown.cancel();
        let join = move || nodes.into_iter().chain([thread]).for_each(|thread| thread.join().unwrap());
        tokio::task::spawn_blocking(join).await.unwrap();
    }
}
