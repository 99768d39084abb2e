//! The curve of throughput over load that a knee is read from.
//!
//! A server that works on C requests at once takes b + p·C for each of them: a part that does not depend on the others
//! and one that each of them adds (weights read once a step against work for each sequence). So throughput is
//! X = C / (b + p·C), the interactive response-time law with a load-dependent service time (Denning & Buzen 1978), up
//! to a limit S on what it takes on (slots, KV cache, a link, a power cap), from which on it stays, falls or creeps as a
//! power of the load. In logarithms: y = a + ln x − ln(1 + q·x) below S, with q = p/b, and γ·ln(x/S) on top of its value
//! at S above. In open loop q is near 0: what arrives is answered.
//!
//! The **knee** is where the elasticity d ln X / d ln C falls below the plan's share: at S, or before it where the curve
//! itself bends so far, at x = (1 − g) / (g·q).

/// One level: what it asked for and what came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spot {
    /// Concurrency or offered rate.
    pub x: f64,
    /// ln of the throughput.
    pub y: f64,
    /// One over its variance.
    pub weight: f64,
}

/// A fitted curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curve {
    /// ln of the throughput per unit of load at little load.
    pub a: f64,
    /// Cost that each request adds over the cost that does not depend on it, per unit of load.
    pub q: f64,
    /// Where the limit lies; infinite when none shows.
    pub limit: f64,
    /// Elasticity beyond the limit.
    pub gamma: f64,
    /// Weighted sum of squared residuals.
    pub misfit: f64,
}

/// Steps of the limit between two neighbouring loads in the first pass.
const BETWEEN: usize = 2;
/// Values of q in the first pass, beside 0.
const COSTS: usize = 12;
/// Steps to a better neighbour, or to neighbours half as far.
const ZOOMS: usize = 24;
/// By how much a limit must lessen the misfit to be one: two more numbers would, of noise alone, take so much away in one
/// case of twenty (chi-squared with two degrees of freedom).
const LIMIT_WORTH: f64 = 6.0;
/// Fall of throughput beyond the limit that is still credible, as a power of load.
const GAMMA_MIN: f64 = -2.0;

impl Curve {
    /// ln of the throughput at a load.
    pub fn y(&self, x: f64) -> f64 {
        self.a + base(self.q, x.min(self.limit)) + self.gamma * (x / self.limit).ln().max(0.0)
    }

    /// Where the elasticity falls below `share`; infinite when nowhere.
    pub fn knee(&self, share: f64) -> f64 {
        let bend = if self.q > 0.0 { (1.0 - share) / (share * self.q) } else { f64::INFINITY };
        bend.min(self.limit)
    }

    /// The knee is where the curve itself bends, before any limit.
    pub fn bends(&self, share: f64) -> bool {
        self.knee(share) < self.limit
    }
}

fn base(q: f64, x: f64) -> f64 {
    x.ln() - (q * x).ln_1p()
}

/// Fits curves to spots at the same loads with the same weights, again and again: what depends on the loads alone is
/// computed once.
#[derive(Debug)]
pub struct Fitter {
    /// Loads and weights; the throughput of these is not used.
    spots: Vec<Spot>,
    share: f64,
    /// Every cost with every limit of the first pass, …
    grid: Vec<(f64, f64)>,
    /// … and for each of them the curve's shape at each load.
    shapes: Vec<Shape>,
    /// Ratios between neighbours in the grid.
    steps: (f64, f64),
}

/// A curve's value at a load, but for what is linear: `base`, and how far beyond the limit the load is.
#[derive(Clone, Copy, Debug)]
struct Shape {
    base: f64,
    beyond: f64,
}

fn shape(q: f64, limit: f64, x: f64) -> Shape {
    Shape { base: base(q, x.min(limit)), beyond: (x / limit).ln().max(0.0) }
}

impl Fitter {
    /// For spots at these loads, which must ascend; `None` for fewer than three. `share` is the elasticity from which on a
    /// limit is one.
    pub fn new(spots: &[Spot], share: f64) -> Option<Self> {
        let (first, last) = (spots.first()?, spots.last()?);
        if spots.len() < 3 {
            return None;
        }
        let (low, high) = (0.02 / last.x, 20.0 / first.x);
        let ratio = (high / low).powf(1.0 / (COSTS - 1) as f64);
        let costs = (0..COSTS).map(|i| low * ratio.powi(i as i32));
        let costs: Vec<f64> = std::iter::once(0.0).chain(costs).collect();
        let limits = limits(spots);
        let grid: Vec<(f64, f64)> =
            limits.iter().flat_map(|&limit| costs.iter().map(move |&q| (q, limit))).collect();
        let all = |&(q, limit): &(f64, f64)| spots.iter().map(move |spot| shape(q, limit, spot.x));
        let shapes = grid.iter().flat_map(all).collect();
        let steps = (ratio, widest(spots).powf(1.0 / BETWEEN as f64));
        Some(Self { spots: spots.to_vec(), share, grid, shapes, steps })
    }

    /// The curve nearest to these logarithms of throughput, one for each spot.
    pub fn fit(&self, y: &[f64]) -> Option<Curve> {
        let n = self.spots.len();
        let curves = self.grid.iter().zip(self.shapes.chunks(n));
        let curves = curves.map(|(&(q, limit), shapes)| self.curve((q, limit), shapes.iter().copied(), y));
        let (mut bent, mut broken): (Option<Curve>, Option<Curve>) = (None, None);
        for curve in curves {
            let best = if curve.limit.is_finite() { &mut broken } else { &mut bent };
            if best.is_none_or(|best| curve.misfit < best.misfit) {
                *best = Some(curve);
            }
        }
        let (bent, broken) = (self.zoom(bent?, y), self.zoom(broken?, y));
        Some(if broken.misfit + LIMIT_WORTH < bent.misfit { broken } else { bent })
    }

    /// The best near a curve: its neighbours' best again and again, nearer ones where none is better (pattern search).
    fn zoom(&self, mut best: Curve, y: &[f64]) -> Curve {
        let (Some(first), Some(last)) = (self.spots.first(), self.spots.last()) else { return best };
        let (mut cost_step, mut limit_step) = self.steps;
        for _ in 0..ZOOMS {
            let centre = best;
            let limits = if centre.limit.is_finite() { -1..=1 } else { 0..=0 };
            for (i, j) in limits.flat_map(|j| (-1..=1).map(move |i| (i, j))) {
                let q = centre.q * cost_step.powi(i);
                let limit = Some(centre.limit * limit_step.powi(j)).filter(|l| (first.x..last.x).contains(l));
                let limit = limit.unwrap_or(centre.limit);
                let near = self.curve((q, limit), self.spots.iter().map(|spot| shape(q, limit, spot.x)), y);
                if near.misfit < best.misfit {
                    best = near;
                }
            }
            if best == centre {
                (cost_step, limit_step) = (cost_step.sqrt(), limit_step.sqrt());
            }
        }
        best
    }

    /// The best curve with this cost and this limit: linear in what is left.
    fn curve(&self, (q, limit): (f64, f64), shapes: impl Iterator<Item = Shape> + Clone, y: &[f64]) -> Curve {
        let (mut w, mut wt, mut wtt, mut wr, mut wtr) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let all = || self.spots.iter().zip(shapes.clone()).zip(y);
        for ((spot, shape), y) in all() {
            let (t, r) = (shape.beyond, y - shape.base);
            w += spot.weight;
            wt += spot.weight * t;
            wtt += spot.weight * t * t;
            wr += spot.weight * r;
            wtr += spot.weight * t * r;
        }
        let determinant = w * wtt - wt * wt;
        let gamma = if determinant > 1e-9 * w * w { (w * wtr - wt * wr) / determinant } else { 0.0 };
        // What goes on rising as steeply as a knee allows is no limit.
        let gamma = gamma.clamp(GAMMA_MIN, self.share * 0.6);
        let a = (wr - gamma * wt) / w;
        let miss = |((spot, shape), y): ((&Spot, Shape), &f64)| {
            spot.weight * (y - a - shape.base - gamma * shape.beyond).powi(2)
        };
        Curve { a, q, limit, gamma, misfit: all().map(miss).sum() }
    }
}

/// The curve nearest to some spots, whose loads must ascend; `None` for fewer than three of them.
pub fn fit(spots: &[Spot], share: f64) -> Option<Curve> {
    let y: Vec<f64> = spots.iter().map(|spot| spot.y).collect();
    Fitter::new(spots, share)?.fit(&y)
}

/// Where a limit may lie: nowhere, or between the first and the last load.
fn limits(spots: &[Spot]) -> Vec<f64> {
    let between = |pair: &[Spot]| {
        let (from, ratio) = (pair[0].x, pair[1].x / pair[0].x);
        (0..BETWEEN).map(move |i| from * ratio.powf(i as f64 / BETWEEN as f64)).collect::<Vec<_>>()
    };
    std::iter::once(f64::INFINITY).chain(spots.windows(2).flat_map(between)).collect()
}

fn widest(spots: &[Spot]) -> f64 {
    spots.windows(2).map(|pair| pair[1].x / pair[0].x).fold(1.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spots(loads: &[f64], x: impl Fn(f64) -> f64) -> Vec<Spot> {
        loads.iter().map(|&c| Spot { x: c, y: x(c).ln(), weight: 1e4 }).collect()
    }

    #[test]
    fn slots_between_two_levels_are_found_where_they_are() {
        for slots in [5.0, 6.0, 7.3] {
            let spots =
                spots(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0], |c: f64| c.min(slots) / (1.0 + 0.02 * c.min(slots)));
            let curve = fit(&spots, 0.5).unwrap();
            assert!((curve.knee(0.5) / slots - 1.0).abs() < 0.01, "{slots}: {curve:?}");
            assert!(!curve.bends(0.5));
        }
    }

    #[test]
    fn a_cost_of_each_request_bends_the_curve_without_a_limit() {
        let spots = spots(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], |c| c / (1.0 + 0.1 * c));
        let curve = fit(&spots, 0.5).unwrap();
        assert!((curve.knee(0.5) / 10.0 - 1.0).abs() < 0.02, "{curve:?}");
        assert!(curve.bends(0.5));
        assert!(
            (curve.knee(0.25) / 30.0 - 1.0).abs() < 0.02,
            "elasticity 1 / (1 + 0.1 x) is a quarter at 30"
        );
    }

    #[test]
    fn throughput_that_falls_beyond_its_limit_is_followed() {
        let x = |c: f64| if c <= 12.0 { c } else { 12.0 * (c / 12.0).powf(-0.5) };
        let curve = fit(&spots(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0], x), 0.5).unwrap();
        assert!((curve.knee(0.5) / 12.0 - 1.0).abs() < 0.01, "{curve:?}");
        assert!((curve.gamma + 0.5).abs() < 0.01);
    }

    #[test]
    fn what_rises_all_the_way_has_no_knee_within() {
        let curve = fit(&spots(&[1.0, 2.0, 4.0, 8.0, 16.0], |c| c / (1.0 + 0.005 * c)), 0.5).unwrap();
        assert!(curve.knee(0.5) > 16.0, "{curve:?}");
        assert_eq!(fit(&spots(&[1.0, 2.0], |c| c), 0.5), None);
    }
}
