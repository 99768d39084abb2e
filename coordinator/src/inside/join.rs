//! One request's time, cut into its parts: its record's stamps by the agent's clock, what its server said of it by the
//! server's, and what lies between the two.

use tailcliff_proto::arrivals;
use tailcliff_proto::v1::RequestRecord;

use super::figures::{How, Part, Parts, Source};
use super::index::Index;
use super::told::Told;
use super::wall::Place;
use crate::clock::Aligned;
use crate::merge::timeline::Timeline;
use crate::stored::Incarnation;

/// The server's durations are of a clock that may run this much, one part in so many, off the raw one.
const RATE_PARTS: i64 = 1_000;

/// A place may lie this much outside of its request and still be its own, ns.
const SLACK_NS: i64 = 1_000_000;

/// A request whose server side is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Join {
    /// What told it.
    pub(crate) source: Source,
    /// Of spans and stamps: which server, a place in the index's names.
    pub(crate) server: Option<usize>,
    /// Together they are the time from intended send to end, where all are known.
    pub(crate) parts: Parts,
    /// How far the parts between two clocks may be off, ns; `None` where they are not known.
    pub(crate) bound_ns: Option<i64>,
    /// Bit i: `Part::ALL[i]` is below 0 by more than can be explained.
    pub(crate) impossible: u32,
    /// The server's stamps on the coordinator's clock.
    pub(crate) arrival: Option<Aligned>,
    /// See above.
    pub(crate) first_token: Option<Aligned>,
    /// See above.
    pub(crate) end: Option<Aligned>,
    /// First token made by the server → in the client's socket, ns.
    pub(crate) delivery_ns: Option<i64>,
    /// How far the front end's length may be off: a wall clock's stamps less durations of a clock that runs at its rate, ns.
    front_bound_ns: i64,
    /// A way between two clocks is not known though both its ends were stamped: the server's stamp has no place on the timeline.
    pub(crate) unplaced: bool,
}

impl Join {
    fn new(source: Source, parts: Parts) -> Self {
        Self {
            source,
            server: None,
            parts,
            bound_ns: None,
            impossible: 0,
            arrival: None,
            first_token: None,
            end: None,
            delivery_ns: None,
            front_bound_ns: 0,
            unplaced: false,
        }
    }

    /// Fills in the server's own parts, of a span that is `whole` long to within `bound_ns`.
    fn serve(&mut self, told: &Told, whole: Option<i64>, bound_ns: i64) {
        let mut put = |part: Part, value: Option<i64>| self.parts[part as usize] = value;
        put(Part::Queue, told.queue_ns);
        put(Part::Prefill, told.prefill_ns);
        put(Part::Decode, told.decode_ns);
        // What was not told is not 0: without it nobody knows what the rest is.
        let Some((queue, prefill)) = told.queue_ns.zip(told.prefill_ns) else { return };
        let engine = queue.saturating_add(prefill);
        let rest = whole
            .zip(told.decode_ns)
            .map(|(whole, decode)| whole.saturating_sub(engine).saturating_sub(decode));
        let before = told.ttft_ns.map(|ttft| ttft.saturating_sub(engine)).or(rest);
        put(Part::FrontIn, before);
        put(Part::FrontOut, rest.zip(before).map(|(rest, before)| rest.saturating_sub(before)));
        let own = engine.saturating_add(told.decode_ns.unwrap_or(0)).max(0);
        self.front_bound_ns = bound_ns.saturating_add(own / RATE_PARTS);
    }

    /// The longer of both ways, ns. Of a wall clock that may be another's nothing is known but that the server had the request
    /// between its sending and its answer: what one way has too much, the other has too little.
    fn ways_ns(&self) -> i64 {
        let ways = [Part::NetworkUp, Part::NetworkDown].map(|part| self.parts[part as usize]);
        ways.into_iter().flatten().map(i64::saturating_abs).max().unwrap_or(0)
    }

    /// The same for its stamps on the coordinator's clock.
    fn widen(&mut self) {
        let by = self.ways_ns();
        for at in [&mut self.arrival, &mut self.first_token, &mut self.end].into_iter().flatten() {
            at.bound_ns = at.bound_ns.saturating_add(by);
        }
    }

    /// Front end before and after the first token together, ns; the engine makes the second token while the front end still
    /// handles the first, so the second part alone may well be below 0.
    pub(crate) fn front_ns(&self) -> Option<i64> {
        let [before, after] = [Part::FrontIn, Part::FrontOut].map(|part| self.parts[part as usize]);
        Some(before?.saturating_add(after?))
    }
}

/// How a source's parts are known.
pub(crate) fn how(source: Source, part: Part) -> How {
    match (source, part) {
        (Source::Reply, Part::Queue | Part::NetworkDown) | (_, Part::FrontOut) => How::Inferred,
        (_, Part::NetworkUp | Part::NetworkDown) => How::BetweenClocks,
        _ => How::Measured,
    }
}

/// Joins a record of agent `of` with what its server said, if it said anything.
pub(crate) fn join(
    index: &Index,
    timeline: &Timeline,
    of: Incarnation,
    record: &RequestRecord,
) -> Option<Join> {
    let client = Client::of(record);
    match index.find(record) {
        Some(told) => Some(by_stamps(index, timeline, of, &client, told)),
        None => by_reply(&client, record),
    }
}

/// The client's own parts and stamps, raw.
struct Client {
    parts: Parts,
    sent: Option<i64>,
    /// First content and last chunk in the client's socket.
    first: Option<i64>,
    last: Option<i64>,
    done: i64,
}

impl Client {
    fn of(record: &RequestRecord) -> Self {
        let mut parts = Parts::default();
        let mut put = |part: Part, from: Option<i64>, to: Option<i64>| {
            parts[part as usize] = from.zip(to).and_then(|(from, to)| to.checked_sub(from));
        };
        let (issued, sent) = (record.issued_raw_ns, record.sent_raw_ns);
        // Of a connection that was there already no stamp need tell.
        let connected = record.connected_raw_ns.or(issued);
        put(Part::SendLag, Some(record.intended_raw_ns), issued);
        put(Part::Connect, issued, connected);
        put(Part::Write, connected, sent);
        // The last chunk of any kind: the token that ends an answer has no text, and what is said with it comes just after.
        put(Part::Read, record.last_chunk_raw_ns, Some(record.done_raw_ns));
        let wait = record.last_chunk_wait_ns.filter(|_| record.last_chunk_raw_ns.is_some());
        parts[Part::SocketWait as usize] = wait;
        let arrived = |read: Option<i64>, wait: Option<i64>| read?.checked_sub(wait.unwrap_or(0));
        Self {
            parts,
            sent,
            first: arrived(record.first_token_raw_ns, first_wait(record)),
            last: arrived(record.last_chunk_raw_ns, wait),
            done: record.done_raw_ns,
        }
    }
}

/// How long the first content had lain in the socket when it was read, where the kernel dated it.
fn first_wait(record: &RequestRecord) -> Option<i64> {
    arrivals::decode_waits(&record.socket_waits).next()?.and_then(|ns| i64::try_from(ns).ok())
}

fn by_stamps(index: &Index, timeline: &Timeline, of: Incarnation, client: &Client, told: &Told) -> Join {
    let clocks = Clocks::of(index, timeline, of, told.server);
    let (arrival, end) = places(index, clocks.as_ref(), client, told);
    let mut join =
        Join { server: Some(told.server), ..Join::new(told.source.unwrap_or(Source::Spans), client.parts) };
    let here = |place: Option<Place>| clocks.as_ref()?.on_client(place?);
    let (from, to) = (here(arrival), here(end));
    let between = |from: Option<i64>, to: Option<i64>| to?.checked_sub(from?);
    let raw = |place: Option<Place>| place.map(|place| place.raw_ns);
    // Without places there is no length either: the wall clock may have stepped in between.
    let whole = between(raw(from), raw(to));
    join.serve(told, whole, from.zip(to).map_or(0, |(from, to)| from.bound_ns.saturating_add(to.bound_ns)));
    join.parts[Part::NetworkUp as usize] = between(client.sent, raw(from));
    join.parts[Part::NetworkDown as usize] = between(raw(to), client.last);
    let is_lost = |part: Part, told: Option<i64>, client: Option<i64>| {
        told.is_some() && client.is_some() && join.parts[part as usize].is_none()
    };
    join.unplaced = is_lost(Part::NetworkUp, told.arrival_unix_ns, client.sent)
        || is_lost(Part::NetworkDown, told.end_unix_ns, client.last);
    join.bound_ns = [from, to].into_iter().flatten().map(|place| place.bound_ns).max();
    if told.is_from_elsewhere {
        join.bound_ns = join.bound_ns.map(|bound| bound.saturating_add(join.ways_ns()));
    }
    let first = from.zip(told.ttft_ns).and_then(|(from, ttft)| from.raw_ns.checked_add(ttft));
    join.delivery_ns = between(first, client.first);
    let first = arrival.zip(told.ttft_ns);
    let first = first.map(|(place, ttft)| Place { raw_ns: place.raw_ns.saturating_add(ttft), ..place });
    let placed = |place: Option<Place>| clocks.as_ref()?.placed(place?);
    (join.arrival, join.first_token, join.end) = (placed(arrival), placed(first), placed(end));
    if told.is_from_elsewhere {
        join.widen();
    }
    join.impossible = impossible(&join);
    join
}

/// The server's arrival and end on its probe's raw clock. Where a step of the wall clock left several places, the one that
/// lies in the request's own time by the client's stamps; when that is not one, none.
fn places(
    index: &Index,
    clocks: Option<&Clocks<'_>>,
    client: &Client,
    told: &Told,
) -> (Option<Place>, Option<Place>) {
    let all = |unix: Option<i64>| unix.map(|unix| index.places(told.server, unix)).unwrap_or_default();
    let fits = |place: &Place| {
        let here = clocks.and_then(|clocks| clocks.on_client(*place));
        let Some((here, sent)) = here.zip(client.sent) else { return true };
        let slack = here.bound_ns.saturating_add(SLACK_NS);
        (sent.saturating_sub(slack)..=client.done.saturating_add(slack)).contains(&here.raw_ns)
    };
    let arrivals = all(told.arrival_unix_ns);
    let arrival = match arrivals.as_slice() {
        [only] => Some(*only),
        several => {
            let mut fitting = several.iter().filter(|place| fits(place));
            fitting.next().copied().filter(|_| fitting.next().is_none())
        }
    };
    let Some(from) = arrival else { return (None, None) };
    // Of an end, the place that makes the length that the server's own clocks know.
    let known = [told.ttft_ns, told.decode_ns].into_iter().flatten().fold(0i64, i64::saturating_add);
    let off = |place: &Place| place.raw_ns.saturating_sub(from.raw_ns).saturating_sub(known).saturating_abs();
    (arrival, all(told.end_unix_ns).into_iter().min_by_key(off))
}

/// The two clocks between which a part lies.
struct Clocks<'a> {
    timeline: &'a Timeline,
    agent: Incarnation,
    probe: Incarnation,
    /// Both are one.
    same: bool,
}

impl<'a> Clocks<'a> {
    fn of(index: &Index, timeline: &'a Timeline, agent: Incarnation, server: usize) -> Option<Self> {
        let probe = index.probe(server)?;
        let same = timeline.domain(agent).is_some() && timeline.domain(agent) == timeline.domain(probe);
        Some(Self { timeline, agent, probe, same })
    }

    /// A moment of the probe's raw clock on the agent's: all parts of a request are told by the clock that measured its whole.
    fn on_client(&self, server: Place) -> Option<Place> {
        if self.same {
            return Some(server);
        }
        let at = self.timeline.place(self.probe, server.raw_ns)?;
        let here = self.timeline.track(self.agent)?.to_node(at.ns)?;
        let clocks = at.bound_ns.saturating_add(here.bound_ns);
        Some(Place { raw_ns: here.ns, bound_ns: clocks.saturating_add(server.bound_ns) })
    }

    fn placed(&self, server: Place) -> Option<Aligned> {
        let at = self.timeline.place(self.probe, server.raw_ns)?;
        Some(Aligned { bound_ns: at.bound_ns.saturating_add(server.bound_ns), ..at })
    }
}

/// Without stamps of the server: its own durations stand between the client's stamps, and what they leave over is the queue
/// before the first token (the way there and back, and the front end, with it) and the way down after it.
fn by_reply(client: &Client, record: &RequestRecord) -> Option<Join> {
    let (prefill, decode) = (record.server_prefill_ns, record.server_decode_ns);
    prefill.or(decode)?;
    let mut parts = client.parts;
    let between =
        |from: Option<i64>, to: Option<i64>, less: Option<i64>| to?.checked_sub(from?)?.checked_sub(less?);
    parts[Part::Prefill as usize] = prefill;
    parts[Part::Decode as usize] = decode;
    parts[Part::Queue as usize] = between(client.sent, client.first, prefill);
    parts[Part::NetworkDown as usize] = between(client.first, client.last, decode);
    let mut join = Join::new(Source::Reply, parts);
    join.impossible = impossible(&join);
    Some(join)
}

fn impossible(join: &Join) -> u32 {
    let below = |part: Part| {
        let bound = match how(join.source, part) {
            How::BetweenClocks => join.bound_ns.unwrap_or(i64::MAX),
            _ if part == Part::FrontOut => join.front_bound_ns,
            _ => 0,
        };
        let value = match part {
            // Tokens after the first may be quicker on their way than it was.
            Part::NetworkDown if join.source == Source::Reply => return false,
            // Only the whole front end is known to take no less than 0.
            Part::FrontIn => None,
            Part::FrontOut => join.front_ns(),
            part => join.parts[part as usize],
        };
        value.is_some_and(|ns| ns < -bound)
    };
    Part::ALL.iter().enumerate().filter(|(_, part)| below(**part)).fold(0, |mask, (i, _)| mask | 1 << i)
}
