//! Open loop: requests are sent when they arrive, whatever became of those before. One task waits for each arrival and
//! hands it to a worker that is free, the one that was busy last, since its connection is the warmest; a worker is a task
//! with a client, and is made when none is free. At the bound on requests in flight, arrivals wait in the schedule itself,
//! which takes no memory, and each worker that ends takes the oldest that is due.
//!
//! Of all requests that arrive the stream is 0 and the number that of the arrival, level-wide: it names the prompt, however
//! many agents and shards there are. The later turns of a session follow on the worker that sent the first.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tailcliff_proto::clock::{HostClock, RawNs};
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::timer::Timer;
use super::{Due, Shared, Work};
use crate::body::{Prepared, Script};
use crate::client::Client;
use crate::schedule::{Arrival, Releases};

/// Arrivals whose bodies are written ahead, in time that nothing else needs.
const AHEAD: usize = 64;
/// A body is not begun when an arrival is this near, ns.
const NEAR_NS: i64 = 200_000;
/// Arrivals held back to the end that are counted; the count is a lower bound beyond.
const MOST_COUNTED: usize = 10_000_000;

/// A shard's part of an open loop.
#[derive(Debug)]
pub(crate) struct Part {
    /// Its arrivals.
    pub(crate) releases: Releases,
    /// Requests in flight at most; at least 1.
    pub(crate) limit: u32,
    /// After the last request was sent, those in flight get this long, ns; `None` where the level's deadline ends them.
    pub(crate) drain_ns: Option<i64>,
}

/// The part and what its first arrivals send.
pub(super) struct Begun {
    part: Part,
    ahead: VecDeque<Ahead>,
}

/// What the bound on requests in flight did.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// How long each request that was held back waited for its place.
    pub(crate) waits: LatencyHistogram,
    /// Arrivals that were due and still waited when the level ended.
    pub(crate) never_sent: u64,
}

/// Writes the bodies of the first arrivals: those that can go out at once, since nothing is paced before the start.
pub(super) fn prepare(work: &Work, mut part: Part) -> Begun {
    let first = part.releases.by_ref().take(AHEAD.max(part.limit.min(1 << 16) as usize));
    let written = |arrival: Arrival| Ahead::write(work, arrival);
    let mut ahead = VecDeque::new();
    for arrival in first {
        ahead.push_back(written(arrival));
        if ahead.len() >= AHEAD && arrival.offset_ns > NEAR_NS {
            break;
        }
    }
    Begun { part, ahead }
}

impl Begun {
    /// Most requests in flight.
    pub(super) fn limit(&self) -> u32 {
        self.part.limit.max(1)
    }
}

/// Sends every arrival and waits for the last to end.
pub(super) async fn drive(shared: &Rc<Shared>, timer: Timer, begun: Begun) -> Held {
    let Begun { part, ahead } = begun;
    let drain_ns = part.drain_ns;
    let open = Rc::new(Open {
        shared: shared.clone(),
        queue: RefCell::new(Queue { releases: part.releases, ahead }),
        limit: part.limit.max(1),
        idle: RefCell::default(),
        busy: Cell::new(0),
        full_since: Cell::new(RawNs::MIN),
        freed: Notify::new(),
        held: RefCell::default(),
    });
    let mut workers = JoinSet::new();
    open.release_all(&timer, &mut workers).await;
    let never_sent = open.due_by(HostClock.now());
    open.wind_up(drain_ns).await;
    // Every worker that is left is parked.
    workers.abort_all();
    while workers.join_next().await.is_some() {}
    let mut held = open.held.take();
    held.never_sent = never_sent;
    held
}

struct Open {
    shared: Rc<Shared>,
    queue: RefCell<Queue>,
    limit: u32,
    /// The one parked last is taken first.
    idle: RefCell<Vec<Rc<Worker>>>,
    busy: Cell<u32>,
    /// When the last place was taken, raw ns.
    full_since: Cell<RawNs>,
    /// A place became free.
    freed: Notify,
    held: RefCell<Held>,
}

/// Arrivals that are still to come, the next few with their bodies.
struct Queue {
    releases: Releases,
    ahead: VecDeque<Ahead>,
}

/// An arrival with what it sends: the first turn of its session, and what follows that.
struct Ahead {
    arrival: Arrival,
    script: Script,
    first: Prepared,
}

impl Ahead {
    fn write(work: &Work, arrival: Arrival) -> Ahead {
        let mut script = work.bodies.session(work.level, arrival.number);
        let first = script.next(None);
        Ahead { arrival, script, first }
    }
}

impl Queue {
    /// Writes one more body ahead; false when there are enough, or no more to write.
    fn fill(&mut self, work: &Work) -> bool {
        self.ahead.len() < AHEAD && self.fill_one(work)
    }

    fn fill_one(&mut self, work: &Work) -> bool {
        let Some(arrival) = self.releases.next() else { return false };
        self.ahead.push_back(Ahead::write(work, arrival));
        true
    }
}

/// A request to send, and the session that it begins.
struct Next {
    due: Due,
    script: Script,
}

/// A task that sends one request at a time.
#[derive(Default)]
struct Worker {
    next: RefCell<Option<Next>>,
    wake: Notify,
}

impl Open {
    /// When the next arrival is due; `None` when there is none left.
    fn next_due(&self) -> Option<RawNs> {
        let mut queue = self.queue.borrow_mut();
        if queue.ahead.is_empty() && !queue.fill_one(&self.shared.work) {
            return None;
        }
        let next = queue.ahead.front()?;
        Some(self.shared.start.saturating_add(next.arrival.offset_ns))
    }

    fn is_over(&self) -> bool {
        self.shared.work.stop.is_cancelled() || self.shared.cancel.is_cancelled()
    }

    async fn release_all(self: &Rc<Self>, timer: &Timer, workers: &mut JoinSet<()>) {
        while let Some(due) = self.next_due() {
            if self.is_over() {
                return;
            }
            let full = self.busy.get() >= self.limit;
            if !full && due <= HostClock.now() {
                self.start_next(workers);
                continue;
            }
            self.write_ahead(due).await;
            let place = async { if full { self.freed.notified().await } else { timer.until(due).await } };
            tokio::select! {
                () = place => {}
                () = self.shared.work.stop.cancelled() => {}
                () = self.shared.cancel.cancelled() => {}
            }
        }
    }

    /// Writes bodies while no arrival is near, and lets the replies that came be read in between.
    async fn write_ahead(&self, due: RawNs) {
        while due - HostClock.now() > NEAR_NS && self.queue.borrow_mut().fill(&self.shared.work) {
            tokio::task::yield_now().await;
        }
    }

    /// Gives the next arrival to a worker.
    fn start_next(self: &Rc<Self>, workers: &mut JoinSet<()>) {
        let Some(next) = self.pop() else { return };
        self.busy.set(self.busy.get() + 1);
        if self.busy.get() >= self.limit {
            self.full_since.set(HostClock.now());
        }
        if let Some(worker) = self.idle.borrow_mut().pop() {
            worker.next.replace(Some(next));
            worker.wake.notify_one();
        } else {
            let worker = Rc::new(Worker::default());
            worker.next.replace(Some(next));
            workers.spawn_local(work(self.clone(), worker));
        }
    }

    fn pop(&self) -> Option<Next> {
        let Ahead { arrival, script, first: prepared } = self.queue.borrow_mut().ahead.pop_front()?;
        let intended = self.shared.start.saturating_add(arrival.offset_ns);
        let (request, phase) = (arrival.number, arrival.phase);
        Some(Next { due: Due { stream: 0, request, phase, intended, held_ns: None, prepared }, script })
    }

    /// What a worker that has ended takes over: the oldest arrival that is due. If every place was taken, it was held
    /// back, since then or since it came, whichever was later.
    fn take_due(&self) -> Option<Next> {
        let due = self.next_due()?;
        let now = HostClock.now();
        if due > now || self.is_over() {
            return None;
        }
        let mut next = self.pop()?;
        if self.busy.get() >= self.limit {
            let waited = (now - due.max(self.full_since.get())).max(0);
            next.due.held_ns = Some(waited);
            // As every figure, without the warm-up.
            if next.due.phase != v1::Phase::Warmup {
                self.held.borrow_mut().waits.record(waited);
            }
            self.shared.note_held();
        }
        if self.next_due().is_none() {
            // It was the last: the drain begins.
            self.freed.notify_one();
        }
        Some(next)
    }

    /// Sends a request and the turns that follow it in its session. A later turn is meant for when the answer to the one
    /// before it has been read and thought about; its stream is its number.
    async fn talk(&self, client: &mut Client, session: Next) {
        let Next { due, mut script } = session;
        let request = due.request;
        let mut went = self.shared.send(client, due).await;
        let mut turn = 0;
        while script.is_mid_session() && !went.failed && !self.is_over() {
            let prepared = script.next(went.answer.as_deref());
            if prepared.delay_ns > 0 {
                self.shared.rest(prepared.delay_ns).await;
            }
            let intended = HostClock.now();
            let Some(phase) = self.phase_at(intended) else { return };
            turn += 1;
            let due = Due { stream: turn, request, phase, intended, held_ns: None, prepared };
            went = self.shared.send(client, due).await;
        }
    }

    /// Phase of a moment; `None` when the level is over by then.
    fn phase_at(&self, at: RawNs) -> Option<v1::Phase> {
        if self.is_over() {
            return None;
        }
        self.queue.borrow().releases.phase_at(at - self.shared.start)
    }

    fn park(&self, worker: &Rc<Worker>) {
        self.busy.set(self.busy.get() - 1);
        self.idle.borrow_mut().push(worker.clone());
        self.freed.notify_one();
    }

    /// Arrivals that are due by `now` and were not sent.
    fn due_by(&self, now: RawNs) -> u64 {
        let mut queue = self.queue.borrow_mut();
        let start = self.shared.start;
        let is_due = |arrival: &Arrival| start.saturating_add(arrival.offset_ns) <= now;
        let written = queue.ahead.iter().filter(|ahead| is_due(&ahead.arrival)).count();
        let all_written_due = written == queue.ahead.len();
        let unwritten =
            queue.releases.by_ref().take(MOST_COUNTED).take_while(|a| all_written_due && is_due(a));
        (written + unwritten.count()) as u64
    }

    /// Waits for the requests in flight, for `drain_ns` at most.
    async fn wind_up(&self, drain_ns: Option<i64>) {
        let ended = async {
            while self.busy.get() > 0 {
                self.freed.notified().await;
            }
        };
        tokio::pin!(ended);
        if let Some(ns) = drain_ns {
            tokio::select! {
                () = &mut ended => return,
                () = tokio::time::sleep(Duration::from_nanos(ns.unsigned_abs())) => self.shared.cancel.cancel(),
            }
        }
        ended.await;
    }
}

async fn work(open: Rc<Open>, worker: Rc<Worker>) {
    let mut client = open.shared.client();
    loop {
        let mut next = worker.next.take();
        while let Some(session) = next {
            open.talk(&mut client, session).await;
            next = open.take_due();
        }
        open.park(&worker);
        worker.wake.notified().await;
    }
}
