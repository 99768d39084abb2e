//! `/metrics` as vLLM 0.32 writes it: the same names, labels and buckets, with values from the simulated engine.
//!
//! Counters are relaxed atomics that a request's own task raises, a few tens of nanoseconds a token; the page is laid out
//! only when it is asked for.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use histogram::Histogram;

use crate::clock;
use crate::engine::Load;
use crate::truth::{Outcome, TruthRecord};

mod histogram;
mod page;

/// Why requests ended, in vLLM's words and order.
const REASONS: [&str; 5] = ["stop", "length", "abort", "error", "repetition"];

/// All that is counted since the server's start.
#[derive(Debug)]
pub(crate) struct Metrics {
    model: String,
    created_ns: i64,
    in_flight: AtomicI64,
    prompt_tokens: AtomicU64,
    output_tokens: AtomicU64,
    ended: [AtomicU64; REASONS.len()],
    ttft: Histogram,
    itl: Histogram,
    tpot: Histogram,
    e2e: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
}

impl Metrics {
    pub(crate) fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            created_ns: clock::unix_ns(),
            in_flight: AtomicI64::new(0),
            prompt_tokens: AtomicU64::new(0),
            output_tokens: AtomicU64::new(0),
            ended: Default::default(),
            ttft: Histogram::new(&histogram::TTFT_S),
            itl: Histogram::new(&histogram::TOKEN_S),
            tpot: Histogram::new(&histogram::TOKEN_S),
            e2e: Histogram::new(&histogram::REQUEST_S),
            queue: Histogram::new(&histogram::REQUEST_S),
            prefill: Histogram::new(&histogram::REQUEST_S),
            decode: Histogram::new(&histogram::REQUEST_S),
        }
    }

    /// A request entered the engine.
    pub(crate) fn entered(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// The front end has a token, `since_before_ns` after the one before it in the engine; the first comes with its prompt's
    /// length.
    pub(crate) fn token(&self, since_before_ns: Option<i64>, prompt_tokens: u64) {
        self.output_tokens.fetch_add(1, Relaxed);
        match since_before_ns {
            Some(ns) => self.itl.observe(ns),
            None => drop(self.prompt_tokens.fetch_add(prompt_tokens, Relaxed)),
        }
    }

    /// The first token left, so long after the request came.
    pub(crate) fn first_out(&self, ns: i64) {
        self.ttft.observe(ns);
    }

    /// A request that had entered the engine is over.
    pub(crate) fn ended(&self, record: &TruthRecord, finish: &str) {
        self.in_flight.fetch_sub(1, Relaxed);
        let reason = match record.outcome {
            Outcome::StreamError | Outcome::Rejected => "error",
            _ if record.last_out_ns.is_none() => "abort",
            _ => finish,
        };
        if let Some(at) = REASONS.iter().position(|known| *known == reason) {
            self.ended[at].fetch_add(1, Relaxed);
        }
        if let Some(times) = record.engine_times() {
            self.e2e.observe(times.e2e_ns);
            self.queue.observe(times.queue_ns);
            self.prefill.observe(times.prefill_ns);
            self.decode.observe(times.decode_ns);
            let gaps = i64::try_from(record.output_tokens).unwrap_or(i64::MAX) - 1;
            self.tpot.observe(if gaps > 0 { times.decode_ns / gaps } else { 0 });
        }
    }

    /// The page; `load` is the engine's, where there is one.
    pub(crate) fn page(&self, load: Option<Load>) -> String {
        page::lay_out(self, load)
    }
}
