//! Three clients under one load, each against a stub of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use e2e::floor::{self, Load, Record};
use e2e::plain_reqwest;
use e2e::roles::Role;
use serde_json::Value;
use tailcliff::calibrate::measure::{Seen, added, held};
use tailcliff::calibrate::{Added, seen};
use tailcliff::local::{PREFLIGHT_ID, Served, Truth};

use crate::Bench;

/// What is asked of each client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// Flags of the stub.
    pub(crate) stub: &'static str,
    pub(crate) streams: usize,
    pub(crate) tokens: usize,
    pub(crate) streaming: bool,
    pub(crate) warmup_s: u32,
    pub(crate) seconds: u32,
}

/// What a client came to.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) requests: u64,
    pub(crate) tokens: u64,
    pub(crate) cpu_ns: f64,
    /// Empty of replies that are not streamed.
    pub(crate) added: Added,
    /// Streams that the stub had under way on average in the window.
    pub(crate) held: f64,
}

/// What only ours tells.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) figures: Figures,
    /// The level in `summary.json`.
    pub(crate) level: Value,
}

impl Figures {
    pub(crate) fn cpu_per_request_ns(&self) -> f64 {
        self.cpu_ns / self.requests as f64
    }

    pub(crate) fn cpu_per_token_ns(&self) -> f64 {
        self.cpu_ns / self.tokens as f64
    }
}

/// A stub in a process of its own, and where its truth goes.
pub(crate) struct Stub {
    role: Role,
    truth: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Stub {
    pub(crate) fn start(binary: &Path, dir: &Path, flags: &str, tokens: usize) -> anyhow::Result<Stub> {
        std::fs::create_dir_all(dir)?;
        let truth = dir.join("truth.jsonl");
        let tokens = tokens.to_string();
        let mut args = vec!["stub", "--truth", truth.to_str().context("odd path")?, "--tokens", &tokens];
        args.extend(flags.split(' '));
        let role = Role::start(binary, "tailcliff", &args)?;
        let address = role.line("listening on ")?.parse().context("the stub's address")?;
        Ok(Stub { role, truth, address })
    }

    pub(crate) fn end(mut self) -> anyhow::Result<Vec<Served>> {
        self.role.end()?;
        let truth = Truth::read(BufReader::new(File::open(&self.truth)?))?;
        ensure!(truth.lost == 0, "{} requests are missing from the truth", truth.lost);
        std::fs::remove_file(&self.truth)?;
        Ok(truth.served.into_iter().filter(|s| s.id != PREFLIGHT_ID).collect())
    }
}

impl Bench {
    /// tailcliff itself, one shard, from the files that it leaves; `more` are further flags of `tailcliff run`.
    pub(crate) fn ours(&self, job: &Job, more: &[&str]) -> anyhow::Result<Ours> {
        let dir = self.dir.path().join("ours");
        let stub = Stub::start(&self.binary, &dir, job.stub, job.tokens)?;
        let run = dir.join("run");
        let mut tailcliff = self.start_run(job, stub.address, &run, more)?;
        let status = tailcliff.wait()?;
        ensure!(
            status.success(),
            "the run ended with {status}: {}",
            std::fs::read_to_string(run.with_extension("said"))?
        );
        let truth = stub.end()?;
        let data = tailcliff::load::load(&run)?;
        let log = data.levels.first().context("the run has no level")?;
        let health =
            log.done.values().map(|done| done.health.as_ref().context("an agent did not tell its CPU time"));
        let cpu_ns: i64 = health.map(|health| Ok(health?.cpu_ns)).sum::<anyhow::Result<_>>()?;
        let start = log.started.values().map(|s| s.asked_raw_ns).min().context("no agent started")?;
        let added = if job.streaming { added(seen(&data), &truth) } else { Added::default() };
        let figures = figures(job, &truth, start, cpu_ns, added)?;
        let mut summary: Value = serde_json::from_slice(&std::fs::read(run.join("summary.json"))?)?;
        let level = summary["levels"][0].take();
        std::fs::remove_dir_all(&dir)?;
        Ok(Ours { figures, level })
    }

    /// `tailcliff run` as a child; what it says goes to a file beside its directory.
    pub(crate) fn start_run(
        &self,
        job: &Job,
        address: SocketAddr,
        run: &Path,
        more: &[&str],
    ) -> anyhow::Result<Role> {
        let (address, streams, tokens) =
            (address.to_string(), job.streams.to_string(), job.tokens.to_string());
        let (warmup, seconds) = (format!("{}s", job.warmup_s), format!("{}s", job.seconds));
        let mut args =
            vec!["run", "--url", &address, "--model", "stub", "--shards", "1", "--input-len", "16"];
        args.extend(["--output-len", &tokens, "--concurrency", &streams, "--warmup", &warmup]);
        args.extend(["--duration", &seconds, "--output-dir", run.to_str().context("odd path")?]);
        if !job.streaming {
            args.push("--no-streaming");
        }
        args.extend(more);
        let mut command = Command::new(&self.binary);
        command.stderr(File::create(run.with_extension("said"))?);
        Ok(Role::start_with(command, "tailcliff", &args)?)
    }

    /// The bare epoll client, on this thread.
    pub(crate) fn floor(&self, job: &Job) -> anyhow::Result<Figures> {
        self.simple(job, "floor", |address, load| {
            let before = floor::cpu_ns()?;
            let records = floor::run(address, load)?;
            Ok((records, floor::cpu_ns()? - before))
        })
    }

    /// Plain reqwest, on this thread.
    pub(crate) fn reqwest(&self, job: &Job) -> anyhow::Result<Figures> {
        self.simple(job, "reqwest", plain_reqwest::run)
    }

    fn simple(
        &self,
        job: &Job,
        name: &'static str,
        client: impl Fn(SocketAddr, &Load) -> std::io::Result<(Vec<Record>, i64)>,
    ) -> anyhow::Result<Figures> {
        let dir = self.dir.path().join(name);
        let stub = Stub::start(&self.binary, &dir, job.stub, job.tokens)?;
        let load = Load {
            name: Some(name),
            model: "stub".to_owned(),
            connections: job.streams,
            requests_each: usize::MAX,
            duration_ns: Some(i64::from(job.warmup_s + job.seconds) * 1_000_000_000),
            max_tokens: job.tokens,
            streaming: job.streaming,
        };
        let (records, cpu_ns) = client(stub.address, &load)?;
        let truth = stub.end()?;
        let start = records.iter().map(|r| r.intended_ns).min().context("no request was made")?;
        if job.streaming {
            check_tokens(&records, &truth)?;
        }
        let from = start + i64::from(job.warmup_s) * 1_000_000_000;
        let measured = records.iter().filter(|r| r.intended_ns >= from);
        let seen = measured.filter_map(|r| {
            let first_token_ns = *r.arrivals_ns.first()?;
            Some(Seen { id: &r.request_id, intended_ns: r.intended_ns, sent_ns: r.sent_ns, first_token_ns })
        });
        figures(job, &truth, start, cpu_ns, added(seen, &truth))
    }
}

/// A client that loses tokens is a cheap one.
fn check_tokens(records: &[Record], truth: &[Served]) -> anyhow::Result<()> {
    let known: BTreeMap<&str, u64> = truth.iter().map(|s| (s.id.as_str(), s.tokens())).collect();
    ensure!(known.len() == truth.len(), "a request was sent twice");
    ensure!(records.len() == truth.len(), "{} requests made, {} served", records.len(), truth.len());
    for record in records {
        let (seen, written) = (record.arrivals_ns.len() as u64, known.get(record.request_id.as_str()));
        ensure!(written == Some(&seen), "{}: {seen} tokens seen, {written:?} written", record.request_id);
    }
    Ok(())
}

fn figures(job: &Job, truth: &[Served], start_ns: i64, cpu_ns: i64, added: Added) -> anyhow::Result<Figures> {
    ensure!(added.impossible == 0, "{} tokens were seen before they were written", added.impossible);
    ensure!(added.unmatched == 0, "{} requests never reached the stub", added.unmatched);
    let from = start_ns + i64::from(job.warmup_s) * 1_000_000_000;
    let to = from + i64::from(job.seconds) * 1_000_000_000;
    Ok(Figures {
        requests: truth.len() as u64,
        tokens: truth.iter().map(Served::tokens).sum(),
        cpu_ns: cpu_ns as f64,
        added,
        held: held(truth, from, to).unwrap_or(0.0),
    })
}
