//! One level of load over the engine in virtual time, with every request as it went: what a load tester's records would
//! hold, without its errors. Lengths are drawn from a seed, so that levels differ as real ones do.

use std::collections::HashMap;

use crate::engine::{BadParams, Cause, Emission, Engine, Params, Request};

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Senders {
    /// So many clients, each of which sends its next request at the instant that its last one ends.
    Clients(usize),
    /// Requests that arrive as a Poisson process, so many a second.
    Rate(f64),
}

/// A level. All times are ns of virtual time, from its start.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualLoad {
    /// Who sends.
    pub senders: Senders,
    /// Shortest and longest prompt, tokens; drawn evenly.
    pub prompt_tokens: (u64, u64),
    /// Shortest and longest answer, tokens; drawn evenly.
    pub output_tokens: (u64, u64),
    /// No request is sent from here on; those under way go on to their ends.
    pub until_ns: i64,
    /// Causes of stalls that take hold at these times, each with the number of the sequence that it concerns.
    pub causes: Vec<(i64, usize, Cause)>,
    /// Of everything drawn.
    pub seed: u64,
}

/// One request as it went; what never happened to it is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtualRequest {
    /// Sent.
    pub sent_ns: i64,
    /// Left the queue.
    pub admitted_ns: Option<i64>,
    /// First token.
    pub first_ns: Option<i64>,
    /// Last token.
    pub done_ns: Option<i64>,
    /// Prompt, tokens.
    pub prompt_tokens: u64,
    /// Tokens that came.
    pub output_tokens: u64,
    /// Longest gap between two of them.
    pub longest_gap_ns: i64,
    /// Refused.
    pub refused: bool,
}

/// Drives a level; requests in the order sent.
///
/// # Errors
/// Parameters outside their ranges.
pub fn virtual_level(params: &Params, load: &VirtualLoad) -> Result<Vec<VirtualRequest>, BadParams> {
    let mut engine = Engine::new(params.clone())?;
    load.causes.iter().for_each(|&(at, nth, cause)| engine.schedule(at, nth, cause));
    let rng = fastrand::Rng::with_seed(load.seed);
    let mut drive = Drive { engine, load, rng, all: Vec::new(), latest: HashMap::new() };
    match load.senders {
        Senders::Clients(clients) => drive.closed(clients),
        Senders::Rate(per_s) => drive.open(per_s),
    }
    Ok(drive.all)
}

struct Drive<'a> {
    engine: Engine,
    load: &'a VirtualLoad,
    rng: fastrand::Rng,
    all: Vec<VirtualRequest>,
    /// Latest token of each request under way.
    latest: HashMap<u64, i64>,
}

impl Drive<'_> {
    fn closed(&mut self, clients: usize) {
        (0..clients).for_each(|_| self.send(0));
        while self.engine.next_event().is_some() {
            for emission in self.engine.step() {
                if self.take(emission) && emission.at < self.load.until_ns {
                    self.send(emission.at);
                }
            }
        }
    }

    fn open(&mut self, per_s: f64) {
        let mut next = 0.0;
        loop {
            next += -(1.0 - self.rng.f64()).ln() / per_s * 1e9;
            let is_over = next >= self.load.until_ns as f64;
            let now = if is_over { i64::MAX } else { next as i64 };
            for emission in self.engine.advance(now) {
                self.take(emission);
            }
            if is_over {
                return;
            }
            self.send(now);
        }
    }

    fn send(&mut self, now: i64) {
        let id = self.all.len() as u64;
        let mut draw = |(low, high): (u64, u64)| self.rng.u64(low..=high);
        let request = Request::new(id, draw(self.load.prompt_tokens), draw(self.load.output_tokens));
        let refused = self.engine.arrive(now, request).is_err();
        let prompt_tokens = request.prompt_tokens;
        self.all.push(VirtualRequest { sent_ns: now, prompt_tokens, refused, ..VirtualRequest::default() });
    }

    /// True when it was a request's last token.
    fn take(&mut self, x: Emission) -> bool {
        let Some(request) = self.all.get_mut(x.id as usize) else { return false };
        request.output_tokens += 1;
        request.admitted_ns = Some(x.admitted_at);
        match self.latest.insert(x.id, x.at) {
            None => request.first_ns = Some(x.at),
            Some(before) => request.longest_gap_ns = request.longest_gap_ns.max(x.at - before),
        }
        if x.last {
            request.done_ns = Some(x.at);
            self.latest.remove(&x.id);
        }
        x.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::request_throughput;

    fn load(senders: Senders) -> VirtualLoad {
        VirtualLoad {
            senders,
            prompt_tokens: (20, 60),
            output_tokens: (10, 30),
            until_ns: 100_000_000_000,
            causes: Vec::new(),
            seed: 3,
        }
    }

    #[test]
    fn a_closed_loop_gets_what_the_parameters_imply() {
        let params = Params { max_num_seqs: 8, ..Params::default() };
        for clients in [1, 4, 8, 24] {
            let all = virtual_level(&params, &load(Senders::Clients(clients))).unwrap();
            let in_time = |r: &&VirtualRequest| r.done_ns.is_some_and(|at| at <= 100_000_000_000);
            let done = all.iter().filter(in_time).count() as f64 / 100.0;
            let implied = request_throughput(&params, clients, 40, 20);
            assert!((done / implied - 1.0).abs() < 0.03, "{clients}: {done}, implied {implied}");
            let late = all.iter().filter(|r| r.done_ns.is_some_and(|at| at > 100_000_000_000)).count();
            assert_eq!(late, clients, "each client has one request under way at the end");
        }
    }

    #[test]
    fn an_open_loop_queues_beyond_the_capacity() {
        let params = Params { max_num_seqs: 4, ..Params::default() };
        let capacity = request_throughput(&params, 4, 40, 20);
        let half = virtual_level(&params, &load(Senders::Rate(capacity / 2.0))).unwrap();
        let twice = virtual_level(&params, &load(Senders::Rate(capacity * 2.0))).unwrap();
        let waits = |all: &[VirtualRequest]| {
            let ns: Vec<i64> = all.iter().filter_map(|r| Some(r.first_ns? - r.sent_ns)).collect();
            ns.iter().sum::<i64>() / ns.len() as i64
        };
        assert!((half.len() as f64 / 100.0 / (capacity / 2.0) - 1.0).abs() < 0.15);
        assert!(waits(&twice) > 20 * waits(&half), "{} against {}", waits(&twice), waits(&half));
    }

    #[test]
    fn the_same_seed_gives_the_same_level() {
        let params = Params::default();
        let of = |seed| virtual_level(&params, &VirtualLoad { seed, ..load(Senders::Clients(5)) }).unwrap();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
