//! One pass: three clients, one after the other, each against a fresh server with the same seed.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use e2e::floor::{self, Load, Record};
use e2e::roles::Role;
use e2e::{plain_reqwest, truth_check};
use hdrhistogram::Histogram;

use crate::{REQUESTS_EACH, STREAMS, TOKENS, server, sweep};

const MEAN_TOKENS: &str = "30";

/// What was measured of one client.
#[derive(Debug)]
pub(crate) struct Figures {
    /// TTFT that it added, ns, after its own stamp of the send.
    pub(crate) after_send: Histogram<u64>,
    /// TTFT that it added, ns, from the intended send: the start, or the end of the stream's request before.
    pub(crate) from_intended: Histogram<u64>,
    /// The same without each stream's first request.
    pub(crate) under_way: Histogram<u64>,
    /// CPU time per token, ns.
    pub(crate) cpu_ns: f64,
}

/// What was measured of all three.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) ours_first: bool,
    pub(crate) ours: Figures,
    pub(crate) bare: Figures,
    pub(crate) reqwest: Figures,
}

/// Measures ours, reqwest and the bare client in this order or the reverse: whatever changes steadily on the machine then
/// favours nobody over several passes.
pub(crate) fn run(binary: &Path, dir: &Path, ours_first: bool) -> anyhow::Result<Pass> {
    let measure_ours = || ours(binary, &dir.join("ours"));
    let measure_bare = || simple(binary, &dir.join("bare"), floor::run);
    let measure_reqwest = || simple(binary, &dir.join("reqwest"), plain_reqwest::run);
    let (ours, reqwest, bare) = if ours_first {
        let (ours, reqwest) = (measure_ours()?, measure_reqwest()?);
        (ours, reqwest, measure_bare()?)
    } else {
        let (bare, reqwest) = (measure_bare()?, measure_reqwest()?);
        (measure_ours()?, reqwest, bare)
    };
    Ok(Pass { ours_first, ours, bare, reqwest })
}

/// tailcliff itself, from the files that it leaves.
fn ours(binary: &Path, dir: &Path) -> anyhow::Result<Figures> {
    let (mut server, address, truth) = warm_server(binary, dir)?;
    sweep(binary, &address.to_string(), dir, STREAMS, STREAMS * REQUESTS_EACH)?;
    server.end()?;
    let run = dir.join("run");
    let data = tailcliff::load::load(&run)?;
    let error = truth_check::compare(&run, &truth, data.header.started_ref_ns)?;
    let truth_check::TruthError { requests, unmatched, duplicates, impossible, .. } = error;
    ensure!(requests as usize == STREAMS * REQUESTS_EACH, "{requests} requests matched");
    ensure!((unmatched, duplicates) == (0, 0), "{unmatched} requests unmatched, {duplicates} sent twice");
    ensure!(impossible == 0, "{impossible} stamps contradict the truth");
    let done = data.levels.iter().flat_map(|level| level.done.values());
    let health = done.map(|done| done.health.as_ref().context("an agent did not tell its CPU time"));
    let cpu_ns: i64 = health.map(|health| Ok(health?.cpu_ns)).sum::<anyhow::Result<_>>()?;
    Ok(Figures {
        after_send: error.after_send_ns,
        from_intended: error.from_intended_ns,
        under_way: error.under_way_ns,
        cpu_ns: cpu_ns as f64 / error.chunks as f64,
    })
}

/// A client of one thread, which is this one.
fn simple(
    binary: &Path,
    dir: &Path,
    client: fn(SocketAddr, &Load) -> io::Result<Vec<Record>>,
) -> anyhow::Result<Figures> {
    let (mut server, address, truth) = warm_server(binary, dir)?;
    let before = floor::cpu_ns()?;
    let records = client(address, &load(Some("bare"), REQUESTS_EACH, TOKENS))?;
    let cpu_ns = (floor::cpu_ns()? - before) as f64;
    server.end()?;
    let tokens: usize = records.iter().map(|r| r.arrivals_ns.len()).sum();
    figures(&records, &truth, cpu_ns / tokens as f64)
}

/// A server that has served before: what a process takes to begin with is nobody's to answer for.
fn warm_server(binary: &Path, dir: &Path) -> anyhow::Result<(Role, SocketAddr, PathBuf)> {
    std::fs::create_dir_all(dir)?;
    let truth = dir.join("truth.jsonl");
    let (server, address) = server(binary, &truth, &["--eos-mean-tokens", MEAN_TOKENS])?;
    let address = address.parse().context("the server's address")?;
    floor::run(address, &load(None, 2, 2))?;
    Ok((server, address, truth))
}

fn load(name: Option<&'static str>, requests_each: usize, max_tokens: usize) -> Load {
    Load { name, model: "sim".to_owned(), connections: STREAMS, requests_each, max_tokens }
}

fn figures(records: &[Record], truth: &Path, cpu_ns: f64) -> anyhow::Result<Figures> {
    let truth = truth_check::read_truth(truth)?;
    ensure!(truth.duplicates == 0, "{} requests were sent twice", truth.duplicates);
    ensure!(
        (records.len(), truth.by_id.len()) == (STREAMS * REQUESTS_EACH, records.len()),
        "requests are missing"
    );
    let histogram = || Histogram::<u64>::new(3);
    let (mut after_send, mut from_intended, mut under_way) = (histogram()?, histogram()?, histogram()?);
    for record in records {
        let truth = truth.by_id.get(&record.request_id).context("a request is not in the truth log")?;
        ensure!(
            record.arrivals_ns.len() == truth.emissions.len(),
            "tokens of {} are missing",
            record.request_id
        );
        let (Some(first), Some(emitted)) = (record.arrivals_ns.first(), truth.emissions.first()) else {
            continue;
        };
        let added = |from: i64| {
            let ns = (first - from) - (emitted - truth.arrived_ns);
            u64::try_from(ns).context("a token was seen before it was sent")
        };
        after_send.record(added(record.sent_ns)?)?;
        from_intended.record(added(record.intended_ns)?)?;
        if record.request > 0 {
            under_way.record(added(record.intended_ns)?)?;
        }
    }
    Ok(Figures { after_send, from_intended, under_way, cpu_ns })
}
