//! When the requests of an open loop arrive. Pure: offsets from the level's start in ns, ascending, without end, from
//! (law, rate, ramp, seed, level) alone. Every agent and shard draws the whole level's sequence and takes each n-th of
//! it, so that the union over agents is the stated process and not merely like it: thinning a process by turns would
//! leave each part, and with other seeds the union, under another law.

use std::sync::Arc;

use super::random::Random;

/// Keeps the arrivals' sequence apart from others of the same seed.
const ARRIVALS: u64 = 0x6172_7269_7661_6c73;

/// The law of the gaps between arrivals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// All the same; the first arrival is at the start.
    Constant,
    /// Exponential, the first from the start on: arrivals know nothing of one another.
    Poisson,
    /// Gamma with this shape k, as vLLM's burstiness: the gaps' coefficient of variation is 1/√k.
    Gamma(f64),
}

/// A source of arrivals.
#[derive(Clone, Debug)]
pub enum Arrivals {
    /// By a law, at a rate.
    Paced(Paced),
    /// All at the start.
    AtOnce,
    /// As listed, such as by a trace that is replayed.
    Listed(Listed),
}

impl Arrivals {
    /// Arrivals of one level at `rate_per_s`, which rises from 0 over the first `ramp_ns`; an infinite rate is all at once.
    pub fn paced(pattern: Pattern, rate_per_s: f64, ramp_ns: i64, seed: u64, level: u32) -> Arrivals {
        if rate_per_s.is_infinite() {
            return Arrivals::AtOnce;
        }
        let random = Random::of(&[ARRIVALS, seed, u64::from(level)]);
        let first = matches!(pattern, Pattern::Constant);
        let ramp_s = ramp_ns as f64 / 1e9;
        Arrivals::Paced(Paced { pattern, rate_per_s, ramp_s, random, expected: 0.0, first })
    }

    /// Arrivals at these offsets in ns, ascending, each times `time_scale`.
    pub fn listed(offsets_ns: Arc<[i64]>, time_scale: f64) -> Arrivals {
        Arrivals::Listed(Listed { offsets_ns, time_scale, next: 0 })
    }
}

impl Iterator for Arrivals {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        match self {
            Arrivals::Paced(paced) => Some(paced.next_ns()),
            Arrivals::AtOnce => Some(0),
            Arrivals::Listed(listed) => listed.next_ns(),
        }
    }
}

/// Arrivals by a law: drawn as a process of rate 1, whose time is then bent so that the expected number of arrivals
/// grows as the ramp asks. Of Poisson arrivals this gives the Poisson process of the ramp's rate exactly.
#[derive(Clone, Debug)]
pub struct Paced {
    pattern: Pattern,
    rate_per_s: f64,
    ramp_s: f64,
    random: Random,
    /// Where the next gap begins, as a number of expected arrivals.
    expected: f64,
    /// The first arrival is at the start itself.
    first: bool,
}

impl Paced {
    fn next_ns(&mut self) -> i64 {
        if !std::mem::take(&mut self.first) {
            self.expected += match self.pattern {
                Pattern::Constant => 1.0,
                Pattern::Poisson => self.random.exponential(),
                Pattern::Gamma(shape) => self.random.gamma(shape) / shape,
            };
        }
        // A cast of what no i64 holds gives the largest.
        (self.time_s() * 1e9) as i64
    }

    /// Inverse of the expected number of arrivals by a time: r·t²/(2·ramp) within the ramp, r·(t − ramp/2) after it.
    fn time_s(&self) -> f64 {
        if self.expected < self.rate_per_s * self.ramp_s / 2.0 {
            (2.0 * self.ramp_s * self.expected / self.rate_per_s).sqrt()
        } else {
            self.expected / self.rate_per_s + self.ramp_s / 2.0
        }
    }
}

/// Arrivals from a list.
#[derive(Clone, Debug)]
pub struct Listed {
    offsets_ns: Arc<[i64]>,
    time_scale: f64,
    next: usize,
}

impl Listed {
    fn next_ns(&mut self) -> Option<i64> {
        let offset = *self.offsets_ns.get(self.next)?;
        self.next += 1;
        Some((offset as f64 * self.time_scale) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn offsets(pattern: Pattern, rate: f64, ramp_ns: i64, seed: u64, n: usize) -> Vec<i64> {
        Arrivals::paced(pattern, rate, ramp_ns, seed, 0).take(n).collect()
    }

    fn gaps_s(offsets: &[i64]) -> Vec<f64> {
        offsets.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e9).collect()
    }

    fn mean_and_variation(gaps: &[f64]) -> (f64, f64) {
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn each_law_has_its_rate_and_its_variation() {
        let laws = [
            (Pattern::Constant, 0.0),
            (Pattern::Poisson, 1.0),
            (Pattern::Gamma(0.25), 2.0),
            (Pattern::Gamma(1.0), 1.0),
            (Pattern::Gamma(4.0), 0.5),
        ];
        for (pattern, variation) in laws {
            for (seed, rate) in [(1, 0.5), (2, 40.0), (3, 20_000.0)] {
                let (mean, found) = mean_and_variation(&gaps_s(&offsets(pattern, rate, 0, seed, 100_000)));
                assert!((mean * rate - 1.0).abs() < 0.02, "{pattern:?} {rate}: mean gap {mean} s");
                assert!((found - variation).abs() < 0.04, "{pattern:?} {rate}: variation {found}");
            }
        }
    }

    /// Kolmogorov and Smirnov's distance of the gaps from their law; beyond 1.63/√n is a chance of 1 %.
    #[test]
    fn poisson_gaps_are_exponential() {
        let (n, rate) = (50_000, 100.0);
        for seed in 1..=5 {
            let mut gaps = gaps_s(&offsets(Pattern::Poisson, rate, 0, seed, n + 1));
            gaps.sort_by(f64::total_cmp);
            let at = |i: usize| 1.0 - (-gaps[i] * rate).exp();
            let distance = (0..n).map(|i| (at(i) - (i as f64 + 0.5) / n as f64).abs()).fold(0.0, f64::max);
            assert!(distance < 1.63 / (n as f64).sqrt(), "seed {seed}: {distance}");
        }
    }

    /// Counts in cells of 1 s: their variance over their mean is 1 for Poisson arrivals, 0 for even ones, and 1/k in
    /// the long run for gamma gaps. A sum of thinned streams with seeds of their own would miss this.
    #[test]
    fn counts_in_cells_vary_as_the_law_says() {
        for (pattern, ratio) in
            [(Pattern::Constant, 0.0), (Pattern::Poisson, 1.0), (Pattern::Gamma(4.0), 0.25)]
        {
            let mut cells = vec![0f64; 2_000];
            let all = Arrivals::paced(pattern, 50.0, 0, 9, 0);
            all.map(|at| (at / S) as usize)
                .take_while(|&cell| cell < 2_000)
                .for_each(|cell| cells[cell] += 1.0);
            let (mean, variation) = mean_and_variation(&cells);
            let found = variation * variation * mean;
            assert!((mean / 50.0 - 1.0).abs() < 0.02, "{pattern:?}: {mean}");
            assert!((found - ratio).abs() < 0.12, "{pattern:?}: {found}");
        }
    }

    #[test]
    fn constant_arrivals_are_even_from_the_start_on() {
        assert_eq!(offsets(Pattern::Constant, 4.0, 0, 1, 4), [0, S / 4, S / 2, S * 3 / 4]);
    }

    /// Over a ramp of 10 s to 200 /s come r·t²/(2·ramp) by t, and 200 a second from then on.
    #[test]
    fn a_ramp_brings_what_its_rate_adds_up_to() {
        for pattern in [Pattern::Constant, Pattern::Poisson] {
            let all = offsets(pattern, 200.0, 10 * S, 5, 10_000);
            let by = |s: i64| all.iter().filter(|&&at| at < s * S).count() as f64;
            for (s, expected) in [(2, 40.0), (5, 250.0), (10, 1_000.0), (20, 3_000.0), (40, 7_000.0)] {
                let slack = if pattern == Pattern::Constant { 1.0 } else { 4.0 * f64::sqrt(expected) };
                assert!((by(s) - expected).abs() <= slack, "{pattern:?} by {s} s: {}", by(s));
            }
            assert!(all.is_sorted());
        }
    }

    #[test]
    fn the_seed_and_the_level_alone_decide() {
        let first = |seed, level| -> Vec<i64> {
            Arrivals::paced(Pattern::Poisson, 10.0, 0, seed, level).take(100).collect()
        };
        assert_eq!(first(1, 0), first(1, 0));
        assert_ne!(first(1, 0), first(2, 0));
        assert_ne!(first(1, 0), first(1, 1));
    }

    #[test]
    fn listed_arrivals_come_as_listed_in_scaled_time() {
        let listed: Vec<i64> = Arrivals::listed(Arc::from([0, 10, 10, 35]), 2.0).collect();
        assert_eq!(listed, [0, 20, 20, 70]);
    }

    #[test]
    fn an_infinite_rate_is_all_at_once() {
        assert_eq!(offsets(Pattern::Poisson, f64::INFINITY, S, 1, 3), [0, 0, 0]);
    }

    #[test]
    fn absurd_rates_never_panic_nor_go_back_in_time() {
        for rate in [1e-300, 1e-9, 1e9, 1e300] {
            assert!(offsets(Pattern::Gamma(0.01), rate, S, 1, 1_000).is_sorted(), "{rate}");
        }
    }
}
