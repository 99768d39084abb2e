//! `summary.md`: a run for a pull request. Made from the summary, so that it says what that says; under 200 lines whatever
//! a run holds.

use std::fmt::Write;

use serde_json::Value;

use crate::axis::{Load, Rate};
use crate::experiment::{RECOVERY, rung_name};
use crate::knee::duration;
use crate::plan::Cell;

use super::inside_md;

/// Levels, warnings and pieces of advice shown; the summary has all.
const LEVELS: usize = 64;
const WARNINGS: usize = 25;
const ADVICE: usize = 15;
/// Longest text that is shown whole.
const SHOWN: usize = 600;

/// The page of a summary, and of the environment and the redacted command that go with it.
pub fn render(summary: &Value, environment: &Value, command: &[String]) -> String {
    let mut out = title(summary);
    out += &levels(summary);
    out += &findings(summary);
    out += &inside_md::render(summary);
    out += &list(summary.get("warnings"), WARNINGS, "warning: ", Value::as_str);
    out += &surroundings(environment);
    if !command.is_empty() {
        // An indented block, in which nothing is markup.
        let line = command.iter().map(|part| quoted(part)).collect::<Vec<_>>().join(" ");
        let _fits = write!(out, "\nAgain with:\n\n    {}\n", plain(&line));
    }
    out
}

/// Text that stays text within GitHub's markdown, on one line.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in cut(&plain(text)).chars() {
        match c {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            // No one is notified, and no issue linked, by what a server wrote.
            '@' => out += "&#64;",
            '#' => out += "&#35;",
            '\\' | '`' | '|' | '*' | '_' | '[' | ']' | '~' | '!' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || c == '\u{2028}' || c == '\u{2029}' { ' ' } else { c }).collect()
}

fn cut(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN).collect();
    if cut.len() < text.len() { cut + "…" } else { cut }
}

/// As a shell takes it.
fn quoted(part: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !part.is_empty() && part.chars().all(is_plain) {
        part.to_owned()
    } else {
        format!("'{}'", part.replace('\'', "'\\''"))
    }
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn title(summary: &Value) -> String {
    let run = |key: &str| escaped(text(summary, &format!("/run/{key}")));
    let what = Some(run("experiment")).filter(|what| !what.is_empty()).unwrap_or_else(|| "sweep".to_owned());
    let mut out = format!("### tailcliff: {what} of {} on {}\n", run("model"), run("started_utc"));
    let whole = summary.pointer("/run/complete").and_then(Value::as_bool).unwrap_or(false);
    if !whole {
        let why = Some(run("cut_short")).filter(|why| !why.is_empty());
        let why = why.unwrap_or_else(|| "its journal was not closed".to_owned());
        let _fits = write!(out, "\n**This run is not whole:** {why}\n");
    }
    let is_simulated = |node: &Value| node.get("simulated_gpu").and_then(Value::as_bool) == Some(true);
    if summary.get("nodes").and_then(Value::as_array).is_some_and(|nodes| nodes.iter().any(is_simulated)) {
        out += "\n**SIMULATED:** the GPU is a stand-in.\n";
    }
    out + "\n"
}

fn levels(summary: &Value) -> String {
    let empty = Vec::new();
    let levels = summary.get("levels").and_then(Value::as_array).unwrap_or(&empty);
    let has_slo = summary.get("slo").is_some_and(|slo| !slo.is_null());
    let mut heads =
        vec!["load", "req/s", "TTFT p50", "TTFT p95", "TTFT p99", "E2E p50", "E2E p95", "E2E p99", "errors"];
    if has_slo {
        heads.extend(["good/s", "within SLO"]);
    }
    heads.push("verdict");
    let mut out = format!("| {} |\n|---|{}---|\n", heads.join(" | "), "---:|".repeat(heads.len() - 2));
    for (i, level) in levels.iter().enumerate().take(LEVELS) {
        let load = name(level) + &repeats(levels, i);
        out += &cells(&row(level, load, has_slo));
    }
    if levels.len() > LEVELS {
        let _fits = writeln!(out, "\nand {} more levels (summary.json has all)", levels.len() - LEVELS);
    }
    out + "\n"
}

/// A row of a table.
pub(super) fn cells(row: &[String]) -> String {
    format!("| {} |\n", row.join(" | "))
}

/// What a level is called: by its load, and in an experiment by what its rung asks for.
pub(super) fn name(level: &Value) -> String {
    let load =
        [level.get("concurrency"), level.get("request_rate")].into_iter().flatten().find(|v| !v.is_null());
    let name = rung(level)
        .unwrap_or_else(|| load.map_or(dash(), |load| escaped(load.to_string().trim_matches('"'))));
    let attempt = level.get("attempt").and_then(Value::as_u64).unwrap_or(1);
    if attempt > 1 { format!("{name}, try {attempt}") } else { name }
}

/// The name of an experiment's rung; `None` of a sweep's level.
fn rung(level: &Value) -> Option<String> {
    let asked = |key: &str| level.pointer(&format!("/cell/{key}")).and_then(Value::as_f64);
    let cell = Cell {
        role: text(level, "/role").to_owned(),
        prompt_chars: asked("prompt_chars").map(|chars| chars as u32),
        output_len: asked("max_tokens").map(|tokens| tokens as u32),
        request_timeout_ns: asked("request_timeout_s").map(|s| (s * 1e9) as i64),
        ..Cell::default()
    };
    let figure = |key: &str| level.get(key).and_then(Value::as_f64);
    let streams = figure("concurrency").map(|streams| Load::Streams(streams as u32));
    let load = streams.or_else(|| figure("request_rate").map(|rate| Load::Rate(Rate(rate))))?;
    let mut name = (cell != Cell::default()).then(|| rung_name(load, &cell))?;
    // One for each timeout of the overload.
    if let Some(ns) = cell.request_timeout_ns.filter(|_| cell.role == RECOVERY) {
        let _fits = write!(name, ", after timeout {}", duration(ns.max(0).unsigned_abs()));
    }
    Some(escaped(&name))
}

/// Tells levels of one name apart, which a search drives where it wants to know more, and says which of them counts.
fn repeats(levels: &[Value], at: usize) -> String {
    let Some(level) = levels.get(at) else { return String::new() };
    let mut same = levels.iter().enumerate().filter(|(_, other)| name(other) == name(level)).map(|(i, _)| i);
    let counts = |level: &Value| level.get("counts").and_then(Value::as_bool).unwrap_or(true);
    let nth = same.clone().take_while(|i| *i < at).count();
    let is_chosen = counts(level) && same.any(|i| !counts(&levels[i]));
    let again = match nth {
        0 => String::new(),
        1 => " (again)".to_owned(),
        n => format!(" (again, {n})"),
    };
    if is_chosen { again + ", counts" } else { again }
}

fn row(level: &Value, load: String, has_slo: bool) -> Vec<String> {
    let mut cells = vec![load];
    cells.push(figure(level, "request_throughput", &|x| format!("{x:.2}")));
    for metric in ["ttft", "e2el"] {
        for percentile in ["median", "p95", "p99"] {
            cells.push(figure(level, &format!("{percentile}_{metric}_ms"), &|ms| {
                duration((ms * 1e6).max(0.0) as u64)
            }));
        }
    }
    cells.push(figure(level, "error_rate", &percent));
    if has_slo {
        cells.push(figure(level, "request_goodput", &|x| format!("{x:.2}")));
        cells.push(figure(level, "slo_share", &percent));
    }
    let verdict = Some(text(level, "/certificate/verdict")).filter(|verdict| !verdict.is_empty());
    cells.push(verdict.map_or(dash(), escaped));
    cells
}

/// A figure, with the farther end of its interval as ±.
fn figure(level: &Value, key: &str, words: &dyn Fn(f64) -> String) -> String {
    let Some(value) = level.get(key).and_then(Value::as_f64) else { return dash() };
    let end = |i: usize| level.get(format!("{key}_ci")).and_then(|ci| ci.get(i)).and_then(Value::as_f64);
    match end(0).zip(end(1)) {
        Some((low, high)) => {
            format!("{} ± {}", words(value), words((value - low).max(high - value).max(0.0)))
        }
        None => words(value),
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn dash() -> String {
    "–".to_owned()
}

/// What was found, in the words that the summary has for it.
fn findings(summary: &Value) -> String {
    let mut out = String::new();
    let mut line = |what: &str, words: &str| {
        if !words.is_empty() {
            let _fits = writeln!(out, "- **{what}:** {}", escaped(words));
        }
    };
    line("knee", text(summary, "/knee/words"));
    line("cliff", text(summary, "/cliff/words"));
    line("cause", &cause(summary, "diagnosis"));
    line("cause of the cliff", &cause(summary, "cliff_diagnosis"));
    line("goodput", text(summary, "/slo/words"));
    line("overload", text(summary, "/overload/words"));
    line("search", &search(summary));
    out + &list(summary.get("advice"), ADVICE, "advice: ", |one| one.get("words").and_then(Value::as_str))
}

fn cause(summary: &Value, key: &str) -> String {
    let words = text(summary, &format!("/{key}/words"));
    // The words of a diagnosis begin with its cause.
    if let Some(words) = words.strip_prefix("cause: ") {
        return words.to_owned();
    }
    let parts = [text(summary, &format!("/{key}/cause")), words];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

fn search(summary: &Value) -> String {
    let figure = |key: &str| summary.pointer(&format!("/search/{key}")).and_then(Value::as_f64);
    let (Some(levels), Some(seconds)) = (figure("levels"), figure("seconds")) else { return String::new() };
    let asked =
        figure("resolution").map(|share| format!("; intervals of {:.0} % were asked for", share * 100.0));
    format!("{levels} levels in {seconds:.0} s{}", asked.unwrap_or_default())
}

fn list<'a>(
    all: Option<&'a Value>,
    most: usize,
    lead: &str,
    words: impl Fn(&'a Value) -> Option<&'a str>,
) -> String {
    let all: Vec<&str> = all.and_then(Value::as_array).into_iter().flatten().filter_map(words).collect();
    let mut out: String =
        all.iter().take(most).map(|words| format!("- {lead}{}\n", escaped(words))).collect();
    if all.len() > most {
        let _fits = writeln!(out, "- {lead}and {} more (summary.json has all)", all.len() - most);
    }
    out
}

/// One line: what was tested, with what.
fn surroundings(environment: &Value) -> String {
    let field = |path: &str| Some(text(environment, path)).filter(|text| !text.is_empty()).map(escaped);
    let mut parts = Vec::new();
    parts.extend(field("/target/base_url").map(|url| format!("server {url}")));
    parts.extend(field("/server/header"));
    parts.extend(gpus(environment));
    parts.extend(field("/agents/0/cpu_model").map(|cpu| format!("client {cpu}")));
    parts.extend(field("/tailcliff_version").map(|version| format!("tailcliff {version}")));
    let told = environment.get("metadata").and_then(Value::as_object);
    for (key, value) in told.into_iter().flatten().take(20) {
        parts.push(format!("{} {}", escaped(key), escaped(value.as_str().unwrap_or_default())));
    }
    if parts.is_empty() { String::new() } else { format!("\nEnvironment: {}\n", parts.join(", ")) }
}

fn gpus(environment: &Value) -> Option<String> {
    let probes = environment.get("probes")?.as_array()?;
    let all: Vec<&Value> =
        probes.iter().filter_map(|probe| probe.get("gpus")?.as_array()).flatten().collect();
    let first = all.first()?;
    let name = escaped(text(first, "/name"));
    let driver = escaped(text(first, "/driver"));
    Some(format!("{} × {name}, driver {driver}", all.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::diagnose::{Cause, Diagnosis};
    use crate::experiment::overload::{Overload, Recovery};
    use crate::experiment::{BASELINE, Experiment, OVERLOAD};
    use crate::merge::{merge, testrun};
    use crate::plan::{AutoPlan, SloPlan};
    use crate::report::{environment, inside_sample, summary};

    fn of(data: &crate::stored::RunData) -> String {
        let merged = merge(data);
        render(&summary::summary(&merged), &environment::environment(data), &data.header.command)
    }

    #[test]
    fn it_says_what_the_summary_says() {
        let mut data = testrun::run(21, 2, &[1, 2, 4]);
        testrun::add_probe(&mut data);
        data.header.command = ["tailcliff", "run", "--prompt", "it's"].map(str::to_owned).to_vec();
        let text = of(&data);
        assert!(text.starts_with("### tailcliff: sweep of m on 2026-01-02"), "{text}");
        assert!(text.contains("**SIMULATED:**"), "{text}");
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
        assert_eq!(rows.len(), 4, "{text}");
        let cells = |row: &str| row.matches('|').count();
        assert!(rows.iter().all(|row| cells(row) == cells(rows[0])) && rows[1].contains("±"), "{text}");
        assert!(text.contains("- **knee:**") && text.contains("- **cliff:**"), "{text}");
        assert!(!text.contains("SLO") && text.contains("    tailcliff run --prompt 'it'\\''s'"), "{text}");
    }

    #[test]
    fn what_others_add_shows_up() {
        let mut data = testrun::run(21, 1, &[1, 2, 4, 8, 16]);
        data.levels.iter_mut().for_each(|log| log.passed = true);
        let auto = AutoPlan { from: 1.0, to: 16.0, resolution: 0.1, ..AutoPlan::default() };
        data.header.plan.auto = Some(auto);
        data.header.plan.slo =
            Some(SloPlan { terms: vec![("e2e".to_owned(), 1)], share: 0.99, ..SloPlan::default() });
        let mut merged = merge(&data);
        let because = |cause, words: &str| Diagnosis {
            cause,
            confidence: 0.9,
            candidates: Vec::new(),
            words: words.to_owned(),
            evidence: Vec::new(),
            excluded: Vec::new(),
        };
        merged.diagnosed.diagnosis = Some(because(Cause::ServerQueue, "TTFT grows alone"));
        merged.cliff_diagnosed = Some(because(Cause::Network, "bytes wait"));
        let recovery = Recovery { words: "it recovered in 2 s".to_owned(), ..Recovery::default() };
        merged.experiment =
            Experiment::Overload(Overload { recoveries: vec![recovery], ..Overload::default() });
        let text = render(&summary::summary(&merged), &Value::Null, &[]);
        let slo = merged.slo.as_ref().unwrap();
        for part in [
            "**cause:** server queue: TTFT grows alone",
            "**cause of the cliff:** network: bytes wait",
            &format!("**goodput:** {}", escaped(&slo.words)),
            &format!("**knee:** {}", escaped(&merged.knee.words)),
            &format!("**cliff:** {}", escaped(&merged.cliff.words)),
            "**search:** 5 levels in ",
            "intervals of 10 % were asked for",
            "it recovered in 2 s",
            "within SLO",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        let advised = crate::advice::of(&merged);
        assert!(!advised.is_empty() && text.matches("- advice: ").count() == advised.len(), "{text}");
    }

    fn loads(text: &str) -> Vec<&str> {
        let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
        rows.map(|row| row.split(" | ").next().unwrap().trim_start_matches("| ")).collect()
    }

    #[test]
    fn rungs_are_named_by_what_they_ask_for() {
        let mut data = testrun::run(21, 1, &[1, 4, 4, 1, 1, 1, 1]);
        let under = |role: &str, s: i64| Cell {
            role: role.to_owned(),
            request_timeout_ns: Some(s * testrun::S),
            ..Cell::default()
        };
        let size = |chars| Cell { prompt_chars: Some(chars), output_len: Some(64), ..Cell::default() };
        let alone = Cell { role: BASELINE.to_owned(), ..Cell::default() };
        let overload = [under(OVERLOAD, 2), under(OVERLOAD, 5), under(RECOVERY, 2), under(RECOVERY, 5)];
        data.header.plan.cells =
            [alone].into_iter().chain(overload).chain([size(200), size(2_000)]).collect();
        let text = render(&summary::summary(&merge(&data)), &Value::Null, &[]);
        let mut names = loads(&text);
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "200 characters × 64 tokens",
                "2000 characters × 64 tokens",
                "baseline, one at a time",
                "concurrency 4 at timeout 2.00 s",
                "concurrency 4 at timeout 5.00 s",
                "recovery, one at a time, after timeout 2.00 s",
                "recovery, one at a time, after timeout 5.00 s",
            ]
        );
    }

    #[test]
    fn of_a_load_driven_again_the_row_that_counts_is_marked() {
        let level = |load: u32, counts: bool| json!({ "concurrency": load, "counts": counts });
        let levels = [level(8, true), level(16, false), level(16, true), level(16, false)];
        let text = render(&json!({ "levels": levels }), &Value::Null, &[]);
        assert_eq!(loads(&text), ["8", "16", "16 (again), counts", "16 (again, 2)"]);
    }

    #[test]
    fn hostile_words_stay_words_and_the_page_stays_short() {
        let mut data = inside_sample::run();
        data.header.plan.model = "a|b`c`\n### <script>@all".to_owned();
        data.header.command = vec!["tailcliff".to_owned(), "--name".to_owned(), "a\nb```".to_owned()];
        let mut summary = summary::summary(&inside_sample::merged(&data));
        summary["warnings"] = (0..1_000).map(|i| json!(format!("warning\n|{i}"))).collect();
        let level = summary["levels"][0].clone();
        summary["levels"] = (0..500).map(|_| level.clone()).collect();
        let text = render(&summary, &environment::environment(&data), &data.header.command);
        assert!(text.lines().count() < 200, "{}", text.lines().count());
        assert!(
            text.starts_with(
                "### tailcliff: sweep of a\\|b\\`c\\` &#35;&#35;&#35; &lt;script&gt;&#64;all on"
            ),
            "{text}"
        );
        assert!(text.lines().filter(|line| line.starts_with('#')).count() == 1 && !text.contains("<script"));
        assert!(text.contains("    tailcliff --name 'a b```'"), "{text}");
    }

    #[test]
    fn of_nothing_it_says_nothing_untrue() {
        let text = of(&crate::stored::RunData::default());
        assert!(text.contains("not whole") && !text.contains("NaN") && !text.contains("null"), "{text}");
        assert!(render(&Value::Null, &Value::Null, &[]).contains("| load |"));
    }
}
