//! What a server's metrics say of each level. One pass over the scrapes of all probes: of each only sums go on, and of each
//! level a few whole scrapes at its edges, so that what is held grows with endpoints and levels; only how long each scrape
//! within a window took is kept, 8 bytes of it.

use std::rc::Rc;

use tailcliff_proto::v1::{self, NodeKind};

use crate::clock::Aligned;
use crate::levels::Level;
use crate::merge::tally::of_kind;
use crate::merge::timeline::Timeline;
use crate::stored::{Incarnation, RunData};

use super::cross;
use super::figures::ServerLevel;
use super::scraped::{OfLevel, Span};
use super::series::{Counter, Counting, Totals, moment};

/// Endpoints of one probe that are looked at.
const ENDPOINTS_MAX: usize = 64;
/// Silence of an endpoint is told from so many of its usual intervals on, …
const SILENT_INTERVALS: i64 = 4;
/// … and from here on, ns.
const SILENT_FROM_NS: i64 = 2_000_000_000;

/// An endpoint as one probe scrapes it.
struct Stream {
    of: Incarnation,
    probe: String,
    endpoint: String,
    /// Equal for what is the same endpoint, whoever asks it.
    identity: (Option<usize>, String),
    counting: Counting,
    /// Scrapes, the first and the last of them.
    scrapes: i64,
    first_ns: i64,
    last_ns: i64,
    levels: Vec<OfLevel>,
}

impl Stream {
    fn new(
        of: Incarnation,
        probe: &str,
        sample: &v1::ServerSample,
        timeline: &Timeline,
        levels: usize,
    ) -> Self {
        Self {
            of,
            probe: probe.to_owned(),
            endpoint: sample.endpoint.clone(),
            identity: identity(timeline.domain(of), &sample.endpoint),
            counting: Counting::default(),
            scrapes: 0,
            first_ns: 0,
            last_ns: i64::MIN,
            levels: (0..levels).map(|_| OfLevel::default()).collect(),
        }
    }

    /// Takes in a scrape; those that do not follow the one before are no series.
    fn take(&mut self, sample: &v1::ServerSample, at: Aligned, spans: &[Option<Span>]) {
        let moment = moment(at, sample.took_ns);
        let middle = moment.0 + (moment.1 - moment.0) / 2;
        if middle <= self.last_ns {
            return;
        }
        if self.scrapes == 0 {
            self.first_ns = middle;
        }
        self.scrapes += 1;
        self.last_ns = middle;
        let totals = sample.failed.is_empty().then(|| self.counting.next(sample, moment));
        for (level, span) in self.levels.iter_mut().zip(spans) {
            let Some(span) = span else { continue };
            level.take(*span, middle, sample, totals.as_ref());
        }
    }

    fn usual_ns(&self) -> i64 {
        (self.last_ns - self.first_ns) / (self.scrapes - 1).max(1)
    }
}

/// What leads to this very host is another endpoint on every host.
fn identity(domain: Option<usize>, endpoint: &str) -> (Option<usize>, String) {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let loopback = ["localhost", "127.0.0.1", "[::1]"].iter().find_map(|host| rest.strip_prefix(host));
    match loopback.filter(|rest| rest.is_empty() || rest.starts_with([':', '/'])) {
        Some(rest) => (domain, rest.to_owned()),
        None => (None, rest.to_owned()),
    }
}

/// What the metrics say of each level; `None` where no endpoint was scraped while it ran.
pub(crate) fn of_levels(data: &RunData, timeline: &Timeline, levels: &[Level]) -> Vec<Option<ServerLevel>> {
    let spans: Vec<Option<Span>> = levels.iter().map(span).collect();
    let (streams, over) = read(data, timeline, &spans);
    let chosen: Vec<Vec<Chosen<'_>>> = (0..levels.len()).map(|level| choose(&streams, level)).collect();
    let asked: Vec<cross::Asked> = chosen.iter().map(|all| asked(all)).collect();
    let cross = cross::of_levels(data, timeline, &asked);
    let all = chosen.iter().zip(&spans).zip(cross);
    all.map(|((chosen, span), cross)| {
        let telling = Telling { span: (*span)?, chosen, origin_ns: data.header.started_ref_ns };
        let mut told = telling.level()?;
        if over > 0 {
            told.notes
                .push(format!("{over} scrapes of endpoints beyond {ENDPOINTS_MAX} a probe were left out"));
        }
        told.cross = cross;
        Some(told)
    })
    .collect()
}

fn span(level: &Level) -> Option<Span> {
    let ended_ns = level.ended_ref_ns?;
    let whole = (level.start_ref_ns, ended_ns);
    let window = level.throughput.map_or(whole, |t| (t.window.start_ns, t.window.end_ns));
    (whole.0 < whole.1 && window.0 < window.1).then_some(Span { window, whole })
}

/// All series, and the scrapes of endpoints that found no room.
fn read(data: &RunData, timeline: &Timeline, spans: &[Option<Span>]) -> (Vec<Stream>, u64) {
    let (mut streams, mut over) = (Vec::<Stream>::new(), 0);
    for (of, node) in of_kind(data, NodeKind::GpuProbe) {
        for batch in node.each_batch_with_server() {
            for sample in &batch.server_samples {
                let Some(at) = timeline.place(of, sample.raw_ns).filter(|at| is_near(*at)) else { continue };
                let mine = |stream: &&mut Stream| stream.of == of;
                let known = streams.iter_mut().filter(mine).find(|s| s.endpoint == sample.endpoint);
                if let Some(stream) = known {
                    stream.take(sample, at, spans);
                } else if streams.iter().filter(|s| s.of == of).count() < ENDPOINTS_MAX {
                    let mut new = Stream::new(of, &node.hello.name, sample, timeline, spans.len());
                    new.take(sample, at, spans);
                    streams.push(new);
                } else {
                    over += 1;
                }
            }
        }
    }
    (streams, over)
}

/// A stamp that can be reckoned with.
fn is_near(at: Aligned) -> bool {
    const FAR: i64 = 1 << 59;
    (-FAR..=FAR).contains(&at.ns) && (0..=FAR).contains(&at.bound_ns)
}

/// An endpoint in one level, by the probe that saw most of it.
struct Chosen<'a> {
    stream: &'a Stream,
    level: &'a OfLevel,
    /// Other probes that scraped the same.
    again: Vec<&'a str>,
}

fn choose(streams: &[Stream], level: usize) -> Vec<Chosen<'_>> {
    let mut all: Vec<Chosen<'_>> = Vec::new();
    for stream in streams {
        let of = &stream.levels[level];
        if of.is_empty() {
            continue;
        }
        match all.iter_mut().find(|chosen| chosen.stream.identity == stream.identity) {
            Some(chosen) if of.answered() > chosen.level.answered() => {
                chosen.again.push(&chosen.stream.probe);
                (chosen.stream, chosen.level) = (stream, of);
            }
            Some(chosen) => chosen.again.push(&stream.probe),
            None => all.push(Chosen { stream, level: of, again: Vec::new() }),
        }
    }
    all
}

fn asked(chosen: &[Chosen<'_>]) -> cross::Asked {
    let edges = chosen.iter().filter_map(|c| c.level.around());
    cross::Asked { pairs: edges.collect(), endpoints: chosen.len() }
}

/// Two scrapes of one endpoint.
type Pair<'a> = (&'a Rc<Totals>, &'a Rc<Totals>);

/// What is told of one level.
struct Telling<'a> {
    span: Span,
    chosen: &'a [Chosen<'a>],
    origin_ns: i64,
}

impl Telling<'_> {
    fn level(&self) -> Option<ServerLevel> {
        if self.chosen.is_empty() {
            return None;
        }
        let of = || self.chosen.iter().map(|chosen| chosen.level);
        let mut took: Vec<i64> = of().flat_map(|level| level.took_ns.iter().copied()).collect();
        took.sort_unstable();
        let (totals, mut notes) = self.totals();
        let grown = |of: Counter| {
            let each = totals.iter().filter_map(|(a, b)| Some(b.counter(of)? - a.counter(of)?));
            each.map(|n| n.max(0.0)).reduce(|a, b| a + b)
        };
        let share = |part: Counter, whole: Counter| {
            let (part, whole) = (grown(part)?, grown(whole).filter(|n| *n > 0.0)?);
            (part <= whole).then(|| part / whole)
        };
        notes.extend(self.notes());
        let (from, to) = self.span.window;
        let counted = totals.iter().map(|(a, b)| b.at_ns() - a.at_ns()).max();
        let (preemptions, cache_hit) =
            (grown(Counter::Preemptions), share(Counter::CacheHits, Counter::CacheQueries));
        let spec_accepted = share(Counter::Accepted, Counter::Drafted);
        // What is told anyhow needs words only where it is another time than the window's.
        let is_other = |ns: &i64| *ns > (to - from).saturating_add((to - from) / 2);
        if let Some(ns) =
            counted.filter(is_other).filter(|_| preemptions.or(cache_hit).or(spec_accepted).is_some())
        {
            notes.push(format!(
                "totals are of the {:.1} s from scrape to scrape that its window of {:.1} s lies in",
                ns as f64 / 1e9,
                (to - from) as f64 / 1e9
            ));
        }
        let sum = |gauge: fn(&OfLevel) -> Option<(f64, f64)>| {
            of().filter_map(gauge).reduce(|a, b| (a.0 + b.0, a.1 + b.1))
        };
        Some(ServerLevel {
            scrapes: of().map(|level| level.scrapes).sum(),
            failed: of().map(|level| level.failed).sum(),
            took_ns: took.get(took.len() / 2).copied(),
            running: sum(|level| level.running.get()),
            waiting: sum(|level| level.waiting.get()),
            kv_usage: of().filter_map(|l| l.kv_usage.get()).reduce(|a, b| (a.0.max(b.0), a.1.max(b.1))),
            preemptions,
            cache_hit,
            spec_accepted,
            counted_ns: counted,
            named: self.named(),
            cross: Vec::new(),
            notes,
        })
    }

    /// Of each endpoint the scrapes around the window; where there are none, the outermost within.
    fn totals(&self) -> (Vec<Pair<'_>>, Vec<String>) {
        let (mut all, mut notes) = (Vec::new(), Vec::new());
        for Chosen { stream, level, .. } in self.chosen {
            let pair = level
                .before
                .as_ref()
                .or(level.first.as_ref())
                .zip(level.after.as_ref().or(level.last.as_ref()));
            let Some((a, b)) = pair.filter(|(a, b)| a.at_ns() < b.at_ns()) else { continue };
            if b.restarts > a.restarts {
                notes.push(format!(
                    "{} began anew: its totals fell {} times, and were counted on from there",
                    stream.endpoint,
                    b.restarts - a.restarts
                ));
            }
            all.push((a, b));
        }
        (all, notes)
    }

    fn named(&self) -> Vec<(String, f64, f64)> {
        let mut all = Vec::new();
        for Chosen { stream, level, .. } in self.chosen {
            for (name, gauge) in &level.named {
                let name = match self.chosen.len() {
                    1 => name.clone(),
                    _ => format!("{name} @ {}", stream.endpoint),
                };
                all.extend(gauge.get().map(|(mean, max)| (name, mean, max)));
            }
        }
        all
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.chosen.len() > 1 {
            let all: Vec<&str> = self.chosen.iter().map(|c| c.stream.endpoint.as_str()).collect();
            notes.push(format!(
                "{} endpoints: requests and totals are added up (their maxima too, which may lie apart), KV usage is of the \
                 fullest: {}",
                all.len(),
                all.join(", ")
            ));
        }
        for chosen in self.chosen {
            let endpoint = &chosen.stream.endpoint;
            if !chosen.again.is_empty() {
                notes.push(format!(
                    "{endpoint} was scraped by {} and {}: {} counts",
                    chosen.stream.probe,
                    chosen.again.join(" and "),
                    chosen.stream.probe
                ));
            }
            notes.extend(self.silence(chosen));
            if chosen.level.over > 0 {
                notes.push(format!(
                    "{} values of {endpoint} had names beyond those that are kept",
                    chosen.level.over
                ));
            }
        }
        notes
    }

    /// An endpoint that told nothing for long, or hardly anything at all.
    fn silence(&self, chosen: &Chosen<'_>) -> Option<String> {
        let (endpoint, level) = (&chosen.stream.endpoint, chosen.level);
        let why = || level.why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        let n = level.answered();
        if n == 0 {
            return Some(format!("no scrape of {endpoint} was answered in its window{}", why()));
        }
        let usual = chosen.stream.usual_ns().saturating_mul(SILENT_INTERVALS).max(SILENT_FROM_NS);
        let (from, to) = level.silence(self.span);
        if to - from > usual {
            let second = |ns: i64| (ns - self.origin_ns) as f64 / 1e9;
            return Some(format!(
                "{endpoint} told nothing from {:.1} s to {:.1} s of the run{}",
                second(from),
                second(to),
                why()
            ));
        }
        (n < 2).then(|| {
            format!("a single scrape of {endpoint} was answered in its window: its means say little")
        })
    }
}
