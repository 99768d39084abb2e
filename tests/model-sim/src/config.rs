//! What a server is told, as meant.

use std::path::PathBuf;

use crate::engine::{Nature, Params};
use crate::fault::FaultRule;
use crate::inside::Inside;

/// Where the times of tokens come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Timing {
    /// From the engine, in real time: requests queue, share batches and slow each other down.
    Engine(Params),
    /// Each request on its own: token i is due `ttft_ns + i · itl_ns` after the request arrived, late writes or not.
    Paced {
        /// From arrival to first token, ns; ≥ 0.
        ttft_ns: i64,
        /// Between tokens, ns; ≥ 0.
        itl_ns: i64,
    },
}

/// A server's configuration.
#[derive(Clone)]
pub struct Config {
    /// The one model it serves; others are answered 404.
    pub model: String,
    /// Where the times of tokens come from.
    pub timing: Timing,
    /// The engine's limits beyond its parameters.
    pub nature: Nature,
    /// Faults, each with the requests that it hits.
    pub faults: Vec<FaultRule>,
    /// Seeds the probabilities and the reply lengths.
    pub seed: u64,
    /// The bearer token that requests must carry.
    pub api_key: Option<String>,
    /// Most tokens of prompt and reply together; more is answered 400.
    pub max_model_len: u64,
    /// Mean length of replies to requests without `ignore_eos`: uniform on 1 ..= 2·mean − 1, never above what was
    /// asked. `None`: always exactly what was asked.
    pub eos_mean_tokens: Option<u64>,
    /// The truth log's file, created anew.
    pub truth_log: Option<PathBuf>,
    /// The log of the engine's causes, created anew: a [`crate::CauseRecord`] a line.
    pub cause_log: Option<PathBuf>,
    /// The log of what a GPU under this engine would show, created anew: `raw_ns power_w util sm_mhz mem_util throttle`
    /// at each change.
    pub gpu_log: Option<PathBuf>,
    /// How many truth records `serve` keeps and returns.
    pub keep_truth: usize,
    /// By how much the server's first request is taken later, ns.
    pub first_penalty_ns: i64,
    /// What it tells of itself beside its answers.
    pub inside: Inside,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: "sim".into(),
            timing: Timing::Engine(Params::default()),
            nature: Nature::default(),
            faults: Vec::new(),
            seed: 0,
            api_key: None,
            max_model_len: 32_768,
            eos_mean_tokens: None,
            truth_log: None,
            cause_log: None,
            gpu_log: None,
            keep_truth: 0,
            first_penalty_ns: 0,
            inside: Inside::default(),
        }
    }
}

impl std::fmt::Debug for Config {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("model", &self.model)
            .field("timing", &self.timing)
            .field("nature", &self.nature)
            .field("faults", &self.faults)
            .field("seed", &self.seed)
            .field("api_key", &self.api_key.as_ref().map(|_| "…"))
            .field("max_model_len", &self.max_model_len)
            .field("eos_mean_tokens", &self.eos_mean_tokens)
            .field("truth_log", &self.truth_log)
            .field("cause_log", &self.cause_log)
            .field("gpu_log", &self.gpu_log)
            .field("keep_truth", &self.keep_truth)
            .field("first_penalty_ns", &self.first_penalty_ns)
            .field("inside", &self.inside)
            .finish()
    }
}
