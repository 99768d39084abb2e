//! From a parsed command line to an exit code: the three jobs, their signals, and what they print.

use std::io::Write;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::args::{CalibrateArgs, Cli, Command, CoordinateArgs, RunArgs, SweepArgs};
use crate::calibrate::{self, CalibrateError};
use crate::certificate::Verdict;
use crate::config::{Config, ConfigError};
use crate::dashboard::terminal as terminal_modes;
use crate::display::{Display, terminal_width};
use crate::drive::{self, Listeners, Outcome, RunError, Setup};
use crate::levels::Level;
use crate::local::{self, Embedded};
use crate::merge::Merged;
use crate::redact::redacted_command;
use crate::report::terminal;
use crate::resume::{self, Resume, ResumeError};
use crate::run::Ending;
use crate::workload;

/// Done.
pub const EXIT_OK: i32 = 0;
/// Wrong flags or plan, as with every command.
pub const EXIT_USAGE: i32 = 2;
/// The server under test cannot be used: unreachable, wrong model, wrong key.
pub const EXIT_TARGET: i32 = 3;
/// Nodes did not come.
pub const EXIT_NODES: i32 = 4;
/// Files cannot be written or read.
pub const EXIT_OUTPUT: i32 = 5;
/// The port cannot be had.
pub const EXIT_LISTEN: i32 = 6;
/// The run broke; what was measured is kept.
pub const EXIT_BROKEN: i32 = 7;
/// A level that counts has not one completed request.
pub const EXIT_NOTHING_COMPLETED: i32 = 8;
/// Interrupted; what was measured is kept.
pub const EXIT_INTERRUPTED: i32 = 130;

/// Does what was asked; returns the exit code.
pub async fn main(cli: Cli) -> i32 {
    match cli.command {
        Command::Run(args) => run(*args).await,
        Command::Coordinate(args) => coordinate(*args).await,
        Command::Calibrate(args) => calibrate(&args).await,
        Command::Stub(args) => match local::serve_stub(args).await {
            Ok(()) => EXIT_OK,
            Err(error) => fail(&error.to_string(), EXIT_BROKEN),
        },
        Command::Merge { run_dir } => merge(&run_dir),
    }
}

async fn run(args: RunArgs) -> i32 {
    let embedded = Embedded {
        gpu_interval_ns: args.gpu_interval.0,
        nvml_path: args.nvml_path,
        with_probe: true,
        shards: args.shards,
    };
    let verbose = args.sweep.verbose;
    let mut config = match config(args.sweep) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string(), EXIT_USAGE),
    };
    if let Err(error) = config.check_agents() {
        return fail(&error.to_string(), EXIT_USAGE);
    }
    config.plan.gpu_interval_ns = Some(embedded.gpu_interval_ns);
    let setup = Setup { wait_ns: 30_000_000_000, embedded: Some(embedded), command: command(), resume: None };
    conclude(drive(config, ("127.0.0.1:0", None), setup, false, verbose).await)
}

/// Where nodes dial unless told otherwise.
const LISTEN: &str = "127.0.0.1:7100";

async fn coordinate(args: CoordinateArgs) -> i32 {
    let verbose = args.sweep.verbose;
    let (args, resume) = match resumed(args) {
        Ok(both) => both,
        Err(error) => return fail(&error.to_string(), code_of_resume(&error)),
    };
    let mut config = match config(args.sweep) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string(), EXIT_USAGE),
    };
    let (agents, probes) = (args.agents.unwrap_or(1), args.probes.unwrap_or(0));
    if agents == 0 {
        return fail("bad --agents: without an agent there is no load: give at least 1", EXIT_USAGE);
    }
    if args.fleet.max_agents.is_some_and(|most| most < agents) {
        return fail("bad --max-agents: fewer than --agents", EXIT_USAGE);
    }
    (config.plan.agents, config.plan.probes, config.plan.fleet) = (agents, probes, args.fleet.rule());
    if let Err(error) = config.check_agents() {
        return fail(&error.to_string(), EXIT_USAGE);
    }
    let listen = args.listen.unwrap_or_else(|| LISTEN.to_owned());
    let clock_port = resume.as_ref().map(|resume| &resume.header.listen);
    let clock_port = clock_port.filter(|before| before.0 == listen).map(|before| before.1);
    let setup = Setup { wait_ns: args.wait.0, embedded: None, command: command(), resume };
    conclude(drive(config, (&listen, clock_port), setup, true, verbose).await)
}

/// With the flags that the run began with, and where it stands, when these flags go on with one.
fn resumed(args: CoordinateArgs) -> Result<(CoordinateArgs, Option<Resume>), ResumeError> {
    let Some(dir) = resume::directory(&args) else { return Ok((args, None)) };
    let resume = Resume::read(&dir)?;
    let args = resume::flags(&dir, args, &resume.header)?;
    Ok((args, Some(resume)))
}

fn code_of_resume(error: &ResumeError) -> i32 {
    match error {
        ResumeError::Journal(_) => EXIT_OUTPUT,
        // A supervisor that starts us again after the end has nothing to mend.
        ResumeError::Finished(_) => EXIT_OK,
        ResumeError::Unfit { .. } | ResumeError::OtherPlan { .. } => EXIT_USAGE,
    }
}

async fn calibrate(args: &CalibrateArgs) -> i32 {
    let report = match calibrate::run(args, interrupts(), &tell).await {
        Ok(report) => report,
        Err(error) => {
            let code = match &error {
                CalibrateError::Args(_) => EXIT_USAGE,
                CalibrateError::Interrupted => EXIT_INTERRUPTED,
                CalibrateError::Run(error) => code_of_error(error),
                CalibrateError::Store { .. } | CalibrateError::Folder { .. } => EXIT_OUTPUT,
                CalibrateError::Stub(_) | CalibrateError::Level(..) => EXIT_BROKEN,
            };
            return fail(&error.to_string(), code);
        }
    };
    // A reader that left early is no error.
    let _left = write!(std::io::stdout(), "{}", calibrate::table::render(&report));
    match calibrate::store(&report, args.output.as_deref()) {
        Ok(said) => {
            tell(&said);
            EXIT_OK
        }
        Err(error) => fail(&error.to_string(), EXIT_OUTPUT),
    }
}

fn tell(line: &str) {
    let _closed = writeln!(std::io::stderr(), "{line}");
}

fn config(sweep: SweepArgs) -> Result<Config, ConfigError> {
    Config::from_args(sweep, std::env::var("OPENAI_API_KEY").ok())
}

fn command() -> Vec<String> {
    // The program's own path says nothing of the run.
    redacted_command(std::iter::once("tailcliff".to_owned()).chain(std::env::args().skip(1)))
}

async fn drive(
    config: Config,
    (listen, clock_port): (&str, Option<u16>),
    setup: Setup,
    announce: bool,
    verbose: u8,
) -> Result<Outcome, RunError> {
    let listeners = Listeners::bind(listen, clock_port)?;
    let mut display = Display::stderr(config.plan.levels().len()).verbose(verbose);
    if announce {
        let (agents, probes) = (config.plan.agents, config.plan.probes);
        display.say(&format!(
            "listening on {}, waiting for {agents} agents and {probes} probes",
            listeners.address()?
        ));
        if !listeners.address()?.ip().is_loopback() {
            display.say("nodes are not authenticated: let only your own hosts reach this port and the next");
        }
    }
    workload::words(&config.plan).into_iter().for_each(|line| display.say(&line));
    drive::drive(config, listeners, setup, interrupts(), display).await
}

/// Ctrl-C, SIGTERM and a terminal that hangs up, one message each; the third kills.
fn interrupts() -> mpsc::Receiver<String> {
    let (out, inbox) = mpsc::channel(2);
    // Before anything else happens: until then a signal kills.
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let mut hangup = if ignores_hangup() { None } else { signal(SignalKind::hangup()).ok() };
    tokio::spawn(async move {
        let (Ok(mut int), Ok(mut term)) = signals else { return };
        // `nohup` has it ignored, and it stays so.
        let mut hung_up = async move || match &mut hangup {
            Some(hangup) => hangup.recv().await,
            None => std::future::pending().await,
        };
        for why in ["interrupted", "interrupted twice"] {
            tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hung_up() => {} }
            // Nobody listens once the run is over.
            let _over = out.send(why.to_owned()).await;
        }
        tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hung_up() => {} }
        terminal_modes::restore();
        std::process::exit(EXIT_INTERRUPTED);
    });
    inbox
}

/// As /proc tells: a mask of ignored signals, of which SIGHUP is the first.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

fn conclude(result: Result<Outcome, RunError>) -> i32 {
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(error) => return fail(&error.to_string(), code_of_error(&error)),
    };
    if let (Some(merged), Some(dir)) = (&outcome.merged, &outcome.dir) {
        print(merged, dir);
    }
    match outcome.ending {
        Ending::Complete => completed(outcome.merged.as_ref()),
        Ending::Interrupted(_) => {
            let kept =
                if outcome.dir.is_some() { "what was measured is kept" } else { "nothing was measured" };
            fail(&format!("interrupted; {kept}"), EXIT_INTERRUPTED)
        }
        Ending::NodesMissing(why) => fail(
            &format!("{why}; start them with --coordinator at this address, or raise --wait"),
            EXIT_NODES,
        ),
        Ending::Target(_, why) => fail(&why, EXIT_TARGET),
        Ending::Broken(why) => fail(&why, EXIT_BROKEN),
    }
}

/// A finished plan whose server answered nothing at some level is no success to a script.
fn completed(merged: Option<&Merged>) -> i32 {
    let levels = merged.map_or(&[][..], |merged| &merged.levels);
    let failed = |level: &&Level| level.certificate.verdict != Verdict::Void && level.measured.completed == 0;
    match levels.iter().find(failed) {
        Some(level) => {
            let line = format!("no request completed at {}", level.load.words());
            fail(&line, EXIT_NOTHING_COMPLETED)
        }
        None => EXIT_OK,
    }
}

fn code_of_error(error: &RunError) -> i32 {
    match error {
        RunError::Listen { reason, .. } if reason.kind() == std::io::ErrorKind::InvalidInput => EXIT_USAGE,
        RunError::Listen { .. } => EXIT_LISTEN,
        RunError::OutputDir { .. } | RunError::Journal(_) | RunError::Outputs(_) => EXIT_OUTPUT,
        RunError::Resume(error) => code_of_resume(error),
        RunError::Start(_) | RunError::Serve(_) => EXIT_BROKEN,
    }
}

fn merge(dir: &Path) -> i32 {
    match drive::merge_stored(dir) {
        Ok(merged) => {
            print(&merged, dir);
            EXIT_OK
        }
        Err(error) => fail(&error.to_string(), code_of_error(&error)),
    }
}

fn print(merged: &Merged, dir: &Path) {
    let table = terminal::render(merged, terminal_width());
    // A reader that left early, such as `head`, is no error.
    let _left = writeln!(std::io::stdout(), "{table}\nfiles: {}", dir.display());
}

fn fail(line: &str, code: i32) -> i32 {
    let _closed = writeln!(std::io::stderr(), "tailcliff: {line}");
    code
}
