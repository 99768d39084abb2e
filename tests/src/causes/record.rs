//! The journal that one agent and one probe would have left of a scene: same clock, raw stamps, histograms cut into windows
//! of a second.

use std::collections::BTreeMap;

use model_sim::{GpuLevels, WorldLevel, WorldRequest};
use tailcliff::axis::Load;
use tailcliff::plan::Plan;
use tailcliff::stored::{Drive, LevelLog, Node, RunData, RunEnd, RunHeader};
use tailcliff_proto::arrivals::Arrivals;
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1::{self, Outcome, Phase, TokenSource};

use super::Scene;

const MS: i64 = 1_000_000;
const S: i64 = 1_000 * MS;
const ORIGIN: i64 = 5_000 * S;
/// Nothing is in flight between two levels.
const REST: i64 = 2 * S;
const AGENT: u64 = 1;
const PROBE: u64 = 9;
const GPU_EVERY: i64 = 20 * MS;
const HOST_EVERY: i64 = 200 * MS;

/// Of all levels, in the order driven.
pub(super) fn run_data(scene: &Scene, levels: &[(usize, WorldLevel)]) -> RunData {
    let domain = (String::from("boot"), 1);
    let mut data = RunData {
        header: RunHeader {
            name: "simulated".to_owned(),
            started_ref_ns: ORIGIN,
            clock_domain: domain.clone(),
            plan: plan(scene),
            ..RunHeader::default()
        },
        end: Some(RunEnd::default()),
        domain,
        ..RunData::default()
    };
    let mut agent = node(v1::NodeKind::Agent, AGENT, "agent");
    let (mut probe, mut sent) = (v1::Batch { incarnation: PROBE, seq: 1, ..Default::default() }, 0);
    for (i, (clients, level)) in levels.iter().enumerate() {
        let start = ORIGIN + REST + i as i64 * (scene.until_ns() + REST);
        let (batch, log) = drive(scene, i as u32, *clients, level, start);
        agent.batches.push(batch);
        data.levels.push(log);
        sent = see(scene, level, start, sent, &mut probe);
    }
    data.nodes.insert(AGENT, agent);
    if scene.signals.gpu || scene.signals.nic {
        let mut node = node(v1::NodeKind::GpuProbe, PROBE, "probe");
        node.hello.gpus = vec![v1::GpuFacts { simulated: true, ..Default::default() }];
        node.batches.push(probe);
        data.nodes.insert(PROBE, node);
    }
    data
}

fn plan(scene: &Scene) -> Plan {
    let mut plan = Plan {
        base_url: "http://server:8000".to_owned(),
        streaming: true,
        concurrency: scene.ladder.iter().map(|n| *n as u32).collect(),
        duration_ns: Some(scene.duration_ns),
        warmup_ns: scene.warmup_ns,
        ..Plan::default()
    };
    if scene.world.chunk_bytes > 1_000 {
        plan.extra_body = Some(serde_json::json!({ "logprobs": true, "top_logprobs": 20 }));
    }
    if scene.signals.nic {
        // A link that is none is a fast one.
        let bytes = scene.world.link.map_or(1.25e9, |link| link.bytes_per_s);
        plan.metadata.push(("link_mbit_s".to_owned(), (bytes * 8.0 / 1e6).to_string()));
    }
    plan
}

fn node(kind: v1::NodeKind, of: u64, name: &str) -> Node {
    let hello = v1::Hello {
        node_kind: kind as i32,
        name: name.to_owned(),
        incarnation: of,
        host: Some(v1::HostFacts { hostname: name.to_owned(), shards: 1, ..Default::default() }),
        ..Default::default()
    };
    let snapshot = v1::ClockSnapshot { boot_id: "boot".to_owned(), timens_inode: 1, ..Default::default() };
    Node { hello, snapshots: vec![snapshot], ..Node::default() }
}

fn drive(
    scene: &Scene,
    number: u32,
    clients: usize,
    level: &WorldLevel,
    start: i64,
) -> (v1::Batch, LevelLog) {
    let mut counts = BTreeMap::<usize, u64>::new();
    let records: Vec<v1::RequestRecord> = level
        .requests
        .iter()
        .map(|request| {
            let n = counts.entry(request.client).or_default();
            *n += 1;
            record(scene, number, *n - 1, request, start)
        })
        .collect();
    let mut log = LevelLog {
        drive: Drive::first(number),
        load: Load::Streams(clients as u32),
        start_ref_ns: start,
        ..LevelLog::default()
    };
    log.shares.insert(AGENT, v1::LoadShare { concurrency: clients as u32, ..Default::default() });
    log.started.insert(AGENT, v1::LevelStarted { level: number, actual_raw_ns: start, ..Default::default() });
    let done = v1::LevelDone {
        level: number,
        counts: Some(v1::LevelCounts { released: records.len() as u64, ..Default::default() }),
        health: Some(health(scene, level)),
        ..Default::default()
    };
    log.done.insert(AGENT, done);
    let gauge = |i: i64| v1::InFlightSample {
        level: number,
        raw_ns: start + i * 100 * MS,
        in_flight: clients as u32,
    };
    let batch = v1::Batch {
        incarnation: AGENT,
        seq: u64::from(number) + 1,
        windows: windows(&records, number, start),
        in_flight: (0..scene.until_ns() / (100 * MS)).map(gauge).collect(),
        records,
        ..Default::default()
    };
    (batch, log)
}

fn record(scene: &Scene, level: u32, number: u64, request: &WorldRequest, start: i64) -> v1::RequestRecord {
    let at = |ns: i64| start + ns;
    let mut arrivals = Arrivals::default();
    let (mut before, mut longest) = (request.sent_ns, None);
    for (i, token) in request.tokens.iter().enumerate() {
        let gap = token.read_ns - before;
        arrivals.push(gap.unsigned_abs(), 4);
        if i > 0 {
            longest = longest.max(Some(gap));
        }
        before = token.read_ns;
    }
    let (first, last) = (request.tokens.first(), request.tokens.last());
    let end = if request.done { last.map_or(scene.until_ns(), |t| t.read_ns) } else { scene.until_ns() };
    let phase = if request.sent_ns < scene.warmup_ns { Phase::Warmup } else { Phase::Measured };
    let trip = 2 * scene.world.one_way_ns;
    v1::RequestRecord {
        level,
        stream: request.client as u32,
        request: number,
        phase: phase as i32,
        intended_raw_ns: at(request.sent_ns),
        issued_raw_ns: Some(at(request.sent_ns)),
        connected_raw_ns: Some(at(request.sent_ns + if request.first { trip } else { 0 })),
        sent_raw_ns: Some(at(request.sent_ns + if request.first { trip } else { 0 } + 20_000)),
        headers_raw_ns: request.head_ns.map(at),
        first_chunk_raw_ns: first.map(|t| at(t.read_ns)),
        first_token_raw_ns: first.map(|t| at(t.read_ns)),
        last_token_raw_ns: last.map(|t| at(t.read_ns)),
        last_chunk_raw_ns: last.map(|t| at(t.read_ns)),
        done_raw_ns: at(end),
        outcome: if request.done { Outcome::Completed } else { Outcome::Incomplete } as i32,
        reused_connection: !request.first,
        prompt_tokens: Some(request.prompt_tokens),
        output_tokens: Some(request.tokens.len() as u64),
        token_source: TokenSource::Usage as i32,
        content_chunks: request.tokens.len() as u32,
        text_len: 4 * request.tokens.len() as u64,
        arrivals: arrivals.into_bytes(),
        longest_gap_ns: longest,
        request_id: format!("l{level}-c{}-r{number}", request.client),
        ..Default::default()
    }
}

/// By the second of the end and the phase, as agents cut them.
fn windows(records: &[v1::RequestRecord], level: u32, start: i64) -> Vec<v1::Window> {
    let mut cut = BTreeMap::<(i64, i32), Vec<&v1::RequestRecord>>::new();
    for record in records.iter().filter(|r| r.outcome == Outcome::Completed as i32) {
        cut.entry(((record.done_raw_ns - start) / S, record.phase)).or_default().push(record);
    }
    let window = |((second, phase), records): ((i64, i32), Vec<&v1::RequestRecord>)| {
        let mut all = <[LatencyHistogram; 4]>::default();
        for record in &records {
            let (first, last) =
                (record.first_token_raw_ns.unwrap_or(0), record.last_token_raw_ns.unwrap_or(0));
            all[0].record(first - record.intended_raw_ns);
            let steps = i64::from(record.content_chunks) - 1;
            if steps > 0 {
                all[1].record((last - first) / steps);
            }
            let gaps = tailcliff_proto::arrivals::decode(&record.arrivals).map_while(Result::ok).skip(1);
            gaps.for_each(|gap| all[2].record(gap.gap_ns as i64));
            all[3].record(record.done_raw_ns - record.intended_raw_ns);
        }
        let [ttft, tpot, itl, e2e] = all.map(|histogram| Some(histogram.to_wire()));
        v1::Window {
            level,
            phase,
            start_raw_ns: start + second * S,
            end_raw_ns: start + (second + 1) * S,
            ttft,
            tpot,
            itl,
            e2e,
            completed: records.len() as u64,
            ..Default::default()
        }
    };
    cut.into_iter().map(window).collect()
}

/// What the client would tell of itself: its thread's time, and how long what had come lay in its sockets.
fn health(scene: &Scene, level: &WorldLevel) -> v1::ClientHealth {
    let (mut waits, mut lag) = (LatencyHistogram::default(), LatencyHistogram::default());
    level
        .requests
        .iter()
        .flat_map(|r| &r.tokens)
        .for_each(|t| waits.record((t.read_ns - t.arrived_ns).max(1)));
    (0..1000).for_each(|_| lag.record(20_000));
    v1::ClientHealth {
        cpu_ns: level.client_busy_ns.min(scene.until_ns()),
        wall_ns: scene.until_ns(),
        shards: 1,
        send_lag: Some(lag.to_wire()),
        scheduler_lag: Some(lag.to_wire()),
        socket_wait: Some(waits.to_wire()),
        ..Default::default()
    }
}

/// What a probe reads over a level and the rest before it; gives the bytes sent by its end.
fn see(scene: &Scene, level: &WorldLevel, start: i64, sent: u64, batch: &mut v1::Batch) -> u64 {
    if scene.signals.gpu {
        let idle = level.gpu.iter().map(|(_, shown)| shown.power_w).min().unwrap_or(80).min(90);
        let rest = GpuLevels { power_w: idle, util: 0, sm_mhz: 1980, mem_util: 0, throttle: 1 };
        let mut at = -REST;
        while at < scene.until_ns() {
            let next = level.gpu.partition_point(|(from, _)| *from <= at);
            let shown = next.checked_sub(1).and_then(|i| level.gpu.get(i)).map_or(rest, |(_, shown)| *shown);
            batch.gpu_samples.push(v1::GpuSample {
                raw_ns: start + at,
                power_instant_mw: Some(shown.power_w * 1_000),
                gpu_util_pct: Some(shown.util),
                sm_clock_mhz: Some(shown.sm_mhz),
                throttle_reasons: Some(u64::from(shown.throttle)),
                ..Default::default()
            });
            at += GPU_EVERY;
        }
    }
    let mut total = sent;
    if scene.signals.nic {
        let mut at = 0;
        while at < scene.until_ns() {
            let next = level.sent_bytes.partition_point(|(from, _)| *from <= at);
            let bytes =
                next.checked_sub(1).and_then(|i| level.sent_bytes.get(i)).map_or(0, |(_, bytes)| *bytes);
            total = sent + bytes;
            batch.host_samples.push(v1::HostSample {
                raw_ns: start + at,
                net_tx_bytes: Some(total),
                ..Default::default()
            });
            at += HOST_EVERY;
        }
    }
    total
}
