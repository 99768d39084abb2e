//! The totals of one level's trace on one agent. Pure: batches in, a [`v1::Telemetry`] out.

use std::collections::BTreeMap;

use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1::{self, TraceCounts, TraceShares, TraceStage};

use super::Batch;
use super::stages::{STAGES, Stamps};

/// Everything that was handed over so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    threads: BTreeMap<Option<u32>, Thread>,
    stages: [Stage; STAGES],
    shares: TraceShares,
    impossible: u64,
}

#[derive(Debug, Default)]
struct Thread {
    counts: TraceCounts,
    dropped: u64,
    lag: LatencyHistogram,
}

#[derive(Debug, Default)]
struct Stage {
    histogram: LatencyHistogram,
    sum_ns: u64,
    range_ns: Option<(u64, u64)>,
}

impl Tally {
    /// Takes in a batch.
    pub(crate) fn take(&mut self, batch: Batch) {
        let thread = self.threads.entry(batch.shard).or_default();
        // Totals: the newest holds.
        (thread.counts, thread.dropped) = (batch.counts, batch.dropped);
        batch.lags_ns.into_iter().for_each(|ns| thread.lag.record(ns));
        batch.samples.iter().for_each(|sample| self.add(sample));
    }

    fn add(&mut self, sample: &Stamps) {
        let parts = sample.parts();
        for (stage, ns) in self.stages.iter_mut().zip(parts.stages) {
            ns.into_iter().for_each(|ns| stage.add(ns));
        }
        let shares = &mut self.shares;
        shares.client_ns += parts.client_ns.unsigned_abs();
        shares.network_ns += parts.network_ns.unsigned_abs();
        shares.server_ns += parts.server_ns.unsigned_abs();
        shares.backpressure_ns += parts.backpressure_ns.unsigned_abs();
        self.impossible += parts.impossible;
    }

    /// As it stands; the caller adds what is not in batches.
    pub(crate) fn telemetry(&self) -> v1::Telemetry {
        let mut counts = TraceCounts::default();
        let mut worker_lag = LatencyHistogram::default();
        for (shard, thread) in &self.threads {
            counts.issued += thread.counts.issued;
            counts.completed += thread.counts.completed;
            counts.failed += thread.counts.failed;
            counts.incomplete += thread.counts.incomplete;
            counts.output_tokens += thread.counts.output_tokens;
            if shard.is_some() {
                worker_lag.add(&thread.lag);
            }
        }
        v1::Telemetry {
            counts: Some(counts),
            stages: self.stages.iter().enumerate().filter_map(|(i, stage)| stage.to_wire(i)).collect(),
            shares: Some(self.shares),
            workers: self.threads.iter().filter_map(|(&shard, thread)| worker(shard, &thread.lag)).collect(),
            worker_lag: Some(worker_lag.to_wire()),
            dropped_events: self.threads.values().map(|thread| thread.dropped).sum(),
            impossible: self.impossible,
            ..Default::default()
        }
    }
}

impl Stage {
    fn add(&mut self, ns: i64) {
        let value = ns.unsigned_abs();
        self.histogram.record(ns);
        self.sum_ns = self.sum_ns.saturating_add(value);
        let (min, max) = self.range_ns.unwrap_or((value, value));
        self.range_ns = Some((min.min(value), max.max(value)));
    }

    fn to_wire(&self, number: usize) -> Option<v1::StageTrace> {
        let (min_ns, max_ns) = self.range_ns?;
        let stage = TraceStage::try_from(i32::try_from(number).ok()?).ok()? as i32;
        let histogram = Some(self.histogram.to_wire());
        Some(v1::StageTrace { stage, histogram, sum_ns: self.sum_ns, min_ns, max_ns })
    }
}

fn worker(shard: Option<u32>, lag: &LatencyHistogram) -> Option<v1::WorkerLag> {
    let (min_ns, max_ns) = lag.min_max_ns()?;
    Some(v1::WorkerLag {
        shard,
        n: lag.len(),
        mean_ns: lag.mean_ns()?,
        min_ns,
        p50_ns: lag.quantile_ns(0.5)?,
        p99_ns: lag.quantile_ns(0.99)?,
        max_ns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_each_thread_are_the_newest_and_add_up_over_threads() {
        let mut tally = Tally::default();
        let batch = |shard, completed, lags: &[i64]| Batch {
            shard,
            counts: TraceCounts { completed, ..Default::default() },
            dropped: completed / 10,
            samples: vec![Stamps::default(); 2],
            lags_ns: lags.to_vec(),
        };
        tally.take(batch(Some(0), 10, &[1_000_000]));
        tally.take(batch(Some(1), 40, &[7_000_000]));
        tally.take(batch(Some(0), 30, &[2_000_000]));
        tally.take(batch(None, 0, &[9_000_000]));
        let told = tally.telemetry();
        assert_eq!((told.counts.unwrap().completed, told.dropped_events), (70, 7));
        let e2e = told.stages.iter().find(|s| s.stage() == TraceStage::E2e).unwrap();
        let histogram = LatencyHistogram::try_from(e2e.histogram.as_ref().unwrap()).unwrap();
        assert_eq!(histogram.len(), 8);
        assert!(told.stages.iter().all(|s| s.stage() != TraceStage::Decode), "absent is no row");
        assert_eq!(
            told.workers.iter().map(|w| (w.shard, w.n)).collect::<Vec<_>>(),
            [(None, 1), (Some(0), 2), (Some(1), 1)]
        );
        let fleet = LatencyHistogram::try_from(told.worker_lag.as_ref().unwrap()).unwrap();
        assert_eq!(fleet.len(), 3, "the control thread is no worker");
    }
}
