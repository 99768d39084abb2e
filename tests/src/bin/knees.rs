//! Searches simulated servers in virtual time and holds the knees against those that their parameters imply:
//! `cargo run --release --bin knees -- --runs 1000 --seed 1`. Fails when what all of them come to is not good enough.

use std::io::Write;
use std::process::ExitCode;

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

/// Share of intervals that hold the knee; those that say 95 % of 1,000 do so by no more luck than this leaves room for.
const COVERED_MIN: f64 = 0.93;
/// Median width of the intervals, as a multiple of the resolution at the knee.
const WIDTH_MAX: f64 = 1.0;
/// Time against a linear sweep of the whole axis.
const TIME_MAX: f64 = 0.5;

fn main() -> std::io::Result<ExitCode> {
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
        summary(&mut out, kind.map_or("all".to_owned(), |kind| format!("{kind:?}")), &Figures::of(&of))?;
    }
    let all = Figures::of(&trials.iter().collect::<Vec<_>>());
    let good = all.covered >= COVERED_MIN && all.width <= WIDTH_MAX && all.time <= TIME_MAX;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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

/// What some trials come to.
struct Figures {
    runs: usize,
    /// Share whose interval holds the knee.
    covered: f64,
    none_found: usize,
    /// Medians: width over the resolution at the knee, time over that of a linear sweep of the axis and of one to the
    /// search's own top, levels.
    width: f64,
    time: f64,
    time_to_top: f64,
    levels: f64,
}

impl Figures {
    fn of(trials: &[&Trial]) -> Self {
        let n = trials.len().max(1) as f64;
        let median_of =
            |value: &dyn Fn(&Trial) -> Option<f64>| median(trials.iter().filter_map(|t| value(t)).collect());
        Self {
            runs: trials.len(),
            covered: trials.iter().filter(|t| t.covers()).count() as f64 / n,
            none_found: trials.iter().filter(|t| t.found.knee.is_none()).count(),
            width: median_of(&|t| Some(t.found.knee?.width() / t.rung)),
            time: median_of(&|t| Some(t.took_s / t.linear_s)),
            time_to_top: median_of(&|t| Some(t.took_s / t.linear_to_top_s)),
            levels: median_of(&|t| Some(t.levels as f64)),
        }
    }
}

fn summary(out: &mut impl Write, name: String, of: &Figures) -> std::io::Result<()> {
    writeln!(
        out,
        "{name:>8}: {:4} runs, interval holds the knee in {:.1} %, none found {}, medians: width {:.2} rungs, time {:.2} of a \
         linear sweep ({:.2} of one that stops where the search did), {} levels",
        of.runs,
        of.covered * 100.0,
        of.none_found,
        of.width,
        of.time,
        of.time_to_top,
        of.levels
    )
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
