//! Plain reqwest under the load of the bare client: the agent's own second opinion, in this package's words.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tailcliff_agent::plain_reqwest;
use tokio_util::sync::CancellationToken;

use crate::floor::{Load, Record};

/// Drives the load to its end; what the one thread took of CPU time, ns, is beside the records.
///
/// # Errors
/// When a request fails.
pub fn run(address: SocketAddr, load: &Load) -> io::Result<(Vec<Record>, i64)> {
    let bodies = load.clone();
    let theirs = plain_reqwest::Load {
        url: format!("http://{address}/v1/chat/completions"),
        name: load.name,
        streams: load.connections,
        requests_each: load.requests_each,
        duration_ns: load.duration_ns,
        streaming: load.streaming,
        body: Arc::new(move |number, request| bodies.body(number, request)),
    };
    let done = plain_reqwest::run(&theirs, &CancellationToken::new())?;
    let record = |r: plain_reqwest::Record| Record {
        request_id: r.request_id,
        request: r.request,
        intended_ns: r.intended_ns,
        sent_ns: r.sent_ns,
        arrivals_ns: r.arrivals_ns,
        done_ns: r.done_ns,
    };
    Ok((done.records.into_iter().map(record).collect(), done.cpu_ns))
}
