//! The run as a pure state machine: gather → preflight → each level (arm, start, run, drain, settle) → end. It reads no
//! clock and does no I/O: what happened comes in as an [`Event`], what to do goes out as [`Command`]s.

mod advance;
mod corpus;
mod event;
mod level;
mod loss;
mod search;

use std::collections::BTreeMap;

use tailcliff_proto::v1::{self, coordinator_message::Kind as Order, node_message::Kind as Said};

use crate::bursts::Bursts;
use crate::config::most_streams;
use crate::plan::Plan;
use crate::search::Ask;
use crate::search::seen::Seen;
use crate::stored::{Drive, Incarnation};

pub use event::{Command, Ending, Event};
use level::Level;
pub(crate) use search::rule;

/// Lead between the order to start and the start, ns; the floor of research on start barriers is 500 ms.
pub const START_LEAD_NS: i64 = 500_000_000;
/// Rest before the first level of a run that reads GPUs: ten readings of the slowest signal, and a moment to cool down, ns.
pub const IDLE_NS: i64 = 2_500_000_000;
/// How long a silent agent keeps its place, and how long agents go on without us, ns.
pub const LEASE_NS: i64 = 5_000_000_000;

/// How long a start waits for the pings before it.
const START_BURST_PATIENCE_NS: i64 = 2_000_000_000;
const ARM_PATIENCE_NS: i64 = 30_000_000_000;
const PREFLIGHT_PATIENCE_NS: i64 = 120_000_000_000;
const CLOCK_PATIENCE_NS: i64 = 15_000_000_000;
const SETTLE_PATIENCE_NS: i64 = 30_000_000_000;
/// `error_kind` of a preflight that ended with the agent's host and not with the server.
const HOST_LIMIT: &str = "host_limit";
const END_PATIENCE_NS: i64 = 15_000_000_000;

#[derive(Debug)]
struct Member {
    kind: v1::NodeKind,
    connected: bool,
    gone_at: i64,
    /// It said that it goes: nobody waits for it to come back.
    leaving: bool,
    pings: u32,
    stored: u64,
    preflight: bool,
    corpus: corpus::Held,
}

#[derive(Debug)]
enum Phase {
    Gather,
    /// An agent was lost: another may take its place.
    Refill,
    Clocks,
    Corpus,
    Preflight,
    Arm(Level),
    Run(Level),
    Settle(Level),
    /// What a search's level says is being looked at.
    Judge,
    End(Ending),
    Over,
}

/// The state machine.
#[derive(Debug)]
pub struct Run {
    plan: Plan,
    target: v1::Target,
    workload: v1::Workload,
    corpus: Option<corpus::Wanted>,
    members: BTreeMap<Incarnation, Member>,
    /// Gone for longer than their lease; one that comes back goes on where it was.
    lost: BTreeMap<Incarnation, Member>,
    phase: Phase,
    since: i64,
    fresh_connections: bool,
    gather_patience_ns: i64,
    cut_short: Option<String>,
    /// What is driven next, or is being prepared.
    next: Drive,
    /// Agents reckoned with: with fewer, others are waited for.
    expected: u32,
    /// What nodes are called.
    names: BTreeMap<Incarnation, String>,
    /// Levels that agents of an earlier coordinator may still drive.
    orphans: Vec<u32>,
    /// Batches that it had on disk, of each node.
    stored: BTreeMap<Incarnation, u64>,
    /// A level was armed: the server answers, and what fails from here on is one agent's.
    begun: bool,
    /// A search, where levels are found as the run goes on.
    search: Option<search::Rungs>,
    /// Rest before the next start, ns: where a GPU is read, what its idle looks like is part of the run.
    rest_ns: i64,
}

impl Run {
    /// A run of `plan`, waiting `gather_patience_ns` for its nodes; `now` in ns of the coordinator's clock.
    pub fn new(
        plan: Plan,
        target: v1::Target,
        workload: v1::Workload,
        gather_patience_ns: i64,
        now: i64,
    ) -> Self {
        Self {
            expected: plan.agents,
            search: search::Rungs::of(&plan),
            plan,
            target,
            workload,
            corpus: None,
            members: BTreeMap::new(),
            lost: BTreeMap::new(),
            phase: Phase::Gather,
            since: now,
            fresh_connections: false,
            gather_patience_ns,
            cut_short: None,
            next: Drive { attempt: 1, ..Drive::default() },
            names: BTreeMap::new(),
            orphans: Vec::new(),
            stored: BTreeMap::new(),
            begun: false,
            rest_ns: 0,
        }
    }

    /// The same, going on where another coordinator ended: with `next`, with agents that may still drive `orphans`, and
    /// with what was on disk of each node.
    #[must_use]
    pub fn resumed(mut self, next: Drive, orphans: Vec<u32>, stored: BTreeMap<Incarnation, u64>) -> Self {
        (self.next, self.orphans, self.stored) = (next, orphans, stored);
        self
    }

    /// The same, with a search that has seen what was driven already, and what was asked of the level that was under way.
    #[must_use]
    pub fn having_seen(mut self, seen: Vec<Seen>, under_way: Option<Ask>) -> Self {
        if let Some(search) = &mut self.search {
            search.replay(seen, under_way);
        }
        self
    }

    /// From now on a node is called so, in words to the user.
    pub fn call(&mut self, of: Incarnation, name: String) {
        self.names.insert(of, name);
    }

    fn name(&self, of: Incarnation) -> &str {
        self.names.get(&of).map_or("an agent", String::as_str)
    }

    /// Takes one event at `now` (ns of the coordinator's clock); returns what to do, in order.
    pub fn step(&mut self, now: i64, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        self.take(now, event, &mut out);
        // One event can finish several phases, such as the last ack of the last level.
        while self.advance(now, &mut out) {}
        out
    }

    fn take(&mut self, now: i64, event: Event, out: &mut Vec<Command>) {
        match event {
            Event::Joined(of, kind) => self.join(now, of, kind, out),
            Event::ReadsGpus if !self.begun => self.rest_ns = IDLE_NS,
            Event::ReadsGpus => {}
            Event::Gone(of) => {
                if let Some(member) = self.members.get_mut(&of) {
                    member.connected = false;
                    member.gone_at = now;
                }
            }
            Event::Replaced(of) => {
                self.on_member(of, |m| (m.connected, m.leaving, m.gone_at) = (false, true, now));
                self.drop_lost(now, out);
            }
            Event::Pinged(of, pings) => self.on_member(of, |m| m.pings = m.pings.saturating_add(pings)),
            Event::Stored(of, seq) => self.stored(now, of, seq),
            Event::Interrupt(why) => self.interrupt(now, why, out),
            Event::Failed(kind, why) => self.failed(now, kind, why, out),
            Event::Said(of, said) => self.hear(now, of, said, out),
            Event::Judged(seen) => self.judged(now, seen, out),
            Event::Tick => self.drop_lost(now, out),
        }
    }

    fn join(&mut self, now: i64, of: Incarnation, kind: v1::NodeKind, out: &mut Vec<Command>) {
        let back = self.lost.remove(&of);
        let stored = self.stored.get(&of).copied().unwrap_or(0);
        let new = || Member {
            kind,
            connected: true,
            gone_at: now,
            leaving: false,
            pings: 0,
            stored,
            preflight: false,
            corpus: corpus::Held::default(),
        };
        let member = self.members.entry(of).or_insert_with(|| back.unwrap_or_else(new));
        (member.connected, member.leaving) = (true, false);
        let preflighted = member.preflight;
        for &level in self.orphans.iter().filter(|_| kind == v1::NodeKind::Agent) {
            let reason = "another coordinator has taken the run over".to_owned();
            out.push(Command::Send(of, Order::Stop(v1::StopReleasing { level, reason })));
        }
        if self.owes_corpus(kind) {
            self.send_corpus(of, out);
        }
        let is_told = self.has_corpus(of);
        // A stream that broke may have lost what was last ordered.
        match &self.phase {
            Phase::Preflight if kind == v1::NodeKind::Agent && !preflighted && is_told => {
                out.push(self.preflight(of));
            }
            Phase::Arm(level) if level.has(of) && !level.armed.contains(&of) => {
                out.extend(level.shares.get(&of).map(|share| self.arm_order(level.drive, of, share)));
            }
            Phase::Run(level) => out.extend(level.owed(of)),
            Phase::End(ending) => out.push(self.end_order(of, ending)),
            _ => {}
        }
    }

    /// A node inside this process ended. Without its agent a run is over, without its probe it lacks what that read.
    fn failed(&mut self, now: i64, kind: v1::NodeKind, why: String, out: &mut Vec<Command>) {
        if kind == v1::NodeKind::Agent {
            return self.end(now, Ending::Broken(why), out);
        }
        self.plan.probes = self.plan.probes.saturating_sub(1);
        out.push(Command::Say(format!("{why}; the run goes on without what it reads")));
    }

    fn preflight(&self, of: Incarnation) -> Command {
        let most = most_streams(&self.plan);
        let order = v1::Preflight {
            target: Some(self.target.clone()),
            workload: Some(self.workload.clone()),
            most_streams: most.div_ceil(self.agents().len().max(1) as u32),
        };
        Command::Send(of, Order::Preflight(order))
    }

    fn arm_order(&self, drive: Drive, of: Incarnation, share: &v1::LoadShare) -> Command {
        let order = v1::ArmLevel {
            level: drive.level,
            target: Some(self.target_of(drive)),
            workload: Some(self.workload_of(drive)),
            load: Some(*share),
            trace: self.plan.trace,
            controls: self.plan.control.as_ref().map(v1::Controls::from),
        };
        Command::Send(of, Order::Arm(order))
    }

    fn on_member(&mut self, of: Incarnation, change: impl FnOnce(&mut Member)) {
        if let Some(member) = self.members.get_mut(&of) {
            change(member);
        }
    }

    fn hear(&mut self, now: i64, of: Incarnation, said: Said, out: &mut Vec<Command>) {
        match said {
            Said::PreflightDone(done) => self.preflighted(now, of, &done, out),
            Said::Armed(armed) => self.armed(now, of, armed, out),
            Said::CorpusHeld(held) => self.corpus_held(now, of, &held, out),
            Said::Started(started) => {
                if let Phase::Run(level) = &mut self.phase
                    && level.drive.level == started.level
                {
                    level.started.insert(of);
                }
            }
            Said::Done(done) => {
                if let Phase::Run(level) = &mut self.phase
                    && level.drive.level == done.level
                    && level.has(of)
                    && level.done.insert(of, done.last_batch_seq).is_none()
                    && level.stopping.is_none()
                    && !done.given_up.is_empty()
                {
                    level.gave_up.insert(of);
                    let why = format!("{} gave it up: {}", self.name(of), done.given_up);
                    self.damaged(why, out);
                }
            }
            Said::Leaving(_) => self.on_member(of, |m| m.leaving = true),
            Said::Notice(notice) => out.push(Command::Say(notice.text)),
            Said::Progress(_) | Said::Telemetry(_) | Said::Heartbeat(_) | Said::Hello(_) => {}
        }
    }

    /// A batch is on disk. While a level settles, and at the end, an agent's next one is waited for anew: a spool takes a
    /// while to empty.
    fn stored(&mut self, now: i64, of: Incarnation, seq: u64) {
        if let Some(lost) = self.lost.get_mut(&of) {
            lost.stored = lost.stored.max(seq);
        }
        let Some(member) = self.members.get_mut(&of).filter(|member| member.stored < seq) else { return };
        let is_awaited = match &self.phase {
            Phase::Settle(level) => level.has(of) && !level.is_stored(of, member.stored),
            Phase::End(_) => member.kind == v1::NodeKind::Agent,
            _ => false,
        };
        member.stored = seq;
        if is_awaited {
            self.since = now;
        }
    }

    fn preflighted(&mut self, now: i64, of: Incarnation, done: &v1::PreflightDone, out: &mut Vec<Command>) {
        if !matches!(self.phase, Phase::Preflight) {
            return;
        }
        for warning in &done.warnings {
            out.push(Command::Say(format!("{}'s host: {warning}", self.name(of))));
        }
        if !done.ok && self.begun {
            return self.unfit(now, of, done.error.clone(), out);
        }
        if !done.ok && done.error_kind == HOST_LIMIT {
            let ending = Ending::Broken(format!(
                "{}'s host cannot hold the highest level: {}",
                self.name(of),
                done.error
            ));
            return self.end(now, ending, out);
        }
        if !done.ok {
            let ending = Ending::Target(done.error_kind.clone(), done.error.clone());
            return self.end(now, ending, out);
        }
        self.fresh_connections |= done.closes_after_reply;
        self.on_member(of, |m| m.preflight = true);
        let ms = done.latency_ns as f64 / 1e6;
        out.push(Command::Say(format!(
            "preflight: answered {:?} in {ms:.0} ms ({})",
            done.answer,
            self.name(of)
        )));
        if done.closes_after_reply {
            let text = "preflight: the server closes TCP after a reply although it advertises keep-alive; \
                        every request gets a connection of its own";
            out.push(Command::Say(text.to_owned()));
        }
    }

    fn armed(&mut self, now: i64, of: Incarnation, armed: v1::LevelArmed, out: &mut Vec<Command>) {
        let Phase::Arm(level) = &mut self.phase else { return };
        if level.drive.level != armed.level || !level.has(of) {
            return;
        }
        if armed.error.is_empty() {
            level.armed.insert(of);
        } else {
            let why = format!("{} could not be armed: {}", self.name(of), armed.error);
            self.unfit(now, of, why, out);
        }
    }

    fn interrupt(&mut self, now: i64, why: String, out: &mut Vec<Command>) {
        let first = self.cut_short.is_none();
        self.cut_short.get_or_insert(why.clone());
        match &mut self.phase {
            Phase::Run(level) if first => {
                level.stopping = Some(why.clone());
                out.extend(level.shares.keys().map(|&of| level.stop(of, &why)));
                (level.again, level.is_void) = (false, true);
                out.push(Command::Void(level.drive.level, why));
            }
            Phase::Settle(_) | Phase::End(_) if first => {}
            Phase::Over => {}
            Phase::End(ending) => {
                out.push(Command::Finish(ending.clone()));
                self.phase = Phase::Over;
            }
            // Asked twice: wait for nobody.
            _ => self.end(now, Ending::Interrupted(why), out),
        }
    }

    /// Nothing more will be driven.
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::End(_) | Phase::Over)
    }

    /// As many pings as a fleet of this size can be given.
    fn bursts(&self) -> Bursts {
        Bursts::of(self.plan.agents.saturating_add(self.plan.probes))
    }

    fn agents(&self) -> Vec<Incarnation> {
        let agents = self.members.iter().filter(|(_, m)| m.kind == v1::NodeKind::Agent);
        agents.map(|(&of, _)| of).collect()
    }

    fn count(&self, kind: v1::NodeKind) -> u32 {
        self.members.values().filter(|m| m.kind == kind && m.connected).count() as u32
    }

    fn enter(&mut self, now: i64, phase: Phase) {
        self.phase = phase;
        self.since = now;
    }

    fn end(&mut self, now: i64, ending: Ending, out: &mut Vec<Command>) {
        if matches!(self.phase, Phase::End(_) | Phase::Over) {
            return;
        }
        let pings = self.bursts().end;
        for &of in self.members.keys() {
            out.push(Command::Burst(of, pings));
            out.push(self.end_order(of, &ending));
        }
        self.enter(now, Phase::End(ending));
    }

    fn end_order(&self, of: Incarnation, ending: &Ending) -> Command {
        let (reason, nothing_driven) = (format!("{ending:?}"), self.next.level == 0);
        Command::Send(of, Order::End(v1::RunEnd { reason, turned_away: false, nothing_driven }))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_loss;
#[cfg(test)]
mod tests_search;
