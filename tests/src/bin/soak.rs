//! A steady load for a long time on this machine's loopback: a simulated server, a coordinator, agents and a probe as
//! processes of their own. In the end nothing was dropped, both sides' accounts are equal, and no process has grown.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use e2e::accounts::Accounts;
use e2e::memory::{Course, resident};
use e2e::roles::{self, Role};
use serde_json::Value;
use tailcliff_proto::clock::HostClock;

/// Between two looks at memory, unless the run is so short that there would be too few.
const SAMPLE_S: f64 = 10.0;
const FEWEST_SAMPLES: f64 = 20.0;
/// The coordinator merges when the load has ended, which is another matter.
const LOAD_ONLY: f64 = 0.98;

#[derive(Debug, Parser)]
struct Args {
    /// How long the load lasts.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Agents.
    #[arg(long, default_value_t = 2)]
    agents: u32,
    /// Streams, all agents together.
    #[arg(long, default_value_t = 8)]
    concurrency: u32,
    /// Tokens of each reply, at 5 ms each after the first 20 ms.
    #[arg(long, default_value_t = 16)]
    output_len: u32,
}

struct Watched {
    name: String,
    role: Role,
    course: Course,
    /// The server's truth log grows, and what a probe's stand-in does is its own.
    is_judged: bool,
}

fn main() -> anyhow::Result<()> {
    if let Some(code) = roles::dispatch() {
        std::process::exit(code);
    }
    let args = Args::parse();
    ensure!((0.1..=600.0).contains(&args.minutes), "--minutes must be 0.1 to 600");
    soak(&args)
}

fn soak(args: &Args) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("tailcliff-soak-").tempdir()?;
    let mut all = start(args, dir.path())?;
    let shape = (args.minutes, args.concurrency, args.agents);
    say(&format!(
        "SIMULATED server; {} min, {} streams over {} agents and a probe",
        shape.0, shape.1, shape.2
    ));
    watch(&mut all, args.minutes * 60.0);
    finish(&mut all)?;
    let run = dir.path().join("run");
    let accounts = Accounts::read(&run, &dir.path().join("truth.jsonl"))?;
    let summary = serde_json::from_slice(&std::fs::read(run.join("summary.json"))?)?;
    report(&all, &accounts, &summary)
}

/// The server first, then the coordinator, then its nodes.
fn start(args: &Args, dir: &Path) -> anyhow::Result<Vec<Watched>> {
    let binary = std::env::current_exe()?;
    let path = |name: &str| {
        dir.join(name).to_str().map(str::to_owned).context("the temporary directory has an odd name")
    };
    let (truth, run, spool) = (path("truth.jsonl")?, path("run")?, path("spool")?);
    let paced = ["--timing", "paced", "--paced-ttft-ms", "20", "--paced-itl-ms", "5"];
    let server_args = [&["--listen", "127.0.0.1:0", "--truth-log", &truth][..], &paced].concat();
    let server = Role::start(&binary, "model-sim", &server_args)?;
    let url = server.line("listening on ")?;
    let [agents, streams, tokens] = [args.agents, args.concurrency, args.output_len].map(|n| n.to_string());
    let duration = format!("{}ms", (args.minutes * 60e3).round());
    let load = ["coordinate", "--listen", "127.0.0.1:0", "--url", &url, "--model", "sim", "--ignore-eos"];
    let level =
        ["--concurrency", &streams, "--duration", &duration, "--warmup", "0s", "--output-len", &tokens];
    let fleet = ["--agents", &agents, "--probes", "1", "--output-dir", &run];
    let coordinate = [&load[..], &level, &fleet].concat();
    let coordinator = Role::start_heard(Command::new(&binary), "tailcliff", &coordinate)?;
    let announced = coordinator.announced("listening on ")?;
    let address = announced.split(',').next().unwrap_or_default().to_owned();
    let mut all = vec![watched("server", server, false), watched("coordinator", coordinator, true)];
    for n in 1..=args.agents {
        let name = format!("agent-{n}");
        let agent = ["--coordinator", &address, "--name", &name, "--shards", "1", "--spool-dir", &spool];
        let role = Role::start(&binary, "agent", &agent)?;
        all.push(watched(&name, role, true));
    }
    let nvml =
        nvml_sim::library_path().context("failed to find the simulated NVML that was built with this")?;
    let nvml = nvml.display().to_string();
    let probe = ["--coordinator", &address, "--name", "probe", "--nvml-path", &nvml, "--spool-dir", &spool];
    let role = Role::start(&binary, "gpu-probe", &probe)?;
    all.push(watched("probe", role, true));
    if let Some(coordinator) = all.get(1) {
        coordinator.role.announced("preflight: ")?;
    }
    Ok(all)
}

fn watched(name: &str, role: Role, is_judged: bool) -> Watched {
    Watched { name: name.to_owned(), role, course: Course::default(), is_judged }
}

fn watch(all: &mut [Watched], seconds: f64) {
    let pause = SAMPLE_S.min(seconds / FEWEST_SAMPLES);
    let start = HostClock.now();
    let passed = || (HostClock.now() - start) as f64 / 1e9;
    while passed() + pause < seconds * LOAD_ONLY {
        std::thread::sleep(Duration::from_secs_f64(pause));
        for one in all.iter_mut() {
            // One that ended too early is found out at the end.
            if let Ok(bytes) = resident(one.role.pid()) {
                one.course.push(passed(), bytes);
            }
        }
    }
}

/// The coordinator ends by itself, and its nodes with it.
fn finish(all: &mut [Watched]) -> anyhow::Result<()> {
    for one in all.iter_mut().skip(1) {
        let status = one.role.wait()?;
        ensure!(status.success(), "{} ended with {status}", one.name);
    }
    all.first_mut().context("no server")?.role.end()?;
    Ok(())
}

fn report(all: &[Watched], accounts: &Accounts, summary: &Value) -> anyhow::Result<()> {
    let mut wrong = accounts.differences();
    say("process       first MiB  last MiB  most MiB  MiB per 10 min  allowed");
    for one in all {
        let (first, last, most) = one.course.span_mib().unwrap_or_default();
        let growth = one.course.growth_mib_per_10_min();
        let allowed = if one.is_judged {
            format!("{:.2}", one.course.allowed_mib_per_10_min())
        } else {
            "any".to_owned()
        };
        let grows = growth.map_or_else(|| "unknown".to_owned(), |growth| format!("{growth:.2}"));
        say(&format!("{:<12} {first:>10.1} {last:>9.1} {most:>9.1} {grows:>15} {allowed:>8}", one.name));
        if one.is_judged && !one.course.is_flat() {
            wrong.push(format!("{} grows", one.name));
        }
    }
    let levels = summary["levels"].as_array().context("the summary has no levels")?;
    for (key, n) in levels.iter().filter_map(|level| level["outside"].as_object()).flatten() {
        if key.starts_with("dropped_") && n.as_u64() != Some(0) {
            wrong.push(format!("{key}: {n}"));
        }
    }
    let totals = accounts.totals;
    say(&format!(
        "{} released = {} completed + {} failed + {} incomplete + {} unreported; the server knows {}",
        totals.released,
        totals.completed,
        totals.failed,
        totals.incomplete,
        totals.unreported,
        accounts.truth.by_id.len()
    ));
    ensure!(wrong.is_empty() && totals.unreported == 0, "{}", wrong.join("; "));
    say("nothing dropped, accounts equal, memory flat");
    Ok(())
}

fn say(line: &str) {
    let _closed = writeln!(std::io::stdout(), "{line}");
}
