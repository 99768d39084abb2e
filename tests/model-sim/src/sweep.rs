//! A closed loop of clients over the engine in virtual time: thousands of sweeps in seconds, no socket.

use std::collections::HashMap;

use crate::engine::{BadParams, Emission, Engine, Params, Request};

/// One level of a virtual sweep. All times are ns of virtual time; the vectors of times have one entry per finished
/// request, but `itl_ns`, which has one per gap between two tokens of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualLevel {
    /// Clients in the loop.
    pub concurrency: usize,
    /// Finished requests per second, from the first arrival to the last finish.
    pub throughput: f64,
    /// From arrival to first token.
    pub ttft_ns: Vec<i64>,
    /// From arrival to last token.
    pub e2e_ns: Vec<i64>,
    /// Gaps between tokens.
    pub itl_ns: Vec<i64>,
    /// Virtual time that the level took.
    pub elapsed_ns: i64,
}

/// Runs each of `levels` until `requests_per_level` requests have finished: every client sends its next request at
/// the instant its last one ends, and all keep sending until the level is over (no tail with fewer clients). Allow
/// some four requests for each client, or the start weighs on the throughput.
///
/// # Errors
/// Parameters outside their ranges.
pub fn virtual_sweep(
    params: &Params,
    levels: &[usize],
    prompt_tokens: u64,
    output_tokens: u64,
    requests_per_level: usize,
) -> Result<Vec<VirtualLevel>, BadParams> {
    levels
        .iter()
        .map(|&n| {
            let engine = Engine::new(Params { max_queue: None, ..params.clone() })?;
            let template = Request::new(0, prompt_tokens, output_tokens);
            Ok(Loop { engine, template, sent: 0, flying: HashMap::new(), level: VirtualLevel::default() }
                .run(n, requests_per_level))
        })
        .collect()
}

struct Loop {
    engine: Engine,
    template: Request,
    sent: u64,
    /// Arrival and latest token of each request under way.
    flying: HashMap<u64, (i64, i64)>,
    level: VirtualLevel,
}

impl Loop {
    fn run(mut self, clients: usize, requests: usize) -> VirtualLevel {
        self.level.concurrency = clients;
        (0..clients).for_each(|_| self.send(0));
        while self.level.e2e_ns.len() < requests && self.engine.next_event().is_some() {
            for emission in self.engine.step() {
                self.take(emission);
            }
        }
        let seconds = self.level.elapsed_ns as f64 / 1e9;
        self.level.throughput = if seconds > 0.0 { self.level.e2e_ns.len() as f64 / seconds } else { 0.0 };
        self.level
    }

    fn send(&mut self, now: i64) {
        let request = Request { id: self.sent, ..self.template };
        self.sent += 1;
        // A request that can never fit is refused, and its client stops: the level ends with nothing finished.
        if self.engine.arrive(now, request).is_ok() {
            self.flying.insert(request.id, (now, now));
        }
    }

    fn take(&mut self, x: Emission) {
        let Some((arrived, before)) = self.flying.get_mut(&x.id) else { return };
        match x.token_index {
            0 => self.level.ttft_ns.push(x.at - *arrived),
            _ => self.level.itl_ns.push(x.at - *before),
        }
        *before = x.at;
        if x.last {
            self.level.e2e_ns.push(x.at - *arrived);
            self.level.elapsed_ns = x.at;
            self.flying.remove(&x.id);
            self.send(x.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::{implied_knee, knee, request_throughput};

    const LEVELS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

    fn random_params(rng: &mut fastrand::Rng) -> Params {
        let step_base_ns = rng.i64(2_000_000..30_000_000);
        Params {
            prefill_tokens_per_s: 10f64.powf(3.0 + 2.0 * rng.f64()),
            step_base_ns,
            step_per_seq_ns: (step_base_ns as f64 * rng.f64() * 0.2) as i64,
            max_num_seqs: 1 << rng.u32(0..7),
            kv_tokens: rng.u64(200..20_000),
            max_queue: None,
        }
    }

    #[test]
    fn the_knee_of_a_sweep_is_within_a_rung_of_the_implied_one() {
        let mut rng = fastrand::Rng::with_seed(5);
        let (mut same, mut found) = (0, std::collections::BTreeSet::new());
        for _ in 0..100 {
            let p = random_params(&mut rng);
            let (prompt, output) = (rng.u64(16..128), rng.u64(8..40));
            let sweep = virtual_sweep(&p, &LEVELS, prompt, output, 256).unwrap();
            let x: Vec<f64> = sweep.iter().map(|l| l.throughput).collect();
            let got = knee(&LEVELS, &x, 0.5).unwrap_or(LEVELS.len());
            let implied = implied_knee(&p, &LEVELS, prompt, output, 0.5).unwrap_or(LEVELS.len());
            assert!(got.abs_diff(implied) <= 1, "{p:?} {prompt}/{output}: {got}, implied {implied}: {x:?}");
            same += usize::from(got == implied);
            found.insert(implied);
        }
        assert!(same >= 90, "only {same} of 100 equal");
        assert!(found.len() >= 5, "the parameters hardly vary: {found:?}");
    }

    #[test]
    fn throughput_is_what_the_formula_says() {
        let mut rng = fastrand::Rng::with_seed(6);
        for _ in 0..20 {
            let p = random_params(&mut rng);
            for level in virtual_sweep(&p, &LEVELS, 50, 20, 512).unwrap() {
                let x = request_throughput(&p, level.concurrency, 50, 20);
                assert!((level.throughput / x - 1.0).abs() < 0.15, "{p:?} {}: {x}", level.concurrency);
            }
        }
    }

    #[test]
    fn a_level_holds_as_many_times_as_it_should() {
        let sweep = virtual_sweep(&Params::default(), &[3, 40], 10, 5, 60).unwrap();
        for level in &sweep {
            assert!(level.e2e_ns.len() >= 60 && level.ttft_ns.len() >= level.e2e_ns.len());
            assert!(level.itl_ns.len() >= 4 * level.e2e_ns.len());
        }
        assert!(
            sweep[1].ttft_ns.iter().max() > sweep[0].ttft_ns.iter().max(),
            "40 clients queue for 32 slots"
        );
    }

    #[test]
    fn requests_that_never_fit_end_the_level_with_nothing() {
        let p = Params { kv_tokens: 10, ..Params::default() };
        let sweep = virtual_sweep(&p, &[2], 10, 5, 60).unwrap();
        assert_eq!((sweep[0].throughput, sweep[0].e2e_ns.len()), (0.0, 0));
    }
}
