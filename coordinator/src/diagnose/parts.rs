//! T = queue + network + compute (+ what the client itself takes), as far as can be told: by the server's own word where it
//! told of nearly all requests; else as a client can tell, by what an answer waited beyond an unloaded server, one trip over
//! the network, and the rest.

use crate::certificate::Verdict;
use crate::inside::{LevelInside, Part, Source};
use crate::knee::duration;
use crate::levels::Level;

/// Where the time of a level's mean answer went, ns. The parts that are known add up to its mean E2E.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts {
    /// Waiting for a place at the server; without its word the mean TTFT beyond that of the lowest level.
    pub queue_ns: f64,
    /// By the server's word connecting and both ways; else one round trip, as the quickest connecting took; `None` when no
    /// connection was made in time's sight.
    pub network_ns: Option<f64>,
    /// By the server's word its front end, prefill and decode; else the rest.
    pub compute_ns: f64,
    /// By the server's word what the client took itself: send lag, writing, reading; else in the others.
    pub client_ns: Option<f64>,
    /// What is measured and what is inferred.
    pub words: String,
}

/// Share of a level's requests that its server must have told of.
const TOLD_FROM: f64 = 0.9;

/// Of each level; `None` where nothing tells its TTFT.
pub(super) fn of_levels(levels: &[Level]) -> Vec<Option<Parts>> {
    let is_usable = |level: &&Level| level.certificate.verdict != Verdict::Void && !level.load.is_at_once();
    let told = levels.iter().filter(is_usable).filter(|level| level.latencies.ttft.mean_ns().is_some());
    let lowest = told.min_by(|a, b| a.load.x().total_cmp(&b.load.x()));
    let trip = levels.iter().filter_map(|level| level.quickest_connect_ns).min();
    let by_client = |level| of(level, lowest?, trip);
    levels.iter().map(|level| by_server(level, trip).or_else(|| by_client(level))).collect()
}

/// As the server told it.
fn by_server(level: &Level, trip: Option<i64>) -> Option<Parts> {
    let inside = level.inside.as_ref()?;
    let all = inside.joined + inside.unmatched;
    if inside.joined == 0 || (inside.joined as f64) < TOLD_FROM * all as f64 {
        return None;
    }
    let is_reply = |(source, _): &(Source, u64)| *source == Source::Reply;
    let of = format!("of {} of {all} requests", inside.joined);
    match inside.sources.iter().filter(|source| is_reply(source)).count() {
        0 => by_stamps(inside, &of),
        _ if inside.sources.iter().all(is_reply) => by_reply(inside, &of, trip?),
        _ => None,
    }
}

fn sum(inside: &LevelInside, parts: &[Part]) -> f64 {
    let of = |part: &Part| inside.parts.iter().find(|figures| figures.part == *part).map(|f| f.mean_ns);
    parts.iter().filter_map(of).sum()
}

const CLIENT: [Part; 4] = [Part::SendLag, Part::Write, Part::SocketWait, Part::Read];

fn by_stamps(inside: &LevelInside, of: &str) -> Option<Parts> {
    let bound = duration(inside.bound_ns?.max(0).unsigned_abs());
    let words = format!(
        "by the server's own stamps, {of}: queue, and compute as its front end, prefill and decode (measured); network as connecting \
         (measured) and both ways (between two clocks, ±{bound}), the server's HTTP before its first stamp and after its last with them; \
         client as send lag, writing and reading (measured)"
    );
    Some(Parts {
        queue_ns: sum(inside, &[Part::Queue]),
        network_ns: Some(sum(inside, &[Part::Connect, Part::NetworkUp, Part::NetworkDown])),
        compute_ns: sum(inside, &[Part::FrontIn, Part::Prefill, Part::Decode, Part::FrontOut]),
        client_ns: Some(sum(inside, &CLIENT)),
        words,
    })
}

fn by_reply(inside: &LevelInside, of: &str, trip: i64) -> Option<Parts> {
    let trip = trip as f64;
    let words = format!(
        "by the durations in the server's replies, {of}: compute is its prefill and decode (measured); queue is what the first token took \
         beyond the prefill and one round trip (inferred); network is connecting (measured), that trip, {}, as the quickest connecting \
         took, and what the answer took beyond its decode (inferred); client as send lag, writing and reading (measured)",
        duration(trip.max(0.0) as u64)
    );
    Some(Parts {
        queue_ns: sum(inside, &[Part::Queue]) - trip,
        network_ns: Some(sum(inside, &[Part::Connect, Part::NetworkDown]) + trip),
        compute_ns: sum(inside, &[Part::Prefill, Part::Decode]),
        client_ns: Some(sum(inside, &CLIENT)),
        words,
    })
}

fn of(level: &Level, lowest: &Level, trip: Option<i64>) -> Option<Parts> {
    let mean = |level: &Level| level.latencies.ttft.mean_ns();
    let (whole, first, base) = (level.latencies.e2e.mean_ns()?, mean(level)?, mean(lowest)?);
    let queue_ns = (first - base).clamp(0.0, whole);
    let network_ns = trip.map(|ns| (ns as f64).min(whole - queue_ns));
    let queue = if level.load == lowest.load {
        "queue is 0 by definition: what others wait is counted from this level".to_owned()
    } else {
        format!(
            "queue (inferred) is the mean TTFT beyond its {} at {}: waiting for a place, and prefills of others",
            duration(base.max(0.0) as u64),
            lowest.load.words()
        )
    };
    let network = match trip {
        Some(ns) => format!(
            "network (measured) is one round trip as the quickest connecting took, {}: what a full link adds hides in the others",
            duration(ns.max(0).unsigned_abs())
        ),
        None => "network is not known: no connection was timed, and it hides in compute".to_owned(),
    };
    let words = format!(
        "{queue}; {network}; compute is the rest of the mean E2E (measured), pauses in mid-answer too"
    );
    let compute_ns = whole - queue_ns - network_ns.unwrap_or(0.0);
    Some(Parts { queue_ns, network_ns, compute_ns, client_ns: None, words })
}
