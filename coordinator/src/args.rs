//! The command line as typed, and the plan file, which has the same names.

pub mod calc;
pub mod coldwarm;
pub mod compare;
pub mod control;
pub mod experiment;
pub mod export;
pub mod fleet;
pub mod k8s;
pub mod metrics;
pub mod report;
pub mod results;
pub mod server;
pub mod slo;
pub mod ssh;
pub mod stalls;
pub mod start;
pub mod sweep;
pub mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use self::calc::{CostArgs, KvArgs, WeightsArgs};
use self::coldwarm::ColdwarmArgs;
use self::compare::{CompareArgs, JudgeArgs};
use self::export::ExportArgs;
use self::fleet::FleetArgs;
use self::k8s::K8sCommand;
use self::metrics::MetricsArgs;
use self::report::ReportArgs;
use self::results::{FetchArgs, ServeArgs};
use self::ssh::SshArgs;
use self::stalls::StallsArgs;
use self::start::{CompletionsArgs, PlanArgs, PreflightArgs};
pub use self::sweep::{DATASETS, SweepArgs};
pub use self::values::{Levels, Rates, Span, Spans};
use crate::local::{InsideArgs, ServerArgs, StubArgs};

pub mod certs;

use certs::CertsArgs;
use tailcliff_proto::link::args::LinkArgs;

/// Finds the p95 cliff of an LLM inference server, and gives every number its error bar.
#[derive(Debug, Parser)]
#[command(name = "tailcliff", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The jobs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sweep a server from this machine: one agent and one GPU probe are embedded.
    Run(Box<RunArgs>),
    /// Latency without load: requests one after another [12, of 96 tokens, temperature 0.2].
    Baseline(Box<RunArgs>),
    /// Latency and throughput over concurrency, with knee and cliff: as run [1,2,4,8,16, 80 requests each].
    Sweep(Box<RunArgs>),
    /// Latency over prompt size and answer size [200,800,2000 characters × 32,64,128,256 tokens, 6 requests each].
    Grid(Box<RunArgs>),
    /// A timeout too short for the load: what fails and how, and whether the server recovers [5s; 4,8,16,32, 60 requests each].
    Overload(Box<RunArgs>),
    /// Wait for agents and probes that dial in, then sweep through them.
    Coordinate(Box<CoordinateArgs>),
    /// Fetch the outputs of a run from its coordinator, once it is over; exits as the coordinator does.
    Fetch(FetchArgs),
    /// Sweep from a Kubernetes cluster.
    #[command(subcommand)]
    K8s(K8sCommand),
    /// Measure what this host's own client adds and how much it can drive, against a stub with a fixed schedule.
    Calibrate(CalibrateArgs),
    /// Restart a server and time it to its first token, cold and warm: what a restart costs, and why.
    Coldwarm(Box<ColdwarmArgs>),
    /// Make certificates with which coordinator and nodes know each other.
    Certs(CertsArgs),
    /// The stub of calibrate and the bench.
    #[command(hide = true)]
    Stub(StubArgs),
    /// Write the outputs of a finished or broken run again from what it stored.
    Merge {
        /// Directory of the run.
        run_dir: PathBuf,
    },
    /// Judge the stalls of a stored run again, with other thresholds; the run stays as it is.
    Stalls(StallsArgs),
    /// Make files of a stored run for other tools: Parquet, a trace for ui.perfetto.dev, vLLM's benchmark results.
    Export(ExportArgs),
    /// Print a sweep as a plan file, or with --explain what it will do: levels, requests, time, tokens, cost.
    Plan(Box<PlanArgs>),
    /// Send one real request: is the server there, does it know the model, does it take the key?
    Preflight(PreflightArgs),
    /// Reckon the memory of a KV cache, and at which user a card is full; alone, or laid over a measured run.
    Kv(KvArgs),
    /// Reckon the memory of a model's weights at each precision.
    Weights(WeightsArgs),
    /// Reckon the cost per concurrent user, of numbers given or measured.
    Cost(CostArgs),
    /// Print completions for a shell.
    Completions(CompletionsArgs),
    /// Judge a stored run by an SLO: which share of its requests kept it, up to which load; the run stays as it is.
    Slo(JudgeArgs),
    /// Hold a run against another: better, worse or indistinguishable; exits 1 when it is worse.
    Compare(Box<CompareArgs>),
    /// Write report.html of a stored run again; its other files stay as they are.
    Report(ReportArgs),
}

/// `tailcliff run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What to sweep.
    #[command(flatten)]
    pub sweep: SweepArgs,
    /// NVML library of the embedded probe, where the loader does not find it.
    #[arg(long, value_name = "FILE")]
    pub nvml_path: Option<PathBuf>,
    /// GPU sampling interval of the embedded probe.
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = gpu_interval)]
    pub gpu_interval: Span,
    /// Whose processes the embedded probe samples [default: what listens on the port of --url, if that is on this host].
    #[command(flatten)]
    pub server: ServerArgs,
    /// What the server tells of itself.
    #[command(flatten)]
    pub inside: InsideArgs,
    /// Threads that make load [default: the cores less one].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub shards: Option<u32>,
    /// Who is told meanwhile.
    #[command(flatten)]
    pub metrics: MetricsArgs,
}

/// `tailcliff calibrate`.
#[derive(Clone, Debug, Args)]
pub struct CalibrateArgs {
    /// Streams in flight at each level, ascending.
    #[arg(long, value_name = "N,N,…", default_value = "64,256,512,1024")]
    pub concurrency: Levels,
    /// Length of each level.
    #[arg(long, value_name = "TIME", default_value = "4s")]
    pub duration: Span,
    /// Time between two tokens of a stream.
    #[arg(long, value_name = "TIME", default_value = "20ms")]
    pub itl: Span,
    /// Threads that make load [default: the cores less one].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub shards: Option<u32>,
    /// Where the result goes, for reading [default: the user's state directory, where later runs find it].
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

fn gpu_interval(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if span.0 < 1_000_000 {
        Err("a GPU cannot be read more often than each 1ms".to_owned())
    } else {
        Ok(span)
    }
}

/// `tailcliff coordinate`.
#[derive(Debug, Args)]
pub struct CoordinateArgs {
    /// What to sweep.
    #[command(flatten)]
    pub sweep: SweepArgs,
    /// Address that nodes dial; the clock listens on the next port [default: 127.0.0.1:7100].
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Agents to wait for [default: 1].
    #[arg(long)]
    pub agents: Option<u32>,
    /// GPU probes to wait for [default: 0].
    #[arg(long)]
    pub probes: Option<u32>,
    /// How long to wait for them [default: 60s].
    #[arg(long, value_name = "TIME")]
    pub wait: Option<Span>,
    /// What happens after the run.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Nodes that are started from here.
    #[command(flatten)]
    pub ssh: SshArgs,
    /// Who takes part.
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// What the server tells of itself to the coordinator: a probe of its own, beside those that dial in.
    #[command(flatten)]
    pub inside: InsideArgs,
    /// Who is let in.
    #[command(flatten)]
    pub link: LinkArgs,
    /// Who is told meanwhile.
    #[command(flatten)]
    pub metrics: MetricsArgs,
}
