//! How many answers came at once: between their first and last tokens, requests are worked on together.

use std::collections::BTreeMap;

use super::tally::Point;
use super::window::Window;

/// Share of a window in which more answers at once than are told may be under way.
const RARELY: f64 = 0.01;

/// Answers under way at once in a window: the mean, and what is rarely exceeded; `None` when there was none.
pub(super) fn at_once(window: Window, points: &[Point]) -> Option<(f64, f64)> {
    let clamped = |at: i64| at.clamp(window.start_ns, window.end_ns);
    let spans = points.iter().filter_map(|point| point.answer).map(|(from, to)| (clamped(from), clamped(to)));
    let mut edges: Vec<(i64, i64)> =
        spans.filter(|(from, to)| from < to).flat_map(|(from, to)| [(from, 1), (to, -1)]).collect();
    // At one moment ends come before beginnings.
    edges.sort_unstable();
    let (mut now, mut since, mut spent) = (0i64, window.start_ns, BTreeMap::<i64, i64>::new());
    for &(at, change) in edges.iter().chain(&[(window.end_ns, 0)]) {
        *spent.entry(now).or_default() += at - since;
        (now, since) = (now + change, at);
    }
    let length = (window.end_ns - window.start_ns) as f64;
    let mean = spent.iter().map(|(n, ns)| *n as f64 * *ns as f64).sum::<f64>() / length;
    let mut left = length * RARELY;
    let most = spent.iter().rev().find(|(_, ns)| {
        left -= **ns as f64;
        left < 0.0
    });
    most.map(|(n, _)| (mean, *n as f64)).filter(|_| !edges.is_empty())
}
