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

/// Said in the place of a URL: not even the usual one.
const NONE: &str = "none";
const INSIDE: &str = "The server's inside view";

/// What the server tells of itself, and where.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct InsideArgs {
    /// URL of the model server's Prometheus metrics, or none [default: /metrics of where the server listens, if that is known]
    #[arg(long, help_heading = INSIDE, value_name = "URL", value_parser = metrics_url)]
    pub server_metrics: Option<String>,
    /// How often they are scraped: 100ms, 1s
    #[arg(long, help_heading = INSIDE, value_name = "TIME", default_value = "1s", value_parser = scrape_interval)]
    pub server_metrics_interval: Duration,
    /// Keep this metric too, beside those that are known by name; repeatable
    #[arg(long, help_heading = INSIDE, value_name = "NAME")]
    pub server_metric: Vec<String>,
    /// Take the server's spans here: OTLP, over gRPC and HTTP alike
    #[arg(long, help_heading = INSIDE, value_name = "HOST:PORT", value_parser = otlp_address)]
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
    /// Something was asked for by name, and is not left to what is known of the server.
    pub fn is_asked(&self) -> bool {
        self.server_metrics.as_ref().is_some_and(|url| url != NONE)
            || self.otlp_listen.is_some()
            || self.server_stamps.is_some()
    }

    /// These flags, or where they ask for nothing, those.
    #[must_use]
    pub fn over(self, then: Self) -> Self {
        if self.is_asked() || self.server_metrics.is_some() { self } else { then }
    }

    /// As meant, for a server that is known to listen at `base_url`, if so.
    pub fn inside(self, base_url: Option<&str>) -> Inside {
        // Of a server behind TLS the metrics are seldom there, and could not be asked for.
        let plain = base_url.filter(|base| !base.starts_with("https://"));
        let usual = || plain.map(|base| format!("{}/metrics", base.trim_end_matches('/')));
        Inside {
            metrics: self.server_metrics.or_else(usual).filter(|url| url != NONE),
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
    /// GPUs and host are sampled. A probe that is elsewhere than the server only hears what the server says.
    pub hardware: bool,
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
            hardware: true,
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
            hardware: usual.hardware,
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

/// Where the server's spans are taken, if others than this host reach it: what whoever does can do there.
pub fn exposed(otlp: Option<&str>) -> Option<String> {
    let route = Route::new(otlp?);
    (!route.is_loopback()).then(|| {
        format!("spans are taken on {route}: whoever reaches it can send some, which are counted, and can read nothing")
    })
}

/// As a server's URL is typed: the scheme may be left out, and so may the usual path.
fn metrics_url(text: &str) -> Result<String, String> {
    let wrong = || "not a URL: try http://127.0.0.1:8000/metrics, or none".to_owned();
    if text == NONE {
        return Ok(text.to_owned());
    }
    let has_port = text.split('/').next().is_some_and(|authority| authority.contains(':'));
    let text = if has_port && !text.contains("://") { format!("http://{text}") } else { text.to_owned() };
    if text.starts_with("https://") {
        return Err("https is not spoken to a server's metrics: try its http port, such as http://127.0.0.1:8000/metrics, \
                    or none"
            .to_owned());
    }
    let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
    let usual = if rest.contains(['/', '?', '#']) { "" } else { "/metrics" };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("user and password cannot be given with it".to_owned());
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let is_clean = text.chars().all(|c| c.is_ascii_graphic());
    if host.is_empty() || !is_port || !is_clean { Err(wrong()) } else { Ok(format!("{text}{usual}")) }
}

/// A port alone is one of loopback.
fn otlp_address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let is_whole = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    if !is_whole || port.parse::<u16>().is_err() || host.chars().any(|c| !c.is_ascii_graphic()) {
        return Err("not HOST:PORT: try 127.0.0.1:4317, or 0.0.0.0:4317 where the server is on another host"
            .to_owned());
    }
    if port.parse() == Ok(0_u16) {
        return Err("port 0 is any port, which the server would not know: try 127.0.0.1:4317".to_owned());
    }
    Ok(if host.is_empty() { format!("127.0.0.1:{port}") } else { text.to_owned() })
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
    fn what_cannot_be_scraped_or_listened_on_is_refused() {
        for good in
            ["none", "http://h/metrics", "http://h:1/x/metrics?a=b", "http://[::1]:9/m", "http://[::1]/m"]
        {
            assert_eq!(metrics_url(good), Ok(good.to_owned()));
        }
        for (typed, meant) in [
            ("http://h:1", "http://h:1/metrics"),
            ("h:8000", "http://h:8000/metrics"),
            ("[::1]:8000/llm/metrics", "http://[::1]:8000/llm/metrics"),
        ] {
            assert_eq!(metrics_url(typed), Ok(meant.to_owned()));
        }
        for bad in [
            "",
            "ftp://x",
            "nonsense",
            "h/metrics",
            "http://",
            "http://:1",
            "http://h:0",
            "http://h:x",
            "http://a b",
        ] {
            assert!(metrics_url(bad).unwrap_err().contains("http://127.0.0.1:8000/metrics"), "{bad}");
        }
        assert!(metrics_url("http://me:hush@h").is_err_and(|why| !why.contains("hush")));
        assert!(metrics_url("https://me:hush@h").is_err_and(|why| !why.contains("hush")));
        assert!(metrics_url("https://h/metrics").unwrap_err().starts_with("https is not spoken"));
        assert!(otlp_address("127.0.0.1:0").unwrap_err().contains("port 0"));
        assert!(otlp_address("0").unwrap_err().contains("port 0"));
        for (typed, meant) in [
            ("0.0.0.0:4317", "0.0.0.0:4317"),
            ("[::1]:4317", "[::1]:4317"),
            ("localhost:1", "localhost:1"),
            ("4317", "127.0.0.1:4317"),
            (":4317", "127.0.0.1:4317"),
        ] {
            assert_eq!(otlp_address(typed), Ok(meant.to_owned()));
        }
        for bad in ["", "nonsense", "h:", "h:70000", "::1:4317", "http://h:4317", "a b:1"] {
            assert!(otlp_address(bad).is_err(), "{bad}");
        }
        assert!(exposed(Some("127.0.0.1:1")).or(exposed(Some("localhost:1"))).or(exposed(None)).is_none());
        assert!(exposed(Some("0.0.0.0:4317")).unwrap().contains("whoever reaches it"));
    }

    #[test]
    fn metrics_are_where_the_server_is_known_to_listen_unless_told_otherwise() {
        let url = |args: InsideArgs, base| args.inside(base).metrics;
        let typed = |url: &str| InsideArgs { server_metrics: Some(url.to_owned()), ..InsideArgs::default() };
        let base = Some("http://127.0.0.1:8000/llm/");
        assert_eq!(url(InsideArgs::default(), base).unwrap(), "http://127.0.0.1:8000/llm/metrics");
        assert_eq!(url(InsideArgs::default(), None), None);
        assert_eq!(url(InsideArgs::default(), Some("https://h:8443")), None);
        assert_eq!(url(typed("http://h:9/m"), Some("https://h:8443")).unwrap(), "http://h:9/m");
        assert_eq!(url(typed("http://h/m"), base).unwrap(), "http://h/m");
        assert_eq!(url(typed("none"), base), None);
        assert!(typed("http://h/m").is_asked() && !typed("none").is_asked());
        // What a resumed run says holds, and what it leaves open is as before.
        let again = typed("none").over(typed("http://h/m"));
        assert_eq!(again.server_metrics.as_deref(), Some("none"));
        assert!(InsideArgs::default().over(typed("http://h/m")).is_asked());
    }

    #[test]
    fn intervals_are_read_and_absurd_ones_refused() {
        assert_eq!(interval("10ms"), Ok(INTERVAL));
        assert_eq!(interval("0.5s"), Ok(Duration::from_millis(500)));
        for bad in ["", "10", "0ms", "-1s", "1h", "nans", "20s"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
