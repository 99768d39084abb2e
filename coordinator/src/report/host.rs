//! `host_trace.csv`: what the probes read of their hosts, on the timeline of `gpu_trace.csv`; a header alone when no probe
//! told. Counters are totals since boot, or since each process began: differences of two rows are the reader's, and a
//! total that falls is a process, or a network interface, that went away.

use std::io::{self, Write};

use tailcliff_proto::v1;

use crate::merge::tally;
use crate::merge::timeline::Timeline;
use crate::stored::RunData;

use super::text::{cell, micros, quoted, seconds};

/// Columns of `host_trace.csv`.
pub const COLUMNS: &str = "t_s,disk_read_bytes,page_cache_bytes,major_faults,net_rx_bytes,net_tx_bytes,cpu_busy_s,\
    cpu_idle_s,cpu_some_us,memory_some_us,memory_full_us,io_some_us,io_full_us,server_cpu_s,server_rss_bytes,\
    server_major_faults,server_read_bytes,other_gpu_processes,other_gpu_memory_bytes,unc_us,probe";

/// Writes header and rows, by probe, as sampled; samples without a place on the timeline are left out.
///
/// # Errors
/// What `out` says.
pub fn write(out: &mut impl Write, data: &RunData, timeline: &Timeline) -> io::Result<()> {
    writeln!(out, "{COLUMNS}")?;
    for (of, node) in tally::of_kind(data, v1::NodeKind::GpuProbe) {
        for batch in node.each_batch_with_host_samples() {
            for sample in &batch.host_samples {
                let Some(at) = timeline.place(of, sample.raw_ns) else { continue };
                let t_s = seconds(at.ns.saturating_sub(data.header.started_ref_ns));
                let row = row(&t_s, &micros(at.bound_ns), sample, &quoted(&node.hello.name));
                writeln!(out, "{row}")?;
            }
        }
    }
    Ok(())
}

fn row(t_s: &str, unc_us: &str, sample: &v1::HostSample, probe: &str) -> String {
    let time = |ns: Option<i64>| cell(ns.map(seconds));
    let cells = [
        t_s.to_owned(),
        cell(sample.disk_read_bytes),
        cell(sample.page_cache_bytes),
        cell(sample.major_faults),
        cell(sample.net_rx_bytes),
        cell(sample.net_tx_bytes),
        time(sample.cpu_busy_ns),
        time(sample.cpu_idle_ns),
        cell(sample.cpu_some_us),
        cell(sample.memory_some_us),
        cell(sample.memory_full_us),
        cell(sample.io_some_us),
        cell(sample.io_full_us),
        time(sample.server_cpu_ns),
        cell(sample.server_rss_bytes),
        cell(sample.server_major_faults),
        cell(sample.server_read_bytes),
        cell(sample.other_gpu_processes),
        cell(sample.other_gpu_memory_bytes),
        unc_us.to_owned(),
        probe.to_owned(),
    ];
    cells.join(",")
}
