//! What the engine's causes did when, and what a GPU under this engine would show: two logs that grow as time passes, on
//! the clock of the truth log. All figures of the GPU are made up.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::engine::{Activity, Cause, Hit};
use crate::lines::LineLog;

/// Clock of a GPU that nothing holds back, MHz.
const SM_MHZ: u32 = 1980;
/// Slowest clock of one that is held back, MHz.
const LEAST_SM_MHZ: u32 = 210;

/// A cause that took hold; a line of the cause log. Stamps are ns of `CLOCK_MONOTONIC_RAW`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CauseRecord {
    /// `idle_pause`, `extra_compute`, `preempt` or `throttle`.
    pub kind: String,
    /// From when.
    pub from_ns: i64,
    /// Until when; one that left the batch may have waited longer for a place in it.
    pub to_ns: i64,
    /// The `x-request-id` of the request that it was armed for, or that it was about.
    pub request_id: Option<String>,
    /// Those of all requests that it held up as it began.
    pub requests: Vec<String>,
}

/// What a GPU shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuLevels {
    /// Board power, W.
    pub power_w: u32,
    /// SM busy, %.
    pub util: u32,
    /// SM clock, MHz.
    pub sm_mhz: u32,
    /// Memory busy, %.
    pub mem_util: u32,
    /// NVML's bits for why clocks are held down.
    pub throttle: u32,
}

impl GpuLevels {
    /// What a GPU shows in an engine of `slots` sequences.
    pub fn of(activity: Activity, slots: usize) -> Self {
        let busy = |batch: usize| {
            let share = batch.min(slots) as f64 / slots.max(1) as f64;
            let (power_w, mem_util) = (300 + (200.0 * share) as u32, 30 + (50.0 * share) as u32);
            Self { power_w, util: 95, sm_mhz: SM_MHZ, mem_util, throttle: 0 }
        };
        match activity {
            Activity::Idle => Self { power_w: 75, util: 0, sm_mhz: SM_MHZ, mem_util: 0, throttle: 0 },
            Activity::Busy(batch) => busy(batch),
            Activity::Pegged => Self { power_w: 650, util: 100, ..busy(slots) },
            Activity::Throttled { batch, factor, bits } => {
                let slow = (f64::from(SM_MHZ) / factor) as u32;
                // A power cap that slows the usual work lies below its usual power; heat takes the power too.
                let power_w = if bits == 0x4 { 260 } else { 220 };
                Self { power_w, util: 100, sm_mhz: slow.max(LEAST_SM_MHZ), throttle: bits, ..busy(batch) }
            }
        }
    }

    /// What a GPU shows whose clock is so many times slower, for this reason; the power is left to say.
    pub(crate) fn busy_at(slowdown: f64, bits: u32) -> Self {
        let slow = (f64::from(SM_MHZ) / slowdown.max(1.0)) as u32;
        let sm_mhz = slow.max(LEAST_SM_MHZ);
        Self { power_w: 0, util: 97, sm_mhz, mem_util: 60, throttle: bits }
    }

    fn line(&self, at: i64) -> String {
        let Self { power_w, util, sm_mhz, mem_util, throttle } = self;
        format!("{at} {power_w} {util} {sm_mhz} {mem_util} {throttle}\n")
    }
}

/// The two logs.
#[derive(Debug)]
pub(crate) struct Recorder {
    gpu: Option<LineLog>,
    causes: Option<LineLog>,
    slots: usize,
    shown: Option<GpuLevels>,
}

impl Recorder {
    pub(crate) fn start(config: &Config, slots: usize, now: i64) -> io::Result<Self> {
        let create = |path: &Option<std::path::PathBuf>| path.as_deref().map(create).transpose();
        let (gpu, causes) = (create(&config.gpu_log)?, create(&config.cause_log)?);
        let mut recorder = Self { gpu, causes, slots, shown: None };
        recorder.gpu(now, Activity::Idle);
        Ok(recorder)
    }

    /// What the GPU does from `at` on.
    pub(crate) fn gpu(&mut self, at: i64, activity: Activity) {
        let Some(log) = &mut self.gpu else { return };
        let levels = GpuLevels::of(activity, self.slots);
        if self.shown != Some(levels) {
            self.shown = Some(levels);
            log.push(levels.line(at));
        }
    }

    /// A cause that took hold; `name` gives the `x-request-id` of a request in the engine.
    pub(crate) fn hit(&mut self, hit: &Hit, name: impl Fn(u64) -> Option<String>) {
        let Some(log) = &mut self.causes else { return };
        let record = CauseRecord {
            kind: kind(hit.cause).to_owned(),
            from_ns: hit.from,
            to_ns: hit.to,
            request_id: name(hit.trigger),
            requests: hit.touched.iter().filter_map(|id| name(*id)).collect(),
        };
        if let Ok(line) = serde_json::to_string(&record) {
            log.push(line + "\n");
        }
    }
}

fn create(path: &Path) -> io::Result<LineLog> {
    let failed = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    LineLog::create(path).map_err(failed)
}

fn kind(cause: Cause) -> &'static str {
    match cause {
        Cause::IdlePause { .. } => "idle_pause",
        Cause::ExtraCompute { .. } => "extra_compute",
        Cause::Preempt { .. } => "preempt",
        Cause::Throttle { .. } => "throttle",
    }
}
