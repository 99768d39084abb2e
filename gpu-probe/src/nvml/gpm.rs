//! GPM: what SMs, tensor cores, DRAM, PCIe and NVLink did between two samples (Hopper on). Documented as valid when they
//! are at least 100 ms apart.

use nvml_wrapper::Nvml;
use nvml_wrapper::device::Device;
use nvml_wrapper::enums::gpm::GpmMetricId as Id;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::gpm::{GpmSample, gpm_metrics_get};
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;

use super::answers::{Answers, Loss, Reading};

/// Two samples are this far apart at least, ns.
pub(crate) const LEAST_NS: i64 = 100_000_000;
const METRICS: [Id; 8] = [
    Id::SmUtil,
    Id::SmOccupancy,
    Id::AnyTensorUtil,
    Id::DramBwUtil,
    Id::PcieTxPerSec,
    Id::PcieRxPerSec,
    Id::NvlinkTotalTxPerSec,
    Id::NvlinkTotalRxPerSec,
];

/// The newest sample of one card, which the next one is compared with.
#[derive(Debug, Default)]
pub(crate) struct Counters<'n> {
    last: Option<(i64, GpmSample<'n>)>,
}

/// Whether a card has it at all.
pub(crate) fn has(device: &Device<'_>) -> Result<(), NvmlError> {
    if device.gpm_support()? { Ok(()) } else { Err(NvmlError::NotSupported) }
}

impl<'n> Counters<'n> {
    /// Takes a sample; what happened since the one before it, if that was long enough ago.
    ///
    /// # Errors
    /// When the card is gone.
    pub(crate) fn read(
        &mut self,
        nvml: &'n Nvml,
        gpu: u32,
        device: &Device<'n>,
        answers: &mut Answers,
    ) -> Result<Option<v1::GpmSample>, Loss> {
        let before = HostClock.now();
        if self.last.as_ref().is_some_and(|(at, _)| before - at < LEAST_NS) {
            return Ok(None);
        }
        let Some(sample) = answers.ask(Reading::Gpm, || device.gpm_sample())? else { return Ok(None) };
        // Taken some time within the call.
        let at = before + (HostClock.now() - before) / 2;
        let (from, first) = match self.last.replace((at, sample)) {
            Some(last) => last,
            None => return Ok(None),
        };
        let Some((_, second)) = &self.last else { return Ok(None) };
        let metrics = answers.ask(Reading::Gpm, || gpm_metrics_get(nvml, &first, second, &METRICS))?;
        let Some(metrics) = metrics else { return Ok(None) };
        let values = metrics.into_iter().map(|one| one.ok().map(|got| got.value as f32));
        Ok(filled(gpu, (from, at), values.collect()))
    }
}

/// `None` when the card told nothing of what was asked.
fn filled(gpu: u32, (from, to): (i64, i64), values: Vec<Option<f32>>) -> Option<v1::GpmSample> {
    let mut values = values.into_iter().map(|value| value.filter(|v| v.is_finite() && *v >= 0.0));
    let mut next = || values.next().flatten();
    let sample = v1::GpmSample {
        gpu,
        from_raw_ns: from,
        to_raw_ns: to,
        sm_active_pct: next(),
        sm_occupancy_pct: next(),
        tensor_active_pct: next(),
        dram_active_pct: next(),
        pcie_tx_mib_s: next(),
        pcie_rx_mib_s: next(),
        nvlink_tx_mib_s: next(),
        nvlink_rx_mib_s: next(),
    };
    let nothing = v1::GpmSample { gpu, from_raw_ns: from, to_raw_ns: to, ..Default::default() };
    (sample != nothing).then_some(sample)
}
