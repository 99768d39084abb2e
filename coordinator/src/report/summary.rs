//! `summary.json`: vLLM's keys where it has them, so that existing scripts read ours; ours beside them. A figure that is
//! not known is null, never 0.

use serde_json::{Map, Value, json};
use tailcliff_proto::histogram::SIGNIFICANT_DIGITS;
use tailcliff_proto::v1;

use crate::advice;
use crate::axis::Load;
use crate::calc::summary as calculators;
use crate::certificate::Check;
use crate::experiment;
use crate::knee::{Cliff, Knee};
use crate::levels::{Level, Metric};
use crate::merge::nodes::NodeSummary;
use crate::merge::searched::Searched;
use crate::merge::window::Rate;
use crate::merge::{Merged, last_tries};
use crate::plan::{ControlPlan, Plan};
use crate::search::estimate::Estimate;
use crate::slo::report as slo;

use super::text::{json_ms, json_us, number};
use super::{clocks, diagnosis, experiments, inside, sensors, stalls, trace};

/// Percentiles given of each distribution, and their keys; p50 is vLLM's "median".
const PERCENTILES: [(&str, f64); 3] = [("median", 50.0), ("p95", 95.0), ("p99", 99.0)];

/// The whole summary.
pub fn summary(merged: &Merged) -> Value {
    let header = &merged.header;
    let file = header.plan.file();
    json!({
        "run": {
            "name": header.name,
            "started_utc": header.started_utc,
            "ended_utc": merged.end.as_ref().map(|end| &end.ended_utc),
            "complete": merged.end.as_ref().is_some_and(|end| end.cut_short.is_empty()),
            "cut_short": merged.end.as_ref().map(|end| &end.cut_short).filter(|why| !why.is_empty()),
            "tailcliff_version": header.tailcliff_version,
            "base_url": header.plan.base_url,
            "path": header.plan.path,
            "model": header.plan.model,
            "streaming": header.plan.streaming,
            "experiment": experiment::name(&header.plan),
            "load": load(&header.plan),
            "controls": header.plan.control.as_ref().map(controls),
            "dataset": header.plan.dataset.as_ref().map(|d| &d.name),
            "dataset_entries": file.map(|f| f.entries),
            "dataset_skipped_lines": file.map(|f| f.broken_lines + f.unfit_lines),
            "input_len_unit": Some(&header.plan.input_len_unit).filter(|unit| !unit.is_empty()),
            "torn_bytes": merged.torn_bytes,
            "stray_records": merged.stray,
        },
        "percentile_precision": format!("{SIGNIFICANT_DIGITS} significant digits"),
        "intervals": "95 %: percentiles from binomial order statistics of the merged histogram, rates from ten batch \
                      means of the window; both take requests as independent; null when too few",
        "levels": levels(merged),
        "knee": knee(&merged.knee, header.plan.cliff.gain_share),
        "cliff": cliff(&merged.cliff, header.plan.cliff.multiple),
        "search": merged.search.as_ref().map_or(Value::Null, search),
        "diagnosis": diagnosis::diagnosis(merged.diagnosed.diagnosis.as_ref()),
        "cliff_diagnosis": diagnosis::diagnosis(merged.cliff_diagnosed.as_ref()),
        "slo": slo::summary(merged.slo.as_ref()),
        "nodes": merged.nodes.iter().map(|n| node(n, header.started_ref_ns)).collect::<Vec<_>>(),
        "calibration": merged.calibrations.iter().map(calibration).collect::<Vec<_>>(),
        "gpu_to_token": alignment(merged),
        "causality": clocks::causality(&merged.causality),
        "time_bins": merged.bins.iter().map(clocks::bin).collect::<Vec<_>>(),
        "baseline": experiments::baseline(&merged.experiment),
        "grid": experiments::grid(&merged.experiment),
        "overload": experiments::overload(&merged.experiment),
        "stalls": stalls::summary(&merged.stalls, header.started_ref_ns),
        "inside": inside::run(&merged.inside, header.started_ref_ns),
        "advice": advice::of(merged).iter().map(advice::Advice::json).collect::<Vec<_>>(),
        "calculators": calculators::inputs(merged),
        "warnings": merged.warnings,
    })
}

/// How the load was made, as far as the levels do not say.
fn load(plan: &Plan) -> Value {
    let is_open = !plan.request_rate.is_empty() || plan.auto.as_ref().is_some_and(|auto| auto.open);
    json!({
        "loop": if is_open { "open" } else { "closed" },
        "arrival_pattern": is_open.then_some(&plan.arrival_pattern),
        "burstiness": plan.burstiness,
        "replay_speed": (!plan.replay_speed.is_empty()).then_some(&plan.replay_speed),
        "max_concurrency": plan.max_concurrency,
        "ramp_s": number(Some(plan.ramp_ns as f64 / 1e9), 9),
        "retries": plan.retries,
        "retry_backoff_ms": (plan.retries > 0).then(|| json_ms(Some(plan.retry_backoff_ns as f64))),
        "seed": plan.seed,
    })
}

/// What the client did to itself on purpose.
fn controls(control: &ControlPlan) -> Value {
    let ms = |ns: Option<i64>| json_ms(ns.map(|ns| ns as f64));
    json!({
        "pause_ms": ms(control.pause_ns),
        "pause_one_in": control.pause_ns.map(|_| control.every),
        "block_ms": ms(control.block_ns),
    })
}

/// Every level, and whether it is the one of its rung or load that counts.
fn levels(merged: &Merged) -> Vec<Value> {
    let counts: Vec<u32> = last_tries(&merged.levels).map(|level| level.drive.level).collect();
    let one = |of: &Level| {
        let mut row = level(of, merged.header.started_ref_ns);
        row.insert("counts".to_owned(), json!(counts.contains(&of.drive.level)));
        Value::Object(row)
    };
    merged.levels.iter().map(one).collect()
}

/// One level; every level has the same keys in the same order.
pub fn level(level: &Level, started_ref_ns: i64) -> Map<String, Value> {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    let counts = &level.measured;
    put("level", json!(level.drive.level));
    put("attempt", json!(level.drive.attempt));
    put("role", json!(level.role()));
    put("cell", experiments::cell(level.cell.as_ref()));
    put("concurrency", json!(level.load.concurrency()));
    put("request_rate", json!(level.load.request_rate()));
    put("request_rate_offered", number(level.rates.map(|r| r.offered), 6));
    put("request_rate_achieved", number(level.rates.map(|r| r.achieved), 6));
    put("released", json!(counts.released()));
    put("completed", json!(counts.completed));
    put("failed", json!(counts.failed));
    put("incomplete", json!(counts.incomplete));
    put("unreported", json!(counts.unreported));
    put("retried", json!(level.retried));
    put("control_requests", json!(level.control_requests));
    held(&mut put, level);
    put("error_rate", number(counts.error_rate(), 6));
    let throughput = level.throughput.as_ref();
    let window = throughput.map(|t| t.window);
    rate(&mut put, "request_throughput", throughput.map(|t| t.requests));
    rate(&mut put, "output_throughput", throughput.map(|t| t.output_tokens));
    rate(&mut put, "total_token_throughput", throughput.map(|t| t.total_tokens));
    slo::level(&mut put, level);
    put("throughput_window", json!(window.map(|w| w.rule.as_str())));
    put("throughput_completed", json!(throughput.map(|t| t.completed)));
    put("duration", number(window.map(|w| w.seconds()), 9));
    put("total_input_tokens", json!(level.input_tokens));
    put("total_output_tokens", json!(level.output_tokens));
    for (name, metric) in level.latencies.named() {
        distribution(&mut put, name, metric);
    }
    put("starts", level.starts.as_ref().map_or(Value::Null, clocks::starts));
    put("start_s", number(Some((level.start_ref_ns - started_ref_ns) as f64 / 1e9), 9));
    let clock = level.clock;
    let bounds = (json_us(clock.map(|c| c.median_ns)), json_us(clock.map(|c| c.worst_ns)));
    put("clock_bound_us", json!({ "median": bounds.0, "worst": bounds.1 }));
    put("little", little(level));
    put("certificate", certificate(level));
    put("error_kinds", json!(level.error_kinds));
    put("sample_error", json!(level.sample_error));
    put("outside", outside(level));
    put("all_phases", all_phases(level));
    put("trace", level.trace.as_ref().map_or(Value::Null, trace::trace));
    put("gpu", diagnosis::gpu(level.gpu.as_ref()));
    put("parts", diagnosis::parts(level.parts.as_ref()));
    put("inside", inside::level(level.inside.as_ref()));
    put("server", inside::server(level.server.as_ref()));
    put("voided", json!(level.voided));
    out
}

fn held<T>(put: &mut impl FnMut(&str, Value) -> T, level: &Level) {
    let held = level.held.as_ref();
    put("held_back_requests", json!(held.map(|h| h.requests)));
    for (key, percent) in PERCENTILES {
        let wait = held.and_then(|h| h.waits.quantile_ns(percent / 100.0));
        put(&format!("{key}_held_ms"), json_ms(wait.map(|ns| ns as f64)));
    }
    put("never_sent_requests", json!(held.map(|h| h.never_sent)));
    put("max_in_flight", json!(held.and_then(|h| h.bound)));
}

fn rate<T>(put: &mut impl FnMut(&str, Value) -> T, key: &str, rate: Option<Rate>) {
    put(key, number(rate.map(|r| r.per_s), 6));
    let interval = rate.and_then(|r| r.interval);
    put(
        &format!("{key}_ci"),
        interval.map_or(Value::Null, |(l, h)| json!([number(Some(l), 6), number(Some(h), 6)])),
    );
}

fn distribution<T>(put: &mut impl FnMut(&str, Value) -> T, name: &str, metric: &Metric) {
    put(&format!("mean_{name}_ms"), json_ms(metric.mean_ns()));
    put(&format!("std_{name}_ms"), json_ms(metric.std_ns()));
    for (key, percent) in PERCENTILES {
        let ms = |ns: u64| json_ms(Some(ns as f64));
        put(&format!("{key}_{name}_ms"), metric.percentile_ns(percent).map_or(Value::Null, ms));
        let interval = metric.interval_ns(percent).map_or(Value::Null, |(l, h)| json!([ms(l), ms(h)]));
        put(&format!("{key}_{name}_ms_ci"), interval);
    }
}

fn little(level: &Level) -> Value {
    let little = level.little;
    json!({
        "l": number(little.map(|l| l.in_flight), 6),
        "lambda": number(little.map(|l| l.rate_per_s), 6),
        "w": number(little.map(|l| l.mean_s), 9),
        "residual": number(little.map(|l| l.residual), 6),
    })
}

fn certificate(level: &Level) -> Value {
    let c = &level.certificate;
    let ms = |ns: Option<u64>| json_ms(ns.map(|ns| ns as f64));
    json!({
        "verdict": c.verdict.as_str(),
        "reasons": c.reasons,
        "notes": c.notes,
        "checks": c.checks.iter().map(check).collect::<Vec<_>>(),
        "cpu_share": number(c.value("cpu_share_busiest_shard"), 4),
        "send_lag_p99_ms": ms(c.send_lag_p99_ns),
        "scheduler_lag_p99_ms": ms(c.scheduler_lag_p99_ns),
        "socket_wait_p99_ms": ms(c.socket_wait_p99_ns),
        "probe_interval_ms": json_ms(c.probe_interval_ns.map(|ns| ns as f64)),
        "late_starts": c.late_starts,
        "lost_agents": c.lost_agents,
    })
}

/// `ok` is null where nobody measured it.
fn check(check: &Check) -> Value {
    json!({
        "name": check.name,
        "value": number(check.value, 6),
        "rule": if check.at_least { "at least" } else { "at most" },
        "limit": number(Some(check.limit), 6),
        "unit": check.unit,
        "ok": check.ok,
        "worst": Some(&check.worst).filter(|worst| !worst.is_empty()),
    })
}

fn outside(level: &Level) -> Value {
    let o = &level.outside;
    json!({
        "bad_windows": o.bad_windows,
        "out_of_range": o.out_of_range,
        "bad_traces": o.bad_traces,
        "dropped_token_traces": o.dropped_traces,
        "dropped_records": o.dropped_records,
        "dropped_windows": o.dropped_windows,
        "dropped_in_flight_samples": o.dropped_in_flight,
        "dropped_loop_lags": o.dropped_loop_lags,
        "unaligned_requests": o.unaligned,
        "without_tokens": o.without_tokens,
        "proxy_tokens": o.proxy_tokens,
    })
}

fn all_phases(level: &Level) -> Value {
    let c = &level.all_phases;
    json!({
        "released": c.released(),
        "completed": c.completed,
        "failed": c.failed,
        "incomplete": c.incomplete,
        "unreported": c.unreported,
    })
}

/// A level's name: one of the two is null.
fn place(load: Option<Load>, mut rest: Value) -> Value {
    let mut named = Map::new();
    named.insert("concurrency".to_owned(), json!(load.and_then(|load| load.concurrency())));
    named.insert("request_rate".to_owned(), json!(load.and_then(|load| load.request_rate())));
    rest.as_object_mut().into_iter().for_each(|rest| named.append(rest));
    Value::Object(named)
}

fn skipped(levels: &[(Load, String)]) -> Value {
    levels.iter().map(|(load, why)| place(Some(*load), json!({ "why": why }))).collect()
}

fn estimate(of: Option<Estimate>) -> Value {
    let Some(of) = of else { return Value::Null };
    json!({
        "at": number(Some(of.at), 4),
        "ci": [number(Some(of.low), 4), number(Some(of.high), 4)],
        "confidence": 0.95,
    })
}

fn search(of: &Searched) -> Value {
    json!({
        "levels": of.levels,
        "seconds": number(Some(of.seconds), 3),
        "resolution": number(Some(of.resolution), 6),
    })
}

fn knee(knee: &Knee, gain_share: f64) -> Value {
    let step = |s: &crate::knee::Step| {
        json!({
            "from": s.from.json(),
            "to": s.to.json(),
            "request_throughput": [number(Some(s.throughput.0), 6), number(Some(s.throughput.1), 6)],
            "gain_share": number(Some(s.gain_share), 6),
        })
    };
    let rest = json!({
        "searched_to": knee.searched_to.map(|load| load.json()),
        "gain_share_threshold": gain_share,
        "estimate": estimate(knee.estimate),
        "steps": knee.steps.iter().map(step).collect::<Vec<_>>(),
        "skipped": skipped(&knee.skipped),
        "words": knee.words,
    });
    place(knee.at, rest)
}

fn cliff(cliff: &Cliff, multiple: f64) -> Value {
    let tail = |t: &crate::knee::Tail| {
        let judged_ms = json_ms(Some(t.judged_ns as f64));
        place(Some(t.load), json!({ "judged_ms": judged_ms, "multiple": number(Some(t.multiple), 4) }))
    };
    let rest = json!({
        "searched_to": cliff.searched_to.map(|load| load.json()),
        "judged": cliff.judged,
        "multiple_threshold": multiple,
        "estimate": estimate(cliff.estimate),
        "levels": cliff.tails.iter().map(tail).collect::<Vec<_>>(),
        "skipped": skipped(&cliff.skipped),
        "words": cliff.words,
    });
    place(cliff.at, rest)
}

fn calibration((agent, host): &(String, v1::HostFacts)) -> Value {
    json!({ "agent": agent, "calibration": super::environment::calibration(host) })
}

fn alignment(merged: &Merged) -> Value {
    let of = merged.gpu_to_token;
    json!({
        "median_bound_us": json_us(of.map(|a| a.median_ns)),
        "worst_bound_us": json_us(of.map(|a| a.worst_ns)),
        "repeatability_us": json_us(of.and_then(|a| a.repeatable_ns)),
    })
}

fn node(node: &NodeSummary, started_ref_ns: i64) -> Value {
    let at = |ns: i64| number(Some(ns.saturating_sub(started_ref_ns) as f64 / 1e9), 9);
    let breaks: Vec<Value> = node.breaks.iter().map(|&(from, to)| json!([at(from), at(to)])).collect();
    json!({
        "name": node.name,
        "kind": node.kind,
        "index": node.index,
        "lost": node.lost,
        "batches": node.batches,
        "clock": {
            "domain": node.clock_domain,
            "track": node.clock,
            "exchanges": node.exchanges,
            "lost_pings": node.lost_pings,
            "lost_in_spool": node.lost_in_spool.map(|lost| json!({
                "records": lost.records,
                "windows": lost.windows,
                "in_flight_samples": lost.in_flight,
                "gpu_samples": lost.gpu_samples,
                "other_readings": lost.evidence,
            })),
            "median_bound_us": json_us(node.median_bound_ns),
            "worst_bound_us": json_us(node.worst_bound_ns),
            "repeatability_us": json_us(node.repeatability_ns),
            "rtt_min_us": json_us(node.rtt_min_ns),
            "breaks_s": breaks,
        },
        "gpu_samples": node.gpu_samples,
        "unaligned_gpu_samples": node.unaligned_gpu_samples,
        "gpu_interval_ms": json_ms(node.gpu_interval_ns.map(|ns| ns as f64)),
        "simulated_gpu": node.simulated_gpu,
        "gpu_absent_reason": node.gpu_absent_reason,
        "probe_cost": sensors::cost(node),
    })
}
