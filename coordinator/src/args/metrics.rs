//! Flags of the endpoint for Prometheus.

use clap::Args;

/// Where a running sweep tells its figures.
#[derive(Clone, Debug, Default, Args)]
pub struct MetricsArgs {
    /// Answer GET /metrics there for Prometheus: a PORT on loopback, or IP:PORT, which tells whoever reaches it counts,
    /// latencies, names of nodes and GPU readings.
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<String>,
}

impl MetricsArgs {
    /// These flags, with what they leave open taken from `then`.
    #[must_use]
    pub fn over(self, then: Self) -> Self {
        Self { metrics_listen: self.metrics_listen.or(then.metrics_listen) }
    }
}
