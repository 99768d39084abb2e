//! Searches simulated servers in virtual time and holds the knees against those that their parameters imply:
//! `cargo run --release --bin knees -- --runs 1000 --seed 1`.

use std::io::Write;

use clap::Parser;
use e2e::knees::{Kind, RESOLUTION, TO, Trial, World};

#[derive(Parser)]
struct Args {
    /// Servers to search.
    #[arg(long, default_value_t = 1_000)]
    runs: u64,
    /// Of the first server; each next one has the next seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A line for each.
    #[arg(long)]
    each: bool,
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let trials: Vec<Trial> = std::thread::scope(|scope| {
        let part = |n: u64| {
            let seeds = (args.seed..args.seed + args.runs).filter(move |seed| seed % threads == n);
            scope.spawn(move || seeds.map(|seed| World::drawn(seed).search()).collect::<Vec<_>>())
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap_or_default()).collect()
    });
    let mut out = std::io::stdout().lock();
    if args.each {
        trials.iter().try_for_each(|trial| each(&mut out, trial))?;
    }
    writeln!(
        out,
        "SIMULATED servers in virtual time: {} searches of 1 to {TO} streams, resolution {RESOLUTION} of the knee",
        trials.len()
    )?;
    for kind in [Some(Kind::Slots), Some(Kind::Kv), Some(Kind::Compute), None] {
        let of: Vec<&Trial> =
            trials.iter().filter(|t| kind.is_none_or(|kind| t.world.kind == kind)).collect();
        summary(&mut out, kind.map_or("all".to_owned(), |kind| format!("{kind:?}")), &of)?;
    }
    Ok(())
}

fn each(out: &mut impl Write, t: &Trial) -> std::io::Result<()> {
    let miss = if t.covers() { ' ' } else { '!' };
    writeln!(
        out,
        "{miss} {:?} truth {:.1} rung {:.1} knee {:?} cliff {:?} levels {} {:.0} s of {:.0} s: {} {:?}",
        t.world.kind,
        t.truth,
        t.rung,
        t.found.knee,
        t.found.cliff,
        t.levels,
        t.took_s,
        t.linear_s,
        t.ended,
        t.world
    )
}

fn summary(out: &mut impl Write, name: String, of: &[&Trial]) -> std::io::Result<()> {
    let n = of.len().max(1) as f64;
    let covered = of.iter().filter(|t| t.covers()).count() as f64 / n;
    let none = of.iter().filter(|t| t.found.knee.is_none()).count();
    let width = median(of.iter().filter_map(|t| Some(t.found.knee?.width() / t.rung)).collect());
    let time = median(of.iter().map(|t| t.took_s / t.linear_s).collect());
    let to_top = median(of.iter().map(|t| t.took_s / t.linear_to_top_s).collect());
    let total = of.iter().map(|t| t.took_s).sum::<f64>() / of.iter().map(|t| t.linear_s).sum::<f64>();
    let levels = median(of.iter().map(|t| t.levels as f64).collect());
    writeln!(
        out,
        "{name:>8}: {:4} runs, interval covers the knee in {:.1} %, none found {none}, median width {width:.2} rungs, \
         median time {time:.2} of a linear sweep ({to_top:.2} of one to the search's own top; in sum {total:.2}), {levels} levels",
        of.len(),
        covered * 100.0
    )
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
