//! The evidence in words: each signal with its numbers below and above the bend.

use crate::knee::duration;

use super::Evidence;
use super::gpu::LevelGpu;
use super::judge::Bend;
use super::seen::Seen;

/// Of a bend that is not the client's.
pub(super) fn of(bend: &Bend<'_>, waiting: Option<f64>) -> Vec<Evidence> {
    let (below, above) = (bend.below, bend.above);
    let mut all = times_of(below, above, waiting);
    let pairs = [
        ("answers at once", pair(below, above, most_at_once)),
        ("pauses", pair(below, above, paused)),
        ("reads", pair(below, above, together)),
        ("GPU", pair(below, above, |level| level.gpu.as_ref().map(gpu))),
        ("server's host", pair(below, above, nic)),
        ("server", pair(below, above, server)),
    ];
    all.extend(pairs.into_iter().filter_map(|(signal, words)| Some(Evidence { signal, words: words? })));
    all
}

/// What does not need the server's figures to be the server's.
pub(super) fn of_client(below: &Seen, above: &Seen) -> Vec<Evidence> {
    times_of(below, above, None)
}

fn times_of(below: &Seen, above: &Seen, waiting: Option<f64>) -> Vec<Evidence> {
    let share = waiting.map(|share| format!(" ({:.0} % of what answers became longer by)", percent(share)));
    let share = share.unwrap_or_default();
    let pairs = [
        ("throughput", pair(below, above, |l| l.throughput.map(|x| format!("{x:.2} req/s")))),
        ("TTFT", pair(below, above, |l| l.ttft_ns.map(time)).map(|words| format!("mean {words}{share}"))),
        ("TPOT", pair(below, above, |l| l.tpot_ns.map(time)).map(|words| format!("mean {words}"))),
        ("E2E", pair(below, above, |l| l.e2e_ns.map(time)).map(|words| format!("mean {words}"))),
    ];
    pairs.into_iter().filter_map(|(signal, words)| Some(Evidence { signal, words: words? })).collect()
}

/// `a at 4, b at 8`; `None` unless one is known.
fn pair(below: &Seen, above: &Seen, of: impl Fn(&Seen) -> Option<String>) -> Option<String> {
    let (a, b) = (of(below), of(above));
    let known = a.is_some() || b.is_some();
    let text = |value: Option<String>| value.unwrap_or_else(|| "not known".to_owned());
    known.then(|| format!("{} at {}, {} at {}", text(a), below.load, text(b), above.load))
}

fn most_at_once(level: &Seen) -> Option<String> {
    let in_flight = level.load.concurrency().map_or_else(String::new, |n| format!(" of {n} in flight"));
    let (most, mean) = (level.most_at_once?, level.at_once?);
    Some(format!("at most {most:.0}{in_flight} (mean {mean:.1})"))
}

fn paused(level: &Seen) -> Option<String> {
    Some(format!("{:.1} % of answers in mid-stream while others went on", percent(level.paused?)))
}

fn together(level: &Seen) -> Option<String> {
    Some(format!("{:.0} % of chunks with the one before", percent(level.together?)))
}

fn gpu(gpu: &LevelGpu) -> String {
    let figure = |value: Option<f64>, unit: &str| value.map(|v| format!("{v:.0} {unit}"));
    let held = gpu.throttled_share.map(|share| format!("held down {:.0} % of the time", percent(share)));
    let parts =
        [figure(gpu.util_pct, "% busy"), figure(gpu.power_w, "W"), figure(gpu.sm_clock_mhz, "MHz"), held];
    let mark = gpu.simulated.then(|| "SIMULATED".to_owned());
    parts.into_iter().flatten().chain(mark).collect::<Vec<_>>().join(" ")
}

fn nic(level: &Seen) -> Option<String> {
    Some(format!("{:.2} MB/s sent", level.nic_bytes_per_s? / 1e6))
}

fn server(level: &Seen) -> Option<String> {
    let server = level.server.as_ref()?;
    let parts = [
        server.kv_used.map(|share| format!("KV {:.0} % full", percent(share))),
        server.preemptions.map(|n| format!("{n:.0} preemptions")),
        server.waiting.map(|n| format!("{n:.1} waiting")),
        server.delivery_ns.map(|ns| format!("tokens delivered in {}", time(ns))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

/// A share in percent, never −0.
pub(super) fn percent(share: f64) -> f64 {
    (share * 1000.0).round() / 10.0 + 0.0
}

/// `2.1 ×`.
pub(super) fn times(factor: f64) -> String {
    format!("{factor:.1} ×")
}

fn time(ns: f64) -> String {
    duration(ns.max(0.0) as u64)
}
