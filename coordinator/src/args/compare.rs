//! Flags of judging stored runs: two against each other, or one by an SLO.

use std::path::PathBuf;

use clap::Args;

use super::slo::SloArgs;
use crate::compare::{METRICS, Rule};

/// `tailcliff compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// Run directory of the baseline.
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// Run directory of what is held against it.
    #[arg(value_name = "B")]
    pub b: PathBuf,
    /// What decides, of p50, p95 and p99 of ttft, tpot, itl and e2e (p95_e2e), throughput, output_throughput, goodput,
    /// slo_share, error_rate [default: p95_ttft,p95_e2e,throughput,error_rate].
    #[arg(long, value_name = "METRIC", value_delimiter = ',')]
    pub metric: Vec<String>,
    /// A latency or rate must change by so much to be better or worse.
    #[arg(long, value_name = "PERCENT", default_value = "2%", value_parser = percent)]
    pub min_effect: f64,
    /// A share, such as the error rate, must change by so many percentage points.
    #[arg(long, value_name = "POINTS", default_value = "0.5", value_parser = percent)]
    pub min_points: f64,
    /// Compare even where the workloads differ.
    #[arg(long)]
    pub force: bool,
    /// Show every figure, not only what decides and what differs.
    #[arg(long, conflicts_with_all = ["json", "markdown"])]
    pub all: bool,
    /// Print JSON.
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// Print markdown for a pull request.
    #[arg(long)]
    pub markdown: bool,
    /// Write a page with the curves of both runs over one another.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Judge both by these limits in place of their own.
    #[command(flatten)]
    pub slo: SloArgs,
}

impl CompareArgs {
    /// The rule meant.
    ///
    /// # Errors
    /// A metric that is none.
    pub fn rule(&self) -> Result<Rule, String> {
        let names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
        if let Some(wrong) = self.metric.iter().find(|name| !names.contains(&name.as_str())) {
            return Err(format!("bad --metric: {wrong:?} is none: try one of {}", names.join(", ")));
        }
        let usual = Rule::default();
        let gates = if self.metric.is_empty() { usual.gates } else { self.metric.clone() };
        Ok(Rule { gates, min_effect: self.min_effect, min_points: self.min_points })
    }
}

/// `tailcliff slo`.
#[derive(Clone, Debug, Args)]
pub struct JudgeArgs {
    /// Run directory.
    pub run_dir: PathBuf,
    /// What counts as good.
    #[command(flatten)]
    pub slo: SloArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A share, from `2%` or `2`.
fn percent(text: &str) -> Result<f64, String> {
    let number: f64 =
        text.trim().trim_end_matches('%').trim().parse().map_err(|_| "not a percentage: try 2%")?;
    if (0.0..=100.0).contains(&number) {
        Ok(number / 100.0)
    } else {
        Err("it lies between 0% and 100%".to_owned())
    }
}
