//! What the fleet keeps of heartbeats: messages in both directions, held out from the fit of the clocks, by which the merge
//! checks it. And whose clock has been doubted aloud.

use std::collections::{BTreeMap, BTreeSet};

use tailcliff_proto::v1;

use crate::clock::{BOUND_MAX_NS, Beat};
use crate::journal::{Fact, StoredBeat};
use crate::knee::duration;
use crate::stored::Incarnation;

/// Heartbeats stored a second, all nodes together: they check the clocks and need not be all there.
const STORED_PER_SECOND: i64 = 100;
const SECOND_NS: i64 = 1_000_000_000;

/// Per node, what was stored and said.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    stored_ns: BTreeMap<Incarnation, i64>,
    doubted: BTreeSet<Incarnation>,
}

impl Beats {
    /// What to store of a heartbeat that came `now` from one of `nodes` nodes.
    pub(crate) fn keep(
        &mut self,
        of: Incarnation,
        nodes: usize,
        beat: &v1::Heartbeat,
        now: i64,
    ) -> Option<Fact> {
        // A little less than the beat itself, so that a second's jitter does not lose every other one.
        let apart = (SECOND_NS / 2).max(nodes as i64 * SECOND_NS / STORED_PER_SECOND);
        if self.stored_ns.get(&of).is_some_and(|last| now - last < apart) {
            return None;
        }
        self.stored_ns.insert(of, now);
        let beat = Beat {
            sent_raw_ns: beat.sent_raw_ns,
            received_ref_ns: now,
            heard: beat.heard_sent_ns.zip(beat.heard_raw_ns),
        };
        Some(Fact::Beat(StoredBeat::from(beat)))
    }

    /// What to say, once, of a clock that is known to no better than `bound_ns`.
    pub(crate) fn doubt(&mut self, of: Incarnation, name: &str, bound_ns: i64) -> Option<String> {
        if bound_ns <= BOUND_MAX_NS || !self.doubted.insert(of) {
            return None;
        }
        Some(match bound_ns {
            i64::MAX => format!(
                "{name}: its clock is not known, so it starts as soon as it is told and its stamps may stay unaligned; can it \
                 reach the clock port, the next after this coordinator's?"
            ),
            bound => format!(
                "{name}: its clock is known to ±{} only: the path to it is long or uneven",
                duration(bound.unsigned_abs())
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_nodes_store_no_more_than_a_hundred_beats_a_second() {
        let beat = v1::Heartbeat { sent_raw_ns: 1, heard_sent_ns: Some(2), heard_raw_ns: Some(3) };
        let stored = |nodes: u64| {
            let mut beats = Beats::default();
            let all = (1..=20).flat_map(|s| (1..=nodes).map(move |of| (s, of)));
            all.filter(|&(s, of)| beats.keep(of, nodes as usize, &beat, s * SECOND_NS).is_some()).count()
        };
        assert_eq!((stored(1), stored(1_000)), (20, 2_000));
    }

    #[test]
    fn a_clock_is_doubted_once_and_a_good_one_never() {
        let mut beats = Beats::default();
        assert_eq!(beats.doubt(1, "a", BOUND_MAX_NS), None);
        assert!(beats.doubt(1, "a", 12_345_678).unwrap().contains("±12.3 ms only"));
        assert_eq!(beats.doubt(1, "a", 12_345_678), None);
        assert!(beats.doubt(2, "b", i64::MAX).unwrap().contains("clock port"));
    }
}
