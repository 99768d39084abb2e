//! Who is on the GPUs.

use std::collections::BTreeMap;
use std::path::Path;

use nvml_wrapper::Nvml;
use nvml_wrapper::device::Device;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;

/// Who else is on the GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OtherProcesses {
    /// How many.
    pub(crate) count: u32,
    /// GPU memory that they hold, bytes; `None` when the driver does not tell it of each.
    pub(crate) memory_bytes: Option<u64>,
}

/// GPU memory of each process on one GPU, bytes; `None` of a process where the driver does not tell it.
pub(crate) type OnGpu = BTreeMap<u32, Option<u64>>;

/// Processes that compute or draw on a GPU.
///
/// # Errors
/// What NVML says.
pub(crate) fn on_gpu(device: &Device<'_>) -> Result<OnGpu, NvmlError> {
    let mut all = OnGpu::new();
    let drawing = match device.running_graphics_processes() {
        // Cards without a display may know no such processes.
        Err(NvmlError::NotSupported) => Vec::new(),
        drawing => drawing?,
    };
    for process in device.running_compute_processes()?.into_iter().chain(drawing) {
        let bytes = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        // One that does both is in both lists with the same memory.
        all.insert(process.pid, bytes);
    }
    Ok(all)
}

/// Processes on all GPUs that are not among `server`. `None` when a GPU does not tell, or tells numbers that mean nothing
/// here: from within a container the driver may show the host's.
pub(crate) fn others(nvml: &Nvml, server: &[u32]) -> Option<OtherProcesses> {
    let count = nvml.device_count().ok()?;
    let each = (0..count).map(|index| on_gpu(&nvml.device_by_index(index).ok()?).ok());
    judge(&each.collect::<Option<Vec<_>>>()?, server, |pid| Path::new("/proc").join(pid.to_string()).exists())
}

fn judge(gpus: &[OnGpu], server: &[u32], is_here: impl Fn(u32) -> bool) -> Option<OtherProcesses> {
    let mut others = BTreeMap::new();
    for (&pid, &bytes) in gpus.iter().flatten() {
        if !is_here(pid) {
            return None;
        }
        if server.contains(&pid) {
            continue;
        }
        let sum: &mut Option<u64> = others.entry(pid).or_insert(Some(0));
        *sum = sum.zip(bytes).and_then(|(sum, bytes)| sum.checked_add(bytes));
    }
    let memory_bytes = others.values().try_fold(0u64, |sum, bytes| sum.checked_add((*bytes)?));
    Some(OtherProcesses { count: u32::try_from(others.len()).ok()?, memory_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(all: &[(u32, Option<u64>)]) -> OnGpu {
        all.iter().copied().collect()
    }

    #[test]
    fn the_server_is_no_other_and_one_on_two_gpus_is_one() {
        let gpus = [gpu(&[(10, Some(5)), (20, Some(7))]), gpu(&[(20, Some(8)), (11, Some(1))])];
        let others = judge(&gpus, &[10, 11], |_| true);
        assert_eq!(others, Some(OtherProcesses { count: 1, memory_bytes: Some(15) }));
        assert_eq!(judge(&[], &[10], |_| true), Some(OtherProcesses { count: 0, memory_bytes: Some(0) }));
    }

    #[test]
    fn what_the_driver_does_not_tell_is_not_0() {
        let gpus = [gpu(&[(20, Some(7)), (21, None)])];
        assert_eq!(judge(&gpus, &[10], |_| true), Some(OtherProcesses { count: 2, memory_bytes: None }));
        assert_eq!(judge(&gpus, &[10], |pid| pid == 20), None, "another container's numbers");
    }
}
