//! What a card is and what state it is in, as NVML tells; what it does not tell is absent.

use nvml_wrapper::Nvml;
use nvml_wrapper::device::Device;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use tailcliff_proto::throttle;

use super::reading::{self, Power};
use super::spec::{Specified, specified};
use crate::nvml::{OnGpu, on_gpu, throttle_bits};

/// Links that one GPU may have.
const MOST_NVLINKS: u32 = 18;

/// One GPU, once.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each says what it is, in its unit")]
pub(crate) struct Card {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) driver: String,
    /// As in 13.0: the newest CUDA that the driver speaks.
    pub(crate) cuda: Option<String>,
    pub(crate) simulated: bool,
    /// Why nothing more is known of it; empty otherwise.
    pub(crate) trouble: String,
    pub(crate) pci_bus_id: Option<String>,
    pub(crate) compute_capability: Option<String>,
    pub(crate) memory_total_bytes: Option<u64>,
    pub(crate) memory_used_bytes: Option<u64>,
    pub(crate) memory_free_bytes: Option<u64>,
    pub(crate) pcie_gen: Option<u32>,
    pub(crate) pcie_gen_max: Option<u32>,
    pub(crate) pcie_width: Option<u32>,
    pub(crate) pcie_width_max: Option<u32>,
    /// Links that are up.
    pub(crate) nvlinks: Option<u32>,
    pub(crate) power_mw: Option<u32>,
    pub(crate) power_kind: Option<Power>,
    pub(crate) power_limit_mw: Option<u32>,
    pub(crate) power_limit_default_mw: Option<u32>,
    pub(crate) power_limit_min_mw: Option<u32>,
    pub(crate) power_limit_max_mw: Option<u32>,
    pub(crate) sm_clock_mhz: Option<u32>,
    pub(crate) sm_clock_max_mhz: Option<u32>,
    pub(crate) mem_clock_mhz: Option<u32>,
    pub(crate) mem_clock_max_mhz: Option<u32>,
    pub(crate) memory_bus_bits: Option<u32>,
    pub(crate) specified: Option<Specified>,
    pub(crate) throttle_bits: Option<u64>,
    pub(crate) temperature_c: Option<u32>,
    pub(crate) mig: Option<bool>,
    pub(crate) ecc: Option<bool>,
    pub(crate) persistence: Option<bool>,
    pub(crate) processes: Option<OnGpu>,
}

/// Every GPU that NVML knows.
///
/// # Errors
/// When they cannot even be counted.
pub(crate) fn cards(nvml: &Nvml) -> Result<Vec<Card>, String> {
    let count = nvml.device_count().map_err(|e| format!("failed to count GPUs: {e}"))?;
    let driver = nvml.sys_driver_version().unwrap_or_default();
    let cuda = nvml.sys_cuda_driver_version().ok().map(version);
    let card = |index| {
        let base = Card { index, driver: driver.clone(), cuda: cuda.clone(), ..Card::default() };
        match nvml.device_by_index(index) {
            Ok(device) => of(&device, base),
            Err(error) => Card { trouble: format!("it could not be opened: {error}"), ..base },
        }
    };
    Ok((0..count).map(card).collect())
}

/// 13000 is 13.0.
pub(crate) fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

fn of(device: &Device<'_>, base: Card) -> Card {
    let name = device.name();
    let memory = device.memory_info();
    // A driver may still know the name of a GPU that has fallen off the bus.
    let lost = memory.as_ref().err().filter(|e| matches!(e, NvmlError::GpuLost));
    let trouble =
        name.as_ref().err().or(lost).map(|e| format!("it does not answer: {e}")).unwrap_or_default();
    let memory = memory.ok();
    let name = name.unwrap_or_default();
    let simulated = [&name, &base.driver].iter().any(|text| text.contains("SIMULATED"));
    let power = reading::power(device);
    let range = device.power_management_limit_constraints().ok();
    let (bus, mem_max) = (device.memory_bus_width().ok(), device.max_clock_info(Clock::Memory).ok());
    Card {
        uuid: device.uuid().unwrap_or_default(),
        simulated,
        trouble,
        pci_bus_id: device.pci_info().ok().map(|pci| pci.bus_id),
        compute_capability: device.cuda_compute_capability().ok().map(|c| format!("{}.{}", c.major, c.minor)),
        memory_total_bytes: memory.as_ref().map(|m| m.total),
        memory_used_bytes: memory.as_ref().map(|m| m.used),
        memory_free_bytes: memory.as_ref().map(|m| m.free),
        pcie_gen: device.current_pcie_link_gen().ok(),
        pcie_gen_max: device.max_pcie_link_gen().ok(),
        pcie_width: device.current_pcie_link_width().ok(),
        pcie_width_max: device.max_pcie_link_width().ok(),
        nvlinks: nvlinks(device),
        power_mw: power.map(|(mw, _)| mw),
        power_kind: power.map(|(_, kind)| kind),
        power_limit_mw: device.enforced_power_limit().or_else(|_| device.power_management_limit()).ok(),
        power_limit_default_mw: device.power_management_limit_default().ok(),
        power_limit_min_mw: range.as_ref().map(|r| r.min_limit),
        power_limit_max_mw: range.as_ref().map(|r| r.max_limit),
        sm_clock_mhz: device.clock_info(Clock::SM).ok(),
        sm_clock_max_mhz: device.max_clock_info(Clock::SM).ok(),
        mem_clock_mhz: device.clock_info(Clock::Memory).ok(),
        mem_clock_max_mhz: mem_max,
        memory_bus_bits: bus,
        specified: specified(&name, mem_max, bus),
        throttle_bits: throttle_bits(device).ok(),
        temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
        mig: device.mig_mode().ok().map(|mode| mode.current == 1),
        ecc: device.is_ecc_enabled().ok().map(|state| state.currently_enabled),
        persistence: device.is_in_persistent_mode().ok(),
        processes: on_gpu(device).ok(),
        name,
        ..base
    }
}

/// Links that are up; `None` on a card that has none to speak of.
fn nvlinks(device: &Device<'_>) -> Option<u32> {
    let states: Vec<bool> =
        (0..MOST_NVLINKS).map_while(|link| device.link_wrapper_for(link).is_active().ok()).collect();
    (!states.is_empty()).then(|| states.iter().filter(|up| **up).count() as u32)
}

/// Why clocks are held down, in words.
pub(crate) fn throttle_words(bits: u64) -> String {
    let mut words: Vec<String> = throttle::names(bits).into_iter().map(str::to_owned).collect();
    let unknown = throttle::unknown(bits);
    if unknown != 0 {
        words.push(format!("{unknown:#x}, which this build has no word for"));
    }
    if words.is_empty() { "nothing holds the clocks down".to_owned() } else { words.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_throttle_bits_have_words() {
        assert_eq!([12_080, 13_000].map(version), ["12.8", "13.0"]);
        assert_eq!(throttle_words(0), "nothing holds the clocks down");
        assert_eq!(throttle_words(0x24), "software power cap; software thermal slowdown");
        assert!(throttle_words(1 << 40).contains("0x10000000000"));
    }
}
