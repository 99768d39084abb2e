//! A pause of 724 ms at one token, made by the simulated server, must come out as one gap of 724 ms, and no gap may be lost.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use e2e::roles::Role;
use e2e::truth_check;

use crate::say;

const TOKENS: usize = 60;

const STALL_MS: f64 = 724.0;
const STALL_AT: usize = 20;
const REQUESTS: usize = 3;
/// Gaps longer than this are stalls here; the others are of 10 ms.
const LONG_MS: f64 = 100.0;
/// How far the gap that is seen may lie from the server's own.
const NEAR_MS: f64 = 20.0;

pub(crate) fn check(binary: &Path, dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    let truth = dir.join("truth.jsonl");
    let fault = format!("pause:token={STALL_AT},ms={STALL_MS}");
    let (mut server, address) = server(binary, &truth, &["--fault", &fault])?;
    sweep(binary, &address, dir, 1, REQUESTS)?;
    server.end()?;
    let seen = truth_check::gaps_ms(&dir.join("run"))?;
    let truth = truth_check::read_truth(&truth)?;
    let counts = (seen.len(), truth.by_id.len(), truth.duplicates);
    ensure!(counts == (REQUESTS, REQUESTS, 0), "requests seen, served, sent twice: {counts:?}");
    for (id, gaps_ms) in seen {
        let emissions = &truth.by_id.get(&id).context("a request is not in the truth log")?.emissions;
        one_gap(&id, &gaps_ms, emissions)?;
    }
    Ok(())
}

fn one_gap(id: &str, gaps_ms: &[f64], emissions: &[i64]) -> anyhow::Result<()> {
    ensure!(gaps_ms.len() == TOKENS - 1, "{id}: {} gaps of {} kept", gaps_ms.len(), TOKENS - 1);
    let long: Vec<f64> = gaps_ms.iter().copied().filter(|&ms| ms > LONG_MS).collect();
    ensure!(long.len() == 1, "{id}: the stall is not one gap: {long:.1?}");
    ensure!(gaps_ms[STALL_AT - 1] == long[0], "{id}: the stall is not where it was");
    let longest = emissions.windows(2).map(|w| w[1] - w[0]).max();
    let own = longest.context("the server sent no gap")? as f64 / 1e6;
    let text = format!(
        "stall of {STALL_MS} ms in {id}: all {} gaps kept, one of them longer than {LONG_MS} ms: {:.1} ms; the server's own: \
         {own:.1} ms",
        gaps_ms.len(),
        long[0]
    );
    ensure!((long[0] - own).abs() <= NEAR_MS && long[0] >= STALL_MS - 1.0, "not the server's gap: {text}");
    say(&text);
    Ok(())
}

/// A paced server with a truth log, and its address.
fn server(binary: &Path, truth: &Path, more: &[&str]) -> anyhow::Result<(Role, String)> {
    let truth = truth.to_str().context("odd path")?;
    let mut args = vec!["--listen", "127.0.0.1:0", "--truth-log", truth, "--timing", "paced"];
    args.extend(["--paced-ttft-ms", "50", "--paced-itl-ms", "10"]);
    args.extend(more);
    let server = Role::start(binary, "model-sim", &args)?;
    let address = server.line("listening on ")?;
    Ok((server, address))
}

/// One level of `tailcliff run` into `dir/run`; what it says goes to a file there.
fn sweep(binary: &Path, address: &str, dir: &Path, streams: usize, requests: usize) -> anyhow::Result<()> {
    let (streams, requests, tokens) = (streams.to_string(), requests.to_string(), TOKENS.to_string());
    let out = dir.join("run");
    let mut args =
        vec!["run", "--url", address, "--model", "sim", "--input-len", "16", "--output-len", &tokens];
    args.extend(["--concurrency", &streams, "--num-prompts", &requests]);
    args.extend(["--output-dir", out.to_str().context("odd path")?]);
    let said = dir.join("said");
    let mut command = Command::new(binary);
    command.stderr(File::create(&said)?);
    let status = Role::start_with(command, "tailcliff", &args)?.wait()?;
    ensure!(status.success(), "the run ended with {status}:\n{}", std::fs::read_to_string(&said)?);
    Ok(())
}
