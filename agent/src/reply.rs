//! One reply on its way in: from pushed parts of HTTP to events of the request's timeline.

use std::time::Duration;

use tailcliff_proto::clock::{HostClock, RawNs};

use crate::delta::{self, Delta, Reader};
use crate::failure::{ErrorKind, Failure};
use crate::http1::Head;
use crate::socket::Arrival;
use crate::sse;
use crate::target::Target;
use crate::timeline::{Event, Timeline};

/// Bytes that a reply which is not streamed may have.
pub(crate) const MAX_REPLY: usize = 16 << 20;
/// Bytes of an error reply that are read.
const MAX_ERROR: usize = 64 << 10;
/// Bytes of a list of models.
pub(crate) const MAX_LIST: usize = 1 << 20;
/// Characters of a finish reason, and of a payload that is no JSON, that are kept.
const MAX_REASON: usize = 64;
/// After `[DONE]` the body's own end is awaited this long, so that the connection can serve again.
pub(crate) const DRAIN: Duration = Duration::from_millis(100);

/// What a reply said beside its record.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The `server` header.
    pub(crate) server: String,
    /// The reply announced that the connection ends with it.
    pub(crate) said_close: bool,
}

#[derive(Debug)]
enum Mode {
    /// No head yet.
    Waiting,
    /// An event stream; true once it held an event.
    Stream(sse::Parser, bool),
    /// One JSON object.
    Whole(Vec<u8>),
    /// A status that is no success, and its body.
    Refusal(u16, Vec<u8>),
    /// A success that is no event stream though one was asked for.
    NotAStream(String, Vec<u8>),
    /// Bytes for whoever asked for them as they are.
    Plain(Vec<u8>),
}

/// Reads one reply into a timeline.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    target: &'a Target,
    timeline: &'a mut Timeline,
    deltas: &'a mut Reader,
    seen: Seen,
    mode: Mode,
    /// What we think of the reply once its body is all there.
    verdict: Option<Failure>,
    /// The connection was a reused one, and not a byte of the reply has come.
    may_be_stale: bool,
    times_code: bool,
    handled_until: RawNs,
    was_over: bool,
    is_plain: bool,
    control_pause: Option<Duration>,
}

impl<'a> Reply<'a> {
    /// On a connection that is a `reused` one or not.
    pub(crate) fn new(
        target: &'a Target,
        timeline: &'a mut Timeline,
        deltas: &'a mut Reader,
        reused: bool,
        times_code: bool,
    ) -> Reply<'a> {
        let (seen, mode) = (Seen::default(), Mode::Waiting);
        Reply {
            target,
            timeline,
            deltas,
            seen,
            mode,
            verdict: None,
            may_be_stale: reused,
            times_code,
            handled_until: 0,
            was_over: false,
            is_plain: false,
            control_pause: None,
        }
    }

    /// Keeps the body as it is, whatever it says.
    pub(crate) fn plain(mut self) -> Reply<'a> {
        self.is_plain = true;
        self
    }

    /// The status' class was a success, and the body.
    pub(crate) fn into_plain(self) -> Option<Vec<u8>> {
        match self.mode {
            Mode::Plain(body) => Some(body),
            _ => None,
        }
    }

    pub(crate) fn into_seen(self) -> Seen {
        self.seen
    }

    /// Its head has come.
    pub(crate) fn has_begun(&self) -> bool {
        !matches!(self.mode, Mode::Waiting)
    }

    /// It said all it has to say; only the end of its framing may be missing.
    pub(crate) fn is_over(&self) -> bool {
        self.timeline.is_over()
    }

    pub(crate) fn has_sent(&mut self, at: Option<RawNs>) {
        if let Some(at) = at {
            self.timeline.on(at, Event::Sent);
        }
    }

    /// Nobody shall look at the reply for so long after the send.
    pub(crate) fn pause_for(&mut self, control: Option<Duration>) {
        self.control_pause = control;
    }

    /// That pause: what comes meanwhile stays in the socket, where the kernel stamps it.
    pub(crate) async fn pause(&mut self) {
        let Some(length) = self.control_pause else { return };
        let from = HostClock.now();
        self.timeline.pauses(from);
        tokio::time::sleep(length).await;
        self.timeline.has_paused(HostClock.now() - from);
    }

    /// Now, where the time of our own code is taken.
    pub(crate) fn encoding_begins(&self) -> Option<RawNs> {
        self.times_code.then(|| HostClock.now())
    }

    pub(crate) fn encoding_ends(&mut self, begun: Option<RawNs>) {
        if let Some(begun) = begun {
            self.timeline.encoded(HostClock.now() - begun);
        }
    }

    /// What a read brought has been taken in.
    pub(crate) fn has_handled(&mut self, arrival: Arrival) {
        self.may_be_stale = false;
        if self.times_code && !self.was_over {
            let now = HostClock.now();
            // One read may be handed out in several pieces, each of which is counted from the end of the one before.
            self.timeline.decoded(now - arrival.at.max(self.handled_until));
            self.handled_until = now;
            // What follows the reply's own end is no part of it.
            self.was_over = self.timeline.is_over();
        }
    }

    pub(crate) fn head(&mut self, head: Head<'_>, arrival: Arrival) -> Result<(), Failure> {
        self.timeline.on(arrival.at, Event::Headers { status: head.status });
        self.seen = Seen { server: head.server.to_owned(), said_close: head.says_close };
        let media = head.content_type;
        self.mode = match head.status {
            200..=299 if self.is_plain => Mode::Plain(Vec::new()),
            200..=299 if !self.target.streaming() => Mode::Whole(Vec::new()),
            200..=299 if ["application/json", "text/html"].iter().any(|not| media.starts_with(not)) => {
                Mode::NotAStream(media.to_owned(), Vec::new())
            }
            200..=299 => Mode::Stream(sse::Parser::new(), false),
            status => Mode::Refusal(status, Vec::new()),
        };
        Ok(())
    }

    pub(crate) fn body(&mut self, bytes: &[u8], arrival: Arrival) -> Result<(), Failure> {
        self.timeline.on(arrival.at, Event::Chunk);
        self.timeline.chunk_waited(arrival.waited_ns);
        match &mut self.mode {
            Mode::Waiting => Ok(()),
            Mode::Stream(..) => self.stream(bytes, arrival),
            Mode::Whole(all) => keep(all, bytes, MAX_REPLY),
            Mode::Plain(all) => keep(all, bytes, MAX_LIST),
            Mode::Refusal(_, all) | Mode::NotAStream(_, all) => {
                let kept = keep(all, bytes, MAX_ERROR);
                kept.map_err(|_| Failure { keep: false, ..self.judge() })
            }
        }
    }

    fn stream(&mut self, bytes: &[u8], arrival: Arrival) -> Result<(), Failure> {
        let Mode::Stream(parser, any) = &mut self.mode else { return Ok(()) };
        let (timeline, deltas, target) = (&mut *self.timeline, &mut *self.deltas, self.target);
        let first = timeline.content_chunks();
        let mut failure = None;
        let fed = parser.feed(bytes, |payload| {
            *any = true;
            if failure.is_none() && !timeline.is_over() {
                failure = take_payload(payload, arrival.at, timeline, deltas, target).err();
            }
        });
        if timeline.content_chunks() > first {
            timeline.waited(arrival.read, arrival.waited_ns);
        }
        match failure {
            Some(failure) => Err(failure),
            None => fed.map_err(Failure::malformed),
        }
    }

    /// The body is whole.
    pub(crate) fn end(&mut self, arrival: Arrival) -> Result<(), Failure> {
        match &mut self.mode {
            Mode::Stream(_, false) => {
                Err(Failure::malformed("the reply to a streamed request held no event"))
            }
            Mode::Stream(_, true) => {
                self.timeline.on(arrival.at, Event::Ended);
                Ok(())
            }
            Mode::Whole(all) => {
                let all = std::mem::take(all);
                self.whole(&all, arrival.at)
            }
            Mode::Refusal(..) | Mode::NotAStream(..) => {
                // Told when the exchange is over, so that its connection is kept.
                self.verdict = Some(self.judge());
                Ok(())
            }
            Mode::Waiting | Mode::Plain(_) => Ok(()),
        }
    }

    /// What the whole reply was, if it was no answer.
    pub(crate) fn take_verdict(&mut self) -> Option<Failure> {
        self.verdict.take()
    }

    /// The connection ended before the reply did: the failure, or nothing when it had said all.
    pub(crate) fn early_end(&mut self, why: &str) -> Result<bool, Failure> {
        if self.is_over() {
            return Ok(false);
        }
        Err(match (&self.mode, self.may_be_stale) {
            (Mode::Waiting, true) => {
                Failure::new(ErrorKind::StaleConnection, format!("failed to get a reply: {why}"))
            }
            (Mode::Waiting, false) => {
                Failure::new(ErrorKind::EarlyEnd, format!("failed to get a reply: {why}"))
            }
            (Mode::Refusal(..) | Mode::NotAStream(..), _) => Failure { keep: false, ..self.judge() },
            _ => Failure::new(ErrorKind::EarlyEnd, format!("failed to read the reply to its end: {why}")),
        })
    }

    /// What the server meant by a reply that is no answer.
    fn judge(&self) -> Failure {
        match &self.mode {
            Mode::Refusal(status, body) => {
                let message = delta::error_message(body);
                let message = message.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
                let colon = if message.is_empty() { "" } else { ": " };
                let detail = format!("HTTP {status}{colon}{message}");
                Failure { keep: true, ..Failure::new(ErrorKind::HttpStatus, detail) }
            }
            Mode::NotAStream(media, body) => match delta::error_message(body) {
                Some(message) => Failure::new(ErrorKind::ErrorEvent, message),
                None => Failure::malformed(format!("asked for a stream, the reply is {media}")),
            },
            _ => Failure::malformed("the reply is not what was asked for"),
        }
    }

    fn whole(&mut self, bytes: &[u8], at: RawNs) -> Result<(), Failure> {
        let delta = self.deltas.read_whole(bytes).map_err(Failure::malformed)?;
        refuse_error(&delta)?;
        self.timeline.on(at, Event::WholeText { chars: delta.chars(), words: delta.words });
        note_end(delta, at, self.timeline);
        self.timeline.on(at, Event::DoneMarker);
        Ok(())
    }
}

fn keep(all: &mut Vec<u8>, bytes: &[u8], limit: usize) -> Result<(), Failure> {
    if all.len() + bytes.len() > limit {
        return Err(Failure::malformed(format!("the reply is larger than {limit} bytes")));
    }
    all.extend_from_slice(bytes);
    Ok(())
}

fn take_payload(
    payload: &[u8],
    at: RawNs,
    timeline: &mut Timeline,
    deltas: &mut Reader,
    target: &Target,
) -> Result<(), Failure> {
    if payload.trim_ascii().is_empty() {
        return Ok(());
    }
    let delta = deltas.read(payload).map_err(|e| {
        // Cut after redaction: half a key is a leak too.
        let said = target.redact(&String::from_utf8_lossy(payload));
        let said: String = said.chars().take(MAX_REASON).collect();
        Failure::malformed(format!("{e}: {said}"))
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
        Some(message) => Err(Failure::new(ErrorKind::ErrorEvent, message)),
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
    if let Some(timings) = delta.timings {
        timeline.on(at, Event::Timings(timings));
    }
}
