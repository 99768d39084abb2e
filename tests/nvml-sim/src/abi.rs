//! The C ABI: the symbols that nvml-wrapper 0.13 loads for what the probe calls, with the layouts of NVIDIA's `nvml.h`
//! written out here and not taken from the bindings that they are tested through. A device handle is the index plus
//! one and is never followed; every pointer is checked for null.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_longlong, c_uint, c_ulonglong, c_void};
use std::path::PathBuf;

use crate::board::{
    Boards, Code, GPU_IS_LOST, INSUFFICIENT_SIZE, INVALID_ARGUMENT, MEMORY_BYTES, Moment, NO_PERMISSION,
    NOT_FOUND, NOT_SUPPORTED, SUCCESS, TIMEOUT, UNINITIALIZED, boards, init, pause, shutdown,
};
use crate::script::{Call, Levels};

pub(crate) type Device = *mut c_void;

const DRIVER: &str = "SIMULATED-0.1";
const NAME: &str = "SIMULATED GPU";

pub(crate) const CLOCK_SM: c_uint = 1;
pub(crate) const CLOCK_MEM: c_uint = 2;
const TEMPERATURE_GPU: c_uint = 0;
const FIELD_ENERGY: c_uint = 83;
const FIELD_POWER_AVERAGE: c_uint = 185;
const FIELD_POWER_INSTANT: c_uint = 186;
pub(crate) const VALUE_UNSIGNED_INT: c_uint = 1;
const VALUE_UNSIGNED_LONG_LONG: c_uint = 3;

#[repr(C)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[repr(C)]
struct MemoryV2 {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlValue_t`: eight bytes, of which the widest integer is all that is written here.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union Value {
    pub(crate) unsigned: c_uint,
    pub(crate) long: c_ulonglong,
}

#[repr(C)]
struct FieldValue {
    field: c_uint,
    scope: c_uint,
    timestamp_us: c_longlong,
    latency_us: c_longlong,
    value_type: c_uint,
    code: Code,
    value: Value,
}

pub(crate) fn code(done: Result<(), Code>) -> Code {
    done.err().unwrap_or(SUCCESS)
}

/// Writes through a caller's pointer.
///
/// # Safety
/// `to` is null or valid for a write of `T`, as NVML asks of its callers.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Result<(), Code> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and valid by the contract above.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes a C string into a caller's buffer.
///
/// # Safety
/// `to` is null or valid for `length` bytes.
pub(crate) unsafe fn put_text(text: &str, to: *mut c_char, length: c_uint) -> Result<(), Code> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() >= length as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the text and its end fit in `length` bytes, checked above.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// Reads one GPU and writes what `read` gives through `to`.
///
/// # Safety
/// `to` is null or valid for a write of `T`.
pub(crate) unsafe fn answer<T>(
    device: Device,
    to: *mut T,
    call: Call,
    read: impl FnOnce(Moment<'_>) -> T,
) -> Code {
    let got = boards().and_then(|boards| boards.read(index(device)?, call, |now| Ok(read(now))));
    // SAFETY: passed on from our own contract.
    code(got.and_then(|value| unsafe { put(to, value) }))
}

pub(crate) fn index(device: Device) -> Result<u32, Code> {
    // Above these bits a handle says which MIG instance of the GPU it is.
    (device as usize & 0xffff).checked_sub(1).and_then(|i| u32::try_from(i).ok()).ok_or(INVALID_ARGUMENT)
}

pub(crate) fn known(device: Device) -> Result<(u32, std::sync::Arc<Boards>), Code> {
    let (index, boards) = (index(device)?, boards()?);
    if index < boards.count() { Ok((index, boards)) } else { Err(INVALID_ARGUMENT) }
}

/// The file that this code was loaded from, by the kernel's list of mappings.
pub(crate) fn own_file() -> Option<PathBuf> {
    let here = nvmlInit_v2 as *const () as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        let range = usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?;
        range.contains(&here).then(|| line.find('/').map(|at| PathBuf::from(&line[at..])))?
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> Code {
    code(init(own_file()))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> Code {
    code(shutdown())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(code: Code) -> *const c_char {
    let text = match code {
        SUCCESS => c"Success",
        UNINITIALIZED => c"Uninitialized",
        INVALID_ARGUMENT => c"Invalid Argument",
        NOT_SUPPORTED => c"Not Supported",
        INSUFFICIENT_SIZE => c"Insufficient Size",
        NO_PERMISSION => c"Insufficient Permissions",
        NOT_FOUND => c"Not Found",
        TIMEOUT => c"Timeout",
        GPU_IS_LOST => c"GPU is lost",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetDriverVersion(to: *mut c_char, length: c_uint) -> Code {
    // SAFETY: the caller's buffer, as NVML asks.
    code(boards().and_then(|_| unsafe { put_text(DRIVER, to, length) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCount_v2(to: *mut c_uint) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    code(boards().and_then(|boards| unsafe { put(to, boards.count()) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, to: *mut Device) -> Code {
    let handle = boards().and_then(|boards| {
        if index >= boards.count() {
            return Err(INVALID_ARGUMENT);
        }
        let extras = &boards.script().extras;
        pause(extras.takes_ns(Call::Handle, boards.now_ns()));
        match extras.error(Call::Handle, boards.now_ns()) {
            Some(code) => Err(code),
            None if boards.script().is_lost(index, boards.now_ns()) => Err(GPU_IS_LOST),
            None => Ok((index as usize + 1) as Device),
        }
    });
    // SAFETY: the caller's pointer, as NVML asks.
    code(handle.and_then(|handle| unsafe { put(to, handle) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetName(device: Device, to: *mut c_char, length: c_uint) -> Code {
    let name = |boards: &Boards| match &boards.script().card.name {
        Some(name) => format!("SIMULATED {name}"),
        None => NAME.to_owned(),
    };
    // SAFETY: the caller's buffer, as NVML asks.
    code(known(device).and_then(|(_, boards)| unsafe { put_text(&name(&boards), to, length) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(device: Device, to: *mut c_char, length: c_uint) -> Code {
    let uuid = |gpu: u32| format!("GPU-51011a7e-d000-4000-8000-{gpu:012x}");
    // SAFETY: the caller's buffer, as NVML asks.
    code(known(device).and_then(|(gpu, _)| unsafe { put_text(&uuid(gpu), to, length) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: Device, to: *mut c_uint) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::PowerUsage, |now| now.script.shown_average_mw(now.gpu, now.at_ns)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTotalEnergyConsumption(device: Device, to: *mut c_ulonglong) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::Energy, |now| now.script.shown_energy_mj(now.gpu, now.at_ns)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUtilizationRates(device: Device, to: *mut Utilization) -> Code {
    let read = |levels: Levels| Utilization { gpu: levels.util, memory: levels.mem_util };
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::Utilization, |now| read(now.script.shown_util(now.gpu, now.at_ns))) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetClockInfo(device: Device, kind: c_uint, to: *mut c_uint) -> Code {
    match kind {
        // SAFETY: the caller's pointer, as NVML asks.
        CLOCK_SM => unsafe { answer(device, to, Call::SmClock, |now| now.levels().sm_mhz) },
        // SAFETY: as above.
        CLOCK_MEM => unsafe { answer(device, to, Call::MemClock, |now| now.levels().mem_mhz) },
        _ => INVALID_ARGUMENT,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Device, to: *mut MemoryV2) -> Code {
    let version = (size_of::<MemoryV2>() | 2 << 24) as c_uint;
    // SAFETY: the caller's struct, of which the version is read before anything is written; null is checked first.
    if to.is_null() || unsafe { (*to).version } != version {
        return INVALID_ARGUMENT;
    }
    let read = |levels: Levels| {
        let used = u64::from(levels.used_mib) << 20;
        MemoryV2 { version, total: MEMORY_BYTES, reserved: 0, free: MEMORY_BYTES.saturating_sub(used), used }
    };
    // SAFETY: as above.
    unsafe { answer(device, to, Call::Memory, |now| read(now.levels())) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTemperature(device: Device, sensor: c_uint, to: *mut c_uint) -> Code {
    if sensor != TEMPERATURE_GPU {
        return INVALID_ARGUMENT;
    }
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::Temperature, |now| now.levels().temp_c) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(device: Device, to: *mut c_ulonglong) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { answer(device, to, Call::Throttle, |now| u64::from(now.levels().throttle)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetFieldValues(device: Device, count: c_int, values: *mut FieldValue) -> Code {
    let Ok(count @ 1..) = usize::try_from(count) else { return INVALID_ARGUMENT };
    if values.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, and the caller gives `count` initialised structs, as NVML asks.
    let fields = unsafe { std::slice::from_raw_parts_mut(values, count) };
    code(boards().and_then(|boards| {
        boards.read(index(device)?, Call::FieldValues, |now| {
            fields.iter_mut().for_each(|field| field.answer(&now));
            Ok(())
        })
    }))
}

impl FieldValue {
    fn answer(&mut self, now: &Moment<'_>) {
        let (call, value_type, value) = match self.field {
            FIELD_POWER_INSTANT => {
                let unsigned = now.script.shown_instant_mw(now.gpu, now.at_ns);
                (Call::PowerInstant, VALUE_UNSIGNED_INT, Value { unsigned })
            }
            FIELD_POWER_AVERAGE => {
                let unsigned = now.script.shown_average_mw(now.gpu, now.at_ns);
                (Call::PowerAverage, VALUE_UNSIGNED_INT, Value { unsigned })
            }
            FIELD_ENERGY => {
                let long = now.script.shown_energy_mj(now.gpu, now.at_ns);
                (Call::EnergyField, VALUE_UNSIGNED_LONG_LONG, Value { long })
            }
            _ => {
                self.code = NOT_SUPPORTED;
                return;
            }
        };
        pause(now.script.extras.takes_ns(call, now.at_ns));
        self.code = code(now.needs(call));
        self.value_type = value_type;
        self.value = value;
    }
}
