//! Going on with a run whose coordinator ended: what its journal says of levels and nodes, and what was asked of it.

use std::path::{Path, PathBuf};

use clap::Parser;
use serde_json::Value;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1::{self, NodeKind};

use crate::args::{Cli, Command, CoordinateArgs, SweepArgs};
use crate::door::Door;
use crate::journal::{self, Entry, Fact, Frames, Held, Journal, JournalError, Resumed};
use crate::load::open;
use crate::merge::searched;
use crate::outputs;
use crate::plan::{FleetRule, Plan};
use crate::redact;
use crate::search::Ask;
use crate::search::seen::Seen;
use crate::stored::{Drive, Incarnation, RunData, RunHeader};

/// Why a run cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// Its journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// There is nothing left of the plan.
    #[error("nothing to resume in {dir}: its plan was carried out")]
    Finished {
        /// The run's directory.
        dir: PathBuf,
        /// Nodes had to show a token.
        had_token: bool,
    },
    /// It was not made by `coordinate`, or by one that could not be resumed.
    #[error("failed to resume {dir}: {reason}")]
    Unfit {
        /// The run's directory.
        dir: PathBuf,
        /// Why, and what to try.
        reason: String,
    },
    /// What is asked now is not what was asked then.
    #[error(
        "failed to resume {dir}: {keys}: not as the run began; leave those flags out, and dataset and plan files as they were"
    )]
    OtherPlan {
        /// The run's directory.
        dir: PathBuf,
        /// Names of the plan's fields.
        keys: String,
    },
}

/// A node that may still be there.
#[derive(Debug)]
pub struct KnownNode {
    /// Whose.
    pub incarnation: Incarnation,
    /// Agent or probe.
    pub kind: NodeKind,
    /// Its place.
    pub index: u32,
    /// Its name in every output.
    pub name: String,
    /// Its newest batch on disk.
    pub last_seq: u64,
}

/// Where a run stands.
#[derive(Debug)]
pub struct Resume {
    /// As it began.
    pub header: RunHeader,
    /// What is to be driven next.
    pub next: Drive,
    /// Levels that agents may still drive: the last that the journal knows, and one more.
    pub orphans: Vec<u32>,
    /// Levels that were started.
    pub levels: Vec<u32>,
    /// Those that another coordinator left, and that are not void yet.
    pub left: Vec<u32>,
    /// What a search saw of the levels that it went on from.
    pub seen: Vec<Seen>,
    /// Of a search: what the rung to be driven next was asked before.
    pub under_way: Option<Ask>,
    /// Every node that joined.
    pub nodes: Vec<KnownNode>,
    /// Its journal, from before it was read on.
    held: Option<Held>,
}

impl Resume {
    /// Reads a run directory.
    ///
    /// # Errors
    /// When it holds no run, or none that can be gone on with.
    pub fn read(dir: &Path) -> Result<Self, ResumeError> {
        // Another coordinator may be about to end: what it still writes belongs to what is read.
        let held = Held::take(dir)?;
        let data = open(dir)?;
        let unfit = |reason: &str| ResumeError::Unfit { dir: dir.to_owned(), reason: reason.to_owned() };
        if data.header.run_id == 0 {
            return Err(unfit(
                "it was made by a version that knew no resuming; `tailcliff merge` keeps what it has",
            ));
        }
        let (rungs, had_token) = (data.header.plan.levels().len(), data.header.had_token);
        let is_search = data.header.plan.auto.is_some();
        let ended = data.end.as_ref().is_some_and(|end| end.cut_short.is_empty());
        let mut resume = Self::of(data);
        resume.held = Some(held);
        // Only its end tells that a search needs no further level.
        let is_finished = if is_search { ended } else { resume.next.rung as usize >= rungs };
        if is_finished {
            return Err(ResumeError::Finished { dir: dir.to_owned(), had_token });
        }
        Ok(resume)
    }

    fn of(data: RunData) -> Self {
        let passed = data.levels.iter().filter(|log| log.passed).map(|log| log.drive.rung + 1).max();
        let rung = passed.unwrap_or(0);
        let tried =
            data.levels.iter().filter(|log| log.drive.rung == rung).map(|log| log.drive.attempt).max();
        // A start is ordered a moment before it is on disk, so agents may have driven one more level than the journal knows:
        // its number is left out, or their records would be taken for the next one's.
        let unknown = data.levels.iter().map(|log| log.drive.level + 1).max().unwrap_or(0);
        let last = data.levels.last().filter(|log| !log.passed).map(|log| log.drive.level);
        let left = data.levels.iter().filter(|log| !log.passed && log.voided.is_none());
        let node = |(&incarnation, node): (&Incarnation, &crate::stored::Node)| KnownNode {
            incarnation,
            kind: node.hello.node_kind(),
            index: node.index,
            name: node.hello.name.clone(),
            last_seq: node.last_seq,
        };
        Self {
            next: Drive { level: unknown + 1, rung, attempt: tried.unwrap_or(0) + 1 },
            orphans: last.into_iter().chain([unknown]).collect(),
            levels: data.levels.iter().map(|log| log.drive.level).collect(),
            left: left.map(|log| log.drive.level).collect(),
            nodes: data.nodes.iter().map(node).collect(),
            under_way: under_way(&data, rung),
            seen: if data.header.plan.auto.is_some() { searched::seen_so_far(&data) } else { Vec::new() },
            header: data.header,
            held: None,
        }
    }

    /// Opens the journal, and says in it that this coordinator goes on and that what was under way does not count. Comes
    /// with how many bytes at its end were not a whole entry.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&mut self, dir: &Path) -> Result<(Journal, u64), JournalError> {
        let held = self.held.take().map_or_else(|| Held::take(dir), Ok)?;
        let (journal, torn) = held.write_on()?;
        // Of what an interrupted coordinator wrote nothing is true any more; where there is none, nothing is stale.
        let _none = std::fs::remove_file(dir.join(outputs::LAST));
        self.note(&journal)?;
        Ok((journal, torn))
    }

    fn note(&self, journal: &Journal) -> Result<(), JournalError> {
        let snapshot = HostClock.snapshot();
        let by = Resumed {
            raw_ns: snapshot.raw_ns,
            realtime_ns: snapshot.realtime_ns,
            boot_id: snapshot.boot_id,
            timens_inode: snapshot.timens_inode,
        };
        let own = |fact| Entry { incarnation: 0, fact: Some(fact) };
        journal.append(own(Fact::Resumed(by)), None)?;
        for &level in &self.left {
            let reason = "the coordinator ended during this level".to_owned();
            journal.append(own(Fact::Voided(v1::StopReleasing { level, reason })), None)?;
        }
        Ok(())
    }

    /// What is asked now is what was asked then, but for who takes part.
    ///
    /// # Errors
    /// The fields that differ.
    pub fn check(&self, dir: &Path, plan: &Plan) -> Result<(), ResumeError> {
        let fields = |plan: &Plan| {
            let plan = Plan {
                agents: 0,
                probes: 0,
                fleet: FleetRule::default(),
                trace: false,
                metadata: Vec::new(),
                ..plan.clone()
            };
            serde_json::to_value(plan).unwrap_or_default()
        };
        let (now, then) = (fields(plan), fields(&self.header.plan));
        let (Value::Object(now), Value::Object(then)) = (&now, &then) else { return Ok(()) };
        let differ = |key: &&String| now.get(*key) != then.get(*key);
        let keys: Vec<_> = now.keys().filter(differ).map(|key| key.replace('_', "-")).collect();
        match keys.is_empty() {
            true => Ok(()),
            false => Err(ResumeError::OtherPlan { dir: dir.to_owned(), keys: keys.join(", ") }),
        }
    }
}

/// What the latest try of a rung was asked, where the levels are searched for.
fn under_way(data: &RunData, rung: u32) -> Option<Ask> {
    data.header.plan.auto.as_ref()?;
    let log = data.levels.iter().rfind(|log| log.drive.rung == rung)?;
    let (warmup_ns, duration_ns) = log.lengths(&data.header.plan);
    Some(Ask { load: log.load, warmup_ns, duration_ns: duration_ns? })
}

/// A door that asked for a token is not opened without one: a supervisor that lost it would let in whoever dials.
///
/// # Errors
/// When there is none now.
pub fn check_token(dir: &Path, had_token: bool, door: &Door) -> Result<(), ResumeError> {
    if !had_token || door.token.is_some() {
        return Ok(());
    }
    let reason =
        "nodes had to show a token, and none is given now: give --token-file or TAILCLIFF_TOKEN".to_owned();
    Err(ResumeError::Unfit { dir: dir.to_owned(), reason })
}

/// The run directory that these flags go on with, if any.
pub fn directory(args: &CoordinateArgs) -> Option<PathBuf> {
    let present = args.sweep.output_dir.as_ref().filter(|dir| args.fleet.resume_if_present && is_begun(dir));
    args.fleet.resume.clone().or_else(|| present.cloned())
}

/// There is a run. A coordinator that ended before its first entry was on disk left nothing, and its file is removed.
fn is_begun(dir: &Path) -> bool {
    let path = dir.join(journal::FILE_NAME);
    if !path.exists() {
        return false;
    }
    let first = Frames::open(dir).and_then(|mut frames| frames.next_entry());
    let is_begun = !matches!(first, Ok(None) | Err(JournalError::Foreign(_)));
    let is_short = std::fs::metadata(&path).is_ok_and(|facts| facts.len() < 1 << 20);
    if !is_begun && is_short && Held::take(dir).is_ok() {
        return std::fs::remove_file(path).is_err();
    }
    true
}

/// Flags with a secret that was not stored.
fn redacted_flags(sweep: &SweepArgs) -> Vec<String> {
    let is_redacted = |text: &&String| text.contains(redact::REDACTED);
    let header = |text: &String| format!("--header \"{}: …\"", text.split(':').next().unwrap_or_default());
    let headers = sweep.header.iter().filter(is_redacted).map(header);
    let endpoint = sweep.endpoint.iter().filter(is_redacted).map(|_| "--endpoint".to_owned());
    let body = sweep.extra_body.iter().filter(is_redacted).map(|_| "--extra-body".to_owned());
    headers.chain(endpoint).chain(body).collect()
}

/// These flags, with what they leave open taken from those that the run began with.
///
/// # Errors
/// When its journal has no such flags, or one of them was a secret.
pub fn flags(dir: &Path, now: CoordinateArgs, header: &RunHeader) -> Result<CoordinateArgs, ResumeError> {
    let unfit = |reason: String| ResumeError::Unfit { dir: dir.to_owned(), reason };
    let then = Cli::try_parse_from(&header.command).map_err(|e| unfit(e.to_string()))?;
    let Command::Coordinate(then) = then.command else {
        let text = "it was made by `tailcliff run`, whose agent ended with it; run it again".to_owned();
        return Err(unfit(text));
    };
    let plan = now.sweep.plan.clone().or_else(|| then.sweep.plan.clone());
    let mut sweep = now.sweep.over(then.sweep);
    sweep.plan = plan;
    sweep.output_dir = Some(dir.to_owned());
    let inside = now.inside.over(then.inside);
    let mut secrets = redacted_flags(&sweep);
    let has_secret = |url: &String| url.contains(redact::REDACTED);
    secrets.extend(
        inside.server_metrics.as_ref().filter(|url| has_secret(url)).map(|_| "--server-metrics".to_owned()),
    );
    if !secrets.is_empty() {
        let flags = secrets.join(", ");
        return Err(unfit(format!("secrets on its command line are not stored: give {flags} again")));
    }
    let listen = now.listen.or_else(|| Some(header.listen.0.clone()).filter(|listen| !listen.is_empty()));
    Ok(CoordinateArgs {
        sweep,
        listen: listen.or(then.listen),
        agents: now.agents.or(then.agents),
        probes: now.probes.or(then.probes),
        wait: now.wait.or(then.wait),
        fleet: now.fleet.over(then.fleet),
        ssh: if now.ssh.is_empty() { then.ssh } else { now.ssh },
        serve: now.serve.over(&then.serve),
        inside,
        link: now.link.over(then.link),
        metrics: now.metrics.over(then.metrics),
    })
}
