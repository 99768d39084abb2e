//! How fast a GPU copies its own memory: the bandwidth that decoding lives on.

use crate::cuda::{Context, Cuda, CudaDevice, CudaError};

/// Copies before those that are timed.
pub(crate) const WARM_UPS: usize = 5;
/// Groups that are timed, each as a whole, …
pub(crate) const GROUPS: usize = 8;
/// … and copies in each.
pub(crate) const COPIES: usize = 10;
/// Bytes of a copy, the first of which there is room for. The smallest still is more than any cache of a GPU holds.
const SIZES: [u64; 3] = [1 << 30, 512 << 20, 256 << 20];

/// How a test went.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Copied {
    /// It was made.
    Measured(Bandwidth),
    /// It could not be made, and nothing is wrong with the GPU for that: why.
    Skipped(String),
    /// The GPU failed: what it said.
    Failed(String),
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bandwidth {
    /// Bytes of each copy.
    pub(crate) bytes: u64,
    /// Bytes copied per second in each group.
    pub(crate) groups: Vec<f64>,
    /// Why the copies were smaller than usual; what else must be said.
    pub(crate) notes: Vec<String>,
}

impl Bandwidth {
    /// Bytes copied per second: the median of the groups.
    pub(crate) fn copied(&self) -> f64 {
        let mut sorted = self.groups.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        if n == 0 { f64::NAN } else { (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0 }
    }

    /// Bytes moved per second: each byte copied is read once and written once.
    pub(crate) fn moved(&self) -> f64 {
        2.0 * self.copied()
    }

    /// From the slowest to the fastest group, % of the median.
    pub(crate) fn spread_pct(&self) -> f64 {
        let low = self.groups.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.groups.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (high - low) / self.copied() * 100.0
    }
}

/// Tests the GPU that NVML knows by this UUID ("GPU-…").
pub(crate) fn test(cuda: &Cuda, uuid: &str) -> Copied {
    let device = match cuda.devices() {
        Ok(devices) => devices.into_iter().find(|device| is_same(device, uuid)),
        Err(error) => return Copied::Failed(error.to_string()),
    };
    let Some(device) = device else {
        return Copied::Skipped("CUDA does not show this GPU here; is CUDA_VISIBLE_DEVICES set?".to_owned());
    };
    let tested = with_context(cuda, &device);
    match (tested, cuda.troubles().first()) {
        (Copied::Measured(_), Some(trouble)) => Copied::Failed(trouble.to_string()),
        (tested, _) => tested,
    }
}

fn is_same(device: &CudaDevice, uuid: &str) -> bool {
    let bare = uuid.strip_prefix("GPU-").unwrap_or(uuid);
    device.uuid.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(bare))
}

fn with_context(cuda: &Cuda, device: &CudaDevice) -> Copied {
    let full = |error: CudaError| {
        if error.is_out_of_memory() {
            Copied::Skipped(format!("no room on the GPU, its memory is held by others: {error}"))
        } else {
            Copied::Failed(error.to_string())
        }
    };
    let context = match cuda.context(device) {
        Ok(context) => context,
        Err(error) => return full(error),
    };
    let free = match context.memory() {
        Ok((free, _)) => free,
        Err(error) => return full(error),
    };
    let mut last = None;
    for bytes in sizes(free) {
        match measure(&context, bytes) {
            Ok(groups) => return judge(bytes, groups, free, device),
            // Somebody took the room meanwhile, or it is in pieces.
            Err(error) if error.is_out_of_memory() => last = Some(error),
            Err(error) => return Copied::Failed(error.to_string()),
        }
    }
    last.map_or_else(|| Copied::Skipped(too_full(free)), full)
}

fn too_full(free: u64) -> String {
    format!(
        "{} MiB of GPU memory are free, and the test takes at most half of that: a server holds the rest; test before it starts",
        free >> 20
    )
}

/// The sizes that two buffers may have which together take at most half of what is free: a server beside it may want some.
fn sizes(free: u64) -> impl Iterator<Item = u64> {
    SIZES.into_iter().filter(move |bytes| 4 * bytes <= free)
}

/// Bytes copied per second in each group. All is asked for at once, so that the GPU is never waiting for this host.
fn measure(context: &Context<'_>, bytes: u64) -> Result<Vec<f64>, CudaError> {
    let size = usize::try_from(bytes).unwrap_or(usize::MAX);
    let (from, to) = (context.buffer(size, 0x5eed_5eed)?, context.buffer(size, 0)?);
    for _ in 0..WARM_UPS {
        context.copy(&to, &from)?;
    }
    let edges = (0..=GROUPS).map(|_| context.event()).collect::<Result<Vec<_>, _>>()?;
    for (i, edge) in edges.iter().enumerate() {
        context.record(edge)?;
        for _ in 0..if i < GROUPS { COPIES } else { 0 } {
            context.copy(&to, &from)?;
        }
    }
    context.wait(&edges[GROUPS])?;
    let rate = |pair: &[_]| Ok(rate(bytes, context.elapsed_ms(&pair[0], &pair[1])?));
    edges.windows(2).map(rate).collect()
}

/// Bytes per second of one group.
fn rate(bytes: u64, ms: f32) -> f64 {
    bytes as f64 * COPIES as f64 / (f64::from(ms) / 1e3)
}

fn judge(bytes: u64, groups: Vec<f64>, free: u64, device: &CudaDevice) -> Copied {
    if groups.iter().any(|rate| !rate.is_finite() || *rate <= 0.0) {
        return Copied::Failed("the GPU's clock showed no time for its copies".to_owned());
    }
    let mut notes = Vec::new();
    if bytes != SIZES[0] {
        notes.push(format!("copies of {} MiB, since {} MiB of GPU memory are free", bytes >> 20, free >> 20));
    }
    if device.part.is_some() {
        notes.push("of a MIG part of the card, which has part of its bandwidth".to_owned());
    }
    Copied::Measured(Bandwidth { bytes, groups, notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copied_is_the_median_and_moved_is_twice_that() {
        let groups = [10.0, 14.0, 12.0, 11.0].map(|gb| gb * 1e9).to_vec();
        let bandwidth = Bandwidth { bytes: 1 << 30, groups, notes: Vec::new() };
        assert_eq!((bandwidth.copied(), bandwidth.moved()), (11.5e9, 23e9));
        assert!((bandwidth.spread_pct() - 4.0 / 11.5 * 100.0).abs() < 1e-9);
        // 10 copies of 1 GiB in 8 ms.
        assert!((rate(1 << 30, 8.0) - 1.342_177_28e12).abs() < 1.0);
    }

    #[test]
    fn at_most_half_of_what_is_free_is_taken() {
        let of = |mib: u64| sizes(mib << 20).map(|bytes| bytes >> 20).collect::<Vec<_>>();
        assert_eq!(of(80_000), [1024, 512, 256]);
        assert_eq!((of(4095), of(1024), of(1023)), (vec![512, 256], vec![256], vec![]));
        assert!(too_full(1023 << 20).contains("1023 MiB"));
    }

    #[test]
    fn a_gpu_is_found_by_its_uuid_however_it_is_counted() {
        let uuid = Some("51011a7e-d000-4000-8000-000000000001".to_owned());
        let device = CudaDevice::for_tests(uuid);
        assert!(is_same(&device, "GPU-51011A7E-d000-4000-8000-000000000001"));
        assert!(!is_same(&device, "GPU-51011a7e-d000-4000-8000-000000000000"));
        assert!(!is_same(&CudaDevice::for_tests(None), ""));
    }

    #[test]
    fn time_that_does_not_pass_is_no_bandwidth() {
        let device = CudaDevice::for_tests(None);
        for groups in [vec![f64::INFINITY], vec![1e9, -1.0], vec![f64::NAN]] {
            assert!(matches!(judge(1 << 30, groups, 80 << 30, &device), Copied::Failed(_)));
        }
    }
}
