//! Block bootstrap: a run's blocks drawn with replacement, again and again.

use crate::blocks::Block;

/// Draws of each run and load.
const DRAWS: usize = 1_000;
/// Values kept of a level at most: an even choice of each block's, in order of size.
const MOST_VALUES: usize = 20_000;
/// Lives of a request that a block must hold, so that it shares few with its neighbours: with one life, three times too many
/// pairs of runs of a full server seemed to differ.
const LIVES: f64 = 2.0;
/// Fewer than that, and blocks are not to be trusted at all.
const FEWEST_LIVES: f64 = 1.2;
/// How many blocks are joined for that. Divisors of `blocks::BLOCKS`.
const JOINED: [usize; 3] = [1, 2, 4];

/// How often each block is in each draw.
#[derive(Debug)]
pub(super) struct Draws {
    blocks: usize,
    weights: Vec<u32>,
}

impl Draws {
    /// From a seed: the same each time.
    pub(super) fn of(blocks: usize, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut weights = vec![0; blocks * DRAWS];
        for draw in weights.chunks_mut(blocks.max(1)) {
            (0..blocks).for_each(|_| draw[rng.usize(0..blocks)] += 1);
        }
        Self { blocks, weights }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &[u32]> {
        self.weights.chunks(self.blocks.max(1))
    }
}

/// Values of all blocks in order, and how many of each block lie at or below each.
#[derive(Debug)]
pub(super) struct Pool {
    values: Vec<i64>,
    /// One row a value, one count a block.
    up_to: Vec<u32>,
    blocks: usize,
}

impl Pool {
    pub(super) fn of(blocks: &[&[i64]]) -> Self {
        let total: usize = blocks.iter().map(|b| b.len()).sum();
        let stride = total.div_ceil(MOST_VALUES).max(1);
        let mut all: Vec<(i64, usize)> = Vec::new();
        for (i, block) in blocks.iter().enumerate() {
            let mut sorted = block.to_vec();
            sorted.sort_unstable();
            // From the middle of each stride, so that neither end is favoured.
            all.extend(sorted.into_iter().skip(stride / 2).step_by(stride).map(|value| (value, i)));
        }
        all.sort_unstable();
        let (mut counts, mut up_to) = (vec![0; blocks.len()], Vec::with_capacity(all.len() * blocks.len()));
        for &(_, block) in &all {
            counts[block] += 1;
            up_to.extend_from_slice(&counts);
        }
        Self { values: all.into_iter().map(|(value, _)| value).collect(), up_to, blocks: blocks.len() }
    }

    /// Values drawn, of the first so many.
    fn drawn(&self, first: usize, weights: &[u32]) -> u64 {
        let Some(row) = first.checked_sub(1) else { return 0 };
        let counts = &self.up_to[row * self.blocks..first * self.blocks];
        counts.iter().zip(weights).map(|(&n, &w)| u64::from(n) * u64::from(w)).sum()
    }

    /// Nearest rank; `None` when the drawn blocks hold no value.
    pub(super) fn quantile(&self, q: f64, weights: &[u32]) -> Option<f64> {
        let total = self.drawn(self.values.len(), weights);
        let rank = ((q * total as f64).ceil() as u64).max(1);
        let (mut low, mut high) = (0, self.values.len());
        while low < high {
            let middle = (low + high) / 2;
            if self.drawn(middle + 1, weights) >= rank { high = middle } else { low = middle + 1 }
        }
        self.values.get(low).map(|value| *value as f64)
    }
}

/// How many times the variance of a mean of blocks is that of blocks which know nothing of one another; at least 1. From
/// what each block adds to the figure, by Bartlett's weights over two neighbours (Newey and West 1987): a queue that builds up
/// and drains is longer than a block.
pub(super) fn likeness(parts: &[f64]) -> f64 {
    let n = parts.len() as f64;
    let mean = parts.iter().sum::<f64>() / n;
    let of = |lag: usize| -> f64 {
        parts.iter().zip(parts.iter().skip(lag)).map(|(a, b)| (a - mean) * (b - mean)).sum()
    };
    let own = of(0);
    if own <= 0.0 {
        return 1.0;
    }
    // Blocks about their own mean seem to be unlike one another by 1 / n.
    let near = |lag: usize| of(lag) / own + 1.0 / n;
    (1.0 + 2.0 * (near(1) * 2.0 / 3.0 + near(2) / 3.0)).max(1.0)
}

/// Blocks of one level joined until each holds some lives of a request: shorter ones would share their requests, and seem to
/// agree more than they do.
pub(super) fn joined(blocks: &[Block]) -> Vec<Block> {
    let lives = blocks.iter().flat_map(|b| &b.e2e_ns);
    let (sum, n) = lives.fold((0.0, 0.0), |(sum, n), ns| (sum + *ns as f64 / 1e9, n + 1.0));
    let life_s = if n > 0.0 { sum / n } else { 0.0 };
    let block_s = blocks.iter().map(|b| b.seconds).sum::<f64>() / blocks.len().max(1) as f64;
    let holds = |times: usize, lives: f64| times as f64 * block_s >= lives * life_s;
    let most = JOINED[JOINED.len() - 1];
    let times = JOINED.into_iter().find(|times| holds(*times, LIVES));
    // Of a window of hardly more than a few lives nothing is told apart by blocks: one block has no spread.
    let times = times.unwrap_or(if holds(most, FEWEST_LIVES) { most } else { blocks.len().max(1) });
    blocks.chunks(times).map(join).collect()
}

fn join(blocks: &[Block]) -> Block {
    let values = |of: fn(&Block) -> &Vec<i64>| blocks.iter().flat_map(|b| of(b).iter().copied()).collect();
    let sum = |of: fn(&Block) -> f64| blocks.iter().map(of).sum();
    let count = |of: fn(&Block) -> u64| blocks.iter().map(of).sum();
    Block {
        seconds: sum(|b| b.seconds),
        completed: sum(|b| b.completed),
        output_tokens: sum(|b| b.output_tokens),
        good_credit: sum(|b| b.good_credit),
        arrived: count(|b| b.arrived),
        intended: count(|b| b.intended),
        failed: count(|b| b.failed),
        good: count(|b| b.good),
        bad: count(|b| b.bad),
        ttft_ns: values(|b| &b.ttft_ns),
        tpot_ns: values(|b| &b.tpot_ns),
        e2e_ns: values(|b| &b.e2e_ns),
        itl_ns: values(|b| &b.itl_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks_of_what_was_drawn() {
        let pool = Pool::of(&[&[1, 2, 3, 4], &[10, 20, 30, 40, 50, 60]]);
        assert_eq!(pool.quantile(0.5, &[1, 1]), Some(10.0));
        assert_eq!(pool.quantile(0.95, &[1, 1]), Some(60.0));
        assert_eq!(pool.quantile(0.5, &[2, 0]), Some(2.0));
        assert_eq!(pool.quantile(0.5, &[0, 0]), None);
    }

    #[test]
    fn what_is_too_much_is_thinned_evenly() {
        let values: Vec<i64> = (0..100_000).collect();
        let pool = Pool::of(&[&values]);
        assert!(pool.values.len() <= MOST_VALUES);
        for q in [0.5, 0.95, 0.99] {
            let found = pool.quantile(q, &[1]).unwrap();
            assert!((found / 100_000.0 - q).abs() < 1e-4, "{q}: {found}");
        }
    }

    #[test]
    fn blocks_grow_to_the_length_of_their_requests() {
        let of = |ms: i64| Block {
            seconds: 1.0,
            completed: 1.0,
            e2e_ns: vec![ms * 1_000_000],
            ..Block::default()
        };
        for (ms, left) in [(450, 20), (900, 10), (1_900, 5), (3_300, 5), (3_400, 1), (60_000, 1)] {
            let blocks = joined(&vec![of(ms); 20]);
            assert_eq!(blocks.len(), left, "{ms} ms");
            assert_eq!(blocks.iter().map(|b| b.seconds).sum::<f64>(), 20.0);
            assert_eq!(blocks.iter().map(|b| b.e2e_ns.len()).sum::<usize>(), 20);
        }
    }
}
