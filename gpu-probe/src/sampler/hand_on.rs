//! The thread that makes batches of what the readers found, and hands them on: it waits for no driver, so that what was
//! read gets away even when a call never comes back.

use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::outbox::other_readings;
use tailcliff_proto::v1;

use super::{Common, LONGEST_SLEEP_NS, Meter, Part, Sink, Switch, lock, thread_cpu_ns};
use crate::nvml::append;
use crate::sensor::Watch;

/// Samples are handed on at least this often, ns.
const HAND_ON_NS: i64 = 500_000_000;
/// The probe's own cost is told this often at most, ns.
const COST_NS: i64 = 1_000_000_000;
/// How long a reader may take to end: a driver whose card is gone may keep it for ever.
const END_LOOKS: u32 = 200;
const END_LOOK: Duration = Duration::from_millis(10);

pub(super) fn run(sink: Sink, parts: [Part; 2], readers: Vec<JoinHandle<()>>, common: &Common) {
    let mut hand_on = HandOn { sink, parts, watch: Watch::default(), costs: Costs::new() };
    while !common.ends() {
        common.sleep_until(HostClock.monotonic() + HAND_ON_NS);
        if !common.ends() {
            hand_on.once(&common.switch, false);
        }
    }
    end(readers, common);
    hand_on.once(&common.switch, true);
}

fn end(readers: Vec<JoinHandle<()>>, common: &Common) {
    for reader in readers {
        let ended = (0..END_LOOKS).any(|_| {
            if !reader.is_finished() {
                std::thread::sleep(END_LOOK);
            }
            reader.is_finished()
        });
        if ended {
            let _panicked = reader.join();
        } else {
            common
                .tell("a call of the GPU's driver does not come back; its thread is left behind".to_owned());
        }
    }
}

struct HandOn {
    sink: Sink,
    parts: [Part; 2],
    watch: Watch,
    costs: Costs,
}

impl HandOn {
    fn once(&mut self, switch: &Switch, last: bool) {
        let mut batch = v1::Batch::default();
        for part in &self.parts {
            let mut found = std::mem::take(&mut *lock(part));
            append(&mut batch, &mut found);
        }
        self.finish(&mut batch, switch, last);
        if batch == v1::Batch::default() {
            return;
        }
        if let Err(batch) = (self.sink)(batch) {
            let readings = batch.gpu_samples.len() + other_readings(&batch);
            switch.dropped_samples.fetch_add(readings as u64, Relaxed);
        }
    }

    /// The one place where a batch is made whole before it goes: whatever is told of samples, or follows from them, comes
    /// in here.
    fn finish(&mut self, batch: &mut v1::Batch, switch: &Switch, last: bool) {
        // Two threads read them.
        batch.gpu_samples.sort_by_key(|sample| sample.raw_ns);
        batch.gpu_events.sort_by_key(|event| event.raw_ns);
        self.watch.add_to(batch, last);
        if switch.on.load(Relaxed) {
            batch.probe_costs.extend(self.costs.since(switch, last));
        }
    }
}

/// What the probe took, since it was told last.
struct Costs {
    told: v1::ProbeCost,
}

impl Costs {
    fn new() -> Self {
        let now = HostClock.now();
        Self { told: v1::ProbeCost { from_raw_ns: now, to_raw_ns: now, ..Default::default() } }
    }

    fn since(&mut self, switch: &Switch, last: bool) -> Option<v1::ProbeCost> {
        let now = HostClock.now();
        let told = self.told;
        if now - told.to_raw_ns < COST_NS && !(last && now > told.to_raw_ns + LONGEST_SLEEP_NS) {
            return None;
        }
        let cpu = |meter: &Meter| meter.cpu_ns.load(Relaxed);
        let all = v1::ProbeCost {
            from_raw_ns: told.from_raw_ns,
            to_raw_ns: now,
            cpu_ns: cpu(&switch.fast) + cpu(&switch.slow) + thread_cpu_ns(),
            fast_cpu_ns: cpu(&switch.fast),
            ticks: switch.fast.ticks.load(Relaxed),
            missed: switch.fast.missed.load(Relaxed),
            slow_ticks: switch.slow.ticks.load(Relaxed),
            slow_missed: switch.slow.missed.load(Relaxed),
        };
        self.told = all;
        Some(v1::ProbeCost {
            from_raw_ns: told.to_raw_ns,
            to_raw_ns: now,
            cpu_ns: all.cpu_ns - told.cpu_ns,
            fast_cpu_ns: all.fast_cpu_ns - told.fast_cpu_ns,
            ticks: all.ticks - told.ticks,
            missed: all.missed - told.missed,
            slow_ticks: all.slow_ticks - told.slow_ticks,
            slow_missed: all.slow_missed - told.slow_missed,
        })
    }
}
