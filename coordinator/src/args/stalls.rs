//! Flags of judging stored stalls again.

use std::path::PathBuf;

use clap::Args;

use super::Span;
use crate::stall::Rule;

/// `tailcliff stalls`.
#[derive(Clone, Debug, Args)]
pub struct StallsArgs {
    /// Run directory.
    pub run_dir: PathBuf,
    /// A gap is a stall from so many times its stream's own median gap on …
    #[arg(long, value_name = "X", default_value_t = Rule::default().multiple)]
    pub stall_multiple: f64,
    /// … and from so long on.
    #[arg(long, value_name = "TIME", default_value = "200ms")]
    pub stall_floor: Span,
    /// A first token is one from so many times its level's median TTFT on, and from the floor on.
    #[arg(long, value_name = "X", default_value_t = Rule::default().ttft_multiple)]
    pub ttft_multiple: f64,
    /// Stalls printed at most, the longest of each episode.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub top: usize,
    /// Write every stall there, with the columns of stalls.csv.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Draw the longest stall there, as SVG: its tokens, what else arrived, the GPU's power, and a control's pause over it.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Draw the longest stall of this request.
    #[arg(long, value_name = "ID", requires = "plot")]
    pub request: Option<String>,
    /// Draw the stall that began nearest to this time, in seconds as `t_s` has it.
    #[arg(long, value_name = "T_S", requires = "plot", conflicts_with = "request")]
    pub at: Option<f64>,
}

impl StallsArgs {
    /// The rule meant.
    ///
    /// # Errors
    /// A threshold that is none.
    pub fn rule(&self) -> Result<Rule, String> {
        let at_least_one = |flag: &str, value: f64| {
            let fits = value.is_finite() && value >= 1.0;
            fits.then_some(value).ok_or_else(|| format!("bad {flag}: give a number of at least 1"))
        };
        Ok(Rule {
            multiple: at_least_one("--stall-multiple", self.stall_multiple)?,
            floor_ns: self.stall_floor.0,
            ttft_multiple: at_least_one("--ttft-multiple", self.ttft_multiple)?,
        })
    }
}
