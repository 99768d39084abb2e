//! Agents that are lost, and what becomes of the level that they were part of: run again over those who are there, or
//! kept with a mark. Whoever takes a lost agent's place takes part from the next level on.

use tailcliff_proto::v1::{self, NodeKind, coordinator_message::Kind as Order};

use super::{Command, Ending, LEASE_NS, Phase, Run};
use crate::stored::Incarnation;

impl Run {
    /// A node gone for longer than the lease is not waited for, nor is one that said it goes.
    pub(super) fn drop_lost(&mut self, now: i64, out: &mut Vec<Command>) {
        // Who was told that the run is over goes, and is not lost, however long a probe goes on waiting for last spans.
        if self.is_ending() {
            return;
        }
        let over = |m: &super::Member| !m.connected && (m.leaving || now - m.gone_at > LEASE_NS);
        let lost: Vec<_> = self.members.iter().filter(|(_, m)| over(m)).map(|(&of, _)| of).collect();
        for of in lost {
            let Some(member) = self.members.remove(&of) else { continue };
            let (stored, kind) = (member.stored, member.kind);
            self.lost.insert(of, member);
            out.push(Command::Lost(of));
            if kind == NodeKind::Agent {
                self.lose(now, of, stored, out);
            }
        }
    }

    /// An agent is gone, of whose batches those up to `stored` are on disk.
    fn lose(&mut self, now: i64, of: Incarnation, stored: u64, out: &mut Vec<Command>) {
        let prepares = matches!(self.phase, Phase::Clocks | Phase::Corpus | Phase::Preflight);
        let is_alone = prepares && self.agents().is_empty();
        match &mut self.phase {
            Phase::Run(level) | Phase::Settle(level) if level.has(of) && !level.is_stored(of, stored) => {
                level.shares.remove(&of);
                self.damaged(format!("{} was lost during this level", self.name(of)), out);
            }
            // Nothing was sent yet: it is armed anew over those who are there.
            Phase::Arm(level) if level.has(of) => {
                let drive = level.drive;
                (self.next.rung, self.next.attempt) = (drive.rung, drive.attempt);
                self.go_on(now, out);
            }
            _ if is_alone => self.await_others(now, out),
            _ => {}
        }
    }

    /// The level under way is not what was asked for. By the plan's rule it is kept, as long as an agent carries it on, or
    /// stopped, void, and driven again.
    pub(super) fn damaged(&mut self, why: String, out: &mut Vec<Command>) {
        let rule = &self.plan.fleet;
        let (Phase::Run(level) | Phase::Settle(level)) = &mut self.phase else { return };
        let carried_on = level.shares.keys().any(|of| !level.gave_up.contains(of));
        if rule.keep_rest && carried_on {
            out.push(Command::Mark(level.drive.level, why));
            return;
        }
        level.is_void = true;
        out.push(Command::Void(level.drive.level, why.clone()));
        if level.again || self.cut_short.is_some() || level.drive.attempt >= rule.attempts {
            return;
        }
        level.again = true;
        level.stopping = Some(why.clone());
        let running = level.shares.keys().filter(|of| !level.done.contains_key(of));
        out.extend(running.map(|&of| level.stop(of, &why)));
    }

    /// Every agent can be armed.
    pub(super) fn is_prepared(&self) -> bool {
        self.members.values().filter(|m| m.kind == NodeKind::Agent).all(|m| m.preflight)
    }

    /// Begins to wait for others in place of those who were lost.
    pub(super) fn await_others(&mut self, now: i64, out: &mut Vec<Command>) {
        let missing = self.expected.saturating_sub(self.agents().len() as u32);
        let seconds = self.plan.fleet.rejoin_wait_ns as f64 / 1e9;
        if seconds > 0.0 {
            let text = format!("waiting up to {seconds:.0} s for {missing} agents in place of those lost");
            out.push(Command::Say(text));
        }
        self.enter(now, Phase::Refill);
    }

    /// Over when they came, or did not come in time.
    pub(super) fn refill(&mut self, now: i64, waited: i64, out: &mut Vec<Command>) -> bool {
        let here = self.agents().len() as u32;
        if here >= self.expected {
            self.enter(now, Phase::Clocks);
            return true;
        }
        if waited < self.plan.fleet.rejoin_wait_ns {
            return false;
        }
        if here == 0 {
            let text = "every agent was lost, and none took their place".to_owned();
            self.end(now, Ending::Broken(text), out);
            return true;
        }
        out.push(Command::Say(format!("going on with {here} of {} agents", self.expected)));
        self.expected = here;
        self.enter(now, Phase::Clocks);
        true
    }

    /// An agent cannot drive the next level. Before the first, that ends the run; later it is sent off, and the others go on.
    pub(super) fn unfit(&mut self, now: i64, of: Incarnation, why: String, out: &mut Vec<Command>) {
        if self.begun {
            self.turn_away(now, vec![of], &why, out)
        } else {
            self.end(now, Ending::Broken(why), out)
        }
    }

    /// The same of several.
    pub(super) fn all_unfit(&mut self, now: i64, late: Vec<Incarnation>, why: &str, out: &mut Vec<Command>) {
        match self.begun {
            true => self.turn_away(now, late, why, out),
            false => self.end(now, Ending::Broken(why.to_owned()), out),
        }
    }

    fn turn_away(&mut self, now: i64, all: Vec<Incarnation>, why: &str, out: &mut Vec<Command>) {
        for of in all {
            let end = v1::RunEnd { reason: why.to_owned(), turned_away: true, ..Default::default() };
            out.push(Command::Send(of, Order::End(end)));
            out.push(Command::TurnAway(of, why.to_owned()));
            self.members.remove(&of);
        }
        self.expected = self.agents().len() as u32;
        if let Phase::Arm(level) = &self.phase {
            // Nothing was sent yet: it is armed anew over the others.
            (self.next.rung, self.next.attempt) = (level.drive.rung, level.drive.attempt);
            self.go_on(now, out);
        }
    }
}
