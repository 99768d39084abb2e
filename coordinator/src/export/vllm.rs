//! One JSON file a level, with the keys that `vllm bench serve --save-result` writes, so that scripts made for those read
//! ours. The keys are those of vllm/benchmarks/serve.py (vllm-project/vllm at 009e6d4a, `benchmark` and `main_async`); with
//! `detailed`, those of its `--save-detailed` too. Three things differ, on purpose: what is not known is null and not 0;
//! latency counts from the intended send, as everywhere here; and figures are of the measured phase, the percentiles those
//! of summary.json, to its histograms' precision. Texts of answers are not kept, so there is no `generated_texts`.

use std::io::{self, Write};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use tailcliff_proto::arrivals;
use tailcliff_proto::v1::{self, Outcome, Phase};

use crate::levels::Level;
use crate::merge::timeline::Timeline;
use crate::merge::{Merged, record, tally};
use crate::plan::Plan;
use crate::redact::redacted_fact;
use crate::report::summary;
use crate::report::text::number;
use crate::stored::{Incarnation, RunData};

/// Keys that come from `levels[]` of summary.json under the same name, in vLLM's order.
const SAME: [&str; 9] = [
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
];

/// What vLLM gives of each of ttft, tpot, itl and e2el; p95 is ours.
const STATISTICS: [&str; 5] = ["mean", "median", "std", "p95", "p99"];

/// Name of a level's file.
pub(super) fn file_name(level: &Level) -> String {
    let axis = if level.load.is_open() { "qps" } else { "concurrency" };
    format!("vllm-level{}-{axis}{}.json", level.drive.level, level.load)
}

/// Writes one level.
///
/// # Errors
/// What `out` says.
pub(super) fn write(
    out: &mut impl Write,
    data: &RunData,
    merged: &Merged,
    level: &Level,
    detailed: bool,
) -> io::Result<()> {
    let mut before = head(merged, level);
    let figures = summary::level(level, merged.header.started_ref_ns);
    let same = |key: &str| figures.get(key).cloned().unwrap_or(Value::Null);
    SAME.iter().for_each(|key| drop(before.insert((*key).to_owned(), same(key))));
    let mut after = Map::new();
    for (name, _) in level.latencies.named() {
        for statistic in STATISTICS {
            let key = format!("{statistic}_{name}_ms");
            after.insert(key.clone(), same(&key));
        }
    }
    after.extend(ours(merged, level));
    // What a person told stands beside what was measured, never in its place.
    for (key, value) in merged.header.plan.metadata.iter().cloned().map(redacted_fact) {
        if !before.contains_key(&key)
            && !after.contains_key(&key)
            && !LISTS.iter().any(|(list, _)| *list == key)
        {
            after.insert(key, json!(value));
        }
    }
    let mut json = serde_json::Serializer::new(&mut *out);
    let mut all = json.serialize_map(None)?;
    before.iter().try_for_each(|(key, value)| all.serialize_entry(key, value))?;
    for (key, of) in LISTS.into_iter().filter(|_| detailed) {
        all.serialize_entry(key, &List { data, timeline: &merged.timeline, level, of })?;
    }
    after.iter().try_for_each(|(key, value)| all.serialize_entry(key, value))?;
    SerializeMap::end(all)?;
    writeln!(out)
}

/// What was asked for.
fn head(merged: &Merged, level: &Level) -> Map<String, Value> {
    let plan = &merged.header.plan;
    let mut all = Map::new();
    let mut put = |key: &str, value: Value| drop(all.insert(key.to_owned(), value));
    put("date", json!(date(&merged.header.started_utc)));
    let kind = if plan.endpoint_type == "completions" { "openai" } else { "openai-chat" };
    put("endpoint_type", json!(kind));
    put("backend", json!(kind));
    put("label", json!(merged.header.name));
    put("model_id", json!(plan.model));
    put("tokenizer_id", Value::Null);
    put("num_prompts", json!(level.measured.released()));
    // As vLLM has it, all requests of a closed loop are there from the start, and wait for one of so many places.
    put("request_rate", level.load.request_rate().map_or(json!("inf"), Value::from));
    put("burstiness", burstiness(plan, level));
    put("max_concurrency", json!(level.load.concurrency().or(plan.max_concurrency)));
    all
}

/// Of gamma gaps; infinite for constant ones, which JSON can't say.
fn burstiness(plan: &Plan, level: &Level) -> Value {
    match (level.load.is_open(), plan.burstiness, plan.arrival_pattern.as_str()) {
        (true, Some(shape), _) => number(Some(shape), 6),
        (true, None, "constant") => Value::Null,
        _ => json!(1.0),
    }
}

/// `20260102-030405` of `2026-01-02T03:04:05Z`.
fn date(utc: &str) -> String {
    let digits: String =
        utc.split('.').next().unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
    if digits.len() == 14 { format!("{}-{}", &digits[..8], &digits[8..]) } else { utc.to_owned() }
}

/// What a reader of ours must know beside.
fn ours(merged: &Merged, level: &Level) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("tailcliff_version".to_owned(), json!(merged.header.tailcliff_version));
    all.insert("tailcliff_level".to_owned(), json!(level.drive.level));
    all.insert("tailcliff_verdict".to_owned(), json!(level.certificate.verdict.as_str()));
    all.insert("tailcliff_latency_from".to_owned(), json!("intended send"));
    all
}

/// A request of the measured phase, and when it was to be sent, ns since the run began.
type Request<'a> = (&'a v1::RequestRecord, Option<i64>);

/// What a list says of one.
type Says = fn(Request<'_>) -> Value;

/// What vLLM's `--save-detailed` has a value a request of, in the order of requests.csv; seconds.
const LISTS: [(&str, Says); 7] = [
    ("input_lens", |(record, _)| json!(record.prompt_tokens)),
    ("output_lens", |(record, _)| json!(record.output_tokens)),
    ("ttfts", |(record, _)| seconds(record::ttft_ns(record))),
    ("itls", |(record, _)| gaps(record)),
    ("latencies", |(record, _)| {
        let completed = record::outcome(record) == Outcome::Completed;
        seconds(record::e2e_ns(record).filter(|_| completed))
    }),
    ("start_times", |(_, start_ns)| seconds(start_ns)),
    ("errors", |(record, _)| json!(error(record))),
];

/// One of them. It is read batch by batch as it is written: a level may have more gaps than fit in memory.
struct List<'a> {
    data: &'a RunData,
    timeline: &'a Timeline,
    level: &'a Level,
    of: Says,
}

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let agents = tally::agents(self.data);
        let batches = agents.iter().flat_map(|(of, node)| {
            node.each_batch_of(self.level.drive.level).map(move |batch| self.values(*of, &batch))
        });
        serializer.collect_seq(batches.flatten())
    }
}

impl List<'_> {
    fn values(&self, of: Incarnation, batch: &v1::Batch) -> Vec<Value> {
        let is_wanted =
            |r: &&v1::RequestRecord| r.level == self.level.drive.level && r.phase == Phase::Measured as i32;
        let value = |record: &v1::RequestRecord| {
            let at = self.timeline.place(of, record.intended_raw_ns);
            (self.of)((record, at.map(|at| at.ns.saturating_sub(self.data.header.started_ref_ns))))
        };
        batch.records.iter().filter(is_wanted).map(value).collect()
    }
}

fn seconds(ns: Option<i64>) -> Value {
    number(ns.map(|ns| ns as f64 / 1e9), 9)
}

/// Between chunks; null where the trace was left out.
fn gaps(record: &v1::RequestRecord) -> Value {
    // The first arrival is the first token's.
    let gaps: Result<Vec<f64>, _> =
        arrivals::decode(&record.arrivals).skip(1).map(|a| a.map(|a| a.gap_ns as f64 / 1e9)).collect();
    let known = gaps.ok().filter(|_| !record.arrivals_dropped);
    known.map_or(Value::Null, |gaps| gaps.into_iter().map(|gap| number(Some(gap), 9)).collect())
}

/// Empty for a request that was answered.
fn error(record: &v1::RequestRecord) -> String {
    match record::outcome(record) {
        Outcome::Completed => String::new(),
        Outcome::Failed => format!("{}: {}", record.error_kind, record.error_detail),
        Outcome::Incomplete | Outcome::Unspecified => "incomplete".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::axis::{Load, Rate};
    use crate::merge::{merge, testrun};

    fn written(data: &RunData, index: usize, detailed: bool) -> Map<String, Value> {
        let (merged, mut out) = (merge(data), Vec::new());
        write(&mut out, data, &merged, &merged.levels[index], detailed).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    /// Keys of serve.py's `result_json` for a generating model with `--percentile-metrics ttft,tpot,itl,e2el`, but for those
    /// that `benchmark` fills from what it alone measures (peaks, rtfx, its own queue).
    const VLLM: [&str; 35] = [
        "date",
        "endpoint_type",
        "backend",
        "label",
        "model_id",
        "tokenizer_id",
        "num_prompts",
        "request_rate",
        "burstiness",
        "max_concurrency",
        "duration",
        "completed",
        "failed",
        "total_input_tokens",
        "total_output_tokens",
        "request_throughput",
        "request_goodput",
        "output_throughput",
        "total_token_throughput",
        "mean_ttft_ms",
        "median_ttft_ms",
        "std_ttft_ms",
        "p99_ttft_ms",
        "mean_tpot_ms",
        "median_tpot_ms",
        "std_tpot_ms",
        "p99_tpot_ms",
        "mean_itl_ms",
        "median_itl_ms",
        "std_itl_ms",
        "p99_itl_ms",
        "mean_e2el_ms",
        "median_e2el_ms",
        "std_e2el_ms",
        "p99_e2el_ms",
    ];
    const SAVED_DETAILED: [&str; 7] =
        ["input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "errors"];

    #[test]
    fn every_key_of_vllm_s_is_there_and_the_figures_are_the_summary_s() {
        let mut data = testrun::run(21, 2, &[1, 2]);
        let told = [
            ("gpu", "H100"),
            ("model_id", "x"),
            ("p99_e2el_ms", "1"),
            ("tailcliff_level", "x"),
            ("itls", "x"),
        ];
        data.header.plan.metadata = told.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let result = written(&data, 1, false);
        for key in VLLM {
            assert!(result.contains_key(key), "{key}");
        }
        assert!(SAVED_DETAILED.iter().all(|key| !result.contains_key(*key)));
        let merged = merge(&data);
        let level = summary::level(&merged.levels[1], 0);
        for key in ["completed", "p99_e2el_ms", "mean_tpot_ms", "output_throughput", "duration"] {
            assert!(result[key].is_number() && result[key] == level[key], "{key}");
        }
        assert_eq!(result["date"], "20260102-030405");
        assert_eq!((&result["request_rate"], &result["max_concurrency"]), (&json!("inf"), &json!(2)));
        assert_eq!((&result["gpu"], &result["backend"]), (&json!("H100"), &json!("openai-chat")));
        assert_eq!((&result["model_id"], &result["tailcliff_level"]), (&json!("m"), &json!(1)), "measured");
        assert_eq!(file_name(&merged.levels[1]), "vllm-level1-concurrency2.json");
    }

    #[test]
    fn details_have_a_value_a_request_and_null_for_what_there_is_not() {
        let data = testrun::run(21, 2, &[1, 2]);
        let (result, merged) = (written(&data, 0, true), merge(&data));
        let n = merged.levels[0].measured.released() as usize;
        for key in SAVED_DETAILED {
            assert_eq!(result[key].as_array().unwrap().len(), n, "{key}");
        }
        let count = |key: &str, wanted: fn(&Value) -> bool| {
            result[key].as_array().unwrap().iter().filter(|v| wanted(v)).count() as u64
        };
        assert_eq!(count("latencies", Value::is_number), merged.levels[0].measured.completed);
        assert_eq!(
            count("errors", |e| e != ""),
            merged.levels[0].measured.released() - merged.levels[0].measured.completed
        );
        let sum: f64 = result["latencies"].as_array().unwrap().iter().filter_map(Value::as_f64).sum();
        let mean_ms = sum * 1e3 / merged.levels[0].measured.completed as f64;
        assert!((mean_ms - result["mean_e2el_ms"].as_f64().unwrap()).abs() < 1e-3, "{mean_ms}");
    }

    #[test]
    fn an_open_loop_has_a_rate_and_a_level_without_an_answer_has_nulls() {
        let mut data = testrun::run(1, 1, &[1]);
        data.levels[0].load = Load::Rate(Rate(2.5));
        data.header.plan.burstiness = Some(0.5);
        let result = written(&data, 0, false);
        assert_eq!((&result["request_rate"], &result["burstiness"]), (&json!(2.5), &json!(0.5)));
        assert_eq!(result["max_concurrency"], Value::Null);
        for batch in data.nodes.values_mut().flat_map(|node| &mut node.batches) {
            (batch.records, batch.windows) = (Vec::new(), Vec::new());
        }
        let result = written(&data, 0, true);
        for key in ["p99_ttft_ms", "mean_e2el_ms", "median_itl_ms"] {
            assert_eq!(result[key], Value::Null, "{key}");
        }
    }
}
