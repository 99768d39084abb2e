//! How many pings each burst has, and how often they come: pure functions of the size of the fleet, so that all bursts
//! together keep to one budget. A large fleet pays with wider bounds, which are shown, and not with a late start.

use std::time::Duration;

/// Exchanges a second over all nodes together.
pub const BUDGET_PER_SECOND: u32 = 1_000;
/// Pings of the burst made when a node joins.
pub const JOIN_BURST: u32 = 64;
/// Of these, where nodes are many: below, the first bound would hang on luck.
const LEAST_JOIN_BURST: u32 = 8;
/// Pings of the regular burst.
pub const BEAT_BURST: u32 = 8;
const LEAST_BEAT_BURST: u32 = 2;
/// Pings before a start, so that its time is told on a fresh clock.
pub const START_BURST: u32 = 16;
/// Pings at the end of a level.
pub const LEVEL_BURST: u32 = 32;

/// How long the bursts of all nodes may take one after the other, ms.
const ALL_JOIN_MS: u32 = 8_000;
const ALL_START_MS: u32 = 1_500;
const ALL_LEVEL_MS: u32 = 1_000;
/// Longest time between two regular bursts to one node while pings can be spared instead: exchanges further apart than a
/// clock's window no longer bear on each other.
const LONGEST_PAUSE_MS: u32 = 8_000;
/// The regular bursts leave half of the budget to those that somebody waits for.
const BEAT_SHARE: u32 = 2;

/// The bursts of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bursts {
    /// When a node joins.
    pub join: u32,
    /// Before a level's start.
    pub start: u32,
    /// At the end of a level.
    pub level: u32,
    /// At the end of the run.
    pub end: u32,
    /// The regular ones.
    pub beat: u32,
    /// Between two regular ones.
    pub pause: Duration,
}

impl Bursts {
    /// Of a fleet of so many nodes, probes included.
    pub fn of(nodes: u32) -> Self {
        let nodes = nodes.max(1);
        let each = |all_ms: u32| (BUDGET_PER_SECOND / 1_000 * all_ms) / nodes;
        let beat = (each(LONGEST_PAUSE_MS) / BEAT_SHARE).clamp(LEAST_BEAT_BURST, BEAT_BURST);
        let pings = f64::from(nodes) * f64::from(beat * BEAT_SHARE);
        Self {
            join: each(ALL_JOIN_MS).clamp(LEAST_JOIN_BURST, JOIN_BURST),
            start: each(ALL_START_MS).clamp(1, START_BURST),
            level: each(ALL_LEVEL_MS).clamp(1, LEVEL_BURST),
            end: each(ALL_LEVEL_MS).clamp(1, JOIN_BURST),
            beat,
            pause: Duration::from_secs_f64((pings / f64::from(BUDGET_PER_SECOND)).max(1.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WINDOW_NS;

    #[test]
    fn a_small_fleet_is_measured_in_full() {
        for nodes in [0, 1, 2, 15] {
            let bursts = Bursts::of(nodes);
            let all = (bursts.join, bursts.start, bursts.level, bursts.end, bursts.beat);
            assert_eq!(all, (JOIN_BURST, START_BURST, LEVEL_BURST, JOIN_BURST, BEAT_BURST), "{nodes}");
            assert_eq!(bursts.pause, Duration::from_secs(1));
        }
    }

    #[test]
    fn a_thousand_nodes_are_thinned_to_the_budget() {
        let bursts = Bursts::of(1_000);
        assert_eq!((bursts.join, bursts.start, bursts.level, bursts.beat), (8, 1, 1, 4));
        assert_eq!(bursts.pause, Duration::from_secs(8));
    }

    #[test]
    fn no_fleet_asks_for_more_than_the_budget_or_waits_longer_for_fewer() {
        let mut before = Bursts::of(1);
        for nodes in 1..=3_000 {
            let bursts = Bursts::of(nodes);
            let per_s = f64::from(nodes * bursts.beat) / bursts.pause.as_secs_f64();
            assert!(per_s <= f64::from(BUDGET_PER_SECOND / BEAT_SHARE) + 1e-6, "{nodes}: {per_s}");
            let all_ms = |pings: u32| nodes * pings * 1_000 / BUDGET_PER_SECOND;
            assert!(bursts.start == 1 || all_ms(bursts.start) <= ALL_START_MS, "{nodes}");
            assert!(bursts.join == LEAST_JOIN_BURST || all_ms(bursts.join) <= ALL_JOIN_MS, "{nodes}");
            assert!(bursts.pause.as_nanos() < WINDOW_NS as u128, "{nodes}: bursts still bear on each other");
            let counts = |b: Bursts| [b.join, b.start, b.level, b.end, b.beat];
            assert!(counts(bursts).iter().zip(counts(before)).all(|(now, before)| *now <= before), "{nodes}");
            before = bursts;
        }
    }
}
