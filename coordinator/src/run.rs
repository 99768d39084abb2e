//! The run as a pure state machine: gather → preflight → each level (arm, start, run, drain, settle) → end. It reads no
//! clock and does no I/O: what happened comes in as an [`Event`], what to do goes out as [`Command`]s.

use std::collections::{BTreeMap, BTreeSet};

use tailcliff_proto::v1::{self, coordinator_message::Kind as Order, node_message::Kind as Said};

use crate::pinger::JOIN_BURST;
use crate::plan::Plan;
use crate::split::{shares, weighted};
use crate::stored::Incarnation;

/// Lead between the order to start and the start, ns; the floor of research on start barriers is 500 ms.
pub const START_LEAD_NS: i64 = 500_000_000;
/// Pings before a start, so that its time is told on a fresh clock.
pub const START_BURST: u32 = 16;
/// Pings at the end of a level.
pub const LEVEL_BURST: u32 = 32;
/// How long a silent agent keeps its place, and how long agents go on without us, ns.
pub const LEASE_NS: i64 = 5_000_000_000;

const ARM_PATIENCE_NS: i64 = 30_000_000_000;
const PREFLIGHT_PATIENCE_NS: i64 = 120_000_000_000;
const CLOCK_PATIENCE_NS: i64 = 15_000_000_000;
const SETTLE_PATIENCE_NS: i64 = 30_000_000_000;
const END_PATIENCE_NS: i64 = 15_000_000_000;

/// Something that happened.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a few a second; boxing would only add noise")]
pub enum Event {
    /// A node said hello and was welcomed; again after a reconnect.
    Joined(Incarnation, v1::NodeKind),
    /// Its control stream ended.
    Gone(Incarnation),
    /// It said something.
    Said(Incarnation, Said),
    /// Answered pings came in from it.
    Pinged(Incarnation, u32),
    /// Its batches up to this number are on disk.
    Stored(Incarnation, u64),
    /// The user wants out, or the run cannot go on.
    Interrupt(String),
    /// Time passed.
    Tick,
}

/// Something to do.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a few a second; boxing would only add noise")]
pub enum Command {
    /// Send to one node.
    Send(Incarnation, Order),
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
        /// Index in the plan.
        level: u32,
        /// Streams of all agents together.
        concurrency: u32,
        /// Who does what.
        shares: BTreeMap<Incarnation, v1::LoadShare>,
    },
    /// All that will come of a level is on disk.
    LevelSettled(u32),
    /// A level does not count.
    Void(u32, String),
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

#[derive(Debug)]
struct Member {
    kind: v1::NodeKind,
    connected: bool,
    gone_at: i64,
    pings: u32,
    stored: u64,
    preflight: bool,
}

#[derive(Debug)]
enum Phase {
    Gather,
    Clocks,
    Preflight,
    Arm(Level),
    Run(Level),
    Settle(Level),
    End(Ending),
    Over,
}

#[derive(Debug)]
struct Level {
    index: u32,
    shares: BTreeMap<Incarnation, v1::LoadShare>,
    armed: BTreeSet<Incarnation>,
    done: BTreeMap<Incarnation, u64>,
    stopping: bool,
}

/// The state machine.
#[derive(Debug)]
pub struct Run {
    plan: Plan,
    target: v1::Target,
    workload: v1::Workload,
    members: BTreeMap<Incarnation, Member>,
    phase: Phase,
    since: i64,
    fresh_connections: bool,
    gather_patience_ns: i64,
    cut_short: Option<String>,
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
            plan,
            target,
            workload,
            members: BTreeMap::new(),
            phase: Phase::Gather,
            since: now,
            fresh_connections: false,
            gather_patience_ns,
            cut_short: None,
        }
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
            Event::Joined(of, kind) => self.join(now, of, kind),
            Event::Gone(of) => {
                if let Some(member) = self.members.get_mut(&of) {
                    member.connected = false;
                    member.gone_at = now;
                }
            }
            Event::Pinged(of, pings) => self.on_member(of, |m| m.pings += pings),
            Event::Stored(of, seq) => self.on_member(of, |m| m.stored = m.stored.max(seq)),
            Event::Interrupt(why) => self.interrupt(now, why, out),
            Event::Said(of, said) => self.hear(now, of, said, out),
            Event::Tick => self.drop_lost(now, out),
        }
    }

    fn join(&mut self, now: i64, of: Incarnation, kind: v1::NodeKind) {
        let new = || Member { kind, connected: true, gone_at: now, pings: 0, stored: 0, preflight: false };
        self.members.entry(of).or_insert_with(new).connected = true;
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
            Said::Done(done) => {
                if let Phase::Run(level) = &mut self.phase
                    && level.index == done.level
                    && level.shares.contains_key(&of)
                {
                    level.done.insert(of, done.last_batch_seq);
                }
            }
            Said::Notice(notice) => out.push(Command::Say(notice.text)),
            Said::Started(_) | Said::Progress(_) | Said::Heartbeat(_) | Said::Hello(_) => {}
        }
    }

    fn preflighted(&mut self, now: i64, of: Incarnation, done: &v1::PreflightDone, out: &mut Vec<Command>) {
        if !matches!(self.phase, Phase::Preflight) {
            return;
        }
        if !done.ok {
            let ending = Ending::Target(done.error_kind.clone(), done.error.clone());
            return self.end(now, ending, out);
        }
        self.fresh_connections |= done.closes_after_reply;
        self.on_member(of, |m| m.preflight = true);
        let ms = done.latency_ns as f64 / 1e6;
        out.push(Command::Say(format!("preflight: answered {:?} in {ms:.0} ms", done.answer)));
        if done.closes_after_reply {
            let text = "preflight: the server closes TCP after a reply although it advertises keep-alive; \
                        every request gets a connection of its own";
            out.push(Command::Say(text.to_owned()));
        }
    }

    fn armed(&mut self, now: i64, of: Incarnation, armed: v1::LevelArmed, out: &mut Vec<Command>) {
        let Phase::Arm(level) = &mut self.phase else { return };
        if level.index != armed.level || !level.shares.contains_key(&of) {
            return;
        }
        if armed.error.is_empty() {
            level.armed.insert(of);
        } else {
            self.end(now, Ending::Broken(format!("an agent could not be armed: {}", armed.error)), out);
        }
    }

    fn interrupt(&mut self, now: i64, why: String, out: &mut Vec<Command>) {
        let first = self.cut_short.is_none();
        self.cut_short.get_or_insert(why.clone());
        match &mut self.phase {
            Phase::Run(level) if first => {
                level.stopping = true;
                for &of in level.shares.keys() {
                    let stop = v1::StopReleasing { level: level.index, reason: why.clone() };
                    out.push(Command::Send(of, Order::Stop(stop)));
                }
                out.push(Command::Void(level.index, why));
            }
            Phase::Settle(_) if first => {}
            Phase::End(_) | Phase::Over if first => {}
            // Asked twice: wait for nobody.
            _ => self.end(now, Ending::Interrupted(why), out),
        }
    }

    /// A node gone for longer than the lease is not waited for.
    fn drop_lost(&mut self, now: i64, out: &mut Vec<Command>) {
        let over = |m: &Member| !m.connected && now - m.gone_at > LEASE_NS;
        let lost: Vec<_> =
            self.members.iter().filter(|(_, m)| over(m)).map(|(&of, m)| (of, m.kind)).collect();
        for (of, kind) in lost {
            self.members.remove(&of);
            out.push(Command::Lost(of));
            if let Phase::Arm(level) | Phase::Run(level) | Phase::Settle(level) = &mut self.phase
                && level.shares.contains_key(&of)
                && !level.done.contains_key(&of)
            {
                level.shares.remove(&of);
                out.push(Command::Void(level.index, "an agent was lost during this level".to_owned()));
            }
            if kind == v1::NodeKind::Agent && self.agents().is_empty() && !matches!(self.phase, Phase::Gather)
            {
                self.end(now, Ending::Broken("every agent was lost".to_owned()), out);
            }
        }
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
        for &of in self.members.keys() {
            out.push(Command::Burst(of, JOIN_BURST));
            out.push(Command::Send(of, Order::End(v1::RunEnd { reason: format!("{ending:?}") })));
        }
        self.enter(now, Phase::End(ending));
    }

    /// Moves to the next phase if this one is over; true when it moved.
    fn advance(&mut self, now: i64, out: &mut Vec<Command>) -> bool {
        let waited = now - self.since;
        match &self.phase {
            Phase::Gather => self.gather(now, waited, out),
            Phase::Clocks => self.await_clocks(now, waited, out),
            Phase::Preflight => self.await_preflight(now, waited, out),
            Phase::Arm(_) => self.await_armed(now, waited, out),
            Phase::Run(level) => {
                let over = level.shares.keys().all(|of| level.done.contains_key(of));
                over && self.begin_settling(now)
            }
            Phase::Settle(_) => self.await_settled(now, waited, out),
            Phase::End(ending) => {
                let over = self.members.values().all(|m| !m.connected) || waited > END_PATIENCE_NS;
                let ending = ending.clone();
                if over {
                    self.phase = Phase::Over;
                    out.push(Command::Finish(ending));
                }
                over
            }
            Phase::Over => false,
        }
    }

    fn gather(&mut self, now: i64, waited: i64, out: &mut Vec<Command>) -> bool {
        let (agents, probes) = (self.count(v1::NodeKind::Agent), self.count(v1::NodeKind::GpuProbe));
        if agents >= self.plan.agents && probes >= self.plan.probes {
            self.enter(now, Phase::Clocks);
            return true;
        }
        if waited > self.gather_patience_ns {
            let text = format!(
                "{agents} of {} agents and {probes} of {} probes came within {} s",
                self.plan.agents,
                self.plan.probes,
                self.gather_patience_ns / 1_000_000_000
            );
            self.end(now, Ending::NodesMissing(text), out);
            return true;
        }
        false
    }

    fn await_clocks(&mut self, now: i64, waited: i64, out: &mut Vec<Command>) -> bool {
        let known = self.members.values().all(|m| m.pings >= JOIN_BURST / 2);
        if !known && waited <= CLOCK_PATIENCE_NS {
            return false;
        }
        if !known {
            let text = "a node's clock connection does not answer; its stamps may stay unaligned";
            out.push(Command::Say(text.to_owned()));
        }
        self.enter(now, Phase::Preflight);
        for of in self.agents() {
            let order =
                v1::Preflight { target: Some(self.target.clone()), workload: Some(self.workload.clone()) };
            out.push(Command::Send(of, Order::Preflight(order)));
        }
        true
    }

    fn await_preflight(&mut self, now: i64, waited: i64, out: &mut Vec<Command>) -> bool {
        let of_agents = |m: &&Member| m.kind == v1::NodeKind::Agent;
        if self.members.values().filter(of_agents).all(|m| m.preflight) {
            return self.arm(now, 0, out);
        }
        if waited > PREFLIGHT_PATIENCE_NS {
            let text = "an agent did not answer the preflight in time".to_owned();
            self.end(now, Ending::Broken(text), out);
            return true;
        }
        false
    }

    /// Arms a level, or ends the run when there is none left.
    fn arm(&mut self, now: i64, index: u32, out: &mut Vec<Command>) -> bool {
        let cut = self.cut_short.clone();
        let next = self.plan.concurrency.get(index as usize).copied().filter(|_| cut.is_none());
        let Some(concurrency) = next else {
            self.end(now, cut.map_or(Ending::Complete, Ending::Interrupted), out);
            return true;
        };
        let shares = self.shares(index, concurrency);
        out.push(Command::LevelPlanned { level: index, concurrency, shares: shares.clone() });
        for (&of, share) in &shares {
            let order = v1::ArmLevel {
                level: index,
                target: Some(self.target.clone()),
                workload: Some(self.workload.clone()),
                load: Some(*share),
            };
            out.push(Command::Send(of, Order::Arm(order)));
            out.push(Command::Burst(of, START_BURST));
        }
        let idle = self.agents().len() - shares.len();
        if idle > 0 {
            out.push(Command::Say(format!("level {concurrency}: {idle} agents have no share and stay idle")));
        }
        let (armed, done) = (BTreeSet::new(), BTreeMap::new());
        self.enter(now, Phase::Arm(Level { index, shares, armed, done, stopping: false }));
        true
    }

    /// Streams evenly over agents, requests in proportion to streams; an agent with no stream has no share.
    fn shares(&self, index: u32, concurrency: u32) -> BTreeMap<Incarnation, v1::LoadShare> {
        let agents = self.agents();
        let streams = shares(u64::from(concurrency), agents.len(), index as usize);
        let requests = self.plan.num_prompts.map(|total| weighted(total, &streams));
        let mut first_stream = 0;
        let mut all = BTreeMap::new();
        for (i, (&of, &concurrency)) in agents.iter().zip(&streams).enumerate() {
            let stop = match &requests {
                Some(requests) => v1::load_share::Stop::Requests(requests[i]),
                None => v1::load_share::Stop::DurationNs(self.plan.duration_ns.unwrap_or_default()),
            };
            let share = v1::LoadShare {
                concurrency: concurrency as u32,
                first_stream,
                stop: Some(stop),
                warmup_ns: self.plan.warmup_ns,
                drain_ns: self.plan.drain_ns,
                fresh_connections: self.fresh_connections,
            };
            first_stream += concurrency as u32;
            if concurrency > 0 {
                all.insert(of, share);
            }
        }
        all
    }

    fn await_armed(&mut self, now: i64, waited: i64, out: &mut Vec<Command>) -> bool {
        let Phase::Arm(level) = &self.phase else { return false };
        if level.shares.keys().all(|of| level.armed.contains(of)) {
            let Phase::Arm(level) = std::mem::replace(&mut self.phase, Phase::Over) else { return false };
            let agents = level.shares.keys().copied().collect();
            out.push(Command::Start { level: level.index, at_ref_ns: now + START_LEAD_NS, agents });
            self.enter(now, Phase::Run(level));
            return true;
        }
        if waited > ARM_PATIENCE_NS {
            self.end(now, Ending::Broken("an agent did not arm in time".to_owned()), out);
            return true;
        }
        false
    }

    fn begin_settling(&mut self, now: i64) -> bool {
        let Phase::Run(level) = std::mem::replace(&mut self.phase, Phase::Over) else { return false };
        self.enter(now, Phase::Settle(level));
        true
    }

    /// A level is settled when all that its agents measured is on disk.
    fn await_settled(&mut self, now: i64, waited: i64, out: &mut Vec<Command>) -> bool {
        let Phase::Settle(level) = &self.phase else { return false };
        let stored = |of: &Incarnation, seq: u64| self.members.get(of).is_none_or(|m| m.stored >= seq);
        let all = level.shares.keys().all(|of| stored(of, level.done.get(of).copied().unwrap_or(0)));
        let index = level.index;
        if !all && waited <= SETTLE_PATIENCE_NS {
            return false;
        }
        if !all {
            let text = "not all of this level's measurements arrived in time".to_owned();
            out.push(Command::Void(index, text));
        }
        for of in self.agents() {
            out.push(Command::Burst(of, LEVEL_BURST));
        }
        out.push(Command::LevelSettled(index));
        self.arm(now, index + 1, out)
    }
}

#[cfg(test)]
mod tests;
