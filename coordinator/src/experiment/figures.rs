//! Exact figures of a few values: no histogram stands between, so that the extremes are the requests' own.

/// n values and what they come to, in their unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Ascending; never empty.
    pub values: Vec<f64>,
    /// Arithmetic mean.
    pub mean: f64,
}

impl Figures {
    /// `None` of nothing; what is no finite number is left out.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (!values.is_empty()).then_some(Self { values, mean })
    }

    /// How many.
    pub fn n(&self) -> usize {
        self.values.len()
    }

    /// Percentile by nearest rank: the smallest value that `percent` of all do not exceed, always one that was measured.
    pub fn at(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.values.len() as f64).ceil().max(1.0) as usize;
        self.values[rank.min(self.values.len()) - 1]
    }

    /// Smallest.
    pub fn min(&self) -> f64 {
        self.values[0]
    }

    /// Largest.
    pub fn max(&self) -> f64 {
        self.values[self.values.len() - 1]
    }

    /// Standard deviation of the sample; `None` of one value.
    pub fn std(&self) -> Option<f64> {
        let squares: f64 = self.values.iter().map(|v| (v - self.mean).powi(2)).sum();
        (self.n() > 1).then(|| (squares / (self.n() - 1) as f64).sqrt())
    }

    /// (largest − smallest) / median; `None` when the median is 0.
    pub fn spread(&self) -> Option<f64> {
        let median = self.at(50.0);
        (median > 0.0).then(|| (self.max() - self.min()) / median)
    }

    /// (from, to, how many) of equal bins over the whole range, the last one closed; one bin when all values are alike.
    pub fn bins(&self) -> Vec<(f64, f64, usize)> {
        let (low, high) = (self.min(), self.max());
        // Sturges: few values make few bins.
        let count = if high > low { (self.n() as f64).log2().ceil() as usize + 1 } else { 1 };
        let width = (high - low) / count as f64;
        let mut bins: Vec<_> =
            (0..count).map(|i| (low + i as f64 * width, low + (i + 1) as f64 * width, 0)).collect();
        for value in &self.values {
            let bin = if width > 0.0 { ((value - low) / width) as usize } else { 0 };
            bins[bin.min(count - 1)].2 += 1;
        }
        bins
    }

    /// Ends of a box plot's whiskers: the outermost values within 1.5 × the box's length of the box (Tukey).
    pub fn whiskers(&self) -> (f64, f64) {
        let (q1, q3) = (self.at(25.0), self.at(75.0));
        let reach = 1.5 * (q3 - q1);
        let inside = |v: &&f64| (q1 - reach..=q3 + reach).contains(*v);
        let low = self.values.iter().find(inside).copied();
        let high = self.values.iter().rev().find(inside).copied();
        (low.unwrap_or(q1), high.unwrap_or(q3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bins_hold_every_value_and_figures_are_in_order(values in proptest::collection::vec(0.0f64..1e9, 1..200)) {
            let figures = Figures::of(values.clone()).unwrap();
            prop_assert_eq!(figures.bins().iter().map(|b| b.2).sum::<usize>(), values.len());
            let row = [figures.min(), figures.at(25.0), figures.at(50.0), figures.at(95.0), figures.at(99.0), figures.max()];
            prop_assert!(row.windows(2).all(|pair| pair[0] <= pair[1]), "{:?}", row);
            prop_assert!(figures.values.contains(&figures.at(95.0)));
            let (low, high) = figures.whiskers();
            prop_assert!(low <= figures.at(25.0) && high >= figures.at(75.0));
        }
    }

    #[test]
    fn known_values() {
        let figures = Figures::of((1..=20).map(f64::from)).unwrap();
        assert_eq!((figures.at(50.0), figures.at(95.0), figures.at(99.0)), (10.0, 19.0, 20.0));
        assert_eq!((figures.mean, figures.n()), (10.5, 20));
        assert!((figures.std().unwrap() - 35f64.sqrt()).abs() < 1e-9);
        assert_eq!(figures.spread(), Some(1.9));
        let one = Figures::of([3.0]).unwrap();
        assert_eq!((one.at(99.0), one.std(), one.bins()), (3.0, None, vec![(3.0, 3.0, 1)]));
        assert_eq!(Figures::of([f64::NAN]), None);
        let far = Figures::of([1.0, 2.0, 3.0, 4.0, 100.0]).unwrap();
        assert_eq!(far.whiskers(), (1.0, 4.0));
    }
}
