//! What servers told of themselves, for the terminal: where the time of each level's requests went, and what the server's
//! metrics say of it. Columns are dropped in a stated order until a table fits, as in the table of the run.

use std::collections::BTreeSet;

use tailcliff_proto::v1::ServerLatency;

use crate::inside::{How, LevelInside, Part, PartFigures, ServerLevel};
use crate::levels::Level;
use crate::merge::Merged;

use super::clocks::time;
use super::terminal::{dash, line, widest, wrap};
use super::text::printable;

/// The client's own share of a request.
pub(super) const CLIENT: [Part; 5] =
    [Part::SendLag, Part::Connect, Part::Write, Part::SocketWait, Part::Read];

/// What is said of requests whose server stamps have no place.
pub(super) const UNPLACED: &str = "requests have server stamps without a place on the timeline (a step of a wall clock, or no clock \
                                   reading near)";

struct Column<'a> {
    title: &'static str,
    /// The higher, the longer it stays.
    rank: u8,
    cell: &'a dyn Fn(&Level) -> String,
}

/// Lines of at most `width` columns but for words that are longer; nothing when no server told anything.
pub(super) fn block(merged: &Merged, width: usize) -> String {
    let mut out = String::new();
    if merged.levels.iter().any(|level| level.inside.is_some()) {
        out += &wrap("\n", "Where the time went, by the server's own word (mean / p95, ms)", width);
        out += &waterfall(&merged.levels, width);
        hows(&merged.levels).iter().for_each(|line| out += &wrap("", line, width));
        merged.levels.iter().for_each(|level| doubts(level, width, &mut out));
    }
    if merged.levels.iter().any(|level| level.server.is_some()) {
        out += &wrap("\n", "The server's metrics (mean / max; ttft: mean of the server's / ours, ms)", width);
        out += &metrics(&merged.levels, width);
        merged.levels.iter().for_each(|level| notes(level, width, &mut out));
    }
    // A warning of the run is told among those of the run.
    for warning in merged.inside.warnings.iter().filter(|warning| !merged.warnings.contains(warning)) {
        out += &wrap("warning: ", &printable(warning), width);
    }
    out
}

fn load_title(levels: &[Level]) -> &'static str {
    if levels.iter().any(|level| level.load.is_open()) { "rate" } else { "conc" }
}

fn waterfall(levels: &[Level], width: usize) -> String {
    let of =
        |part: Part| move |l: &Level| l.inside.as_ref().and_then(|of| pair(of, part)).unwrap_or_else(dash);
    let (up, queue, prefill) = (of(Part::NetworkUp), of(Part::Queue), of(Part::Prefill));
    let (decode, down) = (of(Part::Decode), of(Part::NetworkDown));
    let inside = |l: &Level, read: &dyn Fn(&LevelInside) -> Option<String>| {
        l.inside.as_ref().and_then(read).unwrap_or_else(dash)
    };
    let joined = |of: &LevelInside| {
        let all = of.joined + of.unmatched;
        (all > 0).then(|| format!("{:.1} %", of.joined as f64 * 100.0 / all as f64))
    };
    let columns = [
        Column { title: load_title(levels), rank: 10, cell: &|l| l.load.to_string() },
        Column { title: "client", rank: 3, cell: &|l| inside(l, &|of| client_ns(of).map(ms)) },
        Column { title: "net up", rank: 5, cell: &up },
        Column { title: "front", rank: 6, cell: &|l| inside(l, &|of| of.front_ns.map(ms)) },
        Column { title: "queue", rank: 9, cell: &queue },
        Column { title: "prefill", rank: 8, cell: &prefill },
        Column { title: "decode", rank: 7, cell: &decode },
        Column { title: "net down", rank: 4, cell: &down },
        Column { title: "clock ±", rank: 1, cell: &|l| inside(l, &|of| of.bound_ns.map(time)) },
        Column { title: "joined", rank: 2, cell: &|l| inside(l, &joined) },
    ];
    fitted(&columns, levels, width)
}

fn figures(of: &LevelInside, part: Part) -> Option<&PartFigures> {
    of.parts.iter().find(|figures| figures.part == part)
}

fn pair(of: &LevelInside, part: Part) -> Option<String> {
    figures(of, part).map(|figures| format!("{}/{}", ms(figures.mean_ns), ms(figures.p95_ns as f64)))
}

/// Mean over all joined requests of the client's parts together; `None` where none is known.
pub(super) fn client_ns(of: &LevelInside) -> Option<f64> {
    let known = CLIENT.into_iter().filter_map(|part| figures(of, part));
    let sums: Vec<f64> = known.map(|figures| figures.mean_ns * figures.count as f64).collect();
    (!sums.is_empty() && of.joined > 0).then(|| sums.iter().sum::<f64>() / of.joined as f64)
}

/// Three digits or so; the sign of what is below 0 stays, however small.
pub(super) fn ms(ns: f64) -> String {
    let ms = ns / 1e6;
    match ms.abs() {
        size if size < 9.995 => format!("{ms:.2}"),
        size if size < 99.95 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

/// How the parts are known that are not measured by one clock, and how well.
fn hows(levels: &[Level]) -> Vec<String> {
    let all = || levels.iter().filter_map(|level| level.inside.as_ref());
    let known = |how: How| {
        let parts: BTreeSet<Part> =
            all().flat_map(|of| &of.parts).filter(|f| f.how == how).map(|f| f.part).collect();
        parts.into_iter().map(short).collect::<Vec<_>>().join(", ")
    };
    let (between, inferred) = (known(How::BetweenClocks), known(How::Inferred));
    let bound = all().filter_map(|of| of.bound_ns).max();
    let worst = all().filter_map(|of| of.worst_bound_ns).max();
    let mut lines = Vec::new();
    if !between.is_empty() {
        let known = bound
            .zip(worst)
            .map(|(median, worst)| format!(" (known to ±{}, at worst ±{})", time(median), time(worst)));
        lines.push(format!("between two clocks{}: {between}", known.unwrap_or_default()));
    }
    if !inferred.is_empty() {
        lines.push(format!("inferred, not measured: {inferred}"));
    }
    lines
}

/// A part's name without a comma.
fn short(part: Part) -> String {
    part.as_str().replace('_', " ")
}

/// What does not add up, which is shown and counted and never left out.
fn doubts(level: &Level, width: usize, out: &mut String) {
    let Some(of) = &level.inside else { return };
    let mut said = Vec::new();
    if of.impossible > 0 {
        let parts = of.parts.iter().filter(|figures| figures.impossible > 0);
        let parts: Vec<String> = parts.map(|f| format!("{} {}", short(f.part), f.impossible)).collect();
        let (n, all) = (of.impossible, of.joined);
        said.push(format!(
            "{n} of {all} requests have a part below zero by more than the clocks explain: {}",
            parts.join(", ")
        ));
    }
    if of.unmatched > 0 {
        said.push(format!(
            "{} of {} requests unmatched: the server told nothing of them",
            of.unmatched,
            of.joined + of.unmatched
        ));
    }
    if of.unplaced > 0 {
        said.push(format!("{} {UNPLACED}", of.unplaced));
    }
    if !said.is_empty() {
        *out += &wrap(&format!("at {}: ", level.name()), &said.join("; "), width);
    }
}

fn metrics(levels: &[Level], width: usize) -> String {
    let server = |l: &Level, read: &dyn Fn(&ServerLevel) -> Option<String>| {
        l.server.as_ref().and_then(read).unwrap_or_else(dash)
    };
    let gauge = |of: Option<(f64, f64)>| of.map(|(mean, max)| format!("{mean:.1}/{max:.0}"));
    let percent = |of: Option<f64>| of.map(|share| format!("{:.1} %", share * 100.0));
    let usage =
        |of: &ServerLevel| of.kv_usage.map(|(mean, max)| format!("{:.1}/{:.1} %", mean * 100.0, max * 100.0));
    let columns = [
        Column { title: load_title(levels), rank: 10, cell: &|l| l.load.to_string() },
        Column { title: "running", rank: 7, cell: &|l| server(l, &|of| gauge(of.running)) },
        Column { title: "waiting", rank: 9, cell: &|l| server(l, &|of| gauge(of.waiting)) },
        Column { title: "KV cache", rank: 8, cell: &|l| server(l, &usage) },
        Column {
            title: "preempted",
            rank: 6,
            cell: &|l| server(l, &|of| of.preemptions.map(|n| format!("{n:.0}"))),
        },
        Column { title: "cache hits", rank: 3, cell: &|l| server(l, &|of| percent(of.cache_hit)) },
        Column { title: "spec taken", rank: 2, cell: &|l| server(l, &|of| percent(of.spec_accepted)) },
        Column { title: "ttft", rank: 5, cell: &|l| server(l, &ttft) },
        Column { title: "scrapes", rank: 1, cell: &|l| server(l, &|of| Some(of.scrapes.to_string())) },
    ];
    fitted(&columns, levels, width)
}

fn ttft(of: &ServerLevel) -> Option<String> {
    let cross = of.cross.iter().find(|cross| cross.of == ServerLatency::Ttft)?;
    Some(format!("{}/{}", ms(cross.server_mean_ns), cross.client_mean_ns.map_or_else(dash, ms)))
}

fn notes(level: &Level, width: usize, out: &mut String) {
    let notes = level.server.as_ref().map_or(&[][..], |of| of.notes.as_slice());
    if !notes.is_empty() {
        *out += &wrap(&format!("at {}: ", level.name()), &printable(&notes.join("; ")), width);
    }
}

fn fitted(columns: &[Column<'_>], levels: &[Level], width: usize) -> String {
    let titles = |shown: &[&Column<'_>]| shown.iter().map(|c| c.title.to_owned()).collect::<Vec<_>>();
    // A column in which nobody told anything needs no room.
    let is_told = |c: &&Column<'_>| levels.iter().any(|level| (c.cell)(level) != dash());
    let mut shown: Vec<&Column<'_>> = columns.iter().filter(is_told).collect();
    let mut left_out = Vec::new();
    loop {
        let cells = levels.iter().map(|level| shown.iter().map(|c| (c.cell)(level)).collect());
        let rows: Vec<Vec<String>> = std::iter::once(titles(&shown)).chain(cells).collect();
        let widths: Vec<usize> = (0..shown.len()).map(|i| widest(&rows, i)).collect();
        let total = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        let least = shown.iter().enumerate().min_by_key(|(_, c)| c.rank).map(|(i, _)| i);
        match least {
            Some(least) if total > width && shown.len() > 1 => left_out.push(shown.remove(least).title),
            _ => {
                let table: String = rows.iter().map(|row| line(row, &widths)).collect();
                return table + &unshown(&left_out, width);
            }
        }
    }
}

fn unshown(left_out: &[&str], width: usize) -> String {
    if left_out.is_empty() {
        return String::new();
    }
    wrap("", &format!("no room here for {} (summary.md has all)", left_out.join(", ")), width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{inside_sample, terminal};

    #[test]
    fn it_fits_every_terminal_and_names_what_is_left_out() {
        let merged = inside_sample::merged(&inside_sample::run());
        for width in [40, 60, 80, 100, 140] {
            let text = terminal::render(&merged, width);
            let told = text.split_once("\nWhere the time").unwrap().1;
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert!(told.contains("queue") && told.contains("waiting"), "{text}");
        }
        let text = block(&merged, 80);
        let title = |text: &str| text.lines().find(|line| line.contains("queue")).unwrap().to_owned();
        for column in ["conc", "net up", "front", "queue", "prefill", "decode", "net down"] {
            assert!(title(&text).contains(column), "{column} in:\n{text}");
        }
        let wide = block(&merged, 140);
        assert!(title(&wide).contains("clock ±") && title(&wide).contains("joined"), "{wide}");
        assert!(!wide.contains("no room") && !wide.contains("spec taken"), "{wide}");
    }

    #[test]
    fn what_is_not_measured_or_cannot_be_is_said() {
        let merged = inside_sample::merged(&inside_sample::run());
        let text = block(&merged, 1_000);
        for words in [
            "between two clocks (known to ±40.0 µs, at worst ±80.0 µs): network up, network down",
            "inferred, not measured: front in, queue, front out",
            "below zero by more than the clocks explain: network up ",
            "unmatched: the server told nothing of them",
            "requests have server stamps without a place on the timeline (a step of a wall clock, or no clock reading near)",
            "1 of 11 scrapes failed: connection refused",
            "warning: the wall clock of probe stepped",
            "2.0/4",
            "31.2/50.0 %",
            "17.5/18.1",
        ] {
            assert!(text.contains(words), "{words} in:\n{text}");
        }
        let mut told = inside_sample::merged(&inside_sample::run());
        told.warnings.clone_from(&told.inside.warnings);
        assert!(!block(&told, 80).contains("warning"), "not said twice");
        let silent = crate::merge::testrun::run(1, 1, &[1]);
        assert_eq!(block(&crate::merge::merge(&silent), 80), "");
    }

    #[test]
    fn a_value_below_zero_keeps_its_sign() {
        assert_eq!(
            [ms(-80_000.0), ms(-1_000.0), ms(123.4e6), ms(12.34e6)],
            ["-0.08", "-0.00", "123", "12.3"]
        );
    }
}
