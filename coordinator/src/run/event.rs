//! What a run takes in and gives out.

use std::collections::BTreeMap;

use tailcliff_proto::v1::{self, coordinator_message::Kind as Order, node_message::Kind as Said};

use crate::axis::Load;
use crate::search::seen::Seen;
use crate::stored::{Drive, Incarnation};

/// Something that happened.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a few a second; boxing would only add noise")]
pub enum Event {
    /// A node said hello and was welcomed; again after a reconnect.
    Joined(Incarnation, v1::NodeKind),
    /// It reads GPUs.
    ReadsGpus,
    /// Its control stream ended.
    Gone(Incarnation),
    /// Another process has taken its place: it will not come back.
    Replaced(Incarnation),
    /// It said something.
    Said(Incarnation, Said),
    /// Answered pings came in from it.
    Pinged(Incarnation, u32),
    /// Its batches up to this number are on disk.
    Stored(Incarnation, u64),
    /// The user wants out.
    Interrupt(String),
    /// A node inside this process ended, and why.
    Failed(v1::NodeKind, String),
    /// What a search's level came to, or why it cannot be told.
    Judged(Result<Seen, String>),
    /// Time passed.
    Tick,
}

/// Something to do.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a few a second; boxing would only add noise")]
pub enum Command {
    /// Send to one node.
    Send(Incarnation, Order),
    /// Send one node this part of the corpus.
    SendPart(Incarnation, u32),
    /// A burst of pings to one node.
    Burst(Incarnation, u32),
    /// Tell these agents their start, each in its own clock; both times on ours, ns.
    Start {
        /// Level to start.
        level: u32,
        /// Common start on the coordinator's clock.
        at_ref_ns: i64,
        /// Who takes part.
        agents: Vec<Incarnation>,
    },
    /// A level begins with these shares.
    LevelPlanned {
        /// Which rung, and the how-manieth try.
        drive: Drive,
        /// What all agents together are asked for.
        load: Load,
        /// Who does what.
        shares: BTreeMap<Incarnation, v1::LoadShare>,
    },
    /// All that will come of a level is on disk.
    LevelSettled {
        /// Which.
        level: u32,
        /// The run goes on from it: its rung is not tried again.
        passed: bool,
    },
    /// Tell what this level came to: the search goes on from it.
    Judge(u32),
    /// A level does not count.
    Void(u32, String),
    /// A level counts, with this note.
    Mark(u32, String),
    /// A node is turned away: it takes no part in the run.
    TurnAway(Incarnation, String),
    /// A node is lost for good.
    Lost(Incarnation),
    /// One line for the user.
    Say(String),
    /// The run is over.
    Finish(Ending),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The plan was carried out.
    Complete,
    /// Cut short, with what was measured kept.
    Interrupted(String),
    /// Nodes did not come in time.
    NodesMissing(String),
    /// The target failed its preflight; kind and text.
    Target(String, String),
    /// No agent is left, or none could be armed.
    Broken(String),
}
