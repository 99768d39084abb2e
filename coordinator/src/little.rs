//! Little's law, L = λW, as a check on our own books. L comes from a gauge that is sampled on its own beat, λ and W from
//! the records; were all three from records, the law would hold by arithmetic and prove nothing. In a finite window it is
//! exact when a request that an edge cuts counts in λ and W by its share inside; what then remains is requests that the
//! one side knows and the other does not.

use std::collections::BTreeMap;

use crate::merge::tally::Point;
use crate::merge::window::Window;
use crate::stored::Incarnation;

/// Fewer gauge samples of an agent in the window do not make an average.
const MIN_SAMPLES: usize = 10;
/// Fewer ended requests do not make a rate.
const MIN_ENDED: usize = 20;
/// A gauge sampled a few times a second says little of less than this in flight, such as the tries of a dead server.
const MIN_IN_FLIGHT: f64 = 0.5;

/// The three terms and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Little {
    /// L: streams in flight, averaged over the window's time, all agents together.
    pub in_flight: f64,
    /// λ: requests per second, however they ended, each by its share in the window.
    pub rate_per_s: f64,
    /// W: their mean time from issue to end, weighted alike, s.
    pub mean_s: f64,
    /// (L − λW) / L.
    pub residual: f64,
    /// Two standard errors of L for its few samples, as a share of L: what chance alone explains of the residual.
    pub chance: f64,
}

/// Checks a window. `None` when an agent's gauge, the requests or the length are too little to tell.
pub(crate) fn check(
    window: Window,
    agents: &[Incarnation],
    gauges: &BTreeMap<Incarnation, Vec<(i64, u32)>>,
    points: &[Point],
) -> Option<Little> {
    let (in_flight, variance) = gauged(window, agents, gauges)?;
    if in_flight < MIN_IN_FLIGHT || points.iter().filter(|p| window.holds(p.done_ns)).count() < MIN_ENDED {
        return None;
    }
    let (mut shares, mut spent_s) = (0.0, 0.0);
    for point in points {
        let life = point.done_ns.saturating_sub(point.issued_ns);
        if life > 0 {
            let inside = window.overlap_ns(point.issued_ns, point.done_ns) as f64;
            shares += inside / life as f64;
            spent_s += inside / 1e9;
        }
    }
    let (rate_per_s, mean_s) = (shares / window.seconds(), spent_s / shares);
    let residual = (in_flight - rate_per_s * mean_s) / in_flight;
    let chance = 2.0 * variance.sqrt() / in_flight;
    mean_s.is_finite().then_some(Little { in_flight, rate_per_s, mean_s, residual, chance })
}

/// Streams in flight, averaged over a window, all agents together; `None` when an agent's gauge is too little to tell.
pub(crate) fn in_flight(
    window: Window,
    agents: &[Incarnation],
    gauges: &BTreeMap<Incarnation, Vec<(i64, u32)>>,
) -> Option<f64> {
    gauged(window, agents, gauges).map(|(mean, _)| mean)
}

fn gauged(
    window: Window,
    agents: &[Incarnation],
    gauges: &BTreeMap<Incarnation, Vec<(i64, u32)>>,
) -> Option<(f64, f64)> {
    let (mut mean, mut variance) = (0.0, 0.0);
    for of in agents {
        let (of_mean, of_variance) = average(window, gauges.get(of)?)?;
        mean += of_mean;
        variance += of_variance;
    }
    Some((mean, variance))
}

/// Average over time of a gauge, each sample holding until the next, and the variance of that average if the samples know
/// nothing of one another.
fn average(window: Window, samples: &[(i64, u32)]) -> Option<(f64, f64)> {
    let mut inside: Vec<_> = samples.iter().copied().filter(|(at, _)| window.holds(*at)).collect();
    inside.sort_unstable();
    if inside.len() < MIN_SAMPLES {
        return None;
    }
    let next = inside.iter().skip(1).map(|(at, _)| *at).chain([window.end_ns]);
    let area: i128 =
        inside.iter().zip(next).map(|((at, n), next)| i128::from(next - at) * i128::from(*n)).sum();
    let mean = area as f64 / (window.end_ns - inside[0].0) as f64;
    let squares: f64 = inside.iter().map(|(_, n)| (f64::from(*n) - mean).powi(2)).sum();
    let n = inside.len() as f64;
    Some((mean, squares / (n * (n - 1.0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::window::Rule;
    use tailcliff_proto::v1::Outcome;

    const MS: i64 = 1_000_000;

    fn window() -> Window {
        Window { rule: Rule::Duration, start_ns: 0, end_ns: 10_000 * MS }
    }

    /// Four streams, each 100 ms a request, back to back for 10 s.
    fn points() -> Vec<Point> {
        let one = |i: i64| Point {
            answer: None,
            intended_ns: i / 4 * 100 * MS,
            issued_ns: i / 4 * 100 * MS,
            connecting_ns: 0,
            done_ns: (i / 4 + 1) * 100 * MS - 1,
            outcome: Outcome::Completed,
            measured: true,
            first: true,
            input_tokens: 0,
            output_tokens: 0,
            good: false,
        };
        (0..400).map(one).collect()
    }

    fn gauge(n: u32) -> Vec<(i64, u32)> {
        (0..100).map(|i| (i * 100 * MS, n)).collect()
    }

    #[test]
    fn books_that_agree_have_no_residual() {
        let gauges = BTreeMap::from([(1, gauge(3)), (2, gauge(1))]);
        let little = check(window(), &[1, 2], &gauges, &points()).unwrap();
        assert!((little.in_flight - 4.0).abs() < 1e-9 && (little.rate_per_s - 40.0).abs() < 1e-9);
        assert!(little.residual.abs() < 1e-6, "{little:?}");
    }

    #[test]
    fn requests_cut_by_the_windows_edges_are_no_disagreement() {
        let gauges = BTreeMap::from([(1, gauge(4))]);
        // Lives of 3 s in a window of 6 s that begins and ends within them; 48 of them end inside.
        let one = |i: i64| Point { done_ns: (i / 24 * 3_000 + 3_000) * MS, ..points()[0] };
        let long: Vec<_> = (0..96).map(|i| Point { issued_ns: i / 24 * 3_000 * MS, ..one(i) }).collect();
        let cut = Window { start_ns: 2_000 * MS, end_ns: 8_000 * MS, ..window() };
        let all = BTreeMap::from([(1, gauge(24))]);
        let little = check(cut, &[1], &all, &long).unwrap();
        assert!(little.residual.abs() < 1e-6, "{little:?}");
        assert!(
            check(cut, &[1], &gauges, &long).unwrap().residual < -1.0,
            "a gauge of four is another story"
        );
    }

    #[test]
    fn requests_missing_from_the_books_show() {
        let gauges = BTreeMap::from([(1, gauge(4))]);
        let half: Vec<_> = points().into_iter().step_by(2).collect();
        let little = check(window(), &[1], &gauges, &half).unwrap();
        assert!((little.residual - 0.5).abs() < 1e-6, "{little:?}");
    }

    #[test]
    fn thin_evidence_is_none() {
        let gauges = BTreeMap::from([(1, gauge(4))]);
        assert!(check(window(), &[1, 2], &gauges, &points()).is_none(), "an agent without a gauge");
        assert!(check(window(), &[1], &gauges, &points()[..19]).is_none(), "few requests");
        let idle = BTreeMap::from([(1, gauge(0))]);
        assert!(check(window(), &[1], &idle, &points()).is_none(), "next to nothing in flight");
        let sparse = BTreeMap::from([(1, gauge(4)[..9].to_vec())]);
        assert!(check(window(), &[1], &sparse, &points()).is_none(), "few samples");
    }
}
