//! The sections that state what was seen.

use super::{RAW_OUTPUT, Report, or_unknown, plain, seconds};
use crate::coldwarm::cycle::{Cycle, Kind, Run};
use crate::coldwarm::diagnose::bytes;
use crate::coldwarm::spread::{STABLE_PCT, Spread};
use crate::coldwarm::{Ending, sanity};

/// A line of the report.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {{
        $out.push_str(&format!($($arg)*));
        $out.push('\n');
    }};
}
pub(super) use line;

pub(super) fn head(out: &mut String, report: &Report) {
    line!(out, "# Cold and warm: {}\n", plain(&report.model));
    if report.is_simulated() {
        line!(out, "**SIMULATED: the GPU is a stand-in; nothing here was seen on a real one.**\n");
    }
    line!(out, "{}, tailcliff {}. ", report.begun_utc, report.tailcliff_version);
    let (done, asked) = (report.cycles.iter().filter(|c| c.trouble.is_none()).count(), report.restarts);
    line!(out, "{done} of {asked} restart(s) carried through.\n");
    match &report.ending {
        Ending::Complete => {}
        Ending::Interrupted => {
            line!(out, "**Interrupted: what follows is what there was until then.**\n");
        }
        Ending::Trouble(why) => {
            line!(out, "**Broken off: {}. What follows is what there was until then.**\n", plain(why));
        }
    }
}

pub(super) fn server(out: &mut String, report: &Report) {
    let latest = report.cycles.iter().rev().find(|c| c.process.pid.is_some()).or(report.cycles.last());
    let process = latest.map(|cycle| &cycle.process);
    line!(out, "## Server config\n\n| | |\n|---|---|");
    let mut row = |name: &str, value: String| {
        line!(out, "| {name} | {value} |");
    };
    row("URL", plain(&format!("{}{}", report.url, report.path)));
    row("model", plain(&report.model));
    let version = latest.and_then(|c| c.server_version.as_deref()).or(report.told("server_version"));
    let header = latest.and_then(|c| c.server_header.as_deref());
    row("server", or_unknown(report.told("server").or(header)));
    row("server version", or_unknown(version));
    row("quantisation", or_unknown(report.told("quantisation").or(report.told("quantization"))));
    row(
        "OS, kernel",
        format!("{}, {}", or_unknown(Some(&report.host.os)), or_unknown(Some(&report.host.kernel))),
    );
    row("CPU", format!("{} ({} cores)", or_unknown(Some(&report.host.cpu_model)), report.host.cores));
    let command = process.and_then(|p| p.command.as_ref()).map(|words| words.join(" "));
    row("launch flags", command.map_or("unknown".to_owned(), |line| format!("`{}`", plain(&line))));
    let env = process.and_then(|p| p.env.as_ref()).map(|all| {
        let one = |(name, value): &(String, String)| format!("`{}={}`", plain(name), plain(value));
        if all.is_empty() {
            "none of those that matter".to_owned()
        } else {
            all.iter().map(one).collect::<Vec<_>>().join(" ")
        }
    });
    row("environment", env.unwrap_or("unknown".to_owned()));
    row("restart command", format!("`{}`", plain(&report.restart_cmd)));
    row("its output", RAW_OUTPUT.to_owned());
    let temperature = report.workload.temperature.map_or("not sent".to_owned(), |t| t.to_string());
    row(
        "request",
        format!(
            "\"{}\", max_tokens {}, temperature {temperature}",
            plain(&report.workload.prompt),
            report.workload.max_tokens
        ),
    );
    for (key, value) in &report.metadata {
        row(&plain(key), plain(value));
    }
    let unknown = unknown(report, process.and_then(|p| p.unknown.as_deref()));
    if !unknown.is_empty() {
        line!(out, "\nUnknown: {}.", unknown.join("; "));
    }
    line!(out, "");
}

fn unknown(report: &Report, process: Option<&str>) -> Vec<String> {
    let mut all: Vec<String> =
        process.map(|why| format!("the server's process ({})", plain(why))).into_iter().collect();
    if report.told("quantisation").or(report.told("quantization")).is_none() {
        all.push("quantisation (--metadata quantisation=…)".to_owned());
    }
    let version = report.cycles.iter().any(|c| c.server_version.is_some());
    if !version && report.told("server_version").is_none() {
        all.push("server version (--metadata server_version=…)".to_owned());
    }
    all
}

pub(super) fn gpus(out: &mut String, report: &Report) {
    line!(out, "## GPU snapshot\n");
    let Some(latest) = report.cycles.last() else { return };
    if latest.gpus.is_empty() {
        let why = latest.gpu_absent.as_deref().unwrap_or("nobody told why");
        line!(out, "No GPU was seen here: {}. What GPU signals would tell is not known.\n", plain(why));
        return;
    }
    for gpu in &latest.gpus {
        let simulated = if gpu.simulated { " SIMULATED" } else { "" };
        let total = bytes(Some(gpu.memory_bytes as f64));
        line!(
            out,
            "- GPU {}: {}, driver {}, {total}{simulated}",
            gpu.index,
            plain(&gpu.name),
            plain(&gpu.driver)
        );
    }
    line!(
        out,
        "\nMemory in use on all GPUs together:\n\n| restart | before the server | ready | after cold_1 | total |\n|---|---|---|---|---|"
    );
    for cycle in &report.cycles {
        let (m, of) =
            (&cycle.memory, |b: Option<u64>| b.map_or("unknown".to_owned(), |b| bytes(Some(b as f64))));
        let cells = [m.before_server_bytes, m.ready_bytes, m.after_cold_bytes, m.total_bytes].map(of);
        line!(out, "| {} | {} |", cycle.restart, cells.join(" | "));
    }
    line!(out, "\n\"Before the server\" is the least between the restart command and readiness.\n");
}

pub(super) fn cold_and_warm(out: &mut String, report: &Report) {
    line!(out, "## Cold vs warm\n");
    line!(
        out,
        "| restart | restart → ready s | cold_1 TTFT s | cold_1 wall s | warm TTFT s (median) | warm wall s (median) | penalty TTFT | penalty wall |\n|---|---|---|---|---|---|---|---|"
    );
    for cycle in &report.cycles {
        let cold = cycle.cold();
        let times = |penalty: Option<f64>| penalty.map_or("–".to_owned(), |p| format!("{p:.2} ×"));
        let cells = [
            seconds(cycle.ready_s),
            seconds(cold.and_then(|run| run.ttft_s)),
            seconds(cold.map(|run| run.wall_s)),
            seconds(cycle.warm_ttft().map(|s| s.median)),
            seconds(cycle.warm_wall().map(|s| s.median)),
            times(cycle.ttft_penalty()),
            times(cycle.wall_penalty()),
        ];
        let kind = if cycle.streamed { "" } else { " (whole replies)" };
        line!(out, "| {}{kind} | {} |", cycle.restart, cells.join(" | "));
    }
    over_restarts(out, report);
    line!(
        out,
        "\nPenalty = cold_1 / warm median. Every request has a connection of its own. The prompt is the same each time, so that a server with a prefix cache is spared its prefill when warm; fresh_1 is another prompt of the same length.\n"
    );
}

fn over_restarts(out: &mut String, report: &Report) {
    let streamed: Vec<&Cycle> = report.cycles.iter().filter(|c| c.streamed).collect();
    if streamed.len() < 2 {
        return;
    }
    line!(
        out,
        "\nOver {} restarts:\n\n| | n | min | median | max | spread % |\n|---|---|---|---|---|---|",
        streamed.len()
    );
    type Of = fn(&Cycle) -> Option<f64>;
    let all: [(&str, Of); 4] = [
        ("restart → ready s", |c| c.ready_s),
        ("cold_1 TTFT s", |c| c.cold()?.ttft_s),
        ("penalty TTFT", Cycle::ttft_penalty),
        ("penalty wall", Cycle::wall_penalty),
    ];
    for (name, of) in all {
        spread(out, name, Spread::of(streamed.iter().filter_map(|c| of(c))));
    }
}

fn spread(out: &mut String, name: &str, spread: Option<Spread>) {
    let Some(s) = spread else {
        line!(out, "| {name} | 0 | – | – | – | – |");
        return;
    };
    let pct = s.pct().map_or("–".to_owned(), |pct| format!("{pct:.1}"));
    line!(out, "| {name} | {} | {:.3} | {:.3} | {:.3} | {pct} |", s.n, s.min, s.median, s.max);
}

pub(super) fn variance(out: &mut String, report: &Report) {
    line!(out, "## Warm variance\n");
    for cycle in &report.cycles {
        line!(
            out,
            "### Restart {}\n\n| run | ttft_s | wall_s | total_tokens | notes |\n|---|---|---|---|---|",
            cycle.restart
        );
        for run in &cycle.runs {
            row(out, run);
        }
        line!(out, "\n| summary | n | min | median | max | spread % |\n|---|---|---|---|---|---|");
        spread(out, "warm TTFT s", cycle.warm_ttft());
        spread(out, "warm wall s", cycle.warm_wall());
        if cycle.streamed {
            spread(out, "whole reply wall s", cycle.whole_wall());
        }
        line!(out, "\nStable: {}\n", stable(cycle));
    }
    line!(
        out,
        "Spread % = (max − min) / median. Stable: at least 3 warm runs whose wall times spread by at most {STABLE_PCT} %.\n"
    );
}

fn row(out: &mut String, run: &Run) {
    let tokens = run.total_tokens.map_or("unknown".to_owned(), |n| n.to_string());
    let kind = match run.kind {
        Kind::Whole(_) => "not streamed; ",
        Kind::Fresh => "another prompt; ",
        _ => "",
    };
    let notes = format!("{kind}{}", run.notes.join("; "));
    line!(
        out,
        "| {} | {} | {:.3} | {tokens} | {} |",
        run.run,
        seconds(run.ttft_s),
        run.wall_s,
        plain(notes.trim_end_matches("; "))
    );
}

pub(super) fn stable(cycle: &Cycle) -> String {
    match cycle.warm_wall() {
        None => "can't tell: no warm run ended well".to_owned(),
        Some(wall) => match wall.is_stable() {
            None => format!("can't tell: {} warm run(s)", wall.n),
            Some(is_stable) => {
                let word = if is_stable { "yes" } else { "no" };
                format!("{word} (wall spread {:.1} % of {} runs)", wall.pct().unwrap_or(0.0), wall.n)
            }
        },
    }
}

pub(super) fn sanity(out: &mut String, report: &Report) {
    line!(out, "## Sanity metrics (during the warm runs)\n");
    for cycle in &report.cycles {
        line!(out, "### Restart {}\n", cycle.restart);
        let s = &cycle.sanity;
        for gpu in &s.gpus {
            line!(out, "- {}", of_gpu(gpu));
        }
        if s.gpus.is_empty() {
            line!(out, "- GPU: none was read");
        }
        let cores = s.server_cores.map_or("not read".to_owned(), |n| format!("{n:.2} cores"));
        let rss = s.server_rss_bytes.map_or("not read".to_owned(), |b| bytes(Some(b as f64)));
        line!(out, "- server's processes: CPU {cores}, memory {rss}");
        let others = match s.other_gpu_processes {
            None => "not read".to_owned(),
            Some(0) => "none".to_owned(),
            Some(n) => format!("{n}: **they share the GPU**"),
        };
        line!(out, "- other GPU processes: {others}");
        let io = s.io_stalled_share.map_or("not read".to_owned(), |p| format!("{:.1} %", p * 100.0));
        let disk = s.disk_read_bytes.map_or("not read".to_owned(), |b| bytes(Some(b)));
        line!(out, "- host: {disk} read from disks, some task waited for I/O {io} of the time");
        for event in s.gpu_events.iter().chain(&cycle.sampling_troubles) {
            line!(out, "- {}", plain(event));
        }
        line!(out, "");
    }
}

fn of_gpu(gpu: &sanity::GpuBand) -> String {
    let band = |band: Option<(f64, f64)>, unit: &str| {
        band.map_or("not read".to_owned(), |(low, high)| format!("{low:.0}–{high:.0} {unit}"))
    };
    let throttled =
        if gpu.throttled.is_empty() { "no throttle seen".to_owned() } else { gpu.throttled.join(", ") };
    format!(
        "GPU {}: utilisation {} and power {} (p5–p95), SM clock {} (least–most), {throttled}",
        gpu.gpu,
        band(gpu.util_pct, "%"),
        band(gpu.power_w, "W"),
        band(gpu.sm_clock_mhz, "MHz")
    )
}
