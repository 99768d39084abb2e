//! What a person types (`Args`) and what the probe goes by (`Config`, or a number of seconds to print).

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tailcliff_proto::host;

/// How often GPUs are read unless told otherwise.
pub const INTERVAL: Duration = Duration::from_millis(10);
/// Shortest and longest interval: NVML answers no faster than the one, and a trace slower than the other shows nothing.
pub const INTERVALS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(10));

/// Samples this host's GPUs for a tailcliff run; runs beside the model server.
#[derive(Clone, Debug, Parser)]
#[command(name = "tailcliff-gpu-probe", version)]
pub struct Args {
    /// Where the coordinator listens; the probe keeps dialling until it answers
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "print_seconds")]
    pub coordinator: Option<String>,
    /// Name in reports [default: this host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// How often each GPU is read, 1ms to 10s
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = interval)]
    pub interval: Duration,
    /// NVML library, where the loader does not find it
    #[arg(long, value_name = "FILE")]
    pub nvml_path: Option<PathBuf>,
    /// Print samples as CSV for so many seconds, with no coordinator
    #[arg(long, value_name = "N", conflicts_with = "coordinator", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub print_seconds: Option<u32>,
}

/// How GPUs are read.
#[derive(Clone, Debug)]
pub struct Sampling {
    /// Time between two readings, within [`INTERVALS`] (clamped where it is used).
    pub interval: Duration,
    /// NVML library; `None` looks in the usual places.
    pub nvml_path: Option<PathBuf>,
}

/// What the probe goes by.
#[derive(Clone, Debug)]
pub struct Config {
    /// Coordinator as HOST:PORT.
    pub coordinator: String,
    /// Name in reports.
    pub name: String,
    /// How GPUs are read.
    pub sampling: Sampling,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub enum Job {
    /// Serve a coordinator's run.
    Probe(Config),
    /// Print for so long.
    Print(Sampling, Duration),
}

impl Default for Sampling {
    fn default() -> Self {
        Self { interval: INTERVAL, nvml_path: None }
    }
}

impl Sampling {
    /// The interval within its limits, ns.
    pub fn interval_ns(&self) -> i64 {
        self.interval.clamp(INTERVALS.0, INTERVALS.1).as_nanos() as i64
    }
}

impl Config {
    /// The defaults for a coordinator at HOST:PORT: every 10 ms, under this host's name.
    pub fn new(coordinator: String) -> Self {
        Self { coordinator, name: host::facts(0).hostname, sampling: Sampling::default() }
    }
}

impl From<Args> for Job {
    fn from(args: Args) -> Self {
        let sampling = Sampling { interval: args.interval, nvml_path: args.nvml_path };
        if let Some(seconds) = args.print_seconds {
            return Self::Print(sampling, Duration::from_secs(seconds.into()));
        }
        let default = Config::new(args.coordinator.unwrap_or_default());
        Self::Probe(Config { name: args.name.unwrap_or(default.name), sampling, ..default })
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let seconds = units.iter().find_map(|(unit, s)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * s));
    let read = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    let read = read.ok_or_else(|| "expected a time such as 10ms or 0.5s".to_owned())?;
    if (INTERVALS.0..=INTERVALS.1).contains(&read) { Ok(read) } else { Err("expected 1ms to 10s".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(line: &str) -> Result<Job, clap::Error> {
        Args::try_parse_from(line.split(' ')).map(Job::from)
    }

    #[test]
    fn flags_become_a_job() {
        let Job::Probe(config) = job("p --coordinator h:1 --name a --interval 2.5ms --nvml-path /x.so").unwrap()
        else {
            panic!("expected a probe")
        };
        assert_eq!((config.coordinator.as_str(), config.name.as_str()), ("h:1", "a"));
        assert_eq!(config.sampling.interval_ns(), 2_500_000);
        assert_eq!(config.sampling.nvml_path, Some("/x.so".into()));
        let Job::Print(sampling, length) = job("p --print-seconds 3").unwrap() else { panic!("expected printing") };
        assert_eq!((sampling.interval, length), (INTERVAL, Duration::from_secs(3)));
    }

    #[test]
    fn absurd_flags_are_refused() {
        let bad = ["p", "p --coordinator h:1 --print-seconds 3", "p --print-seconds 0"];
        let intervals = ["0ms", "999us", "11s", "-1ms", "NaNms", "infs", "10", ""];
        let intervals = intervals.map(|i| format!("p --coordinator h:1 --interval {i}"));
        for line in bad.into_iter().chain(intervals.iter().map(String::as_str)) {
            assert!(job(line).is_err(), "{line}");
        }
    }
}
