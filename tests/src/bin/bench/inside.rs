//! What the server's inside view costs on the server's node: CPU time of the probe's process with spans coming in at 100 a
//! second and metrics scraped ten times a second, less that of a probe beside the same load that does neither.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::roles::Role;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use tailcliff_proto::clock::HostClock;

use crate::{Bench, median, say, verdict};

const SPANS_PER_S: u32 = 100;
/// What the project promises, percent of a core.
const REACH_PERCENT: f64 = 2.0;
/// Everybody has joined and the load goes by then.
const SETTLED: Duration = Duration::from_secs(6);
/// What is left of the run then, beyond what is measured.
const REST_S: u32 = 14;

pub(crate) fn row(bench: &Bench) -> anyhow::Result<()> {
    let (mut without, mut with, mut spans) = (Vec::new(), Vec::new(), 0);
    for _ in 0..bench.passes(3) {
        without.push(percent(bench, false)?.0);
        let (cpu, came) = percent(bench, true)?;
        with.push(cpu);
        spans += came;
    }
    let (without, with) = (median(without), median(with));
    let added = with - without;
    say(&format!(
        "inside view: probe {without:.2} % of a core, with {SPANS_PER_S} spans/s and 10 scrapes/s {with:.2} %: {added:.2} % added (reach \
         {REACH_PERCENT} %: {}); {spans} spans came",
        verdict(added < REACH_PERCENT)
    ));
    Ok(())
}

/// Percent of a core that the probe's process takes under load, and the spans that came to it.
fn percent(bench: &Bench, inside: bool) -> anyhow::Result<(f64, u64)> {
    let dir = bench.dir.path().join("inside");
    let run = dir.join("run");
    let otlp = format!("127.0.0.1:{}", free_port()?);
    let server = server(bench, inside.then_some(&otlp))?;
    let address = server.line("listening on ")?;
    let mut coordinator = coordinator(bench, &address, run.to_str().context("odd path")?)?;
    let listening = coordinator.announced("listening on ")?;
    let to = listening.split(',').next().context("no address")?;
    let probe = probe(bench, to, inside.then_some((&otlp, &format!("http://{address}/metrics"))))?;
    let agent = Role::start(&bench.binary, "agent", &["--coordinator", to, "--shards", "1"])?;
    std::thread::sleep(SETTLED);
    let (from, before) = (HostClock.now(), cpu_ns(probe.pid())?);
    std::thread::sleep(Duration::from_secs(bench.seconds.into()));
    let (took, cpu) = (HostClock.now() - from, cpu_ns(probe.pid())? - before);
    ensure!(coordinator.wait()?.success(), "the run failed");
    drop((agent, probe, server));
    let summary: serde_json::Value = serde_json::from_slice(&std::fs::read(run.join("summary.json"))?)?;
    std::fs::remove_dir_all(&dir)?;
    let spans = summary["inside"]["spans"].as_u64().unwrap_or(0);
    ensure!(spans > 0 || !inside, "no span came");
    Ok((100.0 * cpu / took as f64, spans))
}

/// A server that exports its spans to `otlp`, if there is one.
fn server(bench: &Bench, otlp: Option<&String>) -> anyhow::Result<Role> {
    let mut args =
        vec!["--listen", "127.0.0.1:0", "--timing", "paced", "--paced-ttft-ms", "5", "--paced-itl-ms", "2"];
    let endpoint = otlp.map(|otlp| format!("grpc://{otlp}"));
    if let Some(endpoint) = &endpoint {
        args.extend(["--otlp-endpoint", endpoint, "--otlp-delay-ms", "1000"]);
    }
    Ok(Role::start(&bench.binary, "model-sim", &args)?)
}

/// A run of so many requests a second for as long as the bench takes.
fn coordinator(bench: &Bench, address: &str, run_dir: &str) -> anyhow::Result<Role> {
    let rate = SPANS_PER_S.to_string();
    let length = format!("{}s", bench.seconds + REST_S);
    let load = ["--request-rate", &rate, "--duration", &length, "--ignore-eos", "--output-len", "5"];
    let others = [
        "coordinate",
        "--listen",
        "127.0.0.1:0",
        "--url",
        address,
        "--model",
        "sim",
        "--agents",
        "1",
        "--probes",
        "1",
        "--output-dir",
        run_dir,
    ];
    let args = [&others[..], &load].concat();
    Ok(Role::start_heard(Command::new(&bench.binary), "tailcliff", &args)?)
}

/// A probe that joins `to`, and where the server's inside is to be seen: where spans come, and where metrics are.
fn probe(bench: &Bench, to: &str, inside: Option<(&String, &String)>) -> anyhow::Result<Role> {
    let mut args = vec!["--coordinator", to, "--name", "probe"];
    if let Some((otlp, metrics)) = inside {
        args.extend([
            "--otlp-listen",
            otlp,
            "--server-metrics",
            metrics,
            "--server-metrics-interval",
            "100ms",
        ]);
    }
    Ok(Role::start(&bench.binary, "gpu-probe", &args)?)
}

/// CPU time of a process since it began, ns.
fn cpu_ns(pid: u32) -> anyhow::Result<f64> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()))?;
    let took = clock_gettime(clock)?;
    Ok(took.tv_sec() as f64 * 1e9 + took.tv_nsec() as f64)
}

/// A port that nobody listened on just now.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
