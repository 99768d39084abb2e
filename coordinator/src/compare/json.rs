//! A comparison for scripts. A figure that is not known is null.

use serde_json::{Value, json};

use crate::report::text::number;

use super::{Comparison, Estimate, Finding, Place, Row};

/// The whole of it.
pub fn json(of: &Comparison) -> Value {
    let skipped = |levels: &[(Place, String)]| -> Value {
        levels.iter().map(|(place, why)| json!({ "at": place.json(), "why": why })).collect()
    };
    let alone = |places: &[Place]| -> Value { places.iter().map(Place::json).collect() };
    json!({
        "a": of.names.0,
        "b": of.names.1,
        "verdict": of.verdict.as_str(),
        "gates": of.rule.gates,
        "min_effect": of.rule.min_effect,
        "min_points": of.rule.min_points,
        "intervals": "95 %, block bootstrap within each run with Student's t, not adjusted; p_adjusted: Holm, over the gates \
                      of all levels together and over all other figures together",
        "levels": of.rows.iter().map(row).collect::<Vec<_>>(),
        "only_a": alone(&of.alone.0),
        "only_b": alone(&of.alone.1),
        "skipped_a": skipped(&of.skipped.0),
        "skipped_b": skipped(&of.skipped.1),
        "owed_by_b": of.owed,
        "places": of.places.iter().map(|(what, a, b)| json!({ "what": what, "a": a, "b": b })).collect::<Vec<_>>(),
        "incomparable": of.fit.refusals,
        "cautions": of.fit.cautions,
        "environment": of.environment.iter()
            .map(|d| json!({ "fact": d.fact, "a": d.a, "b": d.b })).collect::<Vec<_>>(),
    })
}

fn row(row: &Row) -> Value {
    json!({
        "name": row.place.name(),
        "concurrency": row.place.load.concurrency(),
        "request_rate": row.place.load.request_rate(),
        "completed": [row.completed.0, row.completed.1],
        "metrics": row.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

fn finding(of: &Finding) -> Value {
    let scaled = |value: f64| number(Some(of.metric.scaled(value)), 6);
    let pair = |(low, high): (f64, f64)| json!([scaled(low), scaled(high)]);
    let plain = |(low, high): (f64, f64)| json!([number(Some(low), 6), number(Some(high), 6)]);
    let side = |estimate: Option<Estimate>| estimate.map_or(Value::Null, |e| scaled(e.value));
    let bar = |estimate: Option<Estimate>| estimate.map_or(Value::Null, |e| pair((e.low, e.high)));
    let change = of.change.as_ref();
    let ratio = change.and_then(|change| change.ratio);
    json!({
        "metric": of.metric.name,
        "unit": of.metric.unit(),
        "gate": of.gate,
        "a": side(of.a),
        "a_ci": bar(of.a),
        "b": side(of.b),
        "b_ci": bar(of.b),
        "difference": change.map_or(Value::Null, |c| scaled(c.difference)),
        "difference_ci": change.map_or(Value::Null, |c| pair(c.difference_interval)),
        "ratio": number(ratio.map(|(ratio, _)| ratio), 6),
        "ratio_ci": ratio.map_or(Value::Null, |(_, ci)| plain(ci)),
        "p": number(change.map(|c| c.p), 9),
        "p_adjusted": number(change.map(|c| c.p_adjusted), 9),
        "verdict": of.verdict.as_str(),
    })
}
