//! A Prometheus histogram with vLLM's buckets.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Upper bounds of time to first token, s.
pub(super) const TTFT_S: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
/// Of what is said of single tokens, s.
pub(super) const TOKEN_S: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
/// Of what is said of whole requests, s.
pub(super) const REQUEST_S: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];

#[derive(Debug)]
pub(super) struct Histogram {
    upper_s: &'static [f64],
    /// One more than bounds: the last is beyond them all.
    counts: Vec<AtomicU64>,
    sum_ns: AtomicI64,
}

impl Histogram {
    pub(super) fn new(upper_s: &'static [f64]) -> Self {
        let counts = (0..=upper_s.len()).map(|_| AtomicU64::new(0)).collect();
        Self { upper_s, counts, sum_ns: AtomicI64::new(0) }
    }

    pub(super) fn observe(&self, ns: i64) {
        let seconds = ns as f64 / 1e9;
        let bucket = self.upper_s.partition_point(|upper| *upper < seconds);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// Each bound as its label has it, and how many lie at or below it.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (String, u64)> {
        let bounds = self.upper_s.iter().map(|upper| format!("{upper:?}")).chain(["+Inf".to_owned()]);
        let mut below = 0;
        bounds.zip(&self.counts).map(move |(bound, count)| {
            below += count.load(Relaxed);
            (bound, below)
        })
    }

    pub(super) fn sum_s(&self) -> f64 {
        self.sum_ns.load(Relaxed) as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_at_a_bound_lies_in_its_bucket() {
        let histogram = Histogram::new(&TOKEN_S);
        [10_000_000, 10_000_001, 0, 81_000_000_000].into_iter().for_each(|ns| histogram.observe(ns));
        let all: Vec<(String, u64)> = histogram.cumulative().collect();
        assert_eq!((all[0].clone(), all[1].clone()), (("0.01".into(), 2), ("0.025".into(), 3)));
        assert_eq!((all[18].clone(), all[19].clone()), (("80.0".into(), 3), ("+Inf".into(), 4)));
        assert!((histogram.sum_s() - 81.020_000_001).abs() < 1e-9);
    }
}
