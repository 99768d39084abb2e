//! One export, from its request to the reply: the same for gRPC and HTTP but for the frame around the message. gRPC's unary
//! call is written by hand, since tonic decodes a message before it can be refused, and into types that a hostile one can
//! make large.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use hyper::{Method, Request, Version};
use tailcliff_proto::clock::HostClock;

use super::body::{self, Coding, Room};
use super::keep::Keep;
use super::reply::{self, Refusal, Reply, Speech};
use super::span::{Came, Found};
use super::{json, protobuf};
use crate::inside::Sink;

const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const HTTP_PATH: &str = "/v1/traces";
/// Before a message: whether it is compressed, and its length.
const GRPC_FRAME: usize = 5;

/// What all connections share.
pub(super) struct Receiver {
    keep: Mutex<Keep>,
    room: Room,
}

impl Receiver {
    pub(super) fn new(sink: Sink) -> Self {
        Self { keep: Mutex::new(Keep::new(sink, HostClock.now())), room: Room::new() }
    }

    /// Not held across a wait.
    pub(super) fn keep(&self) -> MutexGuard<'_, Keep> {
        self.keep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an export in and says what became of it.
    pub(super) async fn answer(&self, request: Request<Incoming>, from_elsewhere: bool) -> Reply {
        let speech = speech_of(&request);
        let taken = match speech {
            Ok((speech, coding)) => self.take(request, speech, coding, from_elsewhere).await,
            Err((_, why)) => Err(why),
        };
        let speech = speech.map_or_else(|(speech, _)| speech, |(speech, _)| speech);
        match taken {
            Ok(left_out) => reply::taken(speech, left_out),
            Err(why) => {
                match why {
                    Refusal::Busy => self.keep().put_off(),
                    // It was no export of spans.
                    Refusal::NoSuchPath | Refusal::Method => {}
                    _ => self.keep().malformed(),
                }
                reply::refused(speech, why)
            }
        }
    }

    /// How many spans were left out.
    async fn take(
        &self,
        request: Request<Incoming>,
        speech: Speech,
        coding: Coding,
        from_elsewhere: bool,
    ) -> Result<u64, Refusal> {
        let whole = body::read(request.into_body(), &self.room).await?;
        let came = Came { raw_ns: HostClock.now(), from_elsewhere };
        let mut keep = self.keep();
        if !keep.is_on() {
            keep.unheard();
            return Ok(0);
        }
        if !keep.reads(came.raw_ns) {
            return Err(Refusal::Busy);
        }
        let (coding, message) = match speech {
            Speech::Grpc => unframed(&whole.bytes, coding)?,
            Speech::Protobuf | Speech::Json => (coding, &*whole.bytes),
        };
        let message = coding.decode(message);
        // What was decompressed in vain took as long.
        let len = whole.bytes.len().max(message.as_ref().map_or(body::MOST_BYTES, |message| message.len()));
        keep.has_read(len);
        let message = message?;
        let found = read(speech, &message, keep.room(came))?;
        let left_out = found.left_out();
        keep.take(found);
        Ok(left_out)
    }
}

/// All of an export or nothing of it.
fn read(speech: Speech, message: &[u8], mut found: Found) -> Result<Found, Refusal> {
    match speech {
        Speech::Grpc | Speech::Protobuf => protobuf::export(message, &mut found)
            .map_err(|_| Refusal::Malformed("it is no OTLP in protobuf: see the exporter's protocol"))?,
        Speech::Json => json::export(message, &mut found).map_err(|why| match why {
            json::JsonError::TooMany => Refusal::TooLarge,
            json::JsonError::Malformed(_) => Refusal::Malformed("it is no OTLP in JSON"),
        })?,
    }
    Ok(found)
}

/// How the request is written, or how it is to be refused.
fn speech_of(request: &Request<Incoming>) -> Result<(Speech, Coding), (Speech, Refusal)> {
    let kind = media_type(request.headers());
    if kind.starts_with("application/grpc") {
        let refuse = |why| Err((Speech::Grpc, why));
        let coding = coding(request.headers(), "grpc-encoding");
        return match (request.uri().path(), coding) {
            (GRPC_PATH, Some(coding)) if request.version() == Version::HTTP_2 => Ok((Speech::Grpc, coding)),
            (GRPC_PATH, _) => refuse(Refusal::Unsupported),
            _ => refuse(Refusal::NoSuchPath),
        };
    }
    let speech = if kind == "application/json" { Speech::Json } else { Speech::Protobuf };
    let coding = coding(request.headers(), CONTENT_ENCODING.as_str());
    match (request.uri().path(), request.method(), coding) {
        (HTTP_PATH, &Method::POST, Some(coding))
            if matches!(kind, "application/json" | "application/x-protobuf") =>
        {
            Ok((speech, coding))
        }
        (HTTP_PATH, &Method::POST, _) => Err((speech, Refusal::Unsupported)),
        (HTTP_PATH, ..) => Err((speech, Refusal::Method)),
        _ => Err((speech, Refusal::NoSuchPath)),
    }
}

/// Without its parameters.
fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

fn coding(headers: &HeaderMap, name: &str) -> Option<Coding> {
    Coding::named(headers.get(name).map(|value| value.as_bytes().trim_ascii()))
}

/// The one message of a unary call, and whether it is compressed at all.
fn unframed(bytes: &[u8], coding: Coding) -> Result<(Coding, &[u8]), Refusal> {
    const WRONG: Refusal = Refusal::Malformed("it is no message as gRPC frames it");
    let (frame, message) = bytes.split_at_checked(GRPC_FRAME).ok_or(WRONG)?;
    let [compressed, len @ ..] = frame else { return Err(WRONG) };
    let len: [u8; 4] = len.try_into().map_err(|_| WRONG)?;
    if u32::from_be_bytes(len) as usize != message.len() {
        return Err(WRONG);
    }
    match (compressed, coding) {
        (0, _) => Ok((Coding::None, message)),
        (1, Coding::Gzip | Coding::Deflate) => Ok((coding, message)),
        _ => Err(WRONG),
    }
}
