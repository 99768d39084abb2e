//! What a server tells of itself beside its answers, as meant: spans, stamps, metrics, and how each may go wrong.

use std::path::PathBuf;

pub use crate::spans::{Endpoint, SpanFault};

/// How often OpenTelemetry's batch processor exports unless told otherwise, ns.
pub const OTLP_DELAY_NS: i64 = 5_000_000_000;

/// What is told, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Inside {
    /// Where spans are exported to; `None`: there are none.
    pub otlp: Option<Endpoint>,
    /// Between two exports, ns.
    pub otlp_delay_ns: i64,
    /// What becomes of some of the spans.
    pub span_faults: Vec<SpanFault>,
    /// File to which a line of JSON is written as each request ends, created anew.
    pub stamps_log: Option<PathBuf>,
    /// Time of the HTTP front end for each request, ns: before it enters the engine's queue, and between each token of the
    /// engine and its emission.
    pub front_end_ns: (i64, i64),
    /// What is wrong with `/metrics`.
    pub metrics_fault: Option<MetricsFault>,
}

impl Default for Inside {
    fn default() -> Self {
        Self {
            otlp: None,
            otlp_delay_ns: OTLP_DELAY_NS,
            span_faults: Vec::new(),
            stamps_log: None,
            front_end_ns: (0, 0),
            metrics_fault: None,
        }
    }
}

/// What is wrong with `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsFault {
    /// Each answer comes so much later, ns.
    Slow(i64),
    /// So long after the server's start, ns, connections that ask for it are closed without an answer.
    GoneAt(i64),
}

/// A `--metrics-fault` that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the fault `{0}`: give slow_ms=N or gone_at_ms=N, N up to 3600000")]
pub struct BadMetricsFault(String);

impl std::str::FromStr for MetricsFault {
    type Err = BadMetricsFault;

    /// Reads `slow_ms=500` or `gone_at_ms=3000`.
    fn from_str(text: &str) -> Result<Self, BadMetricsFault> {
        let bad = || BadMetricsFault(text.to_owned());
        let (kind, ms) = text.split_once('=').ok_or_else(bad)?;
        let ms = ms.parse::<u32>().ok().filter(|ms| *ms <= 3_600_000).ok_or_else(bad)?;
        let ns = i64::from(ms) * 1_000_000;
        match kind {
            "slow_ms" => Ok(Self::Slow(ns)),
            "gone_at_ms" => Ok(Self::GoneAt(ns)),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_faults_of_the_metrics() {
        assert_eq!("slow_ms=5".parse::<MetricsFault>().unwrap(), MetricsFault::Slow(5_000_000));
        assert_eq!("gone_at_ms=0".parse::<MetricsFault>().unwrap(), MetricsFault::GoneAt(0));
        for bad in ["", "slow_ms", "slow_ms=-1", "slow_ms=99999999", "fast_ms=1"] {
            assert!(bad.parse::<MetricsFault>().unwrap_err().to_string().contains(bad));
        }
    }
}
