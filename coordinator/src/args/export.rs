//! Flags of `tailcliff export`.

use std::path::PathBuf;

use clap::Args;

use crate::export::Format;

/// `tailcliff export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// Run directory.
    pub run_dir: PathBuf,
    /// What to make.
    #[arg(long, value_enum)]
    pub format: Format,
    /// Where to write [default: the run directory].
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// vllm-json: with the value of each request, as vLLM's --save-detailed.
    #[arg(long)]
    pub detailed: bool,
}
