//! Which levels count, in what order they are told, and what a search's run says of its knee.

use super::*;
use crate::axis::Load;
use crate::certificate::Certificate;
use crate::merge::testrun::run;
use crate::plan::AutoPlan;
use crate::report::summary::summary;
use crate::search::estimate::Estimate;
use crate::stored::Drive;

fn level(level: u32, rung: u32, attempt: u32, streams: u32, completed: u64, verdict: Verdict) -> Level {
    Level {
        drive: Drive { level, rung, attempt },
        load: Load::Streams(streams),
        measured: Counts { completed, ..Counts::default() },
        certificate: Certificate { verdict, ..Certificate::default() },
        ..Level::default()
    }
}

fn of(levels: impl Iterator<Item = impl std::borrow::Borrow<Level>>) -> Vec<u32> {
    levels.map(|level| level.borrow().drive.level).collect()
}

#[test]
fn a_try_that_was_void_does_not_hide_the_one_that_counts() {
    let levels = [
        level(0, 0, 1, 4, 950, Verdict::Void),
        level(1, 0, 2, 4, 930, Verdict::Ok),
        level(2, 1, 1, 8, 9, Verdict::Ok),
    ];
    assert_eq!(of(last_tries(&levels)), [1, 2]);
    assert_eq!(of(repeats(&levels)), [1, 2]);
}

#[test]
fn of_a_load_driven_again_the_one_that_counts_and_says_most() {
    let levels = [
        level(0, 0, 1, 4, 100, Verdict::Ok),
        level(3, 3, 1, 4, 300, Verdict::Ok),
        level(5, 5, 1, 4, 900, Verdict::ClientBound),
        level(1, 1, 1, 8, 9, Verdict::Ok),
    ];
    assert_eq!(of(last_tries(&levels)), [3, 1]);
    assert_eq!(of(repeats(&levels)), [0, 3, 5, 1], "whoever pools them has them all");
}

fn searched(levels: &[u32]) -> RunData {
    let mut data = run(3, 2, levels);
    data.header.plan.concurrency.clear();
    data.header.plan.auto = Some(AutoPlan { from: 1.0, to: 64.0, resolution: 0.1, ..AutoPlan::default() });
    data.levels.iter_mut().for_each(|log| log.passed = true);
    data
}

#[test]
fn levels_of_a_search_are_told_by_their_load() {
    let merged = merge(&searched(&[1, 8, 2, 4]));
    let loads: Vec<f64> = merged.levels.iter().map(|level| level.load.x()).collect();
    assert_eq!(loads, [1.0, 2.0, 4.0, 8.0]);
    assert_eq!(merged.search.as_ref().map(|search| search.levels), Some(4));
    let told = summary(&merged);
    let counts = told["levels"].as_array().unwrap().iter().map(|level| level["counts"] == true);
    assert!(counts.collect::<Vec<_>>().iter().all(|counts| *counts), "{told}");
}

#[test]
fn what_a_search_leaves_out_is_told_by_knee_and_level() {
    let mut data = searched(&[1, 2, 4, 8]);
    // Of the last level too few requests for a search.
    let records = data.nodes.values_mut().flat_map(|node| &mut node.batches).map(|batch| &mut batch.records);
    records.for_each(|records| records.retain(|record| record.level != 3 || record.request % 50 == 0));
    let merged = merge(&data);
    let words = &merged.knee.words;
    assert!(
        words.contains("up to 4") && words.contains("; 1 of 4 levels are left out: too short"),
        "{words}"
    );
    let told: Vec<bool> = merged
        .levels
        .iter()
        .map(|level| level.certificate.notes.iter().any(|note| note.contains("the search leaves it out")))
        .collect();
    assert_eq!(told, [false, false, false, true]);
}

#[test]
fn an_interval_without_an_upper_end_is_null_there() {
    let mut merged = merge(&searched(&[1, 2, 4, 8]));
    merged.knee.estimate = Some(Estimate { at: 4.0, low: 3.0, high: f64::INFINITY });
    let told = summary(&merged);
    assert_eq!(told["knee"]["estimate"]["ci"], serde_json::json!([3.0, null]));
    let page = crate::report::summary_md::render(&told, &serde_json::Value::Null, &[]);
    assert!(!page.to_lowercase().contains("inf ") && !page.contains("NaN"), "{page}");
}

#[test]
fn a_search_that_drove_nothing_says_so() {
    let mut data = searched(&[1]);
    data.levels.clear();
    let merged = merge(&data);
    assert_eq!(merged.search.as_ref().map(|search| search.levels), Some(0));
    assert!(merged.knee.words.contains("no usable level"), "{}", merged.knee.words);
    assert!(summary(&merged)["knee"]["estimate"].is_null());
}
