//! Flags of handing out results, and of fetching them.

use std::path::PathBuf;

use clap::Args;
use tailcliff_proto::link::args::LinkArgs;

use super::Span;

/// Of `coordinate`: for a coordinator whose disk nobody else can read.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    /// After the run, stay and hand out its files to `tailcliff fetch`: until they were fetched, or for so long.
    #[arg(long, value_name = "TIME")]
    pub serve_results: Option<Span>,
}

impl ServeArgs {
    /// These flags, with what they leave open taken from `before`.
    #[must_use]
    pub fn over(self, before: &Self) -> Self {
        Self { serve_results: self.serve_results.or(before.serve_results) }
    }
}

/// `tailcliff fetch`.
#[derive(Clone, Debug, Args)]
pub struct FetchArgs {
    /// Where the coordinator listens.
    #[arg(long, value_name = "HOST:PORT")]
    pub coordinator: String,
    /// Where the files go [default: runs/fetched-UTC].
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Longest wait for the run's end.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub wait: Span,
    /// Leave the journal there: the outputs alone, which cannot be written anew by `merge`.
    #[arg(long)]
    pub no_journal: bool,
    /// How the coordinator is reached.
    #[command(flatten)]
    pub link: LinkArgs,
    /// Refuse more than this in all, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 65_536)]
    pub max_mib: u32,
}
