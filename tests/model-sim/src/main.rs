//! The `model-sim` command.

use std::io::Write;

use anyhow::Context;
use clap::Parser;
use model_sim::args::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let config = args.config()?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("failed to listen on {}; is the port in use?", args.listen))?;
    // Scripts read this line to learn the port.
    let mut out = std::io::stdout();
    writeln!(out, "listening on {}", listener.local_addr()?)?;
    out.flush()?;
    let shutdown = CancellationToken::new();
    tokio::spawn(stop_on_signal(shutdown.clone()));
    let truth = model_sim::serve(listener, config, shutdown).await?;
    writeln!(out, "answered {} requests; {} of them missing from the truth log", truth.total, truth.lost)?;
    if truth.spans != model_sim::SpanCounts::default() {
        writeln!(out, "{}", truth.spans)?;
    }
    Ok(())
}

async fn stop_on_signal(shutdown: CancellationToken) {
    if let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        shutdown.cancel();
    }
}
