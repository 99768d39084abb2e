//! What an engine's limits are beyond its slots and steps: how it gives out its KV cache, and what its GPU may draw.

use super::Activity;
use crate::record::GpuLevels;

/// How the KV cache is given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// A request is admitted when its whole need fits, prompt and most tokens; it is never put out.
    #[default]
    Whole,
    /// A request is admitted when its prompt fits. When the next token of every sequence no longer does, the one that
    /// came last into the batch is put out, goes to the head of the queue, and has all its tokens computed again.
    Optimistic,
}

/// A GPU with a limit on its power. What it draws grows with its batch; beyond the limit its clock falls, and steps take
/// longer by as much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerCap {
    /// Drawn when idle, W.
    pub idle_w: f64,
    /// Drawn on top by any work at full clock, W.
    pub base_w: f64,
    /// Drawn on top by each sequence in the batch at full clock, W.
    pub per_seq_w: f64,
    /// The limit, W; above `idle_w`.
    pub limit_w: f64,
    /// Power beyond idle goes with the clock to this power: 1 where voltage cannot fall any further, towards 3 where it
    /// can.
    pub exponent: f64,
    /// NVML's bits for the reason.
    pub bits: u32,
}

impl PowerCap {
    fn wanted(&self, batch: usize) -> f64 {
        self.base_w + self.per_seq_w * batch as f64
    }

    /// How many times slower the clock is with such a batch; 1 below the limit.
    pub fn slowdown(&self, batch: usize) -> f64 {
        let room = (self.limit_w - self.idle_w).max(1.0);
        (self.wanted(batch) / room).powf(1.0 / self.exponent.max(1.0)).clamp(1.0, 9.0)
    }

    fn levels(&self, batch: usize) -> GpuLevels {
        let slowdown = self.slowdown(batch);
        let drawn = if slowdown > 1.0 { self.limit_w } else { self.idle_w + self.wanted(batch) };
        let bits = if slowdown > 1.0 { self.bits } else { 0 };
        GpuLevels { power_w: drawn as u32, ..GpuLevels::busy_at(slowdown, bits) }
    }
}

/// The limits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Nature {
    /// How the KV cache is given out.
    pub admission: Admission,
    /// The limit on the GPU's power, if it has one.
    pub power: Option<PowerCap>,
}

impl Nature {
    /// What a GPU shows in an engine of `slots` sequences.
    pub fn levels(&self, activity: Activity, slots: usize) -> GpuLevels {
        match (self.power, activity) {
            (Some(power), Activity::Busy(batch) | Activity::Throttled { batch, .. }) => power.levels(batch),
            (Some(power), Activity::Idle) => {
                GpuLevels { power_w: power.idle_w as u32, ..GpuLevels::of(activity, slots) }
            }
            _ => GpuLevels::of(activity, slots),
        }
    }

    pub(super) fn slowdown(&self, batch: usize) -> f64 {
        self.power.map_or(1.0, |power| power.slowdown(batch))
    }

    /// What the GPU does while such a batch runs, unless something else holds it back.
    pub(super) fn activity(&self, activity: Activity) -> Activity {
        match (self.power, activity) {
            (Some(power), Activity::Busy(batch)) if power.slowdown(batch) > 1.0 => {
                Activity::Throttled { batch, factor: power.slowdown(batch), bits: power.bits }
            }
            _ => activity,
        }
    }
}
