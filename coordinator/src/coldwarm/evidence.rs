//! From what a recording holds to curves that can be asked: how much was read, how far did memory grow, how busy was it
//! between two moments. The only file that knows in which form samples come. What was not read is `None`, never 0.

use std::collections::BTreeMap;

use tailcliff_proto::v1;

/// A signal that nobody read for longer than this is not known in between, ns.
const LONGEST_GAP_NS: i64 = 3_000_000_000;

/// Readings further apart than this, ns, do not say when something happened.
const DENSE_NS: i64 = 500_000_000;

/// Readings of one stretch of time, by host and by GPU.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// The server's node, in the order read.
    pub host: Vec<v1::HostSample>,
    /// By GPU, in the order read.
    pub gpus: BTreeMap<u32, Vec<v1::GpuSample>>,
    /// GPU performance monitoring, of all GPUs.
    pub gpm: Vec<v1::GpmSample>,
    /// What happened to a GPU.
    pub events: Vec<v1::GpuEvent>,
}

impl Series {
    /// From the batches of a recording, in any order.
    pub fn of(batches: &[v1::Batch]) -> Self {
        let mut series = Self::default();
        for batch in batches {
            series.host.extend_from_slice(&batch.host_samples);
            series.gpm.extend_from_slice(&batch.gpm_samples);
            series.events.extend_from_slice(&batch.gpu_events);
            for sample in &batch.gpu_samples {
                series.gpus.entry(sample.gpu).or_default().push(*sample);
            }
        }
        series.host.sort_by_key(|s| s.raw_ns);
        series.gpm.sort_by_key(|s| s.to_raw_ns);
        series.gpus.values_mut().for_each(|samples| samples.sort_by_key(|s| s.raw_ns));
        series
    }

    /// Bytes in use on all GPUs together at `at_ns`, by the last reading of each before it.
    pub fn gpu_memory_at(&self, at_ns: i64) -> Option<u64> {
        let of_one = |samples: &Vec<v1::GpuSample>| {
            samples.iter().rev().filter(|s| s.raw_ns <= at_ns).find_map(|s| s.mem_used_bytes)
        };
        let used: Option<Vec<u64>> = self.gpus.values().map(of_one).collect();
        used.filter(|used| !used.is_empty()).map(|used| used.iter().sum())
    }

    /// The least that all GPUs together had in use between two moments.
    pub fn least_gpu_memory(&self, from_ns: i64, to_ns: i64) -> Option<u64> {
        self.gpu_memory()?.least(from_ns, to_ns).map(|bytes| bytes as u64)
    }

    /// What all GPUs together can hold.
    pub fn gpu_memory_total(&self) -> Option<u64> {
        let of_one = |samples: &Vec<v1::GpuSample>| samples.iter().rev().find_map(|s| s.mem_total_bytes);
        let totals: Option<Vec<u64>> = self.gpus.values().map(of_one).collect();
        totals.filter(|totals| !totals.is_empty()).map(|totals| totals.iter().sum())
    }

    /// Its curves.
    pub fn curves(&self) -> Curves {
        let host = |of: fn(&v1::HostSample) -> Option<f64>| {
            Curve::new(self.host.iter().filter_map(|s| Some((s.raw_ns, of(s)?))).collect())
        };
        let total = |of: fn(&v1::HostSample) -> Option<f64>| host(of).total();
        Curves {
            disk: total(|s| s.disk_read_bytes.map(|n| n as f64)),
            server_read: total(|s| s.server_read_bytes.map(|n| n as f64)),
            cache: host(|s| s.page_cache_bytes.map(|n| n as f64)),
            major_faults: total(|s| s.major_faults.map(|n| n as f64)),
            server_major_faults: total(|s| s.server_major_faults.map(|n| n as f64)),
            io_stalled: total(|s| s.io_some_us.map(|us| us as f64 * 1e3)),
            server_cpu: total(|s| s.server_cpu_ns.map(|n| n as f64)),
            host_cpu: total(|s| s.cpu_busy_ns.map(|n| n as f64)),
            gpu_memory: self.gpu_memory(),
            gpu_busy: self.gpu_busy(),
            pcie: self.gpm_curve(|s| s.pcie_rx_mib_s, MIB),
            has_gpu: !self.gpus.is_empty(),
        }
    }

    fn gpu_memory(&self) -> Option<Curve> {
        let of = |samples: &Vec<v1::GpuSample>| {
            Curve::new(samples.iter().filter_map(|s| Some((s.raw_ns, s.mem_used_bytes? as f64))).collect())
        };
        let curves: Option<Vec<Curve>> = self.gpus.values().map(of).map(Curve::known).collect();
        let curves = curves.filter(|curves| !curves.is_empty())?;
        let mut stamps: Vec<i64> = curves.iter().flat_map(|c| c.0.iter().map(|p| p.0)).collect();
        stamps.sort_unstable();
        stamps.dedup();
        // A GPU that is read for the first time later than another begins with its first value.
        let at = |c: &Curve, t: i64| c.at(t.clamp(c.0[0].0, c.0[c.0.len() - 1].0));
        let sum = |t: i64| Some((t, curves.iter().map(|c| at(c, t)).sum::<Option<f64>>()?));
        Curve::new(stamps.into_iter().filter_map(sum).collect()).known()
    }

    /// Busy time of the busiest GPU, as a total in ns: SM activity where the card tells, else utilisation.
    fn gpu_busy(&self) -> Option<Curve> {
        if let Some(active) = self.gpm_curve(|s| s.sm_active_pct, 1e9 / 100.0) {
            return Some(active);
        }
        let of = |samples: &Vec<v1::GpuSample>| -> Vec<(i64, f64)> {
            samples.iter().filter_map(|s| Some((s.raw_ns, f64::from(s.gpu_util_pct?)))).collect()
        };
        let levels = self.gpus.values().map(of).max_by(|a, b| mean(a).total_cmp(&mean(b)))?;
        accumulated(&levels, 1.0 / 100.0).known()
    }

    /// A rate of the GPU where it was highest, as a total in units of which one of the rate is `unit` per second. Each sample
    /// holds from its start to its end.
    fn gpm_curve(&self, of: fn(&v1::GpmSample) -> Option<f32>, unit: f64) -> Option<Curve> {
        let mut by_gpu: BTreeMap<u32, Vec<(i64, f64)>> = BTreeMap::new();
        for sample in &self.gpm {
            let Some(rate) = of(sample).filter(|rate| rate.is_finite()) else { continue };
            let points = by_gpu.entry(sample.gpu).or_default();
            let (until, total) = points.last().copied().unwrap_or((sample.from_raw_ns, 0.0));
            if points.is_empty() {
                points.push((sample.from_raw_ns, 0.0));
            }
            let ns = (sample.to_raw_ns - until).max(0);
            points.push((sample.to_raw_ns.max(until), total + f64::from(rate) * unit * ns as f64 / 1e9));
        }
        let busiest = by_gpu.into_values().max_by(|a, b| last(a).total_cmp(&last(b)))?;
        Curve::new(busiest).known()
    }
}

const MIB: f64 = 1_048_576.0;

fn last(points: &[(i64, f64)]) -> f64 {
    points.last().map_or(0.0, |p| p.1)
}

fn mean(levels: &[(i64, f64)]) -> f64 {
    levels.iter().map(|l| l.1).sum::<f64>() / levels.len().max(1) as f64
}

/// A level that holds since the reading before, as a total over ns.
fn accumulated(levels: &[(i64, f64)], scale: f64) -> Curve {
    let (mut total, mut before) = (0.0, None);
    let point = |&(at, level): &(i64, f64)| {
        total += before.map_or(0.0, |from| (at - from) as f64 * level * scale);
        before = Some(at);
        (at, total)
    };
    Curve::new(levels.iter().map(point).collect())
}

/// All curves of a stretch; those of totals only rise.
#[derive(Clone, Debug, Default)]
pub struct Curves {
    /// Read from this host's disks, bytes.
    pub disk: Option<Curve>,
    /// Fetched from storage for the server's processes, bytes.
    pub server_read: Option<Curve>,
    /// Page cache, bytes.
    pub cache: Curve,
    /// Major faults of the host.
    pub major_faults: Option<Curve>,
    /// Major faults of the server.
    pub server_major_faults: Option<Curve>,
    /// Time in which some task waited for I/O, ns.
    pub io_stalled: Option<Curve>,
    /// CPU time of the server, ns.
    pub server_cpu: Option<Curve>,
    /// CPU time of the host, ns.
    pub host_cpu: Option<Curve>,
    /// In use on all GPUs, bytes.
    pub gpu_memory: Option<Curve>,
    /// Busy time of the busiest GPU, ns.
    pub gpu_busy: Option<Curve>,
    /// Received over PCIe by the GPU that received most, bytes.
    pub pcie: Option<Curve>,
    /// There is a GPU at all.
    pub has_gpu: bool,
}

impl Curves {
    /// Major faults between two moments: the server's where they were read all along, else the host's.
    pub fn faults(&self, from: i64, to: i64) -> Option<f64> {
        let own = self.server_major_faults.as_ref().filter(|curve| curve.is_dense(from, to));
        let own = own.and_then(|curve| curve.rise(from, to));
        own.or_else(|| self.major_faults.as_ref()?.rise(from, to))
    }
}

/// A quantity over time, (ns, value), stamps ascending; straight between two readings.
#[derive(Clone, Debug, Default)]
pub struct Curve(Vec<(i64, f64)>);

impl Curve {
    /// Of points in ascending order.
    pub fn new(points: Vec<(i64, f64)>) -> Self {
        Self(points)
    }

    fn known(self) -> Option<Self> {
        (self.0.len() >= 2).then_some(self)
    }

    /// As a total that only rises: one that falls belongs to another process, which began at 0.
    fn total(self) -> Option<Self> {
        let (mut base, mut before) = (0.0, 0.0);
        let rebase = |(at, value): (i64, f64)| {
            if value < before {
                base += before;
            }
            before = value;
            (at, base + value)
        };
        Curve(self.0.into_iter().map(rebase).collect()).known()
    }

    /// Its value at `at`; `None` outside of what was read.
    pub fn at(&self, at: i64) -> Option<f64> {
        let after = self.0.partition_point(|p| p.0 < at);
        let next = self.0.get(after)?;
        if next.0 == at {
            return Some(next.1);
        }
        let before = self.0.get(after.checked_sub(1)?)?;
        let length = next.0 - before.0;
        if length > LONGEST_GAP_NS {
            return None;
        }
        Some(before.1 + (next.1 - before.1) * (at - before.0) as f64 / length as f64)
    }

    /// How much it rose between two moments. Readings may begin or end a little within.
    pub fn rise(&self, from: i64, to: i64) -> Option<f64> {
        let (first, last) = (self.0.first()?.0, self.0.last()?.0);
        let slack = (LONGEST_GAP_NS / 6).min((to - from).max(0) / 4 + 1);
        let (from, to) = (from.max(first.min(from + slack)), to.min(last.max(to - slack)));
        Some(self.at(to)? - self.at(from)?)
    }

    /// It was read all along: where a process ended and another was found later, a straight line in between says how much,
    /// but not when.
    pub fn is_dense(&self, from: i64, to: i64) -> bool {
        let first = self.0.partition_point(|p| p.0 <= from).saturating_sub(1);
        let last = self.0.partition_point(|p| p.0 < to);
        let within = self.0.get(first..=last).unwrap_or_default();
        within.len() >= 2 && within.windows(2).all(|w| w[1].0 - w[0].0 <= DENSE_NS)
    }

    /// Its least reading between two moments.
    pub fn least(&self, from: i64, to: i64) -> Option<f64> {
        let within = self.0.iter().filter(|p| (from..=to).contains(&p.0)).map(|p| p.1);
        within.min_by(f64::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_of_another_process_goes_on_from_the_one_before() {
        let curve = Curve::new(vec![(0, 100.0), (10, 150.0), (20, 5.0), (30, 25.0)]).total().unwrap();
        assert_eq!(curve.rise(0, 30), Some(75.0));
        assert_eq!(curve.rise(10, 20), Some(5.0));
    }

    #[test]
    fn a_gap_says_how_much_but_not_when() {
        let ms = 1_000_000;
        let curve = Curve::new([0, 100, 200, 900, 1000].map(|t| (t * ms, t as f64)).to_vec());
        assert!(curve.is_dense(0, 200 * ms) && curve.is_dense(950 * ms, 990 * ms));
        assert!(!curve.is_dense(150 * ms, 300 * ms) && !curve.is_dense(300 * ms, 400 * ms));
        assert_eq!(curve.rise(300 * ms, 400 * ms), Some(100.0));
        assert!(!Curve::default().is_dense(0, 1));
    }

    #[test]
    fn faults_of_the_server_and_of_the_host_are_two_counters() {
        let sample = |n: u64, server_major_faults| v1::HostSample {
            raw_ns: n as i64 * 100_000_000,
            major_faults: Some(1_000_000 + 10 * n),
            server_major_faults,
            ..Default::default()
        };
        // No server in the middle.
        let own = [Some(1), Some(3), None, None, None, None, None, Some(5), Some(9)];
        let host_samples = (0..).zip(own).map(|(n, own)| sample(n, own)).collect();
        let curves = Series::of(&[v1::Batch { host_samples, ..Default::default() }]).curves();
        let at = |n: i64| n * 100_000_000;
        assert_eq!(curves.major_faults.as_ref().unwrap().rise(at(0), at(8)), Some(80.0));
        assert_eq!(curves.server_major_faults.as_ref().unwrap().rise(at(7), at(8)), Some(4.0));
        assert_eq!(curves.faults(at(7), at(8)), Some(4.0), "the server's, read all along");
        assert_eq!(curves.faults(at(0), at(8)), Some(80.0), "the host's");
    }

    #[test]
    fn what_was_not_read_is_not_known() {
        let series = Series::of(&[v1::Batch {
            host_samples: vec![v1::HostSample { raw_ns: 5, ..Default::default() }],
            gpu_samples: vec![v1::GpuSample { raw_ns: 5, ..Default::default() }],
            ..Default::default()
        }]);
        let curves = series.curves();
        assert!(curves.disk.is_none() && curves.gpu_memory.is_none() && curves.gpu_busy.is_none());
        assert!(curves.has_gpu);
        assert_eq!((series.gpu_memory_at(9), series.gpu_memory_total()), (None, None));
        let curve = Curve::new(vec![(0, 0.0), (LONGEST_GAP_NS + 1, 9.0)]);
        assert_eq!((curve.at(5), curve.at(-1), Curve::default().rise(0, 1)), (None, None, None));
    }

    #[test]
    fn memory_of_two_gpus_is_their_sum() {
        let sample = |raw_ns, gpu, used| v1::GpuSample {
            raw_ns,
            gpu,
            mem_used_bytes: Some(used),
            mem_total_bytes: Some(1000),
            gpu_util_pct: Some(50),
            ..Default::default()
        };
        let gpu_samples = vec![sample(1, 0, 10), sample(2, 1, 20), sample(11, 0, 100), sample(12, 1, 30)];
        let series = Series::of(&[v1::Batch { gpu_samples, ..Default::default() }]);
        assert_eq!(series.gpu_memory_at(2), Some(30));
        assert_eq!(series.gpu_memory_at(0), None);
        assert_eq!(series.least_gpu_memory(0, 20), Some(30));
        assert_eq!(series.gpu_memory_total(), Some(2000));
        assert_eq!(series.curves().gpu_memory.unwrap().rise(1, 12), Some(100.0));
        assert_eq!(series.curves().gpu_busy.unwrap().rise(2, 12), Some(5.0));
    }

    #[test]
    fn rates_become_totals() {
        let sample = |from_raw_ns: i64, to_raw_ns: i64, rate: f32| v1::GpmSample {
            from_raw_ns,
            to_raw_ns,
            pcie_rx_mib_s: Some(rate),
            sm_active_pct: Some(50.0),
            ..Default::default()
        };
        let gpm_samples = vec![sample(0, 1_000_000_000, 2.0), sample(1_000_000_000, 1_500_000_000, 4.0)];
        let curves = Series::of(&[v1::Batch { gpm_samples, ..Default::default() }]).curves();
        assert_eq!(curves.pcie.unwrap().rise(0, 1_500_000_000), Some(4.0 * MIB));
        assert_eq!(curves.gpu_busy.unwrap().rise(0, 1_000_000_000), Some(5e8));
    }
}
