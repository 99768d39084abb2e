//! The table that ends a run, fitted to the terminal: columns are dropped in a stated order until it fits; nothing is
//! ever cut in the middle.

use crate::advice;
use crate::axis::Load;
use crate::certificate::Verdict;
use crate::display::thin::Thin;
use crate::knee::duration;
use crate::levels::{Level, Metric};
use crate::merge::window::Rate;
use crate::merge::{Merged, last_tries};

use super::clocks::{self, time};
use super::curve;
use super::text::printable;
use super::{experiments_text, inside_text, sensors, stalls};

/// A run narrower than this reads as if it had this width.
const NARROWEST: usize = 40;
/// Stalls named, the longest of each episode.
const STALLS: usize = 5;
/// Charts stand side by side from this width on.
const SIDE_BY_SIDE: usize = 100;
/// A chart wider than this is no clearer.
const CHART_WIDEST: usize = 60;

#[derive(Clone, Copy)]
struct Column {
    title: &'static str,
    /// The higher, the longer it stays.
    rank: u8,
    cell: fn(&Level) -> String,
}

/// In the order printed. The tail of E2E and the verdict stay to the last.
const COLUMNS: [Column; 16] = [
    Column { title: "conc", rank: 16, cell: |l| l.load.to_string() },
    Column { title: "ttft p50", rank: 8, cell: |l| percentile(&l.latencies.ttft, 50.0) },
    Column { title: "ttft p95", rank: 11, cell: |l| with_bar(&l.latencies.ttft, 95.0) },
    Column { title: "ttft p99", rank: 4, cell: |l| percentile(&l.latencies.ttft, 99.0) },
    Column { title: "itl p50", rank: 3, cell: |l| percentile(&l.latencies.itl, 50.0) },
    Column { title: "itl p95", rank: 10, cell: |l| with_bar(&l.latencies.itl, 95.0) },
    Column { title: "itl p99", rank: 2, cell: |l| percentile(&l.latencies.itl, 99.0) },
    Column { title: "e2e p50", rank: 10, cell: |l| percentile(&l.latencies.e2e, 50.0) },
    Column { title: "e2e p95", rank: 15, cell: |l| with_bar(&l.latencies.e2e, 95.0) },
    Column { title: "e2e p99", rank: 6, cell: |l| percentile(&l.latencies.e2e, 99.0) },
    Column { title: "req/s", rank: 14, cell: |l| l.throughput.map_or(dash(), |t| rate_with_bar(t.requests)) },
    Column { title: "tok/s", rank: 7, cell: |l| rate(l.throughput.map(|t| t.output_tokens.per_s)) },
    Column {
        title: "err %",
        rank: 12,
        cell: |l| l.measured.error_rate().map_or(dash(), |r| format!("{:.1}", r * 100.0)),
    },
    Column { title: "n", rank: 5, cell: |l| l.measured.completed.to_string() },
    Column { title: "clock ±", rank: 9, cell: |l| l.clock.map_or(dash(), |c| time(c.worst_ns)) },
    Column { title: "verdict", rank: 13, cell: |l| l.certificate.verdict.as_str().to_owned() },
];

/// In place of the first, in open loop.
const OPEN_COLUMNS: [Column; 4] = [
    Column { title: "rate", rank: 16, cell: |l| l.load.to_string() },
    Column { title: "offered/s", rank: 9, cell: |l| rate(l.rates.map(|r| r.offered)) },
    Column { title: "sent/s", rank: 9, cell: |l| rate(l.rates.map(|r| r.achieved)) },
    Column {
        title: "held",
        rank: 10,
        cell: |l| l.held.as_ref().map_or(dash(), |h| h.requests.saturating_add(h.never_sent).to_string()),
    },
];

/// All columns of a run.
fn columns(levels: &[Level]) -> Vec<Column> {
    if levels.iter().any(|level| level.load.is_open()) {
        OPEN_COLUMNS.into_iter().chain(COLUMNS.into_iter().skip(1)).collect()
    } else {
        COLUMNS.to_vec()
    }
}

/// The whole report, lines of at most `width` columns but for words that are longer.
pub fn render(merged: &Merged, width: usize) -> String {
    let width = width.max(NARROWEST);
    let of_experiment = experiments_text::block(merged, width);
    let mut out = of_experiment
        .unwrap_or_else(|| format!("{}\n{}", table(&merged.levels, width), charts(merged, width)));
    let inside = inside_text::block(merged, width);
    if !inside.is_empty() {
        out.push_str(inside.trim_start_matches('\n'));
        out.push('\n');
    }
    let mut said: Vec<&String> = vec![&merged.knee.words, &merged.cliff.words, &merged.diagnosed.words];
    said.extend(merged.cliff_diagnosed.as_ref().map(|diagnosis| &diagnosis.words));
    // Of an experiment that has neither, both say the same.
    said.dedup();
    for words in said {
        out.push_str(&wrap("", &printable(words), width));
    }
    for one in advice::of(merged) {
        out.push_str(&wrap("advice: ", &printable(&one.line()), width));
    }
    if let Some(slo) = &merged.slo {
        out.push_str(&wrap("", &slo.words, width));
    }
    for line in clocks::lines(merged) {
        out.push_str(&wrap("", &printable(&line), width));
    }
    for level in &merged.levels {
        remarks(level, width, &mut out);
    }
    for line in sensors::lines(&merged.nodes) {
        out.push_str(&wrap("", &printable(&line), width));
    }
    for line in stalls::lines(&merged.stalls, merged.header.started_ref_ns, STALLS) {
        out.push_str(&wrap("", &printable(&line), width));
    }
    // Of many nodes with the same trouble the first are named here, and all in the summary.
    let mut thin = Thin::default();
    let shown: Vec<_> = merged.warnings.iter().filter(|warning| thin.shows(warning)).cloned().collect();
    for warning in shown.into_iter().chain(thin.rest()) {
        out.push_str(&wrap("warning: ", &printable(&warning), width));
    }
    if !merged.untold.is_empty() {
        let keys = merged.untold.join(", ");
        let text =
            format!("nobody told {keys}: tell with --metadata KEY=VALUE, so that runs can be compared");
        out.push_str(&wrap("unknown: ", &text, width));
    }
    out
}

fn table(levels: &[Level], width: usize) -> String {
    let all = columns(levels);
    let mut columns: Vec<&Column> = all.iter().collect();
    loop {
        let rows: Vec<Vec<String>> = std::iter::once(columns.iter().map(|c| c.title.to_owned()).collect())
            .chain(levels.iter().map(|level| columns.iter().map(|c| (c.cell)(level)).collect()))
            .collect();
        let widths: Vec<usize> = (0..columns.len()).map(|i| widest(&rows, i)).collect();
        let total = widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
        let least = columns.iter().enumerate().min_by_key(|(_, c)| c.rank).map(|(i, _)| i);
        match least {
            Some(least) if total > width && columns.len() > 1 => drop(columns.remove(least)),
            _ => {
                let table: String = rows.iter().map(|row| line(row, &widths)).collect();
                return table + &unshown(&all, &columns, width);
            }
        }
    }
}

/// Names the columns that the terminal has no room for.
fn unshown(all: &[Column], shown: &[&Column], width: usize) -> String {
    let is_shown = |column: &&Column| !shown.iter().any(|s| s.title == column.title);
    let missing: Vec<&str> = all.iter().filter(is_shown).map(|c| c.title).collect();
    if missing.is_empty() {
        return String::new();
    }
    wrap("", &format!("no room here for {} (levels.csv has all)", missing.join(", ")), width)
}

pub(super) fn widest(rows: &[Vec<String>], column: usize) -> usize {
    rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
}

pub(super) fn line(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths).map(|(cell, &width)| format!("{cell:>width$}"));
    cells.collect::<Vec<_>>().join("  ") + "\n"
}

fn charts(merged: &Merged, width: usize) -> String {
    let wide = width >= SIDE_BY_SIDE;
    let each = if wide { (width - 4) / 2 } else { width }.min(CHART_WIDEST);
    let tail = |level: &Level| {
        let tails = &merged.cliff.tails;
        Some(tails.iter().find(|t| t.load == level.load)?.judged_ns as f64)
    };
    let rate = |level: &Level| level.throughput.map(|t| t.requests.per_s);
    let points = |value: &dyn Fn(&Level) -> Option<f64>| -> Vec<(Load, Option<f64>)> {
        last_tries(&merged.levels).map(|l| (l.load, value(l))).collect()
    };
    let axis = merged.levels.first().map_or_else(Load::default, |level| level.load).axis();
    let top = |points: &[(Load, Option<f64>)]| points.iter().filter_map(|(_, v)| *v).fold(0.0, f64::max);
    let (tails, rates) = (points(&tail), points(&rate));
    let left = curve::draw(
        &format!("{} over {axis}", merged.cliff.judged),
        &tails,
        &duration(top(&tails) as u64),
        each,
    );
    let right = curve::draw(&format!("req/s over {axis}"), &rates, &self::rate(Some(top(&rates))), each);
    let both = if wide && !left.is_empty() && !right.is_empty() {
        beside(&left, &right, each)
    } else {
        left + &right
    };
    if both.is_empty() { both } else { both + "\n" }
}

fn beside(left: &str, right: &str, width: usize) -> String {
    let pair =
        |(l, r): (&str, &str)| format!("{l}{}    {r}\n", " ".repeat(width.saturating_sub(l.chars().count())));
    left.lines().zip(right.lines()).map(pair).collect()
}

fn remarks(level: &Level, width: usize, out: &mut String) {
    let c = &level.certificate;
    // The rungs of an experiment are of few requests, and its block says so once.
    if level.cell.is_some() && c.verdict <= Verdict::Thin {
        return;
    }
    let verdict = match c.verdict {
        Verdict::Ok => String::new(),
        verdict => format!("{}: ", verdict.as_str()),
    };
    let all: Vec<&str> = c.reasons.iter().chain(&c.notes).map(String::as_str).collect();
    if !all.is_empty() {
        let text = format!("{verdict}{}", all.join("; "));
        out.push_str(&wrap(&format!("at {}: ", level.name()), &printable(&text), width));
    }
    // An overload has told one of each kind.
    if let Some(error) = level.sample_error.as_ref().filter(|_| !level.may_complete_nothing()) {
        out.push_str(&wrap(&format!("at {}: error such as ", level.name()), &printable(error), width));
    }
}

/// Breaks between words; later lines are indented.
pub(crate) fn wrap(lead: &str, text: &str, width: usize) -> String {
    let mut out = lead.to_owned();
    let mut length = lead.chars().count();
    for (i, word) in text.split(' ').enumerate() {
        let word_length = word.chars().count();
        if i > 0 && length + 1 + word_length > width {
            out.push_str("\n  ");
            length = 2;
        } else if i > 0 {
            out.push(' ');
            length += 1;
        }
        out.push_str(word);
        length += word_length;
    }
    out.push('\n');
    out
}

pub(super) fn dash() -> String {
    "–".to_owned()
}

fn percentile(metric: &Metric, percent: f64) -> String {
    metric.percentile_ns(percent).map_or(dash(), duration)
}

/// The percentile with the farther end of its 95 % interval as ±; without one when there are too few values.
fn with_bar(metric: &Metric, percent: f64) -> String {
    let value = metric.percentile_ns(percent);
    match value.zip(metric.interval_ns(percent)) {
        Some((value, (low, high))) => {
            let half = value.abs_diff(low).max(value.abs_diff(high));
            format!("{} {}", duration(value), bar(half as f64 / value.max(1) as f64))
        }
        None => value.map_or(dash(), duration),
    }
}

/// A relative half-width; below 10 % with the digit that the histograms' precision allows, and no less than that.
fn bar(share: f64) -> String {
    let percent = (share * 100.0).max(0.1);
    let digits = usize::from(percent < 9.95);
    format!("±{percent:.digits$} %")
}

fn rate_with_bar(of: Rate) -> String {
    let text = rate(Some(of.per_s));
    let half = of.interval.map(|(low, high)| (of.per_s - low).max(high - of.per_s));
    half.filter(|_| of.per_s > 0.0).map_or(text.clone(), |half| format!("{text} {}", bar(half / of.per_s)))
}

pub(super) fn rate(per_s: Option<f64>) -> String {
    match per_s {
        None => dash(),
        Some(x) if x < 9.995 => format!("{x:.2}"),
        Some(x) if x < 99.95 => format!("{x:.1}"),
        Some(x) => format!("{x:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::{merge, testrun};
    use crate::stored::RunData;

    fn widest_line(text: &str) -> usize {
        text.lines().map(|l| l.chars().count()).max().unwrap_or(0)
    }

    #[test]
    fn it_fits_every_terminal() {
        let mut data = testrun::run(11, 2, &[1, 2, 4, 8]);
        testrun::add_probe(&mut data);
        let merged = merge(&data);
        for width in [40, 60, 80, 100, 120, 200] {
            let text = render(&merged, width);
            assert!(widest_line(&text) <= width, "{width}:\n{text}");
            let title = text.lines().next().unwrap();
            assert!(title.contains("conc") && title.contains("e2e p95") && title.contains("req/s"), "{text}");
        }
        let wide = render(&merged, 200);
        assert!(COLUMNS.iter().all(|c| wide.lines().next().unwrap().contains(c.title)), "{wide}");
        assert!(wide.contains("±") && wide.contains("cliff") && wide.contains("simulated"), "{wide}");
        assert!(render(&merged, 80).lines().next().unwrap().contains("ttft p95"));
    }

    #[test]
    fn an_open_loop_is_told_by_its_rates() {
        let mut data = testrun::run(11, 2, &[1, 2]);
        for (log, rate) in data.levels.iter_mut().zip([2.5, 5.0]) {
            log.load = Load::Rate(crate::axis::Rate(rate));
        }
        let merged = merge(&data);
        let wide = render(&merged, 220);
        let title = wide.lines().next().unwrap();
        for column in ["rate", "offered/s", "sent/s", "held", "req/s", "verdict"] {
            assert!(title.contains(column), "{column} in {title}");
        }
        assert!(!title.contains("conc") && wide.contains("over offered rate"), "{wide}");
        for width in [40, 80, 100] {
            assert!(widest_line(&render(&merged, width)) <= width);
        }
    }

    #[test]
    fn the_same_trouble_of_many_nodes_is_counted() {
        let mut merged = merge(&testrun::run(11, 1, &[1]));
        merged.warnings = (0..1_000).map(|i| format!("agent agent-{i} was lost during the run")).collect();
        let text = render(&merged, 80);
        assert_eq!(text.matches("was lost").count(), 21, "{text}");
        assert!(text.contains("(1000 times)"), "{text}");
    }

    #[test]
    fn an_empty_run_says_so() {
        let text = render(&merge(&RunData::default()), 80);
        assert!(text.contains("no usable level") && text.contains("the coordinator died"), "{text}");
    }

    #[test]
    fn a_servers_words_do_not_steer_the_terminal() {
        let mut data = testrun::run(12, 1, &[1]);
        for record in data.nodes.get_mut(&1).unwrap().batches[0].records.iter_mut() {
            record.error_detail = "\u{1b}[2Jboo\u{9b}2J".to_owned();
        }
        let text = render(&merge(&data), 80);
        assert!(text.contains("boo") && !text.contains(['\u{1b}', '\u{9b}']));
    }
}
