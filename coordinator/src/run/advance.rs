//! From phase to phase: when one is over, and what the next begins with.

use std::collections::BTreeMap;

use tailcliff_proto::v1;

use super::level::Level;
use super::{
    ARM_PATIENCE_NS, CLOCK_PATIENCE_NS, Command, END_PATIENCE_NS, Ending, Member, PREFLIGHT_PATIENCE_NS,
    Phase, Run, SETTLE_PATIENCE_NS, START_BURST_PATIENCE_NS, START_LEAD_NS,
};
use crate::axis::{Load, Rate};
use crate::split::{shares, weighted};
use crate::stored::{Drive, Incarnation};

impl Run {
    /// Moves to the next phase if this one is over; true when it moved.
    pub(super) fn advance(&mut self, now: i64, out: &mut Vec<Command>) -> bool {
        let waited = now - self.since;
        match &mut self.phase {
            Phase::Gather => self.gather(now, waited, out),
            Phase::Refill => self.refill(now, waited, out),
            Phase::Clocks => self.await_clocks(now, waited, out),
            Phase::Corpus => self.await_corpus(now, waited, out),
            Phase::Preflight => self.await_preflight(now, waited, out),
            Phase::Arm(_) => self.await_armed(now, waited, out),
            Phase::Run(level) => {
                let overdue = level.give_up_overdue(now);
                if overdue {
                    self.damaged("an agent did not end it in time".to_owned(), out);
                }
                self.begin_settling(now, out)
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
            Phase::Judge | Phase::Over => false,
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
            if self.next.level > 0 && agents > 0 {
                // A run that is gone on with may have lost some for good.
                self.expected = agents;
                out.push(Command::Say(format!("{text}: going on with those")));
                self.enter(now, Phase::Clocks);
            } else {
                self.end(now, Ending::NodesMissing(text), out);
            }
            return true;
        }
        false
    }

    fn await_clocks(&mut self, now: i64, waited: i64, out: &mut Vec<Command>) -> bool {
        let enough = self.bursts().join / 2;
        let known = self.members.values().all(|m| m.pings >= enough);
        if !known && waited <= CLOCK_PATIENCE_NS {
            return false;
        }
        if !known {
            let text = "a node's clock connection does not answer; its stamps may stay unaligned";
            out.push(Command::Say(text.to_owned()));
        }
        self.enter(now, Phase::Corpus);
        self.fill_windows(out);
        true
    }

    fn await_preflight(&mut self, now: i64, waited: i64, out: &mut Vec<Command>) -> bool {
        let of_agents = |m: &&Member| m.kind == v1::NodeKind::Agent;
        if self.members.values().filter(of_agents).all(|m| m.preflight) {
            return self.arm(now, out);
        }
        if waited > PREFLIGHT_PATIENCE_NS {
            let is_late = |of: &Incarnation| self.members.get(of).is_some_and(|m| !m.preflight);
            let late = self.agents().into_iter().filter(is_late).collect();
            self.all_unfit(now, late, "an agent did not answer the preflight in time", out);
            return true;
        }
        false
    }

    /// Arms the next level. A level of the same rung that was not started leaves no trace.
    fn arm(&mut self, now: i64, out: &mut Vec<Command>) -> bool {
        let drive = self.next;
        let Some(load) = self.load_of(drive.rung) else {
            self.end(now, Ending::Complete, out);
            return true;
        };
        let shares = self.shares(drive.rung, load);
        if shares.is_empty() {
            self.end(now, Ending::Broken("no agent is left that can drive the next level".to_owned()), out);
            return true;
        }
        self.begun = true;
        self.next.level += 1;
        self.expected = self.expected.max(self.agents().len() as u32);
        out.push(Command::LevelPlanned { drive, load, shares: shares.clone() });
        let pings = self.bursts().start;
        for (&of, share) in &shares {
            out.push(self.arm_order(drive, of, share));
            out.push(Command::Burst(of, pings));
        }
        let idle = self.agents().len() - shares.len();
        if idle > 0 {
            out.push(Command::Say(format!("at {}, {idle} agents have no share and stay idle", load.words())));
        }
        let pings = self.members.iter().map(|(&of, m)| (of, m.pings)).collect();
        self.enter(now, Phase::Arm(Level::new(drive, shares, pings)));
        true
    }

    /// Goes on to the next level with the agents that are there, or ends the run when there is none left.
    pub(super) fn go_on(&mut self, now: i64, out: &mut Vec<Command>) -> bool {
        let is_last = self.load_of(self.next.rung).is_none();
        match self.cut_short.clone() {
            Some(why) => self.end(now, Ending::Interrupted(why), out),
            None if is_last => self.end(now, Ending::Complete, out),
            None if (self.agents().len() as u32) < self.expected => self.await_others(now, out),
            None if self.is_prepared() => return self.arm(now, out),
            None => self.enter(now, Phase::Clocks),
        }
        true
    }

    fn shares(&self, index: u32, load: Load) -> BTreeMap<Incarnation, v1::LoadShare> {
        match load {
            Load::Streams(concurrency) => self.streams(index, concurrency),
            Load::Rate(rate) => self.arrivals(index, rate),
        }
    }

    /// What the shares of a level have in common.
    fn common(&self, index: u32, load: Load) -> v1::LoadShare {
        let plan = &self.plan;
        let (warmup_ns, duration_ns) = self.lengths_of(index, load);
        let stop = match plan.stop_of(index).0 {
            Some(requests) => v1::load_share::Stop::Requests(requests),
            None => v1::load_share::Stop::DurationNs(duration_ns.unwrap_or_default()),
        };
        v1::LoadShare {
            stop: Some(stop),
            warmup_ns,
            ramp_ns: plan.ramp_ns.min(warmup_ns),
            drain_ns: plan.drain_ns,
            fresh_connections: self.fresh_connections,
            retries: plan.retries,
            retry_backoff_ns: plan.retry_backoff_ns,
            seed: plan.seed,
            ..Default::default()
        }
    }

    /// Every agent takes its turn of the same arrivals, and as even a part of the bound on requests in flight as can be;
    /// an agent that may have none in flight has no share, and no turn.
    fn arrivals(&self, index: u32, rate: Rate) -> BTreeMap<Incarnation, v1::LoadShare> {
        let mut agents = self.ready_agents();
        let bound = self.plan.max_concurrency;
        agents.truncate(bound.map_or(usize::MAX, |bound| bound as usize));
        let bounds = bound.map(|bound| shares(u64::from(bound), agents.len(), index as usize));
        let common = self.common(index, Load::Rate(rate));
        let share = |(i, &of): (usize, &Incarnation)| {
            let open = v1::OpenLoad {
                rate_per_s: rate.0,
                pattern: pattern(&self.plan.arrival_pattern) as i32,
                burstiness: self.plan.burstiness.unwrap_or(1.0),
                agents: agents.len() as u32,
                agent: i as u32,
                max_in_flight: bounds.as_ref().map_or(0, |bounds| bounds[i] as u32),
                time_scale: self.plan.replay_speed.get(index as usize).map_or(0.0, |speed| speed.recip()),
            };
            (of, v1::LoadShare { open: Some(open), ..common })
        };
        agents.iter().enumerate().map(share).collect()
    }

    /// Streams evenly over agents, requests in proportion to streams; an agent with no stream has no share.
    fn streams(&self, index: u32, all_streams: u32) -> BTreeMap<Incarnation, v1::LoadShare> {
        let agents = self.ready_agents();
        let common = self.common(index, Load::Streams(all_streams));
        let streams = shares(u64::from(all_streams), agents.len(), index as usize);
        let requests = self.plan.stop_of(index).0.map(|total| weighted(total, &streams));
        let mut first_stream = 0;
        let mut all = BTreeMap::new();
        for (i, (&of, &concurrency)) in agents.iter().zip(&streams).enumerate() {
            let own = requests.as_ref().map(|requests| v1::load_share::Stop::Requests(requests[i]));
            let share = v1::LoadShare {
                concurrency: concurrency as u32,
                first_stream,
                all_streams,
                stop: own.or(common.stop),
                ..common
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
        let enough = self.bursts().start;
        let fresh = level.shares.keys().all(|of| pinged(of) >= before(of).saturating_add(enough));
        if level.is_armed() && (fresh || waited > START_BURST_PATIENCE_NS) {
            let Phase::Arm(mut level) = std::mem::replace(&mut self.phase, Phase::Over) else { return false };
            level.start_ref_ns = now + START_LEAD_NS + std::mem::take(&mut self.rest_ns);
            out.push(level.start(level.shares.keys().copied().collect()));
            self.enter(now, Phase::Run(level));
            return true;
        }
        if waited > ARM_PATIENCE_NS {
            let late = level.shares.keys().filter(|of| !level.armed.contains(of)).copied().collect();
            self.all_unfit(now, late, "an agent did not arm in time", out);
            return true;
        }
        false
    }

    fn begin_settling(&mut self, now: i64, out: &mut Vec<Command>) -> bool {
        if !matches!(&self.phase, Phase::Run(level) if level.is_done()) {
            return false;
        }
        let Phase::Run(level) = std::mem::replace(&mut self.phase, Phase::Over) else { return false };
        let pings = self.bursts().level;
        out.extend(self.agents().into_iter().map(|of| Command::Burst(of, pings)));
        self.enter(now, Phase::Settle(level));
        true
    }

    /// A level is settled when all that its agents measured is on disk.
    fn await_settled(&mut self, now: i64, waited: i64, out: &mut Vec<Command>) -> bool {
        let Phase::Settle(level) = &self.phase else { return false };
        let stored = |of: &Incarnation| self.members.get(of).is_none_or(|m| level.is_stored(*of, m.stored));
        let all = level.shares.keys().all(stored);
        if !all && waited <= SETTLE_PATIENCE_NS {
            return false;
        }
        if !all {
            self.damaged("not all of this level's measurements arrived in time".to_owned(), out);
        }
        let Phase::Settle(level) = &self.phase else { return false };
        let (drive, again) = (level.drive, level.again);
        if level.is_void && !again && self.cut_short.is_none() {
            let tries = drive.attempt;
            out.push(Command::Say(format!("level {} is given up after {tries} tries", drive.rung + 1)));
        }
        let Phase::Settle(level) = &self.phase else { return false };
        let is_cut = level.is_void && self.cut_short.is_some();
        let passed = !again && !is_cut;
        out.push(Command::LevelSettled { level: drive.level, passed });
        let (rung, attempt) = if again { (drive.rung, drive.attempt + 1) } else { (drive.rung + 1, 1) };
        self.next = Drive { rung, attempt, ..self.next };
        if passed && self.search.is_some() && self.cut_short.is_none() {
            out.push(Command::Judge(drive.level));
            self.enter(now, Phase::Judge);
            return true;
        }
        self.go_on(now, out)
    }
}

fn pattern(name: &str) -> v1::ArrivalPattern {
    match name {
        "constant" => v1::ArrivalPattern::Constant,
        "gamma" => v1::ArrivalPattern::Gamma,
        "listed" => v1::ArrivalPattern::Listed,
        _ => v1::ArrivalPattern::Poisson,
    }
}
