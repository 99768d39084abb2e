//! The pure engine in real time: it is advanced as its events fall due, and hands each request its tokens.
//!
//! Steps are dated by the model, not by the moment at which this task got the CPU, so a late wake-up delays the tokens
//! it carries but never stretches the schedule.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::clock;
use crate::engine::{Emission, Engine, Refused, Request};
use crate::timer::Timer;

/// An engine shared by the connections of a server.
pub(crate) struct Live {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    engine: Engine,
    readers: HashMap<u64, Sender<Emission>>,
    next_id: u64,
}

/// The tokens of one request. Dropping it takes the request out of the engine.
pub(crate) struct Tokens {
    id: u64,
    live: Arc<Live>,
    emissions: Receiver<Emission>,
}

impl Live {
    pub(crate) fn new(engine: Engine) -> Arc<Self> {
        let state = State { engine, readers: HashMap::new(), next_id: 0 };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    /// Puts a request in the queue at `now`.
    pub(crate) fn enter(self: &Arc<Self>, now: i64, mut request: Request) -> Result<Tokens, Refused> {
        let mut state = self.lock();
        state.advance(now);
        request.id = state.next_id;
        state.engine.arrive(now, request)?;
        state.next_id += 1;
        // Room for every token that the request will get, so that a slow client never holds the engine up.
        let room = usize::try_from(request.output_tokens).unwrap_or(usize::MAX);
        let (sender, emissions) = channel(room);
        state.readers.insert(request.id, sender);
        state.advance(now);
        self.changed.notify_one();
        Ok(Tokens { id: request.id, live: self.clone(), emissions })
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
        for emission in self.engine.advance(now) {
            // A reader that is gone, or about to be cancelled, needs no token.
            let _ = self.readers.get(&emission.id).map(|reader| reader.try_send(emission));
            if emission.last {
                self.readers.remove(&emission.id);
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
