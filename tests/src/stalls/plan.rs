//! Which stalls a run has, drawn from a seed.

use serde::{Deserialize, Serialize};

use crate::forward::Which;
use crate::stalls::rows::Verdict;

/// What is done on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The server's engine stands still, its GPU idle.
    IdlePause,
    /// The engine computes at its limit for nobody.
    ExtraCompute,
    /// One request leaves the batch and waits behind the others.
    Preempt,
    /// The GPU is held back, so that each step is a stall.
    Throttle,
    /// Other clients' requests fill the batch: long waits before the first token.
    Queue,
    /// A proxy holds what the server says on some connections, and lets it go at once.
    Hold,
    /// A packet of one connection is late.
    Delay,
    /// SIGSTOP of one of the two agents.
    Stop,
    /// The agents' event loops stand still, by their own control.
    Block,
}

impl Kind {
    /// All, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::IdlePause,
        Self::ExtraCompute,
        Self::Preempt,
        Self::Throttle,
        Self::Queue,
        Self::Hold,
        Self::Delay,
        Self::Stop,
        Self::Block,
    ];

    /// As the cause log and the table name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::IdlePause => "idle_pause",
            Self::ExtraCompute => "extra_compute",
            Self::Preempt => "preempt",
            Self::Throttle => "throttle",
            Self::Queue => "queue",
            Self::Hold => "hold",
            Self::Delay => "delay",
            Self::Stop => "stop",
            Self::Block => "block",
        }
    }

    /// The verdict that is right.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::IdlePause | Self::Preempt | Self::Queue => Verdict::Waiting,
            Self::ExtraCompute => Verdict::ExtraCompute,
            Self::Throttle => Verdict::Throttled,
            Self::Hold | Self::Delay => Verdict::Network,
            Self::Stop | Self::Block => Verdict::Client,
        }
    }

    /// Made by the server itself: its own stamps show the stall.
    pub fn is_servers(self) -> bool {
        !matches!(self, Self::Hold | Self::Delay | Self::Stop | Self::Block)
    }
}

/// One stall.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Injection {
    /// What.
    pub kind: Kind,
    /// How long, ms.
    pub ms: u64,
    /// Quiet after it, ms.
    pub rest_ms: u64,
    /// Which request of the batch, which connection or which agent, counted round.
    pub nth: usize,
    /// Of a hold: which connections.
    pub which: Which,
    /// Of a throttle: how many times slower.
    pub factor: u64,
    /// Of a throttle: NVML's bits.
    pub bits: u32,
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What it was drawn from.
    pub seed: u64,
    /// In order.
    pub injections: Vec<Injection>,
    /// Streams of both agents together.
    pub concurrency: u32,
    /// Of the server, ms.
    pub step_base_ms: f64,
    /// Tokens of each reply.
    pub output_len: u32,
    /// Quiet before the load, ms: the GPU's idle band.
    pub idle_ms: u64,
    /// The agents' event loops stand still for so long in the middle, ms.
    pub block_ms: Option<u64>,
    /// The probe is killed before this injection, and another one started in its place.
    pub probe_dies_before: Option<usize>,
}

/// Load before the first stall, ms.
pub const LEAD_IN_MS: u64 = 1_500;
/// Load after the last one, ms.
pub const LEAD_OUT_MS: u64 = 1_000;
/// Quiet before and after a block, ms.
const AROUND_BLOCK_MS: u64 = 1_500;

impl Plan {
    /// Every kind of `kinds` `times` times, in an order and with parameters that follow from `seed`.
    pub fn random(seed: u64, kinds: &[Kind], times: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let wanted = kinds.iter().filter(|kind| **kind != Kind::Block);
        let mut injections: Vec<Injection> = wanted
            .flat_map(|kind| std::iter::repeat_n(*kind, times))
            .map(|kind| draw(kind, &mut rng))
            .collect();
        rng.shuffle(&mut injections);
        Self {
            seed,
            injections,
            concurrency: rng.u32(8..=14),
            step_base_ms: rng.u32(7..=12).into(),
            output_len: rng.u32(120..=240),
            idle_ms: 2_500,
            block_ms: kinds.contains(&Kind::Block).then(|| rng.u64(300..=1_500)),
            probe_dies_before: None,
        }
    }

    /// The same with every stall `ms` long.
    pub fn all_of(mut self, ms: u64) -> Self {
        self.injections.iter_mut().for_each(|injection| injection.ms = ms);
        self.block_ms = self.block_ms.map(|_| ms);
        self
    }

    /// Injections before the block, if there is one: the first half of the time.
    pub fn before_block(&self) -> usize {
        let half = self.busy_ms() / 2;
        let mut sum = 0;
        let fits = |injection: &&Injection| {
            sum += injection.ms + injection.rest_ms;
            sum <= half
        };
        self.injections.iter().take_while(fits).count()
    }

    fn busy_ms(&self) -> u64 {
        self.injections.iter().map(|injection| injection.ms + injection.rest_ms).sum()
    }

    /// How long the load lasts, ms; a block comes in the middle.
    pub fn duration_ms(&self) -> u64 {
        let Some(block_ms) = self.block_ms else { return LEAD_IN_MS + self.busy_ms() + LEAD_OUT_MS };
        let length = |part: &[Injection]| part.iter().map(|i| i.ms + i.rest_ms).sum::<u64>();
        let (before, after) = self.injections.split_at(self.before_block());
        let before = LEAD_IN_MS + length(before) + AROUND_BLOCK_MS;
        let after = block_ms + AROUND_BLOCK_MS + length(after) + LEAD_OUT_MS;
        2 * before.max(after)
    }

    /// Quiet from the middle of the load on, until the injections after the block begin, ms.
    pub fn after_middle_ms(&self) -> u64 {
        self.block_ms.map_or(0, |block_ms| block_ms + AROUND_BLOCK_MS)
    }
}

fn draw(kind: Kind, rng: &mut fastrand::Rng) -> Injection {
    let which = match rng.u8(0..3) {
        0 => Which::All,
        1 => Which::Half(rng.usize(0..2)),
        _ => Which::One(rng.usize(0..64)),
    };
    Injection {
        kind,
        ms: rng.u64(300..=1_500),
        rest_ms: rng.u64(900..=1_500),
        nth: rng.usize(0..64),
        which,
        factor: rng.u64(30..=60),
        bits: [0x4, 0x20, 0x40][rng.usize(0..3)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan_and_every_kind_is_in_it() {
        let plan = Plan::random(7, &Kind::ALL, 2);
        assert_eq!(plan, Plan::random(7, &Kind::ALL, 2));
        assert_ne!(plan.injections, Plan::random(8, &Kind::ALL, 2).injections);
        assert_eq!(plan.injections.len(), 16);
        assert!(plan.block_ms.is_some());
        let block = plan.duration_ms() / 2;
        let before: u64 = plan.injections[..plan.before_block()].iter().map(|i| i.ms + i.rest_ms).sum();
        assert!(LEAD_IN_MS + before + AROUND_BLOCK_MS <= block);
        let after: u64 = plan.injections[plan.before_block()..].iter().map(|i| i.ms + i.rest_ms).sum();
        assert!(block + plan.after_middle_ms() + after + LEAD_OUT_MS <= plan.duration_ms());
    }
}
