//! `tailcliff calibrate`: what this host's own client adds and how much it can drive. A ladder of levels through the same
//! path as `tailcliff run`, each against a stub in a child process that serves a fixed schedule and knows when it wrote
//! what; the same level through plain reqwest; and a burst that shows how many events a core takes.

mod child;
mod level;
pub mod measure;
pub mod table;

use std::io;
use std::path::{Path, PathBuf};

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};
use tailcliff_proto::v1::HostFacts;
use tailcliff_proto::{BUILD, host};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::args::CalibrateArgs;
use crate::config::{ConfigError, check_levels};
use crate::drive::RunError;
use crate::local;

pub use level::seen;
pub use measure::{Added, Client};

/// To the stub's first token, ms.
const TTFT_MS: f64 = 50.0;
/// Tokens of a paced reply: with the above, a request takes about a second.
const TOKENS: u32 = 40;
/// Streams, tokens and length of the burst.
const BURST: (u32, u32, i64) = (16, 128, 3_000_000_000);
/// Before the measured window: the start of all streams at once is no part of what a stream under way sees.
const WARMUP_NS: i64 = 1_000_000_000;

/// Why there is no calibration.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// A flag makes no sense.
    #[error(transparent)]
    Args(#[from] ConfigError),
    /// Ctrl-C.
    #[error("interrupted; nothing is stored")]
    Interrupted,
    /// A level could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A level was run and is worth nothing.
    #[error("failed to calibrate with {0} streams: {1}")]
    Level(u32, String),
    /// The child process.
    #[error("failed to run the stub: {0}")]
    Stub(#[from] io::Error),
    /// No place for the runs.
    #[error("failed to make the folder {path} for the runs: {source}; name another with TMPDIR")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// No place for the result.
    #[error("failed to store the calibration in {path}: {source}; name another file with --output")]
    Store {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// This host.
    pub host: HostFacts,
    /// When, RFC 3339 UTC.
    pub at_utc: String,
    /// To the stub's first token, ms.
    pub ttft_ms: f64,
    /// From token to token, ms.
    pub itl_ms: f64,
    /// Tokens of a paced reply.
    pub tokens: u32,
    /// The ladder.
    pub levels: Vec<Level>,
    /// Tokens of each burst, and what both clients took for a token.
    pub burst: (u32, Client, Client),
}

/// One rung.
#[derive(Clone, Debug, Default)]
pub struct Level {
    /// Streams asked for.
    pub streams: u32,
    /// Through the path of `tailcliff run`.
    pub ours: Client,
    /// Through plain reqwest.
    pub reqwest: Client,
    /// The certificate's verdict on ours, and why.
    pub verdict: String,
    /// Its reasons.
    pub reasons: Vec<String>,
}

/// Measures; says how far it is through `tell`.
///
/// # Errors
/// See [`CalibrateError`].
pub async fn run(
    args: &CalibrateArgs,
    mut interrupts: mpsc::Receiver<String>,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Report, CalibrateError> {
    check_levels(&args.concurrency.0)?;
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    let waiting = tokio::spawn(async move {
        if interrupts.recv().await.is_some() {
            on_signal.cancel();
        }
    });
    let shards = args.shards.unwrap_or_else(local::shards);
    let bench = level::Bench { args, folder: level::Folder::make()?, stop };
    let report = bench.measure(shards, tell).await;
    waiting.abort();
    report
}

impl level::Bench<'_> {
    async fn measure(&self, shards: u32, tell: &(dyn Fn(&str) + Sync)) -> Result<Report, CalibrateError> {
        let ladder = &self.args.concurrency.0;
        let mut levels = Vec::new();
        for (i, &streams) in ladder.iter().enumerate() {
            let of = ladder.len();
            tell(&format!("calibrating {}/{of}: {streams} streams, tailcliff, then plain reqwest", i + 1));
            let paced = level::Work::Paced { itl_ms: self.args.itl.0 as f64 / 1e6 };
            let (ours, verdict, reasons) = self.ours(streams, paced).await?;
            let reqwest = self.reqwest(streams, paced).await?;
            levels.push(Level { streams, ours, reqwest, verdict, reasons });
        }
        let (streams, tokens, _) = BURST;
        tell(&format!("calibrating: bursts of {tokens} tokens"));
        let (ours, ..) = self.ours(streams, level::Work::Burst).await?;
        let reqwest = self.reqwest(streams, level::Work::Burst).await?;
        Ok(Report {
            host: host::facts(shards),
            at_utc: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            ttft_ms: TTFT_MS,
            itl_ms: self.args.itl.0 as f64 / 1e6,
            tokens: TOKENS,
            levels,
            burst: (tokens, ours, reqwest),
        })
    }
}

/// Stores a report where later runs find it, or in `output`; what to tell a person about it.
///
/// # Errors
/// When the file cannot be written.
pub fn store(report: &Report, output: Option<&Path>) -> Result<String, CalibrateError> {
    let Some(path) = output.map(Path::to_owned).or_else(local::calibration::path) else {
        return Ok("not stored: neither XDG_STATE_HOME nor HOME is set; name a file with --output".to_owned());
    };
    let stored = local::calibration::store(&path, &report.host, report.to_json());
    stored.map_err(|source| CalibrateError::Store { path: path.clone(), source })?;
    let later = if output.is_none() { ": later runs on this host carry it" } else { "" };
    Ok(format!("stored in {}{later}", path.display()))
}

impl Report {
    /// As it is stored, and as later runs carry it.
    pub fn to_json(&self) -> Value {
        let (tokens, ours, reqwest) = &self.burst;
        let burst = |client: &Client| {
            json!({
                "ns_per_event": client.cpu_ns_per_event.map(f64::round),
                "events_per_s_per_core": client.events_per_s_per_core().map(f64::round),
            })
        };
        json!({
            "at_utc": self.at_utc,
            "tailcliff_version": BUILD,
            "hostname": self.host.hostname,
            "kernel": self.host.kernel,
            "cpu_model": self.host.cpu_model,
            "cores": self.host.cores,
            "shards": self.host.shards,
            "stub": { "ttft_ms": self.ttft_ms, "itl_ms": self.itl_ms, "tokens": self.tokens },
            "levels": self.levels.iter().map(Level::to_json).collect::<Vec<_>>(),
            "burst": { "tokens": tokens, "tailcliff": burst(ours), "plain_reqwest": burst(reqwest) },
        })
    }
}

impl Level {
    fn to_json(&self) -> Value {
        json!({
            "concurrency": self.streams,
            "verdict": self.verdict,
            "reasons": self.reasons,
            "tailcliff": self.ours.to_json(),
            "plain_reqwest": self.reqwest.to_json(),
        })
    }
}
