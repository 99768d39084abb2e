//! `levels[].trace` of `summary.json`: what trace mode says of a level. ns as integers but for means.

use serde_json::{Map, Value, json};

use crate::trace::{Figures, Trace, Worker};

use super::text::number;

/// The whole of it.
pub(crate) fn trace(trace: &Trace) -> Value {
    let stages: Vec<Value> = trace.stages().iter().map(stage).collect();
    let (control, workers) = trace.worst_threads();
    let threads = |all: Vec<&Worker>| all.into_iter().map(thread).collect::<Vec<_>>();
    json!({
        "counts": {
            "issued": trace.counts.issued,
            "completed": trace.counts.completed,
            "failed": trace.counts.failed,
            "incomplete": trace.counts.incomplete,
            "output_tokens": trace.counts.output_tokens,
        },
        "stages": stages,
        "verdict": verdict(trace),
        "scheduler_lag": {
            "fleet_p99_ns": trace.fleet_p99_ns(),
            "workers": trace.worker_count(),
            "hot_workers": trace.hot_workers(),
            "control": threads(control),
            "worst_workers": threads(workers),
        },
        "tcp_established": trace.tcp_established(),
        "dropped_events": trace.dropped_events,
        "impossible_stages": trace.impossible,
        "unreadable": trace.unreadable,
        "agents": trace.agents,
        "agents_with_a_last_word": trace.finals,
    })
}

fn stage(stage: &crate::trace::Stage) -> Value {
    let mut out = Map::new();
    out.insert("stage".to_owned(), json!(stage.key));
    out.insert("side".to_owned(), json!(Some(stage.side.as_str()).filter(|side| !side.is_empty())));
    out.insert("share_of_e2e".to_owned(), number(stage.share, 6));
    figures(&mut out, stage.figures.as_ref());
    Value::Object(out)
}

fn thread(worker: &Worker) -> Value {
    let mut out = Map::new();
    out.insert("agent".to_owned(), json!(worker.agent));
    out.insert("shard".to_owned(), json!(worker.shard));
    figures(&mut out, Some(&worker.figures));
    Value::Object(out)
}

fn figures(out: &mut Map<String, Value>, figures: Option<&Figures>) {
    let mut put = |key: &str, value| drop(out.insert(key.to_owned(), value));
    put("n", json!(figures.map_or(0, |f| f.n)));
    put("mean_ns", number(figures.map(|f| f.mean_ns), 1));
    let mut whole = |key, part: fn(&Figures) -> u64| put(key, json!(figures.map(part)));
    whole("min_ns", |f| f.min_ns);
    whole("p50_ns", |f| f.p50_ns);
    whole("p99_ns", |f| f.p99_ns);
    whole("max_ns", |f| f.max_ns);
}

/// Shares of E2E: client + network + server = 1.
fn verdict(trace: &Trace) -> Value {
    let Some(verdict) = trace.verdict() else { return Value::Null };
    let share = |share: f64| number(Some(share), 6);
    let parts = verdict.parts.iter().map(|(key, _, share)| ((*key).to_owned(), number(*share, 6)));
    json!({
        "client": share(verdict.client),
        "network": share(verdict.network),
        "server": share(verdict.server),
        "backpressure": share(verdict.backpressure),
        "client_parts": parts.collect::<Map<_, _>>(),
    })
}
