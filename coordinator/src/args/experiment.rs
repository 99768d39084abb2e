//! Flags of experiments: which one, and what its rungs differ in.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{Levels, RunArgs, Span, Spans};

/// On each flag: one of a struct would go on to the flags after it.
const HEADING: &str = "Experiments: what the rungs of grid and overload differ in";
/// Names of experiments.
pub const EXPERIMENTS: [&str; 4] = ["sweep", "baseline", "grid", "overload"];

/// An experiment and its axes.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct ExperimentArgs {
    /// Experiment to carry out; the subcommands of the same names give it [default: sweep].
    #[arg(long, help_heading = HEADING, value_name = "NAME", value_parser = EXPERIMENTS)]
    pub experiment: Option<String>,
    /// Of a grid: lengths of prompts in characters [default: 200,800,2000].
    #[arg(long, help_heading = HEADING, value_name = "N,N,…")]
    pub prompt_chars: Option<Levels>,
    /// Of a grid: max_tokens of the answers [default: 32,64,128,256].
    #[arg(long, help_heading = HEADING, value_name = "N,N,…")]
    pub max_tokens: Option<Levels>,
    /// Of an overload: timeouts of a request, ascending; each is driven through every concurrency [default: 5s].
    #[arg(long, help_heading = HEADING, value_name = "TIME,…")]
    pub timeouts: Option<Spans>,
    /// Of an overload: how long the server is watched afterwards, by one request after another [default: 30s].
    #[arg(long, help_heading = HEADING, value_name = "TIME")]
    pub recovery_wait: Option<Span>,
}

impl ExperimentArgs {
    /// These flags, with what they leave open taken from `file`.
    #[must_use]
    pub fn over(self, file: Self) -> Self {
        Self {
            experiment: self.experiment.or(file.experiment),
            prompt_chars: self.prompt_chars.or(file.prompt_chars),
            max_tokens: self.max_tokens.or(file.max_tokens),
            timeouts: self.timeouts.or(file.timeouts),
            recovery_wait: self.recovery_wait.or(file.recovery_wait),
        }
    }
}

impl RunArgs {
    /// These, of the experiment that the subcommand names.
    pub(crate) fn experiment(mut self, name: &str) -> Self {
        self.sweep.experiment.experiment = Some(name.to_owned());
        self
    }
}
