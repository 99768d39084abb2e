//! What else went on during the warm runs: whether their figures can be trusted (MISSION C4).

use serde::Serialize;
use tailcliff_proto::{throttle, v1};

use super::evidence::{Curves, Series};

/// Of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GpuBand {
    /// Its index.
    pub gpu: u32,
    /// Utilisation, 5th and 95th percentile, %.
    pub util_pct: Option<(f64, f64)>,
    /// Power, the same, W.
    pub power_w: Option<(f64, f64)>,
    /// SM clock, lowest and highest, MHz.
    pub sm_clock_mhz: Option<(f64, f64)>,
    /// What held its clocks down meanwhile.
    pub throttled: Vec<&'static str>,
}

/// Readings over the warm runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sanity {
    /// By GPU.
    pub gpus: Vec<GpuBand>,
    /// CPU of the server's processes, cores.
    pub server_cores: Option<f64>,
    /// Memory of the server's processes at the end.
    pub server_rss_bytes: Option<u64>,
    /// Processes on the GPUs that are not the server's, at most.
    pub other_gpu_processes: Option<u32>,
    /// Read from this host's disks.
    pub disk_read_bytes: Option<f64>,
    /// Share of the time in which some task waited for I/O.
    pub io_stalled_share: Option<f64>,
    /// What happened to a GPU.
    pub gpu_events: Vec<String>,
}

pub(super) fn sanity(series: &Series, curves: &Curves, from: i64, to: i64) -> Sanity {
    let within = |at: i64| (from..=to).contains(&at);
    let host = || series.host.iter().filter(|s| within(s.raw_ns));
    let seconds = (to - from).max(1) as f64 / 1e9;
    let rise = |curve: Option<&super::evidence::Curve>| curve.and_then(|c| c.rise(from, to));
    let band = |(gpu, samples): (&u32, &Vec<v1::GpuSample>)| {
        band(*gpu, samples.iter().filter(|s| within(s.raw_ns)).copied().collect())
    };
    Sanity {
        gpus: series.gpus.iter().map(band).collect(),
        server_cores: rise(curves.server_cpu.as_ref()).map(|ns| ns / 1e9 / seconds),
        server_rss_bytes: host().rev().find_map(|s| s.server_rss_bytes),
        other_gpu_processes: host().filter_map(|s| s.other_gpu_processes).max(),
        disk_read_bytes: rise(curves.disk.as_ref()),
        io_stalled_share: rise(curves.io_stalled.as_ref()).map(|ns| ns / 1e9 / seconds),
        gpu_events: series
            .events
            .iter()
            .filter(|e| within(e.raw_ns))
            .map(|e| format!("GPU {}: {} {} {}", e.gpu, e.kind, e.code, e.text))
            .collect(),
    }
}

fn band(gpu: u32, samples: Vec<v1::GpuSample>) -> GpuBand {
    let of = |of: fn(&v1::GpuSample) -> Option<u32>| -> Vec<f64> {
        let mut all: Vec<f64> = samples.iter().filter_map(of).map(f64::from).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let power = of(|s| s.power_instant_mw.or(s.power_average_mw));
    let clock = of(|s| s.sm_clock_mhz);
    let reasons = samples.iter().filter_map(|s| s.throttle_reasons).fold(0, |all, reasons| all | reasons);
    GpuBand {
        gpu,
        util_pct: quantiles(&of(|s| s.gpu_util_pct)),
        power_w: quantiles(&power).map(|(low, high)| (low / 1e3, high / 1e3)),
        sm_clock_mhz: clock.first().copied().zip(clock.last().copied()),
        throttled: throttle::names(reasons & throttle::HOLDING),
    }
}

/// 5th and 95th percentile, nearest rank.
fn quantiles(sorted: &[f64]) -> Option<(f64, f64)> {
    let at =
        |share: f64| sorted.get(((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied();
    at(0.05).zip(at(0.95))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_leave_out_what_was_not_read_and_what_was_before() {
        let sample = |raw_ns: i64, util: u32, reasons| v1::GpuSample {
            raw_ns,
            gpu_util_pct: Some(util),
            power_average_mw: Some(util * 1000),
            throttle_reasons: Some(reasons),
            ..Default::default()
        };
        let mut gpu_samples: Vec<_> = (1..=100).map(|i| sample(i64::from(i), i, 0x1)).collect();
        gpu_samples.push(sample(0, 100, 0x40));
        gpu_samples.push(sample(50, 50, 0x4));
        let series = Series::of(&[v1::Batch { gpu_samples, ..Default::default() }]);
        let sanity = sanity(&series, &series.curves(), 1, 100);
        let gpu = &sanity.gpus[0];
        assert_eq!((gpu.util_pct, gpu.power_w), (Some((6.0, 95.0)), Some((6.0, 95.0))));
        assert_eq!((gpu.sm_clock_mhz, &gpu.throttled[..]), (None, &["software power cap"][..]));
        assert_eq!((sanity.server_cores, sanity.other_gpu_processes), (None, None));
    }
}
