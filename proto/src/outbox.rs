//! What a node has measured and the coordinator has not yet put on disk: numbered batches, kept until acked and
//! replayed after a reconnect. Bounded by bytes; what does not fit is handed back to its owner, who counts it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::clock::HostClock;
use crate::link::{LinkError, MAX_MESSAGE_BYTES, Route, dial_telling};
use crate::v1;
use crate::v1::bulk_client::BulkClient;

/// A handle to one process's outbox.
#[derive(Clone, Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    incarnation: u64,
    byte_limit: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Shared, so that nothing is copied while the lock is held: shards push from their request path.
    kept: VecDeque<(Arc<v1::Batch>, usize)>,
    bytes: usize,
    last_seq: u64,
    acked: u64,
}

impl Outbox {
    /// An empty outbox that keeps at most `byte_limit` bytes of unacked batches.
    pub fn new(incarnation: u64, byte_limit: usize) -> Self {
        let shared = Shared { incarnation, byte_limit, state: Mutex::default(), changed: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Numbers, stamps and keeps a batch; returns its number.
    ///
    /// # Errors
    /// The batch itself, when it does not fit.
    pub fn push(&self, mut batch: v1::Batch) -> Result<u64, Box<v1::Batch>> {
        // Room for the number and the stamp, which are set below.
        let bytes = batch.encoded_len() + 32;
        let mut state = self.state();
        // One larger than a message may be could never be sent, and would block all behind it.
        if state.bytes + bytes > self.shared.byte_limit || bytes > MAX_MESSAGE_BYTES {
            return Err(Box::new(batch));
        }
        state.last_seq += 1;
        batch.incarnation = self.shared.incarnation;
        batch.seq = state.last_seq;
        batch.sent_raw_ns = HostClock.now();
        state.bytes += bytes;
        state.kept.push_back((Arc::new(batch), bytes));
        let seq = state.last_seq;
        drop(state);
        self.shared.changed.notify_waiters();
        Ok(seq)
    }

    /// Number of the newest batch; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.state().last_seq
    }

    /// Waits until every batch is acked.
    pub async fn drained(&self) {
        self.wait(|state| state.kept.is_empty()).await;
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
                _ => tokio::time::sleep(std::time::Duration::from_millis(200)).await,
            }
        }
    }

    async fn ship_once(&self, route: &Route, shutdown: &CancellationToken) -> Result<(), LinkError> {
        let channel = dial_telling(route, shutdown, |_| {}).await?;
        let (out, batches) = mpsc::channel(16);
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
            self.wait(|state| state.last_seq > sent && state.kept.back().is_some_and(|(b, _)| b.seq > sent))
                .await;
            while let Some(batch) = self.next_after(sent) {
                sent = batch.seq;
                out.send(batch).await.map_err(|_| LinkError::Broken("bulk stream closed".to_owned()))?;
            }
        }
    }

    /// The oldest kept batch after a number.
    pub fn next_after(&self, sent: u64) -> Option<v1::Batch> {
        let batch = {
            let state = self.state();
            let first = state.kept.front()?.0.seq;
            // Numbers are consecutive, so the position follows from the number.
            let position = (sent + 1).saturating_sub(first) as usize;
            Arc::clone(&state.kept.get(position)?.0)
        };
        Some(v1::Batch::clone(&batch))
    }

    fn acknowledge(&self, through: u64) {
        let mut state = self.state();
        // An ack beyond what was sent is a broken peer's: it must not delete anything later.
        state.acked = state.acked.max(through.min(state.last_seq));
        let acked = state.kept.partition_point(|(batch, _)| batch.seq <= state.acked);
        let freed: Vec<_> = state.kept.drain(..acked).collect();
        state.bytes -= freed.iter().map(|(_, bytes)| bytes).sum::<usize>();
        drop(state);
        drop(freed);
        self.shared.changed.notify_waiters();
    }

    async fn wait(&self, until: impl Fn(&State) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change between the two is missed.
            changed.as_mut().enable();
            if until(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Outbox;
    use crate::v1;

    #[test]
    fn batches_are_numbered_kept_and_released_by_acks() {
        let outbox = Outbox::new(7, 1 << 20);
        for expected in 1..=3 {
            assert_eq!(outbox.push(v1::Batch::default()).unwrap(), expected);
        }
        assert_eq!(outbox.next_after(0).unwrap().seq, 1);
        outbox.acknowledge(2);
        assert_eq!(outbox.next_after(0).unwrap().seq, 3, "a replay starts at the oldest unacked batch");
        outbox.acknowledge(99);
        assert!(outbox.next_after(0).is_none());
        assert_eq!(outbox.push(v1::Batch::default()).unwrap(), 4);
        assert_eq!(outbox.next_after(3).unwrap().seq, 4, "an ack from the future deletes nothing later");
    }

    #[test]
    fn what_does_not_fit_comes_back() {
        let outbox = Outbox::new(7, 64);
        assert!(outbox.push(v1::Batch::default()).is_ok());
        let record = v1::RequestRecord { error_detail: "x".repeat(100), ..Default::default() };
        let returned = outbox.push(v1::Batch { records: vec![record], ..Default::default() }).unwrap_err();
        assert_eq!(returned.records.len(), 1);
        assert_eq!(outbox.last_seq(), 1);
    }
}
