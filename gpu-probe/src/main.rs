//! `tailcliff-gpu-probe`: samples GPUs for a coordinator, prints them, or checks them.

use std::io::{ErrorKind, Write, stdout};

use clap::Parser;
use tailcliff_gpu_probe::ProbeError;
use tailcliff_gpu_probe::check::{self, CheckError};
use tailcliff_gpu_probe::config::{Args, Config, Job};
use tailcliff_gpu_probe::sensor::table::{self, SensorsError};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() {
    let args = Args::parse();
    match args.job {
        Some(Job::Check(args)) => {
            return ended(until_signal(|stop| async { Ok(check::serve(args, stop).await?) }));
        }
        Some(Job::Sensors(args)) => {
            return ended(until_signal(|stop| async { Ok(table::serve(args, stop, tell).await?) }));
        }
        None => {}
    }
    let seconds = args.print_seconds;
    let config = match Config::try_from(args) {
        Ok(config) => Config { tell, ..config },
        Err(error) => {
            tell(&error.to_string());
            std::process::exit(2);
        }
    };
    ended(match seconds {
        Some(seconds) => tailcliff_gpu_probe::print(&config, seconds, &mut stdout()).map_err(Into::into),
        None => until_signal(|stop| async { Ok(tailcliff_gpu_probe::run(config, stop).await?) }),
    });
}

fn ended(how: anyhow::Result<()>) {
    if let Err(error) = how {
        if is_closed(&error) {
            return;
        }
        tell(&format!("{error:#}"));
        let interrupted = matches!(error.downcast_ref(), Some(CheckError::Interrupted))
            || matches!(error.downcast_ref(), Some(SensorsError::Interrupted));
        // 130 is what a shell expects of who ended by Ctrl-C.
        std::process::exit(if interrupted { 130 } else { 1 });
    }
}

/// A reader that has seen enough, as `head` has, is no error.
fn is_closed(error: &anyhow::Error) -> bool {
    let printing = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(ProbeError::Print(why)), _) | (_, Some(SensorsError::Print(why))) => why,
        _ => return false,
    };
    printing.kind() == ErrorKind::BrokenPipe
}

fn tell(line: &str) {
    let _closed = writeln!(std::io::stderr(), "tailcliff-gpu-probe: {line}");
}

/// Runs `job`, which is asked to end by a signal.
fn until_signal<F: Future<Output = anyhow::Result<()>>>(
    job: impl FnOnce(CancellationToken) -> F,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
            stop.cancel();
        });
        job(shutdown).await
    });
    // A driver that hangs is not waited for.
    runtime.shutdown_background();
    ended
}
