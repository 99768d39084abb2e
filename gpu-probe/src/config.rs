//! What a person types (`Args`) and what the probe goes by (`Config`).

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tailcliff_proto::host;
use tailcliff_proto::link::Route;
use tailcliff_proto::link::args::{LinkArgs, LinkArgsError};
use tailcliff_proto::outbox::SpoolConfig;

use crate::check::CheckArgs;
pub use crate::host::Server;
pub use crate::inside::Inside;
use crate::rates::Rates;
use crate::sensor::table::SensorsArgs;

/// Measurements kept until acked, bytes: over 20 minutes of a node with 8 GPUs at 10 ms.
pub const OUTBOX_BYTES: usize = 64 << 20;
/// Default sampling interval.
pub const INTERVAL: Duration = Duration::from_millis(10);

/// Samples this host's GPUs for a tailcliff run.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tailcliff-gpu-probe",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Args {
    /// A job other than sampling
    #[command(subcommand)]
    pub job: Option<Job>,
    /// Where the coordinator listens; the probe keeps dialling until it answers
    #[arg(
        long,
        value_name = "HOST:PORT",
        required_unless_present = "print_seconds",
        default_value = "",
        hide_default_value = true
    )]
    pub coordinator: String,
    /// Name in reports [default: this host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Sampling interval: 10ms, 1s
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = interval)]
    pub interval: Duration,
    /// NVML library, where the loader does not find it
    #[arg(long, value_name = "FILE")]
    pub nvml_path: Option<PathBuf>,
    /// Print samples as CSV for so long instead of dialling a coordinator
    #[arg(long, value_name = "N")]
    pub print_seconds: Option<u64>,
    /// Where samples wait that memory has no room for, while the coordinator is away or slow [default: $TMPDIR, or
    /// /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub spool_dir: Option<PathBuf>,
    /// Most that these may take on disk, MiB; 0 for none
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
    pub spool_mib: u32,
    /// Whose processes are sampled
    #[command(flatten)]
    pub server: ServerArgs,
    /// What the server tells of itself
    #[command(flatten)]
    pub inside: InsideArgs,
    /// How the coordinator is trusted
    #[command(flatten)]
    pub link: LinkArgs,
}

/// Jobs that need no coordinator.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Job {
    /// Find out what this host's GPUs can show: how often each signal changes, and what time it is an average over
    Sensors(SensorsArgs),
    /// Show what GPUs are here and in what state, test their memory bandwidth, and watch them for a while
    Check(CheckArgs),
}

/// How the server's own processes are found.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct ServerArgs {
    /// Process of the model server on this host: CPU, memory, page faults and disk reads of it and its children are sampled
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub server_pid: Option<u32>,
    /// Port on this host that the model server listens on, to find its process by, also after a restart
    #[arg(long, value_name = "PORT", conflicts_with = "server_pid", value_parser = clap::value_parser!(u16).range(1..))]
    pub server_port: Option<u16>,
}

const INSIDE: &str = "The server's inside view";

/// What the server tells of itself, and where.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct InsideArgs {
    /// URL of the model server's Prometheus metrics, or none [default: /metrics of where the server listens, if that is known]
    #[arg(long, help_heading = INSIDE, value_name = "URL")]
    pub server_metrics: Option<String>,
    /// How often they are scraped: 100ms, 1s
    #[arg(long, help_heading = INSIDE, value_name = "TIME", default_value = "1s", value_parser = scrape_interval)]
    pub server_metrics_interval: Duration,
    /// Keep this metric too, beside those that are known by name; repeatable
    #[arg(long, help_heading = INSIDE, value_name = "NAME")]
    pub server_metric: Vec<String>,
    /// Take the server's spans here: OTLP, over gRPC and HTTP alike
    #[arg(long, help_heading = INSIDE, value_name = "HOST:PORT")]
    pub otlp_listen: Option<String>,
    /// How long after the run spans are still waited for: exporters send them in batches, by default every 5 s
    #[arg(long, help_heading = INSIDE, value_name = "TIME", default_value = "6s", value_parser = drain)]
    pub otlp_drain: Duration,
    /// File to which the server appends a line of JSON for each request, where it has no tracing: request_id, enqueue,
    /// dequeue, infer_start, first_token, last_token
    #[arg(long, help_heading = INSIDE, value_name = "FILE")]
    pub server_stamps: Option<PathBuf>,
}

impl InsideArgs {
    /// As meant, for a server that is known to listen at `base_url`, if so.
    pub fn inside(self, base_url: Option<&str>) -> Inside {
        let usual = || base_url.map(|base| format!("{}/metrics", base.trim_end_matches('/')));
        Inside {
            metrics: self.server_metrics.or_else(usual).filter(|url| url != "none"),
            every: self.server_metrics_interval,
            named: self.server_metric,
            otlp: self.otlp_listen,
            drain: self.otlp_drain,
            stamps: self.server_stamps,
        }
    }
}

impl From<ServerArgs> for Option<Server> {
    fn from(args: ServerArgs) -> Self {
        args.server_pid.map(Server::Pid).or(args.server_port.map(Server::Port))
    }
}

/// What the probe goes by.
#[derive(Clone, Debug)]
pub struct Config {
    /// The way to the coordinator.
    pub coordinator: Route,
    /// Name in reports.
    pub name: String,
    /// Sampling interval, at least 1 ms.
    pub interval: Duration,
    /// How often slow signals are read.
    pub rates: Rates,
    /// NVML library, where the loader does not find it.
    pub nvml_path: Option<PathBuf>,
    /// Whose processes are sampled with the host.
    pub server: Option<Server>,
    /// What the server tells of itself.
    pub inside: Inside,
    /// Where samples go that memory has no room for.
    pub spool: Option<SpoolConfig>,
    /// Where lines for a person go: how dialling fares.
    pub tell: fn(&str),
}

impl Config {
    /// The defaults for a coordinator at HOST:PORT.
    pub fn new(coordinator: impl Into<Route>) -> Self {
        Self {
            coordinator: coordinator.into(),
            name: host::facts(0).hostname,
            interval: INTERVAL,
            rates: Rates::default(),
            nvml_path: None,
            server: None,
            inside: Inside::default(),
            spool: None,
            tell: |_| {},
        }
    }
}

impl TryFrom<Args> for Config {
    type Error = LinkArgsError;

    fn try_from(args: Args) -> Result<Self, LinkArgsError> {
        let route = match args.print_seconds {
            // Nobody is dialled.
            Some(_) => Route::new(args.coordinator),
            None => args.link.route(args.coordinator)?,
        };
        let usual = Self::new(route);
        Ok(Self {
            name: args.name.unwrap_or(usual.name),
            interval: args.interval,
            rates: usual.rates,
            nvml_path: args.nvml_path,
            inside: args.inside.inside(base_url(args.server).as_deref()),
            server: args.server.into(),
            spool: SpoolConfig::from_flags(args.spool_dir, args.spool_mib),
            coordinator: usual.coordinator,
            tell: usual.tell,
        })
    }
}

/// Where a server on this host is known to listen.
fn base_url(server: ServerArgs) -> Option<String> {
    server.server_port.map(|port| format!("http://127.0.0.1:{port}"))
}

fn scrape_interval(text: &str) -> Result<Duration, String> {
    let every = interval(text)?;
    if every < Duration::from_millis(100) {
        Err("not between 100ms and 10s: try 1s".to_owned())
    } else {
        Ok(every)
    }
}

fn drain(text: &str) -> Result<Duration, String> {
    // The coordinator waits no longer for a node's end.
    interval(text).map_err(|_| "not between 1ms and 10s: try 6s".to_owned())
}

pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    let wrong = || "not between 1ms and 10s: try 10ms".to_owned();
    let (number, unit_ms) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1.0),
        (None, Some(number)) => (number, 1e3),
        (None, None) => return Err(wrong()),
    };
    let ms = number.parse::<f64>().map_err(|_| wrong())? * unit_ms;
    if (1.0..=10_000.0).contains(&ms) { Ok(Duration::from_secs_f64(ms / 1e3)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_and_absurd_ones_refused() {
        assert_eq!(interval("10ms"), Ok(INTERVAL));
        assert_eq!(interval("0.5s"), Ok(Duration::from_millis(500)));
        for bad in ["", "10", "0ms", "-1s", "1h", "nans", "20s"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
