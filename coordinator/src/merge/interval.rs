//! The error bar of a percentile: a 95 % interval from order statistics, which assumes nothing about the distribution.
//!
//! Of n independent values, the number below the true q-quantile is binomial(n, q). So the interval between the l-th and
//! the u-th smallest covers it with probability P(l ≤ B < u); we take the narrowest ranks with at least 95 %, 2.5 % on
//! each side. With too few values for a rank to exist there is no interval, rather than a wide guess. Requests of one
//! run, and gaps of one stream even more, are not quite independent, so the true uncertainty is rather larger.

use tailcliff_proto::histogram::LatencyHistogram;

/// Probability left out on each side.
const TAIL: f64 = 0.025;
/// 97.5 % point of the standard normal.
const Z: f64 = 1.959_963_985;
/// Above this the normal approximation of the binomial moves a rank by less than the histogram's precision.
const EXACT_UP_TO: u64 = 10_000;

/// Ranks (1-based, of the sorted values) that enclose the `quantile` of `n` values with 95 %; `None` when n is too small.
pub fn ranks(n: u64, quantile: f64) -> Option<(u64, u64)> {
    if n == 0 || !(quantile > 0.0 && quantile < 1.0) {
        return None;
    }
    let (low, high) = if n <= EXACT_UP_TO { exact(n, quantile)? } else { normal(n, quantile) };
    (low >= 1 && high <= n).then_some((low, high))
}

fn exact(n: u64, q: f64) -> Option<(u64, u64)> {
    let odds = (q / (1.0 - q)).ln();
    let mut log_mass = n as f64 * (1.0 - q).ln();
    let mut cumulative = 0.0;
    let mut low = 0;
    for k in 0..n {
        cumulative += log_mass.exp();
        if cumulative <= TAIL {
            low = k + 1;
        }
        if cumulative >= 1.0 - TAIL {
            return Some((low, k + 1));
        }
        log_mass += ((n - k) as f64 / (k + 1) as f64).ln() + odds;
    }
    None
}

fn normal(n: u64, q: f64) -> (u64, u64) {
    let mean = n as f64 * q;
    let half = Z * (mean * (1.0 - q)).sqrt();
    ((mean - half).floor().max(0.0) as u64, (mean + half).ceil() as u64 + 1)
}

/// The 95 % interval of a quantile in ns, widened to the edges of the histogram's buckets.
pub fn of_histogram(histogram: &LatencyHistogram, quantile: f64) -> Option<(u64, u64)> {
    let (low, high) = ranks(histogram.len(), quantile)?;
    let hdr = histogram.hdr();
    Some((hdr.lowest_equivalent(at_rank(histogram, low)?), at_rank(histogram, high)?))
}

/// Upper edge of the bucket that holds the value of a rank.
fn at_rank(histogram: &LatencyHistogram, rank: u64) -> Option<u64> {
    let mut seen = 0u64;
    let mut recorded = histogram.hdr().iter_recorded();
    recorded.find_map(|step| {
        seen += step.count_since_last_iteration();
        (seen >= rank).then(|| step.value_iterated_to())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_tables() {
        // Conover, order-statistic intervals of the median.
        assert_eq!(ranks(5, 0.5), None);
        assert_eq!(ranks(6, 0.5), Some((1, 6)));
        assert_eq!(ranks(10, 0.5), Some((2, 9)));
        assert_eq!(ranks(20, 0.5), Some((6, 15)));
        // 1 − 0.95^n ≥ 0.975 first at n = 72: below, even the largest value may lie under the p95.
        assert_eq!(ranks(71, 0.95), None);
        assert_eq!(ranks(72, 0.95).unwrap().1, 72);
        assert_eq!(ranks(0, 0.5), None);
        assert_eq!(ranks(100, 1.0), None);
    }

    #[test]
    fn the_approximation_continues_the_exact_ranks() {
        let (low, high) = exact(EXACT_UP_TO, 0.95).unwrap();
        let (near_low, near_high) = normal(EXACT_UP_TO, 0.95);
        assert!(low.abs_diff(near_low) <= 3 && high.abs_diff(near_high) <= 3);
    }

    #[test]
    fn nineteen_of_twenty_intervals_cover_the_truth() {
        // Uniform on 0..1 s, so the true p95 is 0.95 s; 2,000 runs of 1,000.
        let mut random = fastrand::Rng::with_seed(7);
        let covered = (0..2000).filter(|_| {
            let mut histogram = LatencyHistogram::default();
            (0..1000).for_each(|_| histogram.record(random.i64(0..1_000_000_000)));
            let (low, high) = of_histogram(&histogram, 0.95).unwrap();
            (low..=high).contains(&950_000_000)
        });
        let share = covered.count() as f64 / 2000.0;
        assert!((0.945..0.98).contains(&share), "{share}");
    }
}
