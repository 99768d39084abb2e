//! A comparison on a terminal: what decides, and what else is not the same.

use super::{Comparison, Finding, Place, Row, Verdict};
use crate::report::terminal;
use crate::report::text::printable;

/// A comparison narrower than this reads as if it had this width.
const NARROWEST: usize = 40;
/// Facts of the environment shown.
const FACTS: usize = 20;
/// Findings named beside the verdict.
const NAMED: usize = 5;

/// Lines of at most `width` columns, but for words that are longer; with `all`, every figure.
pub fn render(of: &Comparison, all: bool, width: usize) -> String {
    let width = width.max(NARROWEST);
    let mut out = wrap(&format!("A: {}", of.names.0), width) + &wrap(&format!("B: {}", of.names.1), width);
    for line in &of.fit.refusals {
        out += &wrap(&format!("NOT COMPARABLE, and compared all the same: {line}"), width);
    }
    for row in &of.rows {
        out += &table(row, all, width);
    }
    out.push('\n');
    for (what, a, b) in &of.places {
        let or_none =
            |text: &String| if text.is_empty() { "none asked for".to_owned() } else { text.clone() };
        out += &wrap(&format!("{what} of A: {}", or_none(a)), width);
        out += &wrap(&format!("{what} of B: {}", or_none(b)), width);
    }
    left_out(of).iter().for_each(|line| out += &wrap(line, width));
    for line in &of.fit.cautions {
        out += &wrap(&format!("caution: {line}"), width);
    }
    for d in of.environment.iter().take(FACTS) {
        out += &wrap(&format!("differs: {}: {} → {}", d.fact, d.a, d.b), width);
    }
    if of.environment.len() > FACTS {
        out +=
            &wrap(&format!("and {} more facts differ (--json has all)", of.environment.len() - FACTS), width);
    }
    out + &wrap(&conclusion(of), width)
}

/// What was not compared, and why.
pub(super) fn left_out(of: &Comparison) -> Vec<String> {
    let mut out = Vec::new();
    for (name, places) in [("A", &of.alone.0), ("B", &of.alone.1)] {
        if !places.is_empty() {
            let places: Vec<String> = places.iter().map(Place::name).collect();
            out.push(format!("only {name} has {}: not compared", places.join(", ")));
        }
    }
    for (name, levels) in [("A", &of.skipped.0), ("B", &of.skipped.1)] {
        let line =
            |(place, why): &(Place, String)| format!("not judged: {} of {name} ({why})", place.words());
        out.extend(levels.iter().map(line));
    }
    out
}

/// The verdict and what it stands on.
pub(super) fn conclusion(of: &Comparison) -> String {
    let gates: Vec<(&Row, &Finding)> = of
        .rows
        .iter()
        .flat_map(|row| row.findings.iter().filter(|f| f.gate).map(move |f| (row, f)))
        .collect();
    let judged = gates.iter().filter(|(_, f)| f.verdict != Verdict::Unknown).count();
    let why: Vec<String> = gates
        .iter()
        .filter(|(_, f)| f.verdict == of.verdict && matches!(of.verdict, Verdict::Better | Verdict::Worse))
        .map(|(row, f)| format!("{} at {} {}", f.metric.name, row.place.words(), change(f, true)))
        .collect();
    let why = if of.verdict == Verdict::Unknown { of.owed.clone() } else { why };
    let named = why.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    let more = why.len().saturating_sub(NAMED);
    let tail = match (why.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!(": {named}"),
        (false, more) => format!(": {named}; and {more} more"),
    };
    format!("verdict: B is {} (of {judged} figures judged){tail}", of.verdict.in_words())
}

/// B against A, and if wanted the interval.
pub(super) fn change(f: &Finding, with_interval: bool) -> String {
    let Some(change) = &f.change else { return "–".to_owned() };
    let (value, (low, high), unit) = match change.ratio {
        Some((ratio, (low, high))) => {
            ((ratio - 1.0) * 100.0, ((low - 1.0) * 100.0, (high - 1.0) * 100.0), "%")
        }
        None if f.metric.is_share() => {
            let (low, high) = change.difference_interval;
            (change.difference * 100.0, (low * 100.0, high * 100.0), "points")
        }
        None => {
            let (low, high) = change.difference_interval;
            let scaled = |value| f.metric.scaled(value);
            (scaled(change.difference), (scaled(low), scaled(high)), f.metric.unit())
        }
    };
    if with_interval {
        format!("{value:+.1} {unit} [{low:+.1}, {high:+.1}]")
    } else {
        format!("{value:+.1} {unit}")
    }
}

/// Cells of a figure, the last column first to stay.
fn cells(f: &Finding) -> [String; 6] {
    let side = |of: Option<super::Estimate>| of.map_or("–".to_owned(), |e| f.metric.words(e.value));
    let [full, short] = [true, false].map(|with_interval| change(f, with_interval));
    let interval = full.split_once('[').map_or(String::new(), |(_, interval)| format!("[{interval}"));
    [f.metric.name.to_owned(), side(f.a), side(f.b), short, interval, f.verdict.as_str().to_owned()]
}

const TITLES: [&str; 6] = ["", "A", "B", "change", "95 %", "verdict"];
/// Columns in the order in which they give way.
const DROPPED: [usize; 4] = [4, 1, 2, 3];

fn table(row: &Row, all: bool, width: usize) -> String {
    let is_shown = |f: &&Finding| {
        all || f.gate && f.a.or(f.b).is_some() || matches!(f.verdict, Verdict::Better | Verdict::Worse)
    };
    let mut rows = vec![TITLES.map(str::to_owned)];
    rows.extend(row.findings.iter().filter(is_shown).map(cells));
    let widths: [usize; 6] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let mut shown: Vec<usize> = (0..TITLES.len()).collect();
    for drop in DROPPED {
        if shown.iter().map(|&i| widths[i] + 2).sum::<usize>() > width + 2 {
            shown.retain(|&i| i != drop);
        }
    }
    let (a, b) = row.completed;
    let mut out = format!("\n{} ({a} and {b} requests)\n", row.place.words());
    for row in &rows {
        let cell = |&i: &usize| {
            let pad = " ".repeat(widths[i] - row[i].chars().count());
            if i == 0 || i == 5 { format!("{}{pad}", row[i]) } else { format!("{pad}{}", row[i]) }
        };
        let line = shown.iter().map(cell).collect::<Vec<_>>().join("  ");
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// Breaks between words; what a server wrote does not steer the terminal.
pub(crate) fn wrap(text: &str, width: usize) -> String {
    terminal::wrap("", &printable(text), width)
}
