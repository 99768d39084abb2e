//! What an open loop came to beside its latencies: its rates, and what the bound on requests in flight did.

use tailcliff_proto::histogram::LatencyHistogram;

use crate::levels::{Held, Rates};
use crate::plan::Plan;
use crate::stored::LevelLog;

use super::tally::Point;
use super::window::{Rule, Window};

/// Rates over the measured arrivals: until the window's end or the last of them, whichever comes first. What was never
/// sent had arrived too. What comes all at once has no rate.
pub(super) fn rates(plan: &Plan, log: &LevelLog, window: Window, points: &[Point]) -> Option<Rates> {
    if !log.load.is_open() || log.load.is_at_once() {
        return None;
    }
    let from = log.start_ref_ns.checked_add(log.lengths(plan).0)?;
    let arrived = || points.iter().filter(|p| p.first && p.measured);
    let last = arrived().map(|p| p.intended_ns).max()?;
    let (end, unsent) = match window.rule {
        Rule::Duration => (window.end_ns, never_sent(log)),
        _ => (window.end_ns.min(last), 0),
    };
    let seconds = end.checked_sub(from).filter(|ns| *ns > 0)? as f64 / 1e9;
    // By their phase and not by their stamps: an arrival at the very edge may be placed a ns to its other side.
    let offered = arrived().filter(|p| p.intended_ns < end).count() as f64 + unsent as f64;
    let sent = points.iter().filter(|p| p.first && (from..end).contains(&p.issued_ns)).count() as f64;
    Some(Rates { offered: offered / seconds, achieved: sent / seconds })
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
        held.bound = held.bound.zip(done.max_in_flight).map(|(sum, bound)| sum + u64::from(bound));
        held.own_bound_hit |= done.own_bound && (requests > 0 || done.never_sent > 0);
        if let Some(Ok(waits)) = done.held.as_ref().map(LatencyHistogram::try_from) {
            held.waits.add(&waits);
        }
    }
    // Of the measured phase, as the waits are.
    held.requests = held.waits.len().saturating_add(held.waits.out_of_range());
    Some(held)
}
