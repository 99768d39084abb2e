//! `trace.perfetto-trace`: a run on one timeline, for ui.perfetto.dev. A process for the run with its levels, one for each
//! agent with its requests (a row for each stream, a slice for each request, its stages within) and what it had in flight,
//! one for each probe with its GPUs' curves; beneath each row of requests what the server told of them, and for each of its
//! endpoints what its metrics said. Protobuf and not Chrome's JSON: a tenth of its size, ns instead of µs, and
//! curves with units. Times are the outputs' `t_s`; how far each may be off stands beside it.
//!
//! What it holds is bounded, whatever the run: so many requests (`pick`), and so many points of each curve. How much was
//! left out stands in the arguments of the first slice.

mod curves;
mod pick;
mod requests;
mod server;
mod wire;

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::inside::{Joined, each_joined};
use crate::levels::Level;
use crate::merge::Merged;
use crate::merge::tally::agents;
use crate::stored::{Incarnation, RunData};

use pick::{MOST, Pick};
use wire::{Arg, Args, Writer};

/// The file's name.
pub(super) const NAME: &str = "trace.perfetto-trace";
/// Points of a curve at most.
const MOST_POINTS: i64 = 20_000;

/// A run's own time.
#[derive(Clone, Copy, Debug)]
struct Clock<'a> {
    merged: &'a Merged,
    /// From the start to the last end of a request, ns.
    span_ns: i64,
}

impl Clock<'_> {
    /// A raw stamp of a node: ns since the run's start, and how far it may be off.
    fn place(&self, of: Incarnation, raw: i64) -> Option<(u64, i64)> {
        let at = self.merged.timeline.place(of, raw)?;
        Some((self.since(at.ns)?, at.bound_ns))
    }

    /// A stamp of the coordinator; `None` for one from before the run.
    fn since(&self, ref_ns: i64) -> Option<u64> {
        u64::try_from(ref_ns.checked_sub(self.merged.header.started_ref_ns)?).ok()
    }

    /// Points of a curve closer than this are left out.
    fn step_ns(&self) -> i64 {
        self.span_ns / MOST_POINTS
    }
}

/// Writes the trace.
///
/// # Errors
/// What `out` says.
pub(super) fn write(out: &mut impl Write, data: &RunData, merged: &Merged) -> io::Result<()> {
    write_most(out, data, merged, MOST, |take| {
        each_joined(data, merged, |joined| {
            take(joined);
            Ok(())
        })
    })
}

/// `each` hands over every request whose server side is known.
fn write_most(
    out: &mut impl Write,
    data: &RunData,
    merged: &Merged,
    most: u64,
    each: impl FnOnce(&mut dyn FnMut(&Joined<'_>)) -> io::Result<()>,
) -> io::Result<()> {
    let (pick, ends) = look(data, merged, most);
    let start = merged.header.started_ref_ns;
    let span_ns = ends.values().max().map_or(0, |end| end.saturating_sub(start));
    let clock = Clock { merged, span_ns };
    let mut trace = Writer::new(out)?;
    let mut shown = requests::shown(data, &clock, &pick);
    each(&mut |joined| shown.sides.take(joined, &clock, &pick))?;
    let told = about(merged, &pick, &shown);
    run(&mut trace, &clock, &ends, told)?;
    requests::write(&mut trace, data, &clock, &shown)?;
    server::gauges(&mut trace, data, &clock)?;
    curves::gpus(&mut trace, data, &clock)
}

/// A first look at every request: which are shown, and when the last of each level ended.
fn look(data: &RunData, merged: &Merged, most: u64) -> (Pick, BTreeMap<u32, i64>) {
    let (mut pick, mut ends) = (Pick::new(most, &merged.stalls), BTreeMap::new());
    for (of, node) in agents(data) {
        for batch in node.each_batch() {
            for record in &batch.records {
                pick.see(of, record);
                let Some(end) = merged.timeline.place(of, record.done_raw_ns) else { continue };
                let last = ends.entry(record.level).or_insert(end.ns);
                *last = end.ns.max(*last);
            }
        }
    }
    pick.close();
    (pick, ends)
}

fn about(merged: &Merged, pick: &Pick, shown: &requests::Shown) -> Args {
    vec![
        ("run", Arg::text(&merged.header.name)),
        ("started_utc", Arg::text(&merged.header.started_utc)),
        ("model", Arg::text(&merged.header.plan.model)),
        ("url", Arg::text(&merged.header.plan.base_url)),
        ("tailcliff_version", Arg::text(&merged.header.tailcliff_version)),
        ("requests", Arg::count(pick.total)),
        ("requests_shown", Arg::count(shown.len() as u64)),
        ("requests_shown_which", Arg::text(pick.words())),
        ("requests_without_a_clock", Arg::count(shown.unplaced)),
        ("stalls", Arg::count(merged.stalls.all.len() as u64 + merged.stalls.unjudged)),
        ("points_of_a_curve_at_most", Arg::Int(MOST_POINTS)),
    ]
}

/// The run and its levels.
fn run(
    trace: &mut Writer<impl Write>,
    clock: &Clock<'_>,
    ends: &BTreeMap<u32, i64>,
    told: Args,
) -> io::Result<()> {
    let process = trace.process(&format!("run {}", clock.merged.header.name), Vec::new())?;
    let about = trace.track(process, "run", 0)?;
    trace.begin(about, 0, "run", told)?;
    trace.end(about, clock.span_ns.max(1).unsigned_abs())?;
    let levels = trace.track(process, "levels", 1)?;
    for level in &clock.merged.levels {
        let Some(from) = clock.since(level.start_ref_ns) else { continue };
        let window = level.throughput.map(|t| (t.window.start_ns, t.window.end_ns));
        let last = ends.get(&level.drive.level).copied().max(window.map(|w| w.1));
        let to = last.and_then(|last| clock.since(last)).unwrap_or(from).max(from);
        let name = format!("level {}: {}{}", level.drive.rung, level.load.words(), level.drive.again());
        trace.begin(levels, from, &name, about_level(level))?;
        let window =
            window.and_then(|(start, end)| Some((clock.since(start)?.max(from), clock.since(end)?.min(to))));
        if let Some((start, end)) = window.filter(|(start, end)| start < end) {
            if start > from {
                trace.slice(levels, (from, start), "warm-up")?;
            }
            trace.slice(levels, (start, end), "window")?;
        }
        trace.end(levels, to)?;
    }
    Ok(())
}

fn about_level(level: &Level) -> Args {
    let e2e = level.latencies.e2e.percentile_ns(95.0);
    let mut args = vec![
        ("level", Arg::count(level.drive.level)),
        ("verdict", Arg::text(level.certificate.verdict.as_str())),
        ("completed", Arg::count(level.measured.completed)),
        ("failed", Arg::count(level.measured.failed)),
        ("incomplete", Arg::count(level.measured.incomplete)),
        ("unreported", Arg::count(level.measured.unreported)),
    ];
    args.extend(e2e.map(|ns| ("p95_e2el_ms", Arg::Number(ns as f64 / 1e6))));
    args.extend(level.throughput.map(|t| ("request_throughput", Arg::Number(t.requests.per_s))));
    args.extend(level.voided.as_ref().map(|why| ("voided", Arg::text(why))));
    args
}

#[cfg(test)]
mod tests;
