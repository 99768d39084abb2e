//! What servers' metrics say, in the bins of the timeline.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tailcliff_proto::v1::ServerSample;

use crate::merge::timeline::Timeline;
use crate::stored::{Incarnation, Node, RunData};

use super::gpus::{Readings, signal};
use super::series::Axis;

/// Endpoints drawn at most.
const ENDPOINTS: usize = 4;

#[derive(Debug)]
struct Gauges {
    running: Vec<Readings>,
    waiting: Vec<Readings>,
    kv_pct: Vec<Readings>,
    failed: u64,
}

/// All endpoints, by probe and address.
#[derive(Debug)]
pub(super) struct Servers {
    axis: Axis,
    all: BTreeMap<(Incarnation, String), Gauges>,
    not_shown: u64,
}

impl Servers {
    pub(super) fn new(axis: Axis) -> Self {
        Self { axis, all: BTreeMap::new(), not_shown: 0 }
    }

    pub(super) fn read(&mut self, of: Incarnation, node: &Node, timeline: &Timeline) {
        for batch in node.each_batch_with_server() {
            batch.server_samples.iter().for_each(|sample| self.sample(of, sample, timeline));
        }
    }

    fn sample(&mut self, of: Incarnation, sample: &ServerSample, timeline: &Timeline) {
        let Some(bin) = timeline.place(of, sample.raw_ns).and_then(|at| self.axis.bin(at.ns)) else { return };
        let key = (of, sample.endpoint.clone());
        if self.all.len() >= ENDPOINTS && !self.all.contains_key(&key) {
            self.not_shown += 1;
            return;
        }
        let empty = || vec![Readings::default(); self.axis.bins];
        let gauges = self.all.entry(key).or_insert_with(|| Gauges {
            running: empty(),
            waiting: empty(),
            kv_pct: empty(),
            failed: 0,
        });
        gauges.failed += u64::from(!sample.failed.is_empty());
        let put = |readings: &mut [Readings], value: Option<f64>| {
            value.filter(|value| value.is_finite()).into_iter().for_each(|value| readings[bin].add(value));
        };
        put(&mut gauges.running, sample.running);
        put(&mut gauges.waiting, sample.waiting);
        put(&mut gauges.kv_pct, sample.kv_usage.map(|share| share * 100.0));
    }

    /// The first endpoints, and how many scrapes of others are not shown.
    pub(super) fn json(&self, data: &RunData) -> Value {
        let one = |((of, endpoint), gauges): (&(Incarnation, String), &Gauges)| {
            json!({
                "probe": data.nodes.get(of).map(|node| &node.hello.name),
                "endpoint": endpoint,
                "failed": gauges.failed,
                "running": signal(&gauges.running, 2),
                "waiting": signal(&gauges.waiting, 2),
                "kv_pct": signal(&gauges.kv_pct, 2),
            })
        };
        json!({ "shown": self.all.iter().map(one).collect::<Vec<_>>(), "scrapes_not_shown": self.not_shown })
    }
}
