//! GPUs through NVML: one field-values call for power and energy, then a call for each other thing. What a card
//! refuses for good is not asked again.

mod asking;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::path::Path;

use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::{Bits, NvmlError};
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{
    NVML_FI_DEV_POWER_AVERAGE, NVML_FI_DEV_POWER_INSTANT, NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
};
use nvml_wrapper::{Device, Nvml};
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;

use crate::source::{GpuAbsent, GpuSource};
use asking::{Asking, Item};

/// Where NVML is looked for: by the loader, then where container runtimes and WSL put it.
const PLACES: [&str; 3] = [
    "libnvidia-ml.so.1",
    "/usr/local/nvidia/lib64/libnvidia-ml.so.1",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
];
/// No host has more; a library that says so is broken.
const MOST_GPUS: u32 = 64;
/// What the stand-in of the tests says in its names.
const STAND_IN: &str = "SIMULATED";
/// Read in one call, power first.
const FIELDS: [(Item, u32); 3] = [
    (Item::PowerInstant, NVML_FI_DEV_POWER_INSTANT),
    (Item::PowerAverage, NVML_FI_DEV_POWER_AVERAGE),
    (Item::Energy, NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION),
];

/// An initialised NVML.
#[derive(Debug)]
pub struct NvmlSource {
    nvml: Nvml,
    facts: Vec<v1::GpuFacts>,
    asking: Vec<Asking>,
}

impl NvmlSource {
    /// Loads NVML from `path`, or from the usual places, and reads each GPU once to learn what it answers. Blocks: a
    /// driver that was asleep takes seconds to wake.
    ///
    /// # Errors
    /// When no library answers with a GPU: what was tried.
    pub fn open(path: Option<&Path>) -> Result<Self, GpuAbsent> {
        let places: Vec<&OsStr> = match path {
            Some(path) => vec![path.as_os_str()],
            None => PLACES.iter().map(OsStr::new).collect(),
        };
        let mut tried = Vec::new();
        for place in places {
            match Self::open_one(place) {
                Ok(source) => return Ok(source),
                Err(why) => tried.push(format!("{}: {why}", place.display())),
            }
        }
        Err(GpuAbsent { tried: tried.join("; ") })
    }

    fn open_one(place: &OsStr) -> Result<Self, String> {
        let nvml = Nvml::builder().lib_path(place).init().map_err(|e| e.to_string())?;
        let count = nvml.device_count().map_err(|e| format!("loaded, but failed to count GPUs: {e}"))?;
        if count == 0 || count > MOST_GPUS {
            return Err(format!("loaded, but it lists {count} GPUs"));
        }
        let asking = (0..count).map(Asking::new).collect();
        let mut source = Self { nvml, facts: Vec::new(), asking };
        for index in 0..count {
            let first = source.sample(index, HostClock);
            let facts = source.describe(index, &first);
            source.facts.push(facts);
        }
        Ok(source)
    }

    fn describe(&self, index: u32, first: &v1::GpuSample) -> v1::GpuFacts {
        let device = self.nvml.device_by_index(index);
        let device = device.as_ref().ok();
        let name = device.and_then(|d| d.name().ok()).unwrap_or_default();
        let driver = self.nvml.sys_driver_version().unwrap_or_default();
        v1::GpuFacts {
            index,
            uuid: device.and_then(|d| d.uuid().ok()).unwrap_or_default(),
            simulated: name.contains(STAND_IN) || driver.contains(STAND_IN),
            name,
            driver,
            memory_bytes: first.mem_total_bytes.unwrap_or(0),
            notes: self.asking.get(index as usize).map(|a| a.notes(first)).unwrap_or_default(),
        }
    }
}

impl GpuSource for NvmlSource {
    fn facts(&self) -> &[v1::GpuFacts] {
        &self.facts
    }

    fn sample(&mut self, gpu: u32, clock: HostClock) -> v1::GpuSample {
        let mut sample = v1::GpuSample { gpu, ..Default::default() };
        let device = self.nvml.device_by_index(gpu);
        sample.raw_ns = clock.now();
        if let Some(asking) = self.asking.get_mut(gpu as usize) {
            match device {
                Ok(device) => read_all(asking, &device, &mut sample),
                Err(e) => asking.unreachable(&e),
            }
            asking.end_of_sample();
        }
        sample.read_ns = clock.now() - sample.raw_ns;
        sample
    }

    fn take_notices(&mut self) -> Vec<String> {
        self.asking.iter_mut().flat_map(Asking::take_notices).collect()
    }
}

fn read_all(asking: &mut Asking, device: &Device<'_>, sample: &mut v1::GpuSample) {
    read_fields(asking, device, sample);
    if sample.power_average_mw.is_none() {
        sample.power_average_mw = asking.ask_instead(Item::PowerUsage, || device.power_usage());
    }
    if sample.energy_mj.is_none() {
        sample.energy_mj = asking.ask_instead(Item::EnergyCall, || device.total_energy_consumption());
    }
    if let Some(busy) = asking.ask(Item::Utilization, || device.utilization_rates()) {
        (sample.gpu_util_pct, sample.mem_util_pct) = (Some(busy.gpu), Some(busy.memory));
    }
    sample.sm_clock_mhz = asking.ask(Item::SmClock, || device.clock_info(Clock::SM));
    sample.mem_clock_mhz = asking.ask(Item::MemClock, || device.clock_info(Clock::Memory));
    sample.throttle_reasons = asking.ask(Item::Throttle, || throttle_bits(device));
    sample.temperature_c = asking.ask(Item::Temperature, || device.temperature(TemperatureSensor::Gpu));
    if let Some(memory) = asking.ask(Item::Memory, || device.memory_info()) {
        (sample.mem_used_bytes, sample.mem_total_bytes) = (Some(memory.used), Some(memory.total));
    }
}

/// Power and energy in one call to the driver.
fn read_fields(asking: &mut Asking, device: &Device<'_>, sample: &mut v1::GpuSample) {
    let wanted: Vec<_> = FIELDS.into_iter().filter(|(item, _)| asking.asks(*item)).collect();
    let ids: Vec<FieldId> = wanted.iter().map(|&(_, id)| FieldId(id)).collect();
    if ids.is_empty() {
        return;
    }
    match device.field_values_for(&ids) {
        Ok(values) => {
            for ((item, _), value) in wanted.into_iter().zip(values) {
                let value = asking.ask(item, || whole(value.and_then(|v| v.value)?));
                put_field(item, value, sample);
            }
        }
        Err(e) => wanted.iter().for_each(|(item, _)| asking.failed(*item, &e)),
    }
}

fn put_field(item: Item, value: Option<u64>, sample: &mut v1::GpuSample) {
    let milliwatts = value.and_then(|v| u32::try_from(v).ok());
    match item {
        Item::PowerInstant => sample.power_instant_mw = milliwatts,
        Item::PowerAverage => sample.power_average_mw = milliwatts,
        _ => sample.energy_mj = value,
    }
}

/// A power or an energy is a whole number; anything else is not what was asked for.
fn whole(value: SampleValue) -> Result<u64, NvmlError> {
    match value {
        SampleValue::U32(v) => Ok(v.into()),
        SampleValue::U64(v) => Ok(v),
        SampleValue::I64(v) => u64::try_from(v).map_err(|_| NvmlError::Unknown),
        SampleValue::F64(_) => Err(NvmlError::NotSupported),
    }
}

/// All bits as the driver gave them, also those that the wrapper has no name for yet.
fn throttle_bits(device: &Device<'_>) -> Result<u64, NvmlError> {
    match device.current_throttle_reasons_strict() {
        Ok(reasons) => Ok(reasons.bits()),
        Err(NvmlError::IncorrectBits(Bits::U64(bits))) => Ok(bits),
        Err(e) => Err(e),
    }
}
