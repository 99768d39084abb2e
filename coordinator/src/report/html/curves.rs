//! A level's distributions as a few points each, from its merged histograms: for curves of quantiles, and for boxes.

use serde_json::{Value, json};

use crate::levels::{Level, Metric};
use crate::report::text::{json_ms, number};

/// Of a run with more levels than this, each curve has half the points.
const MANY: usize = 24;

/// The curves of one level.
pub(super) fn level(level: &Level, levels: usize) -> Value {
    let metrics = level.latencies.named();
    let of = |(name, metric): (&str, &Metric)| (name.to_owned(), one(metric, levels > MANY));
    json!({
        "level": level.drive.level,
        "metrics": metrics.into_iter().map(of).collect::<serde_json::Map<_, _>>(),
    })
}

fn one(metric: &Metric, coarse: bool) -> Value {
    let Some((min, max)) = metric.histogram.min_max_ns() else { return Value::Null };
    let ms = |ns: u64| json_ms(Some(ns as f64));
    let at = |percent: f64| metric.percentile_ns(percent).map_or(Value::Null, ms);
    json!({
        "count": metric.histogram.len(),
        "quantiles": points(metric, coarse),
        "box": {
            "min": ms(min), "p5": at(5.0), "p25": at(25.0), "median": at(50.0), "p75": at(75.0), "p95": at(95.0), "p99": at(99.0),
            "max": ms(max), "mean": json_ms(metric.mean_ns()),
        },
    })
}

/// [quantile, ms], at most some 130: every hundredth, then ever closer to 1, as far as there are values to tell.
fn points(metric: &Metric, coarse: bool) -> Vec<Value> {
    let count = metric.histogram.len() as f64;
    let step = if coarse { 2 } else { 1 };
    let body = (0..99).step_by(step).map(|percent| f64::from(percent) / 100.0);
    let tail = (0..=40).step_by(step).map(|i| 1.0 - 10f64.powf(-2.0 - f64::from(i) / 10.0));
    let told = tail.take_while(|q| (1.0 - q) * count >= 1.0);
    let all = body.chain(told).chain([1.0]);
    all.filter_map(|q| {
        let ns = metric.histogram.quantile_ns(q)?;
        Some(json!([number(Some(q), 7), json_ms(Some(ns as f64))]))
    })
    .collect()
}
