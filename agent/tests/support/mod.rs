//! The two peers of an agent, in this process and written by hand: a coordinator that does only what a test tells it,
//! and a model server that streams a few tokens.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tailcliff_proto::v1::bulk_server::{Bulk, BulkServer};
use tailcliff_proto::v1::control_server::{Control, ControlServer};
use tailcliff_proto::v1::{self, coordinator_message::Kind as Order, node_message::Kind as Said};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// No wait in these tests is meant to take this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

type ToNode = mpsc::Sender<Result<v1::CoordinatorMessage, Status>>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the fake coordinator is told to do, and what it was sent.
#[derive(Debug)]
pub(crate) struct State {
    /// Sends a heartbeat each 50 ms.
    pub(crate) beats: AtomicBool,
    /// Acks each batch.
    pub(crate) acks: AtomicBool,
    /// Answers hello with a refusal of this text.
    pub(crate) refuses: Mutex<Option<String>>,
    /// Ended by `cut`; a new one for the connections after it.
    cut: Mutex<CancellationToken>,
    node: Mutex<Option<ToNode>>,
    lease_ns: i64,
    said: mpsc::UnboundedSender<Said>,
    batches: Mutex<Vec<v1::Batch>>,
    pub(crate) hellos: AtomicU32,
}

pub(crate) struct Coordinator {
    pub(crate) address: String,
    pub(crate) state: Arc<State>,
    said: mpsc::UnboundedReceiver<Said>,
}

impl Coordinator {
    pub(crate) async fn start(lease: Duration) -> Coordinator {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (said, heard) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            beats: AtomicBool::new(true),
            acks: AtomicBool::new(true),
            refuses: Mutex::default(),
            cut: Mutex::default(),
            node: Mutex::default(),
            lease_ns: lease.as_nanos() as i64,
            said,
            batches: Mutex::default(),
            hellos: AtomicU32::new(0),
        });
        let server = tonic::transport::Server::builder()
            .add_service(ControlServer::new(Service(state.clone())))
            .add_service(BulkServer::new(Service(state.clone())));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Coordinator { address, state, said: heard }
    }

    /// Sends an order to the agent as it is connected now.
    pub(crate) async fn order(&self, order: Order) {
        let node = self.state.node.lock().unwrap().clone().expect("an agent has joined");
        node.send(Ok(v1::CoordinatorMessage { kind: Some(order) })).await.expect("the agent listens");
    }

    /// The next thing said that `pick` wants; everything before it is passed over.
    pub(crate) async fn hear<T>(&mut self, pick: impl Fn(Said) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = pick(self.said.recv().await.expect("the fake coordinator lives")) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.expect("the agent did not say it in time")
    }

    pub(crate) async fn joined(&mut self) -> v1::Hello {
        self.hear(|said| if let Said::Hello(hello) = said { Some(hello) } else { None }).await
    }

    pub(crate) async fn armed(&mut self) -> v1::LevelArmed {
        self.hear(|said| if let Said::Armed(armed) = said { Some(armed) } else { None }).await
    }

    pub(crate) async fn started(&mut self) -> v1::LevelStarted {
        self.hear(|said| if let Said::Started(started) = said { Some(started) } else { None }).await
    }

    pub(crate) async fn done(&mut self) -> v1::LevelDone {
        self.hear(|said| if let Said::Done(done) = said { Some(done) } else { None }).await
    }

    /// The last word of a traced level.
    pub(crate) async fn last_telemetry(&mut self) -> v1::Telemetry {
        self.hear(|said| match said {
            Said::Telemetry(told) if told.is_final => Some(told),
            Said::Done(_) => panic!("the level ended without its last telemetry"),
            _ => None,
        })
        .await
    }

    pub(crate) async fn notice(&mut self) -> String {
        self.hear(|said| if let Said::Notice(notice) = said { Some(notice.text) } else { None }).await
    }

    /// Breaks every stream; the agent may dial again at once.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.state.cut.lock().unwrap()).cancel();
    }

    /// Waits until batches up to `seq` have come in; each number once, in order.
    pub(crate) async fn batches_through(&self, seq: u64) -> Vec<v1::Batch> {
        let wait = async {
            loop {
                let unique: HashMap<u64, v1::Batch> = self.sent().into_iter().map(|b| (b.seq, b)).collect();
                if (1..=seq).all(|n| unique.contains_key(&n)) {
                    let mut all: Vec<_> = unique.into_values().collect();
                    all.sort_by_key(|b| b.seq);
                    return all;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("batches are missing")
    }

    /// Every batch as it came, repeats too.
    pub(crate) fn sent(&self) -> Vec<v1::Batch> {
        self.state.batches.lock().unwrap().clone()
    }
}

struct Service(Arc<State>);

#[tonic::async_trait]
impl Control for Service {
    type SessionStream = Answers<v1::CoordinatorMessage>;

    async fn session(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let state = self.0.clone();
        let mut messages = request.into_inner();
        let (out, answers) = mpsc::channel(64);
        let cut = state.cut.lock().unwrap().clone();
        tokio::spawn(beat(state.clone(), out.clone(), cut.clone()));
        let listening = cut.clone();
        tokio::spawn(async move {
            while let Some(Ok(Some(message))) = listening.run_until_cancelled(messages.message()).await {
                let kind = message.kind.unwrap();
                if let Said::Hello(_) = &kind {
                    state.hellos.fetch_add(1, SeqCst);
                    *state.node.lock().unwrap() = Some(out.clone());
                    let _left = out.send(Ok(state.welcome())).await;
                }
                let _over = state.said.send(kind);
            }
        });
        Ok(Response::new(until(answers, cut)))
    }
}

impl State {
    fn welcome(&self) -> v1::CoordinatorMessage {
        let kind = match self.refuses.lock().unwrap().clone() {
            Some(reason) => Order::Refused(v1::Refused { reason, ..Default::default() }),
            None => Order::Welcome(v1::Welcome { lease_ns: self.lease_ns, run_id: 7, ..Default::default() }),
        };
        v1::CoordinatorMessage { kind: Some(kind) }
    }
}

async fn beat(state: Arc<State>, out: ToNode, cut: CancellationToken) {
    while !cut.is_cancelled() && !out.is_closed() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let welcomed = state.node.lock().unwrap().as_ref().is_some_and(|node| node.same_channel(&out));
        if welcomed && state.beats.load(SeqCst) {
            let kind = Some(Order::Heartbeat(v1::Heartbeat::default()));
            let _left = out.try_send(Ok(v1::CoordinatorMessage { kind }));
        }
    }
}

/// Answers until the stream is cut, then an error, as a broken connection gives.
fn until<T: Send + 'static>(
    answers: mpsc::Receiver<Result<T, Status>>,
    cut: CancellationToken,
) -> Answers<T> {
    let (out, joined) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut answers = ReceiverStream::new(answers);
        while let Some(Some(answer)) = cut.run_until_cancelled(answers.next()).await {
            let _left = out.send(answer).await;
        }
        let _left = out.send(Err(Status::unavailable("cut by the test"))).await;
    });
    Box::pin(ReceiverStream::new(joined))
}

#[tonic::async_trait]
impl Bulk for Service {
    type ShipStream = Answers<v1::Ack>;

    async fn ship(
        &self,
        request: Request<Streaming<v1::Batch>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let state = self.0.clone();
        let mut batches = request.into_inner();
        let (acks, answers) = mpsc::channel(64);
        let cut = state.cut.lock().unwrap().clone();
        let listening = cut.clone();
        tokio::spawn(async move {
            while let Some(Ok(Some(batch))) = listening.run_until_cancelled(batches.message()).await {
                let through_seq = batch.seq;
                state.batches.lock().unwrap().push(batch);
                if state.acks.load(SeqCst) {
                    let _left = acks.send(Ok(v1::Ack { through_seq })).await;
                }
            }
        });
        Ok(Response::new(until(answers, cut)))
    }
}

/// Streams `tokens` tokens of 2 characters, `gap` apart, the first after `gap`.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) url: String,
    pub(crate) asked: AtomicU64,
    /// Bodies of the requests, in the order they came.
    pub(crate) bodies: Mutex<Vec<Vec<u8>>>,
    /// Says nothing of usage, but why the text ended.
    pub(crate) uncounted: AtomicBool,
    tokens: u32,
    gap: Duration,
}

impl Model {
    pub(crate) async fn start(tokens: u32, gap: Duration) -> Arc<Model> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let model = Arc::new(Model {
            url,
            asked: AtomicU64::new(0),
            bodies: Mutex::default(),
            uncounted: AtomicBool::new(false),
            tokens,
            gap,
        });
        let serving = model.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        model
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        while let Some(body) = take_request(&mut stream, &mut bytes).await {
            self.bodies.lock().unwrap().push(body);
            self.asked.fetch_add(1, SeqCst);
            if self.answer(&mut stream).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        for _ in 0..self.tokens {
            tokio::time::sleep(self.gap).await;
            let event = r#"{"choices":[{"index":0,"delta":{"content":"ab"},"finish_reason":null}]}"#;
            chunk(stream, &format!("data: {event}\n\n")).await?;
        }
        let usage = format!(
            r#"{{"choices":[],"usage":{{"prompt_tokens":5,"completion_tokens":{},"total_tokens":9}}}}"#,
            self.tokens
        );
        let last = if self.uncounted.load(SeqCst) { r#"{"choices":[]}"#.to_owned() } else { usage };
        chunk(stream, &format!("data: {last}\n\ndata: [DONE]\n\n")).await?;
        stream.write_all(b"0\r\n\r\n").await
    }

    pub(crate) fn target(&self) -> v1::Target {
        v1::Target {
            base_url: self.url.clone(),
            path: "/v1/chat/completions".to_owned(),
            endpoint_type: v1::EndpointType::Chat as i32,
            model: "m".to_owned(),
            streaming: true,
            connect_timeout_ns: 5_000_000_000,
            request_timeout_ns: 60_000_000_000,
            ..Default::default()
        }
    }
}

async fn chunk(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await
}

/// Reads one request off the stream and gives its body; `None` at its end.
async fn take_request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = request_end(bytes) {
            let request: Vec<u8> = bytes.drain(..end).collect();
            let body = request.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |at| at + 4);
            return Some(request[body..].to_vec());
        }
        match stream.read_buf(bytes).await {
            Ok(1..) => {}
            _ => return None,
        }
    }
}

fn request_end(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let head = text.find("\r\n\r\n")? + 4;
    let length = text[..head].lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
    Some(head + length.unwrap_or(0)).filter(|&end| bytes.len() >= end)
}
