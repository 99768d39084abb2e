//! Is a level's window steady? What still drifts at its start is cut off, and one that drifts to its end does not count.
//!
//! The cut is MSER's (White 1997): as many leading batches as make the standard error of the mean of the rest the
//! smallest, half of them at most. What is left is held against a trend (least squares, Student's t).

/// Drift over the whole rest, as a share of its mean, below which a trend does not matter.
const DRIFT_MIN: f64 = 0.05;
/// Student's t beyond which a trend is no chance: 99.9 % for some ten batches, as each level is asked twice and a sweep
/// has twenty levels.
const T_MIN: f64 = 5.0;
/// What a cut must make of the error's square to be worth what it throws away.
const WORTH: f64 = 0.6;
/// Fewer batches tell of no trend.
const BATCHES_MIN: usize = 5;

/// What a window's batches say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Steady {
    /// Leading batches to leave out.
    pub cut: usize,
    /// Change over the rest as a share of its mean, when that is no chance.
    pub drift: Option<f64>,
}

/// Judges a series of batch means.
pub fn judge(series: &[f64]) -> Steady {
    let cut = mser(series);
    let drift = trend(&series[cut..]).filter(|(drift, t)| drift.abs() > DRIFT_MIN && t.abs() > T_MIN);
    Steady { cut, drift: drift.map(|(drift, _)| drift) }
}

/// How many leading values to leave out.
fn mser(series: &[f64]) -> usize {
    let error = |cut: usize| {
        let rest = &series[cut..];
        let (mean, n) = (mean(rest), rest.len() as f64);
        rest.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n * n)
    };
    let cuts = (0..=series.len() / 2).filter(|cut| series.len() - cut >= 2);
    let best = cuts.min_by(|a, b| error(*a).total_cmp(&error(*b))).unwrap_or(0);
    // Luck alone makes some cut look a little better than none.
    if best > 0 && error(best) < error(0) * WORTH { best } else { 0 }
}

/// Change from first to last as a share of the mean, and its t.
fn trend(series: &[f64]) -> Option<(f64, f64)> {
    let n = series.len();
    if n < BATCHES_MIN {
        return None;
    }
    let (mean, middle) = (mean(series), (n - 1) as f64 / 2.0);
    let spread: f64 = (0..n).map(|i| (i as f64 - middle).powi(2)).sum();
    let slope =
        series.iter().enumerate().map(|(i, x)| (i as f64 - middle) * (x - mean)).sum::<f64>() / spread;
    let left: f64 =
        series.iter().enumerate().map(|(i, x)| (x - mean - slope * (i as f64 - middle)).powi(2)).sum();
    let error = (left / (n - 2) as f64 / spread).sqrt();
    let drift = slope * (n - 1) as f64 / mean;
    (mean > 0.0).then_some((drift, if error > 0.0 { slope / error } else { f64::INFINITY * slope.signum() }))
}

fn mean(series: &[f64]) -> f64 {
    series.iter().sum::<f64>() / series.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, n: usize) -> Vec<f64> {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..n).map(|_| 100.0 + 4.0 * (random.f64() + random.f64() + random.f64() - 1.5)).collect()
    }

    #[test]
    fn a_steady_window_stays_as_it_is_mostly() {
        let judged: Vec<Steady> = (0..1_000).map(|seed| judge(&noise(seed, 12))).collect();
        let drifting = judged.iter().filter(|s| s.drift.is_some()).count();
        let cut = judged.iter().map(|s| s.cut).sum::<usize>() as f64 / 1_000.0;
        assert!(drifting <= 10, "{drifting} of 1,000 steady windows drift");
        assert!(cut < 3.0, "{cut} of 12 batches are cut on average");
    }

    #[test]
    fn a_start_that_still_warms_up_is_cut_off() {
        for seed in 0..50 {
            let mut series = noise(seed, 20);
            series[..4].iter_mut().zip([0.3, 0.5, 0.7, 0.85]).for_each(|(x, part)| *x *= part);
            let judged = judge(&series);
            assert!(judged.cut >= 4 && judged.drift.is_none(), "{judged:?}");
        }
    }

    #[test]
    fn what_drifts_all_along_is_told() {
        for seed in 0..50 {
            let mut series = noise(seed, 20);
            series.iter_mut().enumerate().for_each(|(i, x)| *x *= 1.0 - 0.015 * i as f64);
            let judged = judge(&series);
            assert!(judged.drift.is_some_and(|drift| drift < -0.08), "{judged:?}");
        }
    }

    #[test]
    fn nothing_is_no_trend() {
        assert_eq!(judge(&[]), Steady::default());
        assert_eq!(judge(&[1.0]), Steady::default());
        assert_eq!(judge(&[0.0; 8]).drift, None);
    }
}
