//! A probe at the end of a run: it goes on taking spans for a while, and not a moment longer than it is wanted.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tailcliff_gpu_probe::ProbeError;
use tailcliff_gpu_probe::config::{Config, Inside};
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::otlp::trace_service_client::TraceServiceClient;
use tailcliff_proto::otlp::{ExportTraceServiceRequest, ResourceSpans, ScopeSpans, Span};
use tailcliff_proto::v1::bulk_server::{Bulk, BulkServer};
use tailcliff_proto::v1::control_server::{Control, ControlServer};
use tailcliff_proto::v1::{self, coordinator_message::Kind as Order, node_message::Kind as Said};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// No wait in these tests is meant to take this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of a wait that something is to end before its time.
const LONG: Duration = Duration::from_secs(300);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type ToNode = mpsc::Sender<Result<v1::CoordinatorMessage, Status>>;

/// A coordinator that does what a test tells it, and keeps what it is sent.
#[derive(Clone, Debug)]
struct Coordinator {
    node: Arc<Mutex<Option<ToNode>>>,
    batches: Arc<Mutex<Vec<v1::Batch>>>,
    /// It answers nobody.
    is_away: Arc<AtomicBool>,
    /// How long a probe goes on without hearing of it.
    lease: Duration,
    said: mpsc::UnboundedSender<Said>,
}

#[tonic::async_trait]
impl Control for Coordinator {
    type SessionStream = Answers<v1::CoordinatorMessage>;

    async fn session(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (mut messages, this) = (request.into_inner(), self.clone());
        if self.is_away.load(Relaxed) {
            return Err(Status::unavailable("away"));
        }
        let (out, answers) = mpsc::channel(64);
        let welcome = v1::Welcome { lease_ns: this.lease.as_nanos() as i64, run_id: 7, ..Default::default() };
        out.send(Ok(v1::CoordinatorMessage { kind: Some(Order::Welcome(welcome)) })).await.unwrap();
        *self.node.lock().unwrap() = Some(out);
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                let _over = this.said.send(message.kind.unwrap());
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

#[tonic::async_trait]
impl Bulk for Coordinator {
    type ShipStream = Answers<v1::Ack>;

    async fn ship(
        &self,
        request: Request<Streaming<v1::Batch>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let (mut batches, this) = (request.into_inner(), self.clone());
        let (acks, answers) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok(Some(batch)) = batches.message().await {
                let through_seq = batch.seq;
                this.batches.lock().unwrap().push(batch);
                let _left = acks.send(Ok(v1::Ack { through_seq })).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

struct Scene {
    coordinator: Coordinator,
    said: mpsc::UnboundedReceiver<Said>,
    otlp: String,
    probe: JoinHandle<Result<(), ProbeError>>,
    shutdown: CancellationToken,
}

impl Scene {
    async fn start(drain: Duration) -> Self {
        let otlp = free_address();
        let inside = Inside { otlp: Some(otlp.clone()), drain, every: drain, ..Inside::default() };
        Self::of(inside, otlp).await
    }

    async fn of(inside: Inside, otlp: String) -> Self {
        Self::leased(LONG, inside, otlp).await
    }

    async fn leased(lease: Duration, inside: Inside, otlp: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (say, said) = mpsc::unbounded_channel();
        let coordinator = Coordinator {
            node: Arc::default(),
            batches: Arc::default(),
            is_away: Arc::default(),
            lease,
            said: say,
        };
        let server = tonic::transport::Server::builder()
            .add_service(ControlServer::new(coordinator.clone()))
            .add_service(BulkServer::new(coordinator.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let config = Config { inside, ..Config::new(address) };
        let shutdown = CancellationToken::new();
        let probe = tokio::spawn(tailcliff_gpu_probe::run(config, shutdown.clone()));
        let mut scene = Self { coordinator, said, otlp, probe, shutdown };
        scene.hear(|said| matches!(said, Said::Heartbeat(_))).await;
        scene
    }

    async fn hear(&mut self, wanted: impl Fn(&Said) -> bool) -> Said {
        let search = async {
            loop {
                let said = self.said.recv().await.expect("the coordinator lives");
                if wanted(&said) {
                    return said;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.expect("the probe did not say it")
    }

    async fn end(&self, end: v1::RunEnd) {
        let node = self.coordinator.node.lock().unwrap().clone().unwrap();
        node.send(Ok(v1::CoordinatorMessage { kind: Some(Order::End(end)) })).await.unwrap();
    }

    async fn begin_to_drain(&mut self) {
        self.end(v1::RunEnd::default()).await;
        let notice = self.hear(|said| matches!(said, Said::Notice(_))).await;
        let Said::Notice(notice) = notice else { unreachable!() };
        assert!(notice.text.contains("last spans"), "{}", notice.text);
    }

    async fn export(&self, number: u8) {
        let mut client = TraceServiceClient::connect(format!("http://{}", self.otlp)).await.unwrap();
        let span = Span { trace_id: vec![number; 16], ..Default::default() };
        let scope_spans = vec![ScopeSpans { spans: vec![span] }];
        let resource_spans = vec![ResourceSpans { resource: None, scope_spans }];
        client.export(ExportTraceServiceRequest { resource_spans }).await.unwrap();
    }

    /// Waits for the probe's end; what it sent.
    async fn ended(self) -> Vec<v1::Batch> {
        tokio::time::timeout(PATIENCE, self.probe).await.expect("it ends").unwrap().unwrap();
        std::mem::take(&mut *self.coordinator.batches.lock().unwrap())
    }
}

/// Free a moment ago, and not given to anybody who does not ask for it by number.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn traces(batches: &[v1::Batch]) -> Vec<u8> {
    batches.iter().flat_map(|batch| &batch.server_spans).map(|span| span.trace_id[0]).collect()
}

#[tokio::test]
async fn spans_that_come_after_the_end_are_sent_with_the_clock_that_places_them() {
    let mut scene = Scene::start(Duration::from_secs(3)).await;
    scene.export(1).await;
    let begun = HostClock.now();
    scene.begin_to_drain().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    scene.export(2).await;
    let batches = scene.ended().await;
    assert!(HostClock.now() - begun >= 3_000_000_000, "it waited");
    assert_eq!(traces(&batches), [1, 2]);
    let received = batches.iter().flat_map(|batch| &batch.server_spans).map(|span| span.received_raw_ns);
    let walls: Vec<i64> = batches.iter().flat_map(|b| &b.wall_clocks).map(|wall| wall.raw_ns).collect();
    let last = received.max().unwrap();
    assert!(walls[0] < last && *walls.last().unwrap() > last, "a span lies between two readings");
    let tallies: Vec<_> = batches.iter().flat_map(|batch| &batch.span_tallies).collect();
    assert_eq!(tallies.last().unwrap().received, 2);
    // What is not of the server's inside ends with the run.
    let hosts = batches.iter().flat_map(|batch| &batch.host_samples).map(|sample| sample.raw_ns);
    assert!(hosts.max().is_none_or(|newest| newest < begun + 2_000_000_000));
}

#[tokio::test]
async fn a_second_end_a_broken_stream_and_a_shutdown_end_the_wait() {
    for how in 0..3 {
        let mut scene = Scene::start(LONG).await;
        scene.begin_to_drain().await;
        // It still beats.
        scene.hear(|said| matches!(said, Said::Heartbeat(_))).await;
        scene.export(3).await;
        match how {
            0 => scene.end(v1::RunEnd::default()).await,
            1 => drop(scene.coordinator.node.lock().unwrap().take()),
            _ => scene.shutdown.cancel(),
        }
        assert_eq!(traces(&scene.ended().await), [3], "{how}");
    }
}

#[tokio::test]
async fn a_probe_that_is_turned_away_or_saw_nothing_driven_waits_for_nothing() {
    let ends = [
        v1::RunEnd { turned_away: true, ..Default::default() },
        v1::RunEnd { nothing_driven: true, ..Default::default() },
    ];
    for end in ends {
        let scene = Scene::start(LONG).await;
        scene.end(end).await;
        scene.ended().await;
    }
}

#[tokio::test]
async fn lines_of_a_file_are_not_waited_for_as_spans_are_and_one_that_never_came_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let stamps = Some(dir.path().join("stamps.jsonl"));
    let inside = Inside { stamps, drain: LONG, every: LONG, ..Inside::default() };
    let mut scene = Scene::of(inside, String::new()).await;
    scene.begin_to_drain().await;
    let told = |said: &Said| matches!(said, Said::Notice(notice) if notice.text.contains("never was a file"));
    scene.hear(told).await;
    scene.ended().await;
}

/// A run may go on while only this probe has lost it.
#[tokio::test]
async fn spans_are_taken_a_while_after_the_coordinator_is_lost_and_counted_after_that() {
    let (lease, drain) = (Duration::from_secs(2), Duration::from_secs(2));
    let otlp = free_address();
    let inside = Inside { otlp: Some(otlp.clone()), drain, every: drain, ..Inside::default() };
    let mut scene = Scene::leased(lease, inside, otlp).await;
    scene.coordinator.is_away.store(true, Relaxed);
    drop(scene.coordinator.node.lock().unwrap().take());
    tokio::time::sleep(lease + drain / 4).await;
    scene.export(1).await;
    tokio::time::sleep(2 * drain).await;
    scene.export(2).await;
    scene.coordinator.is_away.store(false, Relaxed);
    let told =
        |said: &Said| matches!(said, Said::Notice(notice) if notice.text.starts_with("1 exports of spans"));
    scene.hear(told).await;
    scene.shutdown.cancel();
    assert_eq!(traces(&scene.ended().await), [1]);
}
