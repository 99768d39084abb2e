//! A stand-in `libcuda.so.1` in the same file: SIMULATED, with the C ABI of the calls that the probe's copy test makes,
//! written from `cuda.h` and not from the probe's own declarations. Nothing is copied; a virtual stream's clock goes on by
//! what each copy would take. Stricter than the driver: a context that is released while a buffer or an event of it
//! lives, which the driver would clear away silently, is error 999.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_float, c_int, c_uint, c_ulonglong, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::abi::own_file;
use crate::board::{self, MEMORY_BYTES, boards};

type Code = c_int;
const SUCCESS: Code = 0;
const INVALID_VALUE: Code = 1;
const OUT_OF_MEMORY: Code = 2;
const NOT_INITIALIZED: Code = 3;
const NO_DEVICE: Code = 100;
const INVALID_DEVICE: Code = 101;
const INVALID_CONTEXT: Code = 201;
const INVALID_HANDLE: Code = 400;
const NOT_READY: Code = 600;
const UNKNOWN: Code = 999;

/// GB copied per second when the script does not say: 80 % of an H100's 3350, halved, since a copy reads and writes.
const USUAL_GB_S: u32 = 1_340;
/// Copies of a fresh context that take twice as long: a test that times them is found out.
const COLD_COPIES: u32 = 5;
/// Addresses of buffers begin here, and lie this far apart at least.
const FIRST_ADDRESS: u64 = 0x7f00_0000_0000;
const ALIGNMENT: u64 = 512;

static STATE: Mutex<State> = Mutex::new(State::new());

thread_local! {
    /// The context that is current: the GPU's number plus one, 0 for none.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

struct State {
    initialised: bool,
    retained: u32,
    /// By address, bytes.
    buffers: BTreeMap<u64, u64>,
    next_address: u64,
    /// By handle: when it was recorded on the stream, ns.
    events: BTreeMap<usize, Option<f64>>,
    next_event: usize,
    copies: u32,
    stream_ns: f64,
}

impl State {
    const fn new() -> Self {
        Self {
            initialised: false,
            retained: 0,
            buffers: BTreeMap::new(),
            next_address: FIRST_ADDRESS,
            events: BTreeMap::new(),
            next_event: 1,
            copies: 0,
            stream_ns: 0.0,
        }
    }

    fn allocated(&self) -> u64 {
        self.buffers.values().sum()
    }

    /// Whether a buffer holds all of this.
    fn holds(&self, at: u64, bytes: u64) -> bool {
        let before = self.buffers.range(..=at).next_back();
        before.is_some_and(|(&start, &length)| at - start <= length && bytes <= length - (at - start))
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the script says of a call, or that it may go on.
fn scripted(call: &str) -> Result<(), Code> {
    let boards = boards().map_err(|_| NOT_INITIALIZED)?;
    let said = boards.script().card.cuda_errors.iter().find(|(name, _)| name == call);
    said.map_or(Ok(()), |&(_, code)| Err(code))
}

/// A call that needs cuInit.
fn ready(call: &str) -> Result<MutexGuard<'static, State>, Code> {
    let state = state();
    if !state.initialised {
        return Err(NOT_INITIALIZED);
    }
    scripted(call)?;
    Ok(state)
}

/// A call that needs a context.
fn within(call: &str) -> Result<MutexGuard<'static, State>, Code> {
    let state = ready(call)?;
    if CURRENT.get() == 0 || state.retained == 0 { Err(INVALID_CONTEXT) } else { Ok(state) }
}

fn code(done: Result<(), Code>) -> Code {
    done.err().unwrap_or(SUCCESS)
}

/// # Safety
/// `to` is null or valid for a write of `T`.
unsafe fn put<T>(to: *mut T, value: T) -> Result<(), Code> {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: not null, and valid by the contract above.
    unsafe { to.write(value) };
    Ok(())
}

/// GPUs that are shown, by their number on the board.
fn shown() -> Vec<u32> {
    let Ok(boards) = boards() else { return Vec::new() };
    let hidden = &boards.script().card.cuda_hides;
    // Backwards, so that nobody takes CUDA's order for NVML's.
    (0..boards.count()).filter(|gpu| !hidden.contains(gpu)).rev().collect()
}

fn gpu(device: c_int) -> Result<u32, Code> {
    usize::try_from(device).ok().and_then(|i| shown().get(i).copied()).ok_or(INVALID_DEVICE)
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: c_uint) -> Code {
    if flags != 0 {
        return INVALID_VALUE;
    }
    let mut state = state();
    if !state.initialised && board::init(own_file()).is_err() {
        return UNKNOWN;
    }
    state.initialised = true;
    if shown().is_empty() { NO_DEVICE } else { code(scripted("cuInit")) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(code: Code, to: *mut *const c_char) -> Code {
    let text = match code {
        SUCCESS => c"no error",
        INVALID_VALUE => c"invalid argument",
        OUT_OF_MEMORY => c"out of memory",
        NOT_INITIALIZED => c"initialization error",
        NO_DEVICE => c"no CUDA-capable device is detected",
        INVALID_DEVICE => c"invalid device ordinal",
        214 => c"uncorrectable ECC error encountered",
        _ => c"unknown error",
    };
    // SAFETY: the caller's pointer, as CUDA asks.
    self::code(unsafe { put(to, text.as_ptr()) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(to: *mut c_int) -> Code {
    // SAFETY: the caller's pointer, as CUDA asks.
    code(ready("cuDeviceGetCount").and_then(|_| unsafe { put(to, shown().len() as c_int) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(to: *mut c_int, ordinal: c_int) -> Code {
    // SAFETY: the caller's pointer, as CUDA asks.
    code(ready("cuDeviceGet").and_then(|_| gpu(ordinal)).and_then(|_| unsafe { put(to, ordinal) }))
}

/// As `nvmlDeviceGetUUID` of this library writes it.
fn uuid(gpu: u32) -> [u8; 16] {
    let mut bytes = [0x51, 0x01, 0x1a, 0x7e, 0xd0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 0];
    bytes[12..].copy_from_slice(&gpu.to_be_bytes());
    bytes
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid(to: *mut [u8; 16], device: c_int) -> Code {
    let known = ready("cuDeviceGetUuid").and_then(|_| gpu(device));
    // SAFETY: the caller's pointer, as CUDA asks.
    code(known.and_then(|gpu| unsafe { put(to, uuid(gpu)) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(to: *mut *mut c_void, device: c_int) -> Code {
    code(ready("cuDevicePrimaryCtxRetain").and_then(|mut state| {
        let gpu = gpu(device)?;
        state.retained += 1;
        state.copies = 0;
        // SAFETY: the caller's pointer, as CUDA asks.
        unsafe { put(to, (gpu as usize + 1) as *mut c_void) }
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> Code {
    code(ready("cuDevicePrimaryCtxRelease_v2").and_then(|mut state| {
        gpu(device)?;
        state.retained = state.retained.checked_sub(1).ok_or(INVALID_CONTEXT)?;
        if state.buffers.is_empty() && state.events.is_empty() { Ok(()) } else { Err(UNKNOWN) }
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> Code {
    code(ready("cuCtxSetCurrent").map(|_| CURRENT.set(context as usize)))
}

fn free(state: &State) -> u64 {
    let Ok(boards) = boards() else { return 0 };
    let used = u64::from(boards.script().levels(0, 0).used_mib) << 20;
    let said = boards.script().card.cuda_free_mib.map(|mib| u64::from(mib) << 20);
    said.unwrap_or(MEMORY_BYTES.saturating_sub(used)).saturating_sub(state.allocated())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(to_free: *mut usize, to_total: *mut usize) -> Code {
    code(within("cuMemGetInfo_v2").and_then(|state| {
        // SAFETY: the caller's pointers, as CUDA asks.
        unsafe { put(to_free, free(&state) as usize).and_then(|()| put(to_total, MEMORY_BYTES as usize)) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(to: *mut c_ulonglong, bytes: usize) -> Code {
    code(within("cuMemAlloc_v2").and_then(|mut state| {
        let room = boards().ok().and_then(|b| b.script().card.cuda_room_mib).map(|mib| u64::from(mib) << 20);
        let room = room.map_or(free(&state), |room| room.saturating_sub(state.allocated()));
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        if bytes as u64 > room {
            return Err(OUT_OF_MEMORY);
        }
        let at = state.next_address;
        state.next_address += (bytes as u64).next_multiple_of(ALIGNMENT) + ALIGNMENT;
        state.buffers.insert(at, bytes as u64);
        // SAFETY: the caller's pointer, as CUDA asks.
        unsafe { put(to, at) }
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(at: c_ulonglong) -> Code {
    code(
        within("cuMemFree_v2").and_then(|mut state| state.buffers.remove(&at).map(drop).ok_or(INVALID_VALUE)),
    )
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32_v2(at: c_ulonglong, _: c_uint, words: usize) -> Code {
    let fits = |state: MutexGuard<'_, State>| at.is_multiple_of(4) && state.holds(at, words as u64 * 4);
    code(within("cuMemsetD32_v2").and_then(|state| if fits(state) { Ok(()) } else { Err(INVALID_VALUE) }))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(
    to: c_ulonglong,
    from: c_ulonglong,
    bytes: usize,
    stream: *mut c_void,
) -> Code {
    code(within("cuMemcpyDtoDAsync_v2").and_then(|mut state| {
        if !stream.is_null() {
            return Err(INVALID_HANDLE);
        }
        let bytes = bytes as u64;
        if !state.holds(to, bytes) || !state.holds(from, bytes) || to.abs_diff(from) < bytes {
            return Err(INVALID_VALUE);
        }
        let gb_s = boards().ok().and_then(|b| b.script().card.cuda_gb_s).unwrap_or(USUAL_GB_S);
        let times = if state.copies < COLD_COPIES { 2.0 } else { 1.0 };
        state.stream_ns += bytes as f64 / f64::from(gb_s) * times;
        state.copies += 1;
        Ok(())
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(to: *mut *mut c_void, flags: c_uint) -> Code {
    /// Blocking waits, no timing, shared between processes.
    const KNOWN_FLAGS: c_uint = 7;
    code(within("cuEventCreate").and_then(|mut state| {
        if flags & !KNOWN_FLAGS != 0 {
            return Err(INVALID_VALUE);
        }
        let handle = state.next_event;
        state.next_event += 1;
        state.events.insert(handle, None);
        // SAFETY: the caller's pointer, as CUDA asks.
        unsafe { put(to, handle as *mut c_void) }
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> Code {
    let gone = |mut state: MutexGuard<'_, State>| state.events.remove(&(event as usize)).map(drop);
    code(within("cuEventDestroy_v2").and_then(|state| gone(state).ok_or(INVALID_HANDLE)))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: *mut c_void, stream: *mut c_void) -> Code {
    code(within("cuEventRecord").and_then(|mut state| {
        let now = state.stream_ns;
        let recorded = state.events.get_mut(&(event as usize)).filter(|_| stream.is_null());
        *recorded.ok_or(INVALID_HANDLE)? = Some(now);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: *mut c_void) -> Code {
    let known = |state: MutexGuard<'_, State>| state.events.contains_key(&(event as usize));
    code(
        within("cuEventSynchronize")
            .and_then(|state| if known(state) { Ok(()) } else { Err(INVALID_HANDLE) }),
    )
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime(to: *mut c_float, from: *mut c_void, until: *mut c_void) -> Code {
    code(within("cuEventElapsedTime").and_then(|state| {
        let at =
            |event: *mut c_void| state.events.get(&(event as usize)).ok_or(INVALID_HANDLE)?.ok_or(NOT_READY);
        let ms = (at(until)? - at(from)?) / 1e6;
        // SAFETY: the caller's pointer, as CUDA asks.
        unsafe { put(to, ms as c_float) }
    }))
}
