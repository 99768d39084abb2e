//! From a parsed command line to an exit code: the three jobs, their signals, and what they print.

mod calc;
mod cluster;
mod coldwarm;
mod compare;
mod export;
mod offer;
mod report;
mod stalls;
mod start;
mod watch;
mod withhold;

use std::io::Write;
use std::path::{Path, PathBuf};

use tailcliff_proto::link::args::{LinkArgs, LinkArgsError, TOKEN_VARIABLE};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::offer::Offer;
pub(crate) use self::offer::WAITING;
use crate::args::certs::CertsArgs;
use crate::args::results::ServeArgs;
use crate::args::server::{base_of, server_of};
use crate::args::{CalibrateArgs, Cli, Command, CoordinateArgs, RunArgs, SweepArgs};
use crate::calibrate::{self, CalibrateError};
use crate::capacity;
use crate::certificate::Verdict;
use crate::certs::{self, CertsError};
use crate::config::{Config, ConfigError};
use crate::dashboard::terminal as terminal_modes;
use crate::display::{Display, terminal_width};
use crate::door::Door;
use crate::drive::{self, Listeners, Outcome, RunError, Setup};
use crate::experiment;
use crate::levels::Level;
use crate::local::{self, Embedded, Inside, Probe};
use crate::merge::{Merged, last_tries};
use crate::metrics;
use crate::outputs;
use crate::redact::redacted_command;
use crate::report::terminal;
use crate::resume::{self, Resume, ResumeError};
use crate::run::Ending;
use crate::ssh::{self, Failures};
use crate::workload;

/// Done.
pub const EXIT_OK: i32 = 0;
/// Of two runs that were compared, the second is worse.
pub const EXIT_WORSE: i32 = 1;
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
/// At some level nothing that counts was measured: not one completed request, or every try void.
pub const EXIT_NOTHING_COMPLETED: i32 = 8;
/// What the run measured could not be fetched from its coordinator.
pub const EXIT_FETCH: i32 = 9;
/// The cluster refuses, or kubectl cannot be used.
pub const EXIT_CLUSTER: i32 = 10;
/// Interrupted; what was measured is kept.
pub const EXIT_INTERRUPTED: i32 = 130;

/// Does what was asked; returns the exit code.
pub async fn main(cli: Cli) -> i32 {
    match cli.command {
        Command::Run(args) => run(*args).await,
        Command::Baseline(args) => run(args.experiment("baseline")).await,
        Command::Sweep(args) => run(args.experiment("sweep")).await,
        Command::Grid(args) => run(args.experiment("grid")).await,
        Command::Overload(args) => run(args.experiment("overload")).await,
        Command::Coordinate(args) => coordinate(*args).await,
        Command::Fetch(args) => offer::fetch(&args).await,
        Command::K8s(command) => cluster::main(command).await,
        Command::Calibrate(args) => calibrate(&args).await,
        Command::Stub(args) => match local::serve_stub(args).await {
            Ok(()) => EXIT_OK,
            Err(error) => fail(&error.to_string(), EXIT_BROKEN),
        },
        Command::Coldwarm(args) => coldwarm::main(*args).await,
        Command::Certs(args) => certs(&args),
        Command::Merge { run_dir } => merge(&run_dir),
        Command::Stalls(args) => stalls::main(&args),
        Command::Export(args) => export::main(&args),
        Command::Plan(args) => start::plan(*args),
        Command::Preflight(args) => start::preflight(&args).await,
        Command::Kv(args) => calc::kv(&args),
        Command::Weights(args) => calc::weights(&args),
        Command::Cost(args) => calc::cost(&args),
        Command::Completions(args) => start::completions(&args),
        Command::Slo(args) => compare::judge(&args),
        Command::Compare(args) => compare::main(&args),
        Command::Report(args) => report::main(&args),
    }
}

async fn run(args: RunArgs) -> i32 {
    let mut embedded = Embedded {
        gpu_interval_ns: args.gpu_interval.0,
        nvml_path: args.nvml_path,
        server: None,
        inside: Inside::default(),
        with_agent: true,
        probe: Some(Probe::Whole),
        shards: args.shards,
    };
    let told = Told { verbose: args.sweep.verbose, metrics: args.metrics.metrics_listen.clone() };
    let mut config = match config(args.sweep) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string(), EXIT_USAGE),
    };
    if let Err(error) = config.check_agents() {
        return fail(&error.to_string(), EXIT_USAGE);
    }
    embedded.server = server_of(args.server, &config.plan.base_url);
    embedded.inside = args.inside.inside(base_of(args.server, &config.plan.base_url).as_deref());
    if let Err((why, code)) = watch::check(&embedded.inside, tell) {
        return fail(&why, code);
    }
    config.plan.gpu_interval_ns = Some(embedded.gpu_interval_ns);
    let door = match Door::of_this_process() {
        Ok(door) => door,
        Err(error) => return fail(&format!("failed to make a token: {error}"), EXIT_BROKEN),
    };
    let (embedded, command) = (Some(embedded), command());
    let hosts = Failures::none();
    let setup = Setup { wait_ns: 30_000_000_000, embedded, command, door, resume: None, hosts };
    drive(config, ("127.0.0.1:0", None), setup, None, told).await
}

/// Who is told of a run while it goes on.
struct Told {
    /// So many `-v`.
    verbose: u8,
    /// Where scrapes come to.
    metrics: Option<String>,
}

/// Where nodes dial unless told otherwise.
const LISTEN: &str = "127.0.0.1:7100";

async fn coordinate(args: CoordinateArgs) -> i32 {
    let (serve, listen, link) = (args.serve.clone(), args.listen.clone(), args.link.clone());
    let (args, resume) = match resumed(args) {
        Ok(both) => both,
        // Its coordinator may have died before its results were fetched.
        Err(ResumeError::Finished { dir, had_token }) if serve.serve_results.is_some() => {
            return serve_again((dir, had_token), listen.as_deref().unwrap_or(LISTEN), &link, &serve).await;
        }
        // Or before they were written.
        Err(ResumeError::Finished { dir, .. }) if !dir.join(outputs::LAST).exists() => return merge(&dir),
        Err(error) => return fail(&error.to_string(), code_of_resume(&error)),
    };
    let told = Told { verbose: args.sweep.verbose, metrics: args.metrics.metrics_listen };
    let mut config = match config(args.sweep) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string(), EXIT_USAGE),
    };
    if resume.as_ref().is_some_and(|resume| resume.header.had_key) && config.target.api_key.is_empty() {
        let text = "failed to resume: the run began with an API key, and none is given now: set OPENAI_API_KEY or --api-key-file";
        return fail(text, EXIT_USAGE);
    }
    let (by_ssh, probes_by_ssh) = args.ssh.counts();
    let agents = args.agents.unwrap_or(by_ssh.unwrap_or(1));
    let probes = args.probes.unwrap_or(probes_by_ssh);
    if agents == 0 {
        return fail("bad --agents: without an agent there is no load: give at least 1", EXIT_USAGE);
    }
    if let Err(why) = args.ssh.fit(agents, probes) {
        return fail(&why, EXIT_USAGE);
    }
    if !args.fleet.rules.fits(agents) {
        return fail("bad --max-agents: fewer than --agents", EXIT_USAGE);
    }
    let embedded = watch::embedded(args.inside, &config.plan.base_url);
    let probes = probes.saturating_add(u32::from(embedded.is_some()));
    (config.plan.agents, config.plan.probes, config.plan.fleet) = (agents, probes, args.fleet.rules.rule());
    if let Err(error) = config.check_agents() {
        return fail(&error.to_string(), EXIT_USAGE);
    }
    if let Err(error) =
        capacity::check(u64::from(args.fleet.rules.max_agents.unwrap_or(agents)) + u64::from(probes))
    {
        return fail(&format!("bad --agents: {error}"), EXIT_USAGE);
    }
    let listen = args.listen.unwrap_or_else(|| LISTEN.to_owned());
    let clock_port = resume.as_ref().map(|resume| &resume.header.listen);
    let clock_port = clock_port.filter(|before| before.0 == listen).map(|before| before.1);
    let door = match door(&args.link) {
        Ok(door) => door,
        Err(error) => return fail(&error.to_string(), EXIT_USAGE),
    };
    let begun = resume.as_ref().zip(config.output_dir.as_ref());
    let checked = begun.map(|(resume, dir)| resume::check_token(dir, resume.header.had_token, &door));
    if let Some(Err(error)) = checked {
        return fail(&error.to_string(), code_of_resume(&error));
    }
    if let Some(Err((why, code))) = embedded.as_ref().map(|embedded| watch::check(&embedded.inside, tell)) {
        return fail(&why, code);
    }
    let wait_ns = args.wait.map_or(60_000_000_000, |wait| wait.0);
    let (nodes, hosts) = match ssh::start(&args.ssh, &listen, tell) {
        Ok(nodes) => nodes,
        Err(error) => return fail(&error.to_string(), EXIT_USAGE),
    };
    let setup = Setup { wait_ns, embedded, command: command(), door, resume, hosts };
    let code = drive(config, (&listen, clock_port), setup, Some((&args.link, &args.serve)), told).await;
    nodes.end().await;
    code
}

/// With the flags that the run began with, and where it stands, when these flags go on with one.
fn resumed(args: CoordinateArgs) -> Result<(CoordinateArgs, Option<Resume>), ResumeError> {
    let Some(dir) = resume::directory(&args) else { return Ok((args, None)) };
    let resume = Resume::read(&dir)?;
    let args = resume::flags(&dir, args, &resume.header)?;
    Ok((args, Some(resume)))
}

/// A run that is over, for whoever has not fetched it yet.
async fn serve_again(
    (dir, had_token): (PathBuf, bool),
    listen: &str,
    link: &LinkArgs,
    serve: &ServeArgs,
) -> i32 {
    let (stop, _) = mpsc::channel(1);
    let door = match door(link) {
        Ok(door) => door,
        Err(error) => return fail(&error.to_string(), EXIT_USAGE),
    };
    if let Err(error) = resume::check_token(&dir, had_token, &door) {
        return fail(&error.to_string(), code_of_resume(&error));
    }
    let bound = Listeners::bind(listen, None).and_then(|bound| {
        if !link.allow_unauthenticated {
            door.permit(bound.address()?)?;
        }
        Offer::of(Some(serve), bound, &door, stop)
    });
    let result = bound.and_then(|(_, offer)| {
        let merged = Some(drive::merge_stored(&dir)?);
        Ok((offer, Outcome { ending: Ending::Complete, dir: Some(dir), merged }))
    });
    let (offer, outcome) = match result {
        Ok(both) => both,
        Err(error) => return Conclusion::of(&Err(error)).tell(),
    };
    conclude(Ok(outcome), offer).await
}

fn code_of_resume(error: &ResumeError) -> i32 {
    match error {
        ResumeError::Journal(_) => EXIT_OUTPUT,
        // A supervisor that starts us again after the end has nothing to mend.
        ResumeError::Finished { .. } => EXIT_OK,
        ResumeError::Unfit { .. } | ResumeError::OtherPlan { .. } => EXIT_USAGE,
    }
}

async fn calibrate(args: &CalibrateArgs) -> i32 {
    let report = match calibrate::run(args, interrupts().1, &tell).await {
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

fn door(link: &LinkArgs) -> Result<Door, LinkArgsError> {
    Ok(Door { tls: link.tls()?, token: link.token(std::env::var(TOKEN_VARIABLE).ok())? })
}

fn certs(args: &CertsArgs) -> i32 {
    match certs::make(args) {
        Ok(words) => {
            let _left = writeln!(std::io::stdout(), "{words}");
            EXIT_OK
        }
        Err(error @ CertsError::Host(_)) => fail(&error.to_string(), EXIT_USAGE),
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
    announced: Option<(&LinkArgs, &ServeArgs)>,
    told: Told,
) -> i32 {
    let (stop, interrupts) = interrupts();
    let bound = Listeners::bind(listen, clock_port)
        .and_then(|bound| Offer::of(announced.map(|(_, serve)| serve), bound, &setup.door, stop));
    let (listeners, offer) = match bound {
        Ok(bound) => bound,
        Err(error) => return Conclusion::of(&Err(error)).tell(),
    };
    let result = carry_out(config, listeners, setup, announced.map(|(link, _)| link), told, interrupts).await;
    conclude(result, offer).await
}

/// Says how it went, to whoever sits here and to whoever fetches it.
async fn conclude(result: Result<Outcome, RunError>, offer: Option<Offer>) -> i32 {
    if let Some(offer) = &offer {
        offer.announce();
    }
    let conclusion = Conclusion::of(&result);
    let code = conclusion.tell();
    if let Some(offer) = offer {
        offer.until_fetched(result.ok(), &conclusion).await;
    }
    code
}

async fn carry_out(
    mut config: Config,
    listeners: Listeners,
    setup: Setup,
    announce: Option<&LinkArgs>,
    told: Told,
    interrupts: mpsc::Receiver<String>,
) -> Result<Outcome, RunError> {
    let levels = config.plan.levels().len();
    let names = experiment::names(&config.plan);
    let mut display = Display::stderr(levels).verbose(told.verbose).named(names);
    if let Some(address) = told.metrics {
        let (live, bound) = metrics::listen(&address, levels)?;
        display = display.with_metrics(live);
        display.say(&metrics::words(bound));
    }
    if let Some(link) = announce {
        let address = listeners.address()?;
        if !link.allow_unauthenticated {
            setup.door.permit(address)?;
        }
        let (agents, probes) = (config.plan.agents, config.plan.probes);
        display.say(&format!("listening on {}, waiting for {agents} agents and {probes} probes", address));
        setup.door.words(address).into_iter().for_each(|line| display.say(line));
        if !setup.door.is_private(address) {
            withhold::refuse(&config.target)?;
            withhold::withhold(&mut config.target).into_iter().for_each(|line| display.say(&line));
        }
    }
    workload::words(&config.plan).into_iter().for_each(|line| display.say(&line));
    drive::drive(config, listeners, setup, interrupts, display).await
}

/// Ctrl-C, SIGTERM and a terminal that hangs up, one message each; the third kills.
fn interrupts() -> (mpsc::Sender<String>, mpsc::Receiver<String>) {
    let (out, inbox) = mpsc::channel(2);
    let others = out.clone();
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
    (others, inbox)
}

/// As /proc tells: a mask of ignored signals, of which SIGHUP is the first.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// How a run is told: the table and the exit code are the same for whoever reads them here or fetches them.
struct Conclusion {
    code: i32,
    /// Why the code is not 0.
    words: Option<String>,
    table: Option<String>,
}

impl Conclusion {
    fn of(result: &Result<Outcome, RunError>) -> Self {
        let (code, words) = match result {
            Ok(outcome) => ended(outcome),
            Err(error) => (code_of_error(error), Some(error.to_string())),
        };
        let told =
            result.as_ref().ok().and_then(|outcome| Some((outcome.merged.as_ref()?, outcome.dir.as_ref()?)));
        Self { code, words, table: told.map(|(merged, dir)| table(merged, dir)) }
    }

    fn tell(&self) -> i32 {
        if let Some(table) = &self.table {
            print(table);
        }
        self.words.as_ref().map_or(self.code, |words| fail(words, self.code))
    }
}

fn ended(outcome: &Outcome) -> (i32, Option<String>) {
    match &outcome.ending {
        Ending::Complete => completed(outcome.merged.as_ref()),
        Ending::Interrupted(_) => {
            let kept =
                if outcome.dir.is_some() { "what was measured is kept" } else { "nothing was measured" };
            (EXIT_INTERRUPTED, Some(format!("interrupted; {kept}")))
        }
        Ending::NodesMissing(why) if why.starts_with(ssh::ALL_FAILED) => (EXIT_NODES, Some(why.clone())),
        Ending::NodesMissing(why) => (
            EXIT_NODES,
            Some(format!("{why}; start them with --coordinator at this address, or raise --wait")),
        ),
        Ending::Target(_, why) => (EXIT_TARGET, Some(why.clone())),
        Ending::Broken(why) => (EXIT_BROKEN, Some(why.clone())),
    }
}

/// A finished plan of which some level has nothing that counts is no success to a script.
fn completed(merged: Option<&Merged>) -> (i32, Option<String>) {
    let levels = merged.map_or(&[][..], |merged| &merged.levels);
    let counts = |level: &&Level| level.certificate.verdict != Verdict::Void && level.measured.completed > 0;
    // A search goes on until it finds where nothing more is to be had.
    if merged.is_some_and(|merged| merged.search.is_some()) && last_tries(levels).any(|level| counts(&level))
    {
        return (EXIT_OK, None);
    }
    let line = last_tries(levels).find_map(|level| {
        let (is_void, load) = (level.certificate.verdict == Verdict::Void, place(level));
        match (is_void, level.measured.completed) {
            (true, _) => Some(format!(
                "nothing that counts was measured at {load}, after {} tries",
                level.drive.attempt
            )),
            (false, 0) if level.may_complete_nothing() => None,
            (false, 0) => Some(format!("no request completed at {load}")),
            (false, _) => None,
        }
    });
    line.map_or((EXIT_OK, None), |line| (EXIT_NOTHING_COMPLETED, Some(line)))
}

/// As it is said within a sentence.
fn place(level: &Level) -> String {
    if level.cell.is_some() { level.name() } else { level.load.words() }
}

fn code_of_error(error: &RunError) -> i32 {
    match error {
        RunError::Listen { reason, .. } if reason.kind() == std::io::ErrorKind::InvalidInput => EXIT_USAGE,
        RunError::Open(_) | RunError::InTheClear(_) => EXIT_USAGE,
        RunError::Listen { .. } | RunError::Metrics(_) => EXIT_LISTEN,
        RunError::OutputDir { .. } | RunError::Journal(_) | RunError::Outputs(_) => EXIT_OUTPUT,
        RunError::Resume(error) => code_of_resume(error),
        RunError::Start(_) | RunError::Serve(_) => EXIT_BROKEN,
    }
}

fn merge(dir: &Path) -> i32 {
    match drive::merge_stored(dir) {
        Ok(merged) => {
            print(&table(&merged, dir));
            EXIT_OK
        }
        Err(error) => fail(&error.to_string(), code_of_error(&error)),
    }
}

fn table(merged: &Merged, dir: &Path) -> String {
    format!("{}\nfiles: {}", terminal::render(merged, terminal_width()), dir.display())
}

fn print(text: &str) {
    // A reader that left early, such as `head`, is no error.
    let _left = writeln!(std::io::stdout(), "{text}");
}

fn fail(line: &str, code: i32) -> i32 {
    let _closed = writeln!(std::io::stderr(), "tailcliff: {line}");
    code
}
