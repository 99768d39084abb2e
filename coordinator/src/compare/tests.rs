//! Two runs made up: what is the same, what is worse, what does not compare.

use serde_json::json;

use super::*;
use crate::blocks::{BLOCKS, Block};
use crate::merge::{merge, testrun};
use crate::plan::{Plan, SloPlan};
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
    Side { loads: vec![Loaded { load: Load::Streams(8), repeats }], ..Side::default() }
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
