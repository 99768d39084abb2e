//! What a board is besides what it does: statements of the script, and the calls of `nvml.h` that tell them. Link, limits
//! and modes are those of an H100 SXM board at rest.
//!
//! | statement | meaning |
//! |---|---|
//! | `name NVIDIA H100 80GB HBM3` | the boards are called so, after "SIMULATED " |
//! | `cuda_gb_s 1340` | bytes that the stand-in of CUDA copies per second, in GB (see [`crate::cuda`]) |
//! | `cuda_free_mib 700` | GPU memory that it says is free; what the board has free when unsaid |
//! | `cuda_room_mib 400` | GPU memory that it really gives, when that is less |
//! | `cuda_error cuMemAlloc_v2 2` | this call of it fails with this code |
//! | `cuda_hides 1` | it does not show this GPU |
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint, c_void};

use crate::abi::{Device, code, index, put};
use crate::board::{Code, INVALID_ARGUMENT, NOT_SUPPORTED, boards};
use crate::script::Call;

/// `NVML_NVLINK_MAX_LINKS`.
const LINKS: c_uint = 18;

/// What the statements above say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) name: Option<String>,
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

/// Tells a constant of a board that is there.
///
/// # Safety
/// `to` is null or valid for a write of `T`.
unsafe fn constant<T>(device: Device, to: *mut T, value: T) -> Code {
    let got = boards().and_then(|boards| boards.read(index(device)?, Call::Identity, |_| Ok(value)));
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
unsafe extern "C" fn nvmlDeviceGetNvLinkState(device: Device, link: c_uint, to: *mut c_uint) -> Code {
    if link >= LINKS {
        return INVALID_ARGUMENT;
    }
    // SAFETY: the caller's pointer, as NVML asks.
    unsafe { constant(device, to, 1) }
}

/// A board for computing draws nothing.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(_: Device, _: *mut c_uint, _: *mut c_void) -> Code {
    NOT_SUPPORTED
}
