//! Stalls of known cause and the verdicts on them, over many seeds: the confusion matrix at length. The held-out seeds
//! are those of the test, from 1,000 on; tune with others.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Parser;
use e2e::roles;
use e2e::stalls::{Card, H100, Kind, Known, Matrix, Plan, Ran, Row, play};

/// Plays stalls of known cause and prints verdict × truth.
#[derive(Debug, Parser)]
struct Args {
    /// First seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs, each with the next seed
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// How often each kind comes in a run
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// Only these kinds
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Keep the runs here, each in a folder of its seed
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Play nothing: judge what was kept again
    #[arg(long, requires = "keep")]
    again: bool,
    /// More statements for the simulated GPU, which has an H100's sensors; apart by `;`
    #[arg(long, default_value = "")]
    card: String,
}

fn main() -> anyhow::Result<()> {
    if let Some(code) = roles::dispatch() {
        std::process::exit(code);
    }
    let args = Args::parse();
    let binary = std::env::current_exe()?;
    let mut matrix = Matrix::default();
    for seed in args.seed..args.seed + args.runs {
        let temporary = tempfile::tempdir()?;
        let dir = args.keep.as_ref().map_or(temporary.path().to_owned(), |keep| keep.join(seed.to_string()));
        std::fs::create_dir_all(&dir)?;
        one(&binary, &dir, seed, &args, &mut matrix)?;
    }
    say(&matrix.to_string());
    Ok(())
}

fn one(binary: &Path, dir: &Path, seed: u64, args: &Args, matrix: &mut Matrix) -> anyhow::Result<()> {
    let named = |kind: &Kind| args.kinds.is_empty() || args.kinds.iter().any(|name| name == kind.name());
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(named).collect();
    let plan = Plan::random(seed, &kinds, args.times);
    let ran = match args.again {
        true => Ran::load(dir)?,
        false => {
            let more = args.card.replace(';', "\n");
            play(binary, dir, &plan, &Card::Follows(format!("{H100}{more}")))?
        }
    };
    let known = Known::read(&ran)?;
    match args.again {
        true => ran.judge_again(binary)?,
        false => visible(seed, &known),
    }
    match Row::read(&ran.run_dir) {
        Ok(rows) => matrix.add(&format!("seed {seed}"), &rows, &known),
        Err(error) => say(&format!("no verdicts: {error}")),
    }
    say(&format!("seed {seed}: {}", ran.run_dir.display()));
    Ok(())
}

/// What the client's own trace shows of each injection, without any judgement.
fn visible(seed: u64, known: &Known) {
    let stalls = known.stalls(200.0);
    for (i, one) in known.injected().iter().enumerate() {
        let mine: Vec<_> = stalls.iter().filter(|(_, truth)| truth.injection == Some(i)).collect();
        let length = |truth: &e2e::stalls::Truth| (truth.to_ns - truth.from_ns) as f64 / 1e6;
        let ms: Vec<String> = mine
            .iter()
            .map(|(_, t)| format!("{:.1} (truly {:.1}, {:.0} J)", length(t), t.true_ms, t.energy_j))
            .collect();
        let asked = (one.to_ns - one.from_ns) as f64 / 1e6;
        say(&format!("seed {seed}: {} {asked:.1} ms: {}", one.kind.name(), ms.join(", ")));
    }
    for (id, truth) in stalls.iter().filter(|(_, truth)| truth.injection.is_none()) {
        say(&format!("seed {seed}: {id} has a stall that nobody made: {truth:?}"));
    }
}

fn say(line: &str) {
    // A reader that left early is no error.
    let _left = writeln!(std::io::stdout(), "{line}");
}
