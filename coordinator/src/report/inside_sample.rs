//! A made-up run whose server told of itself, for tests of what shows it: spans for two levels, replies for the third, one
//! request in ten unmatched, and some with parts that cannot be.

use std::collections::BTreeMap;
use std::io;

use tailcliff_proto::v1::{self, Outcome, Phase, ServerLatency};

use crate::clock::Exchange;
use crate::inside::{
    Cross, How, Joined, LevelInside, Part, PartFigures, Parts, ServerLevel, Source, Summary,
};
use crate::merge::testrun::{self, MS, ORIGIN, S, offset};
use crate::merge::timeline::Timeline;
use crate::merge::{Merged, merge, record};
use crate::stored::{Incarnation, RunData};

/// Scrapes, one a second from 2 s on; one of them failed.
pub(crate) const SCRAPES: usize = 44;
/// The scrape that failed.
const FAILED: usize = 5;
const BOUND_NS: i64 = 40_000;
/// Joined by what the reply told.
const REPLIED: u32 = 2;

/// Three levels by two agents and a probe.
pub(crate) fn run() -> RunData {
    let mut data = testrun::run(31, 2, &[1, 2, 4]);
    let probe = testrun::add_probe(&mut data);
    let ping = |i: i64| {
        let t0 = ORIGIN + i * S;
        let t1 = t0 + 20_000 + offset(probe);
        Exchange { t0, t1, t2: t1, t3: t0 + 40_000 }
    };
    if let Some(node) = data.nodes.get_mut(&probe) {
        node.exchanges = (0..60).map(ping).collect();
    }
    let server_samples = (0..SCRAPES).map(|i| sample(probe, i)).collect();
    testrun::push(&mut data, probe, v1::Batch { server_samples, ..v1::Batch::default() });
    data
}

fn sample(probe: Incarnation, i: usize) -> v1::ServerSample {
    let at = v1::ServerSample {
        raw_ns: ORIGIN + offset(probe) + 2 * S + i as i64 * S,
        took_ns: 3 * MS,
        endpoint: "http://127.0.0.1:8000/metrics".to_owned(),
        ..v1::ServerSample::default()
    };
    if i == FAILED {
        return v1::ServerSample { failed: "connection refused".to_owned(), ..at };
    }
    let ttft = v1::ServerHistogram {
        of: ServerLatency::Ttft as i32,
        sum_s: i as f64 * 0.75,
        count: i as f64 * 15.0,
        ..v1::ServerHistogram::default()
    };
    v1::ServerSample {
        running: Some((i % 5) as f64),
        waiting: Some((i / 15) as f64),
        kv_usage: Some(0.25 + i as f64 / 100.0),
        preemptions: Some((i / 20) as f64),
        cache_queries: Some(16.0 * i as f64),
        cache_hits: Some(4.0 * i as f64),
        histograms: vec![ttft],
        named: vec![v1::NamedValue { name: "my_gauge{a=\"b\"}".to_owned(), value: 7.0 }],
        ..at
    }
}

/// What `each_joined` would tell of it.
pub(crate) fn each(
    data: &RunData,
    timeline: &Timeline,
    mut write: impl FnMut(&Joined<'_>) -> io::Result<()>,
) -> io::Result<()> {
    for (&of, node) in &data.nodes {
        let records = node.batches.iter().flat_map(|batch| &batch.records);
        let completed = records.filter(|r| record::outcome(r) == Outcome::Completed);
        for record in completed.filter(|r| r.request % 10 != 9) {
            write(&joined(of, &node.hello.name, record, timeline))?;
        }
    }
    Ok(())
}

fn joined<'a>(
    of: Incarnation,
    agent: &'a str,
    record: &'a v1::RequestRecord,
    timeline: &Timeline,
) -> Joined<'a> {
    let is_odd = record.request % 20 == 3;
    let up = if is_odd { -80_000 } else { 200_000 };
    let of_reply = record.level == REPLIED;
    let sent = record.sent_raw_ns.unwrap_or(record.intended_raw_ns);
    let (first, last) = (record.first_token_raw_ns.unwrap_or(sent), record.last_token_raw_ns.unwrap_or(sent));
    let (arrival, token, end) = (sent + up, first - 150_000, last - 100_000);
    let parts = if of_reply {
        replied(record, sent, last)
    } else {
        spanned(record, (sent, last), is_odd, (arrival, token, end))
    };
    let place = |raw| timeline.place(of, raw).filter(|_| !of_reply);
    let bits = if is_odd && !of_reply { 1 << Part::NetworkUp as u32 | 1 << Part::FrontOut as u32 } else { 0 };
    Joined {
        of,
        agent,
        record,
        source: if of_reply { Source::Reply } else { Source::Spans },
        server: if of_reply { String::new() } else { "probe: model-sim".to_owned() },
        bound_ns: (!of_reply).then_some(BOUND_NS),
        parts,
        impossible: bits,
        arrival: place(arrival),
        first_token: place(token),
        end: place(end),
    }
}

fn spanned(
    record: &v1::RequestRecord,
    (sent, last): (i64, i64),
    is_odd: bool,
    (arrival, token, end): (i64, i64, i64),
) -> Parts {
    let front_in = 1_200_000;
    let queue = (token - arrival - front_in) / 4;
    let decode = end - token + if is_odd { 150_000 } else { -450_000 };
    let mut parts = Parts::default();
    let mut put = |part: Part, ns: i64| parts[part as usize] = Some(ns);
    put(Part::SendLag, 0);
    put(Part::Write, sent - record.intended_raw_ns);
    put(Part::NetworkUp, arrival - sent);
    put(Part::FrontIn, front_in);
    put(Part::Queue, queue);
    put(Part::Prefill, token - arrival - front_in - queue);
    put(Part::Decode, decode);
    put(Part::FrontOut, end - token - decode);
    put(Part::NetworkDown, last - end - 20_000);
    put(Part::SocketWait, 20_000);
    put(Part::Read, record.done_raw_ns - last);
    parts
}

/// Durations without stamps: queue and way are what they leave.
fn replied(record: &v1::RequestRecord, sent: i64, last: i64) -> Parts {
    let mut parts = Parts::default();
    let mut put = |part: Part, ns: i64| parts[part as usize] = Some(ns);
    put(Part::SendLag, 0);
    put(Part::Write, sent - record.intended_raw_ns);
    put(Part::Queue, (last - sent) - 8 * MS);
    put(Part::Prefill, 3 * MS);
    put(Part::Decode, 5 * MS);
    put(Part::Read, record.done_raw_ns - last);
    parts
}

/// The run merged, with what the server told of it.
pub(crate) fn merged(data: &RunData) -> Merged {
    let mut merged = merge(data);
    let timeline = std::mem::take(&mut merged.timeline);
    let mut of_level: BTreeMap<u32, Vec<(Parts, u32)>> = BTreeMap::new();
    let each = each(data, &timeline, |joined| {
        if joined.record.phase == Phase::Measured as i32 {
            of_level.entry(joined.record.level).or_default().push((joined.parts, joined.impossible));
        }
        Ok(())
    });
    assert!(each.is_ok());
    merged.timeline = timeline;
    for level in &mut merged.levels {
        let all = of_level.get(&level.drive.level).map_or(&[][..], Vec::as_slice);
        level.inside = Some(inside(level.drive.level, all, level.measured.completed));
        level.server = Some(server());
    }
    merged.inside = summary();
    merged
}

fn inside(level: u32, all: &[(Parts, u32)], completed: u64) -> LevelInside {
    let figures = |part: Part| {
        let mut known: Vec<i64> = all.iter().filter_map(|(parts, _)| parts[part as usize]).collect();
        known.sort_unstable();
        let how = match part {
            Part::NetworkUp | Part::NetworkDown => How::BetweenClocks,
            Part::FrontIn | Part::FrontOut => How::Inferred,
            Part::Queue if level == REPLIED => How::Inferred,
            _ => How::Measured,
        };
        Some(PartFigures {
            part,
            count: known.len() as u64,
            mean_ns: known.iter().sum::<i64>() as f64 / known.len() as f64,
            p95_ns: *known.get((known.len() * 95).div_ceil(100).saturating_sub(1))?,
            impossible: all.iter().filter(|(_, bits)| bits >> part as u32 & 1 == 1).count() as u64,
            how,
        })
    };
    let joined = all.len() as u64;
    let of_spans = level != REPLIED;
    LevelInside {
        joined,
        unmatched: completed.saturating_sub(joined),
        sources: vec![(if of_spans { Source::Spans } else { Source::Reply }, joined)],
        servers: if of_spans { vec![("probe: model-sim".to_owned(), joined)] } else { Vec::new() },
        parts: Part::ALL.into_iter().filter_map(figures).collect(),
        front_ns: of_spans.then_some(1.6e6),
        front_p95_ns: of_spans.then_some(2_400_000),
        front_share: of_spans.then_some(0.034),
        impossible: all.iter().filter(|(_, bits)| *bits != 0).count() as u64,
        unplaced: u64::from(of_spans),
        bound_ns: of_spans.then_some(BOUND_NS),
        worst_bound_ns: of_spans.then_some(2 * BOUND_NS),
        delivery_ns: of_spans.then_some(150_000.0),
    }
}

fn server() -> ServerLevel {
    let cross = |of, client_mean_ns: Option<f64>| Cross {
        of,
        server_count: 100,
        client_count: if client_mean_ns.is_some() { 100 } else { 0 },
        server_mean_ns: 17.5e6,
        client_mean_ns,
        difference_ns: client_mean_ns.map(|ns| ns - 17.5e6),
        server_p95_ns: Some((20e6, client_mean_ns.map(|_| 40e6))),
        words: if client_mean_ns.is_some() { String::new() } else { "the client has none".to_owned() },
    };
    ServerLevel {
        scrapes: 11,
        failed: 1,
        counted_ns: Some(11_000 * MS),
        took_ns: Some(3 * MS),
        running: Some((2.0, 4.0)),
        waiting: Some((1.5, 3.0)),
        kv_usage: Some((0.312, 0.5)),
        preemptions: Some(2.0),
        cache_hit: Some(0.25),
        spec_accepted: None,
        named: vec![("my_gauge{a=\"b\"}".to_owned(), 7.0, 7.0)],
        cross: vec![cross(ServerLatency::Ttft, Some(18.1e6)), cross(ServerLatency::Queue, None)],
        notes: vec!["1 of 11 scrapes failed: connection refused".to_owned()],
    }
}

fn summary() -> Summary {
    let tally = v1::SpanTally { received: 500, malformed: 2, put_off: 3, ..v1::SpanTally::default() };
    Summary {
        spans: 500,
        unmatched_spans: 7,
        told_twice: 1,
        tallies: vec![("probe".to_owned(), tally)],
        wall_steps: vec![("probe".to_owned(), -2 * S, ORIGIN + 20 * S)],
        warnings: vec!["the wall clock of probe stepped by -2.00 s".to_owned()],
    }
}
