//! Giving up what is in flight. A token of tokio-util takes a lock at every wake-up of every stream; this one is a flag to
//! look at, and takes its lock once a request.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Told once, for good; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_cancelled: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Cancel {
    /// Not cancelled yet.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Whether it was told.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Acquire)
    }

    /// Tells all that wait.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Release);
        let wakers = std::mem::take(&mut self.waiting().wakers);
        wakers.into_values().for_each(Waker::wake);
    }

    /// Ready once cancelled.
    pub fn cancelled(&self) -> Cancelled {
        Cancelled { cancel: self.clone(), place: None }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a [`Cancel`].
#[derive(Debug)]
pub struct Cancelled {
    cancel: Cancel,
    /// Where its waker waits, and a copy to know it by.
    place: Option<(u64, Waker)>,
}

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.cancel.is_cancelled() {
            if self.place.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            let old = self.place.take();
            let mut waiting = self.cancel.waiting();
            old.map(|(number, _)| waiting.wakers.remove(&number));
            let number = waiting.next;
            waiting.next += 1;
            waiting.wakers.insert(number, cx.waker().clone());
            drop(waiting);
            self.place = Some((number, cx.waker().clone()));
        }
        // Looked at again: told in between, it may not have seen the waker.
        if self.cancel.is_cancelled() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        if let Some((number, _)) = self.place.take() {
            self.cancel.waiting().wakers.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn all_that_wait_are_told_and_nothing_is_left_behind() {
        let cancel = Cancel::new();
        let waits: Vec<_> = (0..10).map(|_| tokio::spawn(cancel.cancelled())).collect();
        drop(tokio::time::timeout(Duration::from_millis(1), cancel.cancelled()).await);
        tokio::task::yield_now().await;
        assert_eq!(cancel.waiting().wakers.len(), 10, "the one that gave up is gone");
        assert!(!cancel.is_cancelled());
        cancel.cancel();
        for wait in waits {
            wait.await.unwrap();
        }
        assert!(cancel.is_cancelled() && cancel.waiting().wakers.is_empty());
        cancel.cancelled().await;
    }
}
