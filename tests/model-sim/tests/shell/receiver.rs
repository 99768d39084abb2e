//! The barest OTLP receivers, over HTTP and gRPC, which know of the wire what the specification says and nothing of the
//! exporter.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll};
use std::time::Duration;

use prost::{Message, Oneof};
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(crate) name: String,
    #[prost(fixed64, tag = "7")]
    pub(crate) start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub(crate) end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3, 4")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    String(String),
    #[prost(int64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Answer {}

fn find<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|a| a.key == key)?.value.as_ref()?.value.as_ref()
}

impl Span {
    pub(crate) fn request_id(&self) -> Option<&str> {
        match find(&self.attributes, "gen_ai.request.id")? {
            Value::String(id) => Some(id),
            _ => None,
        }
    }

    /// Of `gen_ai.latency.…`, ns.
    pub(crate) fn latency(&self, name: &str) -> i64 {
        match find(&self.attributes, &format!("gen_ai.latency.{name}")) {
            Some(Value::Double(seconds)) => (seconds * 1e9).round() as i64,
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// What a receiver got: exports, and bodies that were none.
#[derive(Debug)]
pub(crate) enum Got {
    Spans(Vec<Span>),
    Garbage,
}

impl Got {
    fn read(export: Export) -> Self {
        for resource in export.resource_spans.iter().filter_map(|r| r.resource.as_ref()) {
            assert_eq!(find(&resource.attributes, "service.name"), Some(&Value::String("model-sim".into())));
            assert!(find(&resource.attributes, "service.instance.id").is_some());
        }
        let scopes = export.resource_spans.into_iter().flat_map(|r| r.scope_spans);
        Self::Spans(scopes.flat_map(|s| s.spans).collect())
    }
}

/// All that came by the time that the exporter is gone.
pub(crate) fn spans(got: &Receiver<Got>) -> Vec<Span> {
    got.try_iter().flat_map(|got| if let Got::Spans(spans) = got { spans } else { Vec::new() }).collect()
}

/// OTLP/HTTP on `address`, one connection an export, for as long as the test runs.
pub(crate) fn http(address: &str) -> (SocketAddr, Receiver<Got>) {
    let listener = TcpListener::bind(address).unwrap();
    let (address, (sender, got)) = (listener.local_addr().unwrap(), channel());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut bytes = Vec::new();
            let (mut piece, mut whole) = ([0; 4096], None);
            while whole.is_none_or(|length| bytes.len() < length) {
                let n = stream.read(&mut piece).unwrap();
                bytes.extend_from_slice(&piece[..n]);
                whole = whole.or_else(|| length(&bytes));
                assert!(n > 0, "an export was cut");
            }
            let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            let export = Export::decode(&bytes[end..]);
            let status = if export.is_ok() { "200 OK" } else { "400 Bad Request" };
            let got = export.map_or(Got::Garbage, Got::read);
            if sender.send(got).is_err() {
                return;
            }
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").unwrap();
        }
    });
    (address, got)
}

/// Of the whole request, once its head is there.
fn length(bytes: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(&bytes[..bytes.windows(4).position(|w| w == b"\r\n\r\n")?]).unwrap();
    assert!(
        head.starts_with("POST /v1/traces HTTP/1.1") && head.contains("content-type: application/x-protobuf")
    );
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    Some(head.len() + 4 + length.parse::<usize>().unwrap())
}

/// OTLP/gRPC, for as long as the test runs.
pub(crate) fn grpc() -> (SocketAddr, Receiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (address, (sender, got)) = (listener.local_addr().unwrap(), channel());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            let server = tonic::transport::Server::builder().add_service(TraceService(sender));
            server.serve_with_incoming(incoming).await.unwrap();
        });
    });
    (address, got)
}

#[derive(Clone)]
struct TraceService(Sender<Got>);

impl tonic::server::NamedService for TraceService {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl<B> Service<http::Request<B>> for TraceService
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        assert!(request.uri().path().ends_with("/Export"));
        let service = self.clone();
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::<Answer, Export>::default();
            Ok(tonic::server::Grpc::new(codec).unary(service, request).await)
        })
    }
}

impl tonic::server::UnaryService<Export> for TraceService {
    type Response = Answer;
    type Future = BoxFuture<tonic::Response<Answer>, tonic::Status>;

    fn call(&mut self, request: tonic::Request<Export>) -> Self::Future {
        // Nobody listens once the test is over.
        let _over = self.0.send(Got::read(request.into_inner()));
        Box::pin(async { Ok(tonic::Response::new(Answer {})) })
    }
}
