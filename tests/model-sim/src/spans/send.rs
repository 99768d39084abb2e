//! One export over the wire. Both ways are kept as plain as they can be: no TLS, no compression.

use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

use super::Endpoint;
use super::message::Exported;

const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// How long an endpoint may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The type of the detail in which a status says when to try again.
const RETRY_INFO: &[u8] = b"google.rpc.RetryInfo";
/// Most of an answer that is read.
const MOST_ANSWER: u64 = 64 * 1024;

/// Why an export was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// Nothing answered: worth another try.
    #[error("failed to reach the endpoint")]
    Unreached,
    /// It answered that it does not want this.
    #[error("the endpoint refused")]
    Refused,
}

/// A way to an endpoint.
#[derive(Debug)]
pub(super) enum Way {
    Grpc(Channel),
    Http { authority: String, path: String },
}

impl Way {
    /// Dials at the first export. Must be called within a runtime; `None` where the endpoint is no address.
    pub(super) fn to(endpoint: &Endpoint) -> Option<Self> {
        Some(match endpoint.clone() {
            Endpoint::Http { authority, path } => Self::Http { authority, path },
            Endpoint::Grpc { authority } => {
                let dial = Channel::from_shared(format!("http://{authority}")).ok()?;
                Self::Grpc(dial.connect_timeout(PATIENCE).timeout(PATIENCE).connect_lazy())
            }
        })
    }

    /// Sends one message, which need not be an export, and gives how many spans were rejected.
    pub(super) async fn send<M: Message + Clone + 'static>(&self, message: &M) -> Result<u64, Failed> {
        let answer = async {
            match self {
                Self::Grpc(channel) => call(channel.clone(), message.clone()).await,
                Self::Http { authority, path } => post(authority, path, &message.encode_to_vec()).await,
            }
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await.map_err(|_| Failed::Unreached)??;
        Ok(answer.partial_success.map_or(0, |partial| partial.rejected_spans.max(0).unsigned_abs()))
    }
}

async fn call<M: Message + 'static>(channel: Channel, message: M) -> Result<Exported, Failed> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|_| Failed::Unreached)?;
    let codec = tonic_prost::ProstCodec::<M, Exported>::default();
    let answer = client.unary(tonic::Request::new(message), PathAndQuery::from_static(METHOD), codec).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| if is_retryable(&status) { Failed::Unreached } else { Failed::Refused })
}

/// As OTLP has it: who has no room is tried again only where it says when.
fn is_retryable(status: &tonic::Status) -> bool {
    use tonic::Code::{
        Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable,
    };
    let says_when = || status.details().windows(RETRY_INFO.len()).any(|part| part == RETRY_INFO);
    match status.code() {
        Aborted | Cancelled | DataLoss | DeadlineExceeded | OutOfRange | Unavailable => true,
        ResourceExhausted => says_when(),
        _ => false,
    }
}

async fn post(authority: &str, path: &str, body: &[u8]) -> Result<Exported, Failed> {
    let (status, answer) = exchange(authority, path, body).await.map_err(|_| Failed::Unreached)?;
    match status {
        200 => Exported::decode(answer.as_slice()).map_err(|_| Failed::Refused),
        429 | 502 | 503 | 504 => Err(Failed::Unreached),
        _ => Err(Failed::Refused),
    }
}

/// Status and body of the answer, on a connection of its own.
async fn exchange(authority: &str, path: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(authority).await?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = Vec::new();
    stream.take(MOST_ANSWER).read_to_end(&mut answer).await?;
    parse(&answer).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// Of a whole answer; one in chunks is taken to say nothing.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?.to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.contains("\r\ntransfer-encoding:");
    Some((status, if chunked { Vec::new() } else { answer[end + 4..].to_vec() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_room_is_tried_again_only_where_it_says_when() {
        use tonic::{Code, Status};
        assert!(is_retryable(&Status::new(Code::Unavailable, "")));
        assert!(!is_retryable(&Status::new(Code::InvalidArgument, "")));
        assert!(!is_retryable(&Status::new(Code::ResourceExhausted, "")));
        let details = b"\x08\x08\x1a\x2a\n(type.googleapis.com/google.rpc.RetryInfo";
        let says_when = Status::with_details(Code::ResourceExhausted, "", details.as_slice().into());
        assert!(is_retryable(&says_when));
    }

    #[test]
    fn an_answer_is_read_or_refused() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx"), Some((200, b"x".to_vec())));
        assert_eq!(parse(b"HTTP/1.1 503 No\r\n\r\n"), Some((503, Vec::new())));
        assert_eq!(
            parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            Some((200, Vec::new()))
        );
        assert!([&b""[..], b"garbage", b"HTTP/1.1 x\r\n\r\n"].into_iter().all(|bad| parse(bad).is_none()));
    }
}
