//! Runs made up for tests: records drawn from a seed, and the windows that agents would have cut from them.

use std::collections::BTreeMap;

use tailcliff_proto::arrivals::Arrivals;
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1::{self, Outcome, Phase, TokenSource};

use super::record;
use crate::axis::Load;
use crate::clock::Exchange;
use crate::plan::Plan;
use crate::stored::{Drive, Incarnation, LevelLog, Node, RunData, RunEnd, RunHeader};

pub(crate) const MS: i64 = 1_000_000;
pub(crate) const S: i64 = 1_000 * MS;
/// Coordinator's clock at the start of the run.
pub(crate) const ORIGIN: i64 = 5_000 * S;
const WARMUP: i64 = S;
const DURATION: i64 = 10 * S;
const LEVEL_LENGTH: i64 = 15 * S;

/// A run of `agents` over `levels`, 10 s measured each after 1 s of warm-up.
pub(crate) fn run(seed: u64, agents: u64, levels: &[u32]) -> RunData {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut data = RunData {
        header: header(levels),
        end: Some(RunEnd { ended_utc: "2026-01-02T03:09:05Z".to_owned(), cut_short: String::new() }),
        ..RunData::default()
    };
    for n in 1..=agents {
        data.nodes.insert(n, agent(n, levels.len() as i64));
    }
    for (index, &concurrency) in levels.iter().enumerate() {
        let mut log = LevelLog {
            drive: Drive::first(index as u32),
            load: Load::Streams(concurrency),
            start_ref_ns: ORIGIN + S + index as i64 * LEVEL_LENGTH,
            ..LevelLog::default()
        };
        for of in 1..=agents {
            drive(&mut data, &mut log, of, &mut random);
        }
        data.levels.push(log);
    }
    data
}

fn header(levels: &[u32]) -> RunHeader {
    let plan = Plan {
        base_url: "http://127.0.0.1:8000".to_owned(),
        path: "/v1/chat/completions".to_owned(),
        model: "m".to_owned(),
        streaming: true,
        concurrency: levels.to_vec(),
        duration_ns: Some(DURATION),
        warmup_ns: WARMUP,
        output_len: 8,
        ..Plan::default()
    };
    RunHeader {
        name: "20260102T030405-m".to_owned(),
        started_utc: "2026-01-02T03:04:05Z".to_owned(),
        tailcliff_version: "0.1.0".to_owned(),
        started_ref_ns: ORIGIN,
        plan,
        command: vec!["tailcliff".to_owned(), "run".to_owned()],
        ..RunHeader::default()
    }
}

/// Offset of an agent's clock: raw = reference + offset.
pub(crate) fn offset(of: Incarnation) -> i64 {
    of as i64 * 1_000 * S + 12_345
}

fn agent(of: Incarnation, levels: i64) -> Node {
    let hello = v1::Hello {
        node_kind: v1::NodeKind::Agent as i32,
        name: format!("agent-{of}"),
        incarnation: of,
        host: Some(v1::HostFacts { hostname: format!("host-{of}"), shards: 1, ..Default::default() }),
        ..Default::default()
    };
    Node { hello, index: of as u32, exchanges: exchanges(of, levels), ..Node::default() }
}

/// A ping a second, 20 µs each way.
fn exchanges(of: Incarnation, levels: i64) -> Vec<Exchange> {
    let ping = |i: i64| {
        let t0 = ORIGIN + i * S;
        let t1 = t0 + 20_000 + offset(of);
        Exchange { t0, t1, t2: t1, t3: t0 + 40_000 }
    };
    (0..levels * 15 + 10).map(ping).collect()
}

/// One agent's level: its only stream (a gauge of 1) sends request after request.
fn drive(data: &mut RunData, log: &mut LevelLog, of: Incarnation, random: &mut fastrand::Rng) {
    let start = log.start_ref_ns + offset(of);
    let (mut at, mut records) = (start, Vec::new());
    while at < start + WARMUP + DURATION {
        let record = request(log.drive.level, records.len() as u64, at, start, random);
        at = record.done_raw_ns + 1;
        records.push(record);
    }
    let done = v1::LevelDone {
        level: log.drive.level,
        counts: Some(claimed(&records)),
        health: Some(health()),
        ..Default::default()
    };
    let share = v1::LoadShare { concurrency: 1, ..Default::default() };
    log.shares.insert(of, share);
    log.started.insert(of, v1::LevelStarted { level: log.drive.level, ..Default::default() });
    log.done.insert(of, done);
    let gauge =
        |i: i64| v1::InFlightSample { level: log.drive.level, raw_ns: start + i * 100 * MS, in_flight: 1 };
    let batch = v1::Batch {
        incarnation: of,
        windows: windows(&records, start),
        in_flight: (0..110).map(gauge).collect(),
        records,
        ..Default::default()
    };
    push(data, of, batch);
}

/// Adds a batch, sent at the end of its level and received 1 ms later.
pub(crate) fn push(data: &mut RunData, of: Incarnation, mut batch: v1::Batch) {
    let Some(node) = data.nodes.get_mut(&of) else { return };
    batch.seq = node.batches.len() as u64 + 1;
    let sent = ORIGIN + batch.seq as i64 * LEVEL_LENGTH;
    batch.sent_raw_ns = sent + offset(of);
    node.batch_stamps.push((batch.sent_raw_ns, sent + MS));
    node.batches.push(batch);
}

fn request(level: u32, n: u64, at: i64, start: i64, random: &mut fastrand::Rng) -> v1::RequestRecord {
    let outcome = match random.u32(0..20) {
        0 => Outcome::Failed,
        1 => Outcome::Incomplete,
        _ => Outcome::Completed,
    };
    let phase = if at < start + WARMUP { Phase::Warmup } else { Phase::Measured };
    let mut gaps = vec![random.i64(5 * MS..30 * MS)];
    gaps.extend((0..7).map(|_| random.i64(MS..15 * MS)));
    let mut arrivals = Arrivals::default();
    gaps.iter().for_each(|gap| arrivals.push(*gap as u64, 4));
    let last = at + gaps.iter().sum::<i64>();
    let failed = outcome == Outcome::Failed;
    v1::RequestRecord {
        level,
        request: n,
        phase: phase as i32,
        intended_raw_ns: at,
        issued_raw_ns: Some(at),
        sent_raw_ns: Some(at + 50_000),
        first_token_raw_ns: Some(at + gaps[0]),
        last_token_raw_ns: Some(last),
        done_raw_ns: last + 100_000,
        outcome: outcome as i32,
        error_kind: if failed { "http_status".to_owned() } else { String::new() },
        error_detail: if failed { "503, \"busy\"\nretry".to_owned() } else { String::new() },
        prompt_tokens: Some(16),
        output_tokens: Some(8),
        token_source: TokenSource::Usage as i32,
        content_chunks: 8,
        text_len: 32,
        arrivals: arrivals.into_bytes(),
        longest_gap_ns: gaps.iter().skip(1).max().copied(),
        request_id: format!("r-{level}-{n}"),
        ..Default::default()
    }
}

/// Cuts windows of 1 s by end and phase, as agents do.
pub(crate) fn windows(records: &[v1::RequestRecord], start: i64) -> Vec<v1::Window> {
    let mut cut: BTreeMap<(i64, i32), Vec<&v1::RequestRecord>> = BTreeMap::new();
    for record in records {
        cut.entry(((record.done_raw_ns - start) / S, record.phase)).or_default().push(record);
    }
    cut.into_iter().map(|((second, phase), inside)| window(start + second * S, phase, &inside)).collect()
}

fn window(start: i64, phase: i32, records: &[&v1::RequestRecord]) -> v1::Window {
    let completed: Vec<_> = records.iter().filter(|r| record::outcome(r) == Outcome::Completed).collect();
    let all = |values: Vec<i64>| {
        let mut histogram = LatencyHistogram::default();
        values.into_iter().for_each(|ns| histogram.record(ns));
        Some(histogram.to_wire())
    };
    v1::Window {
        level: records[0].level,
        phase,
        start_raw_ns: start,
        end_raw_ns: start + S,
        ttft: all(completed.iter().filter_map(|r| record::ttft_ns(r)).collect()),
        tpot: all(completed.iter().filter_map(|r| record::tpot_ns(r)).collect()),
        itl: all(completed.iter().flat_map(|r| gaps(r)).collect()),
        e2e: all(completed.iter().filter_map(|r| record::e2e_ns(r)).collect()),
        completed: completed.len() as u64,
        ..Default::default()
    }
}

/// Gaps between content chunks of one record.
pub(crate) fn gaps(record: &v1::RequestRecord) -> Vec<i64> {
    let all = tailcliff_proto::arrivals::decode(&record.arrivals);
    all.skip(1).map(|a| a.unwrap().gap_ns as i64).collect()
}

fn claimed(records: &[v1::RequestRecord]) -> v1::LevelCounts {
    v1::LevelCounts { released: records.len() as u64, ..Default::default() }
}

fn health() -> v1::ClientHealth {
    let mut lag = LatencyHistogram::default();
    (0..1000).for_each(|_| lag.record(20_000));
    v1::ClientHealth {
        cpu_ns: S,
        wall_ns: 11 * S,
        shards: 1,
        send_lag: Some(lag.to_wire()),
        scheduler_lag: Some(lag.to_wire()),
        ..Default::default()
    }
}

/// Adds a probe whose one simulated GPU was sampled every 10 ms for 2 s; the third sample lacks most fields.
pub(crate) fn add_probe(data: &mut RunData) -> Incarnation {
    let of = 99;
    let gpu = v1::GpuFacts {
        name: "NVIDIA H100".to_owned(),
        driver: "550.54".to_owned(),
        simulated: true,
        ..Default::default()
    };
    let hello = v1::Hello {
        node_kind: v1::NodeKind::GpuProbe as i32,
        name: "probe".to_owned(),
        gpus: vec![gpu],
        ..Default::default()
    };
    data.nodes.insert(of, Node { hello, exchanges: exchanges(of, 1), ..Node::default() });
    let sample = |i: i64| v1::GpuSample {
        raw_ns: ORIGIN + offset(of) + 3 * S + i * 10 * MS,
        power_instant_mw: (i != 2).then_some(312_500),
        gpu_util_pct: Some(87),
        energy_mj: Some(1_234_567),
        ..Default::default()
    };
    let host = |i: i64| v1::HostSample {
        raw_ns: ORIGIN + offset(of) + 3 * S + i * 100 * MS,
        disk_read_bytes: Some(4096 * i.unsigned_abs()),
        cpu_busy_ns: Some(i * 150 * MS),
        ..Default::default()
    };
    let batch = v1::Batch {
        gpu_samples: (0..200).map(sample).collect(),
        host_samples: (0..20).map(host).collect(),
        ..Default::default()
    };
    push(data, of, batch);
    of
}
