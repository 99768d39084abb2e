//! From flags to what is meant.

use std::path::PathBuf;
use std::time::Duration;

use chrono::Utc;
use tailcliff_proto::v1;

use crate::args::coldwarm::ColdwarmArgs;
use crate::args::server::server_of;
use crate::config::{Config, ConfigError, bad};
use crate::local::Server;

/// What to measure, validated.
#[derive(Clone, Debug)]
pub struct Job {
    /// The server; holds the API key.
    pub target: v1::Target,
    /// The one request.
    pub workload: v1::Workload,
    /// Run by `sh -c`.
    pub restart_cmd: String,
    /// Path that says when it is ready; `None`: the usual ones.
    pub ready_path: Option<String>,
    /// Longest wait for that.
    pub ready_timeout: Duration,
    /// Restarts in all, of which the last is for whole replies where `whole_restart` says so.
    pub restarts: u32,
    /// See `restarts`.
    pub whole_restart: bool,
    /// Warm requests of each kind.
    pub runs: u32,
    /// Variables to record, beside the usual ones.
    pub env: Vec<String>,
    /// Facts that the user gave.
    pub metadata: Vec<(String, String)>,
    /// Whose processes are sampled; `None` where the URL leads elsewhere.
    pub server: Option<Server>,
    /// NVML library.
    pub nvml_path: Option<PathBuf>,
    /// GPU sampling interval, ns.
    pub gpu_interval_ns: i64,
    /// Where to write.
    pub output_dir: PathBuf,
    /// The command line, with its secrets left out.
    pub command: Vec<String>,
}

impl Job {
    /// Checks flags; `env_key` is OPENAI_API_KEY, `command` the command line without secrets.
    ///
    /// # Errors
    /// The first value that makes no sense, with what to try.
    pub fn from_args(
        args: ColdwarmArgs,
        env_key: Option<String>,
        command: Vec<String>,
    ) -> Result<Self, ConfigError> {
        let config = Config::from_args(args.as_sweep(), env_key)?;
        if args.restart_cmd.trim().is_empty() {
            return Err(bad("--restart-cmd", "empty: give what ends the server and starts it anew"));
        }
        if args.prompt.is_empty() {
            return Err(bad("--prompt", "empty: give a short text"));
        }
        if args.ready_timeout.0 < 1_000_000_000 {
            return Err(bad("--ready-timeout", "at least 1s is needed"));
        }
        let ready_path = ready_path(&args.ready, &config.plan.base_url)?;
        if let Some(name) = args.env.iter().find(|name| name.is_empty() || name.contains('=')) {
            return Err(bad("--env", format!("{name:?} is not the name of a variable")));
        }
        let dir = format!("{}-{}-coldwarm", Utc::now().format("%Y%m%dT%H%M%SZ"), config.name);
        Ok(Self {
            server: server_of(args.server, &config.plan.base_url),
            metadata: config.plan.metadata.clone(),
            target: config.target,
            workload: config.workload,
            restart_cmd: args.restart_cmd,
            ready_path,
            ready_timeout: Duration::from_nanos(args.ready_timeout.0.unsigned_abs()),
            restarts: args.restarts + u32::from(args.whole_restart),
            whole_restart: args.whole_restart,
            runs: args.runs,
            env: args.env,
            nvml_path: args.nvml_path,
            gpu_interval_ns: args.gpu_interval.0,
            output_dir: config.output_dir.unwrap_or_else(|| PathBuf::from("runs").join(dir)),
            command,
        })
    }

    /// Whether the requests of this restart (from 0) are streamed.
    pub fn streams(&self, restart: u32) -> bool {
        !(self.whole_restart && restart + 1 == self.restarts)
    }
}

fn ready_path(ready: &str, base_url: &str) -> Result<Option<String>, ConfigError> {
    if ready == "auto" {
        return Ok(None);
    }
    if !ready.starts_with('/') || ready.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(bad("--ready", format!("{ready:?} is not a path: try /health, or auto")));
    }
    if base_url.starts_with("https:") {
        return Err(bad("--ready", "over https the list of models alone is asked: leave it at auto"));
    }
    Ok(Some(ready.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn job(more: &[&str]) -> Result<Job, String> {
        let usual = ["tailcliff", "coldwarm", "--url", "127.0.0.1:8000", "--model", "m"];
        let cli = Cli::try_parse_from([&usual[..], more].concat()).map_err(|e| e.to_string())?;
        let Command::Coldwarm(args) = cli.command else { return Err("another job".to_owned()) };
        Job::from_args(*args, None, Vec::new()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_the_mission() {
        let job = job(&["--restart-cmd", "true"]).unwrap();
        assert_eq!((job.restarts, job.runs, job.workload.max_tokens), (1, 5, 64));
        assert_eq!(job.workload.temperature, Some(0.0));
        assert_eq!(job.server, Some(Server::Port(8000)));
        assert!(job.streams(0) && job.target.streaming && !job.workload.prompt.is_empty());
        assert!(job.output_dir.starts_with("runs"));
    }

    #[test]
    fn the_last_of_the_restarts_may_be_for_whole_replies() {
        let job = job(&["--restart-cmd", "true", "--restarts", "2", "--whole-restart"]).unwrap();
        assert_eq!((0..job.restarts).map(|n| job.streams(n)).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn wrong_flags_are_refused_with_what_to_try() {
        for (flags, word) in [
            (&["--restart-cmd", " "][..], "--restart-cmd"),
            (&[][..], "--restart-cmd"),
            (&["--restart-cmd", "x", "--ready", "health"], "/health"),
            (&["--restart-cmd", "x", "--ready-timeout", "1ms"], "--ready-timeout"),
            (&["--restart-cmd", "x", "--restarts", "0"], "--restarts"),
            (&["--restart-cmd", "x", "--runs", "0"], "--runs"),
            (&["--restart-cmd", "x", "--max-tokens", "0"], "--max-tokens"),
            (&["--restart-cmd", "x", "--temperature", "NaN"], "--temperature"),
            (&["--restart-cmd", "x", "--env", "A=b"], "--env"),
            (&["--restart-cmd", "x", "--prompt", ""], "--prompt"),
        ] {
            let error = job(flags).unwrap_err();
            assert!(error.contains(word), "{flags:?}: {error}");
        }
        assert!(ready_path("/health", "https://h").unwrap_err().to_string().contains("auto"));
        assert_eq!(ready_path("/health", "http://h").unwrap().as_deref(), Some("/health"));
    }
}
