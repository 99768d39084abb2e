//! Plain reqwest as a load client, as one would write it without a second thought: one client with its pool, a task for
//! each stream, all on one thread, chunks from `Response::chunk`. They are read with tailcliff's own parsers, so that the
//! difference is reqwest's: what tailcliff would have added had it been built so. `calibrate` and the bench ask it.

use std::io;
use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response};
use tailcliff_proto::clock::{HostClock, RawNs};
use tailcliff_proto::trace_context::TraceContext;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{delta, sse};

/// Makes the body of a request from its stream and its number therein.
pub type Body = Arc<dyn Fn(usize, usize) -> String + Send + Sync>;

/// What is sent: chat requests in closed loop.
#[derive(Clone)]
pub struct Load {
    /// Where to, with the path.
    pub url: String,
    /// What request ids begin with; `None` sends no ids.
    pub name: Option<&'static str>,
    /// Streams, each with one request in flight.
    pub streams: usize,
    /// Requests of each stream.
    pub requests_each: usize,
    /// No request is begun later than this after the start, ns.
    pub duration_ns: Option<i64>,
    /// Whether the bodies ask for streams.
    pub streaming: bool,
    /// Bodies.
    pub body: Body,
}

/// One request, stamps in ns of `CLOCK_MONOTONIC_RAW`.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Sent as `x-request-id`, with a `traceparent` of its own.
    pub request_id: String,
    /// Number within its stream, from 0.
    pub request: usize,
    /// When the stream was free for it.
    pub intended_ns: RawNs,
    /// Before the call of `send`: later ones reqwest does not let one see.
    pub sent_ns: RawNs,
    /// Read that held each chunk with content.
    pub arrivals_ns: Vec<RawNs>,
    /// End of the reply.
    pub done_ns: RawNs,
}

/// What became of a load.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Every request.
    pub records: Vec<Record>,
    /// CPU time of the one thread, ns.
    pub cpu_ns: i64,
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Load").field("url", &self.url).field("streams", &self.streams).finish_non_exhaustive()
    }
}

/// Drives the load to its end, or until `cancel`, on this thread, which must be in no runtime.
///
/// # Errors
/// When a request fails.
pub fn run(load: &Load, cancel: &CancellationToken) -> io::Result<Done> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let before = thread_cpu_ns();
    let records = runtime.block_on(async {
        tokio::select! {
            records = drive(load) => records,
            () = cancel.cancelled() => Ok(Vec::new()),
        }
    })?;
    Ok(Done { records, cpu_ns: thread_cpu_ns() - before })
}

async fn drive(load: &Load) -> io::Result<Vec<Record>> {
    let start = HostClock.now();
    let client = Client::builder().no_proxy().build().map_err(io::Error::other)?;
    let mut streams = JoinSet::new();
    for number in 0..load.streams {
        let stream = Stream { client: client.clone(), load: load.clone(), number };
        streams.spawn(stream.run(start));
    }
    let mut all = Vec::new();
    while let Some(ended) = streams.join_next().await {
        all.extend(ended??);
    }
    Ok(all)
}

struct Stream {
    client: Client,
    load: Load,
    number: usize,
}

impl Stream {
    async fn run(self, start: RawNs) -> io::Result<Vec<Record>> {
        let (mut records, mut free) = (Vec::new(), start);
        for request in 0..self.load.requests_each {
            if self.load.duration_ns.is_some_and(|ns| free - start > ns) {
                break;
            }
            records.push(self.request(request, free).await?);
            free = HostClock.now();
        }
        Ok(records)
    }

    async fn request(&self, request: usize, intended_ns: RawNs) -> io::Result<Record> {
        let mut post = self.client.post(&self.load.url).header(CONTENT_TYPE, "application/json");
        let request_id = self.load.name.map(|name| format!("{name}-{}-{request}", self.number));
        if let Some(id) = &request_id {
            let trace = TraceContext::of(id).traceparent();
            post = post.header("x-request-id", id).header("traceparent", trace.as_slice());
        }
        let post = post.body((self.load.body)(self.number, request));
        let request_id = request_id.unwrap_or_default();
        let sent_ns = HostClock.now();
        let mut record = Record { request_id, request, intended_ns, sent_ns, ..Record::default() };
        let reply = post.send().await.and_then(Response::error_for_status).map_err(io::Error::other)?;
        if self.load.streaming {
            read(reply, &mut record).await?;
        } else {
            let whole = reply.bytes().await.map_err(io::Error::other)?;
            delta::parse(&whole).map_err(io::Error::other)?;
            record.done_ns = HostClock.now();
        }
        Ok(record)
    }
}

async fn read(mut reply: Response, record: &mut Record) -> io::Result<()> {
    let mut parser = sse::Parser::new();
    while let Some(chunk) = reply.chunk().await.map_err(io::Error::other)? {
        let at = HostClock.now();
        let mut odd = None;
        let fed = parser.feed(&chunk, |payload| match delta::parse(payload) {
            Ok(delta) if delta.done => record.done_ns = at,
            Ok(delta) if delta.chars() > 0 => record.arrivals_ns.push(at),
            Ok(_) => {}
            Err(error) => odd = Some(error),
        });
        fed.map_err(io::Error::other)?;
        odd.map_or(Ok(()), |error| Err(io::Error::other(error)))?;
    }
    Ok(())
}

fn thread_cpu_ns() -> i64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}
