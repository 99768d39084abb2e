//! Two runs made up: what is the same, what is worse, what does not compare.

use serde_json::json;

use super::*;
use crate::axis::Load;
use crate::blocks::{BLOCKS, Block};
use crate::merge::{merge, testrun};
use crate::plan::{Cell, Plan, SloPlan};
use crate::report::environment::environment;
use crate::stored::RunData;

fn of(data: &RunData) -> Side {
    Side::of(&merge(data), environment(data))
}

fn run(seed: u64) -> RunData {
    testrun::run(seed, 2, &[1, 2, 4])
}

/// Blocks of a load: so many requests each, of about so many ms.
fn blocks(seed: u64, requests: usize, ms: f64, failed: u64) -> Vec<Block> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut block = || {
        let e2e_ns: Vec<i64> = (0..requests).map(|_| (ms * 1e6 * (0.8 + 0.4 * rng.f64())) as i64).collect();
        Block {
            seconds: 3.0,
            completed: requests as f64 * (0.95 + 0.1 * rng.f64()),
            intended: requests as u64,
            failed,
            ttft_ns: e2e_ns.iter().map(|ns| ns / 4).collect(),
            e2e_ns,
            ..Block::default()
        }
    };
    (0..BLOCKS).map(|_| block()).collect()
}

fn side(repeats: Vec<Vec<Block>>) -> Side {
    let place = Place { load: Load::Streams(8), cell: None };
    Side { loads: vec![Loaded { place, repeats }], ..Side::default() }
}

fn verdict_of(a: Vec<Block>, b: Vec<Block>, rule: &Rule) -> (Verdict, Comparison) {
    let found = compare(&side(vec![a]), &side(vec![b]), rule);
    (found.verdict, found)
}

fn finding<'a>(of: &'a Comparison, name: &str) -> &'a Finding {
    of.rows[0].findings.iter().find(|f| f.metric.name == name).unwrap()
}

#[test]
fn a_run_against_itself_differs_in_nothing() {
    let one = of(&run(3));
    let found = compare(&one, &one, &Rule::default());
    assert_eq!(found.verdict, Verdict::Same);
    assert!(found.fit.refusals.is_empty() && found.environment.is_empty() && found.rows.len() == 3);
    let e2e = finding(&found, "p95_e2e");
    assert_eq!((e2e.change.unwrap().difference, e2e.change.unwrap().p), (0.0, 1.0));
    assert_eq!(found.names.0, format!("{} (A)", one.name));
    assert!(text::conclusion(&found).contains("indistinguishable"));
}

#[test]
fn slower_is_worse_and_faster_is_better() {
    let rule = Rule::default();
    let (verdict, found) = verdict_of(blocks(1, 50, 100.0, 0), blocks(2, 50, 115.0, 0), &rule);
    assert_eq!(verdict, Verdict::Worse);
    let change = finding(&found, "p95_e2e").change.unwrap();
    let (ratio, (low, high)) = change.ratio.unwrap();
    assert!(
        low < 1.15 && 1.15 < high && (ratio - 1.15).abs() < 0.03 && change.p_adjusted < 0.001,
        "{change:?}"
    );
    assert!(change.difference_interval.0 > 0.0 && change.p <= change.p_adjusted);
    assert_eq!(verdict_of(blocks(1, 50, 115.0, 0), blocks(2, 50, 100.0, 0), &rule).0, Verdict::Better);
    // More work is better, whatever the ratio of latencies.
    let more: Vec<Block> =
        blocks(2, 50, 100.0, 0).into_iter().map(|b| Block { completed: b.completed * 1.2, ..b }).collect();
    let (_, found) = verdict_of(blocks(1, 50, 100.0, 0), more, &rule);
    assert_eq!(finding(&found, "throughput").verdict, Verdict::Better);
}

/// A server in lockstep: nearly all requests last alike, and the few longer ones lie in few blocks.
#[test]
fn a_shift_of_all_requests_is_seen_in_the_tail_too() {
    let of = |seed: u64, ms: f64| {
        let mut blocks = blocks(seed, 10, ms, 0);
        for (i, block) in blocks.iter_mut().enumerate() {
            block.e2e_ns.iter_mut().enumerate().for_each(|(n, ns)| *ns = (ms * 1e6) as i64 + n as i64);
            let late = if i % 7 == 0 { 1.02 } else { 1.0 };
            block.e2e_ns.iter_mut().for_each(|ns| *ns = (*ns as f64 * late) as i64);
        }
        blocks
    };
    let (_, found) = verdict_of(of(1, 400.0), of(2, 500.0), &Rule::default());
    assert_eq!(finding(&found, "p95_e2e").verdict, Verdict::Worse, "{:?}", finding(&found, "p95_e2e"));
}

#[test]
fn what_is_too_small_to_matter_is_indistinguishable() {
    let pair = || (blocks(1, 400, 100.0, 0), blocks(1, 400, 101.5, 0));
    let judged = |min_effect| {
        let (a, b) = pair();
        verdict_of(a, b, &Rule { min_effect, gates: vec!["p50_e2e".to_owned()], ..Rule::default() })
    };
    let (verdict, found) = judged(0.02);
    assert_eq!(verdict, Verdict::Same);
    assert!(finding(&found, "p50_e2e").change.unwrap().ratio.unwrap().0 > 1.01);
    assert_eq!(judged(0.0).0, Verdict::Worse, "it is there all the same");
}

#[test]
fn errors_are_compared_by_points() {
    let rule = Rule::default();
    let (verdict, found) = verdict_of(blocks(1, 50, 100.0, 0), blocks(2, 50, 100.0, 1), &rule);
    assert_eq!(verdict, Verdict::Worse, "2 % of errors where there were none");
    let errors = finding(&found, "error_rate");
    assert!(errors.change.unwrap().ratio.is_none() && text::change(errors, false) == "+2.0 points");
    // One failed request in a thousand is within what does not matter; all in one block is one incident.
    let mut one = blocks(2, 50, 100.0, 0);
    one[7].failed = 20;
    let (verdict, found) = verdict_of(blocks(1, 50, 100.0, 0), one, &rule);
    assert_eq!((verdict, finding(&found, "error_rate").verdict), (Verdict::Same, Verdict::Same));
}

#[test]
fn where_all_fail_it_is_worse_although_nothing_can_be_timed() {
    let dead = vec![Block { seconds: 3.0, failed: 20, ..Block::default() }; BLOCKS];
    let (verdict, found) = verdict_of(blocks(1, 50, 100.0, 0), dead, &Rule::default());
    assert_eq!(verdict, Verdict::Worse);
    assert!(finding(&found, "p95_e2e").change.is_none());
    let mut data = run(4);
    for node in data.nodes.values_mut() {
        for batch in &mut node.batches {
            batch.windows.clear();
            batch.records.iter_mut().for_each(|r| r.outcome = tailcliff_proto::v1::Outcome::Failed as i32);
        }
    }
    data.header.plan.duration_ns = None;
    assert_eq!(compare(&of(&run(3)), &of(&data), &Rule::default()).verdict, Verdict::Worse);
}

#[test]
fn too_little_is_not_judged() {
    let rule = Rule { gates: vec!["p95_e2e".to_owned()], ..Rule::default() };
    let (verdict, found) = verdict_of(blocks(1, 3, 100.0, 0), blocks(2, 3, 300.0, 0), &rule);
    assert_eq!(verdict, Verdict::Unknown, "60 requests have no p95");
    assert!(text::conclusion(&found).contains("too little"));
    let mut single = vec![Block { seconds: 1.0, ..Block::default() }; BLOCKS];
    single[3] = Block { e2e_ns: vec![5], completed: 1.0, intended: 1, ..single[3].clone() };
    let (_, found) = verdict_of(single.clone(), single, &Rule::default());
    for page in [render(&found, true, 80), markdown(&found), html(&found), json(&found).to_string()] {
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}

/// Every request of the level fails, and of its few no window comes.
fn fail(data: &mut RunData, level: u32) {
    for batch in data.nodes.values_mut().flat_map(|node| &mut node.batches) {
        batch.windows.retain(|w| w.level != level);
        let of_level = batch.records.iter_mut().filter(|r| r.level == level);
        of_level.for_each(|r| r.outcome = tailcliff_proto::v1::Outcome::Failed as i32);
    }
}

#[test]
fn b_does_not_pass_where_it_did_not_survive() {
    let rule = Rule::default();
    let (a, mut b) = (of(&run(3)), of(&run(4)));
    // Void, client-bound or without a window there.
    let last = b.loads.pop().unwrap();
    b.skipped.push((last.place, "void".to_owned()));
    let found = compare(&a, &b, &rule);
    assert_eq!(found.verdict, Verdict::Unknown);
    let owed = "A was judged at concurrency 4 and B was not (void)";
    for page in [render(&found, false, 400), markdown(&found), html(&found)] {
        for told in [owed, "only A has 4", "not judged: concurrency 4 of B (void)"] {
            assert!(page.contains(told), "{told}: {page}");
        }
    }
    assert_eq!((&json(&found)["owed_by_b"][0], &json(&found)["only_a"][0]), (&json!(owed), &json!(4)));
    // Dead before it: nothing is known of the load at all.
    b.skipped.clear();
    b.cut_short = "its journal was not closed".to_owned();
    assert_eq!(compare(&a, &b, &rule).verdict, Verdict::Unknown);
    // A whole run that was never asked for it owes nothing, nor does one that has more than A.
    b.cut_short.clear();
    assert_eq!(compare(&a, &b, &rule).verdict, Verdict::Same);
    assert_eq!(compare(&b, &a, &rule).verdict, Verdict::Same);
}

#[test]
fn all_failed_of_a_handful_is_worse_where_none_did() {
    let dead = |failed: u64| {
        let mut all = vec![Block::default(); BLOCKS];
        (0..failed as usize).for_each(|i| all[i % BLOCKS].failed += 1);
        all
    };
    let few = || blocks(1, 1, 100.0, 0);
    let rule = Rule::default();
    let (verdict, found) = verdict_of(few(), dead(32), &rule);
    let errors = finding(&found, "error_rate");
    assert_eq!((verdict, errors.verdict), (Verdict::Worse, Verdict::Worse));
    assert!(errors.b.unwrap().low > 0.85 && errors.a.unwrap().high < 0.2, "{errors:?}");
    // One of one may be an accident: neither worse nor passed.
    assert_eq!(verdict_of(few(), dead(1), &rule).0, Verdict::Unknown);
    let p = finding(&verdict_of(few(), dead(1), &rule).1, "error_rate").change.unwrap().p;
    assert!((p - 2.0 / 21.0).abs() < 1e-12, "{p}");
    let only_latency = Rule { gates: vec!["p95_e2e".to_owned()], ..Rule::default() };
    assert_eq!(verdict_of(blocks(1, 50, 100.0, 0), dead(32), &only_latency).0, Verdict::Unknown);
    // As a run leaves it.
    let mut b = run(4);
    b.header.plan.duration_ns = None;
    fail(&mut b, 2);
    for batch in b.nodes.values_mut().flat_map(|node| &mut node.batches) {
        let (of_level, mut kept): (Vec<_>, Vec<_>) = batch.records.drain(..).partition(|r| r.level == 2);
        let is_measured =
            |r: &tailcliff_proto::v1::RequestRecord| r.phase == tailcliff_proto::v1::Phase::Measured as i32;
        kept.extend(of_level.into_iter().filter(is_measured).take(3));
        batch.records = kept;
    }
    let failed = merge(&b).levels[2].measured.failed;
    assert!((1..40).contains(&failed), "{failed}");
    assert_eq!(compare(&of(&run(3)), &of(&b), &rule).verdict, Verdict::Worse);
}

#[test]
fn cells_of_a_grid_are_no_repeats_of_one_load() {
    let grid = |seed| {
        let mut data = testrun::run(seed, 2, &[1, 1, 1]);
        data.header.plan.experiment = "grid".to_owned();
        let cell = |tokens| Cell { prompt_chars: Some(200), output_len: Some(tokens), ..Cell::default() };
        data.header.plan.cells = [8, 32, 128].map(cell).to_vec();
        data
    };
    let found = compare(&of(&grid(3)), &of(&grid(4)), &Rule::default());
    let names: Vec<String> = found.rows.iter().map(|row| row.place.name()).collect();
    assert_eq!(names, [8, 32, 128].map(|tokens| format!("200 characters × {tokens} tokens")));
    assert!(render(&found, false, 80).contains("200 characters × 32 tokens"));
    assert!(!html(&found).contains("<svg") && json(&found)["levels"][2]["name"] == *names[2]);
    // Of an overload, the rungs of one timeout, and the rests after each, stay apart.
    let mut data = testrun::run(3, 2, &[1, 8, 1, 8, 1]);
    let of_role = |role: &str, ns| Cell { role: role.to_owned(), request_timeout_ns: ns, ..Cell::default() };
    let (two, five) = (Some(2_000_000_000), Some(5_000_000_000));
    data.header.plan.experiment = "overload".to_owned();
    data.header.plan.cells = vec![
        of_role("baseline", None),
        of_role("overload", two),
        of_role("recovery", two),
        of_role("overload", five),
        of_role("recovery", five),
    ];
    let side = of(&data);
    let names: std::collections::BTreeSet<String> = side.loads.iter().map(|of| of.place.name()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
}

#[test]
fn a_search_that_drove_a_load_twice_is_judged_by_both() {
    let mut data = testrun::run(3, 2, &[2, 2, 4]);
    data.header.plan.auto = Some(crate::plan::AutoPlan::default());
    let repeats = |data: &RunData| of(data).loads.iter().map(|of| of.repeats.len()).collect::<Vec<_>>();
    assert_eq!(repeats(&data), [2, 1]);
    // An earlier try of the same rung is none.
    data.levels[1].drive.rung = data.levels[0].drive.rung;
    assert_eq!(repeats(&data), [1, 1]);
}

#[test]
fn another_extra_body_is_another_workload() {
    let with = |tokens: u32| {
        let mut data = run(3);
        data.header.plan.extra_body = Some(json!({ "max_tokens": tokens }));
        of(&data)
    };
    let refusals = fit(&with(16), &with(512)).refusals;
    assert_eq!(refusals, ["extra body: max tokens: 16 against 512"]);
}

#[test]
fn repeats_of_a_load_are_taken_together() {
    let a = side(vec![blocks(1, 10, 100.0, 0), blocks(2, 10, 100.0, 0)]);
    let b = side(vec![blocks(3, 10, 100.0, 0)]);
    let found = compare(&a, &b, &Rule::default());
    assert_eq!(found.rows[0].completed, (400, 200));
}

#[test]
fn other_workloads_are_refused_and_other_servers_are_not() {
    let (a, mut b) = (run(3), run(4));
    b.header.plan.model = "m-fp8".to_owned();
    b.header.plan.base_url = "http://10.0.0.2:8000".to_owned();
    b.header.plan.metadata = vec![("precision".to_owned(), "fp8".to_owned())];
    let found = compare(&of(&a), &of(&b), &Rule::default());
    assert!(found.fit.refusals.is_empty(), "{:?}", found.fit);
    let facts: Vec<_> = found.environment.iter().map(|d| (d.fact.as_str(), d.b.as_str())).collect();
    assert_eq!(
        facts,
        [
            ("metadata, precision", "fp8"),
            ("target, base url", "http://10.0.0.2:8000"),
            ("target, model", "m-fp8")
        ]
    );
    let refusal = |change: fn(&mut Plan)| {
        let mut b = run(4);
        change(&mut b.header.plan);
        fit(&of(&a), &of(&b)).refusals.join("; ")
    };
    assert_eq!(refusal(|p| p.output_len = 9), "output length: 8 against 9");
    assert!(refusal(|p| p.streaming = false).contains("streaming: true against false"));
    assert_eq!(refusal(|p| p.prompt = Some("secret".to_owned())), "prompt: not the same");
    assert!(refusal(|p| p.synthetic.num_turns = 3).contains("num turns: 0 against 3"));
    let mut b = run(4);
    b.header.plan.duration_ns = Some(5_000_000_000);
    b.end = None;
    let cautions = fit(&of(&a), &of(&b)).cautions.join("; ");
    assert!(cautions.contains("length of a level") && cautions.contains("B is not whole"), "{cautions}");
    let elsewhere = testrun::run(5, 2, &[3]);
    assert!(fit(&of(&a), &of(&elsewhere)).refusals[0].contains("A has 1, 2, 4, B has 3"));
    assert!(fit(&of(&a), &of(&RunData::default())).refusals.iter().any(|r| r.contains("none that counts")));
}

#[test]
fn slos_must_be_one() {
    let with = |ms: i64| {
        let mut data = run(3);
        let terms = vec![("e2e".to_owned(), ms * 1_000_000)];
        data.header.plan.slo = Some(SloPlan { terms, share: 0.99, usd_per_hour: None });
        of(&data)
    };
    assert!(fit(&with(50), &with(60)).refusals[0].contains("--goodput"));
    let rule = Rule { gates: vec!["goodput".to_owned(), "slo_share".to_owned()], ..Rule::default() };
    let found = compare(&with(50), &with(50), &rule);
    assert_eq!((found.verdict, finding(&found, "goodput").verdict), (Verdict::Same, Verdict::Same));
    // Without an SLO nothing is good, and nothing is bad.
    assert_eq!(compare(&of(&run(3)), &with(50), &rule).verdict, Verdict::Unknown);
}

#[test]
fn pages_hold_what_was_found_and_no_markup_of_others() {
    let (mut a, mut b) = (of(&run(3)), of(&run(4)));
    a.name = "<script>alert(1)</script>|\u{1b}[2J".to_owned();
    a.environment = json!({ "metadata": { "x": "<img src=x onerror=alert(1)>" } });
    b.words[0] = "knee & <b>".to_owned();
    let found = compare(&a, &b, &Rule::default());
    let page = html(&found);
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script") && !page.contains("<img"));
    assert!(
        page.matches("<svg").count() >= 4 && page.contains("class=\"band a\"") && !page.contains("href=")
    );
    assert!(page.matches("<polyline").count() == 2 * page.matches("<svg").count());
    let text = render(&found, true, 60);
    assert!(!text.contains('\u{1b}') && text.lines().all(|line| line.chars().count() <= 60), "{text}");
    for width in [40, 80, 120] {
        let text = render(&found, false, width);
        assert!(text.contains("p95_e2e") && text.contains("verdict"), "{text}");
        let long = |line: &&str| line.chars().count() > width && !line.contains("alert(1)");
        assert_eq!(text.lines().find(long), None, "{width}");
    }
    let markdown = markdown(&found);
    assert!(!markdown.contains("<script") && markdown.contains("\\|"), "{markdown}");
    let table = markdown.lines().filter(|line| line.starts_with("| ") && line.contains("e2e"));
    assert!(table.clone().count() == 6 && table.into_iter().all(|line| line.matches(" | ").count() == 5));
    let value = json(&found);
    assert_eq!(value["levels"].as_array().unwrap().len(), 3);
    assert_eq!(value["levels"][0]["metrics"].as_array().unwrap().len(), METRICS.len());
    assert_eq!(json(&compare(&a, &b, &Rule::default())), value, "the same runs give the same figures");
}
