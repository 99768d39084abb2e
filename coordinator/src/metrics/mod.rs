//! `--metrics-listen`: what a run does right now, for Prometheus. The display's owner keeps the figures and leaves a copy of
//! them behind at most once a second; a thread of its own answers scrapes from the newest copy. So no scrape, slow,
//! hostile or many at once, is waited for by the run.
//!
//! Whoever reaches the address reads counts, latencies, names of nodes and readings of GPUs, and no prompt, key or header.
//! So a port alone listens on loopback, and any other address has to be spelled out.

pub mod figures;
pub mod live;
mod serve;
mod text;

use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::sync::watch;

use live::Live;

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address cannot be had.
    #[error(
        "failed to listen on {address} for metrics: {reason}; give --metrics-listen a free port, such as 9464, or IP:PORT"
    )]
    Listen {
        /// As given.
        address: String,
        /// What the host said.
        reason: io::Error,
    },
    /// No thread to answer from.
    #[error("failed to start answering scrapes: {0}")]
    Start(io::Error),
}

/// Listens on `address`: `PORT` or `:PORT` for loopback, else `HOST:PORT`. Scrapes are answered until the [`Live`] is dropped.
///
/// # Errors
/// When it cannot.
pub fn listen(address: &str, levels: usize) -> Result<(Live, SocketAddr), MetricsError> {
    let fail = |reason| MetricsError::Listen { address: address.to_owned(), reason };
    let listener = TcpListener::bind(spelled_out(address)).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    let (publish, newest) = watch::channel(figures::Figures::new(levels).into());
    serve::start(listener, newest).map_err(MetricsError::Start)?;
    Ok((Live::new(publish, levels), bound))
}

fn spelled_out(address: &str) -> String {
    let port = address.strip_prefix(':').unwrap_or(address);
    if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) {
        format!("127.0.0.1:{port}")
    } else {
        address.to_owned()
    }
}

/// What a person is told.
pub fn words(bound: SocketAddr) -> String {
    let exposed = if bound.ip().is_loopback() {
        ""
    } else {
        ": whoever reaches it reads counts, latencies, names of nodes and GPU readings (no prompts, no keys)"
    };
    format!("metrics on http://{bound}/metrics{exposed}")
}

#[cfg(test)]
mod tests;
