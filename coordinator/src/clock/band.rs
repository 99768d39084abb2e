//! The feasible band: every offset line that all exchanges of a window allow, and what that says of one moment.
//!
//! Seen from a moment t, an exchange at tᵢ says L − ρ|tᵢ−t| ≤ θ + s·(tᵢ−t) ≤ U + ρ|tᵢ−t| for the offset θ and skew s at t.
//! That is a linear programme in two unknowns: for a given skew the offsets allowed form an interval whose lower end is
//! convex and whose upper end is concave in s, so searches on s find the line of widest margin (Moon et al. 1999, Huygens
//! 2018) and the extremes of θ. Only the hull of the bounds matters, which keeps a search short.

use super::{Exchange, MAX_SKEW, WANDER};

/// What the exchanges of a window say of the offset at one moment, ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// Line of widest margin, at the moment.
    pub theta: f64,
    /// Its slope, ns per ns.
    pub skew: f64,
    /// Smallest offset possible.
    pub lo: f64,
    /// Largest offset possible.
    pub hi: f64,
}

const SEARCH_STEPS: usize = 60;

/// Bounds on the offset at `at` (coordinator's clock), less `origin` (an offset near all of these, so that `f64` keeps
/// its nanoseconds); `None` when no line passes, or there is no exchange. Exchanges in order of time.
pub fn fit<'a>(exchanges: impl IntoIterator<Item = &'a Exchange>, at: i64, origin: i64) -> Option<Band> {
    let (mut upper, mut lower) = (Vec::new(), Vec::new());
    for exchange in exchanges {
        let x = (exchange.middle() - at) as f64;
        // The node read the ping at an unknown moment of the round trip, and its clock may run fast or slow in it.
        let slack = WANDER * x.abs() + MAX_SKEW * (exchange.t3 - exchange.t0) as f64 / 2.0;
        push_hull(&mut upper, (x, (exchange.t1 - exchange.t0 - origin) as f64 + slack), 1.0);
        push_hull(&mut lower, (x, (exchange.t2 - exchange.t3 - origin) as f64 - slack), -1.0);
    }
    if upper.is_empty() {
        return None;
    }
    let high = |s: f64| upper.iter().map(|(x, u)| u - s * x).fold(f64::INFINITY, f64::min);
    let low = |s: f64| lower.iter().map(|(x, l)| l - s * x).fold(f64::NEG_INFINITY, f64::max);
    let margin = |s: f64| high(s) - low(s);
    let skew = maximum(margin, -MAX_SKEW, MAX_SKEW);
    if margin(skew) < 0.0 {
        return None;
    }
    let (first, last) = (edge(margin, skew, -MAX_SKEW), edge(margin, skew, MAX_SKEW));
    let hi = high(maximum(high, first, last));
    let lo = low(maximum(|s| -low(s), first, last));
    Some(Band { theta: (high(skew) + low(skew)) / 2.0, skew, lo, hi })
}

/// Adds a point to the lower hull (`side` 1) or upper hull (`side` −1); points come in order of x.
fn push_hull(hull: &mut Vec<(f64, f64)>, point: (f64, f64), side: f64) {
    while let [.., a, b] = hull.as_slice() {
        let turn = (b.0 - a.0) * (point.1 - a.1) - (b.1 - a.1) * (point.0 - a.0);
        if turn * side > 0.0 {
            break;
        }
        hull.pop();
    }
    // Of two at one moment only the tighter counts.
    match hull.last() {
        Some(last) if last.0 == point.0 && (point.1 - last.1) * side >= 0.0 => {}
        _ => hull.push(point),
    }
}

/// Where a concave function is largest in [from, to], by golden section.
fn maximum(f: impl Fn(f64) -> f64, mut from: f64, mut to: f64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let (mut a, mut b) = (to - GOLDEN * (to - from), from + GOLDEN * (to - from));
    let (mut of_a, mut of_b) = (f(a), f(b));
    for _ in 0..SEARCH_STEPS {
        if of_a < of_b {
            (from, a, of_a) = (a, b, of_b);
            b = from + GOLDEN * (to - from);
            of_b = f(b);
        } else {
            (to, b, of_b) = (b, a, of_a);
            a = to - GOLDEN * (to - from);
            of_a = f(a);
        }
    }
    // The ends too: a maximum at an end is only approached from inside.
    let middle = (from + to) / 2.0;
    [from, middle, to].into_iter().fold(middle, |best, s| if f(s) > f(best) { s } else { best })
}

/// The last skew towards `end` at which the margin is not negative, by bisection; it is not negative at `inside`.
fn edge(margin: impl Fn(f64) -> f64, inside: f64, end: f64) -> f64 {
    if margin(end) >= 0.0 {
        return end;
    }
    let (mut good, mut bad) = (inside, end);
    for _ in 0..SEARCH_STEPS {
        let middle = (good + bad) / 2.0;
        if margin(middle) >= 0.0 { good = middle } else { bad = middle }
    }
    // The outer one: a bound must not be too tight by the search's own step.
    bad
}
