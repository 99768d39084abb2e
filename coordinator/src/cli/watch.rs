//! What the server tells of itself, taken in by a probe in this process: whether it can be, and what a person is told of it.

use std::io::ErrorKind;
use std::net::TcpListener;

use super::{EXIT_LISTEN, EXIT_USAGE};
use crate::args::server::{base_of, server_of};
use crate::local::{Embedded, Inside, InsideArgs, Probe, ServerArgs, exposed};

/// The probe of a coordinator: only where something is asked for, since servers' own probes are elsewhere.
pub(super) fn embedded(args: InsideArgs, base_url: &str) -> Option<Embedded> {
    let server = ServerArgs::default();
    args.is_asked().then(|| Embedded {
        gpu_interval_ns: 0,
        nvml_path: None,
        server: server_of(server, base_url),
        inside: args.inside(base_of(server, base_url).as_deref()),
        with_agent: false,
        probe: Some(Probe::Watch),
        shards: None,
    })
}

/// Says what is open to others.
///
/// # Errors
/// Why nobody can listen where spans are to be taken, and the exit code: found before anything is begun.
pub(super) fn check(inside: &Inside, tell: fn(&str)) -> Result<(), (String, i32)> {
    let Some(address) = &inside.otlp else { return Ok(()) };
    // The probe binds it for good.
    if let Err(error) = TcpListener::bind(address) {
        let (code, hint) = match error.kind() {
            ErrorKind::AddrInUse => (EXIT_LISTEN, "give --otlp-listen another port"),
            ErrorKind::PermissionDenied => (EXIT_LISTEN, "give --otlp-listen a port above 1023"),
            _ => (EXIT_USAGE, "give --otlp-listen an address of this host, such as 127.0.0.1:4317"),
        };
        return Err((format!("failed to listen for OTLP on {address}: {error}; {hint}"), code));
    }
    exposed(Some(address)).into_iter().for_each(|words| tell(&words));
    Ok(())
}
