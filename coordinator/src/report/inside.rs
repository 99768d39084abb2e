//! What servers told of themselves, as JSON: `levels[].inside`, `levels[].server` and `inside` of `summary.json`.

use serde_json::{Value, json};
use tailcliff_proto::v1::{ServerLatency, SpanTally};

use crate::inside::{Cross, LevelInside, Part, PartFigures, ServerLevel, Summary};

use super::text::{json_ms, json_us, number};

/// The waterfall of a level; null when its server said nothing.
pub(super) fn level(inside: Option<&LevelInside>) -> Value {
    let Some(of) = inside else { return Value::Null };
    let sources = of.sources.iter().map(|(source, n)| json!({ "source": source.as_str(), "requests": n }));
    let servers = of.servers.iter().map(|(server, n)| json!({ "server": server, "requests": n }));
    json!({
        "joined": of.joined,
        "unmatched": of.unmatched,
        "sources": sources.collect::<Vec<_>>(),
        "servers": servers.collect::<Vec<_>>(),
        "front_ms": json_ms(of.front_ns),
        "front_share": number(of.front_share, 6),
        "impossible": of.impossible,
        "unplaced": of.unplaced,
        "bound_us": json_us(of.bound_ns),
        "worst_bound_us": json_us(of.worst_bound_ns),
        "delivery_ms": json_ms(of.delivery_ns),
        "parts": of.parts.iter().map(part).collect::<Vec<_>>(),
    })
}

fn part(of: &PartFigures) -> Value {
    json!({
        "part": of.part.as_str(),
        "words": of.part.words(),
        "how": of.how.as_str(),
        "count": of.count,
        "mean_ms": json_ms(Some(of.mean_ns)),
        "p95_ms": json_ms(Some(of.p95_ns as f64)),
        "impossible": of.impossible,
    })
}

/// What the metrics say of a level; null without a scrape.
pub(super) fn server(server: Option<&ServerLevel>) -> Value {
    let Some(of) = server else { return Value::Null };
    let gauge = |pair: Option<(f64, f64)>| {
        pair.map_or(
            Value::Null,
            |(mean, max)| json!({ "mean": number(Some(mean), 6), "max": number(Some(max), 6) }),
        )
    };
    let named = of.named.iter().map(|(series, mean, max)| {
        json!({ "series": series, "mean": number(Some(*mean), 9), "max": number(Some(*max), 9) })
    });
    json!({
        "scrapes": of.scrapes,
        "failed": of.failed,
        "took_ms": json_ms(of.took_ns.map(|ns| ns as f64)),
        "running": gauge(of.running),
        "waiting": gauge(of.waiting),
        "kv_usage": gauge(of.kv_usage),
        "preemptions": number(of.preemptions, 3),
        "cache_hit": number(of.cache_hit, 6),
        "spec_accepted": number(of.spec_accepted, 6),
        "named": named.collect::<Vec<_>>(),
        "cross": of.cross.iter().map(cross).collect::<Vec<_>>(),
        "notes": of.notes,
    })
}

fn cross(of: &Cross) -> Value {
    let p95 = of.server_p95_ns.map_or(Value::Null, |(low, high)| json!([json_ms(Some(low)), json_ms(high)]));
    json!({
        "of": latency(of.of),
        "server_count": of.server_count,
        "client_count": of.client_count,
        "server_mean_ms": json_ms(Some(of.server_mean_ns)),
        "client_mean_ms": json_ms(of.client_mean_ns),
        "difference_ms": json_ms(of.difference_ns),
        "server_p95_ms": p95,
        "words": of.words,
    })
}

/// The name of a latency in files.
fn latency(of: ServerLatency) -> &'static str {
    match of {
        ServerLatency::Unspecified => "",
        ServerLatency::Ttft => "ttft",
        ServerLatency::Itl => "itl",
        ServerLatency::Tpot => "tpot",
        ServerLatency::E2e => "e2e",
        ServerLatency::Queue => "queue",
        ServerLatency::Prefill => "prefill",
        ServerLatency::Decode => "decode",
    }
}

/// Of the run as a whole; null when nobody told anything.
pub(super) fn run(of: &Summary, started_ref_ns: i64) -> Value {
    if *of == Summary::default() {
        return Value::Null;
    }
    let step = |(probe, by_ns, at_ns): &(String, i64, i64)| {
        let t_s = at_ns.saturating_sub(started_ref_ns) as f64 / 1e9;
        json!({ "probe": probe, "by_ms": json_ms(Some(*by_ns as f64)), "t_s": number(Some(t_s), 9) })
    };
    json!({
        "spans": of.spans,
        "unmatched_spans": of.unmatched_spans,
        "told_twice": of.told_twice,
        "tallies": of.tallies.iter().map(|(probe, tally)| self::tally(probe, tally)).collect::<Vec<_>>(),
        "wall_steps": of.wall_steps.iter().map(step).collect::<Vec<_>>(),
        "warnings": of.warnings,
    })
}

fn tally(probe: &str, of: &SpanTally) -> Value {
    json!({
        "probe": probe,
        "received": of.received,
        "over_rate": of.over_rate,
        "without_ids": of.without_ids,
        "without_room": of.without_room,
        "malformed": of.malformed,
        "turned_away": of.turned_away,
        "lines": of.lines,
        "bad_lines": of.bad_lines,
        "put_off": of.put_off,
    })
}

/// For `levels.csv`: the figures that a table over levels is read for, by name.
pub(super) fn columns(
    inside: Option<&LevelInside>,
    server: Option<&ServerLevel>,
) -> Vec<(&'static str, Value)> {
    let mean = |part: Part| {
        let of = inside.and_then(|of| of.parts.iter().find(|figures| figures.part == part));
        json_ms(of.map(|figures| figures.mean_ns))
    };
    let gauge =
        |read: fn(&ServerLevel) -> Option<(f64, f64)>| number(server.and_then(read).map(|(mean, _)| mean), 6);
    vec![
        ("inside_joined", json!(inside.map(|of| of.joined))),
        ("inside_unmatched", json!(inside.map(|of| of.unmatched))),
        ("inside_impossible", json!(inside.map(|of| of.impossible))),
        ("inside_bound_us", json_us(inside.and_then(|of| of.bound_ns))),
        ("mean_inside_network_up_ms", mean(Part::NetworkUp)),
        ("mean_inside_front_ms", json_ms(inside.and_then(|of| of.front_ns))),
        ("mean_inside_queue_ms", mean(Part::Queue)),
        ("mean_inside_prefill_ms", mean(Part::Prefill)),
        ("mean_inside_decode_ms", mean(Part::Decode)),
        ("mean_inside_network_down_ms", mean(Part::NetworkDown)),
        ("server_running_mean", gauge(|of| of.running)),
        ("server_waiting_mean", gauge(|of| of.waiting)),
        ("server_kv_usage_mean", gauge(|of| of.kv_usage)),
        ("server_preemptions", number(server.and_then(|of| of.preemptions), 3)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::{merge, testrun};
    use crate::report::{inside_sample, levels_csv, summary};

    #[test]
    fn the_summary_tells_what_the_server_told() {
        let data = inside_sample::run();
        let told = summary::summary(&inside_sample::merged(&data));
        let (level, last) = (&told["levels"][0], &told["levels"][2]);
        let inside = &level["inside"];
        let count = |key: &str| inside[key].as_u64().unwrap();
        assert_eq!(count("joined") + count("unmatched"), level["completed"].as_u64().unwrap());
        assert!(count("joined") > 20 && count("unmatched") > 0 && count("impossible") > 0);
        assert_eq!(
            (inside["bound_us"].as_f64(), inside["sources"][0]["source"].as_str()),
            (Some(40.0), Some("spans"))
        );
        let part = |level: &Value, name: &str| {
            level["inside"]["parts"].as_array().unwrap().iter().find(|p| p["part"] == name).cloned()
        };
        let up = part(level, "network_up").unwrap();
        assert_eq!(up["how"], "between clocks");
        // Most are 0.2 ms, some −0.08 ms, and none is left out.
        let odd = up["impossible"].as_u64().unwrap() as f64;
        let mean = (0.2 * (count("joined") as f64 - odd) - 0.08 * odd) / count("joined") as f64;
        assert!((up["mean_ms"].as_f64().unwrap() - mean).abs() < 1e-5, "{up} {mean}");
        assert_eq!(part(last, "network_up"), None, "a reply tells none");
        assert_eq!((&last["inside"]["bound_us"], &last["inside"]["front_ms"]), (&Value::Null, &Value::Null));
        assert_eq!(part(last, "queue").unwrap()["how"], "inferred");
        let server = &level["server"];
        assert_eq!(server["kv_usage"], json!({ "mean": 0.312, "max": 0.5 }));
        assert_eq!((&server["spec_accepted"], &server["named"][0]["mean"]), (&Value::Null, &json!(7.0)));
        assert_eq!(server["cross"][0]["difference_ms"], json!(0.6));
        assert_eq!(server["cross"][1]["client_mean_ms"], Value::Null);
        assert_eq!(server["cross"][1]["server_p95_ms"], json!([20.0, null]));
        assert_eq!(
            told["inside"]["wall_steps"][0],
            json!({ "probe": "probe", "by_ms": -2000.0, "t_s": 20.0 })
        );
        let tally = &told["inside"]["tallies"][0];
        assert_eq!((&tally["malformed"], &tally["put_off"]), (&json!(2), &json!(3)));
    }

    #[test]
    fn of_a_server_that_said_nothing_all_is_null_and_the_columns_stay() {
        let silent = merge(&testrun::run(1, 1, &[1]));
        let told = summary::summary(&silent);
        assert!(told["levels"][0]["inside"].is_null() && told["levels"][0]["server"].is_null());
        assert!(told["inside"].is_null() && told.get("inside").is_some());
        let csv = |merged: &crate::merge::Merged| {
            let mut out = Vec::new();
            levels_csv::write(&mut out, merged).unwrap();
            String::from_utf8(out).unwrap()
        };
        let (without, with) = (csv(&silent), csv(&inside_sample::merged(&inside_sample::run())));
        assert_eq!(without.lines().next(), with.lines().next());
        let header: Vec<&str> = with.lines().next().unwrap().split(',').collect();
        assert!(header.ends_with(&["server_waiting_mean", "server_kv_usage_mean", "server_preemptions"]));
        assert!(without.trim_end().ends_with(",,,,,"), "{without}");
        assert!(with.trim_end().ends_with(",2.0,1.5,0.312,2.0"), "{with}");
    }
}
