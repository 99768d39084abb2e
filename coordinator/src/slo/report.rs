//! What is said of an SLO: the `slo` part of `summary.json`, and its words.

use serde_json::{Value, json};

use crate::axis::Load;
use crate::knee::duration;
use crate::levels::Level;
use crate::merge::Merged;
use crate::plan::SloPlan;
use crate::report::text::{json_ms, number};

use super::{Capacity, Economy};

/// The limits in words.
pub(crate) fn terms(slo: &SloPlan) -> String {
    let one = |(metric, ns): &(String, i64)| format!("{metric} ≤ {}", duration(ns.max(&0).unsigned_abs()));
    slo.terms.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A share in percent, with no more digits than tell it from 1.
pub(crate) fn percent(share: f64) -> String {
    let text = format!("{:.2}", (share * 1e4).floor() / 1e2);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

pub(super) fn words(found: &Capacity) -> String {
    let slo = &found.slo;
    let mut words = format!("SLO {} for {} of requests: ", terms(slo), percent(slo.share));
    words.push_str(&match (found.at, found.share, found.fails_at) {
        (Some(at), Some((share, (low, high))), fails) => {
            let doubt = if found.sure { "" } else { ", whose interval reaches below what is asked" };
            let then = match fails {
                Some((load, share)) => format!("; at {load} {}", percent(share)),
                None => "; no level broke it, so the limit lies above".to_owned(),
            };
            format!(
                "kept up to {} ({} good, 95 % interval {} to {}{doubt}), {:.2} req/s{then}",
                at.words(),
                percent(share),
                percent(low),
                percent(high),
                found.request_rate.unwrap_or(0.0),
            )
        }
        (_, _, Some((load, share))) => {
            format!("not kept even at {}, where {} of requests are good", load.words(), percent(share))
        }
        _ => "no usable level to judge".to_owned(),
    });
    words.push_str(&economy_words(found));
    let skipped: Vec<String> = found.skipped.iter().map(|(load, why)| format!("{load} ({why})")).collect();
    if !skipped.is_empty() {
        words.push_str(&format!("; not judged: {}", skipped.join(", ")));
    }
    words
}

fn economy_words(found: &Capacity) -> String {
    let Some((goodput, tokens)) = found.goodput.zip(found.output_tokens) else { return String::new() };
    let per_usd = found.economy.usd_per_hour.map(|usd| {
        format!(
            "; {:.0} good requests and {:.0} output tokens per $",
            goodput * 3600.0 / usd,
            tokens * 3600.0 / usd
        )
    });
    let per_joule = found.economy.power.filter(|power| power.watts > 0.0).map(|power| {
        let simulated = if power.simulated { " (SIMULATED)" } else { "" };
        let (of, w) = (power.gpus, power.watts);
        format!("; {:.2} output tokens per J of {of} GPU(s) at {w:.0} W{simulated}", tokens / w)
    });
    per_usd.unwrap_or_default() + &per_joule.unwrap_or_default()
}

/// `slo` of the summary.
pub(crate) fn summary(found: Option<&Capacity>) -> Value {
    let Some(found) = found else { return Value::Null };
    let slo = &found.slo;
    let term =
        |(metric, ns): &(String, i64)| json!({ "metric": metric, "limit_ms": json_ms(Some(*ns as f64)) });
    let place = |load: Option<Load>| load.map_or(Value::Null, |load| load.json());
    json!({
        "terms": slo.terms.iter().map(term).collect::<Vec<_>>(),
        "share": slo.share,
        "at": place(found.at),
        "axis": found.at.or(found.fails_at.map(|(load, _)| load)).map(|load| load.axis()),
        "share_at": number(found.share.map(|(share, _)| share), 6),
        "share_at_ci": found.share.map_or(Value::Null, |(_, ci)| pair(ci)),
        "sure": found.at.map(|_| found.sure),
        "request_rate_at": number(found.request_rate, 6),
        "request_goodput_at": number(found.goodput, 6),
        "output_throughput_at": number(found.output_tokens, 6),
        "fails_at": place(found.fails_at.map(|(load, _)| load)),
        "surely_kept_up_to": place(found.between.0),
        "surely_broken_from": place(found.between.1),
        "per_usd_hour": per_usd(found, &found.economy),
        "per_watt": per_watt(found, &found.economy),
        "skipped": found.skipped.iter().map(|(load, why)| json!({ "at": load.json(), "why": why })).collect::<Vec<_>>(),
        "words": found.words,
    })
}

fn pair((low, high): (f64, f64)) -> Value {
    json!([number(Some(low), 6), number(Some(high), 6)])
}

fn per_usd(found: &Capacity, economy: &Economy) -> Value {
    let Some((usd, (goodput, tokens))) = economy.usd_per_hour.zip(found.goodput.zip(found.output_tokens))
    else {
        return Value::Null;
    };
    json!({
        "usd_per_hour": usd,
        "good_requests_per_usd": number(Some(goodput * 3600.0 / usd), 3),
        "output_tokens_per_usd": number(Some(tokens * 3600.0 / usd), 3),
        "usd_per_million_output_tokens": number((tokens > 0.0).then(|| usd / (tokens * 3600.0) * 1e6), 6),
    })
}

fn per_watt(found: &Capacity, economy: &Economy) -> Value {
    let power = economy.power.filter(|power| power.watts > 0.0);
    let Some((power, (goodput, tokens))) = power.zip(found.goodput.zip(found.output_tokens)) else {
        return Value::Null;
    };
    json!({
        "power_w": number(Some(power.watts), 3),
        "gpus": power.gpus,
        "simulated": power.simulated,
        "good_requests_per_joule": number(Some(goodput / power.watts), 9),
        "output_tokens_per_joule": number(Some(tokens / power.watts), 6),
        "joules_per_good_request": number((goodput > 0.0).then(|| power.watts / goodput), 6),
    })
}

/// A level's own figures; null without an SLO.
pub(crate) fn level<T>(put: &mut impl FnMut(&str, Value) -> T, level: &Level) {
    let kept = level.kept.as_ref();
    let goodput = kept.and(level.throughput).map(|t| t.good_requests);
    put("request_goodput", number(goodput.map(|rate| rate.per_s), 6));
    put("request_goodput_ci", goodput.and_then(|rate| rate.interval).map_or(Value::Null, pair));
    put("slo_share", number(kept.and_then(|kept| kept.share()), 6));
    put("slo_share_ci", kept.and_then(|kept| kept.interval(&level.blocks)).map_or(Value::Null, pair));
    put("slo_good", json!(kept.map(|kept| kept.good)));
    put("slo_bad", json!(kept.map(|kept| kept.bad)));
    put("slo_censored", json!(kept.map(|kept| kept.censored)));
}

/// A level judged again, with its name.
pub(crate) fn judged_level(of: &Level) -> Value {
    let mut out = serde_json::Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    put("level", json!(of.drive.level));
    put("attempt", json!(of.drive.attempt));
    put("concurrency", json!(of.load.concurrency()));
    put("request_rate", json!(of.load.request_rate()));
    level(&mut put, of);
    Value::Object(out)
}

/// Every level and the finding, for a terminal.
pub(crate) fn table(merged: &Merged, width: usize) -> String {
    let dash = || "–".to_owned();
    let row = |of: &Level| {
        let kept = of.kept.unwrap_or_default();
        let interval = kept
            .interval(&of.blocks)
            .map_or(dash(), |(low, high)| format!("{} to {}", percent(low), percent(high)));
        let goodput = of.throughput.map_or(dash(), |t| format!("{:.2}", t.good_requests.per_s));
        let load = format!("{}{}", of.load, of.drive.again());
        [load, goodput, kept.share().map_or(dash(), percent), interval, kept.censored.to_string()]
    };
    let titles = ["load", "good/s", "good", "95 %", "censored"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(titles).chain(merged.levels.iter().map(row)).collect();
    let wide = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().enumerate().map(|(i, cell)| format!("{cell:>0$}", wide(i))).collect();
        out += cells.join("  ").trim_end();
        out.push('\n');
    }
    let words = merged.slo.as_ref().map_or("", |slo| slo.words.as_str());
    out + "\n" + &crate::compare::wrap(words, width)
}
