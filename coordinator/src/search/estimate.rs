//! Knee and cliff with their intervals, from all levels of a search at once.
//!
//! The interval is a bootstrap's: within each level its batches are drawn again with replacement, those of all repeats of
//! one load together, and the curve is fitted anew; what the middle 95 % of the replicates say is the interval. Batches
//! are few, so each draw's distance from its level's mean is stretched by √(n / (n − 1)), which makes its variance that
//! of a mean. Where the curve misses the levels by more than their noise, the interval is stretched by as much.

use super::fit::{Curve, Fitter, Spot};
use super::seen::{Batch, rate};

/// Probability that an interval leaves out on each side.
const TAIL: f64 = 0.025;
/// Noise below which no level's throughput is trusted, relative: what a model of three numbers leaves out.
const NOISE_MIN: f64 = 0.003;
/// The same levels give the same interval.
const SEED: u64 = 0x7a11_c11f;

/// All that was seen of one load.
#[derive(Clone, Debug)]
pub struct Rung<'a> {
    /// Where it lies on the axis.
    pub x: f64,
    /// Of all its repeats.
    pub batches: Vec<&'a Batch>,
}

/// A place on the axis and the interval that holds it with 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Best guess.
    pub at: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end; infinite where the levels do not tell.
    pub high: f64,
}

impl Estimate {
    /// Length of the interval.
    pub fn width(&self) -> f64 {
        self.high - self.low
    }
}

/// Knee by the fitted curve, with the curve; `None` with fewer than three rungs, or no knee below the highest.
pub fn knee(rungs: &[Rung<'_>], share: f64, whole: bool, draws: usize) -> Option<(Estimate, Curve)> {
    let spots = spots(rungs)?;
    let fitter = Fitter::new(&spots, share)?;
    let curve = fitter.fit(&spots.iter().map(|spot| spot.y).collect::<Vec<_>>())?;
    // Below the lowest load nothing was looked at.
    let (first, top) = (spots.first()?.x, spots.last()?.x);
    let at = curve.knee(share).max(first);
    if at >= top {
        return None;
    }
    let freedom = (spots.len() as f64 - 4.0).max(1.0);
    let stretch = (curve.misfit / freedom).sqrt().max(1.0);
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut logs: Vec<f64> = (0..draws)
        .filter_map(|_| {
            let drawn =
                rungs.iter().zip(&spots).map(|(rung, spot)| draw(rung, spot, stretch, !whole, &mut random));
            let knee = fitter.fit(&drawn.collect::<Vec<_>>())?.knee(share).max(first);
            Some(if knee < top { knee.ln() } else { f64::INFINITY })
        })
        .collect();
    let (low, high) = middle(&mut logs)?;
    let of = widened(at, low.exp(), high.exp(), whole);
    Some((Estimate { low: of.low.max(first), ..of }, curve))
}

/// First load whose tail exceeds `multiple` times that of the lowest; `None` when none does. `percentile` in percent.
pub fn cliff(
    rungs: &[Rung<'_>],
    percentile: f64,
    multiple: f64,
    whole: bool,
    draws: usize,
) -> Option<Estimate> {
    let quantile = percentile / 100.0;
    let tail = |rung: &Rung<'_>| tail(rung.batches.iter().copied(), quantile);
    let tails: Vec<(f64, f64)> = rungs.iter().filter_map(|rung| Some((rung.x, tail(rung)?))).collect();
    let at = crossing(&tails, multiple)?;
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut logs: Vec<f64> = (0..draws)
        .map(|_| {
            let drawn: Vec<(f64, f64)> = rungs
                .iter()
                .filter_map(|rung| {
                    let n = rung.batches.len();
                    let again = (0..n).map(|_| rung.batches[random.usize(..n)]);
                    Some((rung.x, self::tail(again, quantile)?))
                })
                .collect();
            crossing(&drawn, multiple).map_or(f64::INFINITY, f64::ln)
        })
        .collect();
    let (low, high) = middle(&mut logs)?;
    Some(widened(at, low.exp(), high.exp(), whole))
}

/// Loads of a closed loop are whole: nothing is known to less than half a stream.
fn widened(at: f64, low: f64, high: f64, whole: bool) -> Estimate {
    let half = if whole { 0.5 } else { 0.0 };
    Estimate { at, low: low.min(at - half), high: high.max(at + half) }
}

/// The middle 95 % of some values.
fn middle(values: &mut [f64]) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let rank = |share: f64| ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    Some((*values.get(rank(TAIL))?, *values.get(rank(1.0 - TAIL))?))
}

fn spots(rungs: &[Rung<'_>]) -> Option<Vec<Spot>> {
    let noise = noise(rungs)?;
    let spot = |rung: &Rung<'_>| {
        let per_s = rate(rung.batches.iter().copied());
        let done: f64 = rung.batches.iter().map(|b| b.completed).sum();
        let variance = noise / done + NOISE_MIN * NOISE_MIN;
        Spot { x: rung.x, y: per_s.ln(), weight: 1.0 / variance }
    };
    rungs
        .iter()
        .all(|rung| rate(rung.batches.iter().copied()) > 0.0)
        .then(|| rungs.iter().map(spot).collect())
}

/// Relative variance of a throughput times the requests that it counts: much the same at all loads of a server, and told
/// by all batches together where those of one level are few. 1 would be independent arrivals.
fn noise(rungs: &[Rung<'_>]) -> Option<f64> {
    let (mut sum, mut freedom) = (0.0, 0.0);
    for rung in rungs.iter().filter(|rung| rung.batches.len() > 1) {
        let mean = rate(rung.batches.iter().copied());
        let of = |b: &&Batch| (b.completed / b.seconds / mean - 1.0).powi(2) * mean * b.seconds;
        sum += rung.batches.iter().map(of).sum::<f64>();
        freedom += rung.batches.len() as f64 - 1.0;
    }
    (freedom > 0.0 && f64::is_finite(sum)).then(|| sum / freedom)
}

/// ln of a level's throughput with its batches drawn again.
fn draw(rung: &Rung<'_>, spot: &Spot, stretch: f64, is_open: bool, random: &mut fastrand::Rng) -> f64 {
    let n = rung.batches.len();
    if n < 2 {
        return spot.y;
    }
    let again = (0..n).map(|_| rung.batches[random.usize(..n)]);
    // In open loop what is drawn is the share of the arrivals that was answered: their luck is in the load as well.
    let value = |batches: &[&Batch]| {
        let whole = rate(batches.iter().copied());
        if is_open { whole / arrivals(batches) } else { whole }
    };
    let again: Vec<&Batch> = again.collect();
    let ratio = Some(value(&again) / value(&rung.batches)).filter(|ratio| ratio.is_finite()).unwrap_or(1.0);
    let few = (n as f64 / (n as f64 - 1.0)).sqrt();
    // What a curve of three numbers leaves out is no less than this.
    let model = NOISE_MIN * (0..12).map(|_| random.f64() - 0.5).sum::<f64>();
    spot.y + (ratio.max(0.1).ln() * few + model) * stretch
}

/// Requests per second that arrived over some batches.
pub(super) fn arrivals(batches: &[&Batch]) -> f64 {
    let seconds: f64 = batches.iter().map(|batch| batch.seconds).sum();
    batches.iter().map(|batch| batch.arrived).sum::<f64>() / seconds
}

fn tail<'a>(batches: impl Iterator<Item = &'a Batch>, quantile: f64) -> Option<f64> {
    let mut values: Vec<i64> = batches.flat_map(|b| b.values.iter().copied()).collect();
    let rank = ((values.len() as f64 * quantile).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    if values.is_empty() {
        return None;
    }
    let (_, value, _) = values.select_nth_unstable(rank);
    (*value > 0).then_some(*value as f64)
}

/// Where a tail crosses a multiple of the first one, between two levels in logarithms. A level below the one before it is
/// luck: both are taken as their mean (isotonic regression by pooling neighbours).
fn crossing(tails: &[(f64, f64)], multiple: f64) -> Option<f64> {
    let level = tails.first()?.1.ln() + multiple.ln();
    let smooth = rising(tails.iter().skip(1).map(|(_, tail)| tail.ln()));
    let smooth: Vec<(f64, f64)> =
        tails.iter().map(|(x, _)| x.ln()).zip(std::iter::once(tails.first()?.1.ln()).chain(smooth)).collect();
    let found = smooth.windows(2).find(|pair| pair[1].1 > level)?;
    let ((x0, y0), (x1, y1)) = (found[0], found[1]);
    let part = if y1 > y0 { ((level - y0) / (y1 - y0)).clamp(0.0, 1.0) } else { 1.0 };
    Some((x0 + part * (x1 - x0)).exp())
}

fn rising(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for value in values {
        pools.push((value, 1));
        while let [.., (a, n), (b, m)] = pools[..]
            && a > b
        {
            pools.truncate(pools.len() - 2);
            pools.push(((a * n as f64 + b * m as f64) / (n + m) as f64, n + m));
        }
    }
    pools.into_iter().flat_map(|(value, n)| std::iter::repeat_n(value, n)).collect()
}
