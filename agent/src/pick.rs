//! Which entry of a corpus a request takes. A pure function of the request's number in the level, so that the choice
//! depends neither on how many agents there are nor on who is fast, and needs no memory: each run through the corpus is
//! a keyed bijection of its positions.

use tailcliff_proto::v1;
use tailcliff_proto::words::mix;

/// Rounds of the bijection: enough that neighbours land apart.
const ROUNDS: u64 = 4;

/// The order in which a level goes through a corpus.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    entries: u64,
    seed: u64,
    sequential: bool,
    first: u64,
    streams: u64,
}

impl Order {
    /// The order that an order to arm asks for; `None` when there is no entry to pick.
    pub(crate) fn new(entries: usize, seed: u64, pick: &v1::Pick) -> Option<Self> {
        (entries > 0).then(|| Self {
            entries: entries as u64,
            seed,
            sequential: pick.sequential,
            first: pick.first,
            streams: u64::from(pick.streams.max(1)),
        })
    }

    /// Entry of a stream's `number`-th request (or session), from 0.
    pub(crate) fn entry(&self, stream: u32, number: u64) -> usize {
        self.at(number.wrapping_mul(self.streams).wrapping_add(u64::from(stream)))
    }

    /// Entry of the level's `number`-th request, from 0.
    fn at(&self, number: u64) -> usize {
        let number = self.first.wrapping_add(number);
        let (run, place) = (number / self.entries, number % self.entries);
        let entry = if self.sequential { place } else { self.shuffled(run, place) };
        // Below `entries`, which came from a `usize`.
        entry as usize
    }

    /// A bijection of the next power of two, walked until it lands inside: less than two steps on average.
    fn shuffled(&self, run: u64, place: u64) -> u64 {
        let key = mix(self.seed ^ mix(run));
        let bits = 64 - (self.entries - 1).leading_zeros();
        let mask = if bits == 0 { 0 } else { u64::MAX >> (64 - bits) };
        let mut at = place;
        loop {
            for round in 0..ROUNDS {
                let key = mix(key ^ round);
                // Each step alone can be undone: adding, an odd factor, and a shift to the right.
                at = at.wrapping_add(key >> 32).wrapping_mul(key | 1) & mask;
                at ^= at >> (bits / 2).max(1);
            }
            if at < self.entries {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn order(entries: usize, seed: u64, sequential: bool, streams: u32, first: u64) -> Order {
        Order::new(entries, seed, &v1::Pick { corpus_id: 1, sequential, streams, first }).unwrap()
    }

    proptest! {
        #[test]
        fn each_run_through_has_every_entry_once(
            entries in 1usize..700, seed: u64, run in 0u64..1_000, sequential: bool,
        ) {
            let order = order(entries, seed, sequential, 1, 0);
            let n = entries as u64;
            let seen: BTreeSet<usize> = (run * n..(run + 1) * n).map(|number| order.at(number)).collect();
            prop_assert_eq!(seen, (0..entries).collect::<BTreeSet<_>>());
        }

        #[test]
        fn streams_share_the_entries_out_whoever_runs_them(
            entries in 1usize..300, seed: u64, streams in 1u32..40, rounds in 1u64..6, first in 0u64..1 << 40,
        ) {
            let order = order(entries, seed, false, streams, first);
            let by_stream = (0..streams).flat_map(|s| (0..rounds).map(move |r| order.entry(s, r)));
            let mut by_stream: Vec<usize> = by_stream.collect();
            let mut in_order: Vec<usize> = (0..u64::from(streams) * rounds).map(|n| order.at(n)).collect();
            by_stream.sort_unstable();
            in_order.sort_unstable();
            prop_assert_eq!(by_stream, in_order);
        }

        #[test]
        fn hostile_numbers_never_panic(entries in 1usize..9, seed: u64, first: u64, stream: u32, number: u64) {
            let order = order(entries, seed, false, stream, first);
            prop_assert!(order.entry(stream, number) < entries);
        }
    }

    #[test]
    fn a_shuffle_is_no_order_and_follows_from_seed_and_run() {
        let list = |seed, run: u64| -> Vec<usize> {
            let order = order(100, seed, false, 1, 0);
            (run * 100..(run + 1) * 100).map(|n| order.at(n)).collect()
        };
        assert_eq!(list(7, 0), list(7, 0));
        assert!(list(7, 0) != list(8, 0) && list(7, 0) != list(7, 1));
        let all = list(7, 0);
        let neighbours = all.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
        assert!(neighbours < 10, "{all:?}");
        assert_eq!(order(3, 7, true, 1, 2).at(0), 2, "sequential, from where the level begins");
        assert!(Order::new(0, 1, &v1::Pick::default()).is_none());
    }
}
