//! The coordinator's end of the control and bulk connections: turns streams into [`Input`]s of the one task that owns
//! the state, and holds none itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;
use tailcliff_proto::link::MAX_MESSAGE_BYTES;
use tailcliff_proto::v1::bulk_server::{Bulk, BulkServer};
use tailcliff_proto::v1::control_server::{Control, ControlServer};
use tailcliff_proto::v1::results_server::ResultsServer;
use tailcliff_proto::v1::{self, coordinator_message, node_message};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use crate::door::{Door, Strangers};
use crate::results::Shelf;
use crate::run::LEASE_NS;
use crate::stored::Incarnation;

/// Tells one connection of a node from its next.
pub type Connection = u64;

/// Where messages to a node go.
pub type ToNode = mpsc::Sender<Result<v1::CoordinatorMessage, Status>>;

/// The place of one ack to a node.
pub type ToShipper = mpsc::OwnedPermit<Result<v1::Ack, Status>>;

/// What comes in from nodes.
#[derive(Debug)]
pub enum Input {
    /// A node said hello; the answer goes to `out`.
    Hello {
        /// Of this stream.
        connection: Connection,
        /// As said.
        hello: Box<v1::Hello>,
        /// Where the welcome or refusal goes.
        out: ToNode,
    },
    /// A welcomed node said something.
    Said(Connection, Incarnation, Box<node_message::Kind>),
    /// A control stream ended or fell silent.
    Gone(Connection, Incarnation),
    /// A batch came in.
    Batch {
        /// As sent.
        batch: Box<v1::Batch>,
        /// Where its ack goes: a place that is kept for it, so that it never waits for a node that does not read.
        ack: ToShipper,
        /// Its part of the memory for batches that are not on disk yet.
        room: OwnedSemaphorePermit,
    },
}

const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// Histograms of every stage, each as full as can be.
const MAX_CONTROL_BYTES: usize = 2 << 20;
/// A question for results holds a name.
const MAX_ASKED_BYTES: usize = 4 << 10;
/// Memory for batches on their way to the disk, of all nodes together: when it is used up their streams wait, and what waits
/// is kept by the nodes.
const BATCH_ROOM_KIB: u32 = 64 << 10;
/// Acks of one stream that are not read yet, with batches that have none yet: what comes beyond waits, so that a node that
/// sends and never reads makes no work without end, and holds up nobody else.
const UNREAD_ACKS: usize = 64;
const SILENCE: Duration = Duration::from_nanos(LEASE_NS as u64);

/// Streams that one connection may have open: a node has one, and one that it replaces.
pub const MAX_STREAMS: u32 = 16;
/// Headers of one call, bytes.
pub const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Serves control and bulk on `listener` to whom `door` lets in, until the future is dropped; and results where
/// there is a shelf for them.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    door: &Door,
    strangers: Strangers,
    inputs: mpsc::Sender<Input>,
    shelf: Option<Shelf>,
) -> Result<(), tonic::transport::Error> {
    let room = Arc::new(Semaphore::new(BATCH_ROOM_KIB as usize));
    let service = |inputs| Service { inputs, connections: AtomicU64::new(1), room: room.clone() };
    let control = ControlServer::new(service(inputs.clone()));
    let bulk = BulkServer::new(service(inputs));
    let guard = door.guard(&strangers);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .add_service(InterceptedService::new(
            control.max_decoding_message_size(MAX_CONTROL_BYTES),
            guard.clone(),
        ))
        .add_service(InterceptedService::new(
            bulk.max_decoding_message_size(MAX_MESSAGE_BYTES),
            guard.clone(),
        ))
        .add_optional_service(shelf.map(|shelf| {
            InterceptedService::new(
                ResultsServer::new(shelf).max_decoding_message_size(MAX_ASKED_BYTES),
                guard,
            )
        }))
        .serve_with_incoming(door.guests(listener, strangers))
        .await
}

#[derive(Debug)]
struct Service {
    inputs: mpsc::Sender<Input>,
    connections: AtomicU64,
    room: Arc<Semaphore>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn closing<T>(_: mpsc::error::SendError<T>) -> Status {
    Status::unavailable("the run is over")
}

#[tonic::async_trait]
impl Control for Service {
    type SessionStream = Answers<v1::CoordinatorMessage>;

    async fn session(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(HELLO_PATIENCE, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello within 10 s"))??;
        let Some(node_message::Kind::Hello(hello)) = first.and_then(|m| m.kind) else {
            return Err(Status::invalid_argument("the first message must be hello"));
        };
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let of = hello.incarnation;
        let (out, answers) = mpsc::channel(64);
        let hello = Input::Hello { connection, hello: Box::new(hello), out };
        self.inputs.send(hello).await.map_err(closing)?;
        tokio::spawn(listen(messages, connection, of, self.inputs.clone()));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// Passes on what a node says. A node silent for a lease is as good as gone: its TCP may outlive it.
async fn listen(
    mut messages: Streaming<v1::NodeMessage>,
    connection: Connection,
    of: Incarnation,
    inputs: mpsc::Sender<Input>,
) {
    while let Ok(Ok(Some(message))) = tokio::time::timeout(SILENCE, messages.message()).await {
        let Some(kind) = message.kind else { continue };
        if inputs.send(Input::Said(connection, of, Box::new(kind))).await.is_err() {
            return;
        }
    }
    // At the end of a run nobody listens any more.
    let _over = inputs.send(Input::Gone(connection, of)).await;
}

#[tonic::async_trait]
impl Bulk for Service {
    type ShipStream = Answers<v1::Ack>;

    async fn ship(
        &self,
        request: Request<Streaming<v1::Batch>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let mut batches = request.into_inner();
        let (acks, answers) = mpsc::channel(UNREAD_ACKS);
        let (inputs, all_room) = (self.inputs.clone(), self.room.clone());
        tokio::spawn(async move {
            while let Some(Ok(batch)) = batches.next().await {
                let Ok(ack) = acks.clone().reserve_owned().await else { return };
                let Ok(room) = all_room.clone().acquire_many_owned(kib(&batch)).await else { return };
                let input = Input::Batch { batch: Box::new(batch), ack, room };
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// What a batch takes of the room, never more than there is.
fn kib(batch: &v1::Batch) -> u32 {
    u32::try_from(batch.encoded_len() / 1_024 + 1).unwrap_or(u32::MAX).min(BATCH_ROOM_KIB)
}

/// A message to a node.
pub fn message(kind: coordinator_message::Kind) -> v1::CoordinatorMessage {
    v1::CoordinatorMessage { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use tailcliff_proto::link::dial;
    use tailcliff_proto::v1::bulk_client::BulkClient;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// As one that sends repeats and reads no ack would have it go on without end.
    #[tokio::test]
    async fn a_stream_has_so_many_batches_under_way_and_further_ones_wait_for_an_ack_to_be_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (inputs, mut arrived) = mpsc::channel(1024);
        let nobody = Strangers::new(mpsc::channel(1).0);
        let serving =
            tokio::spawn(async move { serve(listener, &Door::default(), nobody, inputs, None).await });
        let mut client = BulkClient::new(dial(&address, &CancellationToken::new()).await.unwrap());
        let batches = (0..4 * UNREAD_ACKS as u64).map(|seq| v1::Batch { seq, ..Default::default() });
        let (asked, mut acks) = (tokio_stream::iter(batches), Vec::new());
        let mut answers = client.ship(asked).await.unwrap().into_inner();
        let mut next = async || match tokio::time::timeout(Duration::from_secs(1), arrived.recv()).await {
            Ok(Some(Input::Batch { batch, ack, .. })) => Some((batch.seq, ack)),
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        };
        while let Some((_, ack)) = next().await {
            acks.push(ack);
        }
        assert_eq!(acks.len(), UNREAD_ACKS);
        let read: Vec<_> = acks.drain(..3).collect();
        read.into_iter().for_each(|ack| drop(ack.send(Ok(v1::Ack { through_seq: 1 }))));
        for further in UNREAD_ACKS as u64..UNREAD_ACKS as u64 + 3 {
            assert!(answers.message().await.unwrap().is_some());
            assert_eq!(
                next().await.map(|(seq, ack)| (seq, acks.push(ack))).map(|(seq, ())| seq),
                Some(further)
            );
        }
        assert!(next().await.is_none());
        serving.abort();
    }
}
