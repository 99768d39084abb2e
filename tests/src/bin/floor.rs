//! The floor client as a command: streams chat requests in closed loop from bare sockets, and writes one line of JSON
//! per request. A second opinion on what a server, or tailcliff's own client, costs.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::Context;
use clap::Parser;
use e2e::floor;

#[derive(Debug, Parser)]
struct Args {
    /// Address of the server.
    address: SocketAddr,
    /// Model to ask for.
    #[arg(long, default_value = "sim")]
    model: String,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Requests on each connection.
    #[arg(long, default_value_t = 1)]
    requests_each: usize,
    /// Tokens to ask for.
    #[arg(long, default_value_t = 32)]
    max_tokens: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let load = floor::Load {
        name: Some("floor"),
        model: args.model,
        connections: args.connections,
        requests_each: args.requests_each,
        duration_ns: None,
        streaming: true,
        max_tokens: args.max_tokens,
    };
    let before = floor::cpu_ns()?;
    let records =
        floor::run(args.address, &load).with_context(|| format!("failed to load {}", args.address))?;
    let cpu_ns = floor::cpu_ns()? - before;
    let mut out = std::io::stdout().lock();
    for r in &records {
        let line = serde_json::json!({
            "request_id": r.request_id, "sent_ns": r.sent_ns, "first_token_ns": r.arrivals_ns.first(),
            "arrivals": r.arrivals_ns, "done_ns": r.done_ns,
        });
        writeln!(out, "{line}")?;
    }
    let tokens: usize = records.iter().map(|r| r.arrivals_ns.len()).sum();
    writeln!(
        std::io::stderr(),
        "{} requests, {tokens} chunks, {cpu_ns} ns of CPU in its one thread",
        records.len()
    )?;
    Ok(())
}
