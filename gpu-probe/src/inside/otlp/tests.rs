//! Exporters as they come: by tonic's client, by HTTP written by hand, and those that mean harm.

use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::otlp::any_value::Value as Any;
use tailcliff_proto::otlp::trace_service_client::TraceServiceClient;
use tailcliff_proto::otlp::{
    AnyValue, ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue, Resource, ResourceSpans,
    ScopeSpans, Span,
};
use tailcliff_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;
use crate::inside::tests::{Heard, PATIENCE};

struct Scene {
    heard: Heard,
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Scene {
    fn start(bytes: usize) -> Self {
        let listener = bind("127.0.0.1:0").unwrap();
        let (heard, address) = (Heard::new(bytes), listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(Some(listener), heard.sink.clone(), stop.clone()));
        Self { heard, address, stop, serving }
    }

    async fn end(self) -> v1::Batch {
        self.stop.cancel();
        timeout(PATIENCE, self.serving).await.unwrap().unwrap();
        self.heard.all()
    }

    fn totals(&self) -> v1::SpanTally {
        *self.heard.sink.tally.totals()
    }

    async fn until_totals(&self, enough: impl Fn(&v1::SpanTally) -> bool) -> v1::SpanTally {
        let wait = async {
            while !enough(&self.totals()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _late = timeout(PATIENCE, wait).await;
        let totals = self.totals();
        assert!(enough(&totals), "{totals:?}");
        totals
    }

    /// One request and its reply: status, headers in lower case, body.
    async fn post(&self, path: &str, headers: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        self.request(&format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}"), body)
            .await
    }

    async fn request(&self, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{head}content-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        // A reply may come, and the connection end, before the whole body is sent.
        let _refused = stream.write_all(body).await;
        let mut reply = Vec::new();
        let _reset = timeout(PATIENCE, stream.read_to_end(&mut reply)).await.unwrap();
        let end = reply.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(reply[..end].to_vec()).unwrap().to_ascii_lowercase();
        (head[9..12].parse().unwrap(), head, reply[end + 4..].to_vec())
    }
}

const PROTOBUF: &str = "content-type: application/x-protobuf\r\n";
const JSON: &str = "content-type: application/json; charset=utf-8\r\n";

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Any::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value }
}

fn span(number: u8) -> Span {
    let queue = Some(AnyValue { value: Some(Any::DoubleValue(0.125)) });
    Span {
        trace_id: vec![number; 16],
        span_id: vec![number; 8],
        parent_span_id: vec![9; 8],
        name: "llm_request".to_owned(),
        start_time_unix_nano: 1_795_336_038_889_845_248,
        end_time_unix_nano: 1_795_336_039_122_636_522,
        attributes: vec![
            text("gen_ai.request.id", &format!("chatcmpl-{number}")),
            KeyValue { key: "gen_ai.latency.time_in_queue".to_owned(), value: queue },
        ],
    }
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let resource = Some(Resource { attributes: vec![text("service.name", "vllm")] });
    let resource_spans = vec![ResourceSpans { resource, scope_spans: vec![ScopeSpans { spans }] }];
    ExportTraceServiceRequest { resource_spans }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut to = GzEncoder::new(Vec::new(), Compression::fast());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

async fn client(scene: &Scene) -> TraceServiceClient<tonic::transport::Channel> {
    TraceServiceClient::connect(format!("http://{}", scene.address)).await.unwrap()
}

#[tokio::test]
async fn spans_over_grpc_are_kept_with_what_they_hold() {
    let scene = Scene::start(1 << 20);
    let mut client = client(&scene).await;
    let before = HostClock.now();
    let reply = client.export(request(vec![span(1), span(2)])).await.unwrap().into_inner();
    assert_eq!(reply, ExportTraceServiceResponse::default());
    let spans = scene.heard.until(|all| all.server_spans.len() == 2).await.server_spans;
    assert_eq!(spans[1].trace_id, [2; 16]);
    assert_eq!((spans[1].span_id.as_slice(), spans[1].parent_span_id.as_slice()), (&[2; 8][..], &[9; 8][..]));
    assert_eq!((spans[1].name.as_str(), spans[1].request_id.as_str()), ("llm_request", "chatcmpl-2"));
    assert_eq!((spans[1].service.as_str(), spans[1].queue_ns), ("vllm", Some(125_000_000)));
    assert_eq!((spans[1].prefill_ns, spans[1].prompt_tokens), (None, None));
    assert_eq!(spans[1].end_unix_ns - spans[1].start_unix_ns, 232_791_274);
    assert!(spans[1].received_raw_ns > before && spans[1].received_raw_ns < HostClock.now());
    assert!(!spans[1].from_elsewhere);
    // The same connection, and a span without an owner.
    let nameless = Span { trace_id: vec![0; 16], attributes: Vec::new(), ..span(3) };
    let by_request = Span { trace_id: Vec::new(), ..span(4) };
    let reply = client.export(request(vec![nameless, by_request])).await.unwrap().into_inner();
    assert_eq!(reply.partial_success.unwrap().rejected_spans, 1);
    let totals = scene.totals();
    assert_eq!((totals.received, totals.without_ids, totals.malformed), (4, 1, 0));
    // What came just before the end is handed on.
    let all = scene.end().await;
    assert_eq!(all.server_spans.len(), 3);
    assert_eq!(
        (all.server_spans[2].request_id.as_str(), all.server_spans[2].trace_id.len()),
        ("chatcmpl-4", 0)
    );
}

/// gRPC as it is on the wire, to send what tonic's client does not: (HTTP status, gRPC status, message).
async fn grpc(scene: &Scene, path: &str, coding: &str, body: Vec<u8>) -> (u16, String, Bytes) {
    let stream = TcpStream::connect(scene.address).await.unwrap();
    let dialled = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = dialled.unwrap();
    let driving = tokio::spawn(connection);
    let mut request = Request::post(format!("http://x{path}")).header("content-type", "application/grpc");
    if !coding.is_empty() {
        request = request.header("grpc-encoding", coding);
    }
    let reply = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    let (head, body) = reply.into_parts();
    assert_eq!(head.headers["content-type"], "application/grpc");
    let body = timeout(PATIENCE, body.collect()).await.unwrap().unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = head.headers.get("grpc-status").or(trailers.get("grpc-status")).expect("a status");
    let status = status.to_str().unwrap().to_owned();
    driving.abort();
    (head.status.as_u16(), status, body.to_bytes())
}

fn framed(compressed: u8, message: &[u8]) -> Vec<u8> {
    let len = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[compressed], &len[..], message].concat()
}

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

#[tokio::test]
async fn grpc_may_be_compressed_and_what_is_none_is_refused_by_its_codes() {
    let scene = Scene::start(1 << 20);
    let message = request(vec![span(1)]).encode_to_vec();
    let well = (200, "0".to_owned(), Bytes::from_static(&[0; 5]));
    assert_eq!(grpc(&scene, EXPORT, "gzip", framed(1, &gzip(&message))).await, well);
    assert_eq!(grpc(&scene, EXPORT, "gzip", framed(0, &message)).await, well);
    assert_eq!(grpc(&scene, EXPORT, "", framed(0, &message)).await, well);
    assert_eq!(grpc(&scene, EXPORT, "", framed(0, &[])).await, well, "an export of nothing");
    let refused = async |coding, body| grpc(&scene, EXPORT, coding, body).await.1;
    assert_eq!(refused("", framed(1, &message)).await, "3", "compressed, and nobody said how");
    assert_eq!(refused("", message.clone()).await, "3", "without a frame");
    assert_eq!(refused("", Vec::new()).await, "3");
    assert_eq!(refused("gzip", framed(1, &message)).await, "3");
    assert_eq!(refused("", [framed(0, &message), vec![0]].concat()).await, "3");
    assert_eq!(refused("", framed(0, &message[..message.len() - 1])).await, "3", "cut short");
    assert_eq!(refused("gzip", framed(1, &gzip(&vec![0; 5 << 20]))).await, "8", "a bomb");
    assert_eq!(refused("", framed(0, &vec![0; 5 << 20])).await, "8");
    assert_eq!(refused("zstd", framed(1, &message)).await, "12");
    assert_eq!(scene.totals().malformed, 9);
    let metrics = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
    assert_eq!(grpc(&scene, metrics, "", framed(0, &[])).await.1, "12");
    assert_eq!(scene.totals().malformed, 9, "another signal is no bad export of spans");
    assert_eq!(scene.end().await.server_spans.len(), 3);
}

#[tokio::test]
async fn http_takes_protobuf_and_json_plain_and_compressed() {
    let scene = Scene::start(1 << 20);
    let message = request(vec![span(1)]).encode_to_vec();
    let (status, head, body) = scene.post("/v1/traces", PROTOBUF, &message).await;
    assert_eq!((status, body.len()), (200, 0));
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    let zipped = format!("{PROTOBUF}content-encoding: gzip\r\n");
    assert_eq!(scene.post("/v1/traces", &zipped, &gzip(&message)).await.0, 200);
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(&message).unwrap();
    let deflated = format!("{PROTOBUF}content-encoding: deflate\r\n");
    assert_eq!(scene.post("/v1/traces", &deflated, &zlib.finish().unwrap()).await.0, 200);
    let json = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"0af7651916cd43dd8448eb211c80319c"},{}]}]}]}"#;
    let (status, head, body) = scene.post("/v1/traces", JSON, json.as_bytes()).await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let reply: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(reply["partialSuccess"]["rejectedSpans"], "1");
    let zipped = format!("{JSON}content-encoding: gzip\r\n");
    let (status, _, body) =
        scene.post("/v1/traces", &zipped, &gzip(json.replace(",{}", "").as_bytes())).await;
    assert_eq!((status, body.as_slice()), (200, &b"{}"[..]));
    let nameless = request(vec![Span::default()]).encode_to_vec();
    let (_, _, body) = scene.post("/v1/traces", PROTOBUF, &nameless).await;
    let reply = ExportTraceServiceResponse::decode(body.as_slice()).unwrap();
    assert_eq!(reply.partial_success.unwrap().rejected_spans, 1);
    let all = scene.end().await;
    assert_eq!(all.server_spans.len(), 5);
    assert_eq!(
        all.server_spans[0],
        v1::ServerSpan {
            received_raw_ns: all.server_spans[0].received_raw_ns,
            ..all.server_spans[1].clone()
        }
    );
}

#[tokio::test]
async fn http_refuses_in_words_and_by_the_right_status() {
    let scene = Scene::start(1 << 20);
    let bomb = gzip(&vec![b' '; 5 << 20]);
    let zipped = format!("{JSON}content-encoding: gzip\r\n");
    let long = vec![0; 5 << 20];
    let cases: [(&str, &[u8], u16); 10] = [
        (PROTOBUF, b"\x0a\xff", 400),
        (JSON, b"{\"resourceSpans\":[", 400),
        (JSON, b"\xff\xfe", 400),
        (&zipped, b"no gzip", 400),
        (&zipped, &gzip(b"{}")[..12], 400),
        (&zipped, &bomb, 413),
        (PROTOBUF, &long, 413),
        ("content-type: text/plain\r\n", b"{}", 415),
        ("", b"{}", 415),
        ("content-type: application/json\r\ncontent-encoding: br\r\n", b"{}", 415),
    ];
    for (headers, body, expected) in cases {
        let (status, head, _) = scene.post("/v1/traces", headers, body).await;
        assert_eq!(status, expected, "{headers} {head}");
    }
    assert_eq!(scene.totals().malformed, cases.len() as u64);
    let (_, _, body) = scene.post("/v1/traces", JSON, b"7").await;
    let reply: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert!(reply["code"] == 3 && reply["message"].as_str().unwrap().contains("no OTLP"), "{reply}");
    assert_eq!(scene.post("/v1/metrics", JSON, b"{}").await.0, 404);
    let (status, head, _) =
        scene.request("GET /v1/traces HTTP/1.1\r\nconnection: close\r\nhost: x\r\n", b"").await;
    assert!(status == 405 && head.contains("allow: post"), "{head}");
    // And it still takes what is right.
    assert_eq!(scene.post("/v1/traces", PROTOBUF, &request(vec![span(1)]).encode_to_vec()).await.0, 200);
    let totals = scene.totals();
    assert_eq!((totals.received, totals.malformed), (1, 11));
    assert_eq!(scene.end().await.server_spans.len(), 1);
}

#[tokio::test]
async fn what_is_cut_or_no_http_is_counted_and_harms_nobody() {
    let scene = Scene::start(1 << 20);
    let mut cut = TcpStream::connect(scene.address).await.unwrap();
    let head = format!("POST /v1/traces HTTP/1.1\r\nhost: x\r\n{PROTOBUF}content-length: 1000\r\n\r\n");
    cut.write_all(&[head.as_bytes(), &[10; 500]].concat()).await.unwrap();
    drop(cut);
    scene.until_totals(|totals| totals.malformed == 1).await;
    let mut nonsense = TcpStream::connect(scene.address).await.unwrap();
    nonsense.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on\r\n\r\n").await.unwrap();
    scene.until_totals(|totals| totals.malformed == 2).await;
    // One that dials and leaves, as a port scan or a check for life does, is none of these.
    drop(TcpStream::connect(scene.address).await.unwrap());
    let mut client = client(&scene).await;
    client.export(request(vec![span(1)])).await.unwrap();
    assert_eq!(scene.totals().malformed, 2);
    assert_eq!(scene.end().await.server_spans.len(), 1);
}

#[tokio::test]
async fn a_flood_is_kept_to_a_rate_and_every_span_of_it_accounted_for() {
    let scene = Scene::start(64 << 20);
    let mut client = client(&scene).await;
    let bare = |number: u8| Span { trace_id: vec![number; 16], ..Default::default() };
    let begun = HostClock.now();
    let mut rejected = 0;
    for number in 1..=4 {
        let reply = client.export(request(vec![bare(number); 15_000])).await.unwrap().into_inner();
        rejected += reply.partial_success.map_or(0, |partial| partial.rejected_spans);
    }
    let took_s = (HostClock.now() - begun) as f64 / 1e9;
    let totals = scene.totals();
    assert_eq!((totals.received, totals.without_ids, totals.without_room), (60_000, 0, 0));
    assert_eq!(totals.over_rate, rejected as u64);
    let kept = scene.end().await.server_spans.len();
    assert_eq!(kept as u64 + totals.over_rate, 60_000);
    assert!(kept >= 20_000 && kept as f64 <= 20_000.0 * (1.0 + took_s) + 1.0, "{kept} in {took_s} s");
}

#[tokio::test]
async fn an_outbox_without_room_loses_nothing_uncounted() {
    let scene = Scene::start(4 << 10);
    let mut client = client(&scene).await;
    client.export(request(vec![span(1); 100])).await.unwrap();
    let totals = scene.until_totals(|totals| totals.without_room == 100).await;
    assert_eq!(totals.received, 100);
    assert_eq!(scene.heard.switch.dropped_samples.load(Relaxed), 100);
    assert_eq!(scene.end().await.server_spans.len(), 0);
}

#[tokio::test]
async fn while_there_is_no_run_spans_are_taken_dropped_and_not_counted() {
    let scene = Scene::start(1 << 20);
    scene.heard.switch.on.store(false, Relaxed);
    let mut client = client(&scene).await;
    let reply = client.export(request(vec![span(1)])).await.unwrap().into_inner();
    assert_eq!(reply, ExportTraceServiceResponse::default());
    assert_eq!(scene.post("/v1/traces", PROTOBUF, b"\x0a\xff").await.0, 200, "nobody looks into it");
    assert_eq!(scene.heard.switch.unheard_exports.load(Relaxed), 0);
    // There had been a run, and its coordinator is away.
    scene.heard.switch.lapsed.store(true, Relaxed);
    client.export(request(vec![span(1)])).await.unwrap();
    assert_eq!(scene.heard.switch.unheard_exports.load(Relaxed), 1);
    scene.heard.switch.on.store(true, Relaxed);
    client.export(request(vec![span(2)])).await.unwrap();
    assert_eq!(scene.totals(), v1::SpanTally { received: 1, ..Default::default() });
    let spans = scene.end().await.server_spans;
    assert_eq!((spans.len(), spans[0].trace_id[0]), (1, 2));
}

#[tokio::test]
async fn connections_beyond_what_is_held_are_closed_and_counted() {
    let scene = Scene::start(1 << 20);
    let mut held = Vec::new();
    for _ in 0..MOST_CONNECTIONS + 6 {
        held.push(TcpStream::connect(scene.address).await.unwrap());
    }
    let totals = scene.until_totals(|totals| totals.turned_away == 6).await;
    assert_eq!(totals.malformed, 0);
    let mut closed = 0;
    for stream in &mut held {
        // Those that are held say nothing, those that are not are at their end.
        closed += usize::from(matches!(
            timeout(Duration::from_millis(20), stream.read(&mut [0])).await,
            Ok(Ok(0) | Err(_))
        ));
    }
    assert_eq!(closed, 6);
    drop(held);
    // Their places are free again.
    let wait = async {
        loop {
            let dialled = TraceServiceClient::connect(format!("http://{}", scene.address)).await;
            if let Ok(mut client) = dialled
                && client.export(request(vec![span(1)])).await.is_ok()
            {
                return;
            }
        }
    };
    timeout(PATIENCE, wait).await.unwrap();
    assert_eq!(scene.end().await.server_spans.len(), 1);
}

#[tokio::test]
async fn who_says_nothing_leaves_its_place_sooner_than_who_has_exported() {
    let scene = Scene::start(1 << 20);
    let begun = Instant::now();
    let mut exporter = TcpStream::connect(scene.address).await.unwrap();
    let request = format!("POST /v1/traces HTTP/1.1\r\nhost: x\r\n{JSON}content-length: 2\r\n\r\n{{}}");
    exporter.write_all(request.as_bytes()).await.unwrap();
    assert!(exporter.read(&mut [0; 1000]).await.unwrap() > 0, "a reply");
    let mut silent = TcpStream::connect(scene.address).await.unwrap();
    let end = timeout(IDLE / 2, silent.read(&mut [0])).await.expect("it is closed");
    assert!(end.unwrap_or(0) == 0 && begun.elapsed() >= FIRST, "{:?}", begun.elapsed());
    // Its own first while has been over for long.
    exporter.write_all(request.as_bytes()).await.unwrap();
    assert!(exporter.read(&mut [0; 1000]).await.unwrap() > 0, "another");
    scene.end().await;
}

#[tokio::test]
async fn who_comes_too_fast_is_put_off_and_told_to_try_again() {
    let scene = Scene::start(1 << 20);
    let receiver = Arc::new(Receiver::new(scene.heard.sink.clone()));
    // As after an hour's worth of exports.
    receiver.keep().has_read(1 << 40);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let beside = Scene { address: listener.local_addr().unwrap(), ..scene };
    let stop = beside.stop.clone();
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            tokio::spawn(converse(stream, peer, receiver.clone(), stop.clone()));
        }
    });
    let message = request(vec![span(1)]).encode_to_vec();
    let (status, head, _) = beside.post("/v1/traces", PROTOBUF, &message).await;
    assert!(status == 503 && head.contains("retry-after: 1"), "{head}");
    assert_eq!(grpc(&beside, EXPORT, "", framed(0, &message)).await.1, "14");
    assert_eq!(beside.totals(), v1::SpanTally { put_off: 2, ..Default::default() });
    beside.end().await;
}

/// As vLLM has it: thirteen attributes.
fn whole_span(number: u8) -> Span {
    let mut span = span(number);
    let others = (0..11).map(|i| KeyValue {
        key: format!("gen_ai.request.attribute_{i}"),
        value: Some(AnyValue { value: Some(Any::DoubleValue(0.5)) }),
    });
    span.attributes.extend(others);
    span
}

/// What receiving costs, of the thread that does it: printed with `--nocapture`, for a build with `--release`.
#[tokio::test]
async fn at_a_hundred_spans_a_second_receiving_takes_less_than_a_fiftieth_of_a_core() {
    const EXPORTS: i64 = 50;
    const SPANS: i64 = 100;
    let listener = bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, stop) = (Heard::new(64 << 20), CancellationToken::new());
    let (sink, token) = (heard.sink.clone(), stop.clone());
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(Some(listener), sink, token));
        let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
        let took = nix::time::clock_gettime(clock).unwrap();
        took.tv_sec() * 1_000_000_000 + took.tv_nsec()
    });
    let mut client = TraceServiceClient::connect(format!("http://{address}")).await.unwrap();
    for number in 0..EXPORTS {
        let spans = (0..SPANS).map(|_| whole_span(1 + number as u8)).collect();
        client.export(request(spans)).await.unwrap();
    }
    stop.cancel();
    let cpu_ns = tokio::task::spawn_blocking(move || serving.join().unwrap()).await.unwrap();
    assert_eq!(heard.all().server_spans.len() as i64, EXPORTS * SPANS);
    let each_ns = cpu_ns / (EXPORTS * SPANS);
    println!("{each_ns} ns of CPU a span, in exports of {SPANS}");
    assert!(each_ns * 100 < 1_000_000_000 / 50, "{each_ns} ns a span");
}

#[test]
fn an_exporter_is_here_when_it_comes_from_this_hosts_addresses() {
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    let elsewhere = |peer: &str, local: &str| is_elsewhere(at(peer), Some(at(local)));
    assert!(!elsewhere("127.0.0.1:5", "127.0.0.1:4317"));
    assert!(!elsewhere("[::1]:5", "[::1]:4317"));
    assert!(!elsewhere("[::ffff:127.0.0.1]:5", "[::ffff:127.0.0.1]:4317"));
    assert!(!elsewhere("10.0.0.7:5", "10.0.0.7:4317"));
    assert!(!elsewhere("[::ffff:10.0.0.7]:5", "10.0.0.7:4317"));
    assert!(elsewhere("10.0.0.8:5", "10.0.0.7:4317"));
    assert!(is_elsewhere(at("10.0.0.8:5"), None));
    assert!(!is_elsewhere(at("127.0.0.1:5"), None));
}

#[test]
fn an_address_that_cannot_be_listened_on_is_named() {
    let taken = bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = bind(&address).unwrap_err().to_string();
    assert!(error.contains("failed to listen for OTLP") && error.contains(&address), "{error}");
}
