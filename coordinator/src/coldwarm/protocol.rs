//! One restart with all that follows it, as it is carried out: the shell around the pure rest.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;
use tokio_util::sync::CancellationToken;

use super::cycle::{Kind, Run};
use super::job::Job;
use super::ready::{Asker, EVERY, Seen, Step, Watch};
use super::restart::Restart;
use super::server::Process;
use crate::local::{self, Recorded, Single, processes_of};

/// Sampled before the restart: what this host reads when nothing is loaded.
const BEFORE: Duration = Duration::from_secs(1);
/// After readiness and after the first request: slow sensors catch up. Longer than what is looked at for a queue before the
/// request and what the slowest sensor reaches back together (0.5 s and 0.4 s), so that a start-up's end is no queue.
const SETTLE: Duration = Duration::from_secs(1);
/// Failures in a row after which there is no server any more.
const MOST_FAILURES: usize = 2;
/// Questions between two looks at which process listens.
const LOOK_EVERY: u64 = 10;

const NOT_RESTARTED: &str = "the restart command ended, and the server from before still answers a minute later: does \
    --restart-cmd end it?";

/// A restart as it was seen, stamps in ns of the raw clock.
#[derive(Debug, Default)]
pub(super) struct Raw {
    pub(super) number: u32,
    pub(super) streamed: bool,
    pub(super) begun_utc: String,
    pub(super) recording_ns: i64,
    pub(super) from_ns: Option<i64>,
    pub(super) down_ns: Option<i64>,
    pub(super) ready_ns: Option<i64>,
    pub(super) command_ended_ns: Option<i64>,
    pub(super) command_exit: Option<i32>,
    pub(super) stays: bool,
    pub(super) runs: Vec<Run>,
    pub(super) process: Process,
    pub(super) version: Option<String>,
    pub(super) server_header: Option<String>,
    pub(super) recorded: Recorded,
    /// Why it went no further.
    pub(super) trouble: Option<String>,
}

pub(super) struct Protocol<'a> {
    job: &'a Job,
    stop: &'a CancellationToken,
    tell: &'a (dyn Fn(&str) + Sync),
    asker: Asker,
    stream: Single,
    whole: Single,
}

impl<'a> Protocol<'a> {
    pub(super) fn new(
        job: &'a Job,
        stop: &'a CancellationToken,
        tell: &'a (dyn Fn(&str) + Sync),
    ) -> Result<Self, String> {
        let single = |streaming| Single::new(&v1::Target { streaming, ..job.target.clone() }, &job.workload);
        Ok(Self {
            asker: Asker::new(&job.target, &job.workload, job.ready_path.clone())?,
            stream: single(true)?,
            whole: single(false)?,
            job,
            stop,
            tell,
        })
    }

    /// Restarts and measures; `server` is the command of the restart before, and then of this one.
    pub(super) async fn cycle(&self, restart: u32, server: &mut Option<Restart>) -> Raw {
        let mut raw = Raw {
            number: restart + 1,
            streamed: self.job.streams(restart),
            begun_utc: Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            ..Raw::default()
        };
        if let Some(mut before) = server.take() {
            before.end().await;
        }
        raw.recording_ns = HostClock.now();
        let (of, nvml_path, interval_ns) =
            (self.job.server, self.job.nvml_path.clone(), self.job.gpu_interval_ns);
        // Loading a driver can take seconds.
        let recording = tokio::task::spawn_blocking(move || local::record(of, nvml_path, interval_ns)).await;
        let recording = match recording {
            Ok(Ok(recording)) => recording,
            Ok(Err(error)) => return raw.ended(format!("failed to sample this host: {error}")),
            Err(error) => return raw.ended(format!("failed to sample this host: {error}")),
        };
        if let Err(trouble) = self.within(&mut raw, server).await {
            raw.trouble = Some(trouble);
        }
        if let Some(restart) = server {
            raw.note(restart);
        }
        let recorded = tokio::task::spawn_blocking(move || recording.stop()).await;
        raw.recorded = recorded.unwrap_or_default();
        raw
    }

    /// What happens while host and GPUs are sampled.
    async fn within(&self, raw: &mut Raw, server: &mut Option<Restart>) -> Result<(), String> {
        self.unless_stopped(tokio::time::sleep(BEFORE)).await?;
        let watch = Watch { was_up: self.asker.ask().await == Seen::Ready, down_ns: None };
        let pids = self.job.server.and_then(|server| processes_of(server).ok());
        let log = self.log(raw.number);
        (self.tell)(&format!("restart {}/{}: running the command", raw.number, self.job.restarts));
        let restart = Restart::begin(&self.job.restart_cmd, &log)
            .map_err(|e| format!("failed to run the restart command, or to write {}: {e}", log.display()))?;
        raw.from_ns = Some(restart.began_ns);
        let restart = server.insert(restart);
        self.until_ready(raw, restart, watch, pids).await?;
        (self.tell)(&raw.told_ready());
        self.unless_stopped(tokio::time::sleep(SETTLE)).await?;
        raw.process = Process::look(self.job.server, &self.job.env);
        self.requests(raw).await?;
        raw.version = self.unless_stopped(self.asker.version()).await?;
        Ok(())
    }

    async fn until_ready(
        &self,
        raw: &mut Raw,
        restart: &mut Restart,
        mut watch: Watch,
        pids: Option<Vec<u32>>,
    ) -> Result<(), String> {
        let log = self.log(raw.number);
        let limit_ns = i64::try_from(self.job.ready_timeout.as_nanos()).unwrap_or(i64::MAX);
        let deadline = restart.began_ns.saturating_add(limit_ns);
        for question in 0_u64.. {
            let ended = restart.look();
            if let Some(ended) = ended.filter(|ended| !ended.status.success()) {
                let (status, log) = (ended.status, log.display());
                return Err(format!("the restart command failed ({status}): its output is in {log}"));
            }
            let seen = self.unless_stopped(self.asker.ask()).await?;
            let now = HostClock.now();
            let in_doubt = seen == Seen::Ready && watch.was_up && watch.down_ns.is_none();
            let is_another =
                if in_doubt && question % LOOK_EVERY == 0 { self.is_another(pids.as_deref()) } else { None };
            let step = watch.on(now, seen, is_another, ended.map(|ended| ended.at_ns));
            raw.down_ns = watch.down_ns.filter(|_| watch.was_up);
            match step {
                Step::Ready => {
                    raw.ready_ns = Some(now);
                    return Ok(());
                }
                Step::NotRestarted => return Err(NOT_RESTARTED.to_owned()),
                Step::Wait => {}
            }
            if now >= deadline {
                return Err(self.too_late(seen, ended.is_some(), raw.number));
            }
            self.unless_stopped(tokio::time::sleep(EVERY)).await?;
        }
        Ok(())
    }

    fn too_late(&self, latest: Seen, has_ended: bool, number: u32) -> String {
        let said = match latest {
            Seen::Gone => "nobody answered".to_owned(),
            Seen::NotYet(status) => format!("the server said HTTP {status}"),
            Seen::Ready => "the server from before answered".to_owned(),
        };
        format!(
            "the server was not ready within {:?}: {said}, and the command {}; see {}, or raise --ready-timeout",
            self.job.ready_timeout,
            if has_ended { "had ended" } else { "was still running" },
            self.log(number).display()
        )
    }

    /// `None` where nobody can tell.
    fn is_another(&self, before: Option<&[u32]>) -> Option<bool> {
        let (before, now) = (before?, processes_of(self.job.server?).ok()?);
        Some(!now.is_empty() && now.iter().all(|pid| !before.contains(pid)))
    }

    async fn requests(&self, raw: &mut Raw) -> Result<(), String> {
        let usual = if raw.streamed { &self.stream } else { &self.whole };
        self.request(raw, usual, Kind::Cold, None).await?;
        self.unless_stopped(tokio::time::sleep(SETTLE)).await?;
        for n in 1..=self.job.runs {
            self.request(raw, usual, Kind::Warm(n), None).await?;
        }
        if raw.streamed {
            for n in 1..=self.job.runs {
                self.request(raw, &self.whole, Kind::Whole(n), None).await?;
            }
        }
        let fresh = other_beginning(&self.job.workload.prompt);
        self.request(raw, usual, Kind::Fresh, Some(&fresh)).await
    }

    async fn request(
        &self,
        raw: &mut Raw,
        single: &Single,
        kind: Kind,
        prompt: Option<&str>,
    ) -> Result<(), String> {
        let id = format!("tailcliff-coldwarm-{}-{}", raw.number, kind.name());
        let answer = self.unless_stopped(single.ask(&id, prompt)).await??;
        let run = Run::of(kind, &answer.record);
        (self.tell)(&run.words());
        raw.runs.push(run);
        raw.server_header = raw.server_header.take().or(Some(answer.server).filter(|s| !s.is_empty()));
        let failures = raw.runs.iter().rev().take_while(|run| !run.completed).count();
        if failures >= MOST_FAILURES {
            let why = raw.runs.last().map(|run| run.notes.join("; ")).unwrap_or_default();
            return Err(format!("{failures} requests in a row failed after restart {}: {why}", raw.number));
        }
        Ok(())
    }

    fn log(&self, number: u32) -> PathBuf {
        self.job.output_dir.join(format!("restart-{number}.log"))
    }

    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, String> {
        tokio::select! {
            done = work => Ok(done),
            () = self.stop.cancelled() => Err("interrupted".to_owned()),
        }
    }
}

impl Raw {
    fn ended(mut self, trouble: String) -> Self {
        self.trouble = Some(trouble);
        self
    }

    fn note(&mut self, restart: &mut Restart) {
        let ended = restart.look();
        self.stays = ended.is_none();
        self.command_ended_ns = ended.map(|ended| ended.at_ns);
        self.command_exit = ended.and_then(|ended| ended.status.code());
    }

    fn told_ready(&self) -> String {
        let ns = self.ready_ns.zip(self.from_ns).map_or(0, |(ready, from)| ready - from);
        format!("ready after {:.2} s", ns as f64 / 1e9)
    }
}

/// The same words in another order: as long, and no cache has its beginning.
fn other_beginning(prompt: &str) -> String {
    let mut words: Vec<&str> = prompt.split_whitespace().collect();
    words.reverse();
    match words.as_slice() {
        [_, _, ..] => words.join(" "),
        _ => prompt.chars().rev().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::other_beginning;

    #[test]
    fn another_prompt_of_the_same_length() {
        assert_eq!(other_beginning("why is it"), "it is why");
        assert_eq!(other_beginning("ab"), "ba");
    }
}
