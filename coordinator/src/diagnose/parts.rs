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

/// Mean over all joined requests: of a part that only some of them tell the others have none.
fn sum(inside: &LevelInside, parts: &[Part]) -> f64 {
    let of = |part: &Part| inside.parts.iter().find(|figures| figures.part == *part);
    let all = parts.iter().filter_map(of).map(|figures| figures.mean_ns * figures.count as f64);
    all.sum::<f64>() / inside.joined.max(1) as f64
}

/// Each of them is told of every joined request: else what is added up is less than their time.
fn are_told(inside: &LevelInside, parts: &[Part]) -> bool {
    let is_told = |part: &Part| {
        inside.parts.iter().any(|figures| figures.part == *part && figures.count == inside.joined)
    };
    parts.iter().all(is_told)
}

/// Without a kernel that dates what arrives, what lay in the socket is in the network down, and this one is not told.
const CLIENT: [Part; 4] = [Part::SendLag, Part::Write, Part::SocketWait, Part::Read];
const NEEDED_OF_CLIENT: [Part; 4] = [Part::SendLag, Part::Connect, Part::Write, Part::Read];
const NEEDED_OF_STAMPS: [Part; 7] = [
    Part::NetworkUp,
    Part::FrontIn,
    Part::Queue,
    Part::Prefill,
    Part::Decode,
    Part::FrontOut,
    Part::NetworkDown,
];
const NEEDED_OF_REPLY: [Part; 4] = [Part::Queue, Part::Prefill, Part::Decode, Part::NetworkDown];

fn by_stamps(inside: &LevelInside, of: &str) -> Option<Parts> {
    if !are_told(inside, &NEEDED_OF_STAMPS) || !are_told(inside, &NEEDED_OF_CLIENT) {
        return None;
    }
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
    if !are_told(inside, &NEEDED_OF_REPLY) || !are_told(inside, &NEEDED_OF_CLIENT) {
        return None;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inside::{How, PartFigures, each_joined};
    use crate::levels::Level;
    use crate::merge::merge;
    use crate::merge::testrun::{MS, run};
    use tailcliff_proto::v1::Phase;

    /// Not told by a reply.
    const BETWEEN: [Part; 3] = [Part::NetworkUp, Part::FrontIn, Part::FrontOut];

    /// Requests whose parts are drawn, and the mean of their sums; of these parts the last request tells nothing.
    fn inside(source: Source, untold: &[Part]) -> (LevelInside, f64) {
        let mut random = fastrand::Rng::with_seed(7);
        let joined = 40;
        let (mut parts, mut whole) = (Vec::new(), 0.0);
        for part in Part::ALL {
            if source == Source::Reply && BETWEEN.contains(&part) {
                continue;
            }
            let count = joined - u64::from(untold.contains(&part));
            let all: Vec<i64> = (0..count).map(|_| random.i64(-2 * MS..90 * MS)).collect();
            let sum = all.iter().sum::<i64>() as f64;
            whole += sum / joined as f64;
            let mean_ns = sum / count as f64;
            parts.push(PartFigures { part, count, mean_ns, p95_ns: 0, impossible: 0, how: How::Measured });
        }
        let inside = LevelInside {
            joined,
            sources: vec![(source, joined)],
            bound_ns: Some(1_000),
            parts,
            ..LevelInside::default()
        };
        (inside, whole)
    }

    fn all(parts: &Parts) -> f64 {
        parts.queue_ns + parts.network_ns.unwrap() + parts.compute_ns + parts.client_ns.unwrap()
    }

    fn mean(inside: &LevelInside, part: Part) -> f64 {
        inside.parts.iter().find(|figures| figures.part == part).unwrap().mean_ns
    }

    #[test]
    fn the_parts_by_the_servers_word_are_the_whole() {
        // Not every kernel dates what arrives.
        for untold in [&[][..], &[Part::SocketWait]] {
            let (inside, whole) = inside(Source::Spans, untold);
            let told = by_stamps(&inside, "of all").unwrap();
            assert!((all(&told) - whole).abs() < 1.0, "{told:?} {whole}");
            assert_eq!(told.queue_ns, mean(&inside, Part::Queue));
            let (inside, whole) = self::inside(Source::Reply, untold);
            let trip = 3 * MS;
            let told = by_reply(&inside, "of all", trip).unwrap();
            assert!((all(&told) - whole).abs() < 1.0, "{told:?} {whole}");
            // The trip there and back is in what a reply leaves over, and is no queue.
            assert!((told.queue_ns - (mean(&inside, Part::Queue) - trip as f64)).abs() < 1.0);
            let ways = mean(&inside, Part::Connect) + mean(&inside, Part::NetworkDown) + trip as f64;
            assert!((told.network_ns.unwrap() - ways).abs() < 1.0);
        }
    }

    #[test]
    fn what_one_request_does_not_tell_leaves_the_level_to_the_client() {
        for part in NEEDED_OF_STAMPS.into_iter().chain(NEEDED_OF_CLIENT) {
            assert_eq!(by_stamps(&inside(Source::Spans, &[part]).0, ""), None, "{part:?}");
            let mut without = inside(Source::Spans, &[]).0;
            without.parts.retain(|figures| figures.part != part);
            assert_eq!(by_stamps(&without, ""), None, "{part:?}");
        }
        for part in NEEDED_OF_REPLY.into_iter().chain(NEEDED_OF_CLIENT) {
            assert_eq!(by_reply(&inside(Source::Reply, &[part]).0, "", MS), None, "{part:?}");
        }
        let mut levels = merge(&run(3, 1, &[1])).levels;
        let mut told = |untold: &[Part]| {
            levels[0].inside = Some(inside(Source::Spans, untold).0);
            of_levels(&levels).swap_remove(0).unwrap()
        };
        assert!(told(&[]).client_ns.is_some());
        let fallen = told(&[Part::Queue]);
        assert_eq!(fallen.client_ns, None);
        assert!(fallen.words.contains("counted from this level"), "{}", fallen.words);
        levels[0].inside = None;
        assert_eq!(of_levels(&levels), [Some(fallen)]);
    }

    #[test]
    fn of_replies_the_parts_add_up_to_the_mean_of_the_joined() {
        let mut data = run(3, 1, &[1]);
        let records = data.nodes.values_mut().flat_map(|node| &mut node.batches);
        for record in records.flat_map(|batch| &mut batch.records) {
            record.connected_raw_ns = record.issued_raw_ns.map(|ns| ns + 20_000);
            record.last_chunk_raw_ns = record.last_token_raw_ns;
            (record.server_prefill_ns, record.server_decode_ns) = (Some(2 * MS), Some(30 * MS));
        }
        let merged = merge(&data);
        let level: &Level = &merged.levels[0];
        let (mut whole, mut n) = (0.0, 0);
        let take = |joined: &crate::inside::Joined<'_>| {
            if joined.record.phase == Phase::Measured as i32 {
                whole += (joined.record.done_raw_ns - joined.record.intended_raw_ns) as f64;
                n += 1;
            }
            Ok(())
        };
        each_joined(&data, &merged, take).unwrap();
        let inside = level.inside.as_ref().unwrap();
        // Those that failed are joined one by one, and in no level.
        assert!(inside.joined > 20 && n >= inside.joined, "{inside:?}");
        let told = level.parts.as_ref().unwrap();
        assert!(told.words.contains("in the server's replies"), "{}", told.words);
        let e2e = level.latencies.e2e.mean_ns().unwrap();
        assert!((all(told) / e2e - 1.0).abs() < 1e-9, "{told:?} {e2e}");
    }
}
