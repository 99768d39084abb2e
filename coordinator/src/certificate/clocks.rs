//! What a level's clocks and starts allow to be said: notes, since no latency depends on them.

use crate::clock::BOUND_MAX_NS;
use crate::knee::duration;
use crate::levels::Level;
use crate::stored::{Incarnation, LevelLog};

use super::Certificate;

/// Starts further apart than this are worth a note, ns: a busy host's scheduler brings a thread a few ms late.
const START_SPREAD_NS: i64 = 10_000_000;
/// Late agents that are named.
const NAMED: usize = 4;

impl Certificate {
    /// Agents that were told too late, and starts that lie far apart.
    pub(super) fn note_starts(
        &mut self,
        level: &Level,
        log: &LevelLog,
        name: &dyn Fn(Incarnation) -> String,
    ) {
        if self.late_starts > 0 {
            let late = log.started.iter().filter(|(_, started)| started.was_late).map(|(&of, _)| name(of));
            let who = named(late.collect());
            self.notes.push(format!("{} agents got their start order late: {who}", self.late_starts));
        }
        let Some(starts) = level.starts.as_ref().filter(|s| s.spread_ns > START_SPREAD_NS) else { return };
        let [spread, bound] =
            [starts.spread_ns, starts.bound_ns].map(|ns| duration(ns.max(0).unsigned_abs()));
        let last = starts.latest.first().map_or("", |start| &start.name);
        self.notes.push(format!("agents started {spread} (±{bound}) apart, {last} last"));
    }

    /// Stamps that are known to no better than what would matter.
    pub(super) fn note_clock(&mut self, level: &Level) {
        match level.clock {
            None if level.all_phases.released() > 0 => {
                self.notes.push("no stamp could be placed on the common timeline".to_owned());
            }
            Some(clock) if clock.median_ns > BOUND_MAX_NS => {
                let bound = duration(clock.median_ns.unsigned_abs());
                self.notes.push(format!("stamps are on the common timeline to ±{bound} only"));
            }
            _ => {}
        }
    }
}

fn named(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &rest
}
