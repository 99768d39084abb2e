//! One run from its first bind to its last file: wires listeners, clock thread, journal and fleet together, drives the
//! fleet until the run is over, and has the outputs written.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use nix::sys::socket::{Backlog, listen};
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1::NodeKind;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::display::Display;
use crate::door::{Door, OpenDoor, Strangers};
use crate::fleet::{Fleet, Happening};
use crate::journal::{Entry, FILE_NAME, Fact, Journal, JournalError, TORN_NAME};
use crate::load;
use crate::local::{self, Embedded};
use crate::merge::Merged;
use crate::metrics::MetricsError;
use crate::outputs::{OutputError, write_all};
use crate::pinger;
use crate::results::Shelf;
use crate::resume::{Resume, ResumeError};
use crate::run::{Ending, Run};
use crate::search::seen::Seen;
use crate::service;
use crate::ssh::Failures;
use crate::stored::{RunEnd, RunHeader};

/// Where runs go unless told otherwise.
const RUNS: &str = "runs";

/// Where nodes dial in.
#[derive(Debug)]
pub struct Listeners {
    control: TcpListener,
    clock: TcpListener,
    shelf: Option<Shelf>,
}

/// How a run is set up beyond its plan.
#[derive(Debug)]
pub struct Setup {
    /// How long nodes are waited for, ns.
    pub wait_ns: i64,
    /// The nodes inside this process, for a one-machine run.
    pub embedded: Option<Embedded>,
    /// The command line as it may be stored.
    pub command: Vec<String>,
    /// Where the run stands, when an earlier coordinator began it; its directory is the configured one.
    pub resume: Option<Resume>,
    /// Who is let in.
    pub door: Door,
    /// Nodes that were started from here.
    pub hosts: Failures,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// Where its files are; `None` when nothing was measured and nothing was left behind.
    pub dir: Option<PathBuf>,
    /// The merged figures, when something was measured.
    pub merged: Option<Merged>,
}

/// How often a free pair of ports is looked for.
const PAIR_ATTEMPTS: u32 = 16;

/// Why a run could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address cannot be bound.
    #[error("failed to listen on {address}: {reason}; {}", listen_hint(reason))]
    Listen {
        /// As asked.
        address: String,
        /// What the system said.
        reason: std::io::Error,
    },
    /// Nobody could be told meanwhile.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// It would be open to a network.
    #[error(transparent)]
    Open(#[from] OpenDoor),
    /// Its orders hold secrets that whoever is on the way could read.
    #[error(
        "refusing to send {0} to agents, since the link is not encrypted: give --tls-dir, or leave it out and let the \
         server take a key as Authorization, which each agent can have of its own (OPENAI_API_KEY or --api-key-file, with \
         --allow-target)"
    )]
    InTheClear(String),
    /// The output directory cannot be used.
    #[error("failed to use output directory {dir}: {reason}")]
    OutputDir {
        /// The directory.
        dir: PathBuf,
        /// Why, and what to try.
        reason: String,
    },
    /// The journal cannot be written.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The run cannot be gone on with.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// The outputs cannot be written.
    #[error("{0}; once there is room, `tailcliff merge` writes them from the journal")]
    Outputs(#[from] OutputError),
    /// Threads or sockets cannot be had.
    #[error("failed to start: {0}")]
    Start(#[from] std::io::Error),
    /// The gRPC server ended.
    #[error("failed to serve nodes: {0}")]
    Serve(String),
}

fn listen_hint(reason: &std::io::Error) -> &'static str {
    match reason.kind() {
        std::io::ErrorKind::AddrInUse => "is another coordinator running? try another --listen port",
        _ => "give --listen an address of this host, such as 0.0.0.0:7100",
    }
}

impl Listeners {
    /// Binds `address` for control and bulk, and `clock_port` for the clock: by default the next port, so that a forwarder
    /// or a firewall needs to be told one port only. When the port is 0 a free pair is looked for, and any two do in the
    /// end.
    ///
    /// # Errors
    /// When either cannot be bound.
    pub fn bind(address: &str, clock_port: Option<u16>) -> Result<Self, RunError> {
        let next = |port: u16| port.wrapping_add(1);
        if let Some(clock_port) = clock_port {
            return Self::pair(address, |_| clock_port);
        }
        if !address.ends_with(":0") {
            return Self::pair(address, next);
        }
        let pair = (0..PAIR_ATTEMPTS).find_map(|_| Self::pair(address, next).ok());
        pair.map_or_else(|| Self::pair(address, |_| 0), Ok)
    }

    /// Binds `address`, and for the clock the port that `clock` makes of its port.
    fn pair(address: &str, clock: impl Fn(u16) -> u16) -> Result<Self, RunError> {
        let fail = |address: String| move |reason| RunError::Listen { address, reason };
        let control = TcpListener::bind(address).map_err(fail(address.to_owned()))?;
        let mut next = control.local_addr()?;
        next.set_port(clock(next.port()));
        let clock = TcpListener::bind(next).map_err(fail(format!("{next} (clock)")))?;
        // A thousand nodes dial within a second. What the usual queue of 128 cannot hold comes seconds later or breaks.
        for listener in [&control, &clock] {
            listen(listener, Backlog::MAXALLOWABLE).map_err(std::io::Error::from)?;
        }
        Ok(Self { control, clock, shelf: None })
    }

    /// Hands out results on the control port; the second handle keeps the port when the run is over.
    ///
    /// # Errors
    /// When there is no handle to be had.
    pub fn with_shelf(mut self, shelf: Shelf) -> std::io::Result<(Self, TcpListener)> {
        let kept = self.control.try_clone()?;
        self.shelf = Some(shelf);
        Ok((self, kept))
    }

    /// Address of the control and bulk services.
    ///
    /// # Errors
    /// When the socket does not tell.
    pub fn address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.control.local_addr()
    }
}

/// Carries out a plan; an `interrupts` message drains the run, a second one ends it at once.
///
/// # Errors
/// When the run could not be carried out or stored; how the run itself went is in [`Outcome`].
pub async fn drive(
    config: Config,
    listeners: Listeners,
    mut setup: Setup,
    interrupts: mpsc::Receiver<String>,
    mut display: Display,
) -> Result<Outcome, RunError> {
    let begun = begin(&config, &listeners, &mut setup)?;
    let dir = begun.dir.clone();
    let doing = if setup.resume.is_some() { "going on in" } else { "writing to" };
    display.say(&format!("{doing} {}", dir.display()));
    if begun.torn > 0 {
        let (bytes, name) = (begun.torn, TORN_NAME);
        display.say(&format!("its journal's last {bytes} bytes were no whole entry: they are in {name}"));
    }
    let (fresh, created) = (setup.resume.is_none(), begun.created);
    let ending = match conduct(config, listeners, setup, interrupts, begun, display).await {
        Ok((ending, true)) => ending,
        Ok((ending, false)) if fresh => {
            discard(&dir, created);
            return Ok(Outcome { ending, dir: None, merged: None });
        }
        Ok((ending, false)) => ending,
        Err(error) => return Err(error),
    };
    let of = dir.clone();
    let written = tokio::task::spawn_blocking(move || merge_stored(&of)).await;
    let merged = written.map_err(|e| RunError::Serve(e.to_string()))??;
    Ok(Outcome { ending, dir: Some(dir), merged: Some(merged) })
}

/// A run whose journal is open.
struct Begun {
    dir: PathBuf,
    /// Its directory was not there before.
    created: bool,
    run_id: u64,
    journal: Journal,
    /// Bytes that were cut off its end.
    torn: u64,
}

fn begin(config: &Config, listeners: &Listeners, setup: &mut Setup) -> Result<Begun, RunError> {
    if let Some((resume, dir)) = setup.resume.as_mut().zip(config.output_dir.clone()) {
        resume.check(&dir, &config.plan)?;
        let (journal, torn) = resume.begin(&dir)?;
        return Ok(Begun { dir, created: false, run_id: resume.header.run_id, journal, torn });
    }
    let header = header(config, listeners, setup)?;
    let dir = config.output_dir.clone().unwrap_or_else(|| Path::new(RUNS).join(&header.name));
    let created = make_dir(&dir)?;
    let journal = Journal::create(&dir).map_err(|e| cannot_use(&dir, e))?;
    let json = serde_json::to_string(&header).map_err(|e| RunError::Serve(e.to_string()))?;
    journal.append(Entry { incarnation: 0, fact: Some(Fact::Header(json)) }, None)?;
    Ok(Begun { dir, created, run_id: header.run_id, journal, torn: 0 })
}

/// Merges what a run directory holds and writes its outputs there.
///
/// # Errors
/// When there is no journal to read, or an output cannot be written.
pub fn merge_stored(dir: &Path) -> Result<Merged, RunError> {
    let data = load::open(dir)?;
    Ok(write_all(dir, &data)?)
}

/// Runs the fleet to its end; true when at least one level was started.
async fn conduct(
    config: Config,
    listeners: Listeners,
    setup: Setup,
    interrupts: mpsc::Receiver<String>,
    begun: Begun,
    display: Display,
) -> Result<(Ending, bool), RunError> {
    let shutdown = CancellationToken::new();
    let _stop_all = shutdown.clone().drop_guard();
    let clock_port = listeners.clock.local_addr()?.port();
    let address = listeners.control.local_addr()?;
    let fleet_size = config.plan.agents.saturating_add(config.plan.probes);
    let (clock_events, clock) = mpsc::channel(1024);
    let (door, (strangers, told)) = (&setup.door, mpsc::channel(64));
    let strangers = Strangers::new(strangers);
    let (pinger, clock_thread) = pinger::serve(
        (listeners.clock, fleet_size),
        door.clone(),
        strangers.clone(),
        clock_events,
        shutdown.clone(),
    )?;
    listeners.control.set_nonblocking(true)?;
    let (inputs, nodes) = mpsc::channel(32);
    let shelf = listeners.shelf;
    let (control, of_control) = (tokio::net::TcpListener::from_std(listeners.control)?, door.clone());
    let server =
        tokio::spawn(async move { service::serve(control, &of_control, strangers, inputs, shelf).await });
    let (failures, failed) = mpsc::channel(4);
    let mut threads = vec![clock_thread];
    if let Some(embedded) = &setup.embedded {
        threads.extend(local::start(&door.route(loopback(address)), embedded, &failures, &shutdown)?);
    }
    let places = (config.plan.fleet.max_agents.unwrap_or(config.plan.agents), config.plan.probes);
    let (stored, on_disk) = mpsc::unbounded_channel();
    let mut run = Run::new(config.plan, config.target, config.workload, setup.wait_ns, HostClock.now());
    if let Some(corpus) = &config.corpus {
        run = run.with_corpus(corpus.id, corpus.parts.len() as u32);
    }
    let (judgements, judged) = mpsc::unbounded_channel();
    if let Some(resume) = &setup.resume {
        let stored = resume.nodes.iter().map(|node| (node.incarnation, node.last_seq)).collect();
        run = run
            .resumed(resume.next, resume.orphans.clone(), stored)
            .having_seen(resume.seen.clone(), resume.under_way);
    }
    let names = (begun.run_id, clock_port);
    let mut fleet = Fleet::new(run, begun.journal, pinger, names, places, stored, display);
    if let Some(resume) = &setup.resume {
        fleet = fleet.resumed(resume);
    }
    let mut fleet = fleet.with_corpus(config.corpus).judging(begun.dir.clone(), judgements);
    let sources = Sources { nodes, clock, on_disk, interrupts, failed, told, judged, hosts: setup.hosts };
    let ended = sources.feed(&mut fleet).await;
    server.abort();
    shutdown.cancel();
    drop(failures);
    close(fleet, threads, ended).await
}

struct Sources {
    nodes: mpsc::Receiver<service::Input>,
    clock: mpsc::Receiver<pinger::ClockEvent>,
    on_disk: mpsc::UnboundedReceiver<(crate::stored::Incarnation, u64)>,
    interrupts: mpsc::Receiver<String>,
    failed: mpsc::Receiver<(NodeKind, String)>,
    told: mpsc::Receiver<String>,
    judged: mpsc::UnboundedReceiver<Result<Seen, String>>,
    hosts: Failures,
}

impl Sources {
    async fn feed(mut self, fleet: &mut Fleet) -> Result<Ending, JournalError> {
        let mut beat = tokio::time::interval(Duration::from_millis(250));
        let mut without = None;
        loop {
            let happening = tokio::select! {
                Some(input) = self.nodes.recv() => Happening::Node(input),
                Some(event) = self.clock.recv() => Happening::Clock(event),
                Some((of, seq)) = self.on_disk.recv() => Happening::Stored(of, seq),
                Some(why) = self.interrupts.recv() => Happening::Interrupt(why),
                Some((kind, why)) = self.failed.recv() => Happening::Failed(kind, why),
                Some(line) = self.told.recv() => Happening::Told(line),
                Some(seen) = self.judged.recv() => Happening::Judged(Box::new(seen)),
                // Nobody is left to come; a run that has begun knows what it does without them.
                Some(why) = self.hosts.all(), if !fleet.has_started() => {
                    without = Some(why.clone());
                    Happening::Interrupt(why)
                }
                _ = beat.tick() => Happening::Beat,
            };
            if let Some(ending) = fleet.take(happening)? {
                return Ok(match (ending, without) {
                    (Ending::Interrupted(_), Some(why)) => Ending::NodesMissing(why),
                    (ending, _) => ending,
                });
            }
        }
    }
}

async fn close(
    fleet: Fleet,
    threads: Vec<JoinHandle<()>>,
    ended: Result<Ending, JournalError>,
) -> Result<(Ending, bool), RunError> {
    let measured = fleet.has_started();
    let (journal, mut display) = fleet.into_parts();
    let ending = match ended {
        Ok(ending) => ending,
        // The writer knows what really happened.
        Err(error) => return Err(journal.close().err().unwrap_or(error).into()),
    };
    let end = RunEnd { ended_utc: utc(), cut_short: cut_short(&ending) };
    let json = serde_json::to_string(&end).map_err(|e| RunError::Serve(e.to_string()))?;
    let appended = journal.append(Entry { incarnation: 0, fact: Some(Fact::End(json)) }, None);
    let closing = tokio::task::spawn_blocking(move || {
        // Nodes embedded here were told to end; their threads and the clock's follow.
        threads.into_iter().for_each(|thread| drop(thread.join()));
        journal.close()
    });
    closing.await.map_err(|e| RunError::Serve(e.to_string()))??;
    appended?;
    display.rest();
    Ok((ending, measured))
}

fn cut_short(ending: &Ending) -> String {
    match ending {
        Ending::Complete => String::new(),
        Ending::Interrupted(why)
        | Ending::NodesMissing(why)
        | Ending::Target(_, why)
        | Ending::Broken(why) => why.clone(),
    }
}

fn header(config: &Config, listeners: &Listeners, setup: &Setup) -> std::io::Result<RunHeader> {
    let name = format!("{}-{}", Utc::now().format("%Y%m%dT%H%M%SZ"), config.name);
    let snapshot = HostClock.snapshot();
    Ok(RunHeader {
        name,
        started_utc: utc(),
        tailcliff_version: tailcliff_proto::BUILD.to_owned(),
        started_ref_ns: HostClock.now(),
        plan: config.plan.clone(),
        command: setup.command.clone(),
        clock_domain: (snapshot.boot_id, snapshot.timens_inode),
        run_id: fastrand::u64(1..),
        listen: (listeners.address()?.to_string(), listeners.clock.local_addr()?.port()),
        had_token: setup.door.token.is_some(),
        had_key: !config.target.api_key.is_empty(),
    })
}

fn utc() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The address by which a node in this process dials a listener that may be bound to every interface.
fn loopback(address: std::net::SocketAddr) -> String {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    std::net::SocketAddr::new(ip, address.port()).to_string()
}

/// Makes the run's directory; true when it was not there before.
fn make_dir(dir: &Path) -> Result<bool, RunError> {
    if dir.join(FILE_NAME).exists() {
        return Err(cannot_use(dir, "it already holds a run"));
    }
    let created = !dir.exists();
    std::fs::create_dir_all(dir).map_err(|e| cannot_use(dir, e))?;
    Ok(created)
}

fn cannot_use(dir: &Path, why: impl std::fmt::Display) -> RunError {
    RunError::OutputDir { dir: dir.to_owned(), reason: format!("{why}; name another --output-dir") }
}

/// A run that measured nothing leaves nothing that looks like one.
fn discard(dir: &Path, created: bool) {
    let _gone = std::fs::remove_file(dir.join(FILE_NAME));
    if created {
        // Only ever an empty directory: one with other files in it stays.
        let _kept = std::fs::remove_dir(dir);
        if dir.parent() == Some(Path::new(RUNS)) {
            let _others = std::fs::remove_dir(RUNS);
        }
    }
}
