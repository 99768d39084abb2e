//! Samples the GPUs of the server's node with this host's raw clock and reports them. Knows nothing of requests.

use std::io;

use tailcliff_proto::link::LinkError;
use tokio_util::sync::CancellationToken;

pub mod check;
pub mod config;
mod cuda;
pub mod host;
pub mod inside;
pub mod nvml;
mod print;
pub mod rates;
pub mod record;
mod sampler;
pub mod sensor;
mod session;

use config::Config;
use nvml::{NvmlAbsent, NvmlSource};
pub use print::print;

/// Why a probe ended.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The coordinator cannot be used.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// There is nothing to print.
    #[error("{0}; is the driver installed? --nvml-path names its library")]
    Absent(NvmlAbsent),
    /// The output cannot be written.
    #[error("failed to print samples")]
    Print(#[from] io::Error),
}

/// Serves one run: dials the coordinator and samples until the run is over or `shutdown` is cancelled. Without NVML it
/// stays connected, says why, and reads the host alone.
///
/// # Errors
/// When the coordinator's address makes no sense, or it refuses this probe.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ProbeError> {
    config::exposed(config.inside.otlp.as_deref()).into_iter().for_each(|words| (config.tell)(&words));
    if !config.hardware {
        // That it has no GPU is no news.
        return Ok(session::Session::new(config, Err(String::new()), shutdown)?.run().await?);
    }
    let path = config.nvml_path.clone();
    // Loading a driver can take seconds.
    let opened = tokio::task::spawn_blocking(move || NvmlSource::open(path.as_deref())).await;
    let source = match opened {
        Ok(Ok(source)) => Ok(source),
        Ok(Err(absent)) => Err(absent.to_string()),
        Err(panicked) => Err(format!("no NVML: {panicked}")),
    };
    Ok(session::Session::new(config, source, shutdown)?.run().await?)
}
