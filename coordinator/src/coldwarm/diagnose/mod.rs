//! Why was it cold? Time before the server was ready, and time before its first token, as a sum of terms; which of them
//! dominated, and how sure that is (MISSION C5). Pure: readings in, verdict out. A signal that was not read speaks for
//! nothing and against nothing.

mod first;
mod slices;
mod startup;
mod verdict;

#[cfg(test)]
mod simulate;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use first::{First, first};
pub use slices::Quiet;
pub use startup::{Startup, StartupSpan, startup};
pub use verdict::{bytes, overall};

/// Where cold time goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// The server before is still ending.
    Stopping,
    /// A: weights come from storage into memory.
    StorageToRam,
    /// B: weights go over the link into the GPU's memory.
    RamToGpu,
    /// C: processes start, graphs are captured, kernels tuned, pools made.
    RuntimeWarmup,
    /// D: the first KV or workspace allocation.
    Allocation,
    /// What the prompt costs every time.
    Prefill,
    /// Waiting behind other work of the server.
    Queueing,
    /// Nothing that was read tells.
    Unexplained,
}

impl Term {
    /// As people name it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Stopping => "the old server ends",
            Self::StorageToRam => "A: storage → RAM (page cache)",
            Self::RamToGpu => "B: RAM → HBM",
            Self::RuntimeWarmup => "C: runtime start and warm-up",
            Self::Allocation => "D: first KV/workspace allocation",
            Self::Prefill => "first prefill",
            Self::Queueing => "queueing",
            Self::Unexplained => "unexplained",
        }
    }
}

/// How sure it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// By exclusion, or on a signal that says little.
    #[default]
    Low,
    /// One signal says so and none contradicts.
    Medium,
    /// Signals that have nothing to do with each other agree.
    High,
}

impl Confidence {
    /// The word.
    pub fn words(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// One summand.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// What it is.
    pub term: Term,
    /// How long, ns.
    pub ns: i64,
    /// That this time was this.
    pub confidence: Confidence,
    /// The readings behind it.
    pub because: String,
}

/// What dominated a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// `None`: can't tell, or there was nothing to explain.
    pub term: Option<Term>,
    /// Of the verdict.
    pub confidence: Confidence,
    /// The numbers that led to it.
    pub because: String,
}

/// A stretch of time, explained.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Diagnosis {
    /// Its length, ns.
    pub span_ns: i64,
    /// Its summands, the longest first; they add up to its length.
    pub terms: Vec<Share>,
    /// Which dominated.
    pub verdict: Verdict,
    /// What was read over it.
    pub seen: Seen,
    /// What no one read, in words.
    pub absent: Vec<&'static str>,
}

impl Diagnosis {
    /// How long a term took, ns.
    pub fn ns(&self, term: Term) -> i64 {
        self.terms.iter().filter(|share| share.term == term).map(|share| share.ns).sum()
    }
}

/// Readings over a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Seen {
    /// Read from this host's disks.
    pub disk_read_bytes: Option<f64>,
    /// Of that, for the server's processes, as far as they could be looked at.
    pub server_read_bytes: Option<f64>,
    /// By how much the page cache grew.
    pub page_cache_growth_bytes: Option<f64>,
    /// Page faults that needed storage: the server's, or the host's.
    pub major_faults: Option<f64>,
    /// Time in which some task of the host waited for I/O (the kernel adds it up every 2 s).
    pub io_stalled_ns: Option<f64>,
    /// CPU time of the server.
    pub server_cpu_ns: Option<f64>,
    /// By how much memory in use on all GPUs grew.
    pub gpu_memory_growth_bytes: Option<f64>,
    /// Received over PCIe.
    pub pcie_rx_bytes: Option<f64>,
    /// Busy share of the busiest GPU.
    pub gpu_busy_share: Option<f64>,
}
