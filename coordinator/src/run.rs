//! The run as a pure state machine: gather → preflight → each level (arm, start, run, drain, settle) → end. It reads no
//! clock and does no I/O: what happened comes in as an [`Event`], what to do goes out as [`Command`]s.

mod event;
mod level;

use std::collections::BTreeMap;

use tailcliff_proto::v1::{self, coordinator_message::Kind as Order, node_message::Kind as Said};

use crate::pinger::JOIN_BURST;
use crate::plan::Plan;
use crate::split::{shares, weighted};
use crate::stored::Incarnation;

pub use event::{Command, Ending, Event};
use level::Level;

/// Lead between the order to start and the start, ns; the floor of research on start barriers is 500 ms.
pub const START_LEAD_NS: i64 = 500_000_000;
/// Pings before a start, so that its time is told on a fresh clock.
pub const START_BURST: u32 = 16;
/// Pings at the end of a level.
pub const LEVEL_BURST: u32 = 32;
/// How long a silent agent keeps its place, and how long agents go on without us, ns.
pub const LEASE_NS: i64 = 5_000_000_000;

/// How long a start waits for the pings before it.
const START_BURST_PATIENCE_NS: i64 = 2_000_000_000;
const ARM_PATIENCE_NS: i64 = 30_000_000_000;
const PREFLIGHT_PATIENCE_NS: i64 = 120_000_000_000;
const CLOCK_PATIENCE_NS: i64 = 15_000_000_000;
const SETTLE_PATIENCE_NS: i64 = 30_000_000_000;
const END_PATIENCE_NS: i64 = 15_000_000_000;

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

/// The state machine.
#[derive(Debug)]
pub struct Run {
    plan: Plan,
    target: v1::Target,
    workload: v1::Workload,
    members: BTreeMap<Incarnation, Member>,
    /// Gone for longer than their lease; one that comes back goes on where it was.
    lost: BTreeMap<Incarnation, Member>,
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
            lost: BTreeMap::new(),
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
            Event::Joined(of, kind) => self.join(now, of, kind, out),
            Event::Gone(of) => {
                if let Some(member) = self.members.get_mut(&of) {
                    member.connected = false;
                    member.gone_at = now;
                }
            }
            Event::Pinged(of, pings) => self.on_member(of, |m| m.pings = m.pings.saturating_add(pings)),
            Event::Stored(of, seq) => self.on_member(of, |m| m.stored = m.stored.max(seq)),
            Event::Interrupt(why) => self.interrupt(now, why, out),
            Event::Failed(kind, why) => self.failed(now, kind, why, out),
            Event::Said(of, said) => self.hear(now, of, said, out),
            Event::Tick => self.drop_lost(now, out),
        }
    }

    fn join(&mut self, now: i64, of: Incarnation, kind: v1::NodeKind, out: &mut Vec<Command>) {
        let back = self.lost.remove(&of);
        let new = || Member { kind, connected: true, gone_at: now, pings: 0, stored: 0, preflight: false };
        let member = self.members.entry(of).or_insert_with(|| back.unwrap_or_else(new));
        member.connected = true;
        let preflighted = member.preflight;
        // A stream that broke may have lost what was last ordered.
        match &self.phase {
            Phase::Preflight if kind == v1::NodeKind::Agent && !preflighted => {
                out.push(self.preflight(of));
            }
            Phase::Arm(level) if level.has(of) && !level.armed.contains(&of) => {
                out.extend(level.shares.get(&of).map(|share| self.arm_order(level.index, of, share)));
            }
            Phase::Run(level) => out.extend(level.owed(of)),
            Phase::End(ending) => out.push(end_order(of, ending)),
            _ => {}
        }
    }

    /// A node inside this process ended. Without its agent a run is over, without its probe it lacks GPU columns.
    fn failed(&mut self, now: i64, kind: v1::NodeKind, why: String, out: &mut Vec<Command>) {
        if kind == v1::NodeKind::Agent {
            return self.end(now, Ending::Broken(why), out);
        }
        self.plan.probes = self.plan.probes.saturating_sub(1);
        out.push(Command::Say(format!("{why}; the run goes on without GPU columns")));
    }

    fn preflight(&self, of: Incarnation) -> Command {
        let order =
            v1::Preflight { target: Some(self.target.clone()), workload: Some(self.workload.clone()) };
        Command::Send(of, Order::Preflight(order))
    }

    fn arm_order(&self, level: u32, of: Incarnation, share: &v1::LoadShare) -> Command {
        let order = v1::ArmLevel {
            level,
            target: Some(self.target.clone()),
            workload: Some(self.workload.clone()),
            load: Some(*share),
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
            Said::Started(started) => {
                if let Phase::Run(level) = &mut self.phase
                    && level.index == started.level
                {
                    level.started.insert(of);
                }
            }
            Said::Done(done) => {
                if let Phase::Run(level) = &mut self.phase
                    && level.index == done.level
                    && level.has(of)
                    && level.done.insert(of, done.last_batch_seq).is_none()
                    && level.stopping.is_none()
                    && !done.given_up.is_empty()
                {
                    out.push(Command::Void(level.index, format!("an agent gave it up: {}", done.given_up)));
                }
            }
            Said::Notice(notice) => out.push(Command::Say(notice.text)),
            Said::Progress(_) | Said::Heartbeat(_) | Said::Hello(_) => {}
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
        if level.index != armed.level || !level.has(of) {
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
                level.stopping = Some(why.clone());
                out.extend(level.shares.keys().map(|&of| level.stop(of, &why)));
                out.push(Command::Void(level.index, why));
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

    /// A node gone for longer than the lease is not waited for.
    fn drop_lost(&mut self, now: i64, out: &mut Vec<Command>) {
        let over = |m: &Member| !m.connected && now - m.gone_at > LEASE_NS;
        let lost: Vec<_> =
            self.members.iter().filter(|(_, m)| over(m)).map(|(&of, m)| (of, m.kind)).collect();
        for (of, kind) in lost {
            let member = self.members.remove(&of);
            let stored = member.as_ref().map_or(0, |m| m.stored);
            self.lost.extend(member.map(|member| (of, member)));
            out.push(Command::Lost(of));
            if let Phase::Arm(level) | Phase::Run(level) | Phase::Settle(level) = &mut self.phase
                && level.has(of)
                && !level.is_stored(of, stored)
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
            out.push(end_order(of, &ending));
        }
        self.enter(now, Phase::End(ending));
    }

    /// Moves to the next phase if this one is over; true when it moved.
    fn advance(&mut self, now: i64, out: &mut Vec<Command>) -> bool {
        let waited = now - self.since;
        match &mut self.phase {
            Phase::Gather => self.gather(now, waited, out),
            Phase::Clocks => self.await_clocks(now, waited, out),
            Phase::Preflight => self.await_preflight(now, waited, out),
            Phase::Arm(_) => self.await_armed(now, waited, out),
            Phase::Run(level) => {
                if level.give_up_overdue(now) {
                    out.push(Command::Void(level.index, "an agent did not end it in time".to_owned()));
                }
                level.is_done() && self.begin_settling(now, out)
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
        out.extend(self.agents().into_iter().map(|of| self.preflight(of)));
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
            out.push(self.arm_order(index, of, share));
            out.push(Command::Burst(of, START_BURST));
        }
        let idle = self.agents().len() - shares.len();
        if idle > 0 {
            out.push(Command::Say(format!("level {concurrency}: {idle} agents have no share and stay idle")));
        }
        let pings = self.members.iter().map(|(&of, m)| (of, m.pings)).collect();
        self.enter(now, Phase::Arm(Level::new(index, shares, pings)));
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
        let pinged = |of| self.members.get(of).map_or(0, |m| m.pings);
        let before = |of| level.pings.get(of).copied().unwrap_or(0);
        let fresh = level.shares.keys().all(|of| pinged(of) >= before(of).saturating_add(START_BURST));
        if level.is_armed() && (fresh || waited > START_BURST_PATIENCE_NS) {
            let Phase::Arm(mut level) = std::mem::replace(&mut self.phase, Phase::Over) else { return false };
            level.start_ref_ns = now + START_LEAD_NS;
            out.push(level.start(level.shares.keys().copied().collect()));
            self.enter(now, Phase::Run(level));
            return true;
        }
        if waited > ARM_PATIENCE_NS {
            self.end(now, Ending::Broken("an agent did not arm in time".to_owned()), out);
            return true;
        }
        false
    }

    fn begin_settling(&mut self, now: i64, out: &mut Vec<Command>) -> bool {
        let Phase::Run(level) = std::mem::replace(&mut self.phase, Phase::Over) else { return false };
        out.extend(self.agents().into_iter().map(|of| Command::Burst(of, LEVEL_BURST)));
        self.enter(now, Phase::Settle(level));
        true
    }

    /// A level is settled when all that its agents measured is on disk.
    fn await_settled(&mut self, now: i64, waited: i64, out: &mut Vec<Command>) -> bool {
        let Phase::Settle(level) = &self.phase else { return false };
        let stored = |of: &Incarnation| self.members.get(of).is_none_or(|m| level.is_stored(*of, m.stored));
        let all = level.shares.keys().all(stored);
        let index = level.index;
        if !all && waited <= SETTLE_PATIENCE_NS {
            return false;
        }
        if !all {
            let text = "not all of this level's measurements arrived in time".to_owned();
            out.push(Command::Void(index, text));
        }
        out.push(Command::LevelSettled(index));
        self.arm(now, index + 1, out)
    }
}

fn end_order(of: Incarnation, ending: &Ending) -> Command {
    Command::Send(of, Order::End(v1::RunEnd { reason: format!("{ending:?}") }))
}

#[cfg(test)]
mod tests;
