//! From a request's stamped events to its record. Pure: it reads no clock and does no I/O, so that what a record says
//! can be checked event by event.

use tailcliff_proto::arrivals::{Arrivals, SocketWaits};
use tailcliff_proto::clock::RawNs;
use tailcliff_proto::v1::{Outcome, RequestRecord, TokenSource};

use crate::delta::{Timings, Usage};
pub use crate::failure::ErrorKind;

/// Bytes of arrivals that one request may keep: about 200,000 chunks.
const MAX_ARRIVALS: usize = 1 << 20;

/// Something that happened to a request.
#[derive(Clone, Debug)]
pub enum Event {
    /// Its slot turned to it.
    Issued,
    /// A connection is ready.
    Connected {
        /// It served a request before.
        reused: bool,
    },
    /// The last byte of the request was taken by the socket.
    Sent,
    /// The reply's head.
    Headers {
        /// HTTP status.
        status: u16,
    },
    /// Bytes of the reply's body.
    Chunk,
    /// A chunk of a stream that brought text. Ones without text are no token and do not come here.
    Content {
        /// Characters, at least 1.
        chars: u64,
    },
    /// The text of a whole reply, which has no token times.
    WholeText {
        /// Characters.
        chars: u64,
        /// Whitespace-separated words.
        words: u64,
    },
    /// The server's count; the last one holds.
    Usage(Usage),
    /// The server's own times; likewise.
    Timings(Timings),
    /// Why the text ended.
    FinishReason(String),
    /// `[DONE]`: the reply is whole, whatever the connection does next.
    DoneMarker,
    /// The body ended as HTTP says it should.
    Ended,
    /// It failed.
    Failed {
        /// How.
        kind: ErrorKind,
        /// One line without secrets.
        detail: String,
    },
    /// We gave it up: the level ended.
    Cancelled,
}

/// A request under way.
#[derive(Debug)]
pub struct Timeline {
    record: RequestRecord,
    arrivals: Arrivals,
    socket_waits: SocketWaits,
    /// The newest content chunk of the latest read that had one: the read, the chunk's number, its wait.
    newest: Option<(u64, u32, Option<u64>)>,
    words: u64,
    /// The stamp of the latest event.
    latest: RawNs,
}

impl Timeline {
    /// Starts from a record that has level, stream, request, phase, intended time and request id.
    pub fn new(record: RequestRecord) -> Timeline {
        let latest = record.intended_raw_ns;
        Timeline {
            record,
            arrivals: Arrivals::default(),
            socket_waits: SocketWaits::default(),
            newest: None,
            words: 0,
            latest,
        }
    }

    /// The outcome is known; later events change nothing.
    pub fn is_over(&self) -> bool {
        self.record.outcome != Outcome::Unspecified as i32
    }

    /// Takes an event with its stamp, ns RAW; after the end it changes nothing.
    pub fn on(&mut self, at: RawNs, event: Event) {
        if self.is_over() {
            return;
        }
        self.latest = self.latest.max(at);
        let record = &mut self.record;
        match event {
            Event::Issued => record.issued_raw_ns = Some(at),
            Event::Connected { reused } => {
                record.connected_raw_ns = Some(at);
                record.reused_connection = reused;
            }
            Event::Sent => record.sent_raw_ns = Some(at),
            Event::Headers { status } => {
                record.headers_raw_ns = Some(at);
                record.http_status = Some(u32::from(status));
            }
            Event::Chunk => {
                record.first_chunk_raw_ns = record.first_chunk_raw_ns.or(Some(at));
                record.last_chunk_raw_ns = Some(at);
            }
            Event::Content { chars } => self.content(at, chars),
            Event::WholeText { chars, words } => {
                record.text_len = record.text_len.saturating_add(chars);
                self.words = self.words.saturating_add(words);
            }
            Event::Usage(usage) => self.usage(usage),
            Event::Timings(timings) => self.timings(timings),
            Event::FinishReason(reason) => record.finish_reason = reason,
            Event::DoneMarker => self.complete(at),
            Event::Ended => self.ended(at),
            Event::Failed { kind, detail } => self.end(at, Outcome::Failed, kind.as_str(), detail),
            Event::Cancelled => self.end(at, Outcome::Incomplete, "cancelled", String::new()),
        }
    }

    /// HTTP status, once the head has come.
    pub(crate) fn status(&self) -> Option<u16> {
        self.record.http_status.and_then(|status| u16::try_from(status).ok())
    }

    /// Content chunks so far.
    pub(crate) fn content_chunks(&self) -> u32 {
        self.record.content_chunks
    }

    /// How long the bytes of a read had lain in the socket, where the kernel told: of the read's content chunks it dates the
    /// newest alone, whatever came before it lay there for longer.
    pub(crate) fn waited(&mut self, read: u64, waited_ns: Option<u64>) {
        if self.newest.is_some_and(|(before, ..)| before != read) {
            self.date_newest();
        }
        self.newest = Some((read, self.record.content_chunks, waited_ns));
    }

    /// How long the bytes of the newest chunk, of whatever kind, had lain in the socket.
    pub(crate) fn chunk_waited(&mut self, waited_ns: Option<u64>) {
        if !self.is_over() {
            self.record.last_chunk_wait_ns = waited_ns.and_then(|ns| i64::try_from(ns).ok());
        }
    }

    fn date_newest(&mut self) {
        if let Some((_, number, waited_ns)) = self.newest.take().filter(|_| !self.record.arrivals_dropped) {
            self.socket_waits.set(number, waited_ns);
        }
    }

    /// The longest and the sum of the waits of all reads, ns.
    pub(crate) fn socket_waits(&mut self, waits: Option<(u64, u64)>) {
        let ns = |ns| i64::try_from(ns).unwrap_or(i64::MAX);
        self.record.socket_wait_max_ns = waits.map(|(longest, _)| ns(longest));
        self.record.socket_wait_sum_ns = waits.map(|(_, sum)| ns(sum));
    }

    /// A deliberate pause begins.
    pub(crate) fn pauses(&mut self, from: RawNs) {
        self.record.control_pause_raw_ns = Some(from);
    }

    /// It lasted so long, ns.
    pub(crate) fn has_paused(&mut self, ns: i64) {
        self.record.control_pause_ns = ns;
    }

    /// Our own code took so long to write the request, ns.
    pub(crate) fn encoded(&mut self, ns: i64) {
        self.record.encode_ns = Some(ns.max(0));
    }

    /// Our own code took so long over what a read brought, ns.
    pub(crate) fn decoded(&mut self, ns: i64) {
        let before = self.record.final_decode_ns.replace(ns.max(0));
        let sum = self.record.decode_ns.unwrap_or(0);
        self.record.decode_ns = Some(sum.saturating_add(before.unwrap_or(0)));
    }

    /// The record. A request that nothing ended is incomplete at its latest stamp.
    pub fn into_record(mut self) -> RequestRecord {
        self.on(self.latest, Event::Cancelled);
        self.count_tokens();
        self.date_newest();
        if let Some(from) = self.record.control_pause_raw_ns.filter(|_| self.record.control_pause_ns == 0) {
            // Given up in mid-pause.
            self.record.control_pause_ns = self.record.done_raw_ns.saturating_sub(from).max(0);
        }
        self.record.arrivals = self.arrivals.into_bytes();
        if !self.record.arrivals.is_empty() {
            self.record.socket_waits = self.socket_waits.into_bytes();
        }
        self.record
    }

    fn content(&mut self, at: RawNs, chars: u64) {
        let record = &mut self.record;
        let before = record.last_token_raw_ns;
        let gap = at.saturating_sub(before.unwrap_or(record.intended_raw_ns)).max(0);
        if before.is_some() {
            record.longest_gap_ns = Some(record.longest_gap_ns.unwrap_or(0).max(gap));
        }
        record.first_token_raw_ns = record.first_token_raw_ns.or(Some(at));
        record.last_token_raw_ns = Some(at);
        record.content_chunks = record.content_chunks.saturating_add(1);
        record.text_len = record.text_len.saturating_add(chars);
        self.keep_arrival(gap as u64, chars);
    }

    /// All of a request's arrivals or none: a trace that stops half-way would look like a stream that did.
    fn keep_arrival(&mut self, gap_ns: u64, chars: u64) {
        if self.record.arrivals_dropped {
            return;
        }
        self.arrivals.push(gap_ns, chars);
        if self.arrivals.len() > MAX_ARRIVALS {
            self.arrivals = Arrivals::default();
            self.socket_waits = SocketWaits::default();
            self.record.arrivals_dropped = true;
        }
    }

    fn usage(&mut self, usage: Usage) {
        let record = &mut self.record;
        record.prompt_tokens = usage.prompt_tokens.or(record.prompt_tokens);
        record.cached_tokens = usage.cached_tokens.or(record.cached_tokens);
        if usage.completion_tokens.is_some() {
            record.output_tokens = usage.completion_tokens;
            record.token_source = TokenSource::Usage as i32;
        }
    }

    fn timings(&mut self, timings: Timings) {
        let record = &mut self.record;
        record.server_prefill_ns = timings.prefill_ns.or(record.server_prefill_ns);
        record.server_decode_ns = timings.decode_ns.or(record.server_decode_ns);
        // What `usage` says of the cache comes first: it is the same for every server.
        record.cached_tokens = record.cached_tokens.or(timings.cached_tokens);
    }

    /// A body may end well and still lack the end of the text: a proxy that lost its server ends it so.
    fn ended(&mut self, at: RawNs) {
        if self.record.finish_reason.is_empty() {
            let detail = "the reply ended without [DONE] or a finish_reason".to_owned();
            return self.end(at, Outcome::Failed, ErrorKind::EarlyEnd.as_str(), detail);
        }
        self.complete(at);
    }

    fn complete(&mut self, at: RawNs) {
        match self.record.http_status {
            Some(200..=299) => self.end(at, Outcome::Completed, "", String::new()),
            status => {
                let status = status.map_or("no status".to_owned(), |s| format!("HTTP {s}"));
                self.end(at, Outcome::Failed, ErrorKind::HttpStatus.as_str(), status);
            }
        }
    }

    fn end(&mut self, at: RawNs, outcome: Outcome, kind: &str, detail: String) {
        let record = &mut self.record;
        record.done_raw_ns = at;
        record.outcome = outcome as i32;
        record.error_kind = kind.to_owned();
        record.error_detail = detail;
    }

    /// Without the server's count: chunks of a stream, or words of a whole reply; nothing when there were none.
    fn count_tokens(&mut self) {
        let record = &mut self.record;
        if record.output_tokens.is_some() {
            return;
        }
        let proxies =
            [(u64::from(record.content_chunks), TokenSource::Chunks), (self.words, TokenSource::Words)];
        if let Some((count, source)) = proxies.into_iter().find(|(count, _)| *count > 0) {
            record.output_tokens = Some(count);
            record.token_source = source as i32;
        }
    }
}

/// Time to the first token, ns from `intended`; `None` when there was no token time (failed before, or not streamed).
pub fn ttft_ns(record: &RequestRecord) -> Option<u64> {
    span(record.intended_raw_ns, record.first_token_raw_ns?)
}

/// From `intended` to the end of the reply, ns. Meaningful for completed requests; for others it is when they ended.
pub fn e2e_ns(record: &RequestRecord) -> Option<u64> {
    span(record.intended_raw_ns, record.done_raw_ns)
}

/// Time per output token after the first: (last − first token) / (n − 1), ns; n = output tokens, at least 2. `None`
/// also when all text came in one chunk, which says nothing of the time between tokens.
pub fn tpot_ns(record: &RequestRecord) -> Option<u64> {
    let gaps = record.output_tokens?.checked_sub(1).filter(|&gaps| gaps > 0)?;
    if record.content_chunks < 2 {
        return None;
    }
    Some(span(record.first_token_raw_ns?, record.last_token_raw_ns?)? / gaps)
}

fn span(from: RawNs, to: RawNs) -> Option<u64> {
    u64::try_from(to.checked_sub(from)?).ok()
}

#[cfg(test)]
mod tests;
