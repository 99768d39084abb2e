//! The story that is told: levels past a knee, four agents with clocks of their own, a GPU, errors, and moments at which
//! the whole server stands still.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::path::Path;

use tailcliff::axis::Load;
use tailcliff::journal::{Entry, Exchanges, Fact, Journal, LevelPlanned, LevelShare, StoredBatch};
use tailcliff::plan::{CliffRule, Plan};
use tailcliff::stored::{Drive, RunEnd, RunHeader};
use tailcliff_proto::arrivals::Arrivals;
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1::{self, Outcome, Phase, TokenSource, load_share::Stop};

const MS: i64 = 1_000_000;
const S: i64 = 1_000 * MS;
/// Coordinator's clock at the start.
const ORIGIN: i64 = 5_000 * S;
const WARMUP: i64 = 2 * S;
const AGENTS: u64 = 4;
const PROBE: u64 = 99;
const LEVELS: [u32; 7] = [16, 32, 64, 128, 256, 512, 1024];
/// Streams that the server decodes at once.
const SLOTS: f64 = 128.0;
/// Records of a batch, and GPU samples.
const BATCH: usize = 2_000;
/// The server stands still so long, each time so much later.
const PAUSE: (i64, i64) = (724 * MS, 211 * S);

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) requests: u64,
    pub(crate) tokens: u64,
    pub(crate) samples: u64,
}

/// Writes the journal of the run.
pub(crate) fn write(dir: &Path, requests: u64, tokens: u32) -> anyhow::Result<Told> {
    std::fs::create_dir_all(dir)?;
    let mut writer = Writer { journal: Journal::create(dir)?, seq: BTreeMap::new(), told: Told::default() };
    writer.put(0, Fact::Header(serde_json::to_string(&header(tokens))?))?;
    for of in 1..=AGENTS {
        writer.put(of, Fact::Hello(hello(of)))?;
    }
    writer.put(PROBE, Fact::Hello(probe()))?;
    let mut random = fastrand::Rng::with_seed(7);
    let mut start = ORIGIN + 3 * S;
    for (level, streams) in LEVELS.into_iter().enumerate() {
        // A little more: what a level's time comes to is known on average only.
        let share = 1.08 * requests as f64 / LEVELS.len() as f64;
        let seconds = share * mean_s(streams, tokens) / f64::from(streams);
        let length = (seconds.max(1.0) * S as f64) as i64;
        start = drive(&mut writer, &mut random, (level as u32, streams), (start, length), tokens)?;
    }
    samples(&mut writer, start)?;
    for of in (1..=AGENTS).chain([PROBE]) {
        writer.put(of, Fact::Exchanges(exchanges(of, start, &mut random)))?;
    }
    let end = RunEnd { ended_utc: "2026-01-02T04:04:05Z".to_owned(), cut_short: String::new() };
    writer.put(0, Fact::End(serde_json::to_string(&end)?))?;
    writer.journal.close()?;
    Ok(writer.told)
}

struct Writer {
    journal: Journal,
    seq: BTreeMap<u64, u64>,
    told: Told,
}

impl Writer {
    fn put(&mut self, incarnation: u64, fact: Fact) -> anyhow::Result<()> {
        Ok(self.journal.append(Entry { incarnation, fact: Some(fact) }, None)?)
    }

    /// A batch that a node sent at this moment of the coordinator's clock.
    fn batch(&mut self, of: u64, mut batch: v1::Batch, at: i64) -> anyhow::Result<()> {
        let seq = self.seq.entry(of).or_default();
        *seq += 1;
        (batch.incarnation, batch.seq, batch.sent_raw_ns) = (of, *seq, at + offset(of));
        self.told.requests += batch.records.len() as u64;
        self.told.tokens += batch.records.iter().filter_map(|record| record.output_tokens).sum::<u64>();
        self.told.samples += batch.gpu_samples.len() as u64;
        self.put(of, Fact::Batch(StoredBatch { batch: Some(batch), received_ref_ns: at + 2 * MS }))
    }
}

/// Of a node's clock: raw = reference + offset.
fn offset(of: u64) -> i64 {
    of as i64 * 1_000 * S + 12_345
}

fn header(tokens: u32) -> RunHeader {
    let plan = Plan {
        base_url: "http://127.0.0.1:8000".to_owned(),
        path: "/v1/chat/completions".to_owned(),
        endpoint_type: "chat".to_owned(),
        model: "made-up".to_owned(),
        streaming: true,
        concurrency: LEVELS.to_vec(),
        warmup_ns: WARMUP,
        duration_ns: Some(60 * S),
        output_len: tokens,
        cliff: CliffRule::default(),
        metadata: vec![("server".to_owned(), "made up by a generator (SIMULATED)".to_owned())],
        ..Plan::default()
    };
    RunHeader {
        name: "bigrun-simulated".to_owned(),
        started_utc: "2026-01-02T03:04:05Z".to_owned(),
        tailcliff_version: env!("CARGO_PKG_VERSION").to_owned(),
        started_ref_ns: ORIGIN,
        plan,
        command: vec!["bigrun".to_owned()],
        ..RunHeader::default()
    }
}

fn hello(of: u64) -> v1::Hello {
    v1::Hello {
        node_kind: v1::NodeKind::Agent as i32,
        name: format!("agent-{of}"),
        incarnation: of,
        host: Some(v1::HostFacts {
            hostname: format!("host-{of}"),
            cores: 16,
            shards: 4,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn probe() -> v1::Hello {
    let gpu = v1::GpuFacts {
        name: "SIMULATED GPU".to_owned(),
        driver: "0".to_owned(),
        memory_bytes: 80 << 30,
        simulated: true,
        ..Default::default()
    };
    v1::Hello {
        node_kind: v1::NodeKind::GpuProbe as i32,
        name: "probe-1".to_owned(),
        incarnation: PROBE,
        gpus: vec![gpu],
        ..Default::default()
    }
}

/// A ping a second, 100 µs or a little more each way.
fn exchanges(of: u64, until: i64, random: &mut fastrand::Rng) -> Exchanges {
    let mut stamps_ns = Vec::new();
    for t0 in (ORIGIN..until + 5 * S).step_by(S as usize) {
        let (there, back) = (100_000 + random.i64(0..60_000), 100_000 + random.i64(0..60_000));
        let t1 = t0 + there + offset(of);
        stamps_ns.extend([t0, t1, t1 + 1_000, t0 + there + 1_000 + back]);
    }
    Exchanges { stamps_ns }
}

/// Time between two tokens at this many streams.
fn itl_s(streams: u32) -> f64 {
    0.006 + 0.00004 * f64::from(streams).min(SLOTS)
}

/// Mean time of a request: beyond the slots, requests wait for the others' turns.
fn mean_s(streams: u32, tokens: u32) -> f64 {
    let served = 0.03 + itl_s(streams) * f64::from(tokens - 1);
    served * (f64::from(streams) / SLOTS).max(1.0)
}

/// One level of all agents; when the next may start.
fn drive(
    writer: &mut Writer,
    random: &mut fastrand::Rng,
    (level, streams): (u32, u32),
    (start, length): (i64, i64),
    tokens: u32,
) -> anyhow::Result<i64> {
    let planned = LevelPlanned::new(Drive::first(level), Load::Streams(streams), start);
    writer.put(0, Fact::Level(planned))?;
    let mut end = start;
    for of in 1..=AGENTS {
        let share = v1::LoadShare {
            concurrency: streams / AGENTS as u32,
            stop: Some(Stop::DurationNs(length)),
            warmup_ns: WARMUP,
            ..Default::default()
        };
        writer.put(of, Fact::Share(LevelShare { level, share: Some(share) }))?;
        let mut agent = Agent::new(of, level, (start, length));
        agent.load(writer, random, streams, tokens)?;
        end = end.max(agent.last);
        let done = v1::LevelDone {
            level,
            counts: Some(agent.counts),
            health: Some(health(length)),
            ..Default::default()
        };
        let started = v1::LevelStarted {
            level,
            asked_raw_ns: start + offset(of),
            actual_raw_ns: start + offset(of),
            ..Default::default()
        };
        writer.put(of, Fact::Started(started))?;
        writer.put(of, Fact::Done(done))?;
    }
    Ok(end + 2 * S)
}

/// One agent within one level.
struct Agent {
    of: u64,
    level: u32,
    start: i64,
    length: i64,
    batch: v1::Batch,
    windows: BTreeMap<(i64, i32), Cut>,
    counts: v1::LevelCounts,
    last: i64,
}

/// Histograms of one second.
#[derive(Default)]
struct Cut {
    parts: [LatencyHistogram; 4],
    completed: u64,
    failed: u64,
    tokens: u64,
}

impl Agent {
    fn new(of: u64, level: u32, (start, length): (i64, i64)) -> Self {
        let (batch, windows, counts) = Default::default();
        Self { of, level, start, length, batch, windows, counts, last: start }
    }

    fn load(
        &mut self,
        writer: &mut Writer,
        random: &mut fastrand::Rng,
        streams: u32,
        tokens: u32,
    ) -> anyhow::Result<()> {
        let own = streams / AGENTS as u32;
        let mut free: BinaryHeap<_> = (0..own).map(|stream| Reverse((self.start, stream, 0u64))).collect();
        let (to, mut gauged) = (self.start + WARMUP + self.length, self.start);
        while let Some(Reverse((at, stream, number))) = free.pop() {
            if at >= to {
                break;
            }
            while gauged <= at {
                let raw_ns = gauged + offset(self.of);
                self.batch.in_flight.push(v1::InFlightSample { level: self.level, raw_ns, in_flight: own });
                gauged += 100 * MS;
            }
            let record = self.request(random, (stream, number), (at, streams), tokens);
            let done = record.done_raw_ns - offset(self.of);
            free.push(Reverse((done + 50_000, stream, number + 1)));
            self.take(record, done);
            if self.batch.records.len() >= BATCH {
                self.send(writer, at)?;
            }
        }
        self.send(writer, i64::MAX)
    }

    /// One request, in raw stamps of the agent.
    fn request(
        &self,
        random: &mut fastrand::Rng,
        (stream, number): (u32, u64),
        (at, streams): (i64, u32),
        tokens: u32,
    ) -> v1::RequestRecord {
        let phase = if at < self.start + WARMUP { Phase::Warmup } else { Phase::Measured };
        let raw = at + offset(self.of);
        let spread = |random: &mut fastrand::Rng, s: f64| {
            (s * S as f64 * (0.8 + 0.25 * -(1.0 - random.f64()).ln())) as i64
        };
        let queue = mean_s(streams, tokens) - mean_s(streams.min(SLOTS as u32), tokens);
        let mut now = at + spread(random, 0.03 + queue);
        let first = paused(at, now);
        let mut arrivals = Arrivals::default();
        arrivals.push(first.abs_diff(at), 4);
        let (mut longest, mut before) = (0, first);
        now = first;
        for _ in 1..tokens {
            now = paused(now, now + spread(random, itl_s(streams)));
            arrivals.push(now.abs_diff(before), 4);
            longest = longest.max(now - before);
            before = now;
        }
        let is_failed = random.f64() < 0.0005 * f64::from(streams) / SLOTS;
        let outcome = if is_failed { Outcome::Failed } else { Outcome::Completed };
        let place = |ns: i64| Some(ns + offset(self.of));
        v1::RequestRecord {
            level: self.level,
            stream: stream + (self.of as u32 - 1) * streams / AGENTS as u32,
            request: number,
            phase: phase as i32,
            intended_raw_ns: raw,
            issued_raw_ns: Some(raw + 5_000),
            connected_raw_ns: Some(raw + 20_000),
            sent_raw_ns: Some(raw + 60_000),
            headers_raw_ns: Some(raw + 2 * MS),
            first_chunk_raw_ns: place(first),
            first_token_raw_ns: place(first),
            last_token_raw_ns: place(now),
            last_chunk_raw_ns: place(now),
            done_raw_ns: now + offset(self.of) + 100_000,
            outcome: outcome as i32,
            error_kind: if is_failed { "truncated".to_owned() } else { String::new() },
            error_detail: if is_failed {
                "<script>alert('made up')</script> & closed".to_owned()
            } else {
                String::new()
            },
            http_status: Some(200),
            reused_connection: true,
            prompt_tokens: Some(128),
            output_tokens: Some(u64::from(tokens)),
            token_source: TokenSource::Usage as i32,
            content_chunks: tokens,
            text_len: u64::from(tokens) * 4,
            arrivals: arrivals.into_bytes(),
            longest_gap_ns: Some(longest),
            request_id: format!("{:x}-{}-{stream}-{number}", self.of, self.level),
            ..Default::default()
        }
    }

    fn take(&mut self, record: v1::RequestRecord, done: i64) {
        self.last = self.last.max(done);
        self.counts.released += 1;
        let cut = self.windows.entry(((done - self.start) / S, record.phase)).or_default();
        if record.outcome == Outcome::Completed as i32 {
            self.counts.completed += 1;
            cut.completed += 1;
            cut.tokens += record.output_tokens.unwrap_or(0);
            let (first, last) =
                (record.first_token_raw_ns.unwrap_or(0), record.last_token_raw_ns.unwrap_or(0));
            let [ttft, itl, tpot, e2e] = &mut cut.parts;
            ttft.record(first - record.intended_raw_ns);
            tpot.record((last - first) / (i64::from(record.content_chunks) - 1));
            e2e.record(record.done_raw_ns - record.intended_raw_ns);
            let gaps = tailcliff_proto::arrivals::decode(&record.arrivals).skip(1).flatten();
            gaps.for_each(|gap| itl.record(gap.gap_ns as i64));
        } else {
            self.counts.failed += 1;
            cut.failed += 1;
        }
        self.batch.records.push(record);
    }

    /// What is full, with the windows that no later request can end in.
    fn send(&mut self, writer: &mut Writer, now: i64) -> anyhow::Result<()> {
        let second = (now.saturating_sub(self.start)) / S;
        let open = self.windows.split_off(&(second, 0));
        let closed = std::mem::replace(&mut self.windows, open);
        self.batch.windows = closed.into_iter().map(|(at, cut)| self.window(at, &cut)).collect();
        let batch = std::mem::take(&mut self.batch);
        writer.batch(self.of, batch, self.last)
    }

    fn window(&self, (second, phase): (i64, i32), cut: &Cut) -> v1::Window {
        let start_raw_ns = self.start + second * S + offset(self.of);
        let [ttft, itl, tpot, e2e] = cut.parts.each_ref().map(|part| Some(part.to_wire()));
        v1::Window {
            level: self.level,
            phase,
            start_raw_ns,
            end_raw_ns: start_raw_ns + S,
            ttft,
            itl,
            tpot,
            e2e,
            completed: cut.completed,
            failed: cut.failed,
            output_tokens: cut.tokens,
        }
    }
}

/// The next moment of a stream when the server may stand still on the way to it.
fn paused(from: i64, to: i64) -> i64 {
    let (long, every) = PAUSE;
    let next = from.div_euclid(every) * every + every;
    if from < next && next <= to { to + long } else { to }
}

fn health(wall_ns: i64) -> v1::ClientHealth {
    let mut lag = LatencyHistogram::default();
    (0..1000).for_each(|i| lag.record(20_000 + i * 10));
    v1::ClientHealth {
        cpu_ns: wall_ns / 4,
        wall_ns,
        shards: 4,
        send_lag: Some(lag.to_wire()),
        scheduler_lag: Some(lag.to_wire()),
        socket_wait: Some(lag.to_wire()),
        ..Default::default()
    }
}

/// A GPU that idles while the server stands still, each 10 ms.
fn samples(writer: &mut Writer, until: i64) -> anyhow::Result<()> {
    let mut batch = v1::Batch::default();
    for at in (ORIGIN..until).step_by(10 * MS as usize) {
        // Idle before the load, and while the server stands still.
        let still = at < ORIGIN + 2 * S || at.rem_euclid(PAUSE.1) < PAUSE.0;
        let wave = (at / (50 * MS)).rem_euclid(7) as u32;
        batch.gpu_samples.push(v1::GpuSample {
            raw_ns: at + offset(PROBE),
            power_instant_mw: Some(if still { 90_000 } else { 540_000 + wave * 8_000 }),
            gpu_util_pct: Some(if still { 0 } else { 93 + wave }),
            sm_clock_mhz: Some(1_980),
            ..Default::default()
        });
        if batch.gpu_samples.len() >= BATCH {
            writer.batch(PROBE, std::mem::take(&mut batch), at)?;
        }
    }
    writer.batch(PROBE, batch, until)
}
