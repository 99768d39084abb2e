//! What servers told of themselves, for `summary.md`: from the summary, as the rest of that page.

use std::fmt::Write;

use serde_json::Value;

use super::inside_text::UNPLACED;
use super::summary_md::{cells, escaped, name};

/// Levels shown; the summary has all.
const LEVELS: usize = 8;
/// Latencies of the cross-check shown, over all levels.
const CROSS: usize = 12;
/// Notes shown.
const NOTES: usize = 4;

/// The tables; nothing when no server told anything.
pub(super) fn render(summary: &Value) -> String {
    let empty = Vec::new();
    let levels = summary.get("levels").and_then(Value::as_array).unwrap_or(&empty);
    let with = |key: &'static str| -> Vec<&Value> {
        levels.iter().filter(move |level| level.get(key).is_some_and(|of| !of.is_null())).collect()
    };
    let (inside, server) = (with("inside"), with("server"));
    let mut out = String::new();
    if !inside.is_empty() {
        out += &waterfall(&inside);
        out += &doubts(&inside);
    }
    if !server.is_empty() {
        out += &metrics(&server);
        out += &cross(&server);
        out += &notes(&server);
    }
    // What follows may be a list.
    if out.is_empty() { out } else { out + "\n" }
}

/// The marks of how a part is known.
fn mark(how: &str) -> &'static str {
    match how {
        "between clocks" => "±",
        "inferred" => "~",
        _ => "",
    }
}

fn waterfall(levels: &[&Value]) -> String {
    let parts: Vec<&Value> = levels.iter().flat_map(|level| list(level, "/inside/parts")).collect();
    let mut names: Vec<&str> = Vec::new();
    // In the order in which they pass, which is that of any level that has both.
    for part in crate::inside::Part::ALL {
        let is_known = parts.iter().any(|of| text(of, "/part") == part.as_str());
        names.extend(is_known.then(|| part.as_str()));
    }
    let mut out = "\nWhere the time went by the server's own word: mean / p95, ms. ± lies between two clocks, ~ is inferred, the \
                   rest is measured.\n\n"
        .to_owned();
    let heads = names.iter().map(|name| name.replace('_', " ")).collect::<Vec<_>>().join(" | ");
    let _fits = writeln!(out, "| load | {heads} | ± clock | joined |");
    let _fits = writeln!(out, "|---|{}---:|---:|", "---:|".repeat(names.len()));
    for level in levels.iter().take(LEVELS) {
        let mut row = vec![name(level)];
        row.extend(names.iter().map(|part| part_cell(level, part)));
        row.push(figure(level, "/inside/bound_us").map_or_else(dash, |us| format!("{us:.0} µs")));
        let (joined, unmatched) = (
            figure(level, "/inside/joined").unwrap_or(0.0),
            figure(level, "/inside/unmatched").unwrap_or(0.0),
        );
        row.push(format!("{joined} of {}", joined + unmatched));
        out += &cells(&row);
    }
    out + &rest(levels.len(), LEVELS, "levels")
}

fn part_cell(level: &Value, part: &str) -> String {
    let Some(of) = list(level, "/inside/parts").find(|of| text(of, "/part") == part) else { return dash() };
    let ms = |path: &str| figure(of, path).map_or_else(dash, ms);
    let mark = mark(text(of, "/how"));
    format!(
        "{}{} / {}",
        if mark.is_empty() { String::new() } else { format!("{mark} ") },
        ms("/mean_ms"),
        ms("/p95_ms")
    )
}

/// What does not add up.
fn doubts(levels: &[&Value]) -> String {
    let mut out = String::new();
    for level in levels.iter().take(LEVELS) {
        let count = |key: &str| figure(level, &format!("/inside/{key}")).unwrap_or(0.0);
        let mut said = Vec::new();
        if count("impossible") > 0.0 {
            let parts = list(level, "/inside/parts").filter(|of| figure(of, "/impossible") > Some(0.0));
            let named: Vec<String> = parts
                .map(|of| {
                    format!(
                        "{} {}",
                        text(of, "/part").replace('_', " "),
                        figure(of, "/impossible").unwrap_or(0.0)
                    )
                })
                .collect();
            said.push(format!(
                "{} requests have a part below zero by more than the clocks explain ({})",
                count("impossible"),
                named.join(", ")
            ));
        }
        if count("unmatched") > 0.0 {
            said.push(format!("{} requests unmatched", count("unmatched")));
        }
        if count("unplaced") > 0.0 {
            said.push(format!("{} {UNPLACED}", count("unplaced")));
        }
        if !said.is_empty() {
            let _fits = writeln!(out, "- **at {}:** {}", name(level), said.join("; "));
        }
    }
    if out.is_empty() { out } else { format!("\n{out}") }
}

fn metrics(levels: &[&Value]) -> String {
    let mut out = "\nThe server's metrics: mean / max of the scrapes.\n\n| load | running | waiting | KV cache | preempted | \
                   prefix cache hits | drafts taken | scrapes |\n|---|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for level in levels.iter().take(LEVELS) {
        let of = |key: &str| figure(level, &format!("/server/{key}"));
        let gauge = |key: &str, scale: f64, unit: &str| {
            let pair = of(&format!("{key}/mean")).zip(of(&format!("{key}/max")));
            pair.map_or_else(dash, |(mean, max)| format!("{:.1} / {:.1}{unit}", mean * scale, max * scale))
        };
        let share = |key: &str| of(key).map_or_else(dash, |share| format!("{:.1} %", share * 100.0));
        let failed = of("failed").filter(|n| *n > 0.0).map(|n| format!(", {n} failed"));
        out += &cells(&[
            name(level),
            gauge("running", 1.0, ""),
            gauge("waiting", 1.0, ""),
            gauge("kv_usage", 100.0, " %"),
            of("preemptions").map_or_else(dash, |n| format!("{n:.0}")),
            share("cache_hit"),
            share("spec_accepted"),
            format!("{}{}", of("scrapes").unwrap_or(0.0), failed.unwrap_or_default()),
        ]);
    }
    out + &rest(levels.len(), LEVELS, "levels")
}

/// The server's own histograms beside ours: the difference is network and client.
fn cross(levels: &[&Value]) -> String {
    let all: Vec<(&Value, &Value)> =
        levels.iter().flat_map(|level| list(level, "/server/cross").map(move |of| (*level, of))).collect();
    if all.is_empty() {
        return String::new();
    }
    let mut out = "\nThe server's own histograms against ours: the difference is network and client.\n\n| load | of | server, mean \
                   ms | ours, mean ms | difference, ms | server, p95 ms | n: server / ours | |\n\
                   |---|---|---:|---:|---:|---:|---:|---|\n"
        .to_owned();
    for (level, of) in all.iter().take(CROSS) {
        let value = |path: &str| figure(of, path).map_or_else(dash, ms);
        out += &cells(&[
            name(level),
            escaped(text(of, "/of")),
            value("/server_mean_ms"),
            value("/client_mean_ms"),
            value("/difference_ms"),
            bucket(of),
            format!(
                "{} / {}",
                figure(of, "/server_count").unwrap_or(0.0),
                figure(of, "/client_count").unwrap_or(0.0)
            ),
            escaped(text(of, "/words")),
        ]);
    }
    out + &rest(all.len(), CROSS, "latencies")
}

/// The bucket in which a percentile lies.
fn bucket(of: &Value) -> String {
    match (figure(of, "/server_p95_ms/0"), figure(of, "/server_p95_ms/1")) {
        (Some(low), Some(high)) => format!("{} to {}", ms(low), ms(high)),
        (Some(low), None) => format!("over {}", ms(low)),
        _ => dash(),
    }
}

fn notes(levels: &[&Value]) -> String {
    let all: Vec<String> = levels
        .iter()
        .flat_map(|level| list(level, "/server/notes").map(move |note| (level, note)))
        .map(|(level, note)| {
            format!("- **at {}:** {}\n", name(level), escaped(note.as_str().unwrap_or_default()))
        })
        .collect();
    if all.is_empty() {
        return String::new();
    }
    format!("\n{}{}", all.iter().take(NOTES).cloned().collect::<String>(), rest(all.len(), NOTES, "notes"))
}

fn rest(all: usize, most: usize, of: &str) -> String {
    if all > most {
        format!("\nand {} more {of} (summary.json has all)\n", all - most)
    } else {
        String::new()
    }
}

fn list<'a>(of: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    of.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

fn figure(of: &Value, path: &str) -> Option<f64> {
    of.pointer(path).and_then(Value::as_f64)
}

fn text<'a>(of: &'a Value, path: &str) -> &'a str {
    of.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn ms(ms: f64) -> String {
    super::inside_text::ms(ms * 1e6)
}

fn dash() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::{inside_sample, summary};

    #[test]
    fn the_tables_tell_what_is_measured_and_what_is_not() {
        let text = render(&summary::summary(&inside_sample::merged(&inside_sample::run())));
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
        let header = rows[0];
        assert!(header.contains("| network up | front in | queue |"), "{text}");
        let column = |row: &str, name: &str| {
            let at = header.split('|').position(|cell| cell.trim() == name).unwrap();
            row.split('|').nth(at).unwrap().trim().to_owned()
        };
        assert!(column(rows[1], "network up").starts_with("± 0.1"), "{text}");
        assert!(column(rows[1], "front in").starts_with("~ 1.20 / 1.20"), "{text}");
        assert!(
            !column(rows[1], "queue").starts_with('~') && column(rows[3], "queue").starts_with('~'),
            "{text}"
        );
        assert_eq!((column(rows[3], "network up").as_str(), column(rows[3], "± clock").as_str()), ("–", "–"));
        assert!(text.contains("below zero by more than the clocks explain (network up "), "{text}");
        assert!(text.contains("without a place on the timeline (a step of a wall clock, or no"), "{text}");
        assert!(
            text.contains("| 1 | 2.0 / 4.0 | 1.5 / 3.0 | 31.2 / 50.0 % | 2 | 25.0 % | – | 11, 1 failed |"),
            "{text}"
        );
        assert!(text.contains("| 1 | ttft | 17.5 | 18.1 | 0.60 | 20.0 to 40.0 | 100 / 100 |  |"), "{text}");
        assert!(
            text.contains("| 1 | queue | 17.5 | – | – | over 20.0 | 100 / 0 | the client has none |"),
            "{text}"
        );
    }

    #[test]
    fn a_long_run_and_hostile_words_stay_short_and_words() {
        let mut told = summary::summary(&inside_sample::merged(&inside_sample::run()));
        let mut level = told["levels"][0].clone();
        level["server"]["notes"] = json!(["a|b\n# <script>@all"]);
        told["levels"] = (0..500).map(|_| level.clone()).collect();
        let text = render(&told);
        assert!(text.lines().count() < 70, "{}", text.lines().count());
        assert!(
            text.contains("and 492 more levels") && text.contains("a\\|b &#35; &lt;script&gt;&#64;all"),
            "{text}"
        );
        assert_eq!(render(&json!({ "levels": [{ "inside": null }] })), "");
        assert_eq!(render(&Value::Null), "");
    }
}
