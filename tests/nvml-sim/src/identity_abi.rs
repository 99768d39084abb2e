//! The C ABI of what a card is and who uses it: bus, link, limits, processes, MIG.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_uint, c_ulonglong};

use crate::abi::{CLOCK_MEM, CLOCK_SM, Device, answer, code, index, known, put};
use crate::board::{Code, INSUFFICIENT_SIZE, INVALID_ARGUMENT, Moment, NOT_FOUND, boards};
use crate::script::Call;

/// PCIe generation and width that the cards can.
pub(crate) const BEST_LINK: (u32, u32) = (5, 16);
const POWER_LIMIT_MW: u32 = 700_000;
const BEST_SM_MHZ: u32 = 1_980;
const BEST_MEM_MHZ: u32 = 2_619;
const BUS_BITS: u32 = 5_120;
/// MIG instances that a card can be split into.
const MOST_INSTANCES: u32 = 7;
/// Of a handle, from where on it says which instance it is of.
const INSTANCE_BIT: u32 = 16;
const NO_INSTANCE: u32 = u32::MAX;

#[repr(C)]
struct PciInfo {
    bus_id_legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    device_id: c_uint,
    subsystem_id: c_uint,
    bus_id: [c_char; 32],
}

#[repr(C)]
struct ProcessInfo {
    pid: c_uint,
    used_bytes: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// Text in a field of a struct, with its end.
fn text<const N: usize>(from: &str) -> [c_char; N] {
    let mut field = [0; N];
    field.iter_mut().take(N - 1).zip(from.bytes()).for_each(|(to, byte)| *to = byte as c_char);
    field
}

fn pci(gpu: u32) -> PciInfo {
    let bus = gpu + 1;
    PciInfo {
        bus_id_legacy: text(&format!("0000:{bus:02X}:00.0")),
        domain: 0,
        bus,
        device: 0,
        // No vendor's: 0x10de would be NVIDIA's.
        device_id: 0x0001_ffff,
        subsystem_id: 0,
        bus_id: text(&format!("00000000:{bus:02X}:00.0")),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: Device, to: *mut PciInfo) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::Identity, |now| pci(now.gpu)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetIndex(device: Device, to: *mut c_uint) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    code(known(device).and_then(|(gpu, _)| unsafe { put(to, gpu) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryBusWidth(device: Device, to: *mut c_uint) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::Identity, |_| BUS_BITS) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCurrPcieLinkGeneration(device: Device, to: *mut c_uint) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::Link, |now| now.script.extras.link().0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCurrPcieLinkWidth(device: Device, to: *mut c_uint) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::Link, |now| now.script.extras.link().1) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxPcieLinkGeneration(device: Device, to: *mut c_uint) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::Link, |_| BEST_LINK.0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxPcieLinkWidth(device: Device, to: *mut c_uint) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::Link, |_| BEST_LINK.1) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPowerManagementLimit(device: Device, to: *mut c_uint) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::PowerLimit, |_| POWER_LIMIT_MW) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPowerManagementDefaultLimit(device: Device, to: *mut c_uint) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::PowerLimit, |_| POWER_LIMIT_MW) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetEnforcedPowerLimit(device: Device, to: *mut c_uint) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::PowerLimit, |_| POWER_LIMIT_MW) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(device: Device, kind: c_uint, to: *mut c_uint) -> Code {
    let best = match kind {
        CLOCK_SM => BEST_SM_MHZ,
        CLOCK_MEM => BEST_MEM_MHZ,
        _ => return INVALID_ARGUMENT,
    };
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::MaxClock, |_| best) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: Device,
    count: *mut c_uint,
    infos: *mut ProcessInfo,
) -> Code {
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    let read = |now: Moment<'_>| Ok(now.script.extras.processes(now.gpu, now.at_ns).collect::<Vec<_>>());
    let running = boards().and_then(|boards| boards.read(index(device)?, Call::Processes, read));
    code(running.and_then(|running| {
        // SAFETY: not null; the caller says in it how many fit.
        let room = if infos.is_null() { 0 } else { unsafe { count.read() } };
        // SAFETY: not null.
        unsafe { put(count, running.len() as c_uint)? };
        if running.len() > room as usize {
            return Err(INSUFFICIENT_SIZE);
        }
        for (i, process) in running.iter().enumerate() {
            let used_bytes = u64::from(process.used_mib) << 20;
            let info = ProcessInfo {
                pid: process.pid,
                used_bytes,
                gpu_instance: NO_INSTANCE,
                compute_instance: NO_INSTANCE,
            };
            // SAFETY: there is room for `room` of them, and i < room.
            unsafe { infos.add(i).write(info) };
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: Device,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> Code {
    let read = |now: Moment<'_>| Ok(c_uint::from(now.script.extras.mig(now.gpu).is_some()));
    let mode = boards().and_then(|boards| boards.read(index(device)?, Call::MigMode, read));
    // SAFETY: the caller's pointers, as NVML asks.
    code(mode.and_then(|mode| unsafe { put(current, mode).and_then(|()| put(pending, mode)) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: Device, to: *mut c_uint) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::MigMode, |_| MOST_INSTANCES) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: Device,
    at: c_uint,
    to: *mut Device,
) -> Code {
    let handle = boards().and_then(|boards| {
        boards.read(index(device)?, Call::MigMode, |now| match now.script.extras.mig(now.gpu) {
            Some(instances) if at < instances => Ok(device as usize | (at as usize + 1) << INSTANCE_BIT),
            _ => Err(NOT_FOUND),
        })
    });
    // SAFETY: the caller's pointer, as NVML asks.
    code(handle.and_then(|handle| unsafe { put(to, handle as Device) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceIsMigDeviceHandle(device: Device, to: *mut c_uint) -> Code {
    let is_instance = c_uint::from(device as usize >> INSTANCE_BIT != 0);
    // SAFETY: the caller's pointer, as NVML asks.
    code(boards().and_then(|_| unsafe { put(to, is_instance) }))
}
