//! One stream slot: it sends one request at a time over its own connection and returns the request's record, whatever
//! happens. Nothing is ever sent twice: a load tester that repeats a request would measure a load that it did not state.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, SERVER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use tailcliff_proto::clock::{HostClock, RawNs};
use tailcliff_proto::v1;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::connection::Connection;
use crate::delta::{self, Delta};
use crate::sse;
use crate::target::Target;
use crate::timeline::{ErrorKind, Event, Timeline};

/// Bytes that a reply which is not streamed may have.
const MAX_REPLY: usize = 16 << 20;
/// Bytes of an error reply that are read.
const MAX_ERROR: usize = 64 << 10;
/// Characters of a finish reason that are kept.
const MAX_REASON: usize = 64;
/// After `[DONE]` the body's own end is awaited this long, so that the connection can serve again.
const DRAIN: Duration = Duration::from_millis(100);

/// One request to make.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Rung of the sweep.
    pub level: u32,
    /// Stream, level-wide.
    pub stream: u32,
    /// Number of the request within its stream.
    pub request: u64,
    /// Window of its intended time.
    pub phase: v1::Phase,
    /// When the schedule meant it to go out, ns RAW.
    pub intended_raw_ns: RawNs,
    /// Sent as `x-request-id`, which servers repeat in their logs and traces.
    pub request_id: String,
    /// The JSON body.
    pub body: Bytes,
}

/// One stream slot with its own connection.
#[derive(Debug)]
pub struct Client {
    target: Arc<Target>,
    fresh_connections: bool,
    connection: Option<Connection>,
    /// What preflight wants to know and load does not; `None` under load.
    seen: Option<Seen>,
}

/// What a reply said beside its record.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The answer's text, at most about 64 KiB.
    pub(crate) text: String,
    /// The `server` header.
    pub(crate) server: String,
    /// The reply announced that the connection ends with it.
    pub(crate) said_close: bool,
}

/// Why an exchange failed.
struct Failure {
    kind: ErrorKind,
    detail: String,
    /// The reply was read to its end, so that the connection can serve again.
    keep: bool,
}

impl Failure {
    fn new(kind: ErrorKind, detail: impl ToString) -> Failure {
        Failure { kind, detail: detail.to_string(), keep: false }
    }
}

impl Client {
    /// A slot that has not connected yet. With `fresh_connections`, each request gets a new connection.
    pub fn new(target: Arc<Target>, fresh_connections: bool) -> Client {
        Client { target, fresh_connections, connection: None, seen: None }
    }

    /// Sends one request and reads its reply to the end, unless `cancel` or the target's request timeout comes first.
    /// Every failure is a record. After a `stale_connection` this client reuses no connection any more: the server has
    /// shown that it ends them unannounced, and the next request would run the same risk.
    pub async fn request(&mut self, attempt: Attempt, cancel: &CancellationToken) -> v1::RequestRecord {
        let mut timeline = Timeline::new(begin_record(&attempt));
        timeline.on(HostClock.now(), Event::Issued);
        // Given up before it is sent, it must not carry the stamps of the request before it.
        self.connection.iter().for_each(Connection::begin);
        let limit = self.target.request_timeout();
        let result = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            done = timeout(limit, self.exchange(&attempt, &mut timeline)) => {
                Some(done.unwrap_or_else(|_| Err(overdue(limit))))
            }
        };
        let now = HostClock.now();
        self.note_sent(&mut timeline);
        let keep = match result {
            Some(Ok(keep)) => keep,
            Some(Err(failure)) => self.fail(now, failure, &mut timeline),
            None => false,
        };
        timeline.on(now, Event::Cancelled);
        if !keep || self.fresh_connections {
            self.connection = None;
        }
        timeline.into_record()
    }

    /// Keeps what the next reply says beside its record.
    pub(crate) fn watch(&mut self) {
        self.seen = Some(Seen::default());
    }

    /// What the watched reply said.
    pub(crate) fn take_seen(&mut self) -> Seen {
        self.seen.take().unwrap_or_default()
    }

    /// The server ends the kept connection within this time, unasked. False when there is none.
    pub(crate) async fn closes_within(&self, limit: Duration) -> bool {
        match &self.connection {
            Some(connection) => connection.closes_within(limit).await,
            None => false,
        }
    }

    fn fail(&mut self, now: RawNs, failure: Failure, timeline: &mut Timeline) -> bool {
        if failure.kind == ErrorKind::StaleConnection {
            self.fresh_connections = true;
        }
        let detail = self.target.redact(&failure.detail);
        timeline.on(now, Event::Failed { kind: failure.kind, detail });
        failure.keep
    }

    fn note_sent(&self, timeline: &mut Timeline) {
        if let Some(at) = self.connection.as_ref().and_then(Connection::sent_at) {
            timeline.on(at, Event::Sent);
        }
    }

    /// From connection to the reply's end; true when the connection can serve again.
    async fn exchange(&mut self, attempt: &Attempt, timeline: &mut Timeline) -> Result<bool, Failure> {
        let reused = self.ready_connection().await?;
        timeline.on(HostClock.now(), Event::Connected { reused });
        let request = build_request(&self.target, attempt);
        let Some(connection) = self.connection.as_mut() else {
            return Err(Failure::new(ErrorKind::Connect, "failed to keep a connection"));
        };
        let reply = connection.send(request).await;
        let reply = reply.map_err(|e| head_failure(&e, reused && !connection.heard_back()))?;
        let at = connection.read_at();
        self.note_sent(timeline);
        timeline.on(at, Event::Headers { status: reply.status().as_u16() });
        if let Some(seen) = &mut self.seen {
            seen.server = header(reply.headers(), SERVER);
            seen.said_close = header(reply.headers(), CONNECTION).eq_ignore_ascii_case("close");
        }
        self.read_reply(reply, timeline).await
    }

    /// Makes sure that there is a connection; true when it is a reused one.
    async fn ready_connection(&mut self) -> Result<bool, Failure> {
        if let Some(connection) = &mut self.connection {
            if connection.is_reusable().await {
                return Ok(true);
            }
            self.connection = None;
        }
        let opened = Connection::open(&self.target).await;
        self.connection = Some(opened.map_err(|e| Failure::new(ErrorKind::Connect, e))?);
        Ok(false)
    }

    async fn read_reply(
        &mut self,
        reply: Response<Incoming>,
        timeline: &mut Timeline,
    ) -> Result<bool, Failure> {
        let Some(connection) = self.connection.as_mut() else { return Ok(false) };
        let status = reply.status();
        let media = header(reply.headers(), CONTENT_TYPE);
        let mut reader = Reader { connection, body: reply.into_body(), timeline, seen: &mut self.seen };
        if !status.is_success() {
            return Err(reader.explain_status(status).await);
        }
        if !self.target.streaming() {
            return reader.read_whole().await;
        }
        if ["application/json", "text/html"].iter().any(|not| media.starts_with(not)) {
            return Err(reader.explain_not_a_stream(&media).await);
        }
        reader.read_stream(&self.target).await
    }
}

/// Reads one reply's body into a timeline.
struct Reader<'a> {
    connection: &'a mut Connection,
    body: Incoming,
    timeline: &'a mut Timeline,
    seen: &'a mut Option<Seen>,
}

impl Reader<'_> {
    /// The next bytes of the body with the stamp of their read.
    async fn next(&mut self) -> Result<Option<(RawNs, Bytes)>, Failure> {
        while let Some(frame) = self.connection.frame(&mut self.body).await {
            let frame = frame.map_err(|e| body_failure(&e))?;
            if let Some(bytes) = frame.into_data().ok().filter(|b| !b.is_empty()) {
                let at = self.connection.read_at();
                self.timeline.on(at, Event::Chunk);
                return Ok(Some((at, bytes)));
            }
        }
        Ok(None)
    }

    async fn read_stream(&mut self, target: &Target) -> Result<bool, Failure> {
        let mut parser = sse::Parser::new();
        let mut any = false;
        while let Some((at, bytes)) = self.next().await? {
            let mut failure = None;
            let fed = parser.feed(&bytes, |payload| {
                any = true;
                if failure.is_none() && !self.timeline.is_over() {
                    failure = take_payload(payload, at, self.timeline, target).err();
                    note_text(self.seen, payload);
                }
            });
            if let Some(failure) = failure {
                return Err(failure);
            }
            fed.map_err(|e| Failure::new(ErrorKind::BadReply, e))?;
            if self.timeline.is_over() {
                return Ok(self.drain().await);
            }
        }
        if !any {
            return Err(Failure::new(ErrorKind::BadReply, "the reply to a streamed request held no event"));
        }
        self.timeline.on(self.connection.read_at(), Event::Ended);
        Ok(true)
    }

    /// Reads on to the body's end after the reply's own; true when it came.
    async fn drain(&mut self) -> bool {
        let rest = async {
            loop {
                match self.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return true,
                    Err(_) => return false,
                }
            }
        };
        timeout(DRAIN, rest).await.unwrap_or(false)
    }

    async fn read_whole(&mut self) -> Result<bool, Failure> {
        let bytes = self.collect(MAX_REPLY).await?;
        let at = self.connection.read_at();
        let delta = delta::parse(&bytes).map_err(|e| Failure::new(ErrorKind::BadReply, e))?;
        refuse_error(&delta)?;
        note_text(self.seen, &bytes);
        self.timeline.on(at, Event::WholeText { chars: delta.chars(), words: delta.words });
        note_end(delta, at, self.timeline);
        self.timeline.on(at, Event::DoneMarker);
        Ok(true)
    }

    async fn collect(&mut self, limit: usize) -> Result<Vec<u8>, Failure> {
        let mut all = Vec::new();
        while let Some((_, bytes)) = self.next().await? {
            if all.len() + bytes.len() > limit {
                let detail = format!("the reply is larger than {limit} bytes");
                return Err(Failure::new(ErrorKind::BadReply, detail));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    async fn explain_status(&mut self, status: StatusCode) -> Failure {
        let body = self.collect(MAX_ERROR).await;
        let keep = body.is_ok();
        let body = body.unwrap_or_default();
        let message = delta::error_message(&body);
        let message = message.unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
        let colon = if message.is_empty() { "" } else { ": " };
        let detail = format!("HTTP {}{colon}{message}", status.as_u16());
        Failure { keep, ..Failure::new(ErrorKind::HttpStatus, detail) }
    }

    async fn explain_not_a_stream(&mut self, media: &str) -> Failure {
        let body = self.collect(MAX_ERROR).await.unwrap_or_default();
        match delta::error_message(&body) {
            Some(message) => Failure::new(ErrorKind::ServerError, message),
            None => Failure::new(ErrorKind::BadReply, format!("asked for a stream, the reply is {media}")),
        }
    }
}

fn take_payload(payload: &[u8], at: RawNs, timeline: &mut Timeline, target: &Target) -> Result<(), Failure> {
    if payload.trim_ascii().is_empty() {
        return Ok(());
    }
    let delta = delta::parse(payload).map_err(|e| {
        // Cut after redaction: half a key is a leak too.
        let said = target.redact(&String::from_utf8_lossy(payload));
        let said: String = said.chars().take(MAX_REASON).collect();
        Failure::new(ErrorKind::BadReply, format!("{e}: {said}"))
    })?;
    refuse_error(&delta)?;
    if delta.chars() > 0 {
        timeline.on(at, Event::Content { chars: delta.chars() });
    }
    let done = delta.done;
    note_end(delta, at, timeline);
    if done {
        timeline.on(at, Event::DoneMarker);
    }
    Ok(())
}

fn refuse_error(delta: &Delta) -> Result<(), Failure> {
    match &delta.error {
        Some(message) => Err(Failure::new(ErrorKind::ServerError, message)),
        None => Ok(()),
    }
}

fn note_end(delta: Delta, at: RawNs, timeline: &mut Timeline) {
    if let Some(reason) = delta.finish_reason {
        timeline.on(at, Event::FinishReason(reason.chars().take(MAX_REASON).collect()));
    }
    if let Some(usage) = delta.usage {
        timeline.on(at, Event::Usage(usage));
    }
}

fn note_text(seen: &mut Option<Seen>, payload: &[u8]) {
    if let Some(seen) = seen.as_mut().filter(|s| s.text.len() < MAX_ERROR) {
        seen.text.push_str(&delta::text_of(payload));
    }
}

fn begin_record(attempt: &Attempt) -> v1::RequestRecord {
    v1::RequestRecord {
        level: attempt.level,
        stream: attempt.stream,
        request: attempt.request,
        phase: attempt.phase as i32,
        intended_raw_ns: attempt.intended_raw_ns,
        request_id: attempt.request_id.clone(),
        ..Default::default()
    }
}

fn build_request(target: &Target, attempt: &Attempt) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(attempt.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from(target.path().clone());
    *request.headers_mut() = target.headers().clone();
    if let Ok(id) = HeaderValue::from_str(&attempt.request_id) {
        request.headers_mut().insert("x-request-id", id);
    }
    request
}

fn header(headers: &HeaderMap, name: http::HeaderName) -> String {
    headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).unwrap_or_default()
}

fn overdue(limit: Duration) -> Failure {
    Failure::new(ErrorKind::Timeout, format!("the reply was not complete after {limit:?}"))
}

/// `stale`: the connection was a reused one and not a byte of the reply has come.
fn head_failure(error: &hyper::Error, stale: bool) -> Failure {
    let kind = match (error.is_parse(), stale) {
        (true, _) => ErrorKind::BadReply,
        (false, true) => ErrorKind::StaleConnection,
        (false, false) => ErrorKind::Closed,
    };
    Failure::new(kind, format!("failed to get a reply: {}", chain(error)))
}

fn body_failure(error: &hyper::Error) -> Failure {
    let malformed = source_io(error).is_some_and(|e| {
        matches!(e.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput)
    });
    let kind = if error.is_parse() || malformed { ErrorKind::BadReply } else { ErrorKind::Closed };
    Failure::new(kind, format!("failed to read the reply to its end: {}", chain(error)))
}

fn source_io(error: &hyper::Error) -> Option<&std::io::Error> {
    error.source()?.downcast_ref()
}

/// An error with its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
