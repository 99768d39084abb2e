//! Where GPU samples come from.

use tailcliff_proto::v1;

/// The GPUs of one host.
pub trait GpuSource: Send {
    /// What they are; one entry per GPU.
    fn facts(&self) -> Vec<v1::GpuFacts>;

    /// Reads every GPU once. A field that a card does not answer is `None`; a card that is gone gives no sample.
    fn sample(&mut self) -> Vec<v1::GpuSample>;

    /// What went wrong since the last call, in words; once per event.
    fn troubles(&mut self) -> Vec<String> {
        Vec::new()
    }
}
