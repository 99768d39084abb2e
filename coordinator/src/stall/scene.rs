//! Made-up runs whose stalls have a known cause: streams on a pace of their own, a GPU whose power follows, and sensors as slow
//! as real ones. Only for tests.

use tailcliff_proto::arrivals::Arrivals;
use tailcliff_proto::v1::{self, Outcome, Phase, Signal};

use crate::axis::Load;
use crate::merge::testrun::{MS, ORIGIN, S};
use crate::stored::{Drive, LevelLog, Node, RunData, RunHeader};

use super::Verdict;

pub(super) const PROBE: u64 = 99;
/// Nothing is in flight before and after this part of a run.
const LOAD: (i64, i64) = (4 * S, 14 * S);

/// What happens, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    IdlePause,
    ExtraCompute,
    Throttle,
    Preempt,
    Hold,
    HoldAgent,
    Block,
    Stopped,
}

impl Cause {
    pub(super) const ALL: [Self; 8] = [
        Self::IdlePause,
        Self::ExtraCompute,
        Self::Throttle,
        Self::Preempt,
        Self::Hold,
        Self::HoldAgent,
        Self::Block,
        Self::Stopped,
    ];

    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self::IdlePause | Self::Preempt => Verdict::Waiting,
            Self::ExtraCompute => Verdict::ExtraCompute,
            Self::Throttle => Verdict::Throttled,
            Self::Hold | Self::HoldAgent => Verdict::Network,
            Self::Block | Self::Stopped => Verdict::Client,
        }
    }

    fn stops_server(self) -> bool {
        matches!(self, Self::IdlePause | Self::ExtraCompute | Self::Throttle)
    }
}

/// A run with one cause in it.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) cause: Cause,
    /// From the run's start, ns.
    pub(super) at: i64,
    pub(super) length: i64,
    pub(super) agents: u64,
    pub(super) shards: u32,
    pub(super) streams: u32,
    pub(super) itl: i64,
    /// Watts when idle, busy, and at extra work.
    pub(super) watts: (f64, f64, f64),
    /// Of the instant reading, ns.
    pub(super) period: i64,
    pub(super) window: i64,
    pub(super) energy_period: i64,
    /// With the driver's own samples.
    pub(super) buffer: bool,
    pub(super) reports: bool,
    pub(super) seed: u64,
}

impl Scene {
    pub(super) fn new(cause: Cause, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self {
            cause,
            at: random.i64(6 * S..8 * S),
            length: random.i64(300 * MS..1_500 * MS),
            agents: 2,
            shards: 2,
            streams: random.u32(2..5),
            itl: random.i64(8 * MS..25 * MS),
            watts: (random.i64(60..110) as f64, random.i64(250..420) as f64, random.i64(450..700) as f64),
            period: 100 * MS,
            window: 25 * MS,
            energy_period: 100 * MS,
            buffer: random.bool(),
            reports: true,
            seed,
        }
    }

    pub(super) fn draw(&self) -> RunData {
        let mut data = RunData {
            header: RunHeader { started_ref_ns: ORIGIN, ..RunHeader::default() },
            ..RunData::default()
        };
        let mut log = LevelLog {
            drive: Drive::first(0),
            load: Load::Streams(self.agents as u32 * self.shards * self.streams),
            start_ref_ns: ORIGIN + LOAD.0,
            ..LevelLog::default()
        };
        data.header.plan.concurrency = vec![1];
        data.header.plan.duration_ns = Some(LOAD.1 - LOAD.0);
        let mut random = fastrand::Rng::with_seed(self.seed ^ 1);
        for of in 1..=self.agents {
            let mut node = same_clock(v1::NodeKind::Agent, of, &format!("agent-{of}"));
            let mut batch = v1::Batch { incarnation: of, seq: 1, ..Default::default() };
            for shard in 0..self.shards {
                for stream in 0..self.streams {
                    batch.records.extend(self.stream(of, shard, stream, &mut random));
                }
                batch.loop_lags.extend(self.lag(of, shard));
            }
            node.batches.push(batch);
            data.nodes.insert(of, node);
            log.shares.insert(of, v1::LoadShare::default());
            log.done.insert(of, v1::LevelDone::default());
        }
        data.levels.push(log);
        data.domain = (String::from("boot"), 1);
        data.header.clock_domain = data.domain.clone();
        data.nodes.insert(PROBE, self.probe());
        data
    }

    /// True when this stream stands still over the cause.
    fn hits(&self, of: u64, shard: u32, stream: u32) -> bool {
        match self.cause {
            Cause::Preempt | Cause::Hold => (of, shard, stream) == (1, 0, 0),
            Cause::HoldAgent | Cause::Stopped => of == 1,
            Cause::Block => (of, shard) == (1, 0),
            cause => cause.stops_server(),
        }
    }

    fn lag(&self, of: u64, shard: u32) -> Option<v1::LoopLag> {
        let is_late = match self.cause {
            Cause::Stopped => of == 1,
            Cause::Block => (of, shard) == (1, 0),
            _ => false,
        };
        let from = ORIGIN + self.at;
        is_late.then(|| v1::LoopLag {
            level: 0,
            shard,
            from_raw_ns: from + 5 * MS,
            to_raw_ns: from + self.length,
        })
    }

    /// Requests one after another, of 100 to 300 tokens.
    fn stream(&self, of: u64, shard: u32, stream: u32, random: &mut fastrand::Rng) -> Vec<v1::RequestRecord> {
        let (mut at, mut records) = (ORIGIN + LOAD.0 + random.i64(0..self.itl), Vec::new());
        let number = shard * self.streams + stream;
        while at < ORIGIN + LOAD.1 {
            let first = at + 5 * self.itl;
            // The first stream of each loop is in mid-stream when it happens.
            let over = if stream == 0 && records.is_empty() { (self.at - LOAD.0) / self.itl } else { 0 };
            let tokens = over as usize + random.usize(150..300);
            let mut stamps: Vec<i64> =
                (0..tokens as i64).map(|i| first + i * self.itl + random.i64(0..self.itl / 8)).collect();
            stamps.retain(|stamp| *stamp < ORIGIN + LOAD.1);
            if self.hits(of, shard, stream) {
                self.bend(&mut stamps);
            }
            let done = stamps.last().copied().unwrap_or(first) + MS;
            records.push(record(at, &stamps, done, (number, shard, records.len() as u64, of)));
            at = done + 2 * MS;
        }
        records
    }

    /// The cause, in the stamps of what arrives.
    fn bend(&self, stamps: &mut [i64]) {
        let (from, to) = (ORIGIN + self.at, ORIGIN + self.at + self.length);
        for stamp in stamps.iter_mut().filter(|stamp| **stamp >= from) {
            match self.cause {
                Cause::IdlePause | Cause::ExtraCompute | Cause::Preempt | Cause::Throttle => {
                    *stamp += self.length
                }
                Cause::Hold | Cause::HoldAgent | Cause::Block | Cause::Stopped => *stamp = (*stamp).max(to),
            }
        }
    }

    /// When the last token is made: what was made later for the cause ends later.
    fn end(&self) -> i64 {
        let is_later = self.cause.stops_server() || self.cause == Cause::Preempt;
        LOAD.1 + if is_later { self.length } else { 0 }
    }

    /// Power at a time from the run's start, W.
    fn power(&self, at: i64) -> f64 {
        let (idle, busy, extra) = self.watts;
        let inside = (self.at..self.at + self.length).contains(&at);
        match self.cause {
            _ if !(LOAD.0..self.end()).contains(&at) => idle,
            Cause::IdlePause if inside => idle,
            Cause::ExtraCompute if inside => extra,
            Cause::Throttle if inside => busy * 0.8,
            _ => busy,
        }
    }

    /// Energy over [from, to], J.
    pub(super) fn energy(&self, from: i64, to: i64) -> f64 {
        let edges = [LOAD.0, self.end(), self.at, self.at + self.length];
        let mut cuts: Vec<i64> =
            edges.into_iter().filter(|edge| (from..to).contains(edge)).chain([from, to]).collect();
        cuts.sort_unstable();
        cuts.windows(2).map(|w| self.power(w[0]) * (w[1] - w[0]) as f64 / 1e9).sum()
    }

    fn mean(&self, to: i64, window: i64) -> f64 {
        self.energy(to - window, to) / (window as f64 / 1e9)
    }

    fn probe(&self) -> Node {
        let mut node = same_clock(v1::NodeKind::GpuProbe, PROBE, "probe");
        node.hello.gpus =
            vec![v1::GpuFacts { name: "made up".to_owned(), simulated: true, ..Default::default() }];
        let mut batch = v1::Batch { incarnation: PROBE, seq: 1, ..Default::default() };
        let mw = |watts: f64| Some((watts * 1e3) as u32);
        let step = |at: i64, period: i64| at.div_euclid(period) * period;
        let mut at = 0;
        while at < LOAD.1 + 4 * S {
            let inside = (self.at..self.at + self.length).contains(&at);
            let slow = self.cause == Cause::Throttle && inside;
            let working = (LOAD.0..self.end()).contains(&at) && !(self.cause == Cause::IdlePause && inside);
            let instant = self.mean(step(at, self.period), self.window);
            batch.gpu_samples.push(v1::GpuSample {
                raw_ns: ORIGIN + at,
                power_instant_mw: mw(instant),
                power_average_mw: mw(self.mean(step(at, 100 * MS), S)),
                sm_clock_mhz: Some(if slow { 600 } else { 1_980 }),
                throttle_reasons: Some(if slow { 0x44 } else { u64::from(!working) }),
                energy_mj: (at % (50 * MS) == 0)
                    .then(|| (self.energy(0, step(at, self.energy_period)) * 1e3) as u64),
                ..Default::default()
            });
            at += 10 * MS;
        }
        if self.buffer {
            let stamps: Vec<i64> = (1..(LOAD.1 + 4 * S) / (20 * MS)).map(|i| i * 20 * MS).collect();
            batch.driver_samples.push(v1::DriverSamples {
                gpu: 0,
                signal: Signal::PowerSamples as i32,
                values: stamps.iter().map(|&at| self.mean(at, 20 * MS)).collect(),
                raw_ns: stamps.into_iter().map(|at| ORIGIN + at).collect(),
                bound_ns: 100_000,
            });
        }
        if self.reports {
            batch.sensors = self.reports();
        }
        node.batches.push(batch);
        node
    }

    fn reports(&self) -> Vec<v1::SensorReport> {
        let report = |signal: Signal, period: i64, window: Option<i64>| v1::SensorReport {
            signal: signal as i32,
            period_ns: Some(period),
            period_high_ns: Some(period),
            window_ns: window,
            delay_ns: Some(0),
            ..Default::default()
        };
        vec![
            report(Signal::PowerInstant, self.period, Some(self.window)),
            report(Signal::PowerAverage, 100 * MS, Some(S)),
            report(Signal::Energy, self.energy_period, None),
            report(Signal::PowerSamples, 20 * MS, Some(20 * MS)),
            report(Signal::SmClock, 10 * MS, None),
        ]
    }
}

/// A node that reads the coordinator's own clock.
fn same_clock(kind: v1::NodeKind, of: u64, name: &str) -> Node {
    let hello =
        v1::Hello { node_kind: kind as i32, name: name.to_owned(), incarnation: of, ..Default::default() };
    let snapshot = v1::ClockSnapshot { boot_id: "boot".to_owned(), timens_inode: 1, ..Default::default() };
    Node { hello, index: of as u32, snapshots: vec![snapshot], ..Node::default() }
}

fn record(
    at: i64,
    stamps: &[i64],
    done: i64,
    (stream, shard, request, of): (u32, u32, u64, u64),
) -> v1::RequestRecord {
    let mut arrivals = Arrivals::default();
    let mut before = at;
    for &stamp in stamps {
        arrivals.push((stamp - before).unsigned_abs(), 5);
        before = stamp;
    }
    v1::RequestRecord {
        stream,
        shard,
        request,
        phase: Phase::Measured as i32,
        intended_raw_ns: at,
        issued_raw_ns: Some(at),
        sent_raw_ns: Some(at + 50_000),
        first_token_raw_ns: stamps.first().copied(),
        last_token_raw_ns: stamps.last().copied(),
        done_raw_ns: done,
        outcome: Outcome::Completed as i32,
        content_chunks: stamps.len() as u32,
        text_len: 5 * stamps.len() as u64,
        arrivals: arrivals.into_bytes(),
        request_id: format!("a{of}-s{stream}-r{request}"),
        ..Default::default()
    }
}
