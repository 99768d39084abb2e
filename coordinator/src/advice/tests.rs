//! Advice against runs made up for it: each line rests on a figure that the summary has, and on no level that does not
//! count.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::axis::Load;
use crate::knee::{Cliff, Knee, Step, cliff, knee};
use crate::merge::{merge, testrun};
use crate::plan::{CliffRule, SloPlan};
use crate::report::summary::summary;

/// Four levels, each of its own streams, a knee at 2.
fn run() -> Merged {
    let mut merged = merge(&testrun::run(7, 1, &[1, 2, 4, 8]));
    for level in &mut merged.levels {
        level.certificate.verdict = Verdict::Ok;
        level.error_kinds.clear();
        level.measured.failed = 0;
    }
    bend(&mut merged, &[1.0, 2.0, 2.1, 2.0]);
    merged.cliff = Cliff::default();
    merged.header.plan.request_timeout_ns = 60_000_000_000;
    merged
}

/// Throughput of each level, and the knee that this makes.
fn bend(merged: &mut Merged, throughput: &[f64]) {
    let rung = |(level, x): (&Level, &f64)| crate::knee::Rung {
        load: level.load,
        throughput: Some(*x),
        ..Default::default()
    };
    let rungs: Vec<_> = merged.levels.iter().zip(throughput).map(rung).collect();
    merged.knee = knee(&CliffRule::default(), &rungs);
    merged.cliff = cliff(&CliffRule::default(), &rungs);
}

/// What a key such as `levels[2].certificate.verdict` names.
fn figure_at(summary: &Value, key: &str) -> Value {
    let pointer = key.replace(['.', '['], "/").replace(']', "");
    summary.pointer(&format!("/{pointer}")).cloned().unwrap_or_else(|| panic!("no {key}"))
}

fn rests_on_figures(merged: &Merged, known: Known<'_>, elsewhere: &[&str]) -> Vec<Advice> {
    let summary = summary(merged);
    let advice = advise(merged, known);
    for one in &advice {
        let (key, value) = one.figure.split_once(" = ").unwrap();
        if elsewhere.contains(&key) {
            continue;
        }
        let found = figure_at(&summary, key);
        let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        assert_eq!(found, value, "{one:?}");
        assert_ne!(found, "null", "{one:?}");
    }
    advice
}

fn says(advice: &[Advice], words: &str) -> bool {
    advice.iter().any(|one| one.words.contains(words))
}

#[test]
fn a_knee_caps_what_is_let_in() {
    let merged = run();
    let advice = rests_on_figures(&merged, Known::default(), &[]);
    assert_eq!(advice[0].figure, "knee.concurrency = 2");
    assert!(
        advice[0]
            .words
            .starts_with("let in no more than concurrency 2: 4 gains 5 % of throughput for 100 % more load"),
        "{advice:?}"
    );
    assert!(says(&advice, "in place of 60.0 s"), "{advice:?}");
    let summary = summary(&merged);
    assert_eq!(summary["advice"][0]["figure"], "knee.concurrency = 2");
    let text = crate::report::terminal::render(&merged, 200);
    assert!(text.contains("advice: let in no more than concurrency 2"), "{text}");
}

#[test]
fn an_slo_below_the_knee_caps_first_and_sets_the_timeout() {
    let mut merged = run();
    merged.header.plan.slo =
        Some(SloPlan { terms: vec![("e2e".to_owned(), 500_000_000)], share: 0.99, ..SloPlan::default() });
    let known = Known { slo_at: Some(1.0), slo_e2e_ns: Some(500_000_000), ..Known::default() };
    let advice = rests_on_figures(&merged, known, &["slo.at"]);
    assert_eq!(advice[0].figure, "slo.at = 1.0");
    assert!(says(&advice, "500 ms in place of 60.0 s (the SLO's limit"), "{advice:?}");
    let above = Known { slo_at: Some(3.0), ..Known::default() };
    assert_eq!(advise(&merged, above)[0].figure, "knee.concurrency = 2");
    assert!(says(&of(&merged), "500 ms in place of 60.0 s (the SLO's limit"));
}

#[test]
fn a_knee_between_levels_of_which_one_does_not_count_advises_nothing() {
    for (place, verdict) in
        [(1, Verdict::Thin), (2, Verdict::Thin), (2, Verdict::Void), (2, Verdict::ClientBound)]
    {
        let mut merged = run();
        merged.levels[place].certificate.verdict = verdict;
        let advice = rests_on_figures(&merged, Known::default(), &[]);
        assert!(!says(&advice, "let in no more"), "{verdict:?} at {place}: {advice:?}");
    }
}

#[test]
fn a_knee_with_a_bar_caps_at_its_safe_end() {
    let merged = run();
    let known = Known { knee_ci: Some((1.6, 2.4)), ..Known::default() };
    let advice = rests_on_figures(&merged, known, &["knee.estimate.ci"]);
    assert_eq!(advice[0].figure, "knee.estimate.ci = [1.6,2.4]");
    assert!(
        advice[0].words.starts_with("let in no more than 1: the knee is between 1.6 and 2.4"),
        "{advice:?}"
    );
}

#[test]
fn a_client_that_drove_more_is_not_too_small() {
    let mut merged = run();
    merged.levels[0].certificate.verdict = Verdict::ClientBound;
    let advice = rests_on_figures(&merged, Known::default(), &[]);
    assert!(
        says(&advice, "a quiet client: it was late at concurrency 1") && !says(&advice, "more agents"),
        "{advice:?}"
    );
}

#[test]
fn nothing_to_advise_is_an_answer() {
    let mut merged = run();
    for level in &mut merged.levels {
        level.certificate.verdict = Verdict::Void;
    }
    assert_eq!(of(&merged), []);
    assert_eq!(summary(&merged)["advice"], serde_json::json!([]));
    assert_eq!(of(&merge(&crate::stored::RunData::default())), []);
}

#[test]
fn a_timeout_that_fits_is_left_alone_and_one_that_cuts_is_told() {
    let mut merged = run();
    let e2e = &merged.levels[1].latencies.e2e;
    let p99 = e2e.interval_ns(99.0).map_or_else(|| e2e.percentile_ns(99.0).unwrap(), |(_, high)| high);
    merged.header.plan.request_timeout_ns = p99 as i64 * 3;
    assert!(!says(&of(&merged), "request timeout"), "{:?}", of(&merged));
    merged.header.plan.request_timeout_ns = p99 as i64 / 2;
    assert!(says(&of(&merged), "request timeout: "), "{:?}", of(&merged));
    merged.levels[1].error_kinds.insert("timeout".to_owned(), 3);
    let advice = rests_on_figures(&merged, Known::default(), &[]);
    assert!(advice.iter().any(|one| one.figure == "levels[1].error_kinds.timeout = 3"), "{advice:?}");
}

#[test]
fn failures_under_load_are_no_reason_to_try_again_at_once() {
    let mut merged = run();
    let fail = |level: &mut Level, n: u64| {
        level.measured.failed = n;
        level.error_kinds.insert("http_status".to_owned(), n);
    };
    fail(&mut merged.levels[3], 50);
    let advice = rests_on_figures(&merged, Known::default(), &[]);
    assert!(says(&advice, "of requests fail at concurrency 8 (mostly http_status)"), "{advice:?}");
    // What fails from the start on is no overload.
    for level in &mut merged.levels {
        fail(level, 50);
    }
    assert!(!says(&of(&merged), "blind retries"));
    merged.levels[2].retried = 9;
    let advice = rests_on_figures(&merged, Known::default(), &[]);
    assert!(advice.iter().any(|one| one.figure == "levels[2].retried = 9"), "{advice:?}");
}

#[test]
fn the_budget_that_pays_is_named_by_where_the_time_goes() {
    let mut merged = run();
    // Answers of 8 tokens, as max_tokens has it.
    let advice = rests_on_figures(&merged, Known::default(), &[]);
    assert!(says(&advice, "an output budget: answers end at max_tokens (8 of 8)"), "{advice:?}");
    merged.header.plan.output_len = 100;
    assert!(!says(&of(&merged), "budget"), "answers that end by themselves have a budget");
    merged.levels[0].latencies.ttft.sum_ns *= 20;
    let advice = rests_on_figures(&merged, Known::default(), &[]);
    assert!(says(&advice, "a prompt budget"), "{advice:?}");
}

#[test]
fn a_cause_says_what_to_turn_next() {
    let merged = run();
    for cause in [
        "server queue",
        "KV full / preemption",
        "compute-bound",
        "power or thermal cap",
        "network",
        "client-bound",
    ] {
        let advice =
            rests_on_figures(&merged, Known { cause: Some(cause), ..Known::default() }, &["diagnosis.cause"]);
        assert!(advice.iter().any(|one| one.figure == format!("diagnosis.cause = {cause}")), "{cause}");
    }
    let unknown = Known { cause: Some("unknown"), ..Known::default() };
    assert_eq!(advise(&merged, unknown), of(&merged));
}

#[test]
fn a_weak_measurement_is_told_how_to_mend() {
    let mut merged = run();
    merged.levels[3].certificate.verdict = Verdict::ClientBound;
    merged.levels[0].certificate.verdict = Verdict::Thin;
    merged.levels[0].measured.completed = 6;
    let advice = rests_on_figures(&merged, Known::default(), &[]);
    assert!(says(&advice, "more agents, best on hosts of their own: at concurrency 8"), "{advice:?}");
    // 20 / 6, rounded up: four times the 10 s.
    assert!(
        says(&advice, "6 requests at concurrency 1 are too few for a p95; --duration 40s or more"),
        "{advice:?}"
    );
}

#[test]
fn a_sweep_that_found_nothing_goes_on() {
    let mut merged = run();
    bend(&mut merged, &[1.0, 2.0, 4.0, 8.0]);
    let advice = rests_on_figures(&merged, Known::default(), &[]);
    assert!(says(&advice, "neither knee nor cliff up to concurrency 8 (--concurrency 16, …)"), "{advice:?}");
    merged.levels[3].certificate.verdict = Verdict::Thin;
    assert!(!says(&of(&merged), "higher levels"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn whatever_a_run_is_each_line_rests_on_a_figure_of_its_summary(
        seed: u64, verdicts in prop::array::uniform4(0u8..4), throughput in prop::array::uniform4(0.1f64..10.0), timeout in 0i64..100_000_000_000,
        completed in prop::array::uniform4(0u64..40),
    ) {
        let mut merged = merge(&testrun::run(seed, 1, &[1, 2, 4, 8]));
        for ((level, verdict), completed) in merged.levels.iter_mut().zip(verdicts).zip(completed) {
            level.certificate.verdict = [Verdict::Ok, Verdict::Thin, Verdict::ClientBound, Verdict::Void][usize::from(verdict)];
            level.measured.completed = completed;
        }
        bend(&mut merged, &throughput);
        merged.header.plan.request_timeout_ns = timeout;
        for one in rests_on_figures(&merged, Known::default(), &[]) {
            prop_assert!(!one.words.contains("NaN") && !one.words.contains("inf "), "{one:?}");
        }
    }
}

#[test]
fn a_step_without_levels_advises_nothing() {
    let mut merged = run();
    let gone = Load::Streams(99);
    merged.knee = Knee {
        at: Some(gone),
        steps: vec![Step { from: gone, to: gone, throughput: (0.0, 0.0), gain_share: 0.0 }],
        ..Knee::default()
    };
    assert!(!says(&of(&merged), "let in no more"));
}
