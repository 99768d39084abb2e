//! A stretch of time in thin slices, each with what was read in it.

use super::Seen;
use crate::coldwarm::evidence::{Curve, Curves};

/// Slices of a stretch at most.
const MOST: i64 = 1_000;
/// No thinner than this, ns: few sensors say more.
const THINNEST_NS: i64 = 10_000_000;

/// Reading at such a rate is loading, bytes/s; slower is what every host does all the time.
const LOADING: f64 = 20e6;
/// Over the link at such a rate is a transfer, bytes/s.
const TRANSFER: f64 = 200e6;
/// Memory that grows at such a rate grows for a purpose, bytes/s.
const GROWTH: f64 = 30e6;
/// Faster than any link to a GPU there is (NVLink-C2C apart): this is an allocation, bytes/s.
const FASTER_THAN_LINKS: f64 = 100e9;
/// Of what memory grew by, received over the link: then it was filled and not just set aside.
const FILLED: f64 = 0.3;
/// GPU busy, CPU busy.
const BUSY_GPU: f64 = 0.15;
const BUSY_CORES: f64 = 0.5;

/// What went on in a slice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Work {
    Disk,
    /// Over the link; the transfer itself was read.
    Link,
    /// Memory grew, steadily, and no one reads the link.
    Growth,
    /// Memory grew, and nothing came over the link, or faster than a link can.
    Allocation,
    Gpu,
    /// CPU alone; of the server itself, or only known to be somebody's.
    Cpu {
        own: bool,
    },
    /// Everything that was read is quiet.
    Quiet,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) work: Work,
}

impl Slice {
    pub(super) fn ns(&self) -> i64 {
        self.to - self.from
    }
}

/// What this host reads when nothing is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet {
    /// From its disks, bytes/s; `None` where no one read that.
    pub disk_bytes_per_s: Option<f64>,
}

pub(super) fn slices(curves: &Curves, quiet: Quiet, from: i64, to: i64) -> Vec<Slice> {
    let width = ((to - from) / MOST).max(THINNEST_NS);
    let loading = LOADING.max(3.0 * quiet.disk_bytes_per_s.unwrap_or(0.0));
    let reads = reads(curves, from, to);
    let mut slices = Vec::new();
    let mut at = from;
    while at < to {
        let end = (at + width).min(to);
        slices.push(Slice { from: at, to: end, work: work(curves, reads, loading, at, end) });
        at = end;
    }
    smooth(&mut slices);
    slices
}

/// The server's own reads where they are known all along, otherwise the host's.
pub(super) fn reads(curves: &Curves, from: i64, to: i64) -> Option<&Curve> {
    own_reads(curves, from, to).or(curves.disk.as_ref())
}

/// The server's own reads, where they are known all along.
pub(super) fn own_reads(curves: &Curves, from: i64, to: i64) -> Option<&Curve> {
    let whole = |curve: &&Curve| curve.rise(from, to).is_some() && curve.is_dense(from, to);
    curves.server_read.as_ref().filter(whole)
}

fn work(curves: &Curves, reads: Option<&Curve>, loading: f64, from: i64, to: i64) -> Work {
    let seconds = (to - from) as f64 / 1e9;
    let rate = |curve: Option<&Curve>| curve.and_then(|c| c.rise(from, to)).map(|rise| rise / seconds);
    let disk = rate(reads).unwrap_or(0.0);
    let memory = rate(curves.gpu_memory.as_ref()).unwrap_or(0.0);
    let link = rate(curves.pcie.as_ref());
    // What is read at a tenth of the pace at which it arrives on the GPU is not what holds it up.
    let into_gpu = link.unwrap_or(0.0).max(if memory < FASTER_THAN_LINKS { memory } else { 0.0 });
    if disk >= loading && disk * 10.0 > into_gpu {
        return Work::Disk;
    }
    if link.is_some_and(|link| link >= TRANSFER && link >= FILLED * memory) {
        return Work::Link;
    }
    if memory >= GROWTH {
        let set_aside = memory >= FASTER_THAN_LINKS || link.is_some_and(|link| link < FILLED * memory);
        return if set_aside { Work::Allocation } else { Work::Growth };
    }
    if rate(curves.gpu_busy.as_ref()).is_some_and(|busy| busy / 1e9 >= BUSY_GPU) {
        return Work::Gpu;
    }
    let cores = |curve: Option<&Curve>| rate(curve).is_some_and(|cpu| cpu / 1e9 >= BUSY_CORES);
    let own = curves.server_cpu.as_ref().filter(|curve| curve.is_dense(from, to));
    match (cores(own), cores(curves.host_cpu.as_ref())) {
        (true, _) => Work::Cpu { own: true },
        (false, true) if rate(own).is_none() => Work::Cpu { own: false },
        _ => Work::Quiet,
    }
}

/// A pause of the reading or the transfer shorter than this is part of it, ns: sensors step, and readahead comes in bursts.
const BRIDGED_NS: i64 = 120_000_000;

fn smooth(slices: &mut [Slice]) {
    let mut last: Option<usize> = None;
    for at in 0..slices.len() {
        let work = slices[at].work;
        if !matches!(work, Work::Disk | Work::Link | Work::Growth) {
            continue;
        }
        if let Some(before) = last.filter(|&before| slices[before].work == work) {
            let is_short = slices[at].from - slices[before].to <= BRIDGED_NS;
            let between = before + 1..at;
            if is_short && slices[between.clone()].iter().all(|s| s.work != Work::Allocation) {
                slices[between].iter_mut().for_each(|slice| slice.work = work);
            }
        }
        last = Some(at);
    }
}

/// Sums over a stretch.
pub(super) fn seen(curves: &Curves, from: i64, to: i64) -> Seen {
    let rise = |curve: Option<&Curve>| curve.and_then(|c| c.rise(from, to));
    Seen {
        disk_read_bytes: rise(curves.disk.as_ref()),
        server_read_bytes: rise(curves.server_read.as_ref()),
        page_cache_growth_bytes: curves.cache.rise(from, to),
        major_faults: curves.faults(from, to),
        io_stalled_ns: rise(curves.io_stalled.as_ref()),
        server_cpu_ns: rise(curves.server_cpu.as_ref()),
        gpu_memory_growth_bytes: rise(curves.gpu_memory.as_ref()),
        pcie_rx_bytes: rise(curves.pcie.as_ref()),
        gpu_busy_share: rise(curves.gpu_busy.as_ref()).map(|ns| ns / (to - from).max(1) as f64),
    }
}

/// What was not read over a stretch, as people name it.
pub(super) fn absent(seen: &Seen, curves: &Curves) -> Vec<&'static str> {
    let gpu = |is_absent: bool| is_absent && curves.has_gpu;
    let all = [
        (seen.disk_read_bytes.is_none() && seen.server_read_bytes.is_none(), "disk reads"),
        (seen.page_cache_growth_bytes.is_none(), "page cache"),
        (seen.server_cpu_ns.is_none(), "the server's CPU time"),
        (!curves.has_gpu, "GPU: none was seen"),
        (gpu(seen.gpu_memory_growth_bytes.is_none()), "GPU memory"),
        (gpu(seen.pcie_rx_bytes.is_none()), "PCIe traffic of the GPU"),
        (gpu(seen.gpu_busy_share.is_none()), "GPU utilisation"),
    ];
    all.into_iter().filter(|(is_absent, _)| *is_absent).map(|(_, name)| name).collect()
}
