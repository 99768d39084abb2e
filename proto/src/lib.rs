//! What two tailcliff processes must agree on, and nothing else: the wire, the host clock, the histogram encoding,
//! and how a node dials the coordinator.

pub mod arrivals;
pub mod beat;
pub mod clock;
pub mod controls;
mod cost;
pub mod histogram;
pub mod host;
pub mod link;
pub mod outbox;
pub mod pong;
pub mod reach;
mod redacted;
pub mod secret;
pub mod throttle;
pub mod tokens;
pub mod trace_context;
pub mod words;

/// Generated wire types of `tailcliff.v1`; fields are documented in the `.proto` files.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("tailcliff.v1");
}

/// Generated types of the part of OTLP that a receiver of spans needs.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod otlp {
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}

/// The integer that both ends must share; a mismatch is refused with both versions named.
pub const PROTOCOL: u32 = 1;

/// Words of a synthetic prompt at most: longer than any context window, so a plan that asks for more is mistaken.
pub const MAX_INPUT_WORDS: u32 = 4_000_000;

/// Streams that one agent takes on at most: a connection each, and an address has no more ports.
pub const MAX_AGENT_STREAMS: u32 = 65_536;
/// Entries of a dataset, and bytes of them and a tokenizer together, that are sent to agents at most.
pub const MAX_ENTRIES: usize = 1_000_000;
/// See [`MAX_ENTRIES`].
pub const MAX_CORPUS_BYTES: usize = 256 << 20;

/// The build that this binary says it is in hello.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");
