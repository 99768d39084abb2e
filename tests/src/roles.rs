//! One binary that can be every process of a run: the demo, the measurements and the multi-process tests start copies
//! of it in the role named by `TAILCLIFF_ROLE`. (Cargo builds no sibling binary for `--bin demo` or for a test.)

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;

/// Names the role of a copy.
pub const ROLE: &str = "TAILCLIFF_ROLE";

/// Runs the role that the environment names and returns its exit code; `None` in the original.
pub fn dispatch() -> Option<i32> {
    let role = std::env::var(ROLE).ok()?;
    if std::env::var("TAILCLIFF_ROLE_DIES_WITH_PARENT").is_ok() {
        end_with_parent();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    Some(runtime.block_on(play(&role)))
}

async fn play(role: &str) -> i32 {
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if let Ok(mut term) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            term.recv().await;
            stop.cancel();
        }
    });
    let ended = match role {
        "tailcliff" => return tailcliff::cli::main(tailcliff::args::Cli::parse()).await,
        "agent" => {
            let config = tailcliff_agent::config::Args::parse().into();
            tailcliff_agent::run(config, shutdown).await.map_err(Into::into)
        }
        "gpu-probe" => {
            let config = tailcliff_gpu_probe::config::Args::parse().into();
            tailcliff_gpu_probe::run(config, shutdown).await.map_err(Into::into)
        }
        "model-sim" => serve_model(shutdown).await,
        other => Err(anyhow::anyhow!("no role {other:?}")),
    };
    match ended {
        Ok(()) => 0,
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "{role}: {error:#}");
            1
        }
    }
}

async fn serve_model(shutdown: CancellationToken) -> anyhow::Result<()> {
    let args = model_sim::args::Args::parse();
    let config = args.config()?;
    let listener = tokio::net::TcpListener::bind(args.listen).await?;
    let mut out = std::io::stdout();
    writeln!(out, "listening on {}", listener.local_addr()?)?;
    out.flush()?;
    model_sim::serve(listener, config, shutdown).await?;
    Ok(())
}

/// Standard input is a pipe that the parent holds: its end is the parent's end.
fn end_with_parent() {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _ended = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(0);
    });
}

/// A running copy; killed when dropped, and ends by itself when this process dies.
#[derive(Debug)]
pub struct Role {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Role {
    /// Starts `binary` (a copy of the running one) in a role.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub fn start(binary: &Path, role: &str, args: &[&str]) -> std::io::Result<Self> {
        Self::start_with(Command::new(binary), role, args)
    }

    /// Starts a prepared command (a wrapper such as `unshare`, extra environment) in a role.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub fn start_with(mut command: Command, role: &str, args: &[&str]) -> std::io::Result<Self> {
        command.args(args).env(ROLE, role).env("TAILCLIFF_ROLE_DIES_WITH_PARENT", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first line of its standard output that starts with `prefix`, less the prefix.
    ///
    /// # Errors
    /// When its output ends without one.
    pub fn line(&mut self, prefix: &str) -> std::io::Result<String> {
        let out =
            self.child.stdout.take().ok_or_else(|| std::io::Error::other("its output was read already"))?;
        let mut lines = BufReader::new(out).lines();
        let found =
            lines.find_map(|l| l.ok().and_then(|l| l.strip_prefix(prefix).map(|l| l.trim().to_owned())));
        found.ok_or_else(|| std::io::Error::other(format!("it ended without saying {prefix:?}")))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// As the system says.
    pub fn wait(&mut self) -> std::io::Result<ExitStatus> {
        // Its output must not fill the pipe while it is waited for.
        if let Some(mut out) = self.child.stdout.take() {
            let mut rest = Vec::new();
            out.read_to_end(&mut rest)?;
        }
        self.child.wait()
    }

    /// Its exit status if it has ended.
    ///
    /// # Errors
    /// As the system says.
    pub fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks it to end (SIGTERM) and waits, so that it can write out what it has.
    ///
    /// # Errors
    /// As the system says.
    pub fn end(&mut self) -> std::io::Result<ExitStatus> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        self.wait()
    }

    /// Kills it (SIGKILL) and waits.
    pub fn kill(&mut self) {
        self.stdin = None;
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}
