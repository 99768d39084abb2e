//! Spans that wait for their export: as many as OpenTelemetry's batch processor keeps, and no more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::SpanCounts;
use super::message::Span;

/// Spans that wait at most.
const ROOM: usize = 2048;
/// Spans in an export at most; so many also start one.
pub(super) const BATCH: usize = 512;

/// A span, and whether an export that is none goes before it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) span: Span,
    pub(super) after_garbage: bool,
}

/// Shared by those who make spans and the one who exports them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    closed: bool,
    counts: SpanCounts,
}

impl Queue {
    /// Takes a span if there is room; never waits.
    pub(crate) fn push(&self, span: Span, after_garbage: bool) {
        let mut state = self.state();
        if state.waiting.len() >= ROOM {
            state.counts.dropped += 1;
            return;
        }
        state.waiting.push_back(Waiting { span, after_garbage });
        if state.waiting.len() >= BATCH {
            self.0.changed.notify_one();
        }
    }

    /// No span comes any more.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.0.changed.notify_one();
    }

    /// Changes what is counted.
    pub(crate) fn count(&self, change: impl FnOnce(&mut SpanCounts)) {
        change(&mut self.state().counts);
    }

    pub(crate) fn counts(&self) -> SpanCounts {
        self.state().counts
    }

    pub(super) fn closed(&self) -> bool {
        self.state().closed
    }

    /// Whether a batch is full, or there is no reason to wait for more.
    pub(super) fn ripe(&self) -> bool {
        let state = self.state();
        state.closed || state.waiting.len() >= BATCH
    }

    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// The next batch.
    pub(super) fn take(&self) -> Vec<Waiting> {
        let mut state = self.state();
        let most = state.waiting.len().min(BATCH);
        state.waiting.drain(..most).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_counted_and_batches_are_bounded() {
        let queue = Queue::default();
        (0..ROOM + 3).for_each(|_| queue.push(Span::default(), false));
        assert_eq!(queue.counts().dropped, 3);
        let mut batches: Vec<usize> = Vec::new();
        while queue.ripe() {
            batches.push(queue.take().len());
        }
        assert_eq!(batches, [BATCH; ROOM / BATCH]);
        queue.close();
        assert!(queue.ripe() && queue.take().is_empty());
    }
}
