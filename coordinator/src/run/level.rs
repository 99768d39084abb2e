//! One level under way: who has which share of it, and how far each agent is.

use std::collections::{BTreeMap, BTreeSet};

use tailcliff_proto::v1::{self, coordinator_message::Kind as Order, load_share::Stop};

use super::Command;
use crate::stored::{Drive, Incarnation};

/// Beyond warm-up, window and drain, before an agent that is there but does not end a level is given up, ns.
const GRACE_NS: i64 = 30_000_000_000;

/// A rung from its planning to the last of its batches.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) drive: Drive,
    pub(super) shares: BTreeMap<Incarnation, v1::LoadShare>,
    pub(super) armed: BTreeSet<Incarnation>,
    pub(super) started: BTreeSet<Incarnation>,
    /// Number of the last batch of each agent that is done.
    pub(super) done: BTreeMap<Incarnation, u64>,
    /// Answered pings of each agent when the level was planned.
    pub(super) pings: BTreeMap<Incarnation, u32>,
    /// Common start on the coordinator's clock, ns; 0 before it is set.
    pub(super) start_ref_ns: i64,
    /// Why agents were told to stop, if they were.
    pub(super) stopping: Option<String>,
    /// Who gave it up.
    pub(super) gave_up: BTreeSet<Incarnation>,
    /// It does not count.
    pub(super) is_void: bool,
    /// Its rung is to be driven again.
    pub(super) again: bool,
}

impl Level {
    pub(super) fn new(
        drive: Drive,
        shares: BTreeMap<Incarnation, v1::LoadShare>,
        pings: BTreeMap<Incarnation, u32>,
    ) -> Self {
        Self {
            drive,
            shares,
            pings,
            armed: BTreeSet::new(),
            started: BTreeSet::new(),
            done: BTreeMap::new(),
            start_ref_ns: 0,
            stopping: None,
            gave_up: BTreeSet::new(),
            is_void: false,
            again: false,
        }
    }

    pub(super) fn has(&self, of: Incarnation) -> bool {
        self.shares.contains_key(&of)
    }

    pub(super) fn is_armed(&self) -> bool {
        self.shares.keys().all(|of| self.armed.contains(of))
    }

    pub(super) fn is_done(&self) -> bool {
        self.shares.keys().all(|of| self.done.contains_key(of))
    }

    /// Everything that the agent measured is on disk, of which there are batches up to `stored`.
    pub(super) fn is_stored(&self, of: Incarnation, stored: u64) -> bool {
        self.done.get(&of).is_some_and(|&last| stored >= last)
    }

    pub(super) fn start(&self, agents: Vec<Incarnation>) -> Command {
        Command::Start { level: self.drive.level, at_ref_ns: self.start_ref_ns, agents }
    }

    pub(super) fn stop(&self, of: Incarnation, reason: &str) -> Command {
        let stop = v1::StopReleasing { level: self.drive.level, reason: reason.to_owned() };
        Command::Send(of, Order::Stop(stop))
    }

    /// What an agent that dialled again may have missed of a level that runs.
    pub(super) fn owed(&self, of: Incarnation) -> Vec<Command> {
        if !self.has(of) || self.done.contains_key(&of) {
            return Vec::new();
        }
        let start = (!self.started.contains(&of)).then(|| self.start(vec![of]));
        let stop = self.stopping.as_deref().map(|reason| self.stop(of, reason));
        start.into_iter().chain(stop).collect()
    }

    /// When a level by duration must be over; `None` for one by requests, which the request timeout bounds.
    fn deadline_ns(&self) -> Option<i64> {
        let lengths = self.shares.values().filter_map(|share| match share.stop {
            Some(Stop::DurationNs(ns)) => {
                Some(share.warmup_ns.saturating_add(ns).saturating_add(share.drain_ns))
            }
            _ => None,
        });
        lengths.max().map(|ns| self.start_ref_ns.saturating_add(ns).saturating_add(GRACE_NS))
    }

    /// Gives up the agents that are not done long after they must be; true when there were any.
    pub(super) fn give_up_overdue(&mut self, now: i64) -> bool {
        if self.deadline_ns().is_none_or(|deadline| now <= deadline) {
            return false;
        }
        let before = self.shares.len();
        self.shares.retain(|of, _| self.done.contains_key(of));
        self.shares.len() < before
    }
}
