//! When each agent of a level really started, on the common timeline. The order names one moment; the scheduler of each
//! host decides what becomes of it, and that shows here rather than in anybody's latency.

use crate::stored::{Incarnation, LevelLog};

use super::timeline::Timeline;

/// Starts that are listed by name at most.
const LISTED: usize = 64;

/// One agent's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Of the agent.
    pub name: String,
    /// After the common start, ns; below 0 when its clock made it start before.
    pub late_ns: i64,
    /// How far that may be off, ns.
    pub bound_ns: i64,
    /// Its order came after the moment that it named.
    pub order_was_late: bool,
}

/// The starts of one level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Starts {
    /// Agents whose start is known and placed.
    pub known: u64,
    /// From the first start to the last, ns.
    pub spread_ns: i64,
    /// How far that may be off: the bounds of both, ns.
    pub bound_ns: i64,
    /// The latest first, at most 64.
    pub latest: Vec<Start>,
}

/// `None` when no start is known.
pub(crate) fn starts(
    log: &LevelLog,
    timeline: &Timeline,
    name: &dyn Fn(Incarnation) -> String,
) -> Option<Starts> {
    let start = |(&of, started): (&Incarnation, &tailcliff_proto::v1::LevelStarted)| {
        let at = timeline.place(of, started.actual_raw_ns)?;
        Some((of, at.ns.saturating_sub(log.start_ref_ns), at.bound_ns, started.was_late))
    };
    let mut all: Vec<_> = log.started.iter().filter_map(start).collect();
    all.sort_by_key(|&(of, late_ns, ..)| (std::cmp::Reverse(late_ns), of));
    let (&(_, last, last_bound, _), &(_, first, first_bound, _)) = (all.first()?, all.last()?);
    let one = |&(of, late_ns, bound_ns, order_was_late): &(Incarnation, i64, i64, bool)| Start {
        name: name(of),
        late_ns,
        bound_ns,
        order_was_late,
    };
    Some(Starts {
        known: all.len() as u64,
        spread_ns: last.saturating_sub(first),
        bound_ns: if all.len() > 1 { last_bound.saturating_add(first_bound) } else { 0 },
        latest: all.iter().take(LISTED).map(one).collect(),
    })
}
