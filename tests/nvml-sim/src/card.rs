//! What a board is besides what it does: statements of the script, and the calls of `nvml.h` that tell them. Link, limits
//! and modes are those of an H100 SXM board at rest.
//!
//! | statement | meaning |
//! |---|---|
//! | `name NVIDIA H100 80GB HBM3` | the boards are called so, after "SIMULATED " |
//! | `process 0 1234 2048` | process 1234 computes on GPU 0 and holds 2048 MiB there |
//! | `cuda_gb_s 1340` | bytes that the stand-in of CUDA copies per second, in GB (see [`crate::cuda`]) |
//! | `cuda_free_mib 700` | GPU memory that it says is free; what the board has free when unsaid |
//! | `cuda_room_mib 400` | GPU memory that it really gives, when that is less |
//! | `cuda_error cuMemAlloc_v2 2` | this call of it fails with this code |
//! | `cuda_hides 1` | it does not show this GPU |
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

use crate::abi::{Device, code, index, put};
use crate::board::{Code, INSUFFICIENT_SIZE, INVALID_ARGUMENT, Moment, NOT_SUPPORTED, boards};

const CLOCK_SM: c_uint = 1;
const CLOCK_MEM: c_uint = 2;
/// `NVML_NVLINK_MAX_LINKS`.
const LINKS: c_uint = 18;

/// What the statements above say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) name: Option<String>,
    processes: Vec<(u32, u32, u32)>,
    pub(crate) cuda_gb_s: Option<u32>,
    pub(crate) cuda_free_mib: Option<u32>,
    pub(crate) cuda_room_mib: Option<u32>,
    pub(crate) cuda_errors: Vec<(String, i32)>,
    pub(crate) cuda_hides: Vec<u32>,
}

impl Card {
    /// Takes one statement in; false when it is none of these.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn take(&mut self, words: &[&str]) -> Result<bool, String> {
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("expected a number, got {text}"));
        match words {
            ["name", words @ ..] if !words.is_empty() => self.name = Some(words.join(" ")),
            ["process", gpu, pid, mib] => self.processes.push((number(gpu)?, number(pid)?, number(mib)?)),
            ["cuda_gb_s", gb] => self.cuda_gb_s = Some(number(gb)?),
            ["cuda_free_mib", mib] => self.cuda_free_mib = Some(number(mib)?),
            ["cuda_room_mib", mib] => self.cuda_room_mib = Some(number(mib)?),
            ["cuda_error", call, code] => {
                let code = code.parse().map_err(|_| format!("expected a code, got {code}"))?;
                self.cuda_errors.push(((*call).to_owned(), code));
            }
            ["cuda_hides", gpu] => self.cuda_hides.push(number(gpu)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// `nvmlProcessInfo_t`, of the third version.
#[repr(C)]
struct Process {
    pid: c_uint,
    used_bytes: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// `nvmlPciInfo_t`.
#[repr(C)]
struct Pci {
    bus_id_legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    device_id: c_uint,
    sub_system_id: c_uint,
    bus_id: [c_char; 32],
}

/// Tells a constant of a board that is there.
///
/// # Safety
/// `to` is null or valid for a write of `T`.
unsafe fn constant<T>(device: Device, to: *mut T, value: T) -> Code {
    let got = boards().and_then(|boards| boards.read(index(device)?, |_| Ok(value)));
    // SAFETY: passed on from our own contract.
    code(got.and_then(|value| unsafe { put(to, value) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(to: *mut c_int) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    code(boards().and_then(|_| unsafe { put(to, 13_000) }))
}

/// Functions that write one number through the caller's pointer.
macro_rules! constants {
    ($($name:ident = $value:expr;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(device: Device, to: *mut c_uint) -> Code {
            // SAFETY: the caller's pointer, as NVML asks.
            unsafe { constant(device, to, $value) }
        }
    )*};
}

constants! {
    nvmlDeviceGetCurrPcieLinkGeneration = 5;
    nvmlDeviceGetMaxPcieLinkGeneration = 5;
    nvmlDeviceGetCurrPcieLinkWidth = 16;
    nvmlDeviceGetMaxPcieLinkWidth = 16;
    nvmlDeviceGetEnforcedPowerLimit = 700_000;
    nvmlDeviceGetPowerManagementDefaultLimit = 700_000;
    nvmlDeviceGetMemoryBusWidth = 5_120;
    nvmlDeviceGetPersistenceMode = 1;
}

/// Functions that write two numbers.
macro_rules! pairs {
    ($($name:ident = $one:expr, $two:expr;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(device: Device, one: *mut c_uint, two: *mut c_uint) -> Code {
            // SAFETY: the caller's pointers, as NVML asks.
            match unsafe { constant(device, one, $one) } {
                // SAFETY: as above.
                0 => unsafe { constant(device, two, $two) },
                failed => failed,
            }
        }
    )*};
}

pairs! {
    nvmlDeviceGetPowerManagementLimitConstraints = 200_000, 700_000;
    nvmlDeviceGetMigMode = 0, 0;
    nvmlDeviceGetEccMode = 1, 1;
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: Device,
    major: *mut c_int,
    minor: *mut c_int,
) -> Code {
    // SAFETY: the caller's pointers, as NVML asks.
    match unsafe { constant(device, major, 9) } {
        // SAFETY: as above.
        0 => unsafe { constant(device, minor, 0) },
        failed => failed,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(device: Device, kind: c_uint, to: *mut c_uint) -> Code {
    let mhz = match kind {
        CLOCK_SM => 1_980,
        CLOCK_MEM => 2_619,
        _ => return INVALID_ARGUMENT,
    };
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { constant(device, to, mhz) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetNvLinkState(device: Device, link: c_uint, to: *mut c_uint) -> Code {
    if link >= LINKS {
        return INVALID_ARGUMENT;
    }
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { constant(device, to, 1) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: Device, to: *mut Pci) -> Code {
    let text = |length: usize, gpu: u32| {
        let bytes = format!("00000000:{:02X}:00.0", gpu + 1).into_bytes();
        (0..length).map(move |i| bytes.get(i).copied().unwrap_or(0) as c_char).collect::<Vec<_>>()
    };
    let pci = |gpu: u32| {
        let mut pci = Pci {
            bus_id_legacy: [0; 16],
            domain: 0,
            bus: gpu + 1,
            device: 0,
            device_id: 0x2330_10DE,
            sub_system_id: 0x16C1_10DE,
            bus_id: [0; 32],
        };
        pci.bus_id.copy_from_slice(&text(32, gpu));
        pci.bus_id_legacy[..12].copy_from_slice(&text(32, gpu)[4..16]);
        pci
    };
    let got = index(device).and_then(|gpu| boards()?.read(gpu, |_| Ok(pci(gpu))));
    // SAFETY: the caller's struct, as NVML asks.
    code(got.and_then(|pci| unsafe { put(to, pci) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: Device,
    count: *mut c_uint,
    to: *mut Process,
) -> Code {
    let of = |now: Moment<'_>| {
        let all = now.script.card.processes.iter();
        Ok(all.filter(|(gpu, ..)| *gpu == now.gpu).map(|&(_, pid, mib)| (pid, mib)).collect::<Vec<_>>())
    };
    let found = match boards().and_then(|boards| boards.read(index(device)?, of)) {
        Ok(found) => found,
        Err(code) => return code,
    };
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, and the caller's, as NVML asks.
    let room = unsafe { count.replace(found.len() as c_uint) } as usize;
    if found.is_empty() {
        return 0;
    }
    if to.is_null() || room < found.len() {
        return INSUFFICIENT_SIZE;
    }
    for (i, (pid, mib)) in found.into_iter().enumerate() {
        let used_bytes = u64::from(mib) << 20;
        let process = Process { pid, used_bytes, gpu_instance: u32::MAX, compute_instance: u32::MAX };
        // SAFETY: the caller's array has as many places as it said, which was checked.
        unsafe { to.add(i).write(process) };
    }
    0
}

/// A board for computing draws nothing.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(_: Device, _: *mut c_uint, _: *mut Process) -> Code {
    NOT_SUPPORTED
}
