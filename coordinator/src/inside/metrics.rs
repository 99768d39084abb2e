//! What a server's metrics say of each level. Of the scrapes of all probes only sums go on, and of each level a few whole ones
//! at its edges, so that what is held grows with endpoints and levels; of each scrape only its moment is kept, and of those
//! within a window how long it took.

use std::rc::Rc;

use crate::levels::Level;
use crate::merge::timeline::Timeline;
use crate::stored::RunData;

use super::chosen::{Chosen, choose, servers};
use super::cross;
use super::figures::ServerLevel;
use super::scraped::{OfLevel, Span};
use super::series::{Counter, Totals};
use super::stream::Streams;

/// Silence of an endpoint is told from so many of its usual intervals on, …
const SILENT_INTERVALS: i64 = 4;
/// … and from here on, ns.
const SILENT_FROM_NS: i64 = 2_000_000_000;

/// What the metrics say of each level; `None` where no endpoint was scraped while it ran.
pub(crate) fn of_levels(data: &RunData, timeline: &Timeline, levels: &[Level]) -> Vec<Option<ServerLevel>> {
    let spans: Vec<Option<Span>> = levels.iter().map(span).collect();
    let streams = Streams::read(data, timeline, &spans);
    let servers = servers(&streams.all);
    let chosen: Vec<Vec<Chosen<'_>>> =
        (0..levels.len()).map(|level| choose(&streams.all, &servers, level)).collect();
    let asked: Vec<cross::Asked> = chosen.iter().map(|all| asked(all)).collect();
    let cross = cross::of_levels(data, timeline, &asked);
    let all = chosen.iter().zip(&spans).zip(cross);
    all.map(|((chosen, span), cross)| {
        let telling = Telling { span: (*span)?, chosen, origin_ns: data.header.started_ref_ns };
        let mut told = telling.level()?;
        told.notes.extend(streams.left_out());
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
                "{} endpoints: requests and totals are added up (their maxima too, which may lie apart; if two of them are one \
                 server, its figures are doubled), KV usage is of the fullest: {}",
                all.len(),
                all.join(", ")
            ));
        }
        for chosen in self.chosen {
            let endpoint = &chosen.stream.endpoint;
            notes.extend(chosen.again());
            let astray = chosen.stream.astray();
            if astray > 0 {
                notes.push(format!(
                    "{astray} scrapes of {endpoint} in the run have stamps that do not follow those before them, and are left out"
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
