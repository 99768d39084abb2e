//! Stalls for readers: `stalls.csv` with a row each, their sum in `summary.json`, and lines for the terminal.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::knee::duration;
use crate::stall::{Bands, Own, Rule, Stall, Stalls, Verdict};
use crate::stored::RunData;

use super::text::{cell, micros, millis, number, quoted, seconds};

/// Columns of `stalls.csv`. `t_s` is where it begins; `energy_j` lies between the two beside it; `why` has the numbers that
/// led to the verdict.
pub const COLUMNS: &str = "t_s,kind,gap_ms,verdict,confidence,energy_j,energy_low_j,energy_high_j,request_id,agent,level,stream,\
    shard,request,chunk,unended,episode,unc_us,median_itl_ms,socket_wait_ms,unread_share,chunks_after,chunks_after_sped_up,\
    others,others_went_on,others_share,other_agents,other_agents_went_on,gpu_state,gpu_signal,gpu_value,gpu_idle,gpu_busy,\
    gpu_readings,gpu_reach_ms,sm_clock_share,throttle_reasons,energy_from,control,server_cores,io_wait_share,gpu_simulated,\
    server_queue_ms,server_prefill_ms,server_end_s,why";

/// Stalls named in the summary.
const SHOWN: usize = 5;

/// Writes `stalls.csv`: a header alone when there is none.
///
/// # Errors
/// What `out` says.
pub fn write(out: &mut impl Write, stalls: &Stalls, data: &RunData) -> io::Result<()> {
    writeln!(out, "{COLUMNS}")?;
    let simulated = stalls.gpus.iter().any(|gpu| gpu.simulated);
    stalls.all.iter().try_for_each(|stall| row(out, stall, data, simulated))
}

fn row(out: &mut impl Write, stall: &Stall, data: &RunData, simulated: bool) -> io::Result<()> {
    let Stall { gap, evidence: e, judgement, energy, .. } = stall;
    let digits = |value: Option<f64>, n: usize| cell(value.map(|v| format!("{v:.n$}")));
    write!(
        out,
        "{},{},",
        seconds(gap.from_ns.saturating_sub(data.header.started_ref_ns)),
        gap.kind.as_str()
    )?;
    write!(out, "{},{},{:.3},", millis(gap.length_ns()), judgement.verdict.as_str(), judgement.confidence)?;
    for value in [energy.map(|e| e.joules), energy.map(|e| e.low), energy.map(|e| e.high)] {
        write!(out, "{},", digits(value, 3))?;
    }
    let agent = data.nodes.get(&gap.of).map_or("", |node| &node.hello.name);
    write!(out, "{},{},{},{},", quoted(&gap.request_id), quoted(agent), gap.level, gap.stream)?;
    write!(out, "{},{},{},{},{},", gap.shard, gap.request, gap.chunk, gap.unended, stall.episode)?;
    write!(out, "{},{},", micros(gap.bound_ns), cell(gap.median_ns.map(millis)))?;
    write!(out, "{},{:.3},", cell(e.socket_wait_ns.map(millis)), e.unread_share)?;
    write!(out, "{},{},", digits(e.burst.map(|b| b.chunks), 1), digits(e.burst.map(|b| b.share), 3))?;
    let all = e.others.all();
    write!(out, "{},{},{},", all.streams, all.went_on, digits(all.share(), 3))?;
    write!(out, "{},{},", e.others.elsewhere.streams, e.others.elsewhere.went_on)?;
    let gpu = e.gpu.as_ref();
    write!(out, "{},{},", cell(gpu.map(|g| g.state.as_str())), cell(gpu.map(|g| g.signal)))?;
    for value in [gpu.map(|g| g.value), gpu.map(|g| g.idle), gpu.map(|g| g.busy)] {
        write!(out, "{},", digits(value, 1))?;
    }
    write!(out, "{},{},", cell(gpu.map(|g| g.readings)), cell(gpu.map(|g| millis(g.reach_ns))))?;
    write!(out, "{},{},", digits(gpu.and_then(|g| g.clock_share), 3), cell(gpu.map(|g| g.throttle)))?;
    write!(out, "{},{},", cell(energy.map(|e| e.method)), gap.control_raw_ns.is_some())?;
    write!(out, "{},{},{simulated},", digits(e.host.server_cores, 3), digits(e.host.io_share, 3))?;
    let own = e.own.as_ref();
    let part = |of: fn(&Own) -> Option<i64>| cell(own.and_then(of).map(millis));
    let end = own.and_then(|own| own.end).map(|end| end.ns.saturating_sub(data.header.started_ref_ns));
    write!(out, "{},{},{},", part(|own| own.queue_ns), part(|own| own.prefill_ns), cell(end.map(seconds)))?;
    writeln!(out, "{}", quoted(&judgement.why))
}

/// `stalls` of `summary.json`.
pub fn summary(stalls: &Stalls, started_ref_ns: i64) -> Value {
    let Rule { multiple, floor_ns, ttft_multiple } = stalls.rule;
    let verdicts: serde_json::Map<String, Value> = Verdict::ALL
        .iter()
        .map(|&verdict| (verdict.as_str().to_owned(), of_verdict(stalls, verdict)))
        .collect();
    json!({
        "rule": {
            "multiple_of_median_itl": multiple,
            "floor_ms": floor_ns as f64 / 1e6,
            "multiple_of_median_ttft": ttft_multiple,
        },
        "count": stalls.all.len(),
        "episodes": stalls.all.iter().map(|s| s.episode + 1).max().unwrap_or(0),
        "not_judged": stalls.unjudged,
        "requests_without_trace": stalls.without_trace,
        "verdicts": verdicts,
        "longest": longest(stalls, SHOWN).into_iter().map(|s| one(s, started_ref_ns)).collect::<Vec<_>>(),
        "gpus": stalls.gpus.iter().map(|gpu| json!({
            "probe": gpu.probe,
            "gpu": gpu.gpu,
            "simulated": gpu.simulated,
            "bands": gpu.bands.iter().map(|(signal, bands)| ((*signal).to_owned(), band(bands))).collect::<serde_json::Map<_, _>>(),
            "does_not_tell_idle_from_busy": gpu.still,
        })).collect::<Vec<_>>(),
    })
}

fn band(bands: &Bands) -> Value {
    let round = |value: f64| number(Some(value), 3);
    json!({
        "idle_median": round(bands.idle.0),
        "idle_p90": round(bands.idle.1),
        "busy_p25": round(bands.busy.0),
        "busy_median": round(bands.busy.1),
    })
}

fn of_verdict(stalls: &Stalls, verdict: Verdict) -> Value {
    let all: Vec<&Stall> = stalls.all.iter().filter(|s| s.judgement.verdict == verdict).collect();
    let seconds: f64 = all.iter().map(|s| s.gap.length_ns() as f64 / 1e9).sum();
    json!({ "count": all.len(), "seconds": number(Some(seconds), 6) })
}

fn one(stall: &Stall, started_ref_ns: i64) -> Value {
    let energy = stall.energy;
    json!({
        "t_s": number(Some(stall.gap.from_ns.saturating_sub(started_ref_ns) as f64 / 1e9), 9),
        "kind": stall.gap.kind.as_str(),
        "gap_ms": number(Some(stall.gap.length_ns() as f64 / 1e6), 6),
        "request_id": stall.gap.request_id,
        "level": stall.gap.level,
        "verdict": stall.judgement.verdict.as_str(),
        "confidence": number(Some(stall.judgement.confidence), 3),
        "energy_j": [number(energy.map(|e| e.low), 3), number(energy.map(|e| e.joules), 3), number(energy.map(|e| e.high), 3)],
        "why": stall.judgement.why,
    })
}

/// The longest of each episode, longest first.
fn longest(stalls: &Stalls, most: usize) -> Vec<&Stall> {
    let mut of_episode: BTreeMap<usize, &Stall> = BTreeMap::new();
    for stall in &stalls.all {
        let kept = of_episode.entry(stall.episode).or_insert(stall);
        if stall.gap.length_ns() > kept.gap.length_ns() {
            *kept = stall;
        }
    }
    let mut all: Vec<&Stall> = of_episode.into_values().collect();
    all.sort_by_key(|stall| (std::cmp::Reverse(stall.gap.length_ns()), stall.gap.from_ns));
    all.truncate(most);
    all
}

/// For a person: how many of which kind, then the longest with their reasons. Empty when there is none.
pub fn lines(stalls: &Stalls, started_ref_ns: i64, most: usize) -> Vec<String> {
    if stalls.all.is_empty() {
        return Vec::new();
    }
    let Rule { multiple, floor_ns, ttft_multiple } = stalls.rule;
    let episodes = stalls.all.iter().map(|s| s.episode + 1).max().unwrap_or(0);
    let count = |verdict: Verdict| stalls.all.iter().filter(|s| s.judgement.verdict == verdict).count();
    let counts = Verdict::ALL.iter().map(|&v| (count(v), v.words())).filter(|(n, _)| *n > 0);
    let counts: Vec<String> = counts.map(|(n, words)| format!("{n} {words}")).collect();
    let mut lines = vec![format!(
        "stalls: {} in {episodes} episodes (gaps of {} and more that are {multiple} × the stream's own median gap, first tokens of {ttft_multiple} × \
         their level's median): {}",
        stalls.all.len(),
        duration(floor_ns.unsigned_abs()),
        counts.join(", ")
    )];
    if stalls.gpus.iter().any(|gpu| gpu.simulated) {
        lines.push("stalls: the GPU is SIMULATED: its watts and joules mean nothing".to_owned());
    }
    for stall in longest(stalls, most) {
        lines.push(line(
            stall,
            started_ref_ns,
            stalls.all.iter().filter(|s| s.episode == stall.episode).count(),
        ));
    }
    if stalls.unjudged > 0 {
        lines.push(format!("stalls: {} shorter ones are not judged", stalls.unjudged));
    }
    lines
}

fn line(stall: &Stall, started_ref_ns: i64, together: usize) -> String {
    let Stall { gap, judgement, energy, .. } = stall;
    let at = gap.from_ns.saturating_sub(started_ref_ns) as f64 / 1e9;
    let length = duration(gap.length_ns().max(0).unsigned_abs());
    let joules =
        energy.map_or(String::new(), |e| format!(", {:.0} J ({:.0}–{:.0})", e.joules, e.low, e.high));
    let others = if together > 1 { format!(", one of {together}") } else { String::new() };
    let sure = match judgement.verdict {
        Verdict::CantTell => String::new(),
        _ => format!(" {:.0} %", 100.0 * judgement.confidence),
    };
    let kind = if gap.kind.as_str() == "ttft" { " before the first token" } else { "" };
    let control = if gap.control_raw_ns.is_some() { ", a control" } else { "" };
    format!(
        "  {length}{kind} at {at:.3} s, level {}{others}{control}: {}{sure}{joules}: {}",
        gap.level,
        judgement.verdict.words(),
        judgement.why
    )
}
