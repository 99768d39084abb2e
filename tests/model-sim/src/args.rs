//! The command line, as typed, and its meaning.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::config::{Config, Timing};
use crate::engine::{Admission, Nature, Params};
use crate::fault::FaultRule;

use inside::InsideArgs;

pub mod inside;

/// A simulated OpenAI-compatible server: its latency follows from a queue, a batch and a KV budget.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Address to listen on; port 0 takes a free one, printed on the first line.
    #[arg(long, default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// Name of the model served.
    #[arg(long, default_value = "sim")]
    pub model: String,
    /// Where the times of tokens come from.
    #[arg(long, value_enum, default_value_t = Mode::Engine)]
    pub timing: Mode,
    /// Engine: prompt tokens processed per second.
    #[arg(long, default_value_t = Params::default().prefill_tokens_per_s)]
    pub prefill_tokens_per_s: f64,
    /// Engine: cost of a decode step whatever its batch, ms.
    #[arg(long, default_value_t = 8.0)]
    pub step_base_ms: f64,
    /// Engine: further cost of a step for each sequence in the batch, ms.
    #[arg(long, default_value_t = 0.1)]
    pub step_per_seq_ms: f64,
    /// Engine: most sequences in a batch.
    #[arg(long, default_value_t = Params::default().max_num_seqs)]
    pub max_num_seqs: usize,
    /// Engine: tokens that the KV cache holds.
    #[arg(long, default_value_t = Params::default().kv_tokens)]
    pub kv_tokens: u64,
    /// Engine: most requests waiting; further ones are answered 503.
    #[arg(long, default_value_t = 4096)]
    pub max_queue: usize,
    /// Engine: how the KV cache is given out.
    #[arg(long, value_enum, default_value_t = KvAdmission::Whole)]
    pub kv_admission: KvAdmission,
    /// Paced: from arrival to first token, ms.
    #[arg(long, default_value_t = 50.0)]
    pub paced_ttft_ms: f64,
    /// Paced: between tokens, ms.
    #[arg(long, default_value_t = 10.0)]
    pub paced_itl_ms: f64,
    /// The server's first request is taken so much later, ms: what is made ready only then.
    #[arg(long, default_value_t = 0.0)]
    pub first_penalty_ms: f64,
    /// Most tokens of prompt and reply together.
    #[arg(long, default_value_t = Config::default().max_model_len)]
    pub max_model_len: u64,
    /// Mean reply length of requests without ignore_eos; by default every reply has exactly max_tokens.
    #[arg(long)]
    pub eos_mean_tokens: Option<u64>,
    /// Seed of reply lengths and fault probabilities.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// A fault, `kind[:field=value,…]`, with `p=0.1` or `every=10` to hit only some requests; may be repeated. Kinds:
    /// pause (token, ms), stall (token), drop (token, reset), status (code), truncate (token), stream_error (token),
    /// no_done, chunk (tokens), reasoning (tokens), close, late_headers, loading (ms); and for the engine as a whole, from
    /// that token of the request on or `at_ms=5000` after the start: idle_pause (token, ms), extra_compute (token, ms),
    /// preempt (token, ms), throttle (token, ms, factor, bits).
    #[arg(long)]
    pub fault: Vec<FaultRule>,
    /// Name of an environment variable that holds the bearer token to demand.
    #[arg(long)]
    pub api_key_env: Option<String>,
    /// Write one line of JSON for every request: what truly happened when.
    #[arg(long)]
    pub truth_log: Option<PathBuf>,
    /// Engine: write one line of JSON for every fault that took hold of the engine as a whole.
    #[arg(long)]
    pub cause_log: Option<PathBuf>,
    /// Engine: write what a GPU under it would show (all made up) at each change: raw ns, W, %, SM MHz, memory %, throttle
    /// bits.
    #[arg(long)]
    pub gpu_log: Option<PathBuf>,
    /// What it tells of itself.
    #[command(flatten)]
    pub inside: InsideArgs,
}

/// Where the times of tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A queue, a batch and a KV budget.
    Engine,
    /// Every request on a schedule of its own.
    Paced,
}

/// How the KV cache is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvAdmission {
    /// By prompt and max_tokens: nothing is ever put out of the batch.
    Whole,
    /// By the prompt: when the cache overflows, the last one is put out and computed again.
    Optimistic,
}

/// Flags that make no sense together.
#[derive(Debug, thiserror::Error)]
pub enum BadArgs {
    /// The variable of `--api-key-env` is not there.
    #[error(
        "failed to read the API key: the environment variable {0} is not set; set it, or drop --api-key-env"
    )]
    NoKey(String),
    /// A negative or unbounded time.
    #[error("failed to accept {0}: give a number of milliseconds from 0 to 3600000")]
    Time(&'static str),
}

impl Args {
    /// The configuration meant.
    ///
    /// # Errors
    /// An unset key variable, or a time that is none.
    pub fn config(&self) -> Result<Config, BadArgs> {
        let key = |name: &String| std::env::var(name).map_err(|_| BadArgs::NoKey(name.clone()));
        Ok(Config {
            model: self.model.clone(),
            timing: self.timing()?,
            nature: self.nature(),
            faults: self.fault.clone(),
            seed: self.seed,
            api_key: self.api_key_env.as_ref().map(key).transpose()?,
            max_model_len: self.max_model_len,
            eos_mean_tokens: self.eos_mean_tokens,
            truth_log: self.truth_log.clone(),
            cause_log: self.cause_log.clone(),
            gpu_log: self.gpu_log.clone(),
            keep_truth: 0,
            first_penalty_ns: ns("--first-penalty-ms", self.first_penalty_ms)?,
            inside: self.inside.inside()?,
        })
    }

    fn nature(&self) -> Nature {
        let admission = match self.kv_admission {
            KvAdmission::Whole => Admission::Whole,
            KvAdmission::Optimistic => Admission::Optimistic,
        };
        Nature { admission, power: None }
    }

    fn timing(&self) -> Result<Timing, BadArgs> {
        Ok(match self.timing {
            Mode::Engine => Timing::Engine(Params {
                prefill_tokens_per_s: self.prefill_tokens_per_s,
                step_base_ns: ns("--step-base-ms", self.step_base_ms)?,
                step_per_seq_ns: ns("--step-per-seq-ms", self.step_per_seq_ms)?,
                max_num_seqs: self.max_num_seqs,
                kv_tokens: self.kv_tokens,
                max_queue: Some(self.max_queue),
            }),
            Mode::Paced => Timing::Paced {
                ttft_ns: ns("--paced-ttft-ms", self.paced_ttft_ms)?,
                itl_ns: ns("--paced-itl-ms", self.paced_itl_ms)?,
            },
        })
    }
}

fn ns(flag: &'static str, ms: f64) -> Result<i64, BadArgs> {
    let ok = (0.0..=3_600_000.0).contains(&ms);
    ok.then_some((ms * 1e6).round() as i64).ok_or(BadArgs::Time(flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_defaults_of_the_library() {
        let config = Args::parse_from(["model-sim"]).config().unwrap();
        assert_eq!(config.timing, Config::default().timing);
        assert_eq!(config.model, Config::default().model);
    }

    #[test]
    fn reads_every_kind_of_flag() {
        let args = Args::parse_from([
            "model-sim",
            "--timing",
            "paced",
            "--paced-itl-ms",
            "2.5",
            "--fault",
            "close",
            "--fault",
            "drop:token=3",
        ]);
        let config = args.config().unwrap();
        assert_eq!(config.timing, Timing::Paced { ttft_ns: 50_000_000, itl_ns: 2_500_000 });
        assert_eq!(config.faults.len(), 2);
        assert!(Args::try_parse_from(["model-sim", "--fault", "nope"]).is_err());
    }

    #[test]
    fn refuses_times_that_are_none_and_keys_that_are_not_there() {
        let config = |flags: &[&str]| Args::parse_from([&["model-sim"], flags].concat()).config().map(|_| ());
        assert!(config(&["--step-base-ms=-1"]).is_err());
        assert!(config(&["--step-base-ms=NaN"]).is_err());
        let error = config(&["--api-key-env", "SURELY_NOT_SET_1"]).unwrap_err();
        assert!(error.to_string().contains("SURELY_NOT_SET_1"));
    }
}
