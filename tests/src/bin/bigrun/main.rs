//! A made-up run of a million requests, written through the product's own journal, and what `tailcliff report` takes to
//! make its page of it: time, memory and size, each against its limit. Nothing here was measured of a server: SIMULATED.

mod story;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use e2e::roles;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tailcliff_proto::clock::HostClock;

/// What the page of a million requests may take.
const MOST_TIME: Duration = Duration::from_secs(10);
const MOST_MEMORY_MIB: f64 = 1024.0;
const MOST_SIZE_MB: f64 = 10.0;
/// Set in the copy that measures.
const MEASURES: &str = "TAILCLIFF_BIGRUN_MEASURES";

#[derive(Debug, Parser)]
struct Args {
    /// Requests, or a few per cent more.
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// Tokens of each reply, each a chunk of its own.
    #[arg(long, default_value_t = 32)]
    output_len: u32,
    /// Run directory to make, kept afterwards [default: a temporary one].
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    if let Some(code) = roles::dispatch() {
        std::process::exit(code);
    }
    let args = Args::parse();
    if std::env::var_os(MEASURES).is_none() {
        std::process::exit(copy()?);
    }
    ensure!((100..=20_000_000).contains(&args.requests), "--requests must be 100 to 20000000");
    ensure!((2..=1024).contains(&args.output_len), "--output-len must be 2 to 1024");
    let temporary = tempfile::Builder::new().prefix("tailcliff-bigrun-").tempdir()?;
    let dir = args.output_dir.clone().unwrap_or_else(|| temporary.path().join("run"));
    let told = story::write(&dir, args.requests, args.output_len)?;
    say(&format!(
        "SIMULATED: a made-up run of {} requests, {} tokens, {} GPU samples",
        told.requests, told.tokens, told.samples
    ))?;
    measure(&dir, told.requests)
}

/// Runs a copy of this program, whose only child will be the one that is measured: `cargo run` becomes this one, and what
/// its compilers took would count as a child's.
fn copy() -> anyhow::Result<i32> {
    let mut copy = Command::new(std::env::current_exe()?);
    let status = copy.args(std::env::args_os().skip(1)).env(MEASURES, "1").status()?;
    Ok(status.code().unwrap_or(1))
}

/// Makes the page in a process of its own.
fn measure(dir: &Path, requests: u64) -> anyhow::Result<()> {
    let clock = HostClock;
    let started = clock.now();
    let mut child = Command::new(std::env::current_exe()?);
    child.env(roles::ROLE, "tailcliff").arg("report").arg(dir);
    ensure!(child.status()?.success(), "the page could not be made");
    let took = Duration::from_nanos(u64::try_from(clock.now() - started)?);
    // Of the one child that has ended; memory in KiB.
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let memory_mib = usage.max_rss() as f64 / 1024.0;
    let cpu = [usage.user_time(), usage.system_time()].map(|t| t.num_microseconds() as f64 / 1e6);
    let size = |name: &str| Ok::<_, std::io::Error>(std::fs::metadata(dir.join(name))?.len() as f64 / 1e6);
    let (page_mb, journal_mb) = (size("report.html")?, size("journal.tcj")?);
    say(&format!(
        "journal {journal_mb:.0} MB; page of {requests} requests: {:.2} s ({:.2} s of CPU), {memory_mib:.0} MiB at most, {page_mb:.2} MB",
        took.as_secs_f64(),
        cpu[0] + cpu[1]
    ))?;
    if cfg!(debug_assertions) {
        return say("no optimised build: not held against the limits");
    }
    ensure!(took < MOST_TIME, "it took longer than {MOST_TIME:?}");
    ensure!(memory_mib < MOST_MEMORY_MIB, "it took more than {MOST_MEMORY_MIB} MiB");
    ensure!(page_mb <= MOST_SIZE_MB, "it is larger than {MOST_SIZE_MB} MB");
    say("within the limits: 10 s, 1 GiB, 10 MB")
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("failed to write to standard output")
}
