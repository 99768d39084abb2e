//! What an exporter is told: <https://opentelemetry.io/docs/specs/otlp/#otlpgrpc-response>, and the same over HTTP.

use std::convert::Infallible;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use prost::Message;
use tailcliff_proto::otlp::{ExportTracePartialSuccess, ExportTraceServiceResponse};

/// A reply as hyper sends it.
pub(super) type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_ACCEPT: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// How an exporter speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    Grpc,
    Protobuf,
    Json,
}

/// Why an export was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("it is larger than 4 MiB: send fewer spans at once")]
    TooLarge,
    #[error("it did not come whole")]
    CutShort,
    /// To be tried again: the only one of which OTLP says so.
    #[error("more comes than is read: try again later")]
    Busy,
    #[error(
        "its encoding is not known here: application/x-protobuf or application/json, and gzip, deflate or identity"
    )]
    Unsupported,
    #[error("spans alone are taken here: at /v1/traces, or over gRPC")]
    NoSuchPath,
    #[error("only POST")]
    Method,
}

impl Refusal {
    fn http(self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::CutShort => StatusCode::REQUEST_TIMEOUT,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// The code of google.rpc.Status, which gRPC's is.
    fn grpc(self) -> u8 {
        match self {
            Self::Malformed(_) | Self::CutShort => 3,
            // Without a time to try again at, exporters take it for final.
            Self::TooLarge => 8,
            Self::Unsupported | Self::NoSuchPath | Self::Method => 12,
            Self::Busy => 14,
        }
    }
}

/// The body of an error over HTTP.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// To an export that was taken, but for so many of its spans. Those that are over the rate are left out for good, and not to
/// be sent again: an exporter that is too fast would only be faster with what it has sent before.
pub(super) fn taken(speech: Speech, left_out: u64) -> Reply {
    let why = || "spans without trace id and request id, or more of them than are kept a second".to_owned();
    let partial_success = (left_out > 0).then(|| ExportTracePartialSuccess {
        rejected_spans: i64::try_from(left_out).unwrap_or(i64::MAX),
        error_message: why(),
    });
    match speech {
        Speech::Grpc => grpc_message(&ExportTraceServiceResponse { partial_success }),
        Speech::Protobuf => {
            let message = ExportTraceServiceResponse { partial_success }.encode_to_vec();
            over_http(StatusCode::OK, speech, message.into())
        }
        Speech::Json => {
            let text = match partial_success {
                None => "{}".to_owned(),
                // 64-bit numbers are text in protobuf's JSON.
                Some(partial) => serde_json::json!({"partialSuccess": {
                    "rejectedSpans": partial.rejected_spans.to_string(),
                    "errorMessage": partial.error_message,
                }})
                .to_string(),
            };
            over_http(StatusCode::OK, speech, text.into())
        }
    }
}

/// To one that was not.
pub(super) fn refused(speech: Speech, why: Refusal) -> Reply {
    let (code, message) = (i32::from(why.grpc()), why.to_string());
    let body = match speech {
        Speech::Grpc => return grpc_refused(why),
        Speech::Protobuf => RpcStatus { code, message }.encode_to_vec().into(),
        Speech::Json => serde_json::json!({"code": code, "message": message}).to_string().into(),
    };
    let mut reply = over_http(why.http(), speech, body);
    match why {
        Refusal::Busy => drop(reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"))),
        Refusal::Method => drop(reply.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"))),
        _ => {}
    }
    reply
}

fn over_http(status: StatusCode, speech: Speech, body: Bytes) -> Reply {
    let kind = if speech == Speech::Json { "application/json" } else { "application/x-protobuf" };
    let mut reply = Response::new(Full::new(body).boxed_unsync());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// A message and, behind it, that all is well.
fn grpc_message(message: &impl Message) -> Reply {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.encoded_len() as u32);
    framed.put(message.encode_to_vec().as_slice());
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    let body = Full::new(framed.freeze()).with_trailers(async { Some(Ok(trailers)) });
    grpc(Response::new(body.boxed_unsync()))
}

/// The status alone, in the place of headers.
fn grpc_refused(why: Refusal) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::new()).boxed_unsync());
    let headers = reply.headers_mut();
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(why.grpc())));
    // The words above are ASCII and have no percent sign, so they are as gRPC wants them.
    if let Ok(words) = HeaderValue::from_str(&why.to_string()) {
        headers.insert(GRPC_MESSAGE, words);
    }
    grpc(reply)
}

fn grpc(mut reply: Reply) -> Reply {
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_ACCEPT, HeaderValue::from_static("identity,gzip,deflate"));
    reply
}
