//! Flags of the calculators.

use std::path::PathBuf;

use clap::{Args, value_parser};

use crate::calc::summary as usual;
use crate::calc::weights::parse_params;

/// `tailcliff kv`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  tailcliff kv --layers 80 --hidden 8192 --seq-len 8192 --bytes 2
  tailcliff kv --config Llama-3.1-8B/config.json --seq-len 32768 --line 80
  tailcliff kv --layers 80 --kv-heads 8 --head-dim 128 --run runs/20260102T030405-m")]
pub struct KvArgs {
    /// Layers.
    #[arg(long, value_name = "N", default_value_t = usual::LAYERS, value_parser = value_parser!(u64).range(1..=100_000))]
    pub layers: u64,
    /// Width of the model: the classic formula, with as many KV heads as heads.
    #[arg(long, value_name = "N", default_value_t = usual::HIDDEN, value_parser = value_parser!(u64).range(1..=100_000_000))]
    pub hidden: u64,
    /// KV heads, with grouped-query attention, in place of --hidden.
    #[arg(long, value_name = "N", requires = "head_dim", conflicts_with = "hidden", value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub kv_heads: Option<u64>,
    /// Width of a head.
    #[arg(long, value_name = "N", requires = "kv_heads", value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub head_dim: Option<u64>,
    /// config.json of a model, or its directory: layers, KV heads, widths, bytes and, where its kind is known, weights.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["layers", "hidden", "kv_heads", "head_dim"])]
    pub config: Option<PathBuf>,
    /// Tokens of a user, prompt and answer together [default: 8192, or with --run the mean of its requests].
    #[arg(long, value_name = "TOKENS", value_parser = value_parser!(u64).range(1..=1_000_000_000_000))]
    pub seq_len: Option<u64>,
    /// Users at once.
    #[arg(long, value_name = "N", default_value_t = usual::USERS, value_parser = value_parser!(u64).range(1..=1_000_000_000_000))]
    pub users: u64,
    /// Bytes of a value: 2 for FP16 and BF16, 1 for FP8 [default: 2, or as the config says].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub bytes: Option<f64>,
    /// Weights in GiB [default: 130, or counted from the config].
    #[arg(long, value_name = "GIB", value_parser = gib)]
    pub weights: Option<f64>,
    /// Memory of cards in GiB, a line each [default: 80,141, or of the GPUs that a --run saw].
    #[arg(long, value_name = "GIB,GIB,…", value_delimiter = ',', value_parser = gib)]
    pub line: Vec<f64>,
    /// A measured run to lay it over: its levels, and its knee beside the line.
    #[arg(long, value_name = "RUN_DIR")]
    pub run: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `tailcliff weights`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  tailcliff weights --params 70B
  tailcliff weights --config Llama-3.1-8B/config.json
Two runs of two precisions: tailcliff compare RUN_A RUN_B")]
pub struct WeightsArgs {
    /// Parameters: 70B, 350M [default: 70B].
    #[arg(long, value_name = "N", value_parser = parse_params, conflicts_with = "config")]
    pub params: Option<f64>,
    /// config.json of a model, or its directory: its parameters are counted, where its kind is known.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `tailcliff cost`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  tailcliff cost --price 12000,25000 --concurrency 5,20
  tailcliff cost --price 25000 --run runs/20260102T030405-m --gpu-price-per-hour 2.50")]
pub struct CostArgs {
    /// Prices of cards in USD [default: 12000,25000].
    #[arg(long, value_name = "USD,USD,…", value_delimiter = ',', value_parser = usd)]
    pub price: Vec<f64>,
    /// Users at once of each [default: 5,20].
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', value_parser = users, conflicts_with = "run")]
    pub concurrency: Vec<f64>,
    /// Measured runs in place of --concurrency, one of each card: users at once at the knee, or within the SLO.
    #[arg(long, value_name = "RUN_DIR,…", value_delimiter = ',')]
    pub run: Vec<PathBuf>,
    /// Price per hour of all that served a run, one for each: USD per user and hour, and per million output tokens.
    #[arg(long, value_name = "USD,…", value_delimiter = ',', value_parser = usd, requires = "run")]
    pub gpu_price_per_hour: Vec<f64>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

fn number(text: &str, least: f64, most: f64, what: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| format!("{text:?} is no {what}"))
}

fn bytes(text: &str) -> Result<f64, String> {
    number(
        text,
        0.125,
        16.0,
        "number of bytes between 0.125 and 16: try 2 for FP16, 1 for FP8, 0.5 for 4 bits",
    )
}

fn gib(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1e9, "number of GiB: try 80")
}

/// A price of one thing, USD.
pub(crate) fn usd(text: &str) -> Result<f64, String> {
    number(text.trim().trim_start_matches('$'), 0.0, 1e12, "price in USD: try 25000 or 2.50")
}

fn users(text: &str) -> Result<f64, String> {
    number(text, 1e-3, 1e12, "number of users at once: try 20")
}
