//! A real coordinator with light agents in a few processes, and what it cost: its CPU time and memory as the kernel tells,
//! its times as the agents saw them, its figures beside the truth.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{Truth, now};
use crate::roles::Role;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Light agents.
    pub agents: u32,
    /// Simulated streams of each, at the last level.
    pub streams: u32,
    /// Median latency of a simulated request, ms.
    pub latency_ms: u32,
    /// Tokens of each answer.
    pub tokens: u32,
    /// Measured window, s.
    pub seconds: u32,
    /// Processes that the agents share.
    pub processes: u32,
    /// Levels, in even steps up to all streams.
    pub levels: u32,
}

/// What it came to.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// What the agents saw.
    pub truth: Truth,
    /// From the first dial to the last welcome, s.
    pub join_s: f64,
    /// From the order to arm the only level to the last agent's start order, s.
    pub arm_s: f64,
    /// Mean over the level, cores.
    pub cpu_cores: f64,
    /// Of the busiest second, cores.
    pub cpu_peak_cores: f64,
    /// Largest resident set until the last agent was done, and over all, MiB.
    pub rss_mib: (f64, f64),
    /// From the last agent's last word to the coordinator's end, s: the last acks, merge and files.
    pub end_s: f64,
    /// Journal, bytes.
    pub journal_bytes: u64,
    /// Length of the level, s.
    pub level_s: f64,
    /// Records of the whole run.
    pub records: u64,
    /// Clock bounds of the agents as the summary has them, median and worst over agents, µs.
    pub bound_us: (f64, f64),
    /// `summary.json`.
    pub summary: Value,
}

/// Runs it to its end in `dir`, which is left with the run's files.
///
/// # Errors
/// When a process cannot be started or fails.
pub fn measure(binary: &Path, dir: &Path, size: &Size) -> anyhow::Result<Measured> {
    let mut coordinator = coordinator(binary, dir, size)?;
    let announced = coordinator.announced("listening on ")?;
    let address = announced.split(',').next().context("no address")?.to_owned();
    let watch = Watch::start(coordinator.pid());
    let shares = |i: u32| size.agents / size.processes + u32::from(i < size.agents % size.processes);
    let mut first = 0;
    let mut agents = Vec::new();
    for count in (0..size.processes).map(shares).filter(|count| *count > 0) {
        agents.push(light(binary, &address, size, first, count)?);
        first += count;
    }
    let status = coordinator.wait()?;
    let ended_ns = now();
    let samples = watch.end();
    ensure!(status.success(), "the coordinator ended with {status}");
    let mut truth = Truth::default();
    for agent in &agents {
        truth.add(&serde_json::from_str(&agent.line("truth ")?)?)?;
    }
    let summary: Value = serde_json::from_slice(&std::fs::read(dir.join("summary.json"))?)?;
    let journal_bytes = std::fs::metadata(dir.join("journal.tcj"))?.len();
    Ok(sum_up(truth, &samples, ended_ns, journal_bytes, summary))
}

fn coordinator(binary: &Path, dir: &Path, size: &Size) -> anyhow::Result<Role> {
    let level = |i: u32| (size.agents * size.streams * i / size.levels).to_string();
    let levels = (1..=size.levels).map(level).collect::<Vec<_>>().join(",");
    let (agents, duration) = (size.agents.to_string(), format!("{}s", size.seconds));
    let dir = dir.to_str().context("an output directory with an odd name")?;
    // Nobody listens there: light agents send nothing.
    let args = [
        "coordinate",
        "--listen",
        "127.0.0.1:0",
        "--url",
        "http://127.0.0.1:9",
        "--model",
        "simulated",
        "--agents",
        &agents,
        "--probes",
        "0",
        "--concurrency",
        &levels,
        "--duration",
        &duration,
        "--warmup",
        "2s",
        "--output-dir",
        dir,
    ];
    Ok(Role::start_heard(Command::new(binary), "tailcliff", &args)?)
}

fn light(binary: &Path, address: &str, size: &Size, first: u32, count: u32) -> anyhow::Result<Role> {
    let numbers = [first, count, size.latency_ms, size.tokens].map(|n| n.to_string());
    let args = [
        "--coordinator",
        address,
        "--first",
        &numbers[0],
        "--agents",
        &numbers[1],
        "--latency-ms",
        &numbers[2],
        "--tokens",
        &numbers[3],
    ];
    Ok(Role::start(binary, "light-agents", &args)?)
}

fn sum_up(truth: Truth, samples: &[Sample], ended_ns: i64, journal_bytes: u64, summary: Value) -> Measured {
    let (from, to) = (truth.starts_ns.0, truth.done_ns.1);
    let seconds = |from: i64, to: i64| (to - from) as f64 / 1e9;
    let within: Vec<_> = samples.iter().filter(|s| (from..=to).contains(&s.at_ns)).collect();
    let cores = |a: &Sample, b: &Sample| (b.cpu_s - a.cpu_s) / seconds(a.at_ns, b.at_ns).max(1e-9);
    let cpu_cores = within.first().zip(within.last()).map_or(f64::NAN, |(a, b)| cores(a, b));
    let rss = |all: &mut dyn Iterator<Item = &Sample>| all.map(|s| s.rss_mib).fold(0.0, f64::max);
    let mut bounds: Vec<(f64, f64)> = nodes(&summary).collect();
    bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let worst = bounds.iter().map(|(_, worst)| *worst).fold(0.0, f64::max);
    Measured {
        join_s: seconds(truth.dialled_ns.0, truth.welcomed_ns.1),
        arm_s: seconds(truth.arm_ns.0, truth.start_ordered_ns.1),
        cpu_cores,
        cpu_peak_cores: within.windows(5).map(|w| cores(w[0], w[4])).fold(0.0, f64::max),
        rss_mib: (
            rss(&mut samples.iter().filter(|s| s.at_ns <= to)),
            samples.iter().map(|s| s.peak_mib).fold(0.0, f64::max),
        ),
        end_s: seconds(to, ended_ns),
        level_s: seconds(from, to),
        records: truth.released,
        bound_us: (bounds.get(bounds.len() / 2).map_or(f64::NAN, |b| b.0), worst),
        journal_bytes,
        truth,
        summary,
    }
}

/// (median, worst) bound of each node's clock, µs.
fn nodes(summary: &Value) -> impl Iterator<Item = (f64, f64)> {
    let nodes = summary["nodes"].as_array().into_iter().flatten();
    nodes.filter_map(|node| {
        let clock = &node["clock"];
        Some((clock["median_bound_us"].as_f64()?, clock["worst_bound_us"].as_f64()?))
    })
}

impl Measured {
    /// What the coordinator's figures do not share with the truth, in words; empty when nothing was lost or made up.
    pub fn differences(&self) -> Vec<String> {
        let levels = self.summary["levels"].as_array().map_or(&[][..], Vec::as_slice);
        let sum = |key: &str, part: &dyn Fn(&Value) -> Option<u64>| {
            levels
                .iter()
                .map(|level| part(level).with_context(|| format!("no {key}")))
                .sum::<anyhow::Result<u64>>()
        };
        let mut found = Vec::new();
        let mut same = |what: &str, told: anyhow::Result<u64>, truth: u64| match told {
            Ok(told) if told == truth => {}
            Ok(told) => found.push(format!("{what}: {told} told, {truth} in truth")),
            Err(error) => found.push(format!("{what}: {error}")),
        };
        same("measured requests", sum("completed", &|l| l["completed"].as_u64()), self.truth.measured);
        let of_all = |key: &'static str| move |l: &Value| l["all_phases"][key].as_u64();
        same("requests", sum("all_phases", &of_all("completed")), self.truth.released);
        same("unreported", sum("all_phases", &of_all("unreported")), 0);
        for key in ["bad_windows", "out_of_range", "bad_traces", "dropped_records", "dropped_windows"] {
            same(key, sum("outside", &|l| l["outside"][key].as_u64()), 0);
        }
        found.extend(self.latency_differences(levels));
        found
    }

    /// Of one level: mean and percentiles follow from the histogram, which adds up exactly.
    fn latency_differences(&self, levels: &[Value]) -> Vec<String> {
        let ([level], Ok(e2e)) = (levels, self.truth.e2e()) else { return Vec::new() };
        let mean_ms = self.truth.e2e_sum_ns as f64 / self.truth.measured.max(1) as f64 / 1e6;
        let quantile = |q| e2e.quantile_ns(q).map_or(f64::NAN, |ns| ns as f64 / 1e6);
        let truths = [
            ("mean_e2el_ms", mean_ms),
            ("median_e2el_ms", quantile(0.5)),
            ("p95_e2el_ms", quantile(0.95)),
            ("p99_e2el_ms", quantile(0.99)),
        ];
        let differs = |(key, truth): &(&str, f64)| {
            let told = level[*key].as_f64().unwrap_or(f64::NAN);
            let is_same = (told - truth).abs() < 1e-5;
            (!is_same).then(|| format!("{key}: {told} told, {truth} in truth"))
        };
        truths.iter().filter_map(differs).collect()
    }
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at_ns: i64,
    cpu_s: f64,
    rss_mib: f64,
    peak_mib: f64,
}

/// Looks at a process four times a second.
struct Watch {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Sample>>,
}

impl Watch {
    fn start(pid: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let thread = std::thread::spawn(move || {
            let mut samples = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                samples.extend(sample(pid));
                std::thread::sleep(Duration::from_millis(250));
            }
            samples
        });
        Self { over, thread }
    }

    fn end(self) -> Vec<Sample> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn sample(pid: u32) -> Option<Sample> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the command's name in brackets: state, then eleven others before the user's and the system's time, in ticks.
    let fields: Vec<_> = stat.rsplit(") ").next()?.split(' ').collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
    };
    Some(Sample { at_ns: now(), cpu_s: ticks / 100.0, rss_mib: mib("VmRSS:")?, peak_mib: mib("VmHWM:")? })
}
