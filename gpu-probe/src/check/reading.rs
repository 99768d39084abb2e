//! One look at a GPU: memory, utilisation, power, temperature.

use nvml_wrapper::device::Device;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::structs::device::FieldId;

use crate::nvml::POWER_INSTANT;

/// What a power reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    /// Of the moment, as far as the card's sensor goes.
    Instant,
    /// An average, on most cards over a second.
    Average,
}

impl Power {
    /// As a cell.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Instant => "instant",
            Self::Average => "average",
        }
    }
}

/// What a GPU showed at one moment; absent where it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each says what it is, in its unit")]
pub(crate) struct Reading {
    /// Since the watch began, s.
    pub(crate) t_s: f64,
    pub(crate) gpu: u32,
    pub(crate) memory_used_bytes: Option<u64>,
    pub(crate) memory_total_bytes: Option<u64>,
    pub(crate) gpu_util_pct: Option<u32>,
    pub(crate) mem_util_pct: Option<u32>,
    pub(crate) power_mw: Option<u32>,
    pub(crate) power_kind: Option<Power>,
    pub(crate) temperature_c: Option<u32>,
}

/// Reads a GPU.
pub(crate) fn read(device: &Device<'_>, gpu: u32, t_s: f64) -> Reading {
    let power = power(device);
    let memory = device.memory_info().ok();
    let used = device.utilization_rates().ok();
    Reading {
        t_s,
        gpu,
        memory_used_bytes: memory.as_ref().map(|m| m.used),
        memory_total_bytes: memory.as_ref().map(|m| m.total),
        gpu_util_pct: used.as_ref().map(|u| u.gpu),
        mem_util_pct: used.as_ref().map(|u| u.memory),
        power_mw: power.map(|(mw, _)| mw),
        power_kind: power.map(|(_, kind)| kind),
        temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
    }
}

/// Power of the moment where the card knows it, else its average, mW.
pub(crate) fn power(device: &Device<'_>) -> Option<(u32, Power)> {
    instant(device)
        .map(|mw| (mw, Power::Instant))
        .or_else(|| Some((device.power_usage().ok()?, Power::Average)))
}

fn instant(device: &Device<'_>) -> Option<u32> {
    let value = device.field_values_for(&[FieldId(POWER_INSTANT)]).ok()?.pop()?.ok()?.value.ok()?;
    match value {
        SampleValue::U32(mw) => Some(mw),
        SampleValue::U64(mw) => u32::try_from(mw).ok(),
        _ => None,
    }
}
