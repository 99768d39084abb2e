//! GPUs through NVML. On GPUs after GA100 the plain power reading is an average over a second, so instant power is read
//! as a field value (NVML field 186) and the average (185) is kept beside it. What a card answers "not supported" to is
//! noted once and not asked again.

mod processes;

use std::path::{Path, PathBuf};

use nvml_wrapper::Nvml;
use nvml_wrapper::device::Device;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::{Bits, NvmlError};
use nvml_wrapper::structs::device::FieldId;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;

use crate::source::{GpuSource, OtherProcesses};

/// `NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION`, mJ since the driver was loaded.
const ENERGY: u32 = 83;
/// `NVML_FI_DEV_POWER_AVERAGE`, mW over the last second.
const POWER_AVERAGE: u32 = 185;
/// `NVML_FI_DEV_POWER_INSTANT`, mW.
const POWER_INSTANT: u32 = 186;

/// Names tried when none is given.
const LIBRARIES: [&str; 4] = [
    "libnvidia-ml.so.1",
    "libnvidia-ml.so",
    // Where GKE and WSL put it, outside of the loader's own paths.
    "/usr/local/nvidia/lib64/libnvidia-ml.so.1",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
];

/// Why there is no NVML here: what was tried, and what each attempt said.
#[derive(Debug, thiserror::Error)]
#[error("no NVML: {0}")]
pub struct NvmlAbsent(String);

/// Every GPU that one NVML library knows.
#[derive(Debug)]
pub struct NvmlSource {
    nvml: Nvml,
    gpus: Vec<Gpu>,
    troubles: Vec<String>,
}

#[derive(Debug)]
struct Gpu {
    facts: v1::GpuFacts,
    refused: Refused,
    lost: bool,
}

/// Which readings a card does not support.
#[derive(Clone, Copy, Debug, Default)]
struct Refused {
    fields: [bool; 3],
    power: bool,
    utilisation: bool,
    sm_clock: bool,
    mem_clock: bool,
    memory: bool,
    temperature: bool,
    throttle: bool,
    energy: bool,
}

impl NvmlSource {
    /// Loads NVML from `path`, or from where drivers put it.
    ///
    /// # Errors
    /// When no library loads or none initialises: what was tried, and why each failed.
    pub fn open(path: Option<&Path>) -> Result<Self, NvmlAbsent> {
        Self::of(load(path)?)
    }
    fn of(nvml: Nvml) -> Result<Self, NvmlAbsent> {
        let count = nvml.device_count().map_err(|e| NvmlAbsent(format!("failed to count GPUs: {e}")))?;
        if count == 0 {
            return Err(NvmlAbsent("the driver knows no GPU".to_owned()));
        }
        let driver = nvml.sys_driver_version().unwrap_or_default();
        let gpus = (0..count).map(|index| Gpu::of(&nvml, index, &driver)).collect();
        Ok(Self { nvml, gpus, troubles: Vec::new() })
    }
}

/// The library at `path`, or where drivers put it, initialised.
pub(crate) fn load(path: Option<&Path>) -> Result<Nvml, NvmlAbsent> {
    let names = match path {
        Some(path) => vec![path.to_owned()],
        None => LIBRARIES.iter().map(PathBuf::from).collect(),
    };
    let mut tried = Vec::new();
    for name in names {
        let error = match Nvml::builder().lib_path(name.as_os_str()).init() {
            Ok(nvml) => return Ok(nvml),
            Err(NvmlError::LibloadingError(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let name = name.display().to_string();
        // The loader's own words begin with the file's name.
        let why = error.strip_prefix(&format!("{name}: ")).unwrap_or(&error).to_owned();
        tried.push((name, why));
    }
    Err(NvmlAbsent(reasons(&tried)))
}

/// What was tried, and why each failed; a reason that several share is said once.
fn reasons(tried: &[(String, String)]) -> String {
    let runs = tried.chunk_by(|a, b| a.1 == b.1);
    let run = |same: &[(String, String)]| {
        let names: Vec<&str> = same.iter().map(|(name, _)| name.as_str()).collect();
        format!("{}: {}", names.join(", "), same[0].1)
    };
    runs.map(run).collect::<Vec<_>>().join("; ")
}

impl GpuSource for NvmlSource {
    fn facts(&self) -> Vec<v1::GpuFacts> {
        self.gpus.iter().map(|gpu| gpu.facts.clone()).collect()
    }

    fn sample(&mut self) -> Vec<v1::GpuSample> {
        let mut samples = Vec::with_capacity(self.gpus.len());
        for gpu in self.gpus.iter_mut().filter(|gpu| !gpu.lost) {
            let index = gpu.facts.index;
            match self.nvml.device_by_index(index).and_then(|device| gpu.sample(&device)) {
                Ok(sample) => samples.push(sample),
                Err(error) => {
                    gpu.lost = true;
                    self.troubles.push(format!("GPU {index} gives no more samples: {error}"));
                }
            }
        }
        samples
    }

    fn other_processes(&mut self, server: &[u32]) -> Option<OtherProcesses> {
        processes::others(&self.nvml, server)
    }

    fn troubles(&mut self) -> Vec<String> {
        std::mem::take(&mut self.troubles)
    }
}

impl Gpu {
    fn of(nvml: &Nvml, index: u32, driver: &str) -> Self {
        let device = nvml.device_by_index(index).ok();
        let name = device.as_ref().and_then(|d| d.name().ok()).unwrap_or_default();
        // The stand-in of the tests calls its boards and its driver so; no vendor does.
        let simulated = name.contains("SIMULATED") || driver.contains("SIMULATED");
        let facts = v1::GpuFacts {
            index,
            uuid: device.as_ref().and_then(|d| d.uuid().ok()).unwrap_or_default(),
            name,
            driver: driver.to_owned(),
            memory_bytes: device.as_ref().and_then(|d| d.memory_info().ok()).map_or(0, |m| m.total),
            simulated,
            notes: Vec::new(),
        };
        let mut gpu = Self { facts, refused: Refused::default(), lost: device.is_none() };
        if device.is_none() {
            gpu.facts.notes.push("it could not be opened: no samples of it".to_owned());
        }
        if let Some(device) = device {
            // A first reading finds out what this card does not support; a failing one is found again at the first tick.
            let _found = gpu.sample(&device);
            gpu.facts.notes = gpu.refused.notes();
        }
        gpu
    }

    /// One reading. Its stamp is the moment before the first call: power, which moves fastest, is read first.
    fn sample(&mut self, device: &Device<'_>) -> Result<v1::GpuSample, NvmlError> {
        let refused = &mut self.refused;
        let raw_ns = HostClock.now();
        let mut sample = v1::GpuSample { raw_ns, gpu: self.facts.index, ..Default::default() };
        read_fields(device, refused, &mut sample)?;
        if sample.power_average_mw.is_none() {
            sample.power_average_mw = ask(&mut refused.power, || device.power_usage())?;
        }
        if sample.energy_mj.is_none() {
            sample.energy_mj = ask(&mut refused.energy, || device.total_energy_consumption())?;
        }
        if let Some(used) = ask(&mut refused.utilisation, || device.utilization_rates())? {
            (sample.gpu_util_pct, sample.mem_util_pct) = (Some(used.gpu), Some(used.memory));
        }
        sample.sm_clock_mhz = ask(&mut refused.sm_clock, || device.clock_info(Clock::SM))?;
        sample.mem_clock_mhz = ask(&mut refused.mem_clock, || device.clock_info(Clock::Memory))?;
        if let Some(memory) = ask(&mut refused.memory, || device.memory_info())? {
            (sample.mem_used_bytes, sample.mem_total_bytes) = (Some(memory.used), Some(memory.total));
        }
        sample.temperature_c = ask(&mut refused.temperature, || device.temperature(TemperatureSensor::Gpu))?;
        sample.throttle_reasons = ask(&mut refused.throttle, || throttle_bits(device))?;
        sample.read_ns = HostClock.now() - raw_ns;
        Ok(sample)
    }
}

/// All bits, also those that this build has no name for.
fn throttle_bits(device: &Device<'_>) -> Result<u64, NvmlError> {
    match device.current_throttle_reasons_strict() {
        Ok(reasons) => Ok(reasons.bits()),
        Err(NvmlError::IncorrectBits(Bits::U64(bits))) => Ok(bits),
        Err(error) => Err(error),
    }
}

/// Instant power, average power and energy in one call.
fn read_fields(
    device: &Device<'_>,
    refused: &mut Refused,
    sample: &mut v1::GpuSample,
) -> Result<(), NvmlError> {
    let all = [POWER_INSTANT, POWER_AVERAGE, ENERGY];
    let wanted: Vec<usize> = (0..all.len()).filter(|&i| !refused.fields[i]).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let ids: Vec<FieldId> = wanted.iter().map(|&i| FieldId(all[i])).collect();
    let values = match device.field_values_for(&ids) {
        Ok(values) => values,
        Err(error) => {
            if is_refusal(&error)? {
                refused.fields = [true; 3];
            }
            return Ok(());
        }
    };
    for (&i, value) in wanted.iter().zip(values) {
        let value = match value.and_then(|sample| sample.value) {
            Ok(value) => whole(&value),
            Err(error) => {
                refused.fields[i] |= is_refusal(&error)?;
                continue;
            }
        };
        let milliwatt = value.and_then(|v| u32::try_from(v).ok());
        match all[i] {
            POWER_INSTANT => sample.power_instant_mw = milliwatt,
            POWER_AVERAGE => sample.power_average_mw = milliwatt,
            _ => sample.energy_mj = value,
        }
    }
    Ok(())
}

fn whole(value: &SampleValue) -> Option<u64> {
    match *value {
        SampleValue::U32(v) => Some(u64::from(v)),
        SampleValue::U64(v) => Some(v),
        SampleValue::I64(v) => u64::try_from(v).ok(),
        SampleValue::F64(v) if v >= 0.0 => Some(v as u64),
        SampleValue::F64(_) => None,
    }
}

/// A reading, unless this card refused it before; `None` also when it fails this once.
fn ask<T>(refused: &mut bool, read: impl FnOnce() -> Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    if *refused {
        return Ok(None);
    }
    match read() {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            *refused = is_refusal(&error)?;
            Ok(None)
        }
    }
}

/// True when the card will never answer this; an error when it will never answer anything.
fn is_refusal(error: &NvmlError) -> Result<bool, NvmlError> {
    match error {
        NvmlError::GpuLost => Err(NvmlError::GpuLost),
        NvmlError::Uninitialized => Err(NvmlError::Uninitialized),
        NvmlError::NotSupported | NvmlError::InvalidArg | NvmlError::NoPermission => Ok(true),
        NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => Ok(true),
        _ => Ok(false),
    }
}

impl Refused {
    fn notes(&self) -> Vec<String> {
        let [instant, average, energy_field] = self.fields;
        let all = [
            (instant, "instant power (field 186) is not supported: only the averaged reading is there"),
            (average && self.power, "average power is not supported"),
            (energy_field && self.energy, "the energy counter is not supported"),
            (self.utilisation, "utilisation is not supported"),
            (self.sm_clock, "the SM clock is not supported"),
            (self.mem_clock, "the memory clock is not supported"),
            (self.memory, "memory use is not supported"),
            (self.temperature, "temperature is not supported"),
            (self.throttle, "throttle reasons are not supported"),
        ];
        all.iter().filter(|(refused, _)| *refused).map(|(_, note)| (*note).to_owned()).collect()
    }
}
