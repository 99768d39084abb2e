//! The rungs of a run whose levels are searched for: each follows from what those before it came to.

use crate::axis::Load;
use crate::plan::Plan;
use crate::search::seen::Seen;
use crate::search::{Ask, LEVELS_MAX, Lengths, Next, Rule, Search};

use super::{Command, Ending, Phase, Run};

/// Levels that a search may need where something must be dealt out beforehand: as many as it ever drives.
const EXPECTED: u64 = LEVELS_MAX as u64;

/// What was asked so far, and what comes next.
#[derive(Debug)]
pub(super) struct Rungs {
    search: Search,
    asks: Vec<Ask>,
}

impl Rungs {
    pub(super) fn of(plan: &Plan) -> Option<Self> {
        let mut rungs = Self { search: Search::new(rule(plan)?), asks: Vec::new() };
        rungs.go_on();
        Some(rungs)
    }

    /// Takes in what an earlier coordinator drove, in order, and what it had under way: another try is of the same load.
    pub(super) fn replay(&mut self, seen: Vec<Seen>, under_way: Option<Ask>) {
        for seen in seen {
            // As it was driven, whatever would be asked now.
            self.asks.truncate(self.search.seen().len());
            self.asks.push(Ask { load: seen.load, warmup_ns: 0, duration_ns: 0 });
            self.search.take(seen);
            self.go_on();
        }
        if let Some(ask) = under_way {
            self.asks.truncate(self.search.seen().len());
            self.asks.push(ask);
        }
    }

    /// Asks for the next rung; the reason when there is none.
    fn go_on(&mut self) -> Option<String> {
        match self.search.next() {
            Next::Level(ask) => {
                self.asks.push(ask);
                None
            }
            Next::Done(why) => Some(why),
        }
    }
}

/// What a plan searches for, if it does.
pub(crate) fn rule(plan: &Plan) -> Option<Rule> {
    let warmup_ns = (plan.warmup_ns > 0).then_some(plan.warmup_ns);
    let lengths = Lengths { warmup_ns, duration_ns: plan.duration_ns, ..Lengths::default() };
    Some(Rule { auto: plan.auto.clone()?, cliff: plan.cliff.clone(), lengths })
}

impl Run {
    /// What a rung asks for; `None` beyond the last.
    pub(super) fn load_of(&self, rung: u32) -> Option<Load> {
        match &self.search {
            Some(search) => search.asks.get(rung as usize).map(|ask| ask.load),
            None => self.plan.levels().get(rung as usize).copied(),
        }
    }

    /// Its warm-up, and its window where that goes by time, ns.
    pub(super) fn lengths_of(&self, rung: u32, load: Load) -> (i64, Option<i64>) {
        let ask = self.search.as_ref().and_then(|search| search.asks.get(rung as usize));
        ask.map_or((self.plan.warmup_of(load), self.plan.stop_of(rung).1), |ask| {
            (ask.warmup_ns, Some(ask.duration_ns))
        })
    }

    /// How many rungs there are, or are likely to be; 1 at least.
    pub(super) fn rungs_expected(&self) -> u64 {
        if self.search.is_some() { EXPECTED } else { self.plan.levels().len().max(1) as u64 }
    }

    /// A level of the search was looked at.
    pub(super) fn judged(&mut self, now: i64, seen: Result<Seen, String>, out: &mut Vec<Command>) {
        if !matches!(self.phase, Phase::Judge) {
            return;
        }
        let Some(search) = &mut self.search else { return };
        match seen {
            Ok(seen) => {
                search.search.take(seen);
                if let Some(why) = search.go_on() {
                    out.push(Command::Say(format!("the search is over: {why}")));
                }
                self.go_on(now, out);
            }
            Err(why) => self.end(now, Ending::Broken(format!("failed to judge a level: {why}")), out),
        }
    }
}
