//! Knees of known cause and what is said of them, over many seeds. Everything is SIMULATED, in virtual time.

use std::io::Write;

use clap::Parser;
use e2e::causes::{Confusion, Kind, Row, Scene, Signals, TRAINING_SEEDS, play};

/// Share of the worlds whose cause can be told that must be right.
const RIGHT_MIN: f64 = 0.95;

/// Plays worlds of known cause and prints truth against diagnosis.
#[derive(Debug, Parser)]
struct Args {
    /// Worlds; kinds and signals take turns
    #[arg(long, default_value_t = 200)]
    runs: u64,
    /// First seed
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// From the ranges that the rules were tuned on; else from those that are held out
    #[arg(long)]
    tuned_on: bool,
    /// Only this kind
    #[arg(long)]
    kind: Option<String>,
    /// Print each one that is wrong, or with --all each one
    #[arg(long)]
    wrong: bool,
    /// Print each one
    #[arg(long)]
    all: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let named = |kind: &Kind| args.kind.as_ref().is_none_or(|name| *name == format!("{kind:?}"));
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(named).collect();
    anyhow::ensure!(!kinds.is_empty(), "no kind has this name; there are {:?}", Kind::ALL);
    let first = args.seed + if args.tuned_on { 0 } else { TRAINING_SEEDS };
    let mut confusion = Confusion::default();
    for i in 0..args.runs {
        let scene =
            Scene::draw(kinds[i as usize % kinds.len()], Signals::turn(i / kinds.len() as u64), first + i);
        let played = play(&scene)?;
        let row = Row::of(&scene, &played);
        if args.all || args.wrong && !row.right {
            say(&format!("{}{}: {}\n", if row.right { "" } else { "WRONG " }, row.name, row.words))?;
            let evidence = played.diagnosed.diagnosis.iter().flat_map(|d| &d.evidence);
            evidence.into_iter().try_for_each(|e| say(&format!("    {}: {}\n", e.signal, e.words)))?;
        }
        confusion.rows.push(row);
    }
    say(&confusion.to_string())?;
    let right = confusion.share(true).unwrap_or(1.0);
    anyhow::ensure!(args.kind.is_some() || right >= RIGHT_MIN, "failed: {right:.3} is less than {RIGHT_MIN}");
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
