//! The CUDA driver library, loaded at run time: just enough of its C interface to copy memory within one GPU and to time
//! that by the GPU's own events. Nothing of CUDA is needed to build. The only module of this crate that is unsafe; what
//! it hands out keeps the order that the driver asks for: buffers and events live within a context, and a context stays
//! on the thread that it is current to.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_float, c_int, c_uint, c_ulonglong, c_void};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::ptr;

use libloading::Library;

/// Names tried when none is given.
const LIBRARIES: [&str; 4] = [
    "libcuda.so.1",
    "libcuda.so",
    // Where GKE and WSL put it, outside of the loader's own paths.
    "/usr/local/nvidia/lib64/libcuda.so.1",
    "/usr/lib/wsl/lib/libcuda.so.1",
];

/// `CUresult`.
type Code = c_int;
const SUCCESS: Code = 0;
const OUT_OF_MEMORY: Code = 2;

/// `CUdevice`: an ordinal.
type Device = c_int;
/// `CUdeviceptr`, 64 bits wide on every system that has the driver today.
type Pointer = c_ulonglong;
/// `CUcontext`, `CUstream` and `CUevent` point to what only the driver knows.
type Handle = *mut c_void;

/// Why there is no CUDA here: what was tried, and what each attempt said.
#[derive(Debug, thiserror::Error)]
#[error("no CUDA driver library: {0}")]
pub(crate) struct CudaAbsent(String);

/// What a call of the driver answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed: {text} (CUDA error {code})")]
pub(crate) struct CudaError {
    call: &'static str,
    code: Code,
    text: String,
}

impl CudaError {
    /// The GPU has no room for what was asked.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        self.code == OUT_OF_MEMORY
    }
}

/// A GPU as CUDA counts them, which `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` reorder and thin out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CudaDevice {
    device: Device,
    /// UUID of the GPU, as NVML writes it after "GPU-".
    pub(crate) uuid: Option<String>,
    /// UUID of the part of a GPU that MIG gave this process, where it differs from the GPU's.
    pub(crate) part: Option<String>,
}

/// The functions, by the names under which today's headers call them: `_v2` where the plain name is an older interface.
#[derive(Debug)]
struct Calls {
    error_string: unsafe extern "C" fn(Code, *mut *const c_char) -> Code,
    device_count: unsafe extern "C" fn(*mut c_int) -> Code,
    device_get: unsafe extern "C" fn(*mut Device, c_int) -> Code,
    device_uuid: Option<unsafe extern "C" fn(*mut [u8; 16], Device) -> Code>,
    /// The same, but the UUID of the MIG part where there is one.
    device_uuid_v2: Option<unsafe extern "C" fn(*mut [u8; 16], Device) -> Code>,
    context_retain: unsafe extern "C" fn(*mut Handle, Device) -> Code,
    context_release: unsafe extern "C" fn(Device) -> Code,
    context_set: unsafe extern "C" fn(Handle) -> Code,
    memory_info: unsafe extern "C" fn(*mut usize, *mut usize) -> Code,
    memory_alloc: unsafe extern "C" fn(*mut Pointer, usize) -> Code,
    memory_free: unsafe extern "C" fn(Pointer) -> Code,
    memory_fill: unsafe extern "C" fn(Pointer, c_uint, usize) -> Code,
    copy: unsafe extern "C" fn(Pointer, Pointer, usize, Handle) -> Code,
    event_create: unsafe extern "C" fn(*mut Handle, c_uint) -> Code,
    event_destroy: unsafe extern "C" fn(Handle) -> Code,
    event_record: unsafe extern "C" fn(Handle, Handle) -> Code,
    event_wait: unsafe extern "C" fn(Handle) -> Code,
    event_elapsed: unsafe extern "C" fn(*mut c_float, Handle, Handle) -> Code,
}

/// The driver, initialised. Never unloaded: it has threads of its own.
#[derive(Debug)]
pub(crate) struct Cuda {
    calls: Calls,
    /// What went wrong while something was given back, which nobody could be told then.
    troubles: RefCell<Vec<CudaError>>,
}

impl Cuda {
    /// Loads the driver from `path`, or from where it is usually installed, and initialises it.
    ///
    /// # Errors
    /// When no library loads, one lacks a function, or it cannot be initialised: what was tried, and why each failed.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, CudaAbsent> {
        let names = match path {
            Some(path) => vec![path.to_owned()],
            None => LIBRARIES.iter().map(PathBuf::from).collect(),
        };
        let mut tried = Vec::new();
        for name in names {
            // SAFETY: loading runs the library's own initialisers; what is asked for by this name, or named by the user,
            // is the driver that any CUDA program loads.
            match unsafe { Library::new(&name) } {
                Ok(library) => return Self::of(&*Box::leak(Box::new(library))),
                Err(error) => {
                    let (name, error) = (name.display().to_string(), error.to_string());
                    // The loader's own words begin with the file's name.
                    tried.push(
                        error
                            .strip_prefix(&format!("{name}: "))
                            .map_or(error.clone(), |why| format!("{name}: {why}")),
                    );
                }
            }
        }
        Err(CudaAbsent(tried.join("; ")))
    }

    fn of(library: &'static Library) -> Result<Self, CudaAbsent> {
        // SAFETY: each type below is the signature that cuda.h declares for that name.
        let calls = unsafe {
            Calls {
                error_string: function(library, &["cuGetErrorString"])?,
                device_count: function(library, &["cuDeviceGetCount"])?,
                device_get: function(library, &["cuDeviceGet"])?,
                device_uuid: function(library, &["cuDeviceGetUuid"]).ok(),
                device_uuid_v2: function(library, &["cuDeviceGetUuid_v2"]).ok(),
                context_retain: function(library, &["cuDevicePrimaryCtxRetain"])?,
                context_release: function(
                    library,
                    &["cuDevicePrimaryCtxRelease_v2", "cuDevicePrimaryCtxRelease"],
                )?,
                context_set: function(library, &["cuCtxSetCurrent"])?,
                memory_info: function(library, &["cuMemGetInfo_v2"])?,
                memory_alloc: function(library, &["cuMemAlloc_v2"])?,
                memory_free: function(library, &["cuMemFree_v2"])?,
                memory_fill: function(library, &["cuMemsetD32_v2"])?,
                copy: function(library, &["cuMemcpyDtoDAsync_v2"])?,
                event_create: function(library, &["cuEventCreate"])?,
                event_destroy: function(library, &["cuEventDestroy_v2"])?,
                event_record: function(library, &["cuEventRecord"])?,
                event_wait: function(library, &["cuEventSynchronize"])?,
                // From CUDA 12.8 on; of the same shape.
                event_elapsed: function(library, &["cuEventElapsedTime_v2", "cuEventElapsedTime"])?,
            }
        };
        // SAFETY: as above; flags must be 0.
        let init: unsafe extern "C" fn(c_uint) -> Code = unsafe { function(library, &["cuInit"])? };
        let cuda = Self { calls, troubles: RefCell::default() };
        // SAFETY: no pointers.
        cuda.check("cuInit", unsafe { init(0) }).map_err(|error| CudaAbsent(error.to_string()))?;
        Ok(cuda)
    }

    fn check(&self, call: &'static str, code: Code) -> Result<(), CudaError> {
        if code == SUCCESS {
            return Ok(());
        }
        let mut text = ptr::null();
        // SAFETY: the pointer is valid for the write; the text that it is set to lives as long as the library.
        let known = unsafe { (self.calls.error_string)(code, &raw mut text) } == SUCCESS && !text.is_null();
        // SAFETY: a C string of the driver's, checked for null.
        let text = if known {
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        } else {
            "unknown".to_owned()
        };
        Err(CudaError { call, code, text })
    }

    /// What is lost is lost; it is told when somebody asks.
    fn note(&self, done: Result<(), CudaError>) {
        self.troubles.borrow_mut().extend(done.err());
    }

    /// What went wrong while things were given back.
    pub(crate) fn troubles(&self) -> Vec<CudaError> {
        self.troubles.take()
    }

    /// Every GPU that CUDA shows this process.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn devices(&self) -> Result<Vec<CudaDevice>, CudaError> {
        let mut count = 0;
        // SAFETY: the pointer is valid for the write.
        self.check("cuDeviceGetCount", unsafe { (self.calls.device_count)(&raw mut count) })?;
        (0..count).map(|ordinal| self.device(ordinal)).collect()
    }

    fn device(&self, ordinal: c_int) -> Result<CudaDevice, CudaError> {
        let mut device = 0;
        // SAFETY: the pointer is valid for the write.
        self.check("cuDeviceGet", unsafe { (self.calls.device_get)(&raw mut device, ordinal) })?;
        let uuid = |call: Option<unsafe extern "C" fn(*mut [u8; 16], Device) -> Code>| {
            let mut bytes = [0; 16];
            // SAFETY: a `CUuuid` is 16 bytes, and valid for the write.
            (unsafe { call?(&raw mut bytes, device) } == SUCCESS).then(|| uuid_text(bytes))
        };
        let (whole, part) = (uuid(self.calls.device_uuid), uuid(self.calls.device_uuid_v2));
        // Where only the newer one is left, it is the GPU's own outside of MIG.
        let uuid = whole.or_else(|| part.clone());
        let part = part.filter(|part| uuid.as_ref() != Some(part));
        Ok(CudaDevice { device, uuid, part })
    }

    /// The primary context of a GPU, current to this thread until it is dropped.
    ///
    /// # Errors
    /// What the driver says; out of memory when there is no room for as much as a context.
    pub(crate) fn context(&self, device: &CudaDevice) -> Result<Context<'_>, CudaError> {
        let (device, mut handle) = (device.device, ptr::null_mut());
        // SAFETY: the pointer is valid for the write, and the device is one that the driver gave.
        let code = unsafe { (self.calls.context_retain)(&raw mut handle, device) };
        self.check("cuDevicePrimaryCtxRetain", code)?;
        // From here on it is released, whatever comes.
        let context = Context { cuda: self, device, here: PhantomData };
        // SAFETY: the handle is the one just given.
        self.check("cuCtxSetCurrent", unsafe { (self.calls.context_set)(handle) })?;
        Ok(context)
    }
}

/// The function of the first of these names that there is.
///
/// # Safety
/// `T` is the type of a function pointer, and of every function named.
unsafe fn function<T: Copy>(library: &Library, names: &[&str]) -> Result<T, CudaAbsent> {
    for name in names {
        // SAFETY: passed on from our own contract.
        if let Ok(function) = unsafe { library.get::<T>(name.as_bytes()) } {
            return Ok(*function);
        }
    }
    Err(CudaAbsent(format!("it has no {}: the driver is too old, or is none", names.join(" or "))))
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let hex = |range: std::ops::Range<usize>| {
        bytes[range].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    [hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16)].join("-")
}

/// A GPU's context, current to this thread, which it therefore must not leave. One at a time.
#[derive(Debug)]
pub(crate) struct Context<'c> {
    cuda: &'c Cuda,
    device: Device,
    here: PhantomData<*const ()>,
}

impl Context<'_> {
    /// Free and total memory of the GPU, bytes.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn memory(&self) -> Result<(u64, u64), CudaError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both pointers are valid for the write.
        let code = unsafe { (self.cuda.calls.memory_info)(&raw mut free, &raw mut total) };
        self.cuda.check("cuMemGetInfo_v2", code)?;
        Ok((free as u64, total as u64))
    }

    /// Memory on the GPU; a multiple of 4 bytes, all set to `fill`.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn buffer(&self, bytes: usize, fill: u32) -> Result<Buffer<'_>, CudaError> {
        let mut at = 0;
        // SAFETY: the pointer is valid for the write.
        self.cuda.check("cuMemAlloc_v2", unsafe { (self.cuda.calls.memory_alloc)(&raw mut at, bytes) })?;
        let buffer = Buffer { cuda: self.cuda, at, bytes };
        // SAFETY: as many words of four bytes as were just given; a device pointer is aligned to 256.
        self.cuda.check("cuMemsetD32_v2", unsafe { (self.cuda.calls.memory_fill)(at, fill, bytes / 4) })?;
        Ok(buffer)
    }

    /// A moment on the GPU's own clock, once recorded.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn event(&self) -> Result<Event<'_>, CudaError> {
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is valid for the write; 0 is an event that is timed, and waited for by spinning.
        self.cuda.check("cuEventCreate", unsafe { (self.cuda.calls.event_create)(&raw mut handle, 0) })?;
        Ok(Event { cuda: self.cuda, handle })
    }

    /// Has all of `from` copied to `to`, after what was asked for before; returns before it is done.
    ///
    /// # Errors
    /// What the driver says, also of what was asked for before.
    pub(crate) fn copy(&self, to: &Buffer<'_>, from: &Buffer<'_>) -> Result<(), CudaError> {
        let bytes = to.bytes.min(from.bytes);
        // SAFETY: both buffers live at least this long and are as large; the null stream keeps the order. A buffer is
        // freed by a call that waits for what uses it.
        let code = unsafe { (self.cuda.calls.copy)(to.at, from.at, bytes, ptr::null_mut()) };
        self.cuda.check("cuMemcpyDtoDAsync_v2", code)
    }

    /// Has the moment noted in which all that was asked for before is done.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn record(&self, event: &Event<'_>) -> Result<(), CudaError> {
        // SAFETY: the event lives; the null stream is that of the copies.
        let code = unsafe { (self.cuda.calls.event_record)(event.handle, ptr::null_mut()) };
        self.cuda.check("cuEventRecord", code)
    }

    /// Waits until that moment has come.
    ///
    /// # Errors
    /// What the driver says of anything that was asked for before it.
    pub(crate) fn wait(&self, event: &Event<'_>) -> Result<(), CudaError> {
        // SAFETY: the event lives.
        self.cuda.check("cuEventSynchronize", unsafe { (self.cuda.calls.event_wait)(event.handle) })
    }

    /// From one recorded moment to a later one, ms, to about half a microsecond.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn elapsed_ms(&self, from: &Event<'_>, to: &Event<'_>) -> Result<f32, CudaError> {
        let mut ms = 0.0;
        // SAFETY: the pointer is valid for the write, and both events live.
        let code = unsafe { (self.cuda.calls.event_elapsed)(&raw mut ms, from.handle, to.handle) };
        self.cuda.check("cuEventElapsedTime", code)?;
        Ok(ms)
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: no context is current to this thread from here on, and the device was retained once.
        let done = unsafe {
            let set = (self.cuda.calls.context_set)(ptr::null_mut());
            self.cuda.check("cuCtxSetCurrent", set).and(
                self.cuda
                    .check("cuDevicePrimaryCtxRelease_v2", (self.cuda.calls.context_release)(self.device)),
            )
        };
        self.cuda.note(done);
    }
}

/// Memory on a GPU, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer<'x> {
    cuda: &'x Cuda,
    at: Pointer,
    bytes: usize,
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: given by the driver and given back once; the call waits for copies that still use it.
        let code = unsafe { (self.cuda.calls.memory_free)(self.at) };
        self.cuda.note(self.cuda.check("cuMemFree_v2", code));
    }
}

/// A moment on a GPU's clock.
#[derive(Debug)]
pub(crate) struct Event<'x> {
    cuda: &'x Cuda,
    handle: Handle,
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // SAFETY: given by the driver and given back once.
        let code = unsafe { (self.cuda.calls.event_destroy)(self.handle) };
        self.cuda.note(self.cuda.check("cuEventDestroy_v2", code));
    }
}

#[cfg(test)]
impl CudaDevice {
    pub(crate) fn for_tests(uuid: Option<String>) -> Self {
        Self { device: 0, uuid, part: None }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn uuids_are_written_as_nvml_does() {
        let bytes = std::array::from_fn(|i| 0xe0 + i as u8);
        assert_eq!(super::uuid_text(bytes), "e0e1e2e3-e4e5-e6e7-e8e9-eaebecedeeef");
    }
}
