//! What trace mode says of a level, over all agents: stages of a request, whose time it was, how late threads were. Pure,
//! and used by the live view and the merge alike. Histograms are added, percentiles never averaged.

use std::collections::{BTreeMap, BTreeSet};

use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1::{self, TraceStage};

/// A worker whose p99 reaches this is hot, ns.
pub const HOT_NS: u64 = 5_000_000;
/// Workers shown at most.
pub const WORST_WORKERS: usize = 16;
/// Threads of one agent that are believed.
const MOST_THREADS: usize = 4_096;

/// Whose time a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Our own code.
    Client,
    /// Making a connection.
    Network,
    /// The server and the way to it.
    Server,
    /// All together.
    All,
}

impl Side {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Network => "network",
            Side::Server => "server",
            Side::All => "",
        }
    }
}

/// The stages of a request in their order, then the whole: key in files, words, whose.
pub const LIFECYCLE: [(TraceStage, &str, &str, Side); 9] = [
    (TraceStage::Queue, "hand_over", "hand-over to a shard", Side::Client),
    (TraceStage::Acquire, "acquire", "connection reused", Side::Client),
    (TraceStage::Connect, "connect", "connection new", Side::Network),
    (TraceStage::Write, "write", "payload written", Side::Client),
    (TraceStage::Headers, "headers", "headers received", Side::Server),
    (TraceStage::FirstChunk, "first_chunk", "first chunk", Side::Server),
    (TraceStage::Stream, "last_chunk", "last chunk", Side::Server),
    (TraceStage::Finish, "complete", "complete", Side::Client),
    (TraceStage::E2e, "e2e", "E2E", Side::All),
];

/// A distribution: merged histogram with exact sum and range.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    histogram: LatencyHistogram,
    sum_ns: u64,
    range_ns: Option<(u64, u64)>,
}

/// N, average, range and percentiles, ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Values.
    pub n: u64,
    /// Exact mean.
    pub mean_ns: f64,
    /// Smallest.
    pub min_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// Largest.
    pub max_ns: u64,
}

/// One stage over all agents.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Name in files.
    pub key: &'static str,
    /// Name for people.
    pub words: &'static str,
    /// Whose time it is.
    pub side: Side,
    /// Its distribution; `None` where no request had it.
    pub figures: Option<Figures>,
    /// Its share of all requests' E2E.
    pub share: Option<f64>,
}

/// A thread's lag.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Its agent.
    pub agent: String,
    /// Its shard; `None` for the control thread.
    pub shard: Option<u32>,
    /// How late it was.
    pub figures: Figures,
}

/// Whose time E2E was; the three shares add up to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Ours.
    pub client: f64,
    /// Connections being made.
    pub network: f64,
    /// The server's.
    pub server: f64,
    /// Waiting inside our own client: part of `client`.
    pub backpressure: f64,
    /// What the client's share is made of: key, words, share; `None` where it was not measured.
    pub parts: Vec<(&'static str, &'static str, Option<f64>)>,
}

/// Everything told of one level.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    stages: BTreeMap<i32, Sum>,
    shares: v1::TraceShares,
    /// All requests of the measured phase.
    pub counts: v1::TraceCounts,
    workers: Vec<Worker>,
    worker_lag: LatencyHistogram,
    connections: BTreeMap<String, u32>,
    /// Samples that agents had no room for.
    pub dropped_events: u64,
    /// Stages with stamps out of order, shown as 0.
    pub impossible: u64,
    /// Histograms that could not be read.
    pub unreadable: u64,
    /// Agents that told something.
    pub agents: u64,
    /// Agents whose last word is in.
    pub finals: u64,
}

impl Trace {
    /// Adds what an agent told last.
    pub fn add(&mut self, agent: &str, told: &v1::Telemetry) {
        self.agents += 1;
        self.finals += u64::from(told.is_final);
        let counts = told.counts.unwrap_or_default();
        // A broken agent may claim any number.
        for (sum, part) in [
            (&mut self.counts.issued, counts.issued),
            (&mut self.counts.completed, counts.completed),
            (&mut self.counts.failed, counts.failed),
            (&mut self.counts.incomplete, counts.incomplete),
            (&mut self.counts.output_tokens, counts.output_tokens),
            (&mut self.dropped_events, told.dropped_events),
            (&mut self.impossible, told.impossible),
        ] {
            *sum = sum.saturating_add(part);
        }
        let shares = told.shares.unwrap_or_default();
        for (sum, part) in [
            (&mut self.shares.client_ns, shares.client_ns),
            (&mut self.shares.network_ns, shares.network_ns),
            (&mut self.shares.server_ns, shares.server_ns),
            (&mut self.shares.backpressure_ns, shares.backpressure_ns),
        ] {
            *sum = sum.saturating_add(part);
        }
        let mut seen = BTreeSet::new();
        for stage in told.stages.iter().filter(|stage| seen.insert(stage.stage)) {
            self.stage(stage);
        }
        self.lags(agent, told);
        if let Some(here) = told.tcp_established {
            let most = self.connections.entry(told.tcp_scope.clone()).or_default();
            *most = here.max(*most);
        }
    }

    fn stage(&mut self, told: &v1::StageTrace) {
        let known = TraceStage::try_from(told.stage).is_ok_and(|stage| stage != TraceStage::Unspecified);
        let histogram = told.histogram.as_ref().map(LatencyHistogram::try_from);
        let (true, Some(Ok(histogram))) = (known, histogram) else {
            self.unreadable += 1;
            return;
        };
        let sum = self.stages.entry(told.stage).or_default();
        sum.histogram.add(&histogram);
        sum.sum_ns = sum.sum_ns.saturating_add(told.sum_ns);
        let (min, max) = sum.range_ns.unwrap_or((u64::MAX, 0));
        sum.range_ns = Some((min.min(told.min_ns), max.max(told.max_ns)));
    }

    fn lags(&mut self, agent: &str, told: &v1::Telemetry) {
        for worker in told.workers.iter().take(MOST_THREADS) {
            let figures = Figures {
                n: worker.n,
                mean_ns: worker.mean_ns,
                min_ns: worker.min_ns,
                p50_ns: worker.p50_ns,
                p99_ns: worker.p99_ns,
                max_ns: worker.max_ns,
            };
            self.workers.push(Worker { agent: agent.to_owned(), shard: worker.shard, figures });
        }
        match told.worker_lag.as_ref().map(LatencyHistogram::try_from) {
            Some(Ok(histogram)) => self.worker_lag.add(&histogram),
            Some(Err(_)) => self.unreadable += 1,
            None => {}
        }
    }

    /// A stage's distribution; `None` where no request had it.
    pub fn figures(&self, stage: TraceStage) -> Option<Figures> {
        self.stages.get(&(stage as i32))?.figures()
    }

    /// The stages in the order of a request's life, then E2E.
    pub fn stages(&self) -> Vec<Stage> {
        let of = |&(stage, key, words, side)| {
            let share = self.share(stage);
            Stage { key, words, side, figures: self.figures(stage), share }
        };
        LIFECYCLE.iter().map(of).collect()
    }

    fn sum_ns(&self, stage: TraceStage) -> Option<u64> {
        self.stages.get(&(stage as i32)).map(|sum| sum.sum_ns)
    }

    fn share(&self, stage: TraceStage) -> Option<f64> {
        let all = self.sum_ns(TraceStage::E2e).filter(|&ns| ns > 0)?;
        Some(self.sum_ns(stage)? as f64 / all as f64)
    }

    /// Whose time it was; `None` before the first completed request.
    pub fn verdict(&self) -> Option<Verdict> {
        let s = &self.shares;
        let all = s.client_ns as f64 + s.network_ns as f64 + s.server_ns as f64;
        if all <= 0.0 {
            return None;
        }
        let write = self.share(TraceStage::Write);
        let encode = self.share(TraceStage::Encode);
        // What the write took beyond the encoding; without that, the write is all that is known.
        let rest = write.map(|write| (write - encode.unwrap_or(0.0)).max(0.0));
        let part = |stage| self.share(stage);
        Some(Verdict {
            client: s.client_ns as f64 / all,
            network: s.network_ns as f64 / all,
            server: s.server_ns as f64 / all,
            backpressure: s.backpressure_ns as f64 / all,
            parts: vec![
                ("hand_over", "hand-over, wait for shard", part(TraceStage::Queue)),
                ("acquire", "connection acquire", part(TraceStage::Acquire)),
                ("encode", "encode", encode),
                ("socket_write", "socket write", rest),
                ("socket_wait", "socket wait: we read late", part(TraceStage::SocketWait)),
                ("decode", "SSE decode", part(TraceStage::Decode)),
                ("final_decode", "final decode", part(TraceStage::Finish)),
            ],
        })
    }

    /// The control threads, and the worst workers by their longest lag.
    pub fn worst_threads(&self) -> (Vec<&Worker>, Vec<&Worker>) {
        let by_max = |a: &&Worker, b: &&Worker| b.figures.max_ns.cmp(&a.figures.max_ns);
        let (mut workers, mut control): (Vec<_>, Vec<_>) =
            self.workers.iter().partition(|w| w.shard.is_some());
        workers.sort_by(by_max);
        control.sort_by(by_max);
        workers.truncate(WORST_WORKERS);
        (control, workers)
    }

    /// Workers that told something.
    pub fn worker_count(&self) -> usize {
        self.workers.iter().filter(|w| w.shard.is_some()).count()
    }

    /// Workers whose p99 reaches 5 ms.
    pub fn hot_workers(&self) -> usize {
        self.workers.iter().filter(|w| w.shard.is_some() && w.figures.p99_ns >= HOT_NS).count()
    }

    /// p99 over every beat of every worker, ns.
    pub fn fleet_p99_ns(&self) -> Option<u64> {
        self.worker_lag.quantile_ns(0.99)
    }

    /// Established connections to the target; agents that share a network namespace see the same ones.
    pub fn tcp_established(&self) -> Option<u64> {
        let all = || self.connections.values().map(|&n| u64::from(n));
        (!self.connections.is_empty()).then(|| all().sum())
    }
}

impl Sum {
    fn figures(&self) -> Option<Figures> {
        let n = self.histogram.len().saturating_add(self.histogram.out_of_range());
        let (min_ns, max_ns) = self.range_ns?;
        // The histogram's own steps may lie a digit beyond what was seen.
        let at = |quantile| Some(self.histogram.quantile_ns(quantile)?.clamp(min_ns, max_ns.max(min_ns)));
        let mean_ns = self.sum_ns as f64 / n.max(1) as f64;
        Some(Figures { n, mean_ns, min_ns, p50_ns: at(0.5)?, p99_ns: at(0.99)?, max_ns })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What an agent would tell of requests that all took the same: (stage, ns) each `n` times.
    pub(crate) fn told(n: u64, stages: &[(TraceStage, u64)]) -> v1::Telemetry {
        let of = |&(stage, ns): &(TraceStage, u64)| {
            let mut histogram = LatencyHistogram::default();
            (0..n).for_each(|_| histogram.record(ns as i64));
            v1::StageTrace {
                stage: stage as i32,
                histogram: Some(histogram.to_wire()),
                sum_ns: n * ns,
                min_ns: ns,
                max_ns: ns,
            }
        };
        let ns = |wanted: &[TraceStage]| {
            n * stages.iter().filter(|(s, _)| wanted.contains(s)).map(|(_, ns)| ns).sum::<u64>()
        };
        use TraceStage::{Acquire, Connect, Decode, E2e, Finish, Queue, SocketWait, Write};
        let client_ns = ns(&[Queue, Acquire, Write, SocketWait, Decode, Finish]);
        let network_ns = ns(&[Connect]);
        v1::Telemetry {
            seq: 1,
            counts: Some(v1::TraceCounts {
                issued: n,
                completed: n,
                output_tokens: 10 * n,
                ..Default::default()
            }),
            stages: stages.iter().map(of).collect(),
            shares: Some(v1::TraceShares {
                client_ns,
                network_ns,
                server_ns: ns(&[E2e]) - client_ns - network_ns,
                backpressure_ns: ns(&[Queue, Acquire]),
            }),
            ..Default::default()
        }
    }

    pub(crate) const MS: u64 = 1_000_000;

    pub(crate) fn usual() -> Vec<(TraceStage, u64)> {
        vec![
            (TraceStage::Queue, MS),
            (TraceStage::Acquire, MS),
            (TraceStage::Write, 2 * MS),
            (TraceStage::Encode, MS),
            (TraceStage::Headers, 30 * MS),
            (TraceStage::FirstChunk, 10 * MS),
            (TraceStage::Stream, 55 * MS),
            (TraceStage::Finish, MS),
            (TraceStage::E2e, 100 * MS),
            (TraceStage::Ttft, 44 * MS),
        ]
    }

    pub(crate) fn lag(shard: Option<u32>, max_ms: u64) -> v1::WorkerLag {
        let ns = max_ms * MS;
        v1::WorkerLag { shard, n: 9, mean_ns: ns as f64, min_ns: 1, p50_ns: ns, p99_ns: ns, max_ns: ns }
    }

    #[test]
    fn agents_add_up_and_the_verdict_partitions_e2e() {
        let mut trace = Trace::default();
        trace.add("a", &told(10, &usual()));
        trace.add("b", &told(30, &[(TraceStage::E2e, 300 * MS), (TraceStage::Connect, 3 * MS)]));
        let stages = trace.stages();
        let e2e = stages.last().and_then(|s| s.figures).unwrap();
        assert_eq!((e2e.n, e2e.min_ns, e2e.max_ns), (40, 100 * MS, 300 * MS));
        assert!((e2e.mean_ns - 250e6).abs() < 1.0, "a mean of all, not of means");
        let verdict = trace.verdict().unwrap();
        assert!((verdict.client + verdict.network + verdict.server - 1.0).abs() < 1e-12);
        assert!((verdict.network - 0.009).abs() < 1e-12 && (verdict.client - 0.005).abs() < 1e-12);
        assert!((verdict.backpressure - 0.002).abs() < 1e-12);
        let told: f64 = verdict.parts.iter().filter_map(|(_, _, share)| *share).sum();
        assert!((told - verdict.client).abs() < 1e-12, "the tree adds up to the client's share: {told}");
        let of = |key| verdict.parts.iter().find(|(k, ..)| *k == key).and_then(|(.., share)| *share);
        assert_eq!(of("decode"), None, "not measured is absent");
        assert!(of("encode").is_some());
    }

    #[test]
    fn the_worst_workers_of_all_agents_are_shown_and_the_hot_ones_counted() {
        let mut trace = Trace::default();
        for (agent, base) in [("a", 0), ("b", 1)] {
            let workers = (0..20).map(|i| lag(Some(i), 2 * u64::from(i) / 5 + base)).chain([lag(None, 90)]);
            trace.add(agent, &v1::Telemetry { workers: workers.collect(), ..Default::default() });
        }
        let (control, workers) = trace.worst_threads();
        assert_eq!((control.len(), workers.len(), trace.worker_count()), (2, WORST_WORKERS, 40));
        assert_eq!((workers[0].agent.as_str(), workers[0].figures.max_ns), ("b", 8 * MS));
        assert!(workers.windows(2).all(|w| w[0].figures.max_ns >= w[1].figures.max_ns));
        assert_eq!(trace.hot_workers(), 7 + 10, "from 5 ms on; control threads are no workers");
    }

    #[test]
    fn connections_seen_twice_in_one_namespace_count_once() {
        let mut trace = Trace::default();
        assert_eq!(trace.tcp_established(), None);
        for (scope, n) in [("x", 5), ("x", 7), ("y", 2)] {
            let told =
                v1::Telemetry { tcp_established: Some(n), tcp_scope: scope.to_owned(), ..Default::default() };
            trace.add("a", &told);
        }
        assert_eq!(trace.tcp_established(), Some(9));
    }

    #[test]
    fn nonsense_from_an_agent_is_counted_and_changes_nothing() {
        let mut trace = Trace::default();
        let mut hostile = told(10, &usual());
        hostile.stages[0].histogram = Some(v1::Histogram { v2: vec![1, 2, 3], out_of_range: 0 });
        hostile.stages.push(v1::StageTrace { stage: 99, ..Default::default() });
        let twice = hostile.stages[4].clone();
        hostile.stages.push(twice);
        hostile.counts = Some(v1::TraceCounts { issued: u64::MAX, ..Default::default() });
        trace.add("a", &hostile);
        trace.add("a", &hostile);
        assert_eq!((trace.unreadable, trace.counts.issued), (4, u64::MAX));
        assert_eq!(trace.figures(TraceStage::Headers).map(|f| f.n), Some(20), "each stage once an agent");
    }
}
