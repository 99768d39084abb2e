//! What a fleet costs its coordinator: a real one with light agents, whose measurements are SIMULATED, at 10, 100 and 1,000
//! agents. Its own CPU time and memory are the kernel's figures; the agents run on the same cores. A measurement, not a
//! test: run it in release.

use std::io::Write;
use std::path::PathBuf;

use anyhow::ensure;
use clap::Parser;
use e2e::light::fleet::{Measured, Size, measure};
use e2e::roles;

/// Measures a coordinator with many light agents.
#[derive(Debug, Parser)]
struct Args {
    /// Sizes of the fleet, one run each
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1_000])]
    agents: Vec<u32>,
    /// Simulated streams of each agent
    #[arg(long, default_value_t = 10)]
    streams: u32,
    /// Median latency of a simulated request, ms
    #[arg(long, default_value_t = 2_000)]
    latency_ms: u32,
    /// Tokens of each answer
    #[arg(long, default_value_t = 32)]
    tokens: u32,
    /// Measured window of each level, s
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Levels, in even steps up to all streams
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    levels: u32,
    /// Processes that the agents share
    #[arg(long, default_value_t = 4)]
    processes: u32,
    /// Where to keep the runs' directories; otherwise they are removed
    #[arg(long)]
    keep: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    if let Some(code) = roles::dispatch() {
        std::process::exit(code);
    }
    let args = Args::parse();
    ensure!(!cfg!(debug_assertions), "a debug build measures the compiler: run with --release");
    let binary = std::env::current_exe()?;
    let mut rows = Vec::new();
    for &agents in &args.agents {
        let dir = tempfile::tempdir()?;
        let size = Size {
            agents,
            streams: args.streams,
            latency_ms: args.latency_ms,
            tokens: args.tokens,
            seconds: args.seconds,
            processes: args.processes.max(1),
            levels: args.levels,
        };
        let run = match &args.keep {
            Some(keep) => keep.join(format!("fleet-{agents}")),
            None => dir.path().join("run"),
        };
        rows.push((agents, measure(&binary, &run, &size)?));
    }
    let text = table(&args, &rows);
    // A reader that left early is no error.
    let _left = write!(std::io::stdout(), "{text}");
    Ok(())
}

fn table(args: &Args, rows: &[(u32, Measured)]) -> String {
    let mut text = format!(
        "\n{} streams an agent, {} tokens an answer, about {} ms each; measurements SIMULATED, coordinator real\n",
        args.streams, args.tokens, args.latency_ms
    );
    let mut row = |name: &str, cell: &dyn Fn(&Measured) -> String| {
        let cells: String = rows.iter().map(|(_, m)| format!("{:>14}", cell(m))).collect();
        text.push_str(&format!("{name:<44}{cells}\n"));
    };
    row("agents", &|m| m.truth.agents.to_string());
    row("join storm, s", &|m| format!("{:.2}", m.join_s));
    if args.levels == 1 {
        row("armed and told the start, s", &|m| format!("{:.2}", m.arm_s));
    }
    row("worst start error by the clock, µs", &|m| {
        format!("{:.1}", m.truth.worst_start_error_ns as f64 / 1e3)
    });
    row("starts beyond the bound told", &|m| m.truth.beyond_bound.to_string());
    row("clock bound, median agent, µs", &|m| format!("{:.1}", m.bound_us.0));
    row("clock bound, worst, µs", &|m| format!("{:.1}", m.bound_us.1));
    row("coordinator CPU in the level, cores", &|m| format!("{:.2}", m.cpu_cores));
    row("  of its busiest second", &|m| format!("{:.2}", m.cpu_peak_cores));
    row("coordinator RSS until the end, MiB", &|m| format!("{:.0}", m.rss_mib.0));
    row("  peak with the merge", &|m| format!("{:.0}", m.rss_mib.1));
    row("last word to files written, s", &|m| format!("{:.2}", m.end_s));
    row("records/s", &|m| format!("{:.0}", m.records as f64 / m.level_s));
    row("journal, MiB", &|m| format!("{:.1}", m.journal_bytes as f64 / f64::from(1 << 20)));
    row("journal, bytes a record", &|m| format!("{:.0}", m.journal_bytes as f64 / m.records as f64));
    row("lost or different from the truth", &|m| match m.differences().as_slice() {
        [] => "nothing".to_owned(),
        found => found.join("; "),
    });
    text
}
