//! What the stand-in says of its cards' bus, link, limits and users, through the real nvml-wrapper.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;

use crate::library::library;

#[test]
fn link_limits_and_processes_come_through_the_real_wrapper() {
    let dir = tempfile::tempdir().unwrap();
    let script = "gpus 2\nlink 4 8\nprocess 1 4242 1024\nprocess 1 77 3\nunsupported max_clock\nmig 0 2\n";
    let nvml = Nvml::builder().lib_path(library(dir.path(), script).as_os_str()).init().unwrap();
    let gpu = nvml.device_by_index(1).unwrap();
    let pci = gpu.pci_info().unwrap();
    assert_eq!((pci.bus, pci.bus_id.as_str()), (2, "00000000:02:00.0"));
    assert_eq!(gpu.index().unwrap(), 1);
    assert_eq!((gpu.current_pcie_link_gen().unwrap(), gpu.current_pcie_link_width().unwrap()), (4, 8));
    assert_eq!((gpu.max_pcie_link_gen().unwrap(), gpu.max_pcie_link_width().unwrap()), (5, 16));
    assert_eq!(gpu.memory_bus_width().unwrap(), 5_120);
    assert_eq!(gpu.power_management_limit().unwrap(), gpu.enforced_power_limit().unwrap());
    assert!(matches!(gpu.max_clock_info(Clock::SM), Err(NvmlError::NotSupported)));
    let running = gpu.running_compute_processes().unwrap();
    let used = |mib: u64| UsedGpuMemory::Used(mib << 20);
    let seen: Vec<_> = running.into_iter().map(|p| (p.pid, p.used_gpu_memory)).collect();
    assert_eq!(seen, [(4242, used(1024)), (77, used(3))]);
    let split = nvml.device_by_index(0).unwrap();
    assert!(split.running_compute_processes().unwrap().is_empty());
    assert_eq!((split.mig_mode().unwrap().current, gpu.mig_mode().unwrap().current), (1, 0));
    let instance = split.mig_device_by_index(1).unwrap();
    assert!(instance.mig_is_mig_device_handle().unwrap() && !split.mig_is_mig_device_handle().unwrap());
    assert!(matches!(split.mig_device_by_index(2), Err(NvmlError::NotFound)));
}
