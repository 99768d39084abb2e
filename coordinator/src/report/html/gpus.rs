//! What the probes say, in the bins of the timeline: per GPU the smallest, mean and largest of power, use and clock, and
//! the cores that the server kept busy.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tailcliff_proto::v1;

use crate::merge::timeline::Timeline;
use crate::report::text::number;
use crate::stored::{Incarnation, Node, RunData};

use super::series::Axis;

/// GPUs drawn at most.
const GPUS: usize = 8;

/// Readings of one signal within one bin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readings {
    min: f64,
    max: f64,
    sum: f64,
    count: u32,
}

impl Readings {
    pub(super) fn add(&mut self, value: f64) {
        (self.min, self.max) =
            if self.count == 0 { (value, value) } else { (self.min.min(value), self.max.max(value)) };
        self.sum += value;
        self.count += 1;
    }

    fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}

#[derive(Debug)]
struct Gpu {
    power: Vec<Readings>,
    /// Power is the 1-second average of the driver: it has no instant power.
    averaged: bool,
    util: Vec<Readings>,
    clock: Vec<Readings>,
}

/// All GPUs and hosts.
#[derive(Debug)]
pub(super) struct Gpus {
    axis: Axis,
    gpus: BTreeMap<(Incarnation, u32), Gpu>,
    cores: BTreeMap<Incarnation, Vec<Readings>>,
    bound_ns: Vec<i64>,
}

impl Gpus {
    pub(super) fn new(axis: Axis) -> Self {
        Self { axis, gpus: BTreeMap::new(), cores: BTreeMap::new(), bound_ns: vec![0; axis.bins] }
    }

    pub(super) fn read(&mut self, of: Incarnation, node: &Node, timeline: &Timeline) {
        for batch in node.each_batch_with_samples() {
            batch.gpu_samples.iter().for_each(|sample| self.sample(of, sample, timeline));
        }
        let mut before: Option<(i64, i64)> = None;
        for batch in node.each_batch_with_host_samples() {
            for sample in &batch.host_samples {
                let Some(cpu_ns) = sample.server_cpu_ns else { continue };
                if let Some((then_ns, had_ns)) = before.replace((sample.raw_ns, cpu_ns)) {
                    self.cores(of, sample.raw_ns, cpu_ns - had_ns, sample.raw_ns - then_ns, timeline);
                }
            }
        }
    }

    fn sample(&mut self, of: Incarnation, sample: &v1::GpuSample, timeline: &Timeline) {
        let Some(at) = timeline.place(of, sample.raw_ns) else { return };
        let Some(bin) = self.axis.bin(at.ns) else { return };
        self.bound_ns[bin] = self.bound_ns[bin].max(at.bound_ns);
        let empty = || vec![Readings::default(); self.axis.bins];
        let gpu = self.gpus.entry((of, sample.gpu)).or_insert_with(|| Gpu {
            power: empty(),
            averaged: true,
            util: empty(),
            clock: empty(),
        });
        if sample.power_instant_mw.is_some() && gpu.averaged {
            (gpu.averaged, gpu.power) = (false, vec![Readings::default(); self.axis.bins]);
        }
        let power = if gpu.averaged { sample.power_average_mw } else { sample.power_instant_mw };
        power.into_iter().for_each(|mw| gpu.power[bin].add(f64::from(mw) / 1e3));
        sample.gpu_util_pct.into_iter().for_each(|pct| gpu.util[bin].add(f64::from(pct)));
        sample.sm_clock_mhz.into_iter().for_each(|mhz| gpu.clock[bin].add(f64::from(mhz)));
    }

    /// A total that falls is a process that went away: no reading.
    fn cores(&mut self, of: Incarnation, raw_ns: i64, cpu_ns: i64, ns: i64, timeline: &Timeline) {
        let bin = timeline.place(of, raw_ns).and_then(|at| self.axis.bin(at.ns));
        let Some(bin) = bin.filter(|_| cpu_ns >= 0 && ns > 0) else { return };
        let bins = self.axis.bins;
        let cores = self.cores.entry(of).or_insert_with(|| vec![Readings::default(); bins]);
        cores[bin].add(cpu_ns as f64 / ns as f64);
    }

    /// The first GPUs, and how many more there are.
    pub(super) fn json(&self, data: &RunData) -> Value {
        let shown = self.gpus.iter().take(GPUS).map(|(&(of, index), gpu)| one(data, of, index, gpu));
        let bound = |ns: &i64| if *ns > 0 { number(Some(*ns as f64 / 1e3), 1) } else { Value::Null };
        json!({
            "shown": shown.collect::<Vec<_>>(),
            "not_shown": self.gpus.len().saturating_sub(GPUS),
            "probe_bound_us": self.bound_ns.iter().map(bound).collect::<Vec<_>>(),
        })
    }

    pub(super) fn hosts_json(&self, data: &RunData) -> Value {
        let one = |(&of, cores): (&Incarnation, &Vec<Readings>)| {
            let mean = cores.iter().map(|r| number(r.mean(), 3)).collect::<Vec<_>>();
            json!({ "probe": data.nodes.get(&of).map(|node| &node.hello.name), "server_cores": mean })
        };
        self.cores.iter().map(one).collect()
    }
}

fn one(data: &RunData, of: Incarnation, index: u32, gpu: &Gpu) -> Value {
    let hello = data.nodes.get(&of).map(|node| &node.hello);
    let facts = hello.and_then(|hello| hello.gpus.iter().find(|gpu| gpu.index == index));
    json!({
        "probe": hello.map(|hello| &hello.name),
        "gpu": index,
        "name": facts.map(|gpu| &gpu.name),
        "simulated": facts.map(|gpu| gpu.simulated),
        "power_is_average": gpu.averaged,
        "power_w": signal(&gpu.power, 1),
        "util_pct": signal(&gpu.util, 1),
        "sm_clock_mhz": signal(&gpu.clock, 0),
    })
}

/// Null where the driver never gave it.
pub(super) fn signal(readings: &[Readings], digits: i32) -> Value {
    if readings.iter().all(|r| r.count == 0) {
        return Value::Null;
    }
    let all = |part: fn(&Readings) -> Option<f64>| {
        readings.iter().map(|r| number(part(r), digits)).collect::<Vec<_>>()
    };
    json!({
        "min": all(|r| r.mean().map(|_| r.min)),
        "mean": all(Readings::mean),
        "max": all(|r| r.mean().map(|_| r.max)),
    })
}
