//! Which requests a trace shows. All of a small run; of a large one those that stalled, the slowest of each level, and of the
//! others as many as fit, drawn by a hash of what they are, so that the same run gives the same trace.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use tailcliff_proto::v1::RequestRecord;

use crate::merge::record;
use crate::stall::Stalls;
use crate::stored::Incarnation;

/// Requests shown of a run that has more, besides those that stalled and the slowest.
pub(super) const MOST: u64 = 5_000;
/// Of each level, shown in any case.
const SLOWEST: usize = 50;

/// Agent, level, stream, number; all tries of a request have one.
pub(super) type Key = (Incarnation, u32, u32, u64);

pub(super) fn key(of: Incarnation, record: &RequestRecord) -> Key {
    (of, record.level, record.stream, record.request)
}

/// Takes in every request, then says of each whether it is shown.
#[derive(Debug)]
pub(super) struct Pick {
    most: u64,
    /// Requests seen.
    pub(super) total: u64,
    stalled: BTreeSet<Key>,
    slowest: BTreeMap<u32, BinaryHeap<Reverse<(i64, Key)>>>,
    slow: BTreeSet<Key>,
}

impl Pick {
    /// At most `most` by hash.
    pub(super) fn new(most: u64, stalls: &Stalls) -> Self {
        let stalled =
            stalls.all.iter().map(|s| (s.gap.of, s.gap.level, s.gap.stream, s.gap.request)).collect();
        Self { most, total: 0, stalled, slowest: BTreeMap::new(), slow: BTreeSet::new() }
    }

    pub(super) fn see(&mut self, of: Incarnation, record: &RequestRecord) {
        self.total += 1;
        let slowest = self.slowest.entry(record.level).or_default();
        slowest.push(Reverse((record::e2e_ns(record).unwrap_or(0), key(of, record))));
        if slowest.len() > SLOWEST {
            slowest.pop();
        }
    }

    /// All were seen.
    pub(super) fn close(&mut self) {
        let slowest = std::mem::take(&mut self.slowest);
        self.slow = slowest.into_values().flatten().map(|Reverse((_, key))| key).collect();
    }

    pub(super) fn shows(&self, key: Key) -> bool {
        self.total <= self.most
            || self.stalled.contains(&key)
            || self.slow.contains(&key)
            || u128::from(hash(key)) * u128::from(self.total) < u128::from(self.most) << 64
    }

    /// How it chose, in words.
    pub(super) fn words(&self) -> String {
        if self.total <= self.most {
            return "all".to_owned();
        }
        format!(
            "those that stalled, the {SLOWEST} slowest of each level, and about {} others by hash",
            self.most
        )
    }
}

/// The finaliser of SplitMix64 over each part.
fn hash((of, level, stream, request): Key) -> u64 {
    [of, u64::from(level) << 32 | u64::from(stream), request].into_iter().fold(0, |sum, part| {
        let mut x = sum ^ part.wrapping_add(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    })
}
