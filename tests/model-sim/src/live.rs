//! The pure engine in real time: it is advanced as its events fall due, and hands each request its tokens.
//!
//! Steps are dated by the model, not by the moment at which this task got the CPU, so a late wake-up delays the tokens
//! it carries but never stretches the schedule.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::clock;
use crate::engine::{Cause, Emission, Engine, Load, Refused, Request};
use crate::record::Recorder;
use crate::timer::Timer;

/// An engine shared by the connections of a server.
pub(crate) struct Live {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    engine: Engine,
    readers: HashMap<u64, Reader>,
    next_id: u64,
    recorder: Recorder,
}

struct Reader {
    tokens: Sender<Emission>,
    /// Its `x-request-id`.
    name: Option<String>,
}

/// A request on its way into the engine.
pub(crate) struct Entry {
    pub(crate) request: Request,
    /// Its `x-request-id`.
    pub(crate) name: Option<String>,
    /// What takes hold before which of its tokens.
    pub(crate) causes: Vec<(u64, Cause)>,
}

/// The tokens of one request. Dropping it takes the request out of the engine.
pub(crate) struct Tokens {
    id: u64,
    live: Arc<Live>,
    emissions: Receiver<Emission>,
}

impl Live {
    pub(crate) fn new(engine: Engine, recorder: Recorder) -> Arc<Self> {
        let state = State { engine, readers: HashMap::new(), next_id: 0, recorder };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    /// Puts a request in the queue at `now`.
    pub(crate) fn enter(self: &Arc<Self>, now: i64, entry: Entry) -> Result<Tokens, Refused> {
        let Entry { mut request, name, causes } = entry;
        let mut state = self.lock();
        state.advance(now);
        request.id = state.next_id;
        state.engine.arrive(now, request)?;
        causes.into_iter().for_each(|(token, cause)| state.engine.arm(request.id, token, cause));
        state.next_id += 1;
        // Room for every token that the request will get, so that a slow client never holds the engine up.
        let room = usize::try_from(request.output_tokens).unwrap_or(usize::MAX);
        let (tokens, emissions) = channel(room);
        state.readers.insert(request.id, Reader { tokens, name });
        state.advance(now);
        self.changed.notify_one();
        Ok(Tokens { id: request.id, live: self.clone(), emissions })
    }

    /// Has a cause take hold at the first step from `at` on; see [`Engine::schedule`].
    pub(crate) fn schedule(&self, at: i64, nth: usize, cause: Cause) {
        self.lock().engine.schedule(at, nth, cause);
    }

    /// What the engine has to do at `now`.
    pub(crate) fn load(&self, now: i64) -> Load {
        let mut state = self.lock();
        state.advance(now);
        state.engine.load()
    }

    /// Lets time pass, for ever.
    pub(crate) async fn drive(&self, timer: &Timer) {
        loop {
            let next = self.lock().engine.next_event();
            let due = async {
                match next {
                    Some(at) => timer.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.changed.notified() => {}
            }
            self.lock().advance(clock::raw_ns());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn advance(&mut self, now: i64) {
        while let Some(at) = self.engine.next_event().filter(|at| *at <= now) {
            for emission in self.engine.step() {
                // A reader that is gone, or about to be cancelled, needs no token.
                let _ = self.readers.get(&emission.id).map(|reader| reader.tokens.try_send(emission));
                if emission.last {
                    self.readers.remove(&emission.id);
                }
            }
            self.recorder.gpu(at, self.engine.activity());
            for hit in self.engine.take_hits() {
                self.recorder.hit(&hit, |id| self.readers.get(&id)?.name.clone());
            }
        }
    }
}

impl Tokens {
    /// The next token, when the engine emits it; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Emission> {
        self.emissions.recv().await
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        let mut state = self.live.lock();
        if state.readers.remove(&self.id).is_some() {
            state.engine.cancel(self.id);
        }
    }
}
