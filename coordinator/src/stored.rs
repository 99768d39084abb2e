//! What a finished (or cut short) run left behind, as read back from its journal: raw stamps, clock exchanges and
//! events, nothing corrected. The merge is a pure function of this.

mod batches;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tailcliff_proto::v1::{self, load_share::Stop};

use crate::axis::Load;
use crate::clock::{Beat, Exchange};
use crate::plan::Plan;

pub use batches::{Filed, Shelf};

/// Identity of one node process, random at its start.
pub type Incarnation = u64;

/// Everything the journal of one run holds.
#[derive(Debug, Default)]
pub struct RunData {
    /// The plan, names and versions; written first.
    pub header: RunHeader,
    /// Nodes by incarnation.
    pub nodes: BTreeMap<Incarnation, Node>,
    /// Levels in the order they ran.
    pub levels: Vec<LevelLog>,
    /// How the run ended; `None` when the coordinator died.
    pub end: Option<RunEnd>,
    /// Bytes at the journal's end that were not a whole frame.
    pub torn_bytes: u64,
    /// Times that another coordinator took the run over.
    pub resumes: u32,
    /// Of these, with another clock.
    pub other_clocks: u32,
    /// Clock domain of the newest coordinator.
    pub domain: (String, u64),
    /// What is added to its stamps, so that they go on from those of the first, ns.
    pub shift_ns: i64,
}

impl RunData {
    /// Why a batch that was left in the journal could not be read again, if so.
    pub fn trouble(&self) -> Option<io::Error> {
        self.nodes.values().find_map(|node| node.shelf.as_ref()?.trouble())
    }
}

/// The first frame of a journal.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunHeader {
    /// Directory name of the run.
    pub name: String,
    /// RFC 3339 UTC.
    pub started_utc: String,
    /// Version of the coordinator.
    pub tailcliff_version: String,
    /// Coordinator's raw clock at the start, ns: `t_s` of every output counts from here.
    pub started_ref_ns: i64,
    /// What was asked; secrets redacted.
    pub plan: Plan,
    /// The command line, secrets redacted.
    pub command: Vec<String>,
    /// Clock domain of the coordinator: boot id and time namespace.
    pub clock_domain: (String, u64),
    /// Random: what agents know the run by, whichever coordinator serves it; 0 in journals that cannot be resumed.
    #[serde(default)]
    pub run_id: u64,
    /// Where nodes dial: address of the control port, and the clock's port.
    #[serde(default)]
    pub listen: (String, u16),
    /// Nodes had to show a token.
    #[serde(default)]
    pub had_token: bool,
    /// Requests had an API key.
    #[serde(default)]
    pub had_key: bool,
}

/// One node process and all it sent.
#[derive(Debug, Default)]
pub struct Node {
    /// As it said hello.
    pub hello: v1::Hello,
    /// Order of joining among its kind.
    pub index: u32,
    /// Clock exchanges in the order made.
    pub exchanges: Vec<Exchange>,
    /// Clock snapshots in the order made.
    pub snapshots: Vec<v1::ClockSnapshot>,
    /// Pings that were never answered.
    pub lost_pings: u64,
    /// Batches in the order of their numbers, each once: those in memory, …
    pub batches: Vec<v1::Batch>,
    /// … and those that were left in the journal. `each_batch` gives all.
    pub filed: Vec<Filed>,
    /// The journal that they were left in.
    pub shelf: Option<Arc<Shelf>>,
    /// Number of the last of them.
    pub last_seq: u64,
    /// (sent on the node's clock, received on the coordinator's) of each batch.
    pub batch_stamps: Vec<(i64, i64)>,
    /// Heartbeats, as many as were stored.
    pub beats: Vec<Beat>,
    /// Answer to the preflight.
    pub preflight: Option<v1::PreflightDone>,
    /// Raw time on the coordinator's clock when its connection was lost for good.
    pub lost_ref_ns: Option<i64>,
}

/// One try of one rung of the plan. A rung is tried again when its level lost an agent, or its coordinator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drive {
    /// Serial number within the run, from 0: the level's name to agents, and in every record.
    pub level: u32,
    /// Index in the plan.
    pub rung: u32,
    /// From 1.
    pub attempt: u32,
}

impl Drive {
    /// The first try of a rung in a run without mishaps.
    pub fn first(level: u32) -> Self {
        Self { level, rung: level, attempt: 1 }
    }

    /// What a name of the level says of its being tried again; empty for the first try.
    pub fn again(self) -> String {
        if self.attempt > 1 { format!(", try {}", self.attempt) } else { String::new() }
    }
}

/// One rung of the sweep as it was driven.
#[derive(Debug, Default)]
pub struct LevelLog {
    /// Which, and the how-manieth try.
    pub drive: Drive,
    /// What was asked for, of all agents together.
    pub load: Load,
    /// What each agent was asked.
    pub shares: BTreeMap<Incarnation, v1::LoadShare>,
    /// Common start on the coordinator's clock.
    pub start_ref_ns: i64,
    /// Starts as they happened, each in its agent's clock.
    pub started: BTreeMap<Incarnation, v1::LevelStarted>,
    /// Ends; an agent without one was lost.
    pub done: BTreeMap<Incarnation, v1::LevelDone>,
    /// Trace mode: the last that each agent told.
    pub traces: BTreeMap<Incarnation, v1::Telemetry>,
    /// Newest progress of each agent.
    pub progress: BTreeMap<Incarnation, v1::LevelProgress>,
    /// Why the level does not count, if so.
    pub voided: Option<String>,
    /// What must be said of a level that counts.
    pub marks: Vec<String>,
    /// The run went on from here: this rung is not tried again.
    pub passed: bool,
}

impl LevelLog {
    /// Warm-up, and length of the measured window where it goes by time, ns: as its agents were asked, and where no share
    /// tells, as the plan has it.
    pub fn lengths(&self, plan: &Plan) -> (i64, Option<i64>) {
        let asked = self.shares.values().find_map(|share| {
            Some((
                share.warmup_ns,
                match share.stop? {
                    Stop::DurationNs(ns) => Some(ns),
                    Stop::Requests(_) => None,
                },
            ))
        });
        asked.unwrap_or_else(|| (plan.warmup_of(self.load), plan.duration_ns))
    }
}

/// The last frame of a journal that was closed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunEnd {
    /// RFC 3339 UTC.
    pub ended_utc: String,
    /// Ctrl-C, or an error: in words; empty when the plan was finished.
    pub cut_short: String,
}
