//! The owner of the figures: takes in what the display does, and leaves a copy for scrapes.

use std::collections::BTreeMap;
use std::sync::Arc;

use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1;
use tokio::sync::watch;

use super::figures::{Buckets, Figures, GpuFigures, LevelFigures, NodeFigures, State};
use crate::axis::Load;
use crate::stored::{Drive, Incarnation};

/// A copy is left behind this often at most.
const EVERY_NS: i64 = 1_000_000_000;
/// Nodes are asked for this often: a clock's bound takes a fit.
const NODES_EVERY_NS: i64 = 5_000_000_000;
/// GPUs told of at most: a broken probe may name any.
const MOST_GPUS: usize = 1_024;

/// What an agent told of the running level last.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    counts: v1::LevelCounts,
    in_flight: u32,
    output_tokens: u64,
}

/// The owner.
#[derive(Debug)]
pub struct Live {
    figures: Figures,
    told: BTreeMap<Incarnation, Told>,
    publish: watch::Sender<Arc<Figures>>,
    last_ns: i64,
    nodes_ns: Option<i64>,
}

impl Live {
    pub(super) fn new(publish: watch::Sender<Arc<Figures>>, levels: usize) -> Self {
        Self {
            figures: Figures::new(levels),
            told: BTreeMap::new(),
            publish,
            last_ns: i64::MIN,
            nodes_ns: None,
        }
    }

    /// A level is about to start.
    pub fn level(&mut self, drive: Drive, load: Load) {
        self.told.clear();
        self.figures.levels.push(LevelFigures { drive, load, ..LevelFigures::default() });
        self.figures.running = true;
        self.publish();
    }

    /// It started.
    pub fn started(&mut self) {
        self.figures.state = State::Measuring;
        self.publish();
    }

    /// An agent's newest counts.
    pub fn progress(&mut self, of: Incarnation, progress: &v1::LevelProgress) {
        if self.is_running(progress.level) {
            let counts = progress.counts.unwrap_or_default();
            let told = Told { counts, in_flight: progress.in_flight, output_tokens: progress.output_tokens };
            self.told.insert(of, told);
        }
    }

    /// An agent's last counts.
    pub fn done(&mut self, of: Incarnation, done: &v1::LevelDone) {
        if self.is_running(done.level) {
            let told = self.told.entry(of).or_default();
            (told.counts, told.in_flight) = (done.counts.unwrap_or(told.counts), 0);
        }
    }

    fn is_running(&self, level: u32) -> bool {
        self.figures.running && self.figures.levels.last().is_some_and(|last| last.drive.level == level)
    }

    /// Time goes on: (TTFT, E2E) are the running level's.
    pub fn tick(&mut self, now: i64, latencies: Option<(&LatencyHistogram, &LatencyHistogram)>) {
        if now.saturating_sub(self.last_ns) >= EVERY_NS {
            self.last_ns = now;
            self.sum(latencies);
            self.publish();
        }
    }

    /// The running level is over.
    pub fn settled(&mut self, latencies: (&LatencyHistogram, &LatencyHistogram)) {
        self.sum(Some(latencies));
        if let Some(level) = self.figures.levels.last_mut() {
            level.in_flight = 0;
        }
        (self.figures.running, self.figures.state) = (false, State::Waiting);
        self.publish();
    }

    /// No more load.
    pub fn over(&mut self) {
        (self.figures.running, self.figures.state) = (false, State::Over);
        self.publish();
    }

    /// A probe joined.
    pub fn probe(&mut self, probe: &str, gpus: &[v1::GpuFacts]) {
        for facts in gpus {
            let simulated = facts.simulated;
            self.gpu(probe, facts.index).into_iter().for_each(|gpu| gpu.simulated = simulated);
        }
    }

    fn gpu(&mut self, probe: &str, index: u32) -> Option<&mut GpuFigures> {
        let (key, gpus) = ((probe.to_owned(), index), &mut self.figures.gpus);
        let is_full = gpus.len() >= MOST_GPUS && !gpus.contains_key(&key);
        (!is_full).then(|| gpus.entry(key).or_default())
    }

    /// A probe's newest samples.
    pub fn samples(&mut self, probe: &str, samples: &[v1::GpuSample]) {
        for sample in samples {
            let Some(gpu) = self.gpu(probe, sample.gpu) else { continue };
            let watts = sample.power_instant_mw.or(sample.power_average_mw).map(|mw| f64::from(mw) / 1e3);
            // What is slow to read has samples of its own.
            gpu.power_w = watts.or(gpu.power_w);
            gpu.utilisation = sample.gpu_util_pct.map(|p| f64::from(p) / 100.0).or(gpu.utilisation);
            gpu.sm_clock_hz = sample.sm_clock_mhz.map(|mhz| f64::from(mhz) * 1e6).or(gpu.sm_clock_hz);
            gpu.memory_used = sample.mem_used_bytes.or(gpu.memory_used);
        }
    }

    /// True when nodes are to be told again.
    pub fn wants_nodes(&mut self, now: i64) -> bool {
        let due = self.nodes_ns.is_none_or(|last| now.saturating_sub(last) >= NODES_EVERY_NS);
        if due {
            self.nodes_ns = Some(now);
        }
        due
    }

    /// Nodes as they are.
    pub fn nodes(&mut self, nodes: Vec<NodeFigures>) {
        self.figures.nodes = nodes;
    }

    fn sum(&mut self, latencies: Option<(&LatencyHistogram, &LatencyHistogram)>) {
        let Some(level) = self.figures.levels.last_mut().filter(|_| self.figures.running) else { return };
        // A broken agent may claim any number.
        let sum = |part: fn(&Told) -> u64| self.told.values().map(part).fold(0, u64::saturating_add);
        level.released = sum(|t| t.counts.released);
        level.completed = sum(|t| t.counts.completed);
        level.failed = sum(|t| t.counts.failed);
        level.incomplete = sum(|t| t.counts.incomplete);
        level.retried = sum(|t| t.counts.retried);
        level.held_back = sum(|t| t.counts.held_back);
        level.output_tokens = sum(|t| t.output_tokens);
        level.in_flight = sum(|t| u64::from(t.in_flight));
        if let Some((ttft, e2e)) = latencies {
            (level.ttft, level.e2e) = (Buckets::of(ttft), Buckets::of(e2e));
        }
    }

    fn publish(&self) {
        self.publish.send_replace(Arc::new(self.figures.clone()));
    }
}
