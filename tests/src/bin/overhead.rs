//! What tailcliff's own client adds, measured against a paced server's truth log and beside a bare epoll client in the
//! same pass: 64 streams, first token after 50 ms, then one each 10 ms. Replies differ in length, so that the streams do
//! not stay in step as they start. Median of five passes. A measurement, not a test: run it in release, on a quiet machine.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use e2e::floor;
use e2e::roles::{self, Role};
use e2e::truth_check;
use hdrhistogram::Histogram;

const STREAMS: usize = 64;
const REQUESTS_EACH: usize = 12;
const MEAN_TOKENS: &str = "30";
const TOKENS: usize = 60;
const PASSES: usize = 5;
const STALL_MS: i64 = 724;
const STALL_AT: usize = 20;

#[derive(Debug)]
struct Pass {
    ours: Histogram<u64>,
    floor: Histogram<u64>,
    our_cpu_ns: f64,
    floor_cpu_ns: f64,
}

fn main() -> anyhow::Result<()> {
    if let Some(code) = roles::dispatch() {
        std::process::exit(code);
    }
    if cfg!(debug_assertions) {
        anyhow::bail!("a debug build measures the compiler: run with --release");
    }
    let binary = std::env::current_exe()?;
    let dir = tempfile::tempdir()?;
    say("SIMULATED paced server on loopback: TTFT 50 ms, then a token each 10 ms; 64 streams.");
    let mut passes = Vec::new();
    for i in 0..PASSES {
        let pass = pass(&binary, &dir.path().join(i.to_string()))?;
        say(&format!("pass {}: {}", i + 1, describe(&pass)));
        passes.push(pass);
    }
    let median = |of: &dyn Fn(&Pass) -> f64| {
        let mut values: Vec<f64> = passes.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let at = |h: &Histogram<u64>, q: f64| h.value_at_quantile(q) as f64 / 1e6;
    say(&format!(
        "median of {PASSES}: added TTFT p50 {:.3} ms (bare epoll client {:.3}), p99 {:.3} ms ({:.3}); \
         CPU per token {:.1} µs ({:.1}), {:.1} ×",
        median(&|p| at(&p.ours, 0.5)),
        median(&|p| at(&p.floor, 0.5)),
        median(&|p| at(&p.ours, 0.99)),
        median(&|p| at(&p.floor, 0.99)),
        median(&|p| p.our_cpu_ns / 1e3),
        median(&|p| p.floor_cpu_ns / 1e3),
        median(&|p| p.our_cpu_ns / p.floor_cpu_ns),
    ));
    stall(&binary, &dir.path().join("stall"))
}

fn server(binary: &Path, truth: &Path, more: &[&str]) -> anyhow::Result<(Role, String)> {
    let truth = truth.to_str().context("odd path")?;
    let mut args = vec![
        "--listen",
        "127.0.0.1:0",
        "--truth-log",
        truth,
        "--timing",
        "paced",
        "--paced-ttft-ms",
        "50",
        "--paced-itl-ms",
        "10",
    ];
    args.extend(more);
    let server = Role::start(binary, "model-sim", &args)?;
    let url = server.line("listening on ")?;
    Ok((server, url))
}

fn sweep(binary: &Path, url: &str, out: &Path, streams: usize, requests: usize) -> anyhow::Result<()> {
    let (streams, requests, tokens) = (streams.to_string(), requests.to_string(), TOKENS.to_string());
    let out = out.to_str().context("odd path")?;
    let args = [
        "run",
        "--url",
        url,
        "--model",
        "sim",
        "--concurrency",
        &streams,
        "--num-prompts",
        &requests,
        "--input-len",
        "16",
        "--output-len",
        &tokens,
        "--output-dir",
        out,
    ];
    let mut run = Role::start(binary, "tailcliff", &args)?;
    let status = run.wait()?;
    anyhow::ensure!(status.success(), "the run ended with {status}");
    Ok(())
}

fn pass(binary: &Path, dir: &Path) -> anyhow::Result<Pass> {
    std::fs::create_dir_all(dir)?;
    let truth = dir.join("truth.jsonl");
    let (mut server, url) = server(binary, &truth, &["--eos-mean-tokens", MEAN_TOKENS])?;
    let run = dir.join("run");
    sweep(binary, &url, &run, STREAMS, STREAMS * REQUESTS_EACH)?;
    let address = url.trim_start_matches("http://").parse().context("the server's address")?;
    let load = floor::Load {
        model: "sim".to_owned(),
        connections: STREAMS,
        requests_each: REQUESTS_EACH,
        max_tokens: TOKENS,
    };
    let before = floor::cpu_ns()?;
    let records = floor::run(address, &load)?;
    let floor_tokens: usize = records.iter().map(|r| r.arrivals_ns.len()).sum();
    let floor_cpu_ns = (floor::cpu_ns()? - before) as f64 / floor_tokens as f64;
    server.end()?;
    let data = tailcliff::load::load(&run)?;
    let ours = truth_check::compare(&run, &truth, data.header.started_ref_ns)?;
    anyhow::ensure!(ours.requests as usize == STREAMS * REQUESTS_EACH, "{} requests matched", ours.requests);
    anyhow::ensure!(ours.duplicates == 0, "{} requests were sent twice", ours.duplicates);
    anyhow::ensure!(ours.impossible == 0, "{} stamps contradict the truth", ours.impossible);
    let cpu: i64 = data
        .levels
        .iter()
        .flat_map(|l| l.done.values())
        .filter_map(|d| Some(d.health.as_ref()?.cpu_ns))
        .sum();
    let our_cpu_ns = cpu as f64 / ours.chunks as f64;
    Ok(Pass { ours: ours.after_send_ns, floor: added_by_floor(&records, &truth)?, our_cpu_ns, floor_cpu_ns })
}

fn added_by_floor(records: &[floor::FloorRecord], truth: &Path) -> anyhow::Result<Histogram<u64>> {
    let by_id = truth_check::read_truth(truth)?.by_id;
    let mut added = Histogram::new(3)?;
    for record in records {
        let truth = by_id.get(&record.request_id).context("a floor request is not in the truth log")?;
        let (Some(first), Some(emitted)) = (record.arrivals_ns.first(), truth.emissions.first()) else {
            continue;
        };
        let ns = (first - record.sent_ns) - (emitted - truth.arrived_ns);
        added.record(u64::try_from(ns).context("the floor saw a token before it was sent")?)?;
    }
    Ok(added)
}

fn describe(pass: &Pass) -> String {
    let at = |h: &Histogram<u64>, q: f64| h.value_at_quantile(q) as f64 / 1e6;
    format!(
        "added TTFT p50 {:.3} p99 {:.3} ms; bare epoll client p50 {:.3} p99 {:.3} ms",
        at(&pass.ours, 0.5),
        at(&pass.ours, 0.99),
        at(&pass.floor, 0.5),
        at(&pass.floor, 0.99)
    )
}

/// A pause of 724 ms at one token must come out as one gap of 724 ms.
fn stall(binary: &Path, dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    let truth = dir.join("truth.jsonl");
    let fault = format!("pause:token={STALL_AT},ms={STALL_MS}");
    let (mut server, url) = server(binary, &truth, &["--fault", &fault])?;
    let run = dir.join("run");
    sweep(binary, &url, &run, 1, 3)?;
    server.end()?;
    for (id, gaps_ms) in truth_check::gaps_ms(&run)? {
        let long: Vec<_> = gaps_ms.iter().filter(|&&ms| ms > 100.0).collect();
        say(&format!(
            "stall of {STALL_MS} ms in {id}: {} gaps kept, of which longer than 100 ms: {long:.1?}",
            gaps_ms.len()
        ));
        anyhow::ensure!(long.len() == 1 && gaps_ms.len() == TOKENS - 1, "the stall is not one gap");
    }
    Ok(())
}

fn say(line: &str) {
    // A reader that left early is no error.
    let _left = writeln!(std::io::stdout(), "{line}");
}
