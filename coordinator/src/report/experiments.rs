//! What experiments say in `summary.json`: `baseline`, `grid` and `overload`, each null where the run was no such one.

use serde_json::{Value, json};

use crate::experiment::Experiment;
use crate::experiment::baseline::Baseline;
use crate::experiment::figures::Figures;
use crate::experiment::grid::{Grid, GridCell};
use crate::experiment::overload::{Failures, Overload, Recovery, Rung, SLACK};
use crate::experiment::single::Again;
use crate::plan::Cell;

use super::text::{json_ms, number};

/// `baseline`.
pub(super) fn baseline(experiment: &Experiment) -> Value {
    match experiment {
        Experiment::Baseline(Some(found)) => of_baseline(found),
        _ => Value::Null,
    }
}

/// `grid`.
pub(super) fn grid(experiment: &Experiment) -> Value {
    match experiment {
        Experiment::Grid(found) => of_grid(found),
        _ => Value::Null,
    }
}

/// `overload`.
pub(super) fn overload(experiment: &Experiment) -> Value {
    match experiment {
        Experiment::Overload(found) => of_overload(found),
        _ => Value::Null,
    }
}

/// What a rung asks for in place of the plan's own; all null in a sweep.
pub(super) fn cell(cell: Option<&Cell>) -> Value {
    json!({
        "prompt_chars": cell.and_then(|cell| cell.prompt_chars),
        "max_tokens": cell.and_then(|cell| cell.output_len),
        "request_timeout_s": seconds(cell.and_then(|cell| cell.request_timeout_ns)),
    })
}

fn seconds(ns: Option<i64>) -> Value {
    number(ns.map(|ns| ns as f64 / 1e9), 9)
}

/// Exact figures by nearest rank, in units of `scale`.
fn figures(figures: Option<&Figures>, scale: f64) -> Value {
    let Some(of) = figures else { return Value::Null };
    let value = |v: f64| number(Some(v / scale), 6);
    let bin = |&(from, to, n): &(f64, f64, usize)| json!({ "from": value(from), "to": value(to), "n": n });
    json!({
        "n": of.n(),
        "mean": value(of.mean),
        "std": number(of.std().map(|std| std / scale), 6),
        "min": value(of.min()),
        "p25": value(of.at(25.0)),
        "p50": value(of.at(50.0)),
        "p75": value(of.at(75.0)),
        "p95": value(of.at(95.0)),
        "p99": value(of.at(99.0)),
        "max": value(of.max()),
        "spread": number(of.spread(), 6),
        "whiskers": [value(of.whiskers().0), value(of.whiskers().1)],
        "bins": of.bins().iter().map(bin).collect::<Vec<_>>(),
        "values": of.values.iter().map(|&v| value(v)).collect::<Vec<_>>(),
    })
}

fn of_baseline(found: &Baseline) -> Value {
    json!({
        "figures": "exact, by nearest rank; spread = (max - min) / p50",
        "voided": found.voided,
        "not_completed": found.not_completed,
        "e2el_ms": figures(Some(&found.e2e_ns), 1e6),
        "ttft_ms": figures(found.ttft_ns.as_ref(), 1e6),
        "tpot_ms": figures(found.tpot_ns.as_ref(), 1e6),
        "tokens_per_s": figures(found.tokens_per_s.as_ref(), 1.0),
        "proxy_tokens": found.proxy_tokens,
    })
}

fn of_grid(found: &Grid) -> Value {
    let matrix = |percent: f64| -> Value {
        let row = |&chars: &u32| -> Value {
            let ns = |&tokens: &u32| {
                json_ms(found.cell(chars, tokens).and_then(|cell| cell.percentile_ns(percent)))
            };
            found.max_tokens.iter().map(ns).collect()
        };
        found.prompt_chars.iter().map(row).collect()
    };
    json!({
        "figures": "exact, by nearest rank; rows by prompt_chars, columns by max_tokens",
        "prompt_chars": found.prompt_chars,
        "max_tokens": found.max_tokens,
        "p50_e2el_ms": matrix(50.0),
        "p95_e2el_ms": matrix(95.0),
        "cells": found.cells.iter().map(of_cell).collect::<Vec<_>>(),
    })
}

fn of_cell(cell: &GridCell) -> Value {
    let ms = |figures: Option<&Figures>, percent: f64| json_ms(figures.map(|f| f.at(percent)));
    let counts = cell.voided.is_none();
    let (e2e, ttft) = (cell.e2e_ns.as_ref().filter(|_| counts), cell.ttft_ns.as_ref().filter(|_| counts));
    json!({
        "prompt_chars": cell.prompt_chars,
        "max_tokens": cell.max_tokens,
        "level": cell.level,
        "voided": cell.voided,
        "completed": cell.completed,
        "not_completed": cell.not_completed,
        "sent_prompt_chars": cell.sent_chars.map(|(low, high)| json!([low, high])),
        "p50_e2el_ms": ms(e2e, 50.0),
        "p95_e2el_ms": ms(e2e, 95.0),
        "p50_ttft_ms": ms(ttft, 50.0),
        "p95_ttft_ms": ms(ttft, 95.0),
        "mean_output_tokens": number(cell.output_tokens.as_ref().map(|tokens| tokens.mean), 3),
    })
}

fn of_overload(found: &Overload) -> Value {
    let p95 = |figures: Option<&Figures>| json_ms(figures.map(|figures| figures.at(95.0)));
    json!({
        "recovered": found.recovered(),
        "words": found.words(),
        "slack": SLACK,
        "baseline": found.baseline.as_ref().map(|usual| json!({
            "n": usual.e2e_ns.n(),
            "p95_e2el_ms": p95(Some(&usual.e2e_ns)),
            "p95_ttft_ms": p95(usual.ttft_ns.as_ref()),
        })),
        "rungs": found.rungs.iter().map(of_rung).collect::<Vec<_>>(),
        "failures": found.failures().iter().map(failures).collect::<Vec<_>>(),
        "retries": found.retry_words(),
        // Nothing that a server of this kind tells every client says it.
        "load_kept_after_timeouts": Value::Null,
        "recoveries": found.recoveries.iter().map(recovery).collect::<Vec<_>>(),
    })
}

fn of_rung(rung: &Rung) -> Value {
    json!({
        "level": rung.level,
        "concurrency": rung.concurrency,
        "request_timeout_s": seconds(Some(rung.timeout_ns)),
        "voided": rung.voided,
        "completed": rung.counts.completed,
        "failed": rung.counts.failed,
        "incomplete": rung.counts.incomplete,
        "unreported": rung.counts.unreported,
        "error_rate": number(rung.counts.error_rate(), 6),
        "p95_e2el_ms": json_ms(rung.e2e_ns.as_ref().map(|figures| figures.at(95.0))),
        "failures": rung.failures.iter().map(failures).collect::<Vec<_>>(),
    })
}

fn failures(failures: &Failures) -> Value {
    let again = match failures.again {
        Again::TurnedAway => "turned away: another try may find room",
        Again::WorkTwice => "the server may still be at it: another try is the same work twice",
        Again::Unknown => "unknown",
    };
    json!({
        "class": failures.class,
        "count": failures.count,
        "another_try": again,
        "sample": Some(&failures.sample).filter(|sample| !sample.is_empty()),
    })
}

fn recovery(recovery: &Recovery) -> Value {
    json!({
        "request_timeout_s": seconds(Some(recovery.timeout_ns)),
        "recovered": recovery.recovered,
        "after_s": seconds(recovery.after_ns),
        "first_probe_after_s": seconds(recovery.probed_after_ns),
        "probes": recovery.probes,
        "good": recovery.good,
        "words": recovery.words,
    })
}
