//! How well a window is known: by how much worse others explain what is shown, and by how far it moves when parts of what
//! was shown are left out.

use super::window::{Guess, Search};

/// A χ² of one freedom has 95 % below this.
const CHI_SQUARED: f64 = 3.84;
/// Parts of what is shown that are left out in turn, and Student's 95 % of so many.
pub(super) const PARTS: usize = 8;
const STUDENT: f64 = 2.36;

/// The 95 % half-width that follows from what was found with each part left out (the jackknife).
pub(super) fn jackknife(found: &[f64]) -> f64 {
    let n = found.len() as f64;
    let mean = found.iter().sum::<f64>() / n;
    let squares = found.iter().map(|w| (w - mean).powi(2)).sum::<f64>();
    STUDENT * ((n - 1.0) / n * squares).sqrt()
}

impl Search {
    /// Windows that explain what is shown not significantly worse.
    pub(super) fn interval(&self, best: Guess, curve: usize, blurred: bool) -> (f64, f64) {
        let (scale, offset) = self.scale(curve, blurred, best.window, best.delay);
        let left = move |(x, y): (f64, f64)| (y - offset - scale * x).powi(2).min(self.outlier);
        let squares = || self.predicted(curve, blurred, best.window, best.delay).map(left);
        // A few updates at jumps hold most of what is left: only they count as independent.
        let (sum, of_squares) = squares().fold((0.0, 0.0), |(a, b), s| (a + s, b + s * s));
        let counted = if of_squares > 0.0 { (sum * sum / of_squares).max(4.0) } else { 4.0 };
        let most = best.badness.max(1e-9 * self.spread) * (CHI_SQUARED / counted).exp();
        let bound = |up: bool| {
            let (mut near, mut far) = (0.0, 1.5_f64.ln());
            let at = |log: f64| best.window * if up { log.exp() } else { (-log).exp() };
            for _ in 0..6 {
                let middle = (near + far) / 2.0;
                if self.with_window(at(middle), best, curve, blurred) <= most {
                    near = middle
                } else {
                    far = middle
                }
            }
            at(far)
        };
        (bound(false), bound(true))
    }

    /// Badness of a window with the delay that suits it.
    fn with_window(&self, window: f64, best: Guess, curve: usize, blurred: bool) -> f64 {
        let of = |delay: f64| {
            let (window, delay) = self.within(window, delay);
            self.badness(curve, blurred, window, delay)
        };
        // The middle of the window stays about where it was.
        let mut delay = best.delay - (window - best.window) / 2.0;
        let (mut least, mut shift) = (of(delay), (window - best.window).abs() / 4.0 + 1e6);
        for _ in 0..4 {
            for d in [delay - shift, delay + shift] {
                let badness = of(d);
                if badness < least {
                    (least, delay) = (badness, d);
                }
            }
            shift /= 2.0;
        }
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rests_on_one_part_is_known_badly() {
        assert_eq!(jackknife(&[25.0; PARTS]), 0.0);
        // The mean of eight values is found with each left out: the half-width is that of the mean.
        let values = [21.0, 29.0, 24.0, 26.0, 22.0, 28.0, 25.0, 25.0];
        let without = values.map(|v| (200.0 - v) / 7.0);
        let error = (values.iter().map(|v| (v - 25.0_f64).powi(2)).sum::<f64>() / 7.0 / 8.0).sqrt();
        assert!((jackknife(&without) - STUDENT * error).abs() < 1e-9);
    }
}
