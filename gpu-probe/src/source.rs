//! Where GPU samples come from.

use tailcliff_proto::v1;

/// The GPUs of one host.
pub trait GpuSource: Send {
    /// What they are; one entry per GPU.
    fn facts(&self) -> Vec<v1::GpuFacts>;

    /// Reads every GPU once. A field that a card does not answer is `None`; a card that is gone gives no sample.
    fn sample(&mut self) -> Vec<v1::GpuSample>;

    /// Processes on them that are not among `server`; `None` when that cannot be told.
    fn other_processes(&mut self, _server: &[u32]) -> Option<OtherProcesses> {
        None
    }

    /// What went wrong since the last call, in words; once per event.
    fn troubles(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Who else is on the GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtherProcesses {
    /// How many.
    pub count: u32,
    /// GPU memory that they hold, bytes; `None` when the driver does not tell it of each.
    pub memory_bytes: Option<u64>,
}

/// A host without GPUs, of which the rest is sampled all the same.
#[derive(Debug)]
pub(crate) struct NoGpus;

impl GpuSource for NoGpus {
    fn facts(&self) -> Vec<v1::GpuFacts> {
        Vec::new()
    }

    fn sample(&mut self) -> Vec<v1::GpuSample> {
        Vec::new()
    }
}
