//! What servers said of single requests, in one form whatever the stack: spans of vLLM and SGLang, lines of a file of stamps.

use std::collections::HashMap;

use tailcliff_proto::trace_context::TraceContext;
use tailcliff_proto::v1::{ServerSpan, ServerStamps};

use super::figures::Source;

/// One request as its server saw it; times of its wall clock, durations of clocks of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) source: Option<Source>,
    /// Which server: a place in the index's list of names.
    pub(crate) server: usize,
    pub(crate) arrival_unix_ns: Option<i64>,
    pub(crate) end_unix_ns: Option<i64>,
    pub(crate) ttft_ns: Option<i64>,
    pub(crate) queue_ns: Option<i64>,
    pub(crate) prefill_ns: Option<i64>,
    pub(crate) decode_ns: Option<i64>,
    /// It came from another address than the probe's host: whose wall clock its stamps are of, nobody knows.
    pub(crate) is_from_elsewhere: bool,
    /// Spans or lines that told of this request, and servers' answers among them.
    pub(crate) spans: u32,
    pub(crate) times: u32,
    /// Of the span: an exporter that tries again sends it twice.
    span_id: u64,
}

/// Pieces of a request's queueing that are told apart; more are left out.
const MOST_PIECES: usize = 64;

/// SGLang's slices of one request, ns of its wall clock; a request has about ten.
#[derive(Clone, Debug)]
pub(crate) struct Slices {
    server: usize,
    is_from_elsewhere: bool,
    spans: u32,
    from_ns: i64,
    to_ns: i64,
    /// Each time that it waited, once.
    queue: Vec<(i64, i64)>,
    /// (begin, end) of all prefill, and of all decoding.
    prefill: Option<(i64, i64)>,
    decode: Option<(i64, i64)>,
}

/// Longest time that a request's part is believed to take, ns: a day.
const LONGEST_NS: i64 = 86_400_000_000_000;

/// A request's own id: as we sent it, without what vLLM puts around it.
fn request_id(told: &str) -> Option<&str> {
    let id = match (told.strip_prefix("chatcmpl-"), told.strip_prefix("cmpl-")) {
        (Some(id), _) => id,
        // One request of /v1/completions may ask for several answers, numbered.
        (None, Some(id)) => id.rsplit_once('-').map_or(id, |(id, _number)| id),
        (None, None) => told,
    };
    Some(id).filter(|id| !id.is_empty())
}

/// Both keys of a span: by the trace that we began, and by the request's id, where a proxy began another.
pub(crate) fn keys_of_span(span: &ServerSpan) -> impl Iterator<Item = u128> {
    let trace = trace(span);
    let by_id = request_id(&span.request_id).map(|id| TraceContext::of(id).trace_id);
    trace.into_iter().chain(by_id.filter(|id| Some(*id) != trace))
}

/// Of a span that tells of a whole request, as vLLM's `llm_request`.
pub(crate) fn of_span(span: &ServerSpan, server: usize) -> Option<Told> {
    let durations = [span.queue_ns, span.prefill_ns, span.decode_ns, span.ttft_ns, span.e2e_ns];
    if span.name != "llm_request" && durations.iter().all(Option::is_none) {
        return None;
    }
    let (from, to) = (unix(span.start_unix_ns)?, unix(span.end_unix_ns)?);
    Some(Told {
        source: Some(Source::Spans),
        server,
        arrival_unix_ns: Some(from),
        end_unix_ns: Some(to),
        ttft_ns: sane(span.ttft_ns),
        queue_ns: sane(span.queue_ns),
        prefill_ns: sane(span.prefill_ns),
        decode_ns: sane(span.decode_ns),
        is_from_elsewhere: span.from_elsewhere,
        spans: 1,
        times: 1,
        span_id: span_id(span),
    })
}

fn span_id(span: &ServerSpan) -> u64 {
    <[u8; 8]>::try_from(span.span_id.as_slice()).map_or(0, u64::from_be_bytes)
}

/// Of a line of stamps.
pub(crate) fn of_stamps(stamps: &ServerStamps, server: usize) -> Option<(u128, Told)> {
    let id = request_id(&stamps.request_id)?;
    let at = |stamp: Option<u64>| stamp.and_then(unix);
    let (enqueue, first) = (at(stamps.enqueue_unix_ns), at(stamps.first_token_unix_ns));
    let between = |from: Option<i64>, to: Option<i64>| sane(Some(to?.checked_sub(from?)?));
    // What there is between the queue and the work on the prompt is the front end's: what TTFT has beyond the two.
    let began = at(stamps.infer_start_unix_ns).or(at(stamps.dequeue_unix_ns));
    let told = Told {
        source: Some(Source::Stamps),
        server,
        arrival_unix_ns: enqueue,
        end_unix_ns: at(stamps.last_token_unix_ns),
        ttft_ns: between(enqueue, first),
        queue_ns: between(enqueue, at(stamps.dequeue_unix_ns).or(began)),
        prefill_ns: between(began, first),
        decode_ns: between(first, at(stamps.last_token_unix_ns)),
        spans: 1,
        times: 1,
        ..Told::default()
    };
    Some((TraceContext::of(id).trace_id, told))
}

/// A span, or a line, that was sent twice says nothing new.
pub(crate) fn is_repeat(a: &Told, b: &Told) -> bool {
    let same = |told: &Told| Told { spans: 0, times: 0, ..*told };
    if a.span_id != 0 { a.span_id == b.span_id && a.server == b.server } else { same(a) == same(b) }
}

/// Two words on one request: who ended last answered, be it one of several servers or of several answers. A line that goes on
/// where another of its server left off is the same answer.
pub(crate) fn newer(known: &Told, new: &Told) -> Told {
    let goes_on = new.source == Some(Source::Stamps)
        && (known.server, known.arrival_unix_ns) == (new.server, new.arrival_unix_ns);
    let last = if new.end_unix_ns > known.end_unix_ns { new } else { known };
    let times = if goes_on { known.times } else { known.times.saturating_add(new.times) };
    Told { spans: known.spans.saturating_add(new.spans), times, ..*last }
}

fn sane(ns: Option<i64>) -> Option<i64> {
    ns.filter(|ns| (-LONGEST_NS..=LONGEST_NS).contains(ns))
}

/// Stamps of the epoch's first year are of no clock that was ever set.
fn unix(ns: u64) -> Option<i64> {
    i64::try_from(ns).ok().filter(|ns| (365 * LONGEST_NS..i64::MAX / 4).contains(ns))
}

/// What a name of SGLang's slices stands for (its `srt/tracing` and `observability/req_time_stats`, read there, not seen on a
/// server); what is none of these only widens the request's whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slice {
    Queue,
    Prefill,
    Decode,
    Whole,
}

fn slice(name: &str) -> Option<Slice> {
    match name {
        "prefill_waiting" => Some(Slice::Queue),
        "prefill_forward" | "chunked_prefill" => Some(Slice::Prefill),
        "decode_loop" | "decode_forward" => Some(Slice::Decode),
        "tokenize" | "dispatch" | "dc_dispatch" | "request_process" | "decode_waiting" => Some(Slice::Whole),
        name if name.contains(" Req ") || name.starts_with("Req ") || name.starts_with("Bootstrap Room ") => {
            Some(Slice::Whole)
        }
        _ => None,
    }
}

/// Adds a slice to what is known of its request: those name it by the trace alone, since only one of them has an id, cut short.
pub(crate) fn add_slice(all: &mut HashMap<u128, Slices>, span: &ServerSpan, server: usize) {
    let (Some(kind), Some(from), Some(to), Some(key)) =
        (slice(&span.name), unix(span.start_unix_ns), unix(span.end_unix_ns), trace(span))
    else {
        return;
    };
    let slices = all.entry(key).or_insert_with(|| Slices {
        server,
        is_from_elsewhere: span.from_elsewhere,
        spans: 0,
        from_ns: from,
        to_ns: to,
        queue: Vec::new(),
        prefill: None,
        decode: None,
    });
    slices.spans = slices.spans.saturating_add(1);
    (slices.from_ns, slices.to_ns) = (slices.from_ns.min(from), slices.to_ns.max(to));
    let widen = |span: &mut Option<(i64, i64)>| {
        *span = Some(span.map_or((from, to), |(a, b)| (a.min(from), b.max(to))));
    };
    match kind {
        // What an exporter sends again is no second wait.
        Slice::Queue if slices.queue.len() >= MOST_PIECES || slices.queue.contains(&(from, to)) => {}
        Slice::Queue => slices.queue.push((from, to)),
        Slice::Prefill => widen(&mut slices.prefill),
        Slice::Decode => widen(&mut slices.decode),
        Slice::Whole => {}
    }
}

/// The trace that a span belongs to.
fn trace(span: &ServerSpan) -> Option<u128> {
    let id: [u8; 16] = span.trace_id.as_slice().try_into().ok()?;
    Some(u128::from_be_bytes(id)).filter(|id| *id != 0)
}

impl Slices {
    /// As one.
    pub(crate) fn told(&self) -> Told {
        let first = self.prefill.map(|(_, end)| end);
        let last = self.decode.map(|(_, end)| end).or(first);
        let waited = || self.queue.iter().fold(0i64, |sum, (from, to)| sum.saturating_add(to - from));
        Told {
            source: Some(Source::Spans),
            server: self.server,
            is_from_elsewhere: self.is_from_elsewhere,
            spans: self.spans,
            times: 1,
            arrival_unix_ns: Some(self.from_ns),
            end_unix_ns: Some(self.to_ns),
            ttft_ns: sane(first.map(|first| first - self.from_ns)),
            queue_ns: sane((!self.queue.is_empty()).then(waited)),
            prefill_ns: sane(self.prefill.map(|(from, to)| to - from)),
            decode_ns: sane(first.zip(last).map(|(first, last)| last - first)),
            ..Told::default()
        }
    }
}
