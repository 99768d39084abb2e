//! Worlds of a known cause, drawn from a seed. Two sets of ranges: those that the rules were tuned on, and those that are
//! held out; seeds differ too.

use std::fmt;

use fastrand::Rng;
use model_sim::engine::{Admission, Params, PowerCap};
use model_sim::link::LinkSpeed;
use model_sim::world::World;
use tailcliff::diagnose::Cause;

/// Seeds below this one draw from the ranges that rules were tuned on; from it on from those that are held out.
pub const TRAINING_SEEDS: u64 = 1_000_000;
const MS: i64 = 1_000_000;
const S: i64 = 1_000 * MS;

/// What limits a world, and in which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Slots.
    Slots,
    /// Slots, and each sequence costs a little.
    SlotsAndCost,
    /// Slots, and a power cap that slows a little at every level above the lowest.
    SlotsUnderCap,
    /// A cost for each sequence.
    Cost,
    /// The same, and a clock that falls a little.
    CostUnderCap,
    /// The KV cache, given out by prompts.
    Kv,
    /// The limit on the GPU's power.
    Power,
    /// The same for heat.
    Heat,
    /// A narrow link, chunks of one token.
    Link,
    /// A narrow link, chunks that fill a packet.
    WideLink,
    /// A client that takes long for each chunk.
    Client,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Slots,
        Self::SlotsAndCost,
        Self::SlotsUnderCap,
        Self::Cost,
        Self::CostUnderCap,
        Self::Kv,
        Self::Power,
        Self::Heat,
        Self::Link,
        Self::WideLink,
        Self::Client,
    ];

    /// What truly limits it.
    pub fn cause(self) -> Cause {
        match self {
            Self::Slots | Self::SlotsAndCost | Self::SlotsUnderCap => Cause::ServerQueue,
            Self::Cost | Self::CostUnderCap => Cause::ComputeBound,
            Self::Kv => Cause::KvFull,
            Self::Power | Self::Heat => Cause::PowerOrThermalCap,
            Self::Link | Self::WideLink => Cause::Network,
            Self::Client => Cause::ClientBound,
        }
    }
}

/// What is seen beside the client's own records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// A probe reads the GPU.
    pub gpu: bool,
    /// A probe counts the bytes that the server's host sends, and the link's speed was told.
    pub nic: bool,
    /// The server tells of itself.
    pub server: bool,
}

impl Signals {
    /// One after another: all that a run may have and lack.
    pub fn turn(n: u64) -> Self {
        match n % 4 {
            0 => Self { gpu: true, ..Self::default() },
            1 => Self::default(),
            2 => Self { gpu: true, nic: true, server: false },
            _ => Self { gpu: true, server: true, nic: false },
        }
    }
}

impl fmt::Display for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [(self.gpu, "GPU"), (self.nic, "NIC"), (self.server, "server")];
        let names: Vec<&str> = all.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
        f.pad(&if names.is_empty() { "client alone".to_owned() } else { names.join("+") })
    }
}

/// A world, its ladder, and what is seen of it.
#[derive(Clone, Debug)]
pub struct Scene {
    /// What limits it.
    pub kind: Kind,
    /// Everything in it.
    pub world: World,
    /// Clients of each level.
    pub ladder: Vec<usize>,
    /// What is seen.
    pub signals: Signals,
    /// Before the window, ns.
    pub warmup_ns: i64,
    /// The window, ns.
    pub duration_ns: i64,
    /// What it was drawn from.
    pub seed: u64,
}

/// Ranges of what is drawn.
struct Ranges {
    step_ms: (f64, f64),
    prompt: (u64, u64),
    output: (u64, u64),
    slots: (usize, usize),
    /// Of a step's base, what each sequence costs in a world that it limits.
    cost: (f64, f64),
    /// Sequences that the KV cache holds whole.
    kv: (f64, f64),
    /// The batch that reaches the GPU's limit.
    cap_at: (f64, f64),
    exponent: (f64, f64),
    /// Streams that a link carries at an unloaded server's pace.
    carried: (f64, f64),
    buffer: (u64, u64),
    one_way_us: (i64, i64),
}

const TUNED_ON: Ranges = Ranges {
    step_ms: (8.0, 16.0),
    prompt: (32, 256),
    output: (40, 90),
    slots: (4, 12),
    cost: (0.15, 0.35),
    kv: (5.0, 12.0),
    cap_at: (3.0, 8.0),
    exponent: (1.0, 1.3),
    carried: (4.0, 10.0),
    buffer: (16_000, 64_000),
    one_way_us: (100, 2_000),
};

const HELD_OUT: Ranges = Ranges {
    step_ms: (5.0, 30.0),
    prompt: (16, 600),
    output: (30, 140),
    slots: (2, 20),
    cost: (0.10, 0.60),
    kv: (3.0, 16.0),
    cap_at: (2.0, 12.0),
    exponent: (1.0, 1.5),
    carried: (2.5, 16.0),
    buffer: (8_000, 120_000),
    one_way_us: (30, 15_000),
};

fn between(rng: &mut Rng, (low, high): (f64, f64)) -> f64 {
    low + (high - low) * rng.f64()
}

/// A shortest and a longest one.
fn span(rng: &mut Rng, (low, high): (u64, u64)) -> (u64, u64) {
    let (a, b) = (rng.u64(low..=high), rng.u64(low..=high));
    (a.min(b), a.max(b))
}

impl Scene {
    /// A world of this kind; seeds from `TRAINING_SEEDS` on draw from the held-out ranges.
    pub fn draw(kind: Kind, signals: Signals, seed: u64) -> Self {
        let ranges = if seed < TRAINING_SEEDS { &TUNED_ON } else { &HELD_OUT };
        let mut rng = Rng::with_seed(seed.wrapping_mul(31) ^ kind as u64);
        let mut world = open(&mut rng, ranges);
        limit(kind, &mut world, &mut rng, ranges);
        Self {
            kind,
            world,
            ladder: vec![1, 2, 4, 8, 16, 32, 64],
            signals,
            warmup_ns: 4 * S,
            duration_ns: 16 * S,
            seed,
        }
    }

    /// When a level ends, ns.
    pub fn until_ns(&self) -> i64 {
        self.warmup_ns + self.duration_ns
    }

    /// What can be told with these signals: the cause, or those that are left.
    pub fn tellable(&self) -> Result<Cause, Vec<Cause>> {
        use Cause::{ComputeBound, Network, PowerOrThermalCap};
        let Signals { gpu, nic, server } = self.signals;
        match self.kind {
            // Slower tokens for all, one by one: no narrow link; whether a clock fell only the GPU tells.
            Kind::Cost | Kind::CostUnderCap | Kind::Power | Kind::Heat if !gpu => {
                Err(vec![ComputeBound, PowerOrThermalCap])
            }
            // Chunks that fill a packet come one by one over a full link too.
            Kind::WideLink if !nic && !server && gpu => Err(vec![ComputeBound, Network]),
            Kind::WideLink if !nic && !server => Err(vec![ComputeBound, PowerOrThermalCap, Network]),
            kind => Ok(kind.cause()),
        }
    }
}

/// A world without a limit up to the top of the ladder.
fn open(rng: &mut Rng, ranges: &Ranges) -> World {
    let step_ns = (between(rng, ranges.step_ms) * 1e6) as i64;
    World {
        params: Params {
            prefill_tokens_per_s: between(rng, (15_000.0, 60_000.0)),
            step_base_ns: step_ns,
            step_per_seq_ns: step_ns / 400,
            max_num_seqs: 256,
            kv_tokens: 1_000_000,
            max_queue: None,
        },
        chunk_bytes: rng.u64(180..320),
        one_way_ns: rng.i64(ranges.one_way_us.0..=ranges.one_way_us.1) * 1_000,
        client_ns: rng.i64(5_000..30_000),
        prompt_tokens: span(rng, ranges.prompt),
        output_tokens: span(rng, ranges.output),
        ..World::default()
    }
}

/// Puts the limit in.
fn limit(kind: Kind, world: &mut World, rng: &mut Rng, ranges: &Ranges) {
    let step = world.params.step_base_ns as f64;
    let slots = rng.usize(ranges.slots.0..=ranges.slots.1);
    match kind {
        Kind::Slots => world.params.max_num_seqs = slots,
        Kind::SlotsAndCost => {
            world.params.max_num_seqs = slots;
            // So little that throughput would go on growing by more than half of what load does.
            world.params.step_per_seq_ns = (step * between(rng, (0.1, 0.4)) / slots as f64) as i64;
        }
        Kind::SlotsUnderCap => {
            world.params.max_num_seqs = slots;
            world.nature.power = Some(mild(rng, slots as f64));
        }
        Kind::Cost => world.params.step_per_seq_ns = (step * between(rng, ranges.cost)) as i64,
        Kind::CostUnderCap => {
            let cost = between(rng, ranges.cost);
            world.params.step_per_seq_ns = (step * cost) as i64;
            world.nature.power = Some(mild(rng, 1.0 / cost));
        }
        Kind::Kv => {
            let mean = (world.prompt_tokens.0 + world.prompt_tokens.1) / 2;
            // Prompts that are short against answers: what grows in the cache is the answers.
            world.output_tokens = (120, 240);
            world.prompt_tokens = (mean / 3 + 5, mean / 2 + 10);
            let whole = (world.prompt_tokens.1 + world.output_tokens.1) as f64;
            world.params.kv_tokens = (whole * between(rng, ranges.kv)) as u64;
            world.nature.admission = Admission::Optimistic;
        }
        Kind::Power | Kind::Heat => {
            let bits = if kind == Kind::Power { 0x4 } else { 0x20 };
            let (at, exponent) = (between(rng, ranges.cap_at), between(rng, ranges.exponent));
            let per_seq_w = 40.0;
            world.nature.power = Some(PowerCap {
                idle_w: 80.0,
                base_w: 30.0,
                per_seq_w,
                limit_w: 80.0 + 30.0 + per_seq_w * at,
                exponent,
                bits,
            });
        }
        Kind::Link | Kind::WideLink => {
            if kind == Kind::WideLink {
                world.chunk_bytes = rng.u64(1_500..5_000);
            }
            let per_stream = (world.chunk_bytes + 66) as f64 / (step / 1e9);
            let (low, high) = ranges.buffer;
            world.link = Some(LinkSpeed {
                bytes_per_s: per_stream * between(rng, ranges.carried),
                buffer_bytes: rng.u64(low..=high),
            });
        }
        Kind::Client => world.client_ns = (step / between(rng, ranges.carried)) as i64,
    }
}

/// A limit that lets the clock of such a batch fall by 3 to 9 % and not much more for larger ones: what loaded cards do
/// all day.
fn mild(rng: &mut Rng, batch: f64) -> PowerCap {
    let (base_w, per_seq_w) = (300.0, 20.0 / batch.max(1.0));
    let wanted = base_w + per_seq_w * batch;
    PowerCap {
        idle_w: 80.0,
        base_w,
        per_seq_w,
        limit_w: 80.0 + wanted * between(rng, (0.85, 0.95)),
        exponent: 2.0,
        bits: 0x4,
    }
}
