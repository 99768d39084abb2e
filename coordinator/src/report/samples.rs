//! `gpu_trace.csv`: every GPU sample on the timeline of `token_trace.csv`; a header alone when there is no GPU. A row holds
//! what was read at once: what is slow to read (energy; memory and temperature) has rows of its own, with their own stamps.

use std::io::{self, Write};

use tailcliff_proto::v1;

use crate::merge::tally;
use crate::merge::timeline::Timeline;
use crate::stored::RunData;

use super::text::{cell, micros, quoted, seconds};

/// Columns of `gpu_trace.csv`. `power_w` is instant power; the 1-s average stands beside it.
pub const COLUMNS: &str = "t_s,power_w,gpu_util_pct,mem_util_pct,sm_clock_mhz,mem_clock_mhz,gpu,power_average_w,\
    temperature_c,throttle_reasons,mem_used_bytes,energy_j,unc_us,probe,simulated";

/// Writes header and rows, by probe, as sampled; samples without a place on the timeline are left out (the summary
/// counts them).
///
/// # Errors
/// What `out` says.
pub fn write(out: &mut impl Write, data: &RunData, timeline: &Timeline) -> io::Result<()> {
    writeln!(out, "{COLUMNS}")?;
    for (of, node) in tally::of_kind(data, v1::NodeKind::GpuProbe) {
        for batch in node.each_batch_with_samples() {
            for sample in &batch.gpu_samples {
                let Some(at) = timeline.place(of, sample.raw_ns) else { continue };
                let t_s = seconds(at.ns.saturating_sub(data.header.started_ref_ns));
                write_sample(out, &t_s, &micros(at.bound_ns), sample, &node.hello)?;
            }
        }
    }
    Ok(())
}

fn write_sample(
    out: &mut impl Write,
    t_s: &str,
    unc_us: &str,
    sample: &v1::GpuSample,
    probe: &v1::Hello,
) -> io::Result<()> {
    let watts = |mw: Option<u32>| cell(mw.map(|mw| format!("{}.{:03}", mw / 1000, mw % 1000)));
    let joules = cell(sample.energy_mj.map(|mj| format!("{}.{:03}", mj / 1000, mj % 1000)));
    let simulated = probe.gpus.iter().any(|gpu| gpu.index == sample.gpu && gpu.simulated);
    write!(out, "{t_s},{},", watts(sample.power_instant_mw))?;
    write!(out, "{},{},", cell(sample.gpu_util_pct), cell(sample.mem_util_pct))?;
    write!(out, "{},{},", cell(sample.sm_clock_mhz), cell(sample.mem_clock_mhz))?;
    write!(out, "{},{},", sample.gpu, watts(sample.power_average_mw))?;
    write!(out, "{},{},", cell(sample.temperature_c), cell(sample.throttle_reasons))?;
    write!(out, "{},{joules},{unc_us},", cell(sample.mem_used_bytes))?;
    writeln!(out, "{},{simulated}", quoted(&probe.name))
}
