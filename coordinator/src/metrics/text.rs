//! The figures in Prometheus' text format, version 0.0.4. Base units in the names; a figure that is not known has no line.

use std::fmt::{self, Write};

use super::figures::{BOUNDS_NS, Buckets, Figures, GpuFigures, LevelFigures, State};

/// The type of a reply.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All of it.
pub(super) fn render(figures: &Figures) -> String {
    let mut out = String::new();
    // Writing to memory does not fail.
    let _whole = write_all(&mut out, figures);
    out
}

fn write_all(out: &mut String, figures: &Figures) -> fmt::Result {
    head(out, "build_info", "gauge", "Version of the coordinator.")?;
    line(out, "build_info", &[("version", tailcliff_proto::BUILD)], 1)?;
    head(out, "run_state", "gauge", "What the run does: 1 for the state that it is in.")?;
    for state in State::ALL {
        line(out, "run_state", &[("state", state.as_str())], u8::from(state == figures.state))?;
    }
    head(out, "levels_planned", "gauge", "Levels of the plan.")?;
    line(out, "levels_planned", &[], figures.planned)?;
    if let Some(level) = figures.levels.last() {
        head(out, "level", "gauge", "Serial number of the newest level.")?;
        line(out, "level", &[], level.drive.level)?;
        head(out, "requests_in_flight", "gauge", "Requests in flight, all agents together.")?;
        line(out, "requests_in_flight", &[], level.in_flight)?;
    }
    levels(out, &figures.levels)?;
    nodes(out, figures)?;
    gpus(out, figures)
}

/// A counter of a level.
type Counter = (&'static str, &'static str, fn(&LevelFigures) -> u64);

const COUNTERS: [Counter; 4] = [
    ("requests_released_total", "Requests sent or given up, of every phase.", |l| l.released),
    ("requests_retried_total", "Of the released: second and later tries.", |l| l.retried),
    ("requests_held_back_total", "Of the released: those that waited for one in flight to end.", |l| {
        l.held_back
    }),
    ("output_tokens_total", "Tokens that came, as far as they are counted.", |l| l.output_tokens),
];

fn levels(out: &mut String, levels: &[LevelFigures]) -> fmt::Result {
    head(out, "offered_concurrency", "gauge", "Streams that a level of a closed loop keeps busy.")?;
    for level in levels {
        if let Some(streams) = level.load.concurrency() {
            of_level(out, "offered_concurrency", level, &[], streams)?;
        }
    }
    head(
        out,
        "offered_requests_per_second",
        "gauge",
        "Rate at which requests of an open loop's level arrive.",
    )?;
    for level in levels {
        if let Some(rate) = level.load.request_rate() {
            of_level(out, "offered_requests_per_second", level, &[], number(rate.0))?;
        }
    }
    for (name, help, read) in COUNTERS {
        head(out, name, "counter", help)?;
        levels.iter().try_for_each(|level| of_level(out, name, level, &[], read(level)))?;
    }
    head(out, "requests_total", "counter", "Requests that ended, of every phase, by how.")?;
    for level in levels {
        let ends =
            [("completed", level.completed), ("failed", level.failed), ("incomplete", level.incomplete)];
        for (outcome, n) in ends {
            of_level(out, "requests_total", level, &[("outcome", outcome)], n)?;
        }
    }
    let precision = "Buckets and sum are to 3 significant digits.";
    head(out, "ttft_seconds", "histogram", &format!("Intended send to first token. {precision}"))?;
    levels.iter().try_for_each(|level| histogram(out, "ttft_seconds", level, &level.ttft))?;
    head(out, "e2e_seconds", "histogram", &format!("Intended send to end. {precision}"))?;
    levels.iter().try_for_each(|level| histogram(out, "e2e_seconds", level, &level.e2e))
}

fn histogram(out: &mut String, name: &str, level: &LevelFigures, buckets: &Buckets) -> fmt::Result {
    let bucket = format!("{name}_bucket");
    for (bound, n) in BOUNDS_NS.iter().zip(buckets.up_to) {
        of_level(out, &bucket, level, &[("le", &(*bound as f64 / 1e9).to_string())], n)?;
    }
    of_level(out, &bucket, level, &[("le", "+Inf")], buckets.count)?;
    of_level(out, &format!("{name}_sum"), level, &[], number(buckets.sum_s))?;
    of_level(out, &format!("{name}_count"), level, &[], buckets.count)
}

fn nodes(out: &mut String, figures: &Figures) -> fmt::Result {
    head(out, "nodes_connected", "gauge", "Nodes that are connected.")?;
    for (kind, is_agent) in [("agent", true), ("gpu-probe", false)] {
        let there = figures.nodes.iter().filter(|node| node.connected && node.is_agent == is_agent).count();
        line(out, "nodes_connected", &[("kind", kind)], there)?;
    }
    head(out, "clock_bound_seconds", "gauge", "How far a node's stamps may be off the coordinator's clock.")?;
    for node in &figures.nodes {
        if let Some(ns) = node.clock_bound_ns {
            line(out, "clock_bound_seconds", &[("node", &node.name)], number(ns as f64 / 1e9))?;
        }
    }
    Ok(())
}

/// A reading of a GPU.
type Reading = (&'static str, &'static str, fn(&GpuFigures) -> Option<f64>);

const READINGS: [Reading; 4] = [
    ("gpu_power_watts", "Power, instant where the card tells it.", |g| g.power_w),
    ("gpu_utilisation_ratio", "Share of time in which a kernel ran.", |g| g.utilisation),
    ("gpu_sm_clock_hertz", "Clock of the SMs.", |g| g.sm_clock_hz),
    ("gpu_memory_used_bytes", "Memory in use.", |g| g.memory_used.map(|bytes| bytes as f64)),
];

fn gpus(out: &mut String, figures: &Figures) -> fmt::Result {
    for (name, help, read) in READINGS {
        head(out, name, "gauge", help)?;
        for ((probe, index), gpu) in &figures.gpus {
            let Some(value) = read(gpu) else { continue };
            let (index, simulated) = (index.to_string(), gpu.simulated.to_string());
            let labels = [("probe", probe.as_str()), ("gpu", &index), ("simulated", &simulated)];
            line(out, name, &labels, number(value))?;
        }
    }
    Ok(())
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP tailcliff_{name} {help}\n# TYPE tailcliff_{name} {kind}")
}

fn of_level(
    out: &mut String,
    name: &str,
    level: &LevelFigures,
    more: &[(&str, &str)],
    value: impl fmt::Display,
) -> fmt::Result {
    let (serial, rung, attempt) =
        (level.drive.level.to_string(), level.drive.rung.to_string(), level.drive.attempt.to_string());
    let labels = [("level", serial.as_str()), ("rung", &rung), ("attempt", &attempt)];
    line(out, name, &[&labels, more].concat(), value)
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) -> fmt::Result {
    write!(out, "tailcliff_{name}")?;
    for (i, (key, words)) in labels.iter().enumerate() {
        let before = if i == 0 { '{' } else { ',' };
        write!(out, "{before}{key}=\"{}\"", escaped(words))?;
    }
    writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" })
}

/// A node names itself as it likes.
fn escaped(words: &str) -> String {
    words.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// As the format spells numbers.
fn number(x: f64) -> String {
    if x.is_infinite() { if x > 0.0 { "+Inf" } else { "-Inf" }.to_owned() } else { x.to_string() }
}
