//! `tailcliff-agent`: makes load for a coordinator.

use std::io::Write;

use clap::Parser;
use tailcliff_agent::config::{Args, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

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
        std::process::exit(1);
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
