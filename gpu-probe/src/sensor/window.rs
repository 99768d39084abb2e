//! What time a shown value is an average over: the window, and the delay before it is shown, for which the mean of the
//! reference comes nearest to everything shown (least squares). Done in steps of bounded work, so that it can run beside
//! sampling.
//!
//! Two references are tried, as read and with its jumps sharpened, and two views of when an update came: at one moment, and
//! anywhere between two readings.

use super::bar::{PARTS, jackknife};
use super::changes::{Period, Update, quantile};
use super::reference::{COARSE_NS, Cells, Curve, times};

/// Updates that are fitted: the newest.
const MOST_UPDATES: usize = 400;
/// Fewest that say anything.
const FEWEST_UPDATES: usize = 20;
/// Windows that are tried, ns.
const SHORTEST_NS: f64 = 2e6;
const LONGEST_NS: f64 = 3e9;
/// Tried windows grow by this.
const GROWTH: f64 = 1.25;
/// Delays that are tried, ns. Below 0: a buffer's stamps may come late.
const DELAYS_NS: (f64, f64, f64) = (-30e6, 130e6, 10e6);
/// Least share of what is shown that the mean must explain.
const EXPLAINED: f64 = 0.5;
/// No window is told better than this.
const FLOOR: (f64, f64) = (0.02, 0.5e6);
/// No window is told better than this share of the time between two readings.
const POLLED: f64 = 0.25;
/// Nor, where a reference's cells are no finer, than this share of one.
const UNRESOLVED: f64 = 0.33;
/// Updates between readings further apart than so many usual ones are left out.
const LATE: f64 = 1.7;
/// A window with a wider bar than this share of it is none.
const LOOSEST: f64 = 0.4;
/// A reference that explains more by so much is the better one.
const BETTER: f64 = 0.8;

/// What was found, ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    pub(crate) window_ns: f64,
    pub(crate) bar_ns: f64,
    pub(crate) delay_ns: f64,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Found {
    Window(Window),
    /// Not longer than this, ns; the reference is no finer.
    AtMost(f64),
    /// No window explains what is shown.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct Shown {
    /// ns after the curves' zero.
    at: f64,
    mid: f64,
    width: f64,
    value: f64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Guess {
    pub(super) window: f64,
    pub(super) delay: f64,
    pub(super) badness: f64,
}

/// A search under way.
#[derive(Debug)]
pub(crate) struct Search {
    curves: [Curve; 2],
    spacing_ns: f64,
    unsure: Vec<(f64, f64)>,
    shown: Vec<Shown>,
    /// Whether scale and offset are fitted too: utilisation is of power in no unit.
    scaled: bool,
    pub(super) spread: f64,
    /// Squares above this count no more: where the reference itself cannot tell when power moved.
    pub(super) outlier: f64,
    /// Of the coarse grid, how many were tried; then stages.
    tried: usize,
    coarse: [Guess; 2],
    /// Plain and sharpened, each at one moment and blurred.
    refined: Vec<Guess>,
    /// Windows found with each part of what is shown left out, and the part that is left out now.
    left_out: Vec<f64>,
    leaves_out: Option<usize>,
}

/// A guess, of which reference, and whether updates came at one moment or anywhere between two readings.
#[derive(Clone, Copy, Debug)]
struct Choice {
    guess: Guess,
    curve: usize,
    blurred: bool,
}

/// Sum of squares about the mean.
fn spread(shown: &[Shown]) -> f64 {
    let mean = shown.iter().map(|s| s.value).sum::<f64>() / shown.len().max(1) as f64;
    shown.iter().map(|s| (s.value - mean).powi(2)).sum()
}

impl Search {
    /// Begins one; `None` when there is too little to go by, or power never moved.
    pub(crate) fn new(
        cells: &Cells,
        updates: &[Update],
        period: Option<Period>,
        scaled: bool,
    ) -> Option<Self> {
        let (low, high) = cells.range();
        if high - low < (0.05 * high).max(8.0) {
            return None;
        }
        let mut curves = [cells.plain(), cells.sharpened()];
        if scaled {
            let above = low + 0.15 * (high - low);
            curves = curves.map(|curve| curve.busy(above));
        }
        let (from, to) = curves[0].span();
        let longest = LONGEST_NS.min((to - from) / 3.0);
        let at = times(updates, period, cells.zero_ns);
        let shown = updates.iter().zip(at).map(|(update, at)| Shown {
            at,
            mid: update.mid_ns() - cells.zero_ns as f64,
            width: update.width_ns(),
            value: update.value,
        });
        let fits = |s: &Shown| {
            s.mid - s.width - DELAYS_NS.1 - longest - 50e6 > from && s.mid + s.width - DELAYS_NS.0 + 20e6 < to
        };
        let mut shown: Vec<Shown> = shown.filter(fits).collect();
        // What was polled late is known badly, and there is enough that is not.
        let mut widths: Vec<f64> = shown.iter().map(|s| s.width).collect();
        widths.sort_unstable_by(f64::total_cmp);
        let usual = quantile(&widths, 0.5);
        shown.retain(|s| s.width <= LATE * usual);
        shown.drain(..shown.len().saturating_sub(MOST_UPDATES));
        let spread = spread(&shown);
        let none = Guess { window: longest, delay: 0.0, badness: f64::INFINITY };
        let new = Self {
            curves,
            spacing_ns: cells.spacing_ns,
            unsure: cells.unsure(),
            shown,
            scaled,
            spread,
            outlier: if scaled { 15.0_f64.powi(2) } else { (0.15 * (high - low)).powi(2) },
            tried: 0,
            coarse: [none; 2],
            refined: Vec::new(),
            left_out: Vec::new(),
            leaves_out: None,
        };
        (new.shown.len() >= FEWEST_UPDATES && spread > 0.0).then_some(new)
    }

    /// Does some of the work; the result once it is done.
    pub(crate) fn step(&mut self) -> Option<Found> {
        let delays = ((DELAYS_NS.1 - DELAYS_NS.0) / DELAYS_NS.2) as usize + 1;
        let windows = ((LONGEST_NS / SHORTEST_NS).ln() / GROWTH.ln()) as usize + 1;
        let until = (self.tried + 64).min(delays * windows);
        if self.tried < until {
            for i in self.tried..until {
                let window = SHORTEST_NS * GROWTH.powi((i / delays) as i32);
                let delay = DELAYS_NS.0 + DELAYS_NS.2 * (i % delays) as f64;
                self.try_coarse(window, delay);
            }
            self.tried = until;
            return None;
        }
        if self.refined.is_empty() {
            self.leave_out_unsure();
        }
        if self.refined.len() < 4 {
            let (curve, blurred) = (self.refined.len() / 2, self.refined.len() % 2 == 1);
            self.refined.push(self.refine(self.coarse[curve], curve, blurred));
            return None;
        }
        let Some(choice) = self.choice() else { return Some(Found::Nothing) };
        if self.left_out.len() < PARTS {
            self.leaves_out = Some(self.left_out.len());
            let found = self.refine(choice.guess, choice.curve, choice.blurred).window;
            self.leaves_out = None;
            self.left_out.push(found);
            return None;
        }
        Some(self.judge(choice))
    }

    /// Long cells hide whole pulses: a short window is found from the updates before which power is known.
    fn leave_out_unsure(&mut self) {
        let window = self.coarse[1].window;
        if self.spacing_ns < COARSE_NS || window > 2.0 * self.spacing_ns {
            return;
        }
        let reach = window.max(self.spacing_ns) + DELAYS_NS.2;
        let sure = |s: &Shown| {
            let (from, to) = (s.mid - s.width - reach, s.mid + s.width);
            let next = self.unsure.partition_point(|span| span.1 <= from);
            self.unsure.get(next).is_none_or(|span| span.0 >= to)
        };
        let shown: Vec<Shown> = self.shown.iter().copied().filter(sure).collect();
        if shown.len() >= FEWEST_UPDATES {
            self.spread = spread(&shown);
            self.shown = shown;
        }
    }

    fn try_coarse(&mut self, window: f64, delay: f64) {
        let (from, to) = self.curves[0].span();
        if window > (to - from) / 3.0 {
            return;
        }
        for curve in 0..2 {
            let badness = self.badness(curve, false, window, delay);
            if badness < self.coarse[curve].badness {
                self.coarse[curve] = Guess { window, delay, badness };
            }
        }
    }

    pub(super) fn predicted(
        &self,
        curve: usize,
        blurred: bool,
        window: f64,
        delay: f64,
    ) -> impl Iterator<Item = (f64, f64)> {
        let curve = &self.curves[curve];
        // In runs of time: what goes wrong for one update does for its neighbours.
        let part = |i: usize| i * PARTS / self.shown.len().max(1);
        let kept = self.shown.iter().enumerate().filter(move |(i, _)| self.leaves_out != Some(part(*i)));
        kept.map(move |(_, s)| {
            let (at, blur) = if blurred { (s.mid, s.width) } else { (s.at, 0.0) };
            (curve.mean_over(at - delay, window, blur), s.value)
        })
    }

    /// Sum of squares that is left.
    pub(super) fn badness(&self, curve: usize, blurred: bool, window: f64, delay: f64) -> f64 {
        let (scale, offset) = self.scale(curve, blurred, window, delay);
        let left = |(x, y): (f64, f64)| (y - offset - scale * x).powi(2).min(self.outlier);
        self.predicted(curve, blurred, window, delay).map(left).sum()
    }

    pub(super) fn scale(&self, curve: usize, blurred: bool, window: f64, delay: f64) -> (f64, f64) {
        if !self.scaled {
            return (1.0, 0.0);
        }
        let sums = self
            .predicted(curve, blurred, window, delay)
            .fold((0.0, 0.0, 0.0), |(n, x, y), (px, py)| (n + 1.0, x + px, y + py));
        let (x, y) = (sums.1 / sums.0, sums.2 / sums.0);
        let (xy, xx) = self
            .predicted(curve, blurred, window, delay)
            .fold((0.0, 0.0), |(xy, xx), (px, py)| (xy + (px - x) * (py - y), xx + (px - x).powi(2)));
        let scale = if xx > 0.0 { (xy / xx).clamp(0.0, 1.3) } else { 0.0 };
        (scale, y - scale * x)
    }

    /// Walks downhill from a guess with ever shorter steps.
    fn refine(&self, from: Guess, curve: usize, blurred: bool) -> Guess {
        let mut best = Guess { badness: self.badness(curve, blurred, from.window, from.delay), ..from };
        let (mut factor, mut shift) = (1.12_f64, 5e6);
        while factor > 1.003 {
            let before = best.badness;
            for (f, d) in
                [(factor, 0.0), (1.0 / factor, 0.0), (1.0, shift), (1.0, -shift), (factor, -shift / 2.0)]
            {
                // A longer window that ends as early as before has its middle earlier: both together is the way downhill.
                let (window, delay) = self.within(best.window * f, best.delay + d);
                let badness = self.badness(curve, blurred, window, delay);
                if badness < best.badness {
                    best = Guess { window, delay, badness };
                }
            }
            if best.badness >= before {
                (factor, shift) = (factor.sqrt(), shift / 2.0);
            }
        }
        best
    }

    pub(super) fn within(&self, window: f64, delay: f64) -> (f64, f64) {
        let (from, to) = self.curves[0].span();
        let longest = LONGEST_NS.min((to - from) / 3.0);
        (window.clamp(SHORTEST_NS / 2.0, longest), delay.clamp(DELAYS_NS.0, DELAYS_NS.1))
    }

    /// The better reference, and the better view of when updates came; `None` when no window explains what is shown.
    fn choice(&self) -> Option<Choice> {
        let best = |curve: usize| {
            let (point, blur) = (self.refined[2 * curve], self.refined[2 * curve + 1]);
            let blurred = blur.badness < point.badness;
            Choice { guess: if blurred { blur } else { point }, curve, blurred }
        };
        let (plain, sharp) = (best(0), best(1));
        let sharper = sharp.guess.badness < BETTER * plain.guess.badness;
        let least = plain.guess.badness.min(sharp.guess.badness);
        (least <= (1.0 - EXPLAINED) * self.spread).then_some(if sharper { sharp } else { plain })
    }

    fn judge(&self, choice: Choice) -> Found {
        let guess = choice.guess;
        let moves = jackknife(&self.left_out);
        if choice.curve == 0 && guess.window < 1.5 * self.spacing_ns {
            return self.unresolved(guess, self.refined[2], moves);
        }
        let (low, high) = self.interval(guess, choice.curve, choice.blurred);
        self.told(guess, (guess.window - low).max(high - guess.window).max(moves))
    }

    /// A window, or when it is too loose to be called one, the most that it can be.
    fn told(&self, guess: Guess, bar_ns: f64) -> Found {
        // When an update came is known to between two readings, which the pace of updates betters but cannot undo.
        let widths: Vec<f64> = self.shown.iter().map(|s| s.width).collect();
        let polled = POLLED * widths.iter().sum::<f64>() / widths.len() as f64;
        let bar_ns = bar_ns.max(FLOOR.0 * guess.window + FLOOR.1).max(polled);
        let cut_off = guess.delay <= DELAYS_NS.0 || guess.delay >= DELAYS_NS.1;
        if cut_off || bar_ns > LOOSEST * guess.window {
            return Found::AtMost(guess.window + bar_ns);
        }
        Found::Window(Window { window_ns: guess.window, bar_ns, delay_ns: guess.delay })
    }

    /// What is shown moves as fast as the reference itself: the window is between that of one of its cells and what fits when
    /// its jumps are taken to be sharp.
    fn unresolved(&self, plain: Guess, sharp: Guess, moves: f64) -> Found {
        let (low, high) =
            (self.spacing_ns.min(sharp.window), self.spacing_ns.max(sharp.window).max(plain.window));
        let middle = Guess { window: (low + high) / 2.0, delay: plain.delay.min(sharp.delay), ..plain };
        self.told(middle, ((high - low) / 2.0).max(UNRESOLVED * self.spacing_ns).max(moves))
    }
}
