//! SLOs as typed, as judged, and the capacity that comes of them.

use proptest::prelude::*;
use tailcliff_proto::v1::{Outcome, RequestRecord};

use super::*;
use crate::args::slo::SloArgs;
use crate::axis::Load;
use crate::merge::{merge, testrun};
use crate::plan::SloPlan;
use crate::report::summary::summary;
use crate::stored::RunData;

const MS: i64 = 1_000_000;

fn typed(terms: &[&str]) -> SloArgs {
    SloArgs { goodput: terms.iter().map(|&t| t.to_owned()).collect(), ..SloArgs::default() }
}

fn slo(terms: &[(&str, i64)], share: f64) -> SloPlan {
    let terms = terms.iter().map(|&(metric, ms)| (metric.to_owned(), ms * MS)).collect();
    SloPlan { terms, share, usd_per_hour: None }
}

#[test]
fn limits_read_as_vllm_has_them() {
    let expected = Some(slo(&[("ttft", 500), ("tpot", 50)], 0.99));
    for way in [
        &["ttft:500", "tpot:50"][..],
        &["ttft:500 tpot:50"],
        &["ttft:500,tpot:50ms"],
        &["TTFT:500.0", " tpot:50"],
    ] {
        assert_eq!(plan_of(&typed(way), true).unwrap(), expected, "{way:?}");
    }
    assert_eq!(
        plan_of(&typed(&["e2el:2000"]), false).unwrap().unwrap().terms,
        [("e2e".to_owned(), 2_000 * MS)]
    );
    assert_eq!(plan_of(&SloArgs::default(), true).unwrap(), None);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_to_try() {
    let refused = |args: SloArgs, streaming| plan_of(&args, streaming).unwrap_err().to_string();
    for (terms, words) in [
        (&["ttft"][..], "METRIC:MS"),
        (&["ttft:fast"], "METRIC:MS"),
        (&["speed:5"], "try ttft"),
        (&["ttft:0"], "above 0"),
        (&["ttft:-5"], "above 0"),
        (&["ttft:inf"], "above 0"),
        (&["ttft:nan"], "above 0"),
        (&["ttft:1e300"], "above 0"),
        (&["e2e:5", "e2el:6"], "twice"),
    ] {
        let said = refused(typed(terms), true);
        assert!(said.contains(words), "{terms:?}: {said}");
    }
    assert!(refused(typed(&["ttft:500"]), false).contains("--no-streaming"));
    for share in [0.0, -1.0, 1.01, f64::NAN] {
        assert!(refused(SloArgs { slo_share: Some(share), ..typed(&["e2e:5"]) }, true).contains("0.99"));
    }
    assert!(refused(SloArgs { gpu_price_per_hour: Some(0.0), ..typed(&["e2e:5"]) }, true).contains("2.50"));
    assert!(refused(SloArgs { slo_share: Some(0.9), ..SloArgs::default() }, true).contains("--goodput"));
    assert!(
        refused(SloArgs { gpu_price_per_hour: Some(2.0), ..SloArgs::default() }, true).contains("--goodput")
    );
}

#[test]
fn a_plan_file_may_say_it_in_three_ways() {
    let of = |yaml: &str| serde_norway::from_str::<crate::args::SweepArgs>(yaml).unwrap().slo;
    for yaml in
        ["goodput: ttft:500 tpot:50", "goodput: [ttft:500, tpot:50]", "goodput: {ttft: 500, tpot: 50}"]
    {
        assert_eq!(
            plan_of(&of(yaml), true).unwrap(),
            Some(slo(&[("ttft", 500), ("tpot", 50)], 0.99)),
            "{yaml}"
        );
    }
    assert_eq!(of("goodput: e2e:9\nslo-share: 0.9").slo_share, Some(0.9));
    assert!(serde_norway::from_str::<crate::args::SweepArgs>("goodput: [[1, [2]], true]").is_err());
    let flags = typed(&["e2e:1"]).over(of("goodput: ttft:2\nslo-share: 0.5"));
    assert_eq!((flags.goodput, flags.slo_share), (vec!["e2e:1".to_owned()], Some(0.5)));
}

/// Sent at 0; first token, last token and end in ms.
fn record(first: Option<i64>, last: i64, done: i64, tokens: u64) -> RequestRecord {
    RequestRecord {
        first_token_raw_ns: first.map(|ms| ms * MS),
        last_token_raw_ns: first.map(|_| last * MS),
        done_raw_ns: done * MS,
        output_tokens: Some(tokens),
        content_chunks: tokens as u32,
        longest_gap_ns: (tokens > 1).then_some(30 * MS),
        ..RequestRecord::default()
    }
}

#[test]
fn a_request_is_good_when_it_kept_all() {
    use Outcome::{Completed, Failed, Incomplete};
    let of =
        |terms: &[(&str, i64)], record: &RequestRecord, outcome| keeps(&slo(terms, 0.99), record, outcome);
    // First token after 100 ms, 10 more in 200 ms.
    let one = record(Some(100), 300, 310, 11);
    for (terms, kept) in [
        (&[("ttft", 100), ("tpot", 20), ("itl", 30), ("e2e", 310)][..], true),
        (&[("ttft", 99)], false),
        (&[("tpot", 19)], false),
        (&[("itl", 29)], false),
        (&[("e2e", 309)], false),
        (&[("ttft", 500), ("e2e", 309)], false),
    ] {
        assert_eq!(of(terms, &one, Completed), Some(kept), "{terms:?}");
        assert_eq!(of(terms, &one, Failed), Some(false), "{terms:?}: what failed is not good");
    }
    // One token has no time to the next; no token has no first one.
    assert_eq!(of(&[("tpot", 1), ("itl", 1)], &record(Some(5), 5, 6, 1), Completed), Some(true));
    assert_eq!(of(&[("ttft", 500)], &record(None, 0, 6, 0), Completed), Some(false));
    // Many chunks of unknown tokens: nobody can say.
    let uncounted = RequestRecord { output_tokens: None, ..record(Some(5), 9, 9, 8) };
    assert_eq!(of(&[("tpot", 1)], &uncounted, Completed), None);
    assert_eq!(of(&[("tpot", 1), ("ttft", 1)], &uncounted, Completed), Some(false));
    // Given up: bad when a limit was broken by then, else nobody knows.
    let given_up = record(None, 0, 700, 0);
    assert_eq!(of(&[("ttft", 500)], &given_up, Incomplete), Some(false));
    assert_eq!(of(&[("ttft", 800)], &given_up, Incomplete), None);
    assert_eq!(of(&[("e2e", 500)], &record(Some(5), 600, 700, 9), Incomplete), Some(false));
    assert_eq!(of(&[("tpot", 1)], &record(Some(5), 600, 700, 9), Incomplete), None);
}

fn run(terms: &[(&str, i64)], share: f64, levels: &[u32]) -> RunData {
    let mut data = testrun::run(31, 2, levels);
    data.header.plan.slo = Some(slo(terms, share));
    data
}

#[test]
fn a_level_counts_its_own() {
    // E2E of these runs lies between 12 and 135 ms, about 75 in the middle; one in twenty fails.
    let merged = merge(&run(&[("e2e", 75)], 0.3, &[1, 2]));
    for level in &merged.levels {
        let kept = level.kept.unwrap();
        assert!(kept.good > 0 && kept.bad > level.measured.failed && kept.censored > 0, "{kept:?}");
        assert_eq!(kept.judged() + kept.censored, level.measured.released(), "every request is in one count");
        let by_hand: u64 =
            level.blocks.iter().map(|b| b.e2e_ns.iter().filter(|ns| **ns <= 75 * MS).count() as u64).sum();
        let of_blocks: u64 = level.blocks.iter().map(|b| b.good).sum();
        assert_eq!(of_blocks, by_hand);
        let (low, high) = kept.interval(&level.blocks).unwrap();
        assert!(low < kept.share().unwrap() && kept.share().unwrap() < high && high - low < 0.2);
        let t = level.throughput.unwrap();
        assert!(t.good_requests.per_s > 0.0 && t.good_requests.per_s < t.requests.per_s);
        let credit: f64 = level.blocks.iter().map(|b| b.good_credit).sum();
        assert!((credit / t.window.seconds() - t.good_requests.per_s).abs() < 1e-6);
    }
    assert_eq!(merged.slo.as_ref().unwrap().at, Some(Load::Streams(2)));
}

#[test]
fn without_an_slo_nothing_is_said() {
    let of = summary(&merge(&testrun::run(31, 1, &[1])));
    assert!(of["slo"].is_null() && of["levels"][0]["slo_share"].is_null());
    assert!(of["levels"][0].as_object().unwrap().contains_key("request_goodput_ci"));
}

#[test]
fn the_summary_tells_it_with_power_and_price() {
    let mut data = run(&[("e2e", 500)], 0.9, &[1]);
    data.header.plan.slo.as_mut().unwrap().usd_per_hour = Some(3.6);
    testrun::add_probe(&mut data);
    let of = &summary(&merge(&data))["slo"];
    assert_eq!(of["at"], 1);
    assert_eq!(of["terms"][0]["limit_ms"], 500.0);
    let rate = of["request_goodput_at"].as_f64().unwrap();
    assert!(
        (of["per_usd_hour"]["good_requests_per_usd"].as_f64().unwrap() - rate * 1000.0).abs() < 0.1,
        "{of}"
    );
    // The probe's samples span 2 of the window's 10 s: no mean speaks of the rest.
    assert!(of["per_watt"].is_null(), "{of}");
    let words = of["words"].as_str().unwrap();
    assert!(words.contains("kept up to concurrency 1") && words.contains("the limit lies above"), "{words}");
    data.header.plan.duration_ns = Some(2_000 * MS);
    data.levels[0].start_ref_ns = testrun::ORIGIN + 2_000 * MS;
    let of = &summary(&merge(&data))["slo"];
    assert_eq!(
        (&of["per_watt"]["power_w"], &of["per_watt"]["simulated"]),
        (&312.5.into(), &true.into()),
        "{of}"
    );
    assert!(of["words"].as_str().unwrap().contains("SIMULATED"), "{of}");
}

#[test]
fn no_usable_level_is_an_answer() {
    let mut data = run(&[("e2e", 1)], 0.99, &[1, 2]);
    let found = merge(&data).slo.unwrap();
    assert_eq!((found.at, found.fails_at.map(|(load, _)| load)), (None, Some(Load::Streams(1))));
    assert!(found.words.contains("not kept even at concurrency 1"), "{}", found.words);
    data.levels[0].voided = Some("lost".to_owned());
    assert!(merge(&data).slo.unwrap().words.contains("not judged: 1 (void)"));
    let empty = RunData { header: data.header.clone(), ..RunData::default() };
    assert!(merge(&empty).slo.unwrap().words.contains("no usable level"));
    assert!(!serde_json::to_string(&summary(&merge(&empty))).unwrap().contains("NaN"));
}

/// Requests of one block are alike: whole blocks are good or bad together.
#[test]
fn nineteen_of_twenty_intervals_cover_a_share_of_like_requests() {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut covered = [0, 0];
    for _ in 0..1_000 {
        for (i, likeness) in [0.0, 0.3].into_iter().enumerate() {
            let mut block = || {
                // A mean of 0.8, which the block shifts up and down.
                let p = 0.8 + likeness * (rng.f64() - 0.5);
                let good = (0..40).filter(|_| rng.f64() < p).count() as u64;
                Block { good, bad: 40 - good, ..Block::default() }
            };
            let blocks: Vec<Block> = (0..20).map(|_| block()).collect();
            let kept = Kept {
                good: blocks.iter().map(|b| b.good).sum(),
                bad: blocks.iter().map(|b| b.bad).sum(),
                censored: 0,
            };
            let (low, high) = kept.interval(&blocks).unwrap();
            covered[i] += usize::from((low..=high).contains(&0.8));
        }
    }
    assert!(covered.iter().all(|c| (930..=985).contains(c)), "{covered:?} of 1000");
}

proptest! {
    #[test]
    fn the_interval_holds_the_share(blocks in prop::collection::vec((0u64..50, 0u64..50), 0..25)) {
        let blocks: Vec<Block> = blocks.into_iter().map(|(good, bad)| Block { good, bad, ..Block::default() }).collect();
        let kept = Kept { good: blocks.iter().map(|b| b.good).sum(), bad: blocks.iter().map(|b| b.bad).sum(), censored: 0 };
        match (kept.share(), kept.interval(&blocks)) {
            (Some(share), Some((low, high))) => {
                prop_assert!(0.0 <= low && low <= share && share <= high && high <= 1.0);
                prop_assert!(high - low > 0.0, "a share of few is never certain");
            }
            (share, interval) => prop_assert!(share.is_none() && interval.is_none()),
        }
    }

    #[test]
    fn no_text_breaks_the_reader(text in ".{0,40}") {
        let _either = plan_of(&typed(&[&text]), true);
    }
}
