//! What an open loop came to beside its latencies: its rates, and what the bound on requests in flight did.

use tailcliff_proto::histogram::LatencyHistogram;

use crate::levels::{Held, Rates};
use crate::stored::LevelLog;

use super::tally::Point;
use super::window::{Rule, Window};

/// Rates in a window. What was never sent had arrived too: it counts as offered, where the window has the arrivals' end.
pub(super) fn rates(log: &LevelLog, window: Window, points: &[Point]) -> Option<Rates> {
    if !log.load.is_open() {
        return None;
    }
    let within = |at: fn(&Point) -> i64| {
        points.iter().filter(|p| p.first && window.holds(at(p))).count() as f64 / window.seconds()
    };
    let unsent = if window.rule == Rule::Duration { never_sent(log) } else { 0 };
    let offered = within(|p| p.intended_ns) + unsent as f64 / window.seconds();
    Some(Rates { offered, achieved: within(|p| p.issued_ns) })
}

fn never_sent(log: &LevelLog) -> u64 {
    log.done.values().map(|done| done.never_sent).fold(0, u64::saturating_add)
}

/// What was held back; `None` in closed loop.
pub(super) fn held(log: &LevelLog) -> Option<Held> {
    if !log.load.is_open() {
        return None;
    }
    let mut held = Held { bound: Some(0), never_sent: never_sent(log), ..Held::default() };
    for done in log.done.values() {
        let requests = done.counts.map_or(0, |counts| counts.held_back);
        held.requests = held.requests.saturating_add(requests);
        held.bound = held.bound.zip(done.max_in_flight).map(|(sum, bound)| sum + u64::from(bound));
        held.own_bound_hit |= done.own_bound && (requests > 0 || done.never_sent > 0);
        if let Some(Ok(waits)) = done.held.as_ref().map(LatencyHistogram::try_from) {
            held.waits.add(&waits);
        }
    }
    Some(held)
}
