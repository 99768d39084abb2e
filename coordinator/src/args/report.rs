//! Flags of writing the page again.

use std::path::PathBuf;

use clap::Args;

/// `tailcliff report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Run directory.
    pub run_dir: PathBuf,
    /// Where the page goes [default: report.html in the run directory].
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
