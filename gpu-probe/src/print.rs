//! Samples as CSV, for a person or a script, with no coordinator: read by the same threads as in a run.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::ProbeError;
use crate::config::Config;
use crate::nvml::NvmlSource;
use crate::sampler::{self, Inputs, Switch};

const COLUMNS: &str = "t_s,gpu,power_instant_w,power_average_w,gpu_util_pct,mem_util_pct,sm_clock_mhz,mem_clock_mhz,\
    temperature_c,mem_used_mib,energy_j,throttle_reasons,read_us";
const LOOK: Duration = Duration::from_millis(100);

/// Prints samples as CSV for some seconds, with no coordinator; what reading them took at the end. A row holds what was
/// read at once: what is slow to read has rows of its own.
///
/// # Errors
/// When there is no NVML, or `out` cannot be written.
pub fn print(config: &Config, seconds: u64, out: &mut impl Write) -> Result<(), ProbeError> {
    let source = NvmlSource::open(config.nvml_path.as_deref()).map_err(ProbeError::Absent)?;
    for gpu in source.facts() {
        writeln!(out, "# GPU {}: {} (driver {}){}", gpu.index, gpu.name, gpu.driver, notes(&gpu))?;
    }
    writeln!(out, "{COLUMNS}")?;
    let inputs = Inputs::of(config, Some(source));
    let switch = Arc::new(Switch::default());
    switch.on.store(true, Relaxed);
    let stop = CancellationToken::new();
    let _stop_anyway = stop.clone().drop_guard();
    let (keep, batches) = channel();
    let (say, mut troubles) = tokio::sync::mpsc::channel(64);
    // Nobody listens any more when the output could not be written.
    let sink = Box::new(move |batch| keep.send(batch).map_err(|unheard| Box::new(unheard.0)));
    let start = HostClock.now();
    let sampler = sampler::spawn(inputs, sink, switch, say, stop.clone())?;
    let mut costs = v1::ProbeCost { from_raw_ns: start, to_raw_ns: start, ..Default::default() };
    let end = start.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000));
    while rows(&batches, start, &mut costs, out)? {
        if HostClock.now() >= end {
            stop.cancel();
        }
        while let Ok(trouble) = troubles.try_recv() {
            writeln!(out, "# {trouble}")?;
        }
    }
    let _ended = sampler.join();
    writeln!(out, "# {}", words(&costs))?;
    Ok(())
}

/// Writes the batches that there are; false when no more come.
fn rows(
    batches: &Receiver<v1::Batch>,
    start: i64,
    costs: &mut v1::ProbeCost,
    out: &mut impl Write,
) -> Result<bool, ProbeError> {
    let batch = match batches.recv_timeout(LOOK) {
        Ok(batch) => batch,
        Err(RecvTimeoutError::Timeout) => return Ok(true),
        Err(RecvTimeoutError::Disconnected) => return Ok(false),
    };
    for sample in &batch.gpu_samples {
        writeln!(out, "{}", row(sample, start))?;
    }
    batch.probe_costs.iter().for_each(|cost| costs.add(cost));
    Ok(true)
}

/// What the probe itself took.
fn words(cost: &v1::ProbeCost) -> String {
    let length = (cost.to_raw_ns - cost.from_raw_ns).max(1) as f64;
    let share = |ns: i64| 100.0 * ns as f64 / length;
    format!(
        "cost: {:.2} % of a core in all; {:.2} % for {} fast ticks ({} missed); {} slow readings ({} missed)",
        share(cost.cpu_ns),
        share(cost.fast_cpu_ns),
        cost.ticks,
        cost.missed,
        cost.slow_ticks,
        cost.slow_missed
    )
}

fn notes(gpu: &v1::GpuFacts) -> String {
    let simulated = if gpu.simulated { "; SIMULATED" } else { "" };
    gpu.notes.iter().fold(simulated.to_owned(), |text, note| format!("{text}; {note}"))
}

fn row(sample: &v1::GpuSample, start: i64) -> String {
    let cell = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
    let thousandth = |value: Option<f64>| cell(value.map(|v| v / 1e3));
    let whole = |value: Option<u32>| cell(value.map(f64::from));
    let cells = [
        format!("{:.6}", (sample.raw_ns - start) as f64 / 1e9),
        sample.gpu.to_string(),
        thousandth(sample.power_instant_mw.map(f64::from)),
        thousandth(sample.power_average_mw.map(f64::from)),
        whole(sample.gpu_util_pct),
        whole(sample.mem_util_pct),
        whole(sample.sm_clock_mhz),
        whole(sample.mem_clock_mhz),
        whole(sample.temperature_c),
        cell(sample.mem_used_bytes.map(|bytes| (bytes >> 20) as f64)),
        thousandth(sample.energy_mj.map(|mj| mj as f64)),
        sample.throttle_reasons.map_or(String::new(), |bits| bits.to_string()),
        (sample.read_ns / 1_000).to_string(),
    ];
    cells.join(",")
}
