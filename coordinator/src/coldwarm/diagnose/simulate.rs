//! Cold starts that never were: stages with a known cause each, and the readings that they would leave, by sensors that are
//! slow, late, or not there. SIMULATED: signatures as MISSION C5 describes them, not recordings.

use fastrand::Rng;
use tailcliff_proto::v1;

use super::Term;
use crate::coldwarm::evidence::Series;

const S: f64 = 1e9;
const GB: f64 = 1e9;
/// Before the stretch and after it, so that sensors have been read already.
pub(super) const AROUND_NS: i64 = 2_000_000_000;

/// What happens for a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    pub(super) cause: Term,
    pub(super) ns: i64,
    way: Way,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    /// GB/s from storage; the GPU's memory follows, or not.
    Disk(f64, bool),
    /// GB/s over the link, into memory that grows with it or was set aside.
    Upload(f64, bool),
    /// Share of the GPU that is busy, and cores.
    Compute(f64, f64),
    /// GB set aside at so many GB/s; nothing moves before that.
    SetAside(f64, f64),
    Nothing,
}

/// Which sensors there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sensors {
    pub(super) host: bool,
    pub(super) own_reads: bool,
    pub(super) gpu: bool,
    pub(super) pcie: bool,
}

impl Sensors {
    pub(super) const ALL: Self = Self { host: true, own_reads: true, gpu: true, pcie: true };

    pub(super) fn some(rng: &mut Rng) -> Self {
        Self { host: rng.f64() < 0.7, own_reads: rng.bool(), gpu: rng.f64() < 0.7, pcie: rng.bool() }
    }
}

impl Stage {
    /// `wide` for parameters beyond those that the rules were made with.
    pub(super) fn of(cause: Term, ns: i64, wide: bool, rng: &mut Rng) -> Self {
        let mut between = |low: f64, high: f64| {
            let (low, high) = if wide { (low * 0.7, high * 1.4) } else { (low, high) };
            low * (high / low).powf(rng.f64())
        };
        let way = match cause {
            Term::StorageToRam => Way::Disk(between(0.15, 6.0), between(0.5, 2.0) > 1.0),
            Term::RamToGpu => Way::Upload(between(2.0, 20.0), between(0.5, 2.0) > 1.0),
            Term::RuntimeWarmup | Term::Prefill => Way::Compute(between(0.35, 0.7), between(0.3, 0.7)),
            Term::Allocation => Way::SetAside(between(2.0, 60.0), between(150.0, 700.0)),
            _ => Way::Nothing,
        };
        Self { cause, ns, way }
    }
}

/// Totals over time.
struct World {
    at: Vec<i64>,
    /// Read, cache, GPU memory, PCIe, GPU busy ns, server CPU ns.
    totals: [Vec<f64>; 6],
}

impl World {
    fn new() -> Self {
        let totals = [0.0, 3.0 * GB, 0.5 * GB, 0.0, 0.0, 1.0 * S].map(|v| vec![v]);
        Self { at: vec![0], totals }
    }

    fn go(&mut self, ns: i64, rises: [f64; 6]) {
        self.at.push(self.at[self.at.len() - 1] + ns.max(1));
        for (total, rise) in self.totals.iter_mut().zip(rises) {
            total.push(total[total.len() - 1] + rise);
        }
    }

    fn stage(&mut self, stage: &Stage) {
        let (ns, s) = (stage.ns, stage.ns as f64 / S);
        let idle_cpu = 0.02 * ns as f64;
        match stage.way {
            Way::Disk(rate, follows) => {
                let bytes = rate * GB * s;
                let memory = if follows { bytes } else { 0.0 };
                self.go(ns, [bytes, bytes * 0.97, memory, memory, 0.0, 0.3 * ns as f64]);
            }
            Way::Upload(rate, grows) => {
                let bytes = rate * GB * s;
                if !grows {
                    self.go(1_000_000, [0.0, 0.0, bytes, 0.0, 0.0, 0.0]);
                }
                self.go(ns, [0.0, 0.0, if grows { bytes } else { 0.0 }, bytes, 0.0, 0.8 * ns as f64]);
            }
            Way::Compute(gpu, cores) => {
                self.go(ns, [0.0, 0.0, 0.0, 20e6 * s, gpu * ns as f64, cores * ns as f64]);
            }
            Way::SetAside(gb, rate) => {
                let jump = ((gb / rate * S) as i64).min(ns);
                // In pieces, as pools grow: each in an instant, after the driver has mapped it.
                let pieces = (ns / 200_000_000).max(1);
                for _ in 0..pieces {
                    self.go((ns - jump) / pieces, [0.0, 0.0, 0.0, 0.0, 0.0, idle_cpu / pieces as f64]);
                    self.go(jump / pieces, [0.0, 0.0, gb * GB / pieces as f64, 0.0, 0.0, 0.0]);
                }
            }
            Way::Nothing => self.go(ns, [0.0, 0.0, 0.0, 0.0, 0.0, idle_cpu]),
        }
    }

    fn value(&self, of: usize, at: i64) -> f64 {
        let after = self.at.partition_point(|t| *t < at).clamp(1, self.at.len() - 1);
        let (t0, t1) = (self.at[after - 1], self.at[after]);
        let (v0, v1) = (self.totals[of][after - 1], self.totals[of][after]);
        v0 + (v1 - v0) * ((at - t0) as f64 / (t1 - t0) as f64).clamp(0.0, 1.0)
    }

    fn rise(&self, of: usize, from: i64, to: i64) -> f64 {
        self.value(of, to) - self.value(of, from)
    }
}

/// Readings of a quiet while, the stages, and a quiet while; they begin at [`AROUND_NS`]. Returns their end with them.
pub(super) fn readings(stages: &[Stage], sensors: Sensors, rng: &mut Rng) -> (Series, i64) {
    let mut world = World::new();
    let quiet = |world: &mut World| world.go(AROUND_NS, [0.0, 0.0, 0.0, 0.0, 0.0, 0.02 * AROUND_NS as f64]);
    quiet(&mut world);
    stages.iter().for_each(|stage| world.stage(stage));
    let end = world.at[world.at.len() - 1];
    quiet(&mut world);
    let until = world.at[world.at.len() - 1];
    let mut series = Series::default();
    if sensors.host {
        series.host = host(&world, until, sensors, rng);
    }
    if sensors.gpu {
        series.gpus.insert(0, gpu(&world, until, rng));
        series.gpm = if sensors.pcie { gpm(&world, until, rng) } else { Vec::new() };
    }
    (series, end)
}

fn host(world: &World, until: i64, sensors: Sensors, rng: &mut Rng) -> Vec<v1::HostSample> {
    let every = rng.i64(20_000_000..120_000_000);
    let (noise, mut noisy) = (rng.f64() * 4e6, 0.0);
    let sample = |at: i64| {
        let value = |of: usize| world.value(of, at);
        noisy += noise * rng.f64() * 2.0 * every as f64 / S;
        v1::HostSample {
            raw_ns: at,
            disk_read_bytes: Some((value(0) + noisy) as u64),
            page_cache_bytes: Some((value(1) + noisy) as u64),
            server_read_bytes: sensors.own_reads.then(|| value(0) as u64),
            server_cpu_ns: Some(value(5) as i64),
            cpu_busy_ns: Some((value(5) * 1.1) as i64),
            ..Default::default()
        }
    };
    (0..until).step_by(every as usize).map(sample).collect()
}

fn gpu(world: &World, until: i64, rng: &mut Rng) -> Vec<v1::GpuSample> {
    let (every, window) = (rng.i64(8_000_000..30_000_000), rng.i64(20_000_000..250_000_000));
    let sample = |at: i64| {
        // Utilisation of the window that ended last.
        let end = at / window * window;
        let busy = world.rise(4, (end - window).max(0), end) / window as f64;
        v1::GpuSample {
            raw_ns: at,
            gpu_util_pct: Some((busy * 100.0).clamp(0.0, 100.0) as u32),
            mem_used_bytes: Some(world.value(2, at) as u64),
            mem_total_bytes: Some(80_000_000_000),
            ..Default::default()
        }
    };
    (0..until).step_by(every as usize).map(sample).collect()
}

fn gpm(world: &World, until: i64, rng: &mut Rng) -> Vec<v1::GpmSample> {
    let every = rng.i64(100_000_000..150_000_000);
    let sample = |from: i64| {
        let rise = |of: usize| world.rise(of, from, from + every) / (every as f64 / S);
        v1::GpmSample {
            from_raw_ns: from,
            to_raw_ns: from + every,
            sm_active_pct: Some((rise(4) / S * 100.0) as f32),
            pcie_rx_mib_s: Some((rise(3) / 1_048_576.0) as f32),
            ..Default::default()
        }
    };
    (0..until - every).step_by(every as usize).map(sample).collect()
}
