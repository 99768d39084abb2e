//! Where a stream paused: gaps between its chunks that are long for this very stream, and first tokens that are late for
//! their level.

use std::collections::BTreeSet;

use tailcliff_proto::arrivals;
use tailcliff_proto::v1::{self, Outcome};

use crate::levels::Level;
use crate::merge::record;
use crate::merge::tally::of_kind;
use crate::merge::timeline::Timeline;
use crate::stored::{Incarnation, RunData};

use super::burst::Burst;
use super::own::{Own, Pace};
use super::spans::Spans;
use super::{Asking, Rule, each_record, is_sane, place};

/// A stream with fewer other gaps has no median of its own.
const OWN_MEDIAN_FROM: usize = 4;
/// Chunks of one read lie closer than this, ns.
pub(super) const ONE_READ_NS: i64 = 20_000;

/// Between two chunks, or before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Between two chunks of content; also after the last of one that never ended as it should.
    Gap,
    /// Before the first token.
    Ttft,
}

impl Kind {
    /// The name in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Gap => "gap",
            Kind::Ttft => "ttft",
        }
    }
}

/// A pause in one stream, ns. `_raw_ns` are stamps of its agent, the others of the coordinator.
#[derive(Clone, Debug)]
pub struct Gap {
    /// Its agent.
    pub of: Incarnation,
    /// The level's serial number.
    pub level: u32,
    /// Its stream.
    pub stream: u32,
    /// The event loop that drove it.
    pub shard: u32,
    /// Its number within the stream.
    pub request: u64,
    /// The header that the server saw.
    pub request_id: String,
    /// Which kind.
    pub kind: Kind,
    /// Chunk that ended it, from 0; where it never ended, the number of chunks that had come.
    pub chunk: u32,
    /// It ended with the request and not with a chunk.
    pub unended: bool,
    /// The arrival before it, or what TTFT counts from.
    pub from_raw_ns: i64,
    /// The arrival after it.
    pub to_raw_ns: i64,
    /// `from` on the coordinator's clock.
    pub from_ns: i64,
    /// `to` on the coordinator's clock.
    pub to_ns: i64,
    /// How far both may be off there.
    pub bound_ns: i64,
    /// The stream's own median gap, or its level's; `None` where there is neither.
    pub median_ns: Option<i64>,
    /// Of a late first token: when our own part ended. Connecting is the network's and the server's time.
    pub handed_raw_ns: Option<i64>,
    /// How long the bytes that ended it had lain in the socket, where one chunk came alone and so was dated.
    pub socket_wait_ns: Option<i64>,
    /// What came at once after it.
    pub burst: Option<Burst>,
    /// Pauses on purpose within this request.
    pub control_raw_ns: Option<(i64, i64)>,
    /// What the server's own record says of this request.
    pub own: Option<Own>,
}

impl Gap {
    /// How long, by the agent's own clock, ns.
    pub fn length_ns(&self) -> i64 {
        self.to_raw_ns.saturating_sub(self.from_raw_ns)
    }

    /// Share of it that lies before the send.
    pub(super) fn unsent_share(&self) -> f64 {
        let before = self.handed_raw_ns.map_or(0, |at| at.min(self.to_raw_ns) - self.from_raw_ns);
        before.max(0) as f64 / self.length_ns().max(1) as f64
    }

    /// Its inner part on the coordinator's clock, which no token of the steps before and after it touches.
    pub(super) fn core(&self) -> (i64, i64) {
        let length = self.to_ns.saturating_sub(self.from_ns);
        let step = self.median_ns.unwrap_or(0).saturating_mul(3) / 2;
        let margin = step.max(length / 12).max(2 * self.bound_ns).min(length / 3);
        (self.from_ns + margin, self.to_ns - margin)
    }
}

/// What one look at every record found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) gaps: Vec<Gap>,
    pub(super) spans: Spans,
    pub(super) without_trace: u64,
    /// Stalls that were left out because so many are longer.
    pub(super) unjudged: u64,
}

/// Medians of one level.
#[derive(Clone, Copy, Debug, Default)]
struct Medians {
    level: u32,
    itl_ns: Option<i64>,
    ttft_ns: Option<i64>,
}

/// Looks at every record.
pub(super) fn find(
    data: &RunData,
    timeline: &Timeline,
    levels: &[Level],
    rule: Rule,
    told: Asking<'_>,
) -> Found {
    let median = |level: &Level| {
        let of =
            |metric: &crate::levels::Metric| metric.percentile_ns(50.0).and_then(|ns| i64::try_from(ns).ok());
        Medians {
            level: level.drive.level,
            itl_ns: of(&level.latencies.itl),
            ttft_ns: of(&level.latencies.ttft),
        }
    };
    let medians: Vec<Medians> = levels.iter().map(median).collect();
    let probes = of_kind(data, v1::NodeKind::GpuProbe).into_iter();
    let hosts: BTreeSet<usize> = probes.filter_map(|(of, _)| timeline.domain(of)).collect();
    let mut found = Found::default();
    let mut stream = Stream::default();
    each_record(data, |of, record| {
        let medians = medians.iter().find(|m| m.level == record.level).copied().unwrap_or_default();
        let one_host = timeline.domain(of).is_some_and(|host| hosts.contains(&host));
        look(&mut found, &mut stream, Look { of, record, timeline, medians, rule, told, one_host });
    });
    found
}

struct Look<'a> {
    of: Incarnation,
    record: &'a v1::RequestRecord,
    timeline: &'a Timeline,
    medians: Medians,
    rule: Rule,
    told: Asking<'a>,
    /// A probe, and so perhaps the server, is on the agent's host.
    one_host: bool,
}

/// The arrivals of one request.
#[derive(Debug, Default)]
struct Stream {
    stamps: Vec<i64>,
    chars: Vec<u64>,
    waits: Vec<Option<u64>>,
    /// Between reads, sorted.
    gaps: Vec<i64>,
}

impl Stream {
    /// False when its trace is missing or cut.
    fn read(&mut self, record: &v1::RequestRecord) -> bool {
        self.stamps.clear();
        self.chars.clear();
        let mut at = record.intended_raw_ns;
        if !is_sane(at) || !is_sane(record.done_raw_ns) {
            return false;
        }
        for arrival in arrivals::decode(&record.arrivals) {
            let Ok(arrival) = arrival else { return false };
            at = at.saturating_add_unsigned(arrival.gap_ns);
            if !is_sane(at) {
                return false;
            }
            self.stamps.push(at);
            self.chars.push(arrival.chars);
        }
        self.waits.clear();
        self.waits.extend(arrivals::decode_waits(&record.socket_waits).take(self.stamps.len()));
        self.gaps.clear();
        let between = self.stamps.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        self.gaps.extend(between.filter(|&ns| ns > ONE_READ_NS));
        self.gaps.sort_unstable();
        !record.arrivals_dropped
    }

    /// Its own median gap between reads, if it has enough.
    fn median(&self) -> Option<i64> {
        (self.gaps.len() > OWN_MEDIAN_FROM).then(|| self.gaps[self.gaps.len() / 2])
    }

    /// Chunks a ns at its own pace: chunks of a usual read over the usual gap between reads.
    fn pace(&self, median: i64) -> f64 {
        let mut reads: Vec<usize> =
            self.stamps.chunk_by(|a, b| b - a <= ONE_READ_NS).map(<[i64]>::len).collect();
        reads.sort_unstable();
        let usual = reads.get(reads.len() / 2).copied().unwrap_or(1);
        usual as f64 / median.max(1) as f64
    }

    /// How long what came with chunk `index` had lain in the socket, when it came alone.
    fn wait_alone(&self, index: usize) -> Option<i64> {
        let at = self.stamps.get(index)?;
        let is_alone = self.stamps.get(index + 1).is_none_or(|next| next - at > ONE_READ_NS);
        let wait = self.waits.get(index).copied().flatten().filter(|_| is_alone)?;
        i64::try_from(wait).ok()
    }
}

fn look(found: &mut Found, stream: &mut Stream, look: Look<'_>) {
    let (record, medians, rule) = (look.record, look.medians, look.rule);
    if !stream.read(record) {
        found.without_trace += 1;
        return;
    }
    look.note_spans(&mut found.spans, stream);
    let of_level = medians.itl_ns.filter(|ns| *ns > 0);
    // A stream that came in one burst has a median that is no pace of its server.
    let median = stream.median().map(|own| own.max(of_level.unwrap_or(0) / 10)).or(of_level);
    let least = (median.unwrap_or(0) as f64 * rule.multiple).max(rule.floor_ns as f64);
    let mut add = |kind, chunk: usize, from: i64, to: i64| {
        let Some(gap) = look.gap(stream, median, (kind, chunk), (from, to)) else { return };
        found.spans.stalled.add(gap.from_ns, gap.to_ns);
        found.gaps.push(gap);
        if found.gaps.len() > 4 * super::MOST {
            // The longest of those are kept in the end, and these are among the shortest.
            found.gaps.sort_by_key(|gap| std::cmp::Reverse(gap.length_ns()));
            found.unjudged += (found.gaps.len() - 2 * super::MOST) as u64;
            found.gaps.truncate(2 * super::MOST);
        }
    };
    for (i, pair) in stream.stamps.windows(2).enumerate() {
        if (pair[1] - pair[0]) as f64 >= least {
            add(Kind::Gap, i + 1, pair[0], pair[1]);
        }
    }
    let is_cut = record::outcome(record) != Outcome::Completed;
    if let Some(&last) = stream.stamps.last()
        && is_cut
        && (record.done_raw_ns - last) as f64 >= least
    {
        add(Kind::Gap, stream.stamps.len(), last, record.done_raw_ns);
    }
    let held = record.held_ns.filter(|ns| is_sane(*ns)).unwrap_or(0).max(0);
    // A retry is meant for no moment: what came before it is another try's, or a rest on purpose.
    let issued = record.issued_raw_ns.filter(|ns| record.attempt > 0 && is_sane(*ns));
    let from = issued.unwrap_or(record.intended_raw_ns + held);
    let late = medians.ttft_ns.map(|ns| (ns as f64 * rule.ttft_multiple).max(rule.floor_ns as f64));
    // One that was sent and never got a token waited until it was given up.
    let given_up = Some(record.done_raw_ns).filter(|_| is_cut && record.sent_raw_ns.is_some());
    if let (Some(first), Some(late)) = (stream.stamps.first().copied().or(given_up), late)
        && (first - from) as f64 >= late
    {
        add(Kind::Ttft, 0, from, first);
    }
}

impl Look<'_> {
    fn place(&self, raw: i64) -> Option<i64> {
        place(self.timeline, self.of, raw).map(|at| at.ns)
    }

    fn note_spans(&self, spans: &mut Spans, stream: &Stream) {
        let record = self.record;
        let note = |union: &mut super::spans::Union, from: Option<i64>, to: Option<i64>| {
            let ends = from.and_then(|ns| self.place(ns)).zip(to.and_then(|ns| self.place(ns)));
            ends.into_iter().for_each(|(from, to)| union.add(from, to));
        };
        note(&mut spans.in_flight, record.sent_raw_ns, Some(record.done_raw_ns));
        note(&mut spans.streaming, stream.stamps.first().copied(), stream.stamps.last().copied());
    }

    fn gap(
        &self,
        stream: &Stream,
        median: Option<i64>,
        (kind, chunk): (Kind, usize),
        (from, to): (i64, i64),
    ) -> Option<Gap> {
        let (at, until) = (place(self.timeline, self.of, from)?, place(self.timeline, self.of, to)?);
        let record = self.record;
        let unended = chunk >= stream.stamps.len();
        let pace = median.map(|median| stream.pace(median));
        let paused =
            record.control_pause_raw_ns.filter(|ns| is_sane(*ns) && is_sane(record.control_pause_ns));
        let handed = record.sent_raw_ns.filter(|_| record.reused_connection).or(record.issued_raw_ns);
        let control = paused.map(|from| (from, from + record.control_pause_ns.max(0)));
        let mut gap = Gap {
            of: self.of,
            level: record.level,
            stream: record.stream,
            shard: record.shard,
            request: record.request,
            request_id: record.request_id.clone(),
            kind,
            chunk: u32::try_from(chunk).unwrap_or(u32::MAX),
            unended,
            from_raw_ns: from,
            to_raw_ns: to,
            from_ns: at.ns,
            to_ns: until.ns,
            bound_ns: at.bound_ns.max(until.bound_ns),
            median_ns: median,
            handed_raw_ns: handed.filter(|ns| kind == Kind::Ttft && is_sane(*ns)),
            socket_wait_ns: stream.wait_alone(chunk),
            burst: pace.and_then(|pace| Burst::of(&stream.stamps, &stream.chars, chunk, to - from, pace)),
            control_raw_ns: control,
            own: None,
        };
        gap.own = self.own(stream, median, &gap);
        Some(gap)
    }

    fn own(&self, stream: &Stream, median: Option<i64>, gap: &Gap) -> Option<Own> {
        let told = (self.told)(self.of, self.record)?;
        let handed = gap.handed_raw_ns.and_then(|raw| place(self.timeline, self.of, raw));
        let ends = stream.stamps.first().zip(stream.stamps.last());
        let pace = Pace {
            span_ns: ends.map_or(0, |(first, last)| last - first),
            median_ns: median,
            gaps: &stream.gaps,
            completed: record::outcome(self.record) == Outcome::Completed,
        };
        Some(Own::of(told, gap, handed, pace, self.one_host))
    }
}
