//! `tailcliff-gpu-probe`: samples GPUs for a coordinator, or prints them.

use std::io::Write;

use clap::Parser;
use tailcliff_gpu_probe::config::{Args, Config, Job};
use tailcliff_gpu_probe::sensor::table;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() {
    let args = Args::parse();
    if let Some(Job::Sensors(args)) = args.job {
        return ended(table::run(&args, &mut std::io::stdout()).map_err(Into::into));
    }
    let print_seconds = args.print_seconds;
    let config = match Config::try_from(args) {
        Ok(config) => Config { tell, ..config },
        Err(error) => {
            tell(&error.to_string());
            std::process::exit(2);
        }
    };
    ended(match print_seconds {
        Some(seconds) => {
            tailcliff_gpu_probe::print(&config, seconds, &mut std::io::stdout()).map_err(Into::into)
        }
        None => serve(config),
    });
}

fn ended(how: anyhow::Result<()>) {
    if let Err(error) = how {
        tell(&format!("{error:#}"));
        std::process::exit(1);
    }
}

fn tell(line: &str) {
    let _closed = writeln!(std::io::stderr(), "tailcliff-gpu-probe: {line}");
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
        Ok(tailcliff_gpu_probe::run(config, shutdown).await?)
    })
}
