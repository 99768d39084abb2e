//! Memory of an added stream: resident memory of a `tailcliff run` process, coordinator included, with 5,000 streams
//! under way against 1,000.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::clients::{Job, Stub};
use crate::{Bench, say, verdict};

const FEW: usize = 1_000;
const MANY: usize = 5_000;
/// All streams are under way by then, and have had some tokens.
const SETTLED: Duration = Duration::from_secs(10);
/// What the project promises, KiB.
const REACH_KIB: f64 = 24.0;

pub(crate) fn row(bench: &Bench) -> anyhow::Result<()> {
    let (few, many) = (resident_kib(bench, FEW)?, resident_kib(bench, MANY)?);
    let each = (many - few) / (MANY - FEW) as f64;
    say(&format!(
        "memory: {FEW} streams {:.1} MiB, {MANY} streams {:.1} MiB: {each:.1} KiB for each added stream (reach {REACH_KIB} KiB: {})",
        few / 1024.0,
        many / 1024.0,
        verdict(each <= REACH_KIB)
    ));
    Ok(())
}

fn resident_kib(bench: &Bench, streams: usize) -> anyhow::Result<f64> {
    let job = Job {
        stub: "--mode paced --ttft-ms 500 --itl-ms 500 --spread",
        streams,
        tokens: 100,
        streaming: true,
        warmup_s: 0,
        seconds: 15,
    };
    let dir = bench.dir.path().join("memory");
    let stub = Stub::start(&bench.binary, &dir, job.stub, job.tokens)?;
    let run = dir.join("run");
    let mut tailcliff = bench.start_run(&job, stub.address, &run, &["--drain", "0s"])?;
    std::thread::sleep(SETTLED);
    let status = std::fs::read_to_string(format!("/proc/{}/status", tailcliff.pid()))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib = kib.split_whitespace().next().context("no VmRSS")?.parse()?;
    tailcliff.kill();
    let served = stub.end()?.len();
    ensure!(served == streams, "{served} of {streams} streams were under way");
    std::fs::remove_dir_all(&dir)?;
    Ok(kib)
}
