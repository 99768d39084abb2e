//! The one bench: what our client costs and adds beside a bare epoll client (the floor) and plain reqwest, each against the
//! fixed-schedule stub, in the same run. Ratios hold on a busy machine where absolute figures do not. CPU time is that of
//! our shards' threads, of the floor's one thread and of reqwest's. A measurement, not a test: run it in release.

mod clients;
mod inside;
mod memory;
mod rows;
mod stall;

use std::io::Write;
use std::path::PathBuf;

use anyhow::ensure;
use clap::{Parser, ValueEnum};
use e2e::roles;

/// Measures tailcliff's client against the floor.
#[derive(Debug, Parser)]
struct Args {
    /// Only these rows
    #[arg(long, value_enum)]
    row: Vec<Row>,
    /// Passes of which the median counts [default: 3 for CPU, 5 for added TTFT]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=99))]
    passes: Option<u32>,
    /// Length of each measured window, s
    #[arg(long, default_value_t = 4)]
    seconds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    /// CPU of a request whose reply comes at once, not streamed
    Plain,
    /// CPU of an event in bursts of 128
    Burst,
    /// CPU of an event of 512 streams with a token each 10 ms
    Paced,
    /// TTFT added, 512 streams at 10 ms and 1,024 at 20 ms
    Ttft,
    /// Streams really held when 1,024 are asked for
    Held,
    /// Memory of an added stream
    Memory,
    /// 10,000 streams with a token each 500 ms
    TenThousand,
    /// What trace mode (-vvv) costs on the shards, in bursts of 128 and at 4,000 paced streams
    Trace,
    /// A pause of 724 ms is one gap
    Stall,
    /// CPU that spans and scrapes cost the probe
    Inside,
}

/// What all rows share.
struct Bench {
    binary: PathBuf,
    dir: tempfile::TempDir,
    passes: Option<u32>,
    seconds: u32,
}

fn main() -> anyhow::Result<()> {
    if let Some(code) = roles::dispatch() {
        std::process::exit(code);
    }
    let args = Args::parse();
    ensure!(!cfg!(debug_assertions), "a debug build measures the compiler: run with --release");
    let bench = Bench {
        binary: std::env::current_exe()?,
        dir: tempfile::tempdir()?,
        passes: args.passes,
        seconds: args.seconds,
    };
    // The floor has a connection for each stream too.
    let _as_it_is = tailcliff_agent::host_check::raise_descriptors();
    let all = Row::value_variants();
    for row in all.iter().filter(|row| args.row.is_empty() || args.row.contains(row)) {
        match row {
            Row::Plain => rows::plain(&bench)?,
            Row::Burst => rows::burst(&bench)?,
            Row::Paced => rows::paced(&bench)?,
            Row::Ttft => rows::ttft(&bench)?,
            Row::Held => rows::held(&bench)?,
            Row::Memory => memory::row(&bench)?,
            Row::TenThousand => rows::ten_thousand(&bench)?,
            Row::Trace => rows::trace(&bench)?,
            Row::Inside => inside::row(&bench)?,
            Row::Stall => stall::check(&bench.binary, &bench.dir.path().join("stall"))?,
        }
    }
    Ok(())
}

impl Bench {
    fn passes(&self, usual: u32) -> u32 {
        self.passes.unwrap_or(usual)
    }
}

fn say(line: &str) {
    // A reader that left early is no error.
    let _left = writeln!(std::io::stdout(), "{line}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn verdict(holds: bool) -> &'static str {
    if holds { "holds" } else { "DOES NOT HOLD" }
}
