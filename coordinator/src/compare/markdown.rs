//! A comparison for a pull request: what decides in a table, the rest folded away.

use crate::report::summary_md::escaped;

use super::text::{change, conclusion, left_out};
use super::{Comparison, Finding, Row};

/// Facts of the environment shown.
const FACTS: usize = 40;

/// GitHub-flavoured.
pub fn markdown(of: &Comparison) -> String {
    let mut out = format!("### {}\n\n", escaped(&conclusion(of)));
    out += &format!("A: {}, B: {}\n\n", escaped(&of.names.0), escaped(&of.names.1));
    for line in &of.fit.refusals {
        out += &format!("- **not comparable, and compared all the same**: {}\n", escaped(line));
    }
    out += "\n";
    out += &table(of, |f| f.gate && f.a.or(f.b).is_some());
    out += "\n";
    for (what, a, b) in &of.places {
        out += &format!("- {what} of A: {}\n- {what} of B: {}\n", escaped(a), escaped(b));
    }
    left_out(of).iter().for_each(|line| out += &format!("- {}\n", escaped(line)));
    for line in &of.fit.cautions {
        out += &format!("- caution: {}\n", escaped(line));
    }
    out += "\n<details><summary>All other figures</summary>\n\n";
    out += &table(of, |f| !f.gate && f.a.or(f.b).is_some());
    out += "\n</details>\n";
    if !of.environment.is_empty() {
        out += "\n<details><summary>What differs in the environment</summary>\n\n| fact | A | B |\n|---|---|---|\n";
        for d in of.environment.iter().take(FACTS) {
            out += &format!("| {} | {} | {} |\n", escaped(&d.fact), escaped(&d.a), escaped(&d.b));
        }
        out += "\n</details>\n";
    }
    out += "\nIntervals: 95 %, block bootstrap within each run; verdicts: Holm over the deciding figures of all levels.\n";
    out
}

fn table(of: &Comparison, shows: impl Fn(&Finding) -> bool) -> String {
    let mut out =
        "| load | figure | A | B | change [95 %] | verdict |\n|---|---|---:|---:|---:|---|\n".to_owned();
    for row in &of.rows {
        row.findings.iter().filter(|f| shows(f)).for_each(|f| out += &line(row, f));
    }
    out
}

fn line(row: &Row, f: &Finding) -> String {
    let side = |of: Option<super::Estimate>| of.map_or("–".to_owned(), |e| f.metric.words(e.value));
    let verdict = match f.verdict {
        verdict @ (super::Verdict::Worse | super::Verdict::Better) => format!("**{}**", verdict.as_str()),
        verdict => verdict.as_str().to_owned(),
    };
    let cells = [
        escaped(&row.place.name()),
        f.metric.name.to_owned(),
        side(f.a),
        side(f.b),
        change(f, true),
        verdict,
    ];
    format!("| {} |\n", cells.join(" | "))
}
