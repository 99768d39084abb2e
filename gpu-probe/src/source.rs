//! What a source of GPU samples is, whatever answers behind it.

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;

/// GPUs of this host that can be read.
pub trait GpuSource: Send {
    /// What is known of each GPU, in order of index: the index of a GPU is its place here.
    fn facts(&self) -> &[v1::GpuFacts];

    /// Reads one GPU. What it did not answer is `None`. `raw_ns` is when the reading began and `read_ns` how long it
    /// took, so every value was taken within [raw_ns, raw_ns + read_ns]; power is read first, being what moves fastest.
    fn sample(&mut self, gpu: u32, clock: HostClock) -> v1::GpuSample;

    /// What a person should know since the last call: a GPU that fell silent, or came back. Few: a source bounds them.
    fn take_notices(&mut self) -> Vec<String>;
}

/// There is no GPU to read; says what was tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to reach a GPU: {tried}")]
pub struct GpuAbsent {
    /// Each library tried, and what it said.
    pub tried: String,
}
