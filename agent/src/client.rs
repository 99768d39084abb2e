//! One stream slot: it sends one request at a time over its own connection and returns the request's record, whatever
//! happens. Nothing is ever sent twice: a load tester that repeats a request would measure a load that it did not state.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tailcliff_proto::clock::{HostClock, RawNs};
use tailcliff_proto::v1;

use crate::cancel::Cancel;
use crate::connection::{Connection, Outgoing};
use crate::delta::{Kept, Reader};
use crate::failure::{ErrorKind, Failure};
use crate::limits::Limits;
use crate::reply::{Reply, Seen};
use crate::socket::Stamps;
use crate::target::Target;
use crate::timeline::{Event, Timeline};

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
    /// A deliberate pause between the send and the first look at the reply, over HTTP/1.1.
    pub control_pause: Option<Duration>,
}

/// One stream slot with its own connection.
#[derive(Debug)]
pub struct Client {
    target: Arc<Target>,
    fresh_connections: bool,
    times_code: bool,
    /// Of whatever connection is there: the socket of each next one takes them over.
    stamps: Arc<Stamps>,
    connection: Option<Connection>,
    deltas: Reader,
    seen: Seen,
}

impl Client {
    /// A slot that has not connected yet. With `fresh_connections`, each request gets a new connection.
    pub fn new(target: Arc<Target>, fresh_connections: bool) -> Client {
        Client {
            target,
            fresh_connections,
            times_code: false,
            stamps: Arc::default(),
            connection: None,
            deltas: Reader::default(),
            seen: Seen::default(),
        }
    }

    /// Takes the time that writing requests and reading replies takes, as trace mode wants it: one more look at the clock for
    /// each read.
    pub fn time_code(&mut self) {
        self.times_code = true;
    }

    /// Keeps the text of replies, see [`Client::take_text`].
    pub fn keep_text(&mut self) {
        self.deltas.keep_text();
    }

    /// What the latest reply said; empty unless texts are kept.
    pub fn take_text(&mut self) -> Kept {
        self.deltas.take_text()
    }

    /// Sends one request and reads its reply to the end, unless `cancel` or one of the target's limits comes first.
    /// Every failure is a record. After a `stale_connection` this client reuses no connection any more: the server has
    /// shown that it ends them unannounced, and the next request would run the same risk.
    pub async fn request(&mut self, attempt: Attempt, cancel: &Cancel) -> v1::RequestRecord {
        let mut timeline = Timeline::new(begin_record(&attempt));
        timeline.on(HostClock.now(), Event::Issued);
        // Given up before it is sent, it must not carry the stamps of the request before it.
        self.stamps.begin();
        self.deltas.begin();
        let result = match cancel.is_cancelled() {
            true => None,
            false => self.within_limits(&attempt, &mut timeline, cancel).await,
        };
        let now = HostClock.now();
        self.note_socket(&mut timeline);
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

    /// The server's list of models as it came; `None` when it has none to show.
    pub(crate) async fn models(&mut self) -> Result<(u16, Option<Vec<u8>>), Failure> {
        let mut timeline = Timeline::new(v1::RequestRecord::default());
        let reused = self.ready_connection().await?;
        self.stamps.begin();
        let Some(connection) = self.connection.as_mut() else { return Ok((0, None)) };
        let mut reply = Reply::new(&self.target, &mut timeline, &mut self.deltas, reused, false).plain();
        let keep = connection.exchange(&self.target, Outgoing::Models, &mut reply).await;
        let list = reply.into_plain();
        if !matches!(keep, Ok(true)) {
            self.connection = None;
        }
        keep.map(|_| (timeline.status().unwrap_or(0), list))
    }

    /// What the latest reply said beside its record.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
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

    fn note_socket(&self, timeline: &mut Timeline) {
        if self.connection.is_none() {
            return;
        }
        // HTTP/2 writes on while it reads; once the reply has begun, the stamp is no longer the request's.
        if let Some(at) = self.stamps.sent_at().filter(|_| timeline.status().is_none()) {
            timeline.on(at, Event::Sent);
        }
        timeline.socket_waits(self.stamps.waits());
    }

    /// `None` when cancelled.
    async fn within_limits(
        &mut self,
        attempt: &Attempt,
        timeline: &mut Timeline,
        cancel: &Cancel,
    ) -> Option<Result<bool, Failure>> {
        let mut limits = Limits::new(&self.target, Arc::clone(&self.stamps));
        let mut cancelled = pin!(cancel.cancelled());
        let mut exchange = pin!(self.exchange(attempt, timeline));
        poll_fn(|cx| {
            if let Poll::Ready(done) = exchange.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if cancelled.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            limits.poll(cx).map(|failure| Some(Err(failure)))
        })
        .await
    }

    /// From connection to the reply's end; true when the connection can serve again.
    async fn exchange(&mut self, attempt: &Attempt, timeline: &mut Timeline) -> Result<bool, Failure> {
        let reused = self.ready_connection().await?;
        let connected = HostClock.now();
        timeline.on(connected, Event::Connected { reused });
        let Some(connection) = self.connection.as_mut() else {
            return Err(Failure::new(ErrorKind::Connect, "failed to keep a connection"));
        };
        let mut reply = Reply::new(&self.target, timeline, &mut self.deltas, reused, self.times_code);
        reply.pause_for(attempt.control_pause);
        let post = Outgoing::Post { request_id: &attempt.request_id, body: &attempt.body };
        let keep = connection.exchange(&self.target, post, &mut reply).await?;
        if let Some(failure) = reply.take_verdict() {
            return Err(Failure { keep: keep && failure.keep, ..failure });
        }
        self.seen = reply.into_seen();
        Ok(keep)
    }

    /// Makes sure that there is a connection; true when it is a reused one.
    async fn ready_connection(&mut self) -> Result<bool, Failure> {
        if let Some(connection) = &mut self.connection {
            if connection.is_reusable().await {
                return Ok(true);
            }
            self.connection = None;
        }
        self.connection = Some(Connection::open(&self.target, &self.stamps).await?);
        // What TLS has written and read is none of the request.
        self.stamps.begin();
        Ok(false)
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

#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod secure_tests;
#[cfg(test)]
mod tests;
