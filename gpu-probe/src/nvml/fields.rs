//! What takes microseconds a call, and what follows it more slowly. On GPUs after GA100 the plain power reading is an
//! average over a second, so instant power is read as a field value (NVML field 186) and the average (185) is kept
//! beside it.

use nvml_wrapper::device::Device;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::{Bits, NvmlError};
use nvml_wrapper::structs::device::FieldId;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;

use super::answers::{Answers, Loss, Reading};

/// `NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION`, mJ since the driver was loaded.
const ENERGY: u32 = 83;
/// `NVML_FI_DEV_POWER_AVERAGE`, mW over the last second.
const POWER_AVERAGE: u32 = 185;
/// `NVML_FI_DEV_POWER_INSTANT`, mW.
pub(crate) const POWER_INSTANT: u32 = 186;

/// Which of the quick readings are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Power alone, the most instant that there is.
    Power,
    /// All that is cheap.
    Full,
}

/// A reading of its own: `read` fills it in. Its stamp is the moment before the first call.
pub(crate) fn stamped(
    gpu: u32,
    read: impl FnOnce(&mut v1::GpuSample) -> Result<(), Loss>,
) -> Result<v1::GpuSample, Loss> {
    let raw_ns = HostClock.now();
    let mut sample = v1::GpuSample { raw_ns, gpu, ..Default::default() };
    read(&mut sample)?;
    sample.read_ns = HostClock.now() - raw_ns;
    Ok(sample)
}

/// True when nothing in it was read.
pub(crate) fn is_empty(sample: &v1::GpuSample) -> bool {
    let &v1::GpuSample { raw_ns, gpu, read_ns, .. } = sample;
    *sample == v1::GpuSample { raw_ns, gpu, read_ns, ..Default::default() }
}

/// Power first, which moves fastest; then utilisation, SM clock and throttle reasons.
pub(crate) fn quick(
    device: &Device<'_>,
    answers: &mut Answers,
    extent: Extent,
    sample: &mut v1::GpuSample,
) -> Result<(), Loss> {
    power(device, answers, extent, sample)?;
    if extent == Extent::Power {
        return Ok(());
    }
    if let Some(used) = answers.ask(Reading::Utilisation, || device.utilization_rates())? {
        (sample.gpu_util_pct, sample.mem_util_pct) = (Some(used.gpu), Some(used.memory));
    }
    sample.sm_clock_mhz = answers.ask(Reading::SmClock, || device.clock_info(Clock::SM))?;
    sample.throttle_reasons = answers.ask(Reading::Throttle, || throttle_bits(device))?;
    Ok(())
}

fn power(
    device: &Device<'_>,
    answers: &mut Answers,
    extent: Extent,
    sample: &mut v1::GpuSample,
) -> Result<(), Loss> {
    let instant = !answers.refuses(Reading::PowerInstant);
    let average = !answers.refuses(Reading::PowerAverage) && (extent == Extent::Full || !instant);
    let both = [(POWER_INSTANT, Reading::PowerInstant), (POWER_AVERAGE, Reading::PowerAverage)];
    let asked = match (instant, average) {
        (true, true) => &both[..],
        (true, false) => &both[..1],
        (false, true) => &both[1..],
        (false, false) => &[],
    };
    for (field, value) in fields(device, answers, asked)? {
        let milliwatt = u32::try_from(value).ok();
        match field {
            POWER_INSTANT => sample.power_instant_mw = milliwatt,
            _ => sample.power_average_mw = milliwatt,
        }
    }
    if answers.refuses(Reading::PowerAverage) && (extent == Extent::Full || !instant) {
        sample.power_average_mw = answers.ask(Reading::PowerUsage, || device.power_usage())?;
    }
    Ok(())
}

/// The energy counter.
pub(crate) fn energy(
    device: &Device<'_>,
    answers: &mut Answers,
    sample: &mut v1::GpuSample,
) -> Result<(), Loss> {
    if !answers.refuses(Reading::EnergyField) {
        let read = fields(device, answers, &[(ENERGY, Reading::EnergyField)])?;
        sample.energy_mj = read.first().map(|&(_, mj)| mj);
    }
    if answers.refuses(Reading::EnergyField) {
        sample.energy_mj = answers.ask(Reading::EnergyCall, || device.total_energy_consumption())?;
    }
    Ok(())
}

/// What moves slowly.
pub(crate) fn levels(
    device: &Device<'_>,
    answers: &mut Answers,
    sample: &mut v1::GpuSample,
) -> Result<(), Loss> {
    sample.mem_clock_mhz = answers.ask(Reading::MemClock, || device.clock_info(Clock::Memory))?;
    if let Some(memory) = answers.ask(Reading::Memory, || device.memory_info())? {
        (sample.mem_used_bytes, sample.mem_total_bytes) = (Some(memory.used), Some(memory.total));
    }
    sample.temperature_c =
        answers.ask(Reading::Temperature, || device.temperature(TemperatureSensor::Gpu))?;
    Ok(())
}

/// All bits, also those that this build has no name for.
pub(crate) fn throttle_bits(device: &Device<'_>) -> Result<u64, NvmlError> {
    match device.current_throttle_reasons_strict() {
        Ok(reasons) => Ok(reasons.bits()),
        Err(NvmlError::IncorrectBits(Bits::U64(bits))) => Ok(bits),
        Err(error) => Err(error),
    }
}

/// Some fields in one call: those that were answered, with their values.
fn fields(
    device: &Device<'_>,
    answers: &mut Answers,
    asked: &[(u32, Reading)],
) -> Result<Vec<(u32, u64)>, Loss> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<FieldId> = asked.iter().map(|&(id, _)| FieldId(id)).collect();
    let values = match device.field_values_for(&ids) {
        Ok(values) => values,
        Err(error) => {
            // Of the whole call: it holds for each of them.
            for &(_, reading) in asked {
                answers.fails(reading, &error)?;
            }
            return Ok(Vec::new());
        }
    };
    let mut read = Vec::with_capacity(asked.len());
    for (&(id, reading), value) in asked.iter().zip(values) {
        match value.and_then(|sample| sample.value) {
            Ok(value) => read.extend(whole(&value).map(|value| (id, value))),
            Err(error) => answers.fails(reading, &error)?,
        }
    }
    Ok(read)
}

/// A value that is a whole number, or as good as one.
pub(crate) fn whole(value: &SampleValue) -> Option<u64> {
    match *value {
        SampleValue::U32(v) => Some(u64::from(v)),
        SampleValue::U64(v) => Some(v),
        SampleValue::I64(v) => u64::try_from(v).ok(),
        SampleValue::F64(v) if v >= 0.0 => Some(v as u64),
        SampleValue::F64(_) => None,
    }
}
