//! The product's search for a knee against simulated servers whose knee follows from their parameters, in virtual time.

use std::ops::Range;

use model_sim::{Params, Senders, VirtualLoad, virtual_level};
use tailcliff::axis::Load;
use tailcliff::blocks;
use tailcliff::merge::window::{Rule as WindowRule, Window};
use tailcliff::plan::{AutoPlan, CliffRule};
use tailcliff::search::seen::Seen;
use tailcliff::search::{Ask, DRAWS_TOLD, Found, Lengths, Next, Rule, Search};

use crate::simulated::record;

/// What makes the knee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sequence slots run out.
    Slots,
    /// The KV cache is full.
    Kv,
    /// Each sequence costs so much that the curve bends by itself.
    Compute,
}

/// A server and what is asked of it.
#[derive(Clone, Debug)]
pub struct World {
    /// What makes its knee.
    pub kind: Kind,
    params: Params,
    prompt_tokens: (u64, u64),
    output_tokens: (u64, u64),
    seed: u64,
}

/// What a search found in a world, and what is true.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Where it searched.
    pub world: World,
    /// Knee that its parameters imply.
    pub truth: f64,
    /// Knee and cliff, as told.
    pub found: Found,
    /// Levels driven.
    pub levels: usize,
    /// Virtual time that they took, s.
    pub took_s: f64,
    /// What a sweep of even steps would take, each as wide as the resolution at the true knee, to the end of the axis, s; …
    pub linear_s: f64,
    /// … and to the highest load that the search drove.
    pub linear_to_top_s: f64,
    /// Width that was asked for, in streams.
    pub rung: f64,
    /// Why it ended.
    pub ended: String,
}

impl Trial {
    /// The interval holds the true knee.
    pub fn covers(&self) -> bool {
        self.found.knee.is_some_and(|knee| (knee.low..=knee.high).contains(&self.truth))
    }
}

/// Highest load that is searched.
pub const TO: f64 = 256.0;
/// Resolution that is asked for.
pub const RESOLUTION: f64 = 0.1;

impl World {
    /// One drawn from a seed.
    pub fn drawn(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let kind = [Kind::Slots, Kind::Kv, Kind::Compute][rng.usize(..3)];
        let knee = log_uniform(&mut rng, 3.0..100.0);
        let around = |rng: &mut fastrand::Rng, mean: u64, spread: f64| {
            let half = (mean as f64 * spread) as u64;
            let (low, high) = (mean.saturating_sub(half).max(1), mean + half);
            if rng.bool() { (mean, mean) } else { (low, high) }
        };
        let (prompt, output) = (rng.u64(16..128), rng.u64(8..40));
        let prompt_tokens = around(&mut rng, prompt, 0.5);
        // What a cache of tokens holds is a number of requests only where they are of one length.
        let (prompt_tokens, output_tokens) = match kind {
            Kind::Kv => ((prompt, prompt), (output, output)),
            _ => (prompt_tokens, around(&mut rng, output, 0.5)),
        };
        let step_base_ns = rng.i64(2_000_000..30_000_000);
        // The curve bends at base / (cost of each): far beyond the limit, or at the knee itself.
        let bend = if kind == Kind::Compute { knee } else { knee * log_uniform(&mut rng, 1.5..40.0) };
        let each_ns = output as f64 * step_base_ns as f64 / bend;
        let prefill_part = rng.f64();
        let limit = knee.round() as usize;
        let params = Params {
            prefill_tokens_per_s: prompt as f64 / (each_ns * prefill_part / 1e9).max(1e-7),
            step_base_ns,
            step_per_seq_ns: (each_ns * (1.0 - prefill_part) / output as f64) as i64,
            max_num_seqs: if kind == Kind::Slots { limit } else { 4_096 },
            kv_tokens: if kind == Kind::Kv {
                limit as u64 * (prompt + output) + rng.u64(..prompt)
            } else {
                100_000_000
            },
            max_queue: None,
        };
        Self { kind, params, prompt_tokens, output_tokens, seed }
    }

    /// Mean prompt and answer, tokens.
    fn means(&self) -> (f64, f64) {
        let mean = |(low, high): (u64, u64)| (low + high) as f64 / 2.0;
        (mean(self.prompt_tokens), mean(self.output_tokens))
    }

    /// What a request takes alone, and what each one beside it adds, s: in each of its steps it shares the batch's cost,
    /// and each of the others is prefilled once in its life.
    fn costs(&self) -> (f64, f64) {
        let (prompt, output) = self.means();
        let p = &self.params;
        let each = output * p.step_per_seq_ns as f64 / 1e9 + prompt / p.prefill_tokens_per_s;
        (output * p.step_base_ns as f64 / 1e9, each)
    }

    fn limit(&self) -> f64 {
        let (prompt, output) = self.means();
        let kv = (self.params.kv_tokens as f64 / (prompt + output)).floor();
        kv.min(self.params.max_num_seqs as f64)
    }

    /// Where d ln X / d ln C falls below `share`, by arithmetic alone.
    pub fn knee(&self, share: f64) -> f64 {
        let (base, each) = self.costs();
        self.limit().min(base / each * (1.0 - share) / share)
    }

    /// What a request takes at a concurrency, s.
    fn life_s(&self, concurrency: f64) -> f64 {
        let (base, each) = self.costs();
        let inside = concurrency.min(self.limit());
        (base + each * inside) * concurrency / inside
    }

    /// Drives a level as it was asked for.
    pub fn drive(&self, ask: &Ask, serial: u64) -> Seen {
        let Load::Streams(streams) = ask.load else { unreachable!("a closed loop") };
        let until_ns = ask.warmup_ns + ask.duration_ns;
        let load = VirtualLoad {
            senders: Senders::Clients(streams as usize),
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            until_ns,
            causes: Vec::new(),
            seed: self.seed.wrapping_mul(1_000_003).wrapping_add(serial),
        };
        let requests = virtual_level(&self.params, &load).unwrap_or_default();
        let window = Window { rule: WindowRule::Duration, start_ns: ask.warmup_ns, end_ns: until_ns };
        let records: Vec<_> = requests.iter().map(|request| record(request, until_ns)).collect();
        let blocks = blocks::of_records(&records, window, ask.load);
        Seen::of(ask.load, until_ns as f64 / 1e9, &blocks, "e2e", None)
    }

    /// Throughput by arithmetic alone, requests per second.
    pub fn implied_per_s(&self, concurrency: f64) -> f64 {
        concurrency / self.life_s(concurrency)
    }

    /// Throughput over some hundred lives of a request, requests per second.
    pub fn long_run_per_s(&self, concurrency: u32) -> f64 {
        let life_ns = (self.life_s(f64::from(concurrency)) * 1e9) as i64;
        let ask =
            Ask { load: Load::Streams(concurrency), warmup_ns: 5 * life_ns, duration_ns: 150 * life_ns };
        self.drive(&ask, u64::MAX).per_s()
    }

    /// Searches it.
    pub fn search(self) -> Trial {
        let cliff = CliffRule::default();
        let auto = AutoPlan { open: false, from: 1.0, to: TO, resolution: RESOLUTION, budget_ns: i64::MAX };
        let truth = self.knee(cliff.gain_share);
        let mut search = Search::new(Rule { auto, cliff, lengths: Lengths::default() });
        let ended = loop {
            match search.next() {
                Next::Level(ask) => {
                    let serial = search.seen().len() as u64;
                    search.take(self.drive(&ask, serial));
                }
                Next::Done(why) => break why,
            }
        };
        let rung = search.rung(truth);
        let top = search.seen().iter().map(|seen| seen.load.x()).fold(0.0, f64::max);
        Trial {
            truth,
            found: search.found(DRAWS_TOLD),
            levels: search.seen().len(),
            took_s: search.spent_s(),
            linear_s: self.linear_s(rung, TO),
            linear_to_top_s: self.linear_s(rung, top),
            rung,
            ended,
            world: self,
        }
    }

    /// Levels of the same make at even steps, each once.
    fn linear_s(&self, rung: f64, to: f64) -> f64 {
        let lengths = Lengths::default();
        let levels = (0..).map(|i| 1.0 + f64::from(i) * rung).take_while(|x| *x <= to);
        levels.map(|x| lengths.of_life(Load::Streams(x.round() as u32), self.life_s(x)).seconds()).sum()
    }
}

fn log_uniform(rng: &mut fastrand::Rng, range: Range<f64>) -> f64 {
    range.start * (range.end / range.start).powf(rng.f64())
}
