//! Flags about what the server tells of itself beside its answers.

use std::path::PathBuf;

use super::{BadArgs, ns};
use crate::inside::{Endpoint, Inside, MetricsFault, SpanFault};

/// What the server tells of itself: spans as vLLM exports them, stamps, and faults of these and of `/metrics`.
#[derive(Clone, Debug, clap::Args)]
pub struct InsideArgs {
    /// Export a span of each request over OTLP: grpc://HOST:PORT, or http://HOST:PORT/v1/traces
    #[arg(long)]
    pub otlp_endpoint: Option<Endpoint>,
    /// Between two exports of spans, ms, as OpenTelemetry's batch processor has it.
    #[arg(long, default_value_t = 5000.0)]
    pub otlp_delay_ms: f64,
    /// What goes wrong with spans, `kind[:p=0.1|every=10]`; may be repeated. Kinds: no_ids (exported without any id), lost
    /// (never exported), garbage (an export that is no OTLP goes before it)
    #[arg(long)]
    pub span_fault: Vec<SpanFault>,
    /// Write one line of JSON as each request ends: request_id, enqueue, dequeue, infer_start, first_token, last_token, in
    /// seconds of the wall clock.
    #[arg(long)]
    pub stamps_log: Option<PathBuf>,
    /// Time of the HTTP front end, ms: before the engine's queue (tokenising), and from each token to its emission
    /// (detokenising).
    #[arg(long, value_name = "A[,B]", value_delimiter = ',', num_args = 1, default_values_t = [0.0])]
    pub front_end_ms: Vec<f64>,
    /// What goes wrong with /metrics: slow_ms=N, or gone_at_ms=N after the start
    #[arg(long)]
    pub metrics_fault: Option<MetricsFault>,
}

impl InsideArgs {
    /// What is meant.
    pub(super) fn inside(&self) -> Result<Inside, BadArgs> {
        let front = |ms: Option<&f64>| ns("--front-end-ms", ms.copied().unwrap_or(0.0));
        if self.front_end_ms.len() > 2 {
            return Err(BadArgs::Time("--front-end-ms"));
        }
        Ok(Inside {
            otlp: self.otlp_endpoint.clone(),
            otlp_delay_ns: ns("--otlp-delay-ms", self.otlp_delay_ms)?,
            span_faults: self.span_fault.clone(),
            stamps_log: self.stamps_log.clone(),
            front_end_ns: (front(self.front_end_ms.first())?, front(self.front_end_ms.get(1))?),
            metrics_fault: self.metrics_fault,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;

    fn inside(flags: &[&str]) -> Result<Inside, BadArgs> {
        let args = Args::try_parse_from([&["model-sim"], flags].concat());
        args.map_err(|_| BadArgs::Time("a flag"))?.config().map(|config| config.inside)
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        assert_eq!(inside(&[]).unwrap(), Inside::default());
    }

    #[test]
    fn reads_every_flag_and_refuses_nonsense() {
        let told = inside(&[
            "--otlp-endpoint=grpc://127.0.0.1:4317",
            "--otlp-delay-ms=500",
            "--span-fault=lost:every=2",
            "--span-fault=no_ids",
            "--front-end-ms=1.5,2",
            "--metrics-fault=gone_at_ms=7",
        ]);
        let told = told.unwrap();
        assert!(told.otlp.is_some() && told.otlp_delay_ns == 500_000_000 && told.span_faults.len() == 2);
        assert_eq!(
            (told.front_end_ns, told.metrics_fault),
            ((1_500_000, 2_000_000), Some(MetricsFault::GoneAt(7_000_000)))
        );
        assert_eq!(inside(&["--front-end-ms=3"]).unwrap().front_end_ns, (3_000_000, 0));
        for bad in [
            "--front-end-ms=1,2,3",
            "--front-end-ms=-1",
            "--otlp-endpoint=x",
            "--span-fault=x",
            "--otlp-delay-ms=-1",
        ] {
            assert!(inside(&[bad]).is_err(), "{bad}");
        }
    }
}
