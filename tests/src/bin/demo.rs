//! The whole of tailcliff on one machine in about a minute: a simulated model server, a coordinator, three agents and a
//! gpu-probe as processes of their own, swept past the knee that the server's parameters imply, and the result held
//! against the server's truth log.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use e2e::roles::{self, Role};
use e2e::truth_check::{self, TruthError};
use tailcliff::args::{Levels, Span, SweepArgs};
use tailcliff::cli;
use tailcliff::config::Config;
use tailcliff::display::{Display, terminal_width};
use tailcliff::door::Door;
use tailcliff::drive::{self, Listeners, Outcome, Setup};
use tailcliff::knee::duration;
use tailcliff::run::Ending;
use tailcliff::ssh::Failures;

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
    std::process::exit(runtime.block_on(demo())?)
}

/// The exit code, as the product's own; what the truth log contradicts is an error.
async fn demo() -> anyhow::Result<i32> {
    let binary = std::env::current_exe()?;
    let dir = tempfile::Builder::new().prefix("tailcliff-demo-").tempdir()?.keep();
    let truth = dir.join("truth.jsonl");
    say("SIMULATED: a model server whose latency follows from its parameters, on this machine's loopback.");
    let mut server = start_server(&binary, &dir, &truth)?;
    let url = server.line("listening on ")?;
    let implied = e2e::demo_knee(&LEVELS, INPUT_WORDS, OUTPUT_TOKENS, GAIN_SHARE)?;
    say(&format!("its parameters imply a knee at {} streams; tailcliff is not told.\n", LEVELS[implied]));

    let listeners = Listeners::bind("127.0.0.1:0", None)?;
    let coordinator = listeners.address()?.to_string();
    let nodes = start_nodes(&binary, &coordinator, &dir)?;
    let outcome = sweep(&url, &dir, listeners).await?;
    drop(nodes);
    server.end()?;
    report(&outcome, &truth, implied)
}

/// What the simulated GPU follows, in the demo's folder: what one under the simulated server would show.
const GPU_LOG: &str = "gpu.log";

fn start_server(binary: &Path, dir: &Path, truth: &Path) -> anyhow::Result<Role> {
    let gpu = dir.join(GPU_LOG);
    let [truth, gpu] = [truth, &gpu].map(Path::to_str);
    let odd = "the temporary directory has an odd name";
    let (truth, gpu) = (truth.context(odd)?, gpu.context(odd)?);
    let mut args = vec!["--listen", "127.0.0.1:0", "--truth-log", truth, "--gpu-log", gpu];
    args.extend(e2e::DEMO_SERVER);
    Role::start(binary, "model-sim", &args).context("failed to start the simulated server")
}

fn start_nodes(binary: &Path, coordinator: &str, dir: &Path) -> anyhow::Result<Vec<Role>> {
    let mut nodes = Vec::new();
    for i in 1..=AGENTS {
        let name = format!("agent-{i}");
        nodes.push(Role::start(
            binary,
            "agent",
            &["--coordinator", coordinator, "--name", &name, "--shards", "1"],
        )?);
    }
    let mut command = std::process::Command::new(binary);
    let mut probe =
        vec!["--coordinator".to_owned(), coordinator.to_owned(), "--name".to_owned(), "probe-1".to_owned()];
    match real_gpu() {
        true => say("gpu-probe: this machine's own GPU."),
        false => {
            let library = nvml_sim::library_path()
                .context("failed to find the simulated NVML that was built with this")?;
            say(
                "gpu-probe: no GPU here, so the probe reads a SIMULATED one that follows the simulated server.",
            );
            let script = dir.join("gpu.script");
            std::fs::write(&script, e2e::follow_script(&dir.join(GPU_LOG)))?;
            command.env(nvml_sim::SCRIPT_VARIABLE, script);
            probe.extend(["--nvml-path".to_owned(), library.display().to_string()]);
        }
    }
    let probe: Vec<&str> = probe.iter().map(String::as_str).collect();
    nodes.push(Role::start_with(command, "gpu-probe", &probe)?);
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
    let setup = Setup {
        wait_ns: 30_000_000_000,
        embedded: None,
        command: vec!["demo".to_owned()],
        door: Door::default(),
        resume: None,
        hosts: Failures::none(),
    };
    let (_ctrl_c, interrupts) = tokio::sync::mpsc::channel(2);
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() && _ctrl_c.send("interrupted".to_owned()).await.is_ok() {}
    });
    Ok(drive::drive(config, listeners, setup, interrupts, display).await?)
}

fn report(outcome: &Outcome, truth: &Path, implied: usize) -> anyhow::Result<i32> {
    let (Some(dir), Some(merged)) = (&outcome.dir, &outcome.merged) else {
        say(&format!("{}; nothing was measured", why(&outcome.ending)));
        return Ok(code(&outcome.ending));
    };
    say(&tailcliff::report::terminal::render(merged, terminal_width()));
    let started = tailcliff::load::load(dir)?.header.started_ref_ns;
    let error = truth_check::compare(dir, truth, started)?;
    say(&format!("\n{}", describe(&error)));
    say(&format!("files: {}", dir.display()));
    say(&format!("truth log of the simulated server: {}", truth.display()));
    let ends = merged.levels.iter().map(|level| level.all_phases);
    believable(&error, ends.map(|c| c.failed + c.incomplete + c.unreported).sum())?;
    match &outcome.ending {
        Ending::Complete => say(&judge(merged.knee.at.and_then(|load| load.concurrency()), implied)?),
        ending => say(&format!("{}; what was measured is kept", why(ending))),
    }
    Ok(code(&outcome.ending))
}

/// What the truth log must not contradict; `explained` requests may differ from it, since they did not complete.
fn believable(error: &TruthError, explained: u64) -> anyhow::Result<()> {
    let TruthError { requests, impossible, duplicates, unmatched, .. } = error;
    ensure!(*requests > 0, "not one request of the run was found in the server's truth log");
    ensure!(*impossible == 0, "{impossible} stamps contradict the truth log");
    ensure!(*duplicates == 0, "{duplicates} requests reached the server twice");
    ensure!(
        *unmatched <= explained,
        "{unmatched} requests differ from the truth log, of which the levels explain {explained}"
    );
    Ok(())
}

/// The found knee must be within one rung of the implied one; no knee found is one beyond reach, at the top.
fn judge(found: Option<u32>, implied: usize) -> anyhow::Result<String> {
    let rung = found.map_or(Some(LEVELS.len() - 1), |at| LEVELS.iter().position(|&level| level == at));
    let apart = rung.context("the knee is at no level of the sweep")?.abs_diff(implied);
    let found = found.map_or("none found".to_owned(), |at| format!("found at {at}"));
    let verdict = match apart {
        0 => "the same rung".to_owned(),
        1 => "one rung apart".to_owned(),
        n => format!("{n} rungs apart, where one is allowed"),
    };
    let implied = LEVELS[implied];
    let line = format!("SIMULATED server: knee implied by its parameters at {implied}, {found}: {verdict}");
    ensure!(apart <= 1, line);
    Ok(line)
}

fn code(ending: &Ending) -> i32 {
    match ending {
        Ending::Complete => cli::EXIT_OK,
        Ending::Interrupted(_) => cli::EXIT_INTERRUPTED,
        Ending::NodesMissing(_) => cli::EXIT_NODES,
        Ending::Target(..) => cli::EXIT_TARGET,
        Ending::Broken(_) => cli::EXIT_BROKEN,
    }
}

fn why(ending: &Ending) -> &str {
    match ending {
        Ending::Complete => "complete",
        Ending::Interrupted(why)
        | Ending::NodesMissing(why)
        | Ending::Target(_, why)
        | Ending::Broken(why) => why,
    }
}

fn describe(error: &TruthError) -> String {
    let line = |what: &str, h: &hdrhistogram::Histogram<u64>| {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|q| duration(h.value_at_quantile(q)));
        format!("  {what:<38} p50 {p50}  p99 {p99}  max {max}\n")
    };
    format!(
        "held against the server's truth log, {} requests and {} tokens ({} requests unmatched, {} sent twice):\n",
        error.requests, error.chunks, error.unmatched, error.duplicates
    ) + &line("token stamp after its emission", &error.delivery_ns)
        + &line("TTFT added after the send", &error.after_send_ns)
        + &line("TTFT added from the intended send", &error.from_intended_ns)
        + &format!(
            "  {:<38} {} (widest bar ±{})",
            "stamps beyond their error bar",
            error.impossible,
            duration(error.worst_bound_ns)
        )
}

fn say(line: &str) {
    // A reader that left early is no error.
    let _left = writeln!(std::io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_knee_may_be_one_rung_off() {
        assert!(judge(Some(16), 4).unwrap().contains("at 16, found at 16: the same rung"));
        assert!(judge(Some(8), 4).unwrap().contains("at 16, found at 8: one rung apart"));
        assert!(judge(None, 5).unwrap().contains("at 32, none found: one rung apart"));
        for found in [Some(4), Some(64), None, Some(5)] {
            assert!(judge(found, 4).is_err(), "{found:?}");
        }
    }

    #[test]
    fn a_contradiction_of_the_truth_log_is_an_error() {
        let histogram = || hdrhistogram::Histogram::new(3).unwrap();
        let good = || TruthError {
            requests: 10,
            chunks: 100,
            unmatched: 2,
            duplicates: 0,
            delivery_ns: histogram(),
            after_send_ns: histogram(),
            from_intended_ns: histogram(),
            under_way_ns: histogram(),
            impossible: 0,
            worst_bound_ns: 0,
        };
        assert!(believable(&good(), 2).is_ok());
        assert!(believable(&good(), 1).is_err());
        for bad in [
            TruthError { requests: 0, ..good() },
            TruthError { impossible: 1, ..good() },
            TruthError { duplicates: 1, ..good() },
        ] {
            assert!(believable(&bad, 2).is_err(), "{bad:?}");
        }
    }
}
