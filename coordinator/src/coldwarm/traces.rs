//! The readings of a restart as CSV, for whoever wants to judge for themselves: seconds count from the restart command.

use std::io::{self, Write};
use std::path::Path;

use super::evidence::Series;
use super::protocol::Raw;
use crate::outputs::{self, OutputError};
use crate::report::text::{cell, seconds};

const HOST: &str = "t_s,disk_read_bytes,page_cache_bytes,major_faults,io_some_us,cpu_busy_s,server_cpu_s,\
    server_rss_bytes,server_major_faults,server_read_bytes,other_gpu_processes";
const GPU: &str = "t_s,gpu,power_w,gpu_util_pct,mem_util_pct,sm_clock_mhz,mem_used_bytes,throttle_reasons";
const GPM: &str = "from_s,to_s,gpu,sm_active_pct,dram_active_pct,pcie_rx_mib_s,pcie_tx_mib_s";

/// Writes `restart-N.host_trace.csv`, and the GPU's where there is one.
pub(super) fn write(dir: &Path, number: u32, raw: &Raw) -> Result<(), OutputError> {
    let series = Series::of(&raw.recorded.batches);
    let zero = raw.from_ns.unwrap_or(raw.recording_ns);
    let at = |ns: i64| seconds(ns.saturating_sub(zero));
    outputs::write(dir, &format!("restart-{number}.host_trace.csv"), |out| host(out, &series, &at))?;
    if series.gpus.is_empty() {
        return Ok(());
    }
    outputs::write(dir, &format!("restart-{number}.gpu_trace.csv"), |out| gpu(out, &series, &at))?;
    outputs::write(dir, &format!("restart-{number}.gpm_trace.csv"), |out| gpm(out, &series, &at))
}

fn host(out: &mut impl Write, series: &Series, at: &dyn Fn(i64) -> String) -> io::Result<()> {
    writeln!(out, "{HOST}")?;
    for s in &series.host {
        write!(out, "{},{},{},", at(s.raw_ns), cell(s.disk_read_bytes), cell(s.page_cache_bytes))?;
        write!(out, "{},{},", cell(s.major_faults), cell(s.io_some_us))?;
        write!(out, "{},{},", cell(s.cpu_busy_ns.map(seconds)), cell(s.server_cpu_ns.map(seconds)))?;
        write!(out, "{},{},", cell(s.server_rss_bytes), cell(s.server_major_faults))?;
        writeln!(out, "{},{}", cell(s.server_read_bytes), cell(s.other_gpu_processes))?;
    }
    Ok(())
}

fn gpu(out: &mut impl Write, series: &Series, at: &dyn Fn(i64) -> String) -> io::Result<()> {
    writeln!(out, "{GPU}")?;
    for s in series.gpus.values().flatten() {
        let power = s.power_instant_mw.or(s.power_average_mw).map(|mw| f64::from(mw) / 1e3);
        write!(out, "{},{},{},", at(s.raw_ns), s.gpu, cell(power))?;
        write!(out, "{},{},{},", cell(s.gpu_util_pct), cell(s.mem_util_pct), cell(s.sm_clock_mhz))?;
        writeln!(out, "{},{}", cell(s.mem_used_bytes), cell(s.throttle_reasons))?;
    }
    Ok(())
}

fn gpm(out: &mut impl Write, series: &Series, at: &dyn Fn(i64) -> String) -> io::Result<()> {
    writeln!(out, "{GPM}")?;
    for s in &series.gpm {
        write!(out, "{},{},{},", at(s.from_raw_ns), at(s.to_raw_ns), s.gpu)?;
        write!(out, "{},{},", cell(s.sm_active_pct), cell(s.dram_active_pct))?;
        writeln!(out, "{},{}", cell(s.pcie_rx_mib_s), cell(s.pcie_tx_mib_s))?;
    }
    Ok(())
}
