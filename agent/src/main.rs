//! `tailcliff-agent`: makes load for a coordinator.

use std::io::Write;

use clap::Parser;
use tailcliff_agent::AgentError;
use tailcliff_agent::config::{Args, Config};
use tailcliff_proto::link::LinkError;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Told to stop while the run went on.
const EXIT_LEFT: i32 = 143;

fn main() {
    let config = match Config::try_from(Args::parse()) {
        Ok(config) => Config { tell, ..config },
        Err(error) => {
            tell(&error.to_string());
            std::process::exit(2);
        }
    };
    if let Err(error) = serve(config) {
        tell(&format!("{error:#}"));
        let is_left = |e: &AgentError| matches!(e, AgentError(LinkError::Left));
        // As a shell says of whom a signal ended: who restarts us must not take it for the end of the run.
        std::process::exit(if error.downcast_ref().is_some_and(is_left) { EXIT_LEFT } else { 1 });
    }
}

fn tell(line: &str) {
    let _closed = writeln!(std::io::stderr(), "tailcliff-agent: {line}");
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
            stop.cancel();
        });
        Ok(tailcliff_agent::run(config, shutdown).await?)
    })
}
