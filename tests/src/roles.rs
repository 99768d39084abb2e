//! One binary that can be every process of a run: the demo, the measurements and the multi-process tests start copies
//! of it in the role named by `TAILCLIFF_ROLE`. (Cargo builds no sibling binary for `--bin demo` or for a test.)

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tailcliff_proto::clock::HostClock;
use tokio_util::sync::CancellationToken;

use crate::forward;
use crate::lines::Lines;

/// Names the role of a copy.
pub const ROLE: &str = "TAILCLIFF_ROLE";

/// Runs the role that the environment names and returns its exit code; `None` in the original.
pub fn dispatch() -> Option<i32> {
    let role = std::env::var(ROLE).ok()?;
    if role == "forward" {
        // It reads its standard input itself, and so ends with its parent too.
        return Some(code(&role, forward::play(&forward::Args::parse()).map_err(Into::into)));
    }
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
    code(role, ended)
}

fn code(role: &str, ended: anyhow::Result<()>) -> i32 {
    match ended {
        Ok(()) => 0,
        Err(error) => {
            let _closed = writeln!(io::stderr(), "{role}: {error:#}");
            1
        }
    }
}

async fn serve_model(shutdown: CancellationToken) -> anyhow::Result<()> {
    let args = model_sim::args::Args::parse();
    let config = args.config()?;
    let listener = tokio::net::TcpListener::bind(args.listen).await?;
    let mut out = io::stdout();
    writeln!(out, "listening on {}", listener.local_addr()?)?;
    out.flush()?;
    let truth = model_sim::serve(listener, config, shutdown).await?;
    // A truth log with holes would make what follows from it false.
    anyhow::ensure!(
        truth.lost == 0,
        "{} of {} requests are missing from the truth log",
        truth.lost,
        truth.total
    );
    Ok(())
}

/// Standard input is a pipe that the parent holds: its end is the parent's end.
fn end_with_parent() {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _ended = io::stdin().read_to_end(&mut rest);
        std::process::exit(0);
    });
}

/// Longest time that a child's end is awaited: a hang must be a failure and not an endless wait.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at whether a child has ended.
const LOOK: Duration = Duration::from_millis(20);

/// A running copy; killed when dropped, and ends by itself when this process dies. It is in a process group of its own:
/// Ctrl-C in a terminal reaches only this process, which decides what becomes of its children.
#[derive(Debug)]
pub struct Role {
    child: Child,
    stdin: Option<ChildStdin>,
    out: Option<Lines>,
    err: Option<Lines>,
}

impl Role {
    /// Starts `binary` (a copy of the running one) in a role.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub fn start(binary: &Path, role: &str, args: &[&str]) -> io::Result<Self> {
        Self::start_with(Command::new(binary), role, args)
    }

    /// Starts a prepared command (a wrapper such as `unshare`, extra environment) in a role.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub fn start_with(mut command: Command, role: &str, args: &[&str]) -> io::Result<Self> {
        command.args(args).env(ROLE, role).env("TAILCLIFF_ROLE_DIES_WITH_PARENT", "1");
        Self::start_command(command)
    }

    /// Starts a command as it is, without a role: it ends with this process only if it ends with its standard input.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub fn start_command(mut command: Command) -> io::Result<Self> {
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (stdin, out) = (child.stdin.take(), child.stdout.take().map(Lines::read));
        let err = child.stderr.take().map(Lines::pass_on);
        Ok(Self { child, stdin, out, err })
    }

    /// As [`Role::start_with`], and listens to its standard error too, which is passed on to this process's own.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub fn start_heard(mut command: Command, role: &str, args: &[&str]) -> io::Result<Self> {
        command.stderr(Stdio::piped());
        Self::start_with(command, role, args)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// When it is gone.
    pub fn tell(&mut self, line: &str) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        writeln!(self.stdin.as_mut().ok_or_else(gone)?, "{line}")
    }

    /// The next line of its standard output that starts with `prefix`, less the prefix.
    ///
    /// # Errors
    /// When its output ends without one, or none comes for a minute.
    pub fn line(&self, prefix: &str) -> io::Result<String> {
        find(self.out.as_ref(), prefix)
    }

    /// The next line of its standard error that starts with `prefix`, less the prefix.
    ///
    /// # Errors
    /// When it was not started by [`Role::start_heard`], its output ends without one, or none comes for a minute.
    pub fn announced(&self, prefix: &str) -> io::Result<String> {
        find(self.err.as_ref(), prefix)
    }

    /// Waits for its end; kills it when that does not come within two minutes.
    ///
    /// # Errors
    /// It did not end, or as the system says.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.wait_within(PATIENCE)
    }

    fn wait_within(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        let deadline = HostClock.now().saturating_add(i64::try_from(patience.as_nanos()).unwrap_or(i64::MAX));
        while HostClock.now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(LOOK);
        }
        self.kill();
        let text = format!("process {} did not end within {patience:?} and was killed", self.pid());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    /// Its exit status if it has ended.
    ///
    /// # Errors
    /// As the system says.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks it to end (SIGTERM) and waits, so that it can write out what it has.
    ///
    /// # Errors
    /// It ended with a failure or not at all, or as the system says.
    pub fn end(&mut self) -> io::Result<()> {
        // Once it has been waited for, its number may be another's.
        if self.child.try_wait()?.is_none() {
            kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        }
        let status = self.wait()?;
        let failed = || io::Error::other(format!("process {} ended with {status}", self.pid()));
        status.success().then_some(()).ok_or_else(failed)
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

fn find(lines: Option<&Lines>, prefix: &str) -> io::Result<String> {
    lines.ok_or_else(|| io::Error::other("nobody listens to that output"))?.find(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn a_child_that_never_ends_is_killed_and_an_error() {
        let mut child = Role::start_with(shell("exec sleep 1000"), "", &[]).unwrap();
        let error = child.wait_within(Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(child.ended().unwrap().is_some_and(|status| !status.success()));
    }

    #[test]
    fn what_it_says_on_either_output_is_heard_and_a_full_pipe_holds_nobody_up() {
        let script = "echo at 1; echo at 2 >&2; yes | head -c 200000; echo at 3";
        let mut child = Role::start_heard(shell(script), "", &[]).unwrap();
        assert_eq!(child.announced("at ").unwrap(), "2");
        assert!(child.wait().unwrap().success());
        assert_eq!([child.line("at ").unwrap(), child.line("at ").unwrap()], ["1", "3"]);
        let deaf = Role::start_with(shell("true"), "", &[]).unwrap();
        assert!(deaf.announced("at ").is_err());
    }

    #[test]
    fn ctrl_c_in_a_terminal_does_not_reach_it() {
        let child = Role::start_with(shell("exec sleep 1000"), "", &[]).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap();
        // After the command's name in brackets: state, parent, process group.
        let group = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(2));
        assert_eq!(group, Some(child.pid().to_string().as_str()));
    }

    #[test]
    fn an_end_that_is_a_failure_is_an_error() {
        let mut child =
            Role::start_with(shell("trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done"), "", &[])
                .unwrap();
        child.line("up").unwrap();
        assert!(child.end().unwrap_err().to_string().contains("exit status: 3"));
    }
}
