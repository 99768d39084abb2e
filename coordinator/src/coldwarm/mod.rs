//! `tailcliff coldwarm`: what a restart costs before the first token, and why (MISSION C). The restart command is run once or
//! more; each time: restart → ready, the first request, warm ones after it, with host and GPU sampled from before the restart.

mod conclude;
mod cycle;
pub mod diagnose;
pub mod evidence;
pub mod job;
mod protocol;
mod ready;
mod report;
mod restart;
mod sanity;
mod server;
mod spread;
mod traces;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{SecondsFormat, Utc};
use tailcliff_proto::{BUILD, host};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::outputs::{self, OutputError};
pub use cycle::{Cycle, Run};
pub use job::Job;
pub use report::{Report, markdown};
pub use spread::Spread;

use protocol::Protocol;

/// The report, for people and for programs.
pub const FILES: [&str; 2] = ["coldwarm.md", "coldwarm.json"];

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ColdwarmError {
    /// The server cannot be asked.
    #[error("{0}")]
    Target(String),
    /// No place for the files.
    #[error("failed to use the output directory {path}: {source}; name another with --output-dir")]
    Folder {
        /// The directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// How it went; the report is written in every case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As asked.
    Complete,
    /// Ctrl-C.
    Interrupted,
    /// The server, or the command, would not.
    Trouble(String),
}

/// Carries out the protocol and writes the report; says how far it is through `tell`.
///
/// # Errors
/// See [`ColdwarmError`]; what happens to the server is none, but an [`Ending`].
pub async fn run(
    job: &Job,
    mut interrupts: mpsc::Receiver<String>,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<(Report, Ending), ColdwarmError> {
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    let waiting = tokio::spawn(async move {
        if interrupts.recv().await.is_some() {
            on_signal.cancel();
        }
    });
    let protocol = Protocol::new(job, &stop, tell).map_err(ColdwarmError::Target)?;
    begin(&job.output_dir)?;
    let begun_utc = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let (mut cycles, mut ending) = (Vec::new(), Ending::Complete);
    let (mut server, mut unwritten) = (None, None);
    for restart in 0..job.restarts {
        let raw = protocol.cycle(restart, &mut server).await;
        let traces = traces::write(&job.output_dir, restart + 1, &raw);
        cycles.push(Cycle::of(&raw));
        if let Some(trouble) = raw.trouble {
            ending = if stop.is_cancelled() { Ending::Interrupted } else { Ending::Trouble(trouble) };
            unwritten = traces.err();
            break;
        }
        // A disk that is full will not hold the next ones either; the server is ended and what was measured told all the same.
        if let Err(error) = traces {
            ending = Ending::Trouble(error.to_string());
            unwritten = Some(error);
            break;
        }
    }
    if let Some(mut server) = server {
        if server.stays() {
            tell("ending the server: its command is still running, so that it is ours");
        }
        server.end().await;
    }
    waiting.abort();
    let report = Report {
        begun_utc,
        tailcliff_version: BUILD.to_owned(),
        host: host::facts(0),
        ..Report::of(job, cycles, &ending)
    };
    let stored = store(&job.output_dir, &report);
    unwritten.map_or(stored, Err)?;
    Ok((report, ending))
}

/// Before anything is restarted: a directory that can be written, and that holds no other report.
fn begin(dir: &Path) -> Result<(), ColdwarmError> {
    let fail = |source| ColdwarmError::Folder { path: dir.to_owned(), source };
    if FILES.iter().any(|name| dir.join(name).exists()) {
        return Err(fail(io::Error::new(io::ErrorKind::AlreadyExists, "it holds a report already")));
    }
    fs::create_dir_all(dir).map_err(fail)?;
    let probe = dir.join("coldwarm.partial");
    fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).map_err(fail)
}

fn store(dir: &Path, report: &Report) -> Result<(), OutputError> {
    use std::io::Write;
    let text = outputs::write(dir, FILES[0], |out| out.write_all(markdown(report).as_bytes()));
    let json = outputs::write(dir, FILES[1], |out| outputs::json(out, &report.to_json()));
    text.and(json)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    /// A command that stays, and of which nobody ever hears.
    fn job(dir: &Path) -> Job {
        let line = "tailcliff coldwarm --url 127.0.0.1:1 --model m --ready-timeout 1s --nvml-path /nowhere";
        let more = ["--restart-cmd", "echo $$; exec sleep 1000", "--output-dir", dir.to_str().unwrap()];
        let Command::Coldwarm(args) = Cli::try_parse_from(line.split(' ').chain(more)).unwrap().command
        else {
            panic!("another job")
        };
        Job::from_args(*args, None, Vec::new()).unwrap()
    }

    #[tokio::test]
    async fn a_trace_that_cannot_be_written_leaves_no_server_and_a_report() {
        let dir = tempfile::tempdir().unwrap();
        // No file can take the place of a directory that is not empty.
        fs::create_dir_all(dir.path().join("restart-1.host_trace.csv/x")).unwrap();
        let (_kept, interrupts) = mpsc::channel(1);
        let result = run(&job(dir.path()), interrupts, &|_: &str| {}).await;
        assert!(matches!(result, Err(ColdwarmError::Output(_))), "{result:?}");
        assert!(FILES.iter().all(|name| dir.path().join(name).exists()));
        let text = fs::read_to_string(dir.path().join(FILES[0])).unwrap();
        assert!(text.contains("Broken off") && text.contains("| its output | raw"), "{text}");
        let pid = fs::read_to_string(dir.path().join("restart-1.log")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "its own server still runs");
    }
}
