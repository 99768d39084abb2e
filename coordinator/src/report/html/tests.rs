use serde_json::Value;
use tailcliff_proto::v1::{Outcome, Phase};

use super::*;
use crate::merge::merge;
use crate::merge::testrun::{self, S};
use crate::report::inside_sample;

fn page(data: &RunData) -> String {
    let mut out = Vec::new();
    write(&mut out, data, &merge(data)).unwrap();
    String::from_utf8(out).unwrap()
}

/// What the page's data block holds, as a browser would cut it out and parse it.
fn data_of(page: &str) -> Value {
    let (_, rest) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
    let (data, _) = rest.split_once("</script").unwrap();
    serde_json::from_str(data).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().filter_map(Value::as_f64).collect()
}

#[test]
fn the_page_is_one_file_that_fetches_nothing_and_runs_its_own_scripts_only() {
    let page = page(&testrun::run(1, 2, &[1, 2]));
    let policy =
        page.split_once("Content-Security-Policy\" content=\"").unwrap().1.split_once('"').unwrap().0;
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe-eval") && !policy.contains("http") && !policy.contains('*'), "{policy}");
    let script_src = policy.split(';').find(|part| part.contains("script-src")).unwrap();
    assert!(!script_src.contains("unsafe-inline"), "{script_src}");
    assert_eq!(page.matches("<script").count(), 3, "data, library and the page's own");
    for fetching in [" src=", "<link", "@import", "url("] {
        assert!(!page.contains(fetching), "{fetching}");
    }
}

#[test]
fn no_text_of_a_server_ends_the_block_that_it_is_in() {
    let hostile = "</script><script>alert(1)</script><!-- \u{2028} & \" '";
    let mut data = testrun::run(2, 1, &[2]);
    data.header.plan.model = hostile.to_owned();
    data.header.name = hostile.to_owned();
    data.header.plan.metadata.push((hostile.to_owned(), hostile.to_owned()));
    for node in data.nodes.values_mut() {
        node.hello.name = hostile.to_owned();
        for record in node.batches.iter_mut().flat_map(|batch| &mut batch.records) {
            record.request_id = hostile.to_owned();
            record.error_detail = hostile.to_owned();
            record.error_kind = hostile.to_owned();
        }
    }
    let page = page(&data);
    assert_eq!(page.matches("<script").count(), 3);
    assert_eq!(page.matches("</script").count(), 3);
    let told = data_of(&page);
    assert_eq!(told["summary"]["run"]["model"], hostile);
    assert_eq!(told["summary"]["nodes"][0]["name"], hostile);
    assert!(page.contains("<title>&lt;/script&gt;"));
}

#[test]
fn what_the_bins_hold_adds_up_to_what_the_records_say() {
    let data = testrun::run(3, 3, &[3, 6]);
    let told = report_data(&data, &merge(&data));
    let line = &told["timeline"];
    let (bins, width) = (line["bins"].as_u64().unwrap(), line["bin_s"].as_f64().unwrap());
    assert!(bins <= 2_001, "{bins}");
    let records = || data.nodes.values().flat_map(|node| &node.batches).flat_map(|batch| &batch.records);
    let of = |outcome: Outcome| records().filter(|r| r.outcome == outcome as i32).count() as f64;
    let sum = |key: &str| numbers(&line["series"][key]).iter().sum::<f64>() * width;
    let is_near = |a: f64, b: f64| (a - b).abs() <= 0.005 * bins as f64 * width;
    assert!(of(Outcome::Completed) > 100.0);
    assert!(is_near(sum("completed_per_s"), of(Outcome::Completed)), "{}", sum("completed_per_s"));
    assert!(is_near(sum("failed_per_s"), of(Outcome::Failed)));
    let tokens = records().filter_map(|r| r.output_tokens).sum::<u64>() as f64;
    assert!(is_near(sum("output_tokens_per_s"), tokens), "{} {tokens}", sum("output_tokens_per_s"));
    let seconds = records().map(|r| (r.done_raw_ns - r.issued_raw_ns.unwrap()) as f64 / 1e9).sum::<f64>();
    assert!((sum("in_flight") - seconds).abs() < 0.01 * seconds + 0.1, "{} {seconds}", sum("in_flight"));
    assert!(sum("waiting") < sum("in_flight"));
    assert_eq!((&line["outside"], &line["unaligned"]), (&0.into(), &0.into()));
    let rows = told["heat"]["e2el"]["rows"].as_array().unwrap();
    let drawn: f64 = rows.iter().flat_map(numbers).sum();
    assert_eq!(drawn, of(Outcome::Completed));
}

#[test]
fn curves_agree_with_the_summary_and_never_fall() {
    let data = testrun::run(4, 2, &[2]);
    let told = report_data(&data, &merge(&data));
    for (name, curve) in told["curves"][0]["metrics"].as_object().unwrap() {
        let points = curve["quantiles"].as_array().unwrap();
        assert!((90..200).contains(&points.len()), "{}", points.len());
        let pairs: Vec<(f64, f64)> =
            points.iter().map(|p| (p[0].as_f64().unwrap(), p[1].as_f64().unwrap())).collect();
        assert!(pairs.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1), "{name}");
        assert_eq!(pairs.last().map(|p| p.0), Some(1.0));
        let level = &told["summary"]["levels"][0];
        assert_eq!(curve["box"]["median"], level[format!("median_{name}_ms")]);
        assert_eq!(curve["box"]["p95"], level[format!("p95_{name}_ms")]);
    }
}

#[test]
fn the_waterfall_has_the_slowest_of_every_level_and_each_request_once() {
    let data = testrun::run(5, 2, &[2, 4, 8]);
    let told = report_data(&data, &merge(&data));
    let rows = told["waterfall"].as_array().unwrap();
    assert!(rows.len() <= 200);
    for level in 0..3u32 {
        let all = data.nodes.values().flat_map(|node| &node.batches).flat_map(|batch| &batch.records);
        let those = all.filter(|r| r.level == level && r.phase == Phase::Measured as i32);
        let completed = those.filter(|r| r.outcome == Outcome::Completed as i32);
        let slowest = completed.map(|r| r.done_raw_ns - r.intended_raw_ns).max().unwrap() as f64 / 1e6;
        let of_level = || rows.iter().filter(|row| row["level"] == level);
        let drawn =
            of_level().filter(|row| row["why"] == "slowest").map(|row| row["stamps_ms"][8].as_f64().unwrap());
        assert!((drawn.fold(0.0, f64::max) - slowest).abs() < 0.01, "level {level}: {slowest}");
        assert!(of_level().any(|row| row["why"] == "not completed"));
        assert!(of_level().count() > 14);
    }
    let mut keys: Vec<String> = rows.iter().map(|row| format!("{} {}", row["level"], row["key"])).collect();
    let before = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), before);
}

#[test]
fn a_gpu_is_drawn_by_its_own_readings() {
    let mut data = testrun::run(6, 1, &[1]);
    testrun::add_probe(&mut data);
    let told = report_data(&data, &merge(&data));
    let gpu = &told["timeline"]["gpus"]["shown"][0];
    assert_eq!((&gpu["simulated"], &gpu["power_is_average"]), (&true.into(), &false.into()));
    let power = numbers(&gpu["power_w"]["mean"]);
    assert!(power.len() > 50 && power.iter().all(|w| *w == 312.5), "{power:?}");
    assert_eq!(gpu["sm_clock_mhz"], Value::Null, "never given");
    assert_eq!(told["simulated"][0], "the GPU is simulated");
}

#[test]
fn a_run_in_which_nothing_completed_is_still_a_page() {
    let mut data = testrun::run(7, 1, &[1, 2]);
    for batch in data.nodes.values_mut().flat_map(|node| &mut node.batches) {
        batch.windows.clear();
        batch.records.iter_mut().for_each(|record| record.outcome = Outcome::Failed as i32);
    }
    let told = data_of(&page(&data));
    assert_eq!(told["heat"]["e2el"], Value::Null);
    assert_eq!(told["curves"][0]["metrics"]["e2el"], Value::Null);
    assert!(told["waterfall"].as_array().unwrap().iter().all(|row| row["why"] == "not completed"));
}

#[test]
fn one_request_or_none_or_no_level_or_no_clock_is_still_a_page() {
    let mut data = testrun::run(8, 1, &[1]);
    for batch in data.nodes.values_mut().flat_map(|node| &mut node.batches) {
        batch.records.truncate(1);
        batch.windows.truncate(1);
    }
    assert_eq!(data_of(&page(&data))["waterfall"].as_array().unwrap().len(), 1);
    let mut unaligned = testrun::run(8, 1, &[1]);
    unaligned.nodes.values_mut().for_each(|node| node.exchanges.clear());
    let told = data_of(&page(&unaligned));
    assert!(told["timeline"]["unaligned"].as_u64().unwrap() > 10);
    assert_eq!(told["waterfall"].as_array().unwrap().len(), 0);
    let told = data_of(&page(&RunData::default()));
    assert_eq!((told["timeline"]["bins"].as_u64(), told["curves"].as_array().unwrap().len()), (Some(1), 0));
}

#[test]
fn absurd_stamps_stay_out_of_the_bins() {
    let mut data = testrun::run(9, 1, &[1]);
    for batch in data.nodes.values_mut().flat_map(|node| &mut node.batches) {
        for (record, at) in batch.records.iter_mut().zip([i64::MIN, i64::MAX, 0, -S].into_iter().cycle()) {
            record.done_raw_ns = at;
            record.first_token_raw_ns = Some(i64::MAX);
            record.sent_raw_ns = Some(i64::MIN);
        }
    }
    let told = data_of(&page(&data));
    assert!(told["timeline"]["bins"].as_u64().unwrap() <= 2_001);
}

#[test]
fn the_same_journal_gives_the_same_page() {
    let of = || page(&testrun::run(10, 2, &[1, 4]));
    assert!(of() == of());
}

/// As the page is made, but for who tells of joined requests.
fn sample_of_the_inside() -> Value {
    let data = inside_sample::run();
    let merged = inside_sample::merged(&data);
    told(&data, &merged, |take| {
        inside_sample::each(&data, &merged.timeline, |joined| {
            take(joined);
            Ok(())
        })
    })
}

#[test]
fn what_the_server_told_of_a_request_stands_beside_its_stamps() {
    let told = sample_of_the_inside();
    let rows = told["waterfall"].as_array().unwrap();
    let (joined, others): (Vec<&Value>, Vec<&Value>) = rows.iter().partition(|row| !row["inside"].is_null());
    assert!(joined.len() > 30 && !others.is_empty(), "{} {}", joined.len(), others.len());
    assert!(joined.iter().all(|row| row["outcome"] == "completed"));
    for row in joined {
        let sum: f64 = numbers(&row["inside"]["parts_ms"]).iter().sum();
        assert!((sum - row["stamps_ms"][8].as_f64().unwrap()).abs() < 0.01, "{row}");
        let below = row["inside"]["parts_ms"].as_array().unwrap().iter().filter(|ms| ms.as_f64() < Some(0.0));
        let below = below.filter(|ms| !ms.is_null()).count();
        assert_eq!(below, row["inside"]["impossible"].as_array().unwrap().len(), "{row}");
    }
    let odd =
        rows.iter().filter(|row| row["inside"]["impossible"].as_array().is_some_and(|all| !all.is_empty()));
    assert!(odd.count() > 0);
    assert_eq!(told["parts"].as_array().unwrap().len(), 12);
}

#[test]
fn a_server_s_gauges_are_on_the_axis_of_the_gpus() {
    let told = sample_of_the_inside();
    let server = &told["timeline"]["servers"]["shown"][0];
    assert_eq!((&server["probe"], &server["failed"]), (&"probe".into(), &1.into()));
    let kv = numbers(&server["kv_pct"]["mean"]);
    assert_eq!(kv.len(), inside_sample::SCRAPES - 1, "one failed");
    assert_eq!((kv[0], *kv.last().unwrap()), (25.0, 68.0));
    assert_eq!(numbers(&server["waiting"]["max"]).last(), Some(&2.0));
}
