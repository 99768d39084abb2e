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
mod tests {
    use proptest::prelude::*;
    use tailcliff_proto::arrivals;

    use super::*;

    const MS: i64 = 1_000_000;

    fn run(events: &[(i64, Event)]) -> RequestRecord {
        let mut timeline = Timeline::new(RequestRecord { intended_raw_ns: 1000, ..Default::default() });
        events.iter().for_each(|(at, event)| timeline.on(*at, event.clone()));
        timeline.into_record()
    }

    fn ok() -> (i64, Event) {
        (1500, Event::Headers { status: 200 })
    }

    fn text(at: i64) -> (i64, Event) {
        (at, Event::Content { chars: 3 })
    }

    fn usage(prompt: u64, completion: u64) -> Event {
        let (prompt_tokens, completion_tokens) = (Some(prompt), Some(completion));
        Event::Usage(Usage { prompt_tokens, completion_tokens, cached_tokens: None })
    }

    fn finish(at: i64) -> (i64, Event) {
        (at, Event::FinishReason("stop".to_owned()))
    }

    fn outcome(record: &RequestRecord) -> (Outcome, &str) {
        (Outcome::try_from(record.outcome).unwrap(), &record.error_kind)
    }

    fn gaps(record: &RequestRecord) -> Vec<(u64, u64)> {
        arrivals::decode(&record.arrivals).map(|a| a.map(|a| (a.gap_ns, a.chars)).unwrap()).collect()
    }

    #[test]
    fn a_whole_life() {
        let record = run(&[
            (1010, Event::Issued),
            (1020, Event::Connected { reused: true }),
            (1030, Event::Sent),
            ok(),
            (1600, Event::Chunk),
            (1700, Event::Chunk),
            text(2000),
            text(2400),
            text(2500),
            finish(2500),
            (2600, usage(9, 4)),
            (2700, Event::DoneMarker),
        ]);
        assert_eq!(outcome(&record), (Outcome::Completed, ""));
        let stamps =
            [record.issued_raw_ns, record.connected_raw_ns, record.sent_raw_ns, record.headers_raw_ns];
        assert_eq!(stamps, [Some(1010), Some(1020), Some(1030), Some(1500)]);
        assert_eq!((record.first_chunk_raw_ns, record.done_raw_ns), (Some(1600), 2700));
        assert_eq!((record.first_token_raw_ns, record.last_token_raw_ns), (Some(2000), Some(2500)));
        assert!(record.reused_connection && record.http_status == Some(200));
        assert_eq!((record.prompt_tokens, record.output_tokens), (Some(9), Some(4)));
        assert_eq!(record.token_source(), TokenSource::Usage);
        assert_eq!((record.content_chunks, record.text_len), (3, 9));
        assert_eq!(gaps(&record), [(1000, 3), (400, 3), (100, 3)]);
        assert_eq!(record.longest_gap_ns, Some(400));
        assert_eq!(
            (ttft_ns(&record), e2e_ns(&record), tpot_ns(&record)),
            (Some(1000), Some(1700), Some(166))
        );
    }

    #[test]
    fn a_stall_is_one_gap() {
        let steady = (1..=20).map(|i| text(i * 10 * MS));
        let after = (0..20).map(|i| text(200 * MS + 724 * MS + i * 10 * MS));
        let record = run(&steady.chain(after).collect::<Vec<_>>());
        assert_eq!(record.longest_gap_ns, Some(724 * MS));
        let long: Vec<_> = gaps(&record).into_iter().filter(|g| g.0 > 10_000_000).collect();
        assert_eq!(long, [(724_000_000, 3)]);
    }

    #[test]
    fn absent_is_none() {
        let record = run(&[(1010, Event::Issued), (1020, Event::Cancelled)]);
        assert_eq!(outcome(&record), (Outcome::Incomplete, "cancelled"));
        assert_eq!(
            (record.sent_raw_ns, record.first_token_raw_ns, record.longest_gap_ns),
            (None, None, None)
        );
        assert_eq!((record.output_tokens, record.http_status, record.prompt_tokens), (None, None, None));
        assert_eq!((ttft_ns(&record), tpot_ns(&record)), (None, None));
        let one = run(&[ok(), text(2000), finish(2000), (2000, usage(1, 1)), (2100, Event::DoneMarker)]);
        assert_eq!((one.longest_gap_ns, tpot_ns(&one), ttft_ns(&one)), (None, None, Some(1000)));
        let in_one_chunk = run(&[ok(), text(2000), finish(2000), (2000, usage(1, 50)), (2100, Event::Ended)]);
        assert_eq!(tpot_ns(&in_one_chunk), None);
    }

    #[test]
    fn completed_needs_2xx_and_the_end_of_the_text() {
        let ends = |status, events: Vec<(i64, Event)>| {
            let mut all = vec![(1500, Event::Headers { status }), text(2000)];
            all.extend(events);
            let record = run(&all);
            (outcome(&record).0, record.error_kind)
        };
        let (marker, ended) = ((3000, Event::DoneMarker), (3000, Event::Ended));
        assert_eq!(ends(200, vec![marker.clone()]), (Outcome::Completed, String::new()));
        assert_eq!(ends(200, vec![finish(2500), ended.clone()]), (Outcome::Completed, String::new()));
        assert_eq!(ends(200, vec![ended.clone()]), (Outcome::Failed, "early_end".to_owned()));
        assert_eq!(ends(500, vec![finish(2500), ended]), (Outcome::Failed, "http_status".to_owned()));
        assert_eq!(ends(302, vec![marker]), (Outcome::Failed, "http_status".to_owned()));
        assert_eq!(ends(200, vec![finish(2500)]), (Outcome::Incomplete, "cancelled".to_owned()));
    }

    #[test]
    fn the_end_is_the_end() {
        let failed = Event::Failed { kind: ErrorKind::ErrorEvent, detail: "oom".to_owned() };
        let record = run(&[ok(), text(2000), (2100, failed), text(2200), (2300, Event::DoneMarker)]);
        assert_eq!(outcome(&record), (Outcome::Failed, "error_event"));
        assert_eq!((record.content_chunks, record.done_raw_ns, &*record.error_detail), (1, 2100, "oom"));
    }

    #[test]
    fn the_servers_own_times_are_kept_and_usage_has_the_first_word_on_the_cache() {
        let timings = |prefill_ns, decode_ns, cached_tokens| {
            (5, Event::Timings(Timings { prefill_ns, decode_ns, cached_tokens }))
        };
        let told = |events: &[(i64, Event)]| {
            let record = run(events);
            (record.server_prefill_ns, record.server_decode_ns, record.cached_tokens)
        };
        let cached = (5, Event::Usage(Usage { cached_tokens: Some(2), ..Usage::default() }));
        assert_eq!(told(&[ok(), text(2), (3, usage(1, 1))]), (None, None, None));
        let (early, late) = (timings(Some(7), Some(1), Some(9)), timings(None, Some(4), Some(9)));
        assert_eq!(told(&[ok(), early.clone(), late.clone()]), (Some(7), Some(4), Some(9)));
        for order in [[early.clone(), cached.clone()], [cached, early]] {
            assert_eq!(told(&order).2, Some(2));
        }
    }

    #[test]
    fn where_tokens_come_from() {
        let whole = Event::WholeText { chars: 40, words: 7 };
        let tokens = |events: &[(i64, Event)]| {
            let record = run(events);
            (record.output_tokens, record.token_source(), record.text_len, record.first_token_raw_ns)
        };
        assert_eq!(tokens(&[ok(), text(2), text(3)]).0, Some(2));
        assert_eq!(tokens(&[ok(), text(2), text(3)]).1, TokenSource::Chunks);
        let repeated = [ok(), text(2), (2, usage(3, 1)), text(3), (3, usage(3, 5))];
        assert_eq!((tokens(&repeated).0, tokens(&repeated).1), (Some(5), TokenSource::Usage));
        assert_eq!(tokens(&[ok(), (9, whole.clone())]), (Some(7), TokenSource::Words, 40, None));
        assert_eq!(tokens(&[ok(), (9, whole), (9, usage(1, 10))]).0, Some(10));
        assert_eq!(tokens(&[ok()]).1, TokenSource::Unspecified);
    }

    #[test]
    fn a_trace_that_is_too_long_is_dropped_whole_and_says_so() {
        let record = run(&(0..MAX_ARRIVALS as i64).map(|i| text(1000 + i)).collect::<Vec<_>>());
        assert!(record.arrivals_dropped && record.arrivals.is_empty());
        assert_eq!((record.content_chunks as usize, record.longest_gap_ns), (MAX_ARRIVALS, Some(1)));
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            1 => Just(Event::Issued),
            1 => any::<bool>().prop_map(|reused| Event::Connected { reused }),
            1 => Just(Event::Sent),
            1 => (100u16..600).prop_map(|status| Event::Headers { status }),
            1 => Just(Event::Chunk),
            8 => (1u64..99).prop_map(|chars| Event::Content { chars }),
            1 => any::<(Option<u64>, Option<u64>)>().prop_map(|(prompt_tokens, completion_tokens)| {
                Event::Usage(Usage { prompt_tokens, completion_tokens, cached_tokens: None })
            }),
            1 => Just(Event::FinishReason("stop".to_owned())),
            1 => Just(Event::DoneMarker),
            1 => Just(Event::Ended),
            1 => Just(Event::Failed { kind: ErrorKind::EarlyEnd, detail: String::new() }),
            1 => Just(Event::Cancelled),
        ]
    }

    proptest! {
        #[test]
        fn any_order_of_events_gives_a_record_that_adds_up(
            mut events in proptest::collection::vec((any::<i64>(), event()), 0..40),
            sorted: bool,
        ) {
            if sorted {
                events.iter_mut().for_each(|e| e.0 = e.0.rem_euclid(1 << 40));
                events.sort_by_key(|e| e.0);
            }
            let record = run(&events);
            let gaps = gaps(&record);
            prop_assert_ne!(record.outcome(), Outcome::Unspecified);
            prop_assert_eq!(gaps.len(), record.content_chunks as usize);
            prop_assert_eq!(gaps.iter().map(|g| g.1).sum::<u64>(), record.text_len);
            let longest = gaps.iter().skip(1).map(|g| g.0 as i64).max();
            prop_assert_eq!(longest, record.longest_gap_ns);
            prop_assert_eq!(record.first_token_raw_ns.is_some(), record.content_chunks > 0);
            prop_assert_eq!(record.outcome() == Outcome::Completed, record.error_kind.is_empty());
            let _ = (ttft_ns(&record), e2e_ns(&record), tpot_ns(&record));
            if sorted && record.content_chunks > 0 && record.first_token_raw_ns >= Some(1000) {
                let total: u64 = gaps.iter().map(|g| g.0).sum();
                prop_assert_eq!(Some(total), span(1000, record.last_token_raw_ns.unwrap()));
            }
        }
    }
}
