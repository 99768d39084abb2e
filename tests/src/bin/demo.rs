//! The whole of tailcliff on one machine in about a minute: a simulated model server, a coordinator, three agents and a
//! gpu-probe as processes of their own, swept past the knee that the server's parameters imply, and the result held
//! against the server's truth log.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use e2e::roles::{self, Role};
use e2e::truth_check::{self, TruthError};
use tailcliff::args::{Levels, Span, SweepArgs};
use tailcliff::config::Config;
use tailcliff::display::{Display, terminal_width};
use tailcliff::drive::{self, Listeners, Outcome, Setup};
use tailcliff::knee::duration;

const LEVELS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
const INPUT_WORDS: u32 = 64;
const OUTPUT_TOKENS: u32 = 24;
const GAIN_SHARE: f64 = 0.5;
const AGENTS: u32 = 3;

fn main() -> anyhow::Result<()> {
    if let Some(code) = roles::dispatch() {
        std::process::exit(code);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(demo())
}

async fn demo() -> anyhow::Result<()> {
    let binary = std::env::current_exe()?;
    let dir = tempfile::Builder::new().prefix("tailcliff-demo-").tempdir()?.keep();
    let truth = dir.join("truth.jsonl");
    say("SIMULATED: a model server whose latency follows from its parameters, on this machine's loopback.");
    let mut server = start_server(&binary, &truth)?;
    let url = server.line("listening on ")?;
    let knee = LEVELS[e2e::demo_knee(&LEVELS, INPUT_WORDS, OUTPUT_TOKENS, GAIN_SHARE)?];
    say(&format!("its parameters imply a knee at {knee} streams; tailcliff is not told.\n"));

    let listeners = Listeners::bind("127.0.0.1:0")?;
    let coordinator = listeners.address()?.to_string();
    let nodes = start_nodes(&binary, &coordinator)?;
    let outcome = sweep(&url, &dir, listeners).await?;
    drop(nodes);
    server.end()?;
    report(&outcome, &truth, knee)
}

fn start_server(binary: &Path, truth: &Path) -> anyhow::Result<Role> {
    let truth = truth.to_str().context("the temporary directory has an odd name")?;
    let mut args = vec!["--listen", "127.0.0.1:0", "--truth-log", truth];
    args.extend(e2e::DEMO_SERVER);
    Role::start(binary, "model-sim", &args).context("failed to start the simulated server")
}

fn start_nodes(binary: &Path, coordinator: &str) -> anyhow::Result<Vec<Role>> {
    let mut nodes = Vec::new();
    for i in 1..=AGENTS {
        let name = format!("agent-{i}");
        nodes.push(Role::start(
            binary,
            "agent",
            &["--coordinator", coordinator, "--name", &name, "--shards", "1"],
        )?);
    }
    let mut probe =
        vec!["--coordinator".to_owned(), coordinator.to_owned(), "--name".to_owned(), "probe-1".to_owned()];
    match real_gpu() {
        true => say("gpu-probe: this machine's own GPU."),
        false => {
            let library = nvml_sim::library_path()
                .context("failed to find the simulated NVML that was built with this")?;
            say("gpu-probe: no GPU here, so the probe reads a SIMULATED one; its figures mean nothing.");
            probe.extend(["--nvml-path".to_owned(), library.display().to_string()]);
        }
    }
    let probe: Vec<&str> = probe.iter().map(String::as_str).collect();
    nodes.push(Role::start(binary, "gpu-probe", &probe)?);
    Ok(nodes)
}

fn real_gpu() -> bool {
    Path::new("/dev/nvidiactl").exists()
}

async fn sweep(url: &str, dir: &Path, listeners: Listeners) -> anyhow::Result<Outcome> {
    let args = SweepArgs {
        url: Some(url.to_owned()),
        model: Some("sim".to_owned()),
        concurrency: Some(Levels(LEVELS.to_vec())),
        duration: Some(Span(5_000_000_000)),
        warmup: Some(Span(1_000_000_000)),
        drain: Some(Span(3_000_000_000)),
        input_len: Some(INPUT_WORDS),
        output_len: Some(OUTPUT_TOKENS),
        ignore_eos: Some(true),
        knee_gain_share: Some(GAIN_SHARE),
        metadata: vec!["server=model-sim (SIMULATED)".to_owned()],
        name: Some("demo-simulated".to_owned()),
        output_dir: Some(dir.join("run")),
        ..SweepArgs::default()
    };
    let mut config = Config::from_args(args, None)?;
    (config.plan.agents, config.plan.probes) = (AGENTS, 1);
    let display = Display::stderr(LEVELS.len());
    let setup = Setup { wait_ns: 30_000_000_000, embedded: None, command: vec!["demo".to_owned()] };
    let (_ctrl_c, interrupts) = tokio::sync::mpsc::channel(2);
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() && _ctrl_c.send("interrupted".to_owned()).await.is_ok() {}
    });
    Ok(drive::drive(config, listeners, setup, interrupts, display).await?)
}

fn report(outcome: &Outcome, truth: &Path, implied: u32) -> anyhow::Result<()> {
    let (Some(dir), Some(merged)) = (&outcome.dir, &outcome.merged) else {
        anyhow::bail!("the sweep measured nothing: {:?}", outcome.ending);
    };
    say(&tailcliff::report::terminal::render(merged, terminal_width()));
    say(&format!("\nSIMULATED server; implied by its parameters: a knee at {implied} streams."));
    let started = tailcliff::load::load(dir)?.header.started_ref_ns;
    let error = truth_check::compare(dir, truth, started)?;
    say(&describe(&error));
    say(&format!("files: {}", dir.display()));
    say(&format!("truth log of the simulated server: {}", PathBuf::from(truth).display()));
    if error.impossible > 0 || error.requests == 0 {
        anyhow::bail!("{} token stamps contradict the truth log", error.impossible);
    }
    Ok(())
}

fn describe(error: &TruthError) -> String {
    let at = |h: &hdrhistogram::Histogram<u64>, q: f64| duration(h.value_at_quantile(q));
    format!(
        "held against the server's truth log, {} requests and {} tokens ({} requests unmatched):\n\
         \x20 token stamp after its emission   p50 {}  p99 {}  max {}\n\
         \x20 TTFT added by client and network p50 {}  p99 {}  max {}\n\
         \x20 stamps beyond their error bar    {} (widest bar ±{})",
        error.requests,
        error.chunks,
        error.unmatched,
        at(&error.delivery_ns, 0.5),
        at(&error.delivery_ns, 0.99),
        at(&error.delivery_ns, 1.0),
        at(&error.added_ttft_ns, 0.5),
        at(&error.added_ttft_ns, 0.99),
        at(&error.added_ttft_ns, 1.0),
        error.impossible,
        duration(error.worst_bound_ns),
    )
}

fn say(line: &str) {
    // A reader that left early is no error.
    let _left = writeln!(std::io::stdout(), "{line}");
}
