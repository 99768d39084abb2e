//! The terminal blocks of experiments, in place of a sweep's table and charts; as wide as the terminal, and no wider.

use crate::experiment::Experiment;
use crate::experiment::baseline::Baseline;
use crate::experiment::figures::Figures;
use crate::experiment::grid::{Grid, GridCell};
use crate::experiment::overload::{Overload, Rung};
use crate::knee::duration;
use crate::merge::Merged;

use super::terminal::{dash, line, rate, widest, wrap};
use super::text::printable;

/// Longest bar of a histogram, cells.
const BAR: usize = 30;
/// Fewer values than these have no p95 or p99 below their largest.
const FOR_P95: usize = 20;
const FOR_P99: usize = 100;

/// The block of a run's experiment; `None` for a sweep.
pub(super) fn block(merged: &Merged, width: usize) -> Option<String> {
    match &merged.experiment {
        Experiment::Sweep => None,
        Experiment::Baseline(None) => Some(wrap("", "baseline: no request completed", width)),
        Experiment::Baseline(Some(found)) => Some(baseline(found, width)),
        Experiment::Grid(found) => Some(grid(found, width)),
        Experiment::Overload(found) => Some(overload(found, width)),
    }
}

/// Rows under a head, less the columns of least rank that the width has no room for; what is missing is named.
fn fitted(head: &[(&str, u8)], rows: &[Vec<String>], width: usize) -> String {
    let mut kept: Vec<usize> = (0..head.len()).collect();
    loop {
        let pick = |row: &[String]| kept.iter().map(|&i| row[i].clone()).collect::<Vec<_>>();
        let titles: Vec<String> = head.iter().map(|(title, _)| (*title).to_owned()).collect();
        let shown: Vec<Vec<String>> =
            std::iter::once(pick(&titles)).chain(rows.iter().map(|row| pick(row))).collect();
        let widths: Vec<usize> = (0..kept.len()).map(|i| widest(&shown, i)).collect();
        let total = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        if total <= width || kept.len() <= 1 {
            let table: String = shown.iter().map(|row| line(row, &widths)).collect();
            return table + &missing(head, &kept, width);
        }
        let least = kept.iter().enumerate().min_by_key(|(_, i)| head[**i].1).map_or(0, |(at, _)| at);
        kept.remove(least);
    }
}

fn missing(head: &[(&str, u8)], kept: &[usize], width: usize) -> String {
    let gone: Vec<&str> =
        head.iter().enumerate().filter(|(i, _)| !kept.contains(i)).map(|(_, (title, _))| *title).collect();
    if gone.is_empty() {
        return String::new();
    }
    wrap("", &format!("no room here for {} (summary.json has all)", gone.join(", ")), width)
}

fn time(ns: f64) -> String {
    duration(ns.max(0.0) as u64)
}

fn baseline(found: &Baseline, width: usize) -> String {
    let head = [
        ("", 9),
        ("n", 4),
        ("mean", 6),
        ("p50", 8),
        ("p95", 7),
        ("p99", 2),
        ("min", 3),
        ("max", 5),
        ("spread", 1),
    ];
    let row = |name: &str, of: &Figures, show: fn(f64) -> String| {
        let figures = [of.mean, of.at(50.0), of.at(95.0), of.at(99.0), of.min(), of.max()].map(show);
        let spread = of.spread().map_or(dash(), |spread| format!("{:.0} %", spread * 100.0));
        let ends = [vec![name.to_owned(), of.n().to_string()], figures.to_vec(), vec![spread]];
        ends.concat()
    };
    let speed = |per_s: f64| rate(Some(per_s));
    let rows = [
        Some(row("wall time", &found.e2e_ns, time)),
        found.ttft_ns.as_ref().map(|of| row("TTFT", of, time)),
        found.tpot_ns.as_ref().map(|of| row("TPOT", of, time)),
        found.tokens_per_s.as_ref().map(|of| row("tokens/s", of, speed)),
    ];
    let mut out = fitted(&head, &rows.into_iter().flatten().collect::<Vec<_>>(), width);
    if found.e2e_ns.n() < FOR_P99 {
        let which = if found.e2e_ns.n() < FOR_P95 { "p95 and p99 are" } else { "p99 is" };
        out.push_str(&wrap("", &format!("of {} requests {which} the slowest one", found.e2e_ns.n()), width));
    }
    if let Some(why) = &found.voided {
        out.push_str(&wrap("", &printable(&format!("it does not count: {why}")), width));
    }
    if found.not_completed > 0 {
        out.push_str(&wrap("", &format!("{} more did not complete", found.not_completed), width));
    }
    if found.proxy_tokens > 0 {
        let n = found.proxy_tokens;
        out.push_str(&wrap(
            "",
            &format!("tokens of {n} answers are a proxy (chunks or words): the server told none"),
            width,
        ));
    }
    out + "\n" + &histogram(&found.e2e_ns, width)
}

fn histogram(of: &Figures, width: usize) -> String {
    let bins = of.bins();
    let names: Vec<String> =
        bins.iter().map(|(from, to, _)| format!("{} – {}", time(*from), time(*to))).collect();
    let name_width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let most = bins.iter().map(|bin| bin.2).max().unwrap_or(1).max(1);
    let room = width.saturating_sub(name_width + 3 + most.to_string().len()).min(BAR);
    let mut out = "wall time, requests\n".to_owned();
    for (name, (_, _, n)) in names.iter().zip(&bins) {
        let cells = (n * room).div_ceil(most);
        let bar = "█".repeat(cells);
        let text = format!("{name:>name_width$}  {bar} {n}");
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

fn grid(found: &Grid, width: usize) -> String {
    let mut out = String::new();
    for percent in [50.0, 95.0] {
        let title = format!("E2E p{percent} by prompt characters (rows) and max_tokens (columns)");
        out.push_str(&wrap("", &title, width));
        out.push_str(&matrix(found, percent, width));
        out.push('\n');
    }
    let has_failed = |cell: &GridCell| cell.completed > 0 && cell.not_completed > 0 && cell.voided.is_none();
    if found.cells.iter().any(has_failed) {
        out.push_str(&wrap("", "! some requests of that cell did not complete", width));
    }
    let driven = found.cells.iter().filter(|cell| cell.level.is_some() && cell.voided.is_none());
    let n = |cell: &GridCell| cell.completed as usize;
    let fewest = driven.clone().map(n).min().unwrap_or(0);
    let undriven = found.cells.len() - driven.count();
    if undriven > 0 {
        let text = format!("{undriven} of {} cells were not driven to their end", found.cells.len());
        out.push_str(&wrap("", &text, width));
    }
    if (1..FOR_P95).contains(&fewest) {
        out.push_str(&wrap("", &format!("of {fewest} requests a cell, p95 is the slowest one"), width));
    }
    out
}

/// As many columns beside one another as there is room for; the others below.
fn matrix(found: &Grid, percent: f64, width: usize) -> String {
    let rows: Vec<String> = found.prompt_chars.iter().map(u32::to_string).collect();
    let row_width = rows.iter().map(String::len).max().unwrap_or(0);
    let text =
        |&chars: &u32, tokens: u32| found.cell(chars, tokens).map_or(dash(), |cell| cell_text(cell, percent));
    let columns: Vec<(usize, Vec<String>)> = found
        .max_tokens
        .iter()
        .map(|&tokens| {
            let head = std::iter::once(tokens.to_string());
            let cells: Vec<String> =
                head.chain(found.prompt_chars.iter().map(|chars| text(chars, tokens))).collect();
            (cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0), cells)
        })
        .collect();
    let (mut out, mut from) = (String::new(), 0);
    while from < columns.len() {
        let mut used = row_width;
        let fit = columns[from..].iter().take_while(|(w, _)| {
            used += w + 2;
            used <= width
        });
        let to = from + fit.count().max(1);
        for i in 0..=rows.len() {
            let name = if i == 0 { "" } else { rows[i - 1].as_str() };
            let cells = columns[from..to].iter().map(|(w, cells)| format!("  {:>w$}", cells[i]));
            out.push_str(&format!("{name:>row_width$}{}\n", cells.collect::<String>()));
        }
        from = to;
    }
    out
}

fn cell_text(cell: &GridCell, percent: f64) -> String {
    let mark = if cell.not_completed > 0 { "!" } else { "" };
    match (cell.level, cell.percentile_ns(percent)) {
        (None, _) => dash(),
        (Some(_), _) if cell.voided.is_some() => "void".to_owned(),
        (Some(_), None) => "none".to_owned(),
        (Some(_), Some(ns)) => format!("{}{mark}", time(ns)),
    }
}

fn overload(found: &Overload, width: usize) -> String {
    let head = [("timeout", 5), ("conc", 9), ("ok", 7), ("failed", 8), ("err %", 6), ("ok p95", 4)];
    let row = |rung: &Rung| {
        let p95 = rung.e2e_ns.as_ref().map_or(dash(), |figures| time(figures.at(95.0)));
        let rate = rung.counts.error_rate().map_or(dash(), |rate| format!("{:.1}", rate * 100.0));
        let void = |text: String| if rung.voided.is_some() { "void".to_owned() } else { text };
        vec![
            time(rung.timeout_ns as f64),
            rung.concurrency.to_string(),
            rung.counts.completed.to_string(),
            rung.counts.failed.to_string(),
            void(rate),
            void(p95),
        ]
    };
    let mut out = fitted(&head, &found.rungs.iter().map(row).collect::<Vec<_>>(), width);
    for rung in found.rungs.iter().filter(|rung| !rung.failures.is_empty()) {
        let classes: Vec<String> =
            rung.failures.iter().map(|f| format!("{} × {}", f.count, f.class)).collect();
        let lead = format!("at {} within {}: ", rung.concurrency, time(rung.timeout_ns as f64));
        out.push_str(&wrap(&lead, &printable(&classes.join(", ")), width));
    }
    out.push('\n');
    out.push_str(&wrap("", &printable(&found.failed_words()), width));
    for failures in found.failures().iter().filter(|failures| !failures.sample.is_empty()) {
        let lead = format!("{}, such as: ", failures.class);
        out.push_str(&wrap(&printable(&lead), &printable(&failures.sample), width));
    }
    out.push_str(&wrap("", &found.retry_words(), width));
    for recovery in &found.recoveries {
        out.push_str(&wrap("", &printable(&recovery.words), width));
    }
    out
}

#[cfg(test)]
mod tests;
