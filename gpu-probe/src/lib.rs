//! Samples the GPUs of the server's node with this host's raw clock and reports them. Knows nothing of requests.

use std::io::{self, Write};
use std::time::Duration;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::link::LinkError;
use tailcliff_proto::v1;
use tokio_util::sync::CancellationToken;

pub mod config;
pub mod host;
pub mod nvml;
pub mod record;
mod sampler;
mod session;
pub mod source;

use config::Config;
use nvml::{NvmlAbsent, NvmlSource};
use source::GpuSource;

/// Why a probe ended.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The coordinator cannot be used.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// There is nothing to print.
    #[error(transparent)]
    Absent(#[from] NvmlAbsent),
    /// The output cannot be written.
    #[error("failed to print samples")]
    Print(#[from] io::Error),
}

/// Serves one run: dials the coordinator and samples until the run is over or `shutdown` is cancelled. Without NVML it
/// says why, and sends what the host tells.
///
/// # Errors
/// When the coordinator's address makes no sense, or it refuses this probe.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ProbeError> {
    let path = config.nvml_path.clone();
    // Loading a driver can take seconds.
    let opened = tokio::task::spawn_blocking(move || NvmlSource::open(path.as_deref())).await;
    let source = match opened {
        Ok(Ok(source)) => Ok(Box::new(source) as Box<dyn GpuSource>),
        Ok(Err(absent)) => Err(absent.to_string()),
        Err(panicked) => Err(format!("no NVML: {panicked}")),
    };
    Ok(session::Session::new(config, source, shutdown)?.run().await?)
}

/// Prints samples as CSV for some seconds, with no coordinator.
///
/// # Errors
/// When there is no NVML, or `out` cannot be written.
pub fn print(config: &Config, seconds: u64, out: &mut impl Write) -> Result<(), ProbeError> {
    let mut source = NvmlSource::open(config.nvml_path.as_deref())?;
    for gpu in source.facts() {
        writeln!(out, "# GPU {}: {} (driver {}){}", gpu.index, gpu.name, gpu.driver, notes(&gpu))?;
    }
    writeln!(
        out,
        "t_s,gpu,power_instant_w,power_average_w,gpu_util_pct,mem_util_pct,sm_clock_mhz,mem_clock_mhz,read_us"
    )?;
    let start = HostClock.now();
    let end = start.saturating_add(Duration::from_secs(seconds).as_nanos().min(i64::MAX as u128) as i64);
    while HostClock.now() < end {
        for sample in source.sample() {
            writeln!(out, "{}", row(&sample, start))?;
        }
        std::thread::sleep(config.interval);
    }
    Ok(())
}

fn notes(gpu: &v1::GpuFacts) -> String {
    let simulated = if gpu.simulated { "; SIMULATED" } else { "" };
    gpu.notes.iter().fold(simulated.to_owned(), |text, note| format!("{text}; {note}"))
}

fn row(sample: &v1::GpuSample, start: i64) -> String {
    let cell = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
    let watts = |mw: Option<u32>| cell(mw.map(|mw| f64::from(mw) / 1e3));
    let whole = |value: Option<u32>| cell(value.map(f64::from));
    let cells = [
        format!("{:.6}", (sample.raw_ns - start) as f64 / 1e9),
        sample.gpu.to_string(),
        watts(sample.power_instant_mw),
        watts(sample.power_average_mw),
        whole(sample.gpu_util_pct),
        whole(sample.mem_util_pct),
        whole(sample.sm_clock_mhz),
        whole(sample.mem_clock_mhz),
        (sample.read_ns / 1_000).to_string(),
    ];
    cells.join(",")
}
