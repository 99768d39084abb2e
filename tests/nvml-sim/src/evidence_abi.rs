//! The C ABI of what the driver keeps or counts by itself: sample buffers, GPM, events. Handles of GPM samples and of
//! event sets are numbers, looked up in a table and never followed.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{c_char, c_double, c_uint, c_ulonglong, c_void};
use std::ptr::null;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::abi::{Device, VALUE_UNSIGNED_INT, Value, code, index, put};
use crate::board::{
    Code, INSUFFICIENT_SIZE, INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, SUCCESS, TIMEOUT, boards, pause,
};
use crate::evidence::{buffer, entries, metric};
use crate::script::Call;

type Handle = *mut c_void;

/// XIDs alone.
const EVENT_XID: c_ulonglong = 8;
/// A wait looks this often, ns.
const LOOK_NS: i64 = 1_000_000;
const MOST_METRICS: usize = 210;

#[repr(C)]
struct Sample {
    stamp_us: c_ulonglong,
    value: Value,
}

#[repr(C)]
struct Metric {
    id: c_uint,
    code: Code,
    value: c_double,
    short_name: *const c_char,
    long_name: *const c_char,
    unit: *const c_char,
}

#[repr(C)]
struct MetricsGet {
    version: c_uint,
    count: c_uint,
    from: Handle,
    to: Handle,
    metrics: [Metric; MOST_METRICS],
}

#[repr(C)]
struct GpmSupport {
    version: c_uint,
    is_supported: c_uint,
}

#[repr(C)]
struct EventData {
    device: Device,
    kind: c_ulonglong,
    data: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// What a handle stands for.
enum Held {
    /// A moment of a GPU, ns since the origin; none yet.
    Gpm(Option<(u32, i64)>),
    /// Which GPUs' XIDs are waited for, each with the moment up to which they were told, ns.
    Events(Vec<(u32, i64)>),
}

struct Table {
    last: usize,
    held: BTreeMap<usize, Held>,
}

static TABLE: Mutex<Table> = Mutex::new(Table { last: 0, held: BTreeMap::new() });

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hold(held: Held) -> Handle {
    let mut table = table();
    table.last += 1;
    let number = table.last;
    table.held.insert(number, held);
    number as Handle
}

fn let_go(handle: Handle) -> Code {
    code(table().held.remove(&(handle as usize)).map(drop).ok_or(INVALID_ARGUMENT))
}

fn gpm_moment(handle: Handle) -> Result<(u32, i64), Code> {
    match table().held.get(&(handle as usize)) {
        Some(Held::Gpm(Some(moment))) => Ok(*moment),
        _ => Err(INVALID_ARGUMENT),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetSamples(
    device: Device,
    kind: c_uint,
    last_seen_us: c_ulonglong,
    value_type: *mut c_uint,
    count: *mut c_uint,
    samples: *mut Sample,
) -> Code {
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    let Some(call) = buffer(kind) else { return NOT_SUPPORTED };
    let kept = boards().and_then(|boards| {
        boards.read(index(device)?, call, |now| {
            let after_ns = i64::try_from(last_seen_us).unwrap_or(i64::MAX).saturating_sub(now.origin_wall_us);
            let after_ns = after_ns.saturating_mul(1_000);
            let kept = entries(now.script, now.gpu, call, now.at_ns, after_ns);
            let stamp = |ns: i64| (now.origin_wall_us + ns / 1_000).unsigned_abs();
            Ok(kept.into_iter().map(|(ns, value)| (stamp(ns), value)).collect::<Vec<_>>())
        })
    });
    let answer = kept.and_then(|kept| {
        // SAFETY: the caller's pointers, as NVML asks; `count` is not null.
        unsafe { put(value_type, VALUE_UNSIGNED_INT)? };
        // SAFETY: as above; the caller says in it how many fit.
        let room = unsafe { count.read() } as usize;
        if samples.is_null() {
            // SAFETY: as above.
            return unsafe { put(count, 120) };
        }
        if kept.is_empty() {
            return Err(NOT_FOUND);
        }
        if kept.len() > room {
            return Err(INSUFFICIENT_SIZE);
        }
        for (i, &(stamp_us, unsigned)) in kept.iter().enumerate() {
            // SAFETY: there is room for `room` of them, and i < room.
            unsafe { samples.add(i).write(Sample { stamp_us, value: Value { unsigned } }) };
        }
        // SAFETY: not null.
        unsafe { put(count, kept.len() as c_uint) }
    });
    code(answer)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmQueryDeviceSupport(device: Device, to: *mut GpmSupport) -> Code {
    // SAFETY: the caller's struct, of which the version is read before anything is written; null is checked first.
    if to.is_null() || unsafe { (*to).version } != 1 {
        return INVALID_ARGUMENT;
    }
    let is_supported = boards().and_then(|boards| {
        let read = boards.read(index(device)?, Call::GpmSupport, |now| {
            Ok(c_uint::from(now.script.extras.mig(now.gpu).is_none()))
        });
        // A card without it says so in the struct.
        if read == Err(NOT_SUPPORTED) { Ok(0) } else { read }
    });
    // SAFETY: not null.
    code(is_supported.and_then(|is_supported| unsafe { put(to, GpmSupport { version: 1, is_supported }) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmSampleAlloc(to: *mut Handle) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    code(boards().and_then(|_| unsafe { put(to, hold(Held::Gpm(None))) }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlGpmSampleFree(sample: Handle) -> Code {
    let_go(sample)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlGpmSampleGet(device: Device, sample: Handle) -> Code {
    let moment = boards()
        .and_then(|boards| boards.read(index(device)?, Call::GpmSample, |now| Ok((now.gpu, now.at_ns))));
    code(moment.and_then(|moment| match table().held.get_mut(&(sample as usize)) {
        Some(Held::Gpm(held)) => {
            *held = Some(moment);
            Ok(())
        }
        _ => Err(INVALID_ARGUMENT),
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmMetricsGet(request: *mut MetricsGet) -> Code {
    // SAFETY: the caller's struct, as NVML asks; null is checked.
    let Some(request) = (unsafe { request.as_mut() }) else { return INVALID_ARGUMENT };
    if request.version != 1 || request.count as usize > MOST_METRICS {
        return INVALID_ARGUMENT;
    }
    let pair = gpm_moment(request.from).and_then(|from| Ok((from, gpm_moment(request.to)?)));
    code(pair.and_then(|((gpu, from_ns), (other, to_ns))| {
        if gpu != other || to_ns <= from_ns {
            return Err(INVALID_ARGUMENT);
        }
        boards()?.read(gpu, Call::GpmMetrics, |now| {
            for asked in &mut request.metrics[..request.count as usize] {
                let value = metric(now.script, gpu, asked.id, from_ns, to_ns);
                asked.code = if value.is_some() { SUCCESS } else { NOT_SUPPORTED };
                asked.value = value.unwrap_or_default();
                (asked.short_name, asked.long_name, asked.unit) = (null(), null(), null());
            }
            Ok(())
        })
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(device: Device, to: *mut c_ulonglong) -> Code {
    let kinds = boards().and_then(|boards| boards.read(index(device)?, Call::Events, |_| Ok(EVENT_XID)));
    // SAFETY: the caller's pointer, as NVML asks.
    code(kinds.and_then(|kinds| unsafe { put(to, kinds) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetCreate(to: *mut Handle) -> Code {
    // SAFETY: the caller's pointer, as NVML asks.
    code(boards().and_then(|_| unsafe { put(to, hold(Held::Events(Vec::new()))) }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetFree(set: Handle) -> Code {
    let_go(set)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceRegisterEvents(device: Device, kinds: c_ulonglong, set: Handle) -> Code {
    if kinds & !EVENT_XID != 0 {
        return NOT_SUPPORTED;
    }
    let from =
        boards().and_then(|boards| boards.read(index(device)?, Call::Events, |now| Ok((now.gpu, now.at_ns))));
    code(from.and_then(|from| match table().held.get_mut(&(set as usize)) {
        Some(Held::Events(watched)) => {
            watched.push(from);
            Ok(())
        }
        _ => Err(INVALID_ARGUMENT),
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetWait_v2(set: Handle, to: *mut EventData, timeout_ms: c_uint) -> Code {
    let seen = boards().and_then(|boards| {
        let until = boards.now_ns().saturating_add(i64::from(timeout_ms) * 1_000_000);
        loop {
            let now = boards.now_ns();
            match table().held.get_mut(&(set as usize)) {
                Some(Held::Events(watched)) => {
                    for (gpu, told) in watched {
                        if let Some((at, xid)) = boards.script().extras.xid(*gpu, *told, now) {
                            *told = at;
                            return Ok((*gpu, xid));
                        }
                    }
                }
                _ => return Err(INVALID_ARGUMENT),
            }
            if now >= until {
                return Err(TIMEOUT);
            }
            pause(LOOK_NS);
        }
    });
    code(seen.and_then(|(gpu, data)| {
        let device = (gpu as usize + 1) as Device;
        let event =
            EventData { device, kind: EVENT_XID, data, gpu_instance: u32::MAX, compute_instance: u32::MAX };
        // SAFETY: the caller's pointer, as NVML asks.
        unsafe { put(to, event) }
    }))
}
