//! Makes load, stamps it with this host's raw clock, reports it. Knows no clock offset, no other agent, no knee.

use tailcliff_proto::link::LinkError;
use tokio_util::sync::CancellationToken;

pub mod allow;
pub mod body;
pub mod calibration;
pub mod cancel;
pub mod client;
pub mod config;
mod connection;
mod controls;
pub mod corpus;
pub mod delta;
pub mod failure;
pub mod host_check;
mod http1;
mod http2;
mod level;
mod limits;
mod pacer;
mod permit;
mod pick;
pub mod plain_reqwest;
pub mod preflight;
mod recorder;
mod reply;
pub mod schedule;
mod session;
mod shard;
pub mod single;
mod socket;
pub mod sse;
pub mod stub;
pub mod target;
pub mod timeline;
mod tls;
mod trace;

#[cfg(test)]
mod testdata;
#[cfg(test)]
mod testserver;

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct AgentError(#[from] pub LinkError);

/// Serves one run: dials the coordinator, takes its orders, and returns when the run is over or `shutdown` is cancelled.
///
/// # Errors
/// When the coordinator's address makes no sense, or it refuses this agent.
pub async fn run(config: config::Config, shutdown: CancellationToken) -> Result<(), AgentError> {
    Ok(session::Session::new(config, shutdown).run().await?)
}
