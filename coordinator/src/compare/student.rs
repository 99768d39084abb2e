//! Student's t: the error of an estimate that is itself estimated from few blocks.

/// Two-sided probability of a t at least so large; `df` > 0.
pub(super) fn two_sided(t: f64, df: f64) -> f64 {
    if t.is_infinite() {
        return 0.0;
    }
    incomplete_beta(df / 2.0, 0.5, df / (df + t * t))
}

/// The t that is exceeded on both sides together with probability `p`: bisection of [`two_sided`].
pub(super) fn quantile(p: f64, df: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1e4);
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        if two_sided(middle, df) > p { low = middle } else { high = middle }
    }
    high
}

/// Regularised incomplete beta function (DLMF 8.17), by its continued fraction (8.17.22) evaluated forwards.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // The fraction converges fast on this side only.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front = (a * x.ln() + b * (1.0 - x).ln() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b)).exp() / a;
    let term = |n: usize| {
        let m = (n / 2) as f64;
        if n.is_multiple_of(2) {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        }
    };
    // Backwards from far enough: each level of the fraction is 1 + term / next.
    let fraction = (1..=300).rev().fold(1.0, |below, n| 1.0 + term(n) / below);
    (front / fraction).clamp(0.0, 1.0)
}

/// Stirling's series (DLMF 5.11.1) from 8 on, and the recurrence below.
fn ln_gamma(x: f64) -> f64 {
    if x < 8.0 {
        return ln_gamma(x + 1.0) - x.ln();
    }
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5))
        - 1.0 / (1680.0 * x.powi(7));
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_tables() {
        for (df, t) in [(1.0, 12.706), (4.0, 2.776), (9.0, 2.262), (19.0, 2.093), (38.0, 2.024), (1e6, 1.960)]
        {
            assert!((two_sided(t, df) - 0.05).abs() < 1e-4, "{df}: {}", two_sided(t, df));
            assert!((quantile(0.05, df) - t).abs() < 1e-3, "{df}: {}", quantile(0.05, df));
        }
        assert_eq!((two_sided(0.0, 5.0), two_sided(f64::INFINITY, 5.0)), (1.0, 0.0));
        // With one degree of freedom it is Cauchy's, which has a closed form.
        for t in [0.1, 1.0, 3.0, 50.0] {
            let cauchy = 1.0 - 2.0 * f64::atan(t) / std::f64::consts::PI;
            assert!((two_sided(t, 1.0) - cauchy).abs() < 1e-9, "{t}");
        }
    }
}
