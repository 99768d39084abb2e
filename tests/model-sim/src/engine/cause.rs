//! What makes the engine as a whole stall, when it takes hold, and what the GPU does meanwhile.

use super::Sequence;

/// A cause of stalls. It takes hold where a step would begin, and lasts `ns`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cause {
    /// No step runs, and the GPU is idle: the host's scheduler stands still.
    IdlePause {
        /// How long, ns.
        ns: i64,
    },
    /// The GPU works at its limit, and nothing is emitted to anybody.
    ExtraCompute {
        /// How long, ns.
        ns: i64,
    },
    /// One request leaves the batch with its KV cache, and queues again after `ns`, before all others; its tokens are
    /// then computed again. The others go on.
    Preempt {
        /// How long, ns.
        ns: i64,
    },
    /// Steps run `factor` times slower, and the GPU says why.
    Throttle {
        /// How long, ns.
        ns: i64,
        /// How many times longer a step takes; above 1.
        factor: f64,
        /// NVML's bits for the reason.
        bits: u32,
    },
}

impl Cause {
    /// How long it lasts, ns.
    pub fn ns(&self) -> i64 {
        match *self {
            Self::IdlePause { ns }
            | Self::ExtraCompute { ns }
            | Self::Preempt { ns }
            | Self::Throttle { ns, .. } => ns,
        }
    }
}

/// What the GPU does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activity {
    /// Nothing.
    Idle,
    /// Steps with so many sequences.
    Busy(usize),
    /// Work at its limit that emits nothing.
    Pegged,
    /// Steps with so many sequences, held back.
    Throttled {
        /// Sequences in the batch.
        batch: usize,
        /// How many times slower.
        factor: f64,
        /// NVML's bits for the reason.
        bits: u32,
    },
}

/// A cause that took hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Which.
    pub cause: Cause,
    /// From when, ns.
    pub from: i64,
    /// Until when, ns. (A request that was put out of the batch may have to wait longer for a place in it.)
    pub to: i64,
    /// The request that it was armed for, or that it was about.
    pub trigger: u64,
    /// Requests that it held up as it began: all in the engine, or the one put out.
    pub touched: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Armed {
    pub(super) id: u64,
    pub(super) token: u64,
    pub(super) cause: Cause,
}

/// All that is to come, and what holds now.
#[derive(Debug, Default)]
pub(super) struct Causes {
    pub(super) armed: Vec<Armed>,
    /// From when, which of the batch, and what.
    pub(super) scheduled: Vec<(i64, usize, Cause)>,
    pub(super) hits: Vec<Hit>,
    /// Of requests that were admitted and whose first step is still held up.
    pub(super) prefill_ns: i64,
    halt: Option<(i64, Activity)>,
    throttle: Option<(i64, f64, u32)>,
}

impl Causes {
    pub(super) fn forget(&mut self, id: u64) {
        self.armed.retain(|armed| armed.id != id);
    }

    /// Takes out what takes hold at `at`, each with the request that it is about. Without a batch nothing does.
    pub(super) fn due(&mut self, at: i64, running: &[Sequence]) -> Vec<(u64, Cause)> {
        let reached =
            |armed: &Armed| running.iter().any(|s| s.request.id == armed.id && s.emitted == armed.token);
        let mut due: Vec<(u64, Cause)> =
            self.armed.extract_if(.., |armed| reached(armed)).map(|armed| (armed.id, armed.cause)).collect();
        if !running.is_empty() {
            let ripe = self.scheduled.extract_if(.., |(from, _, _)| *from <= at);
            due.extend(ripe.map(|(_, nth, cause)| (running[nth % running.len()].request.id, cause)));
        }
        due
    }

    /// Starts what holds all up; of two at once the one that ends later counts.
    pub(super) fn begin(&mut self, at: i64, cause: Cause) {
        let until = at + cause.ns();
        let activity = match cause {
            Cause::IdlePause { .. } => Activity::Idle,
            Cause::ExtraCompute { .. } => Activity::Pegged,
            Cause::Throttle { factor, bits, .. } => {
                self.throttle = Some((until, factor.max(1.0), bits));
                return;
            }
            Cause::Preempt { .. } => return,
        };
        if self.halt.is_none_or(|(other, _)| other < until) {
            self.halt = Some((until, activity));
        }
    }

    /// Until when no step begins, and what the GPU does until then.
    pub(super) fn halted(&mut self, at: i64) -> Option<(i64, Activity)> {
        self.halt = self.halt.filter(|(until, _)| *until > at);
        self.halt
    }

    pub(super) fn activity(&mut self, at: i64, batch: usize) -> Activity {
        self.throttle = self.throttle.filter(|(until, _, _)| *until > at);
        match self.throttle {
            Some((_, factor, bits)) => Activity::Throttled { batch, factor, bits },
            None => Activity::Busy(batch),
        }
    }

    /// How long a step of `work` ns takes from `at` on: what is left of it when the throttle ends goes at full speed.
    pub(super) fn lasts(&self, at: i64, work: i64) -> i64 {
        let Some((until, factor, _)) = self.throttle else { return work };
        let slow = (until - at).max(0);
        let done = (slow as f64 / factor) as i64;
        if done >= work { (work as f64 * factor) as i64 } else { slow + work - done }
    }
}
