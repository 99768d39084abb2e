//! Spans as vLLM 0.32 exports them: one `llm_request` for each request that the engine finished, batched as OpenTelemetry's
//! batch processor does, over gRPC or HTTP.
//!
//! A span is made of the request's truth record on the truth log's thread, and waits in a bounded queue for the exporter,
//! which has a thread and a runtime of its own: nothing of it is on the way of a token.

pub use endpoint::{BadEndpoint, Endpoint};
pub(crate) use export::Exporter;
pub(crate) use fault::Faults;
pub use fault::{BadSpanFault, SpanFault, SpanFaultKind};
pub(crate) use parent::Parent;
pub(crate) use queue::Queue;

mod build;
mod endpoint;
mod export;
mod fault;
mod message;
mod parent;
mod queue;
mod send;

pub(crate) use build::span;

/// What became of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// Requests of which a span was made.
    pub made: u64,
    /// Spans that an endpoint took.
    pub exported: u64,
    /// For which the queue had no room, or that were still in it when the server ended.
    pub dropped: u64,
    /// That the endpoint said it did not take.
    pub rejected: u64,
    /// Exports that failed and were tried again.
    pub retries: u64,
    /// Not exported, on purpose.
    pub lost: u64,
    /// Exported without any id, on purpose.
    pub without_ids: u64,
    /// Exports that were no OTLP, on purpose.
    pub garbage: u64,
    /// Requests whose `traceparent` says that they are not sampled: they have no span.
    pub unsampled: u64,
}

impl std::fmt::Display for SpanCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { made, exported, dropped, rejected, retries, lost, without_ids, garbage, unsampled } = self;
        write!(
            f,
            "made {made} spans: {exported} exported, {dropped} dropped, {rejected} rejected, {retries} exports tried again"
        )?;
        write!(f, "; on purpose {lost} lost, {without_ids} without ids, {garbage} exports of garbage")?;
        write!(f, "; {unsampled} requests were not sampled")
    }
}
