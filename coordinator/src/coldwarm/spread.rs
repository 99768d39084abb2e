//! Smallest, middle and largest of a few values, and whether they are close.

use serde::Serialize;

/// Largest spread of what counts as stable.
pub(super) const STABLE_PCT: f64 = 10.0;
/// Fewer values than this show no spread.
const LEAST: usize = 3;

/// Of some values in one unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// How many.
    pub n: usize,
    /// The smallest.
    pub min: f64,
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// `None` without a value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut all: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        all.sort_by(f64::total_cmp);
        let (n, min, max) = (all.len(), *all.first()?, *all.last()?);
        Some(Self { n, min, median: f64::midpoint(all[(n - 1) / 2], all[n / 2]), max })
    }

    /// (max − min) / median, %; `None` where that is no number.
    pub fn pct(&self) -> Option<f64> {
        (self.median > 0.0).then(|| (self.max - self.min) / self.median * 100.0)
    }

    /// At least 3 values, which spread by 10 % of their median at most.
    pub fn is_stable(&self) -> Option<bool> {
        (self.n >= LEAST).then(|| self.pct().is_some_and(|pct| pct <= STABLE_PCT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_largest_less_smallest_over_median() {
        let spread = Spread::of([1.0, 1.2, 1.1, 0.9]).unwrap();
        assert!((spread.median - 1.05).abs() < 1e-12 && (spread.pct().unwrap() - 28.571).abs() < 1e-2);
        assert_eq!(spread.is_stable(), Some(false));
        assert_eq!(Spread::of([1.0, 1.05, 1.1]).unwrap().is_stable(), Some(true));
        assert_eq!(Spread::of([1.0, 1.0]).unwrap().is_stable(), None);
        assert_eq!(Spread::of([f64::NAN]), None);
        assert_eq!(Spread::of([0.0; 3]).unwrap().pct(), None);
    }
}
