//! What power really was, from the finest that was read: means over cells that follow on each other, of the driver's own
//! sample buffer or of two steps of the energy counter. A cell hides where in it power jumped; where both neighbours of
//! one or two cells stand still, the jump is put to where it keeps the energy (Harten's subcell resolution).

use super::changes::{Period, Update, quantile};

/// Cells further apart than so many usual ones have a hole between them.
const HOLE: f64 = 8.0;
/// Updates to either side that smooth an energy step's time.
const SMOOTHED_OVER: usize = 8;
/// Grid of a curve: at least, ns; and at most this many points.
const STEP_NS: f64 = 1e6;
const MOST_POINTS: usize = 1 << 16;
/// A jump is at least this share of the range of power.
const JUMP: f64 = 0.15;
/// Cells from this length on hide whole pulses, ns.
pub(crate) const COARSE_NS: f64 = 50e6;
/// Power stands still within this share of it.
const STILL: f64 = 0.05;

/// Mean power over spans that follow on each other: the newest stretch without a hole.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cells {
    /// Edges, ns after `zero_ns`: one more than values.
    edges: Vec<f64>,
    /// W.
    watts: Vec<f64>,
    pub(crate) zero_ns: i64,
    /// Usual length, ns.
    pub(crate) spacing_ns: f64,
}

/// Power and its first two integrals on a fine grid, about its mean so that no digits are lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Curve {
    zero_ns: i64,
    from: f64,
    step: f64,
    pub(crate) mean: f64,
    watts: Vec<f64>,
    once: Vec<f64>,
    twice: Vec<f64>,
}

impl Cells {
    /// Of (stamp, mean since the stamp before it); stamps ascend.
    pub(crate) fn of_samples(samples: &[(i64, f64)]) -> Option<Self> {
        let zero_ns = samples.first()?.0;
        let edges: Vec<f64> = samples.iter().map(|(at, _)| at.saturating_sub(zero_ns) as f64).collect();
        Self { edges, watts: samples.iter().skip(1).map(|s| s.1).collect(), zero_ns, spacing_ns: 0.0 }
            .newest()
    }

    /// Of steps of an energy counter, J.
    pub(crate) fn of_energy(steps: &[Update], period: Option<Period>) -> Option<Self> {
        let zero_ns = steps.first()?.after_ns;
        let edges = smoothed(steps, period, zero_ns);
        let watts = steps.windows(2).zip(edges.windows(2)).map(|(step, edge)| {
            // A counter that went backwards was reset: what it says of that span is worth nothing.
            let joules = step[1].value - step[0].value;
            if joules >= 0.0 { joules / ((edge[1] - edge[0]) / 1e9) } else { f64::NAN }
        });
        let watts = watts.collect();
        Self { edges, watts, zero_ns, spacing_ns: 0.0 }.newest()
    }

    fn newest(mut self) -> Option<Self> {
        let mut lengths: Vec<f64> = self.edges.windows(2).map(|e| e[1] - e[0]).collect();
        lengths.sort_unstable_by(f64::total_cmp);
        self.spacing_ns = quantile(&lengths, 0.5);
        let whole = |i: usize| {
            let length = self.edges[i + 1] - self.edges[i];
            length > 0.0 && length < HOLE * self.spacing_ns && self.watts[i].is_finite()
        };
        let broken = (0..self.watts.len()).rev().find(|i| !whole(*i)).map_or(0, |i| i + 1);
        self.edges.drain(..broken);
        self.watts.drain(..broken);
        (self.watts.len() >= 2).then_some(self)
    }

    /// Between the 5 % and the 95 % of power, W.
    pub(crate) fn range(&self) -> (f64, f64) {
        let mut sorted = self.watts.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        (quantile(&sorted, 0.05), quantile(&sorted, 0.95))
    }

    pub(crate) fn len(&self) -> usize {
        self.watts.len()
    }

    /// Power as the cells have it.
    pub(crate) fn plain(&self) -> Curve {
        Curve::of(self.zero_ns, &self.edges, &self.watts)
    }

    /// Power with jumps in one or two cells put to one moment.
    pub(crate) fn sharpened(&self) -> Curve {
        let (low, high) = self.range();
        let (mut edges, mut watts) = (vec![self.edges[0]], Vec::with_capacity(self.watts.len()));
        let mut i = 0;
        while i < self.watts.len() {
            if let Some((length, at)) = self.jumps(i, JUMP * (high - low)) {
                edges.extend([at, self.edges[i + length]]);
                watts.extend([self.watts[i - 1], self.watts[i + length]]);
                i += length;
            } else {
                edges.push(self.edges[i + 1]);
                watts.push(self.watts[i]);
                i += 1;
            }
        }
        Curve::of(self.zero_ns, &edges, &watts)
    }

    /// Spans in which it is not known when power moved, ns: cells that neither stand still with a neighbour nor hold one jump.
    pub(crate) fn unsure(&self) -> Vec<(f64, f64)> {
        let (low, high) = self.range();
        let still = |i: usize, j: usize| {
            self.watts.get(j).is_some_and(|w| (w - self.watts[i]).abs() < STILL * (high - low))
        };
        let mut spans = Vec::new();
        let mut i = 0;
        while i < self.watts.len() {
            let jump = self.jumps(i, JUMP * (high - low)).map(|(length, _)| length);
            if jump.is_none() && !still(i, i + 1) && !(i > 0 && still(i, i - 1)) {
                spans.push((self.edges[i], self.edges[i + 1]));
            }
            i += jump.unwrap_or(1);
        }
        spans
    }

    /// How many cells from `i` hold one jump, and when it is. Short cells are those of a buffer, which smooths a little: there
    /// it can show in two.
    fn jumps(&self, i: usize, least: f64) -> Option<(usize, f64)> {
        let most = if self.spacing_ns < COARSE_NS { 2 } else { 1 };
        (1..=most).find_map(|length| Some((length, self.jump(i, length, least)?)))
    }

    /// When, in the `length` cells from `i`, power jumps from one level to another; `None` when they do not look so.
    fn jump(&self, i: usize, length: usize, least: f64) -> Option<f64> {
        let j = i + length;
        if i == 0 || j >= self.watts.len() {
            return None;
        }
        let (a, b) = (self.watts[i - 1], self.watts[j]);
        let rise = b - a;
        let between = self.watts[i - 1..=j].windows(2).all(|w| (w[1] - w[0]) * rise > 0.0);
        let goes_on = |from: f64, to: f64| (to - from) * rise > 0.25 * rise * rise;
        let after = self.watts.get(j + 1).is_some_and(|next| goes_on(b, *next));
        let before = i >= 2 && goes_on(self.watts[i - 2], a);
        if rise.abs() < least || !between || after || before {
            return None;
        }
        let (from, to) = (self.edges[i], self.edges[j]);
        let energy: f64 = (i..j).map(|k| self.watts[k] * (self.edges[k + 1] - self.edges[k])).sum();
        let at = from + (energy - b * (to - from)) / (a - b);
        (from..=to).contains(&at).then_some(at)
    }
}

/// When each step came, ns after `zero_ns`: a line through its neighbours, held to between the readings around it. A sensor's
/// pace is steadier than polling can tell.
fn smoothed(steps: &[Update], period: Option<Period>, zero_ns: i64) -> Vec<f64> {
    let mid: Vec<f64> = steps.iter().map(|s| s.mid_ns() - zero_ns as f64).collect();
    let Some(period) = period.filter(|p| p.median_ns > 0.0) else { return mid };
    let mut number = vec![0.0; mid.len()];
    for i in 1..mid.len() {
        number[i] = number[i - 1] + ((mid[i] - mid[i - 1]) / period.median_ns).round().max(1.0);
    }
    let line = |i: usize| {
        let near = i.saturating_sub(SMOOTHED_OVER)..(i + SMOOTHED_OVER + 1).min(mid.len());
        let n = near.len() as f64;
        let (x, y) = near.clone().fold((0.0, 0.0), |(x, y), k| (x + number[k] / n, y + mid[k] / n));
        let (xy, xx) = near.fold((0.0, 0.0), |(xy, xx), k| {
            let d = number[k] - x;
            (xy + d * (mid[k] - y), xx + d * d)
        });
        if xx > 0.0 { y + xy / xx * (number[i] - x) } else { mid[i] }
    };
    let mut last = f64::NEG_INFINITY;
    let held = |(i, step): (usize, &Update)| {
        let half = step.width_ns() / 2.0;
        last = line(i).clamp(mid[i] - half, mid[i] + half).max(last + 1.0);
        last
    };
    steps.iter().enumerate().map(held).collect()
}

/// Times of updates as [`Cells::of_energy`] has them, ns after `zero_ns`.
pub(crate) fn times(updates: &[Update], period: Option<Period>, zero_ns: i64) -> Vec<f64> {
    smoothed(updates, period, zero_ns)
}

impl Curve {
    fn of(zero_ns: i64, edges: &[f64], watts: &[f64]) -> Self {
        let (from, to) = (edges[0], edges.last().copied().unwrap_or(edges[0]));
        let step = STEP_NS.max((to - from) / MOST_POINTS as f64);
        let points = ((to - from) / step).floor() as usize;
        let mut fine = Vec::with_capacity(points);
        let mut cell = 0;
        let mut at = from;
        for i in 1..=points {
            let end = from + i as f64 * step;
            let mut energy = 0.0;
            while cell < watts.len() {
                let until = edges[cell + 1].min(end);
                energy += watts[cell] * (until - at).max(0.0);
                at = at.max(until);
                if edges[cell + 1] > end {
                    break;
                }
                cell += 1;
            }
            fine.push(energy / step);
        }
        Self::of_grid(zero_ns, from, step, fine)
    }

    fn of_grid(zero_ns: i64, from: f64, step: f64, mut watts: Vec<f64>) -> Self {
        let mean = watts.iter().sum::<f64>() / watts.len().max(1) as f64;
        watts.iter_mut().for_each(|w| *w -= mean);
        let (mut once, mut twice) = (vec![0.0], vec![0.0]);
        let (mut e, mut f) = (0.0, 0.0);
        for w in &watts {
            f += (e + w * step / 2.0) * step;
            e += w * step;
            once.push(e);
            twice.push(f);
        }
        Self { zero_ns, from, step, mean, watts, once, twice }
    }

    /// 100 where power is above a threshold, 0 elsewhere: what utilisation looks at.
    pub(crate) fn busy(&self, above: f64) -> Self {
        let busy = |w: &f64| if w + self.mean > above { 100.0 } else { 0.0 };
        Self::of_grid(self.zero_ns, self.from, self.step, self.watts.iter().map(busy).collect())
    }

    /// From when to when, ns after its zero.
    pub(crate) fn span(&self) -> (f64, f64) {
        (self.from, self.from + self.step * self.watts.len() as f64)
    }

    /// Mean power over [at − window, at], on average over `blur` around `at`; all ns. Within the span only.
    pub(crate) fn mean_over(&self, at: f64, window: f64, blur: f64) -> f64 {
        let (end, begin) = (at, at - window);
        if blur < self.step / 4.0 {
            return self.mean + (self.once_at(end) - self.once_at(begin)) / window;
        }
        let half = blur / 2.0;
        let over = |t: f64| self.twice_at(t + half) - self.twice_at(t - half);
        self.mean + (over(end) - over(begin)) / (window * blur)
    }

    fn cell(&self, at: f64) -> (usize, f64) {
        let place = ((at - self.from) / self.step).max(0.0);
        let i = (place as usize).min(self.watts.len().saturating_sub(1));
        (i, (place - i as f64) * self.step)
    }

    fn once_at(&self, at: f64) -> f64 {
        let (i, rest) = self.cell(at);
        self.once[i] + self.watts[i] * rest
    }

    fn twice_at(&self, at: f64) -> f64 {
        let (i, rest) = self.cell(at);
        self.twice[i] + (self.once[i] + self.watts[i] * rest / 2.0) * rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1e6;

    /// Cells of 20 ms over power that jumps from 100 to 500 W and back.
    fn cells(up_ms: f64, down_ms: f64) -> Cells {
        let on = |to: f64| (to.min(down_ms) - up_ms).max(0.0);
        let mean = |i: i64| {
            let (from, to) = (20.0 * i as f64 - 20.0, 20.0 * i as f64);
            100.0 + 400.0 * (on(to) - on(from)) / 20.0
        };
        let samples: Vec<(i64, f64)> = (0..100).map(|i| (i * 20_000_000, mean(i))).collect();
        Cells::of_samples(&samples).unwrap()
    }

    #[test]
    fn jumps_are_put_where_they_keep_the_energy() {
        let cells = cells(507.0, 1_013.0);
        let over = |curve: &Curve, to: f64| curve.mean_over(to * MS, 10.0 * MS, 0.0);
        // 507 to 510 ms of the window up to 510 ms are busy.
        assert!((over(&cells.sharpened(), 510.0) - 220.0).abs() < 1.0);
        assert!((over(&cells.plain(), 510.0) - 360.0).abs() < 1.0);
        assert!((over(&cells.sharpened(), 1_020.0) - 220.0).abs() < 1.0);
        for curve in [cells.plain(), cells.sharpened()] {
            let mean = curve.mean_over(1_900.0 * MS, 1_800.0 * MS, 0.0);
            assert!((mean - (100.0 + 400.0 * 506.0 / 1_800.0)).abs() < 0.01, "{mean}");
        }
    }

    #[test]
    fn a_blurred_moment_is_the_mean_over_its_moments() {
        let curve = cells(500.0, 1_000.0).sharpened();
        let points = (0..1000).map(|i| curve.mean_over((495.0 + 0.02 * f64::from(i)) * MS, 25.0 * MS, 0.0));
        let mean = points.sum::<f64>() / 1000.0;
        assert!((curve.mean_over(505.0 * MS, 25.0 * MS, 20.0 * MS) - mean).abs() < 0.5, "{mean}");
    }

    #[test]
    fn only_the_stretch_since_the_last_hole_counts() {
        let mut samples: Vec<(i64, f64)> = (0..50).map(|i| (i * 20_000_000, 100.0)).collect();
        samples.extend((0..50).map(|i| (5_000_000_000 + i * 20_000_000, 200.0)));
        let cells = Cells::of_samples(&samples).unwrap();
        assert_eq!((cells.watts.len(), cells.range()), (49, (200.0, 200.0)));
        assert!(Cells::of_samples(&samples[..1]).is_none());
        assert!(Cells::of_samples(&[(0, 1.0), (i64::MAX, 2.0), (i64::MAX, 3.0)]).is_none());
    }

    #[test]
    fn energy_steps_are_timed_better_than_they_are_polled() {
        let mut random = fastrand::Rng::with_seed(5);
        let steps: Vec<Update> = (1..200)
            .map(|i| {
                let (at, early) = (i * 100_000_000, random.i64(0..10_000_000));
                Update { after_ns: at - early, by_ns: at - early + 10_000_000, value: i as f64 * 30.0 }
            })
            .collect();
        let period = super::super::changes::period(&steps);
        let cells = Cells::of_energy(&steps, period).unwrap();
        let worst = cells.watts.iter().map(|w| (w - 300.0).abs()).fold(0.0, f64::max);
        assert!(worst < 8.0, "{worst} W off, of ±30 W as polled");
    }
}
