//! When a polled signal changed, and how often it does. Polling says only that a change came between two readings, so every
//! update keeps both; a signal that stands still for a while leaves gaps of several periods, which are not periods.

use std::collections::VecDeque;

/// Updates kept of one signal: minutes of a sensor that moves ten times a second.
const MOST_UPDATES: usize = 2_048;
/// Updates that a period is found from.
const RECENT: usize = 512;
/// Fewest gaps that a period is told from.
const FEWEST_GAPS: usize = 8;
/// A gap known less well than this many times the usual is none that a period is told from.
const MOST_BLUR: f64 = 1.3;
/// Readings further apart than this say nothing of what was between them, ns.
const HOLE_NS: i64 = 2_000_000_000;
/// Where a triangular spread has its 10, 30, 50, 70 and 90 %, in half-widths.
const SPREAD: [f64; 5] = [-0.553, -0.225, 0.0, 0.225, 0.553];

/// One change of what a signal shows: it came after one reading and by the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Update {
    pub(crate) after_ns: i64,
    pub(crate) by_ns: i64,
    pub(crate) value: f64,
}

impl Update {
    pub(crate) fn mid_ns(&self) -> f64 {
        (self.after_ns as f64 + self.by_ns as f64) / 2.0
    }

    pub(crate) fn width_ns(&self) -> f64 {
        (self.by_ns - self.after_ns) as f64
    }
}

/// How often something changes: ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Period {
    pub(crate) median_ns: f64,
    pub(crate) low_ns: f64,
    pub(crate) high_ns: f64,
}

/// The last values of something, for its median.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    values: VecDeque<i64>,
    usual: i64,
    pushed: u64,
}

impl Recent {
    pub(crate) fn push(&mut self, value: i64) {
        if self.values.len() == 256 {
            self.values.pop_front();
        }
        self.values.push_back(value);
        self.pushed += 1;
        if self.pushed < 8 || self.pushed.is_multiple_of(64) {
            self.usual = self.median();
        }
    }

    /// About the median, at no cost.
    pub(crate) fn usual(&self) -> i64 {
        self.usual
    }

    /// 0 when there is none.
    pub(crate) fn median(&self) -> i64 {
        let mut sorted: Vec<i64> = self.values.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }
}

/// What polling one signal has shown so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    last: Option<(i64, f64)>,
    updates: VecDeque<Update>,
    pub(crate) seen: u64,
    pub(crate) first_ns: Option<i64>,
    pub(crate) polls: Recent,
    pub(crate) reads: Recent,
}

impl Changes {
    /// Takes in a reading; one that is not after the one before it is left out.
    pub(crate) fn poll(&mut self, at_ns: i64, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.first_ns.get_or_insert(at_ns);
        let Some((before_ns, before)) = self.last else {
            self.last = Some((at_ns, value));
            return;
        };
        let gap = at_ns.saturating_sub(before_ns);
        if gap <= 0 {
            return;
        }
        self.last = Some((at_ns, value));
        if gap > HOLE_NS {
            return;
        }
        self.polls.push(gap);
        if value != before {
            self.seen += 1;
            if self.updates.len() == MOST_UPDATES {
                self.updates.pop_front();
            }
            self.updates.push_back(Update { after_ns: before_ns, by_ns: at_ns, value });
        }
    }

    pub(crate) fn last_ns(&self) -> Option<i64> {
        self.last.map(|(at_ns, _)| at_ns)
    }

    /// Oldest first.
    pub(crate) fn updates(&self) -> impl DoubleEndedIterator<Item = &Update> + ExactSizeIterator {
        self.updates.iter()
    }

    pub(crate) fn period(&self) -> Option<Period> {
        let skip = self.updates.len().saturating_sub(RECENT);
        let recent: Vec<Update> = self.updates.iter().skip(skip).copied().collect();
        period(&recent)
    }
}

/// The time between updates, from where they follow on each other; `None` when too few do, or at no steady pace.
pub(crate) fn period(updates: &[Update]) -> Option<Period> {
    // (gap, how far it may be off)
    let mut gaps: Vec<(f64, f64)> = updates
        .windows(2)
        .map(|pair| (pair[1].mid_ns() - pair[0].mid_ns(), (pair[0].width_ns() + pair[1].width_ns()) / 2.0))
        .filter(|(gap, _)| *gap > 0.0)
        .collect();
    if gaps.len() < FEWEST_GAPS {
        return None;
    }
    gaps.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut blurs: Vec<f64> = gaps.iter().map(|(_, half)| *half).collect();
    blurs.sort_unstable_by(f64::total_cmp);
    let blur = blurs[blurs.len() / 2];
    // Between readings further apart than usual another update may have gone unseen: such a gap may be of two periods.
    gaps.retain(|(_, half)| *half <= MOST_BLUR * blur);
    if gaps.len() < FEWEST_GAPS {
        return None;
    }
    // Shortest but for odd ones; then the middle of what is near it.
    let mut base = gaps[gaps.len() / 10].0;
    for _ in 0..3 {
        let near = following(&gaps, base, blur);
        base = near.get(near.len() / 2)?.0;
    }
    let near = following(&gaps, base, blur);
    if near.len() < FEWEST_GAPS || (near.len() * 2 < gaps.len() && !steady(&gaps, base, blur)) {
        return None;
    }
    let mut spread: Vec<f64> =
        near.iter().flat_map(|(gap, half)| SPREAD.map(|at| (gap + half * at).max(0.0))).collect();
    spread.sort_unstable_by(f64::total_cmp);
    Some(Period {
        median_ns: quantile(&spread, 0.5),
        low_ns: quantile(&spread, 0.05),
        high_ns: quantile(&spread, 0.95),
    })
}

/// The gaps of one period: not much shorter, and not of two.
fn following(sorted: &[(f64, f64)], base: f64, blur: f64) -> &[(f64, f64)] {
    let (least, most) = (0.5 * base - blur, 1.5 * base + blur / 2.0);
    let from = sorted.partition_point(|(gap, _)| *gap < least);
    let to = sorted.partition_point(|(gap, _)| *gap <= most);
    &sorted[from..to.max(from)]
}

/// Whether longer gaps are whole numbers of periods, as those of a sensor that stood still are.
fn steady(sorted: &[(f64, f64)], base: f64, blur: f64) -> bool {
    let told: Vec<f64> = sorted.iter().map(|(gap, _)| gap / base).filter(|n| *n < 6.0).collect();
    let whole = told.iter().filter(|n| (*n - n.round()).abs() < 0.2 + blur / base).count();
    whole * 10 >= told.len() * 8
}

/// A quantile of sorted values; 0 of none.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (sorted.get(at.floor() as usize), sorted.get(at.ceil() as usize));
    let (low, high) = (low.copied().unwrap_or(0.0), high.copied().unwrap_or(0.0));
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1e6;

    /// Polls a sensor that is updated on a grid; `shows` gives its value by the number of the update.
    fn polled(period_ms: f64, poll_ms: f64, jitter: f64, shows: impl Fn(i64) -> f64, seed: u64) -> Changes {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut changes, mut at) = (Changes::default(), 0.0);
        while at < 40_000.0 {
            let late = at + jitter * poll_ms * random.f64();
            changes.poll((late * MS) as i64, shows((late / period_ms + 0.37).floor() as i64));
            at += poll_ms;
        }
        changes
    }

    #[test]
    fn periods_are_found_at_any_pace_of_polling() {
        for (seed, (period, poll, jitter)) in [
            (100.0, 10.0, 0.0),
            (100.0, 10.0, 0.9),
            (100.0, 7.0, 0.5),
            (20.0, 10.0, 0.0),
            (20.0, 2.0, 0.9),
            (25.0, 10.0, 0.5),
            (50.0, 20.0, 0.9),
            (200.0, 10.0, 0.5),
            (200.0, 90.0, 0.3),
        ]
        .into_iter()
        .enumerate()
        {
            let found = polled(period, poll, jitter, |n| n as f64, seed as u64).period().unwrap();
            let off = found.median_ns / MS / period - 1.0;
            assert!(off.abs() < 0.05, "{period} by {poll}: {found:?}");
            assert!(found.low_ns <= found.median_ns && found.median_ns <= found.high_ns, "{found:?}");
            assert!(found.high_ns < (period + 2.0 * poll) * MS, "{found:?}");
        }
    }

    #[test]
    fn updates_that_late_readings_hide_do_not_lengthen_the_period() {
        // As a thread with other work reads a counter of 100 ms: each 60 ms, one in four times only after 100 to 160.
        let mut random = fastrand::Rng::with_seed(5);
        let (mut changes, mut at) = (Changes::default(), 0.0);
        while at < 60_000.0 {
            changes.poll((at * MS) as i64, (at / 100.0_f64 + 0.37).floor());
            at +=
                if random.u32(0..4) == 0 { 100.0 + 60.0 * random.f64() } else { 50.0 + 20.0 * random.f64() };
        }
        let found = changes.period().unwrap();
        assert!((found.median_ns / MS - 100.0).abs() < 5.0, "{found:?}");
    }

    #[test]
    fn standing_still_is_not_a_longer_period() {
        // Of ten updates only three change the value: most gaps are eight periods.
        let shows = |n: i64| f64::from((n % 10).min(3) as i32) + 10.0 * (n / 10) as f64;
        let found = polled(100.0, 10.0, 0.5, shows, 1).period().unwrap();
        assert!((found.median_ns / MS - 100.0).abs() < 5.0, "{found:?}");
    }

    #[test]
    fn changes_at_no_pace_have_no_period_and_odd_readings_are_left_out() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut changes, mut value, mut until) = (Changes::default(), 0.0, 0);
        for at in 0..100_000 {
            if at >= until {
                (value, until) = (value + 1.0, at + (-(1.0 - random.f64()).ln() * 900.0) as i64 + 20);
            }
            changes.poll(at * 1_000_000, value);
        }
        assert!(changes.seen > 60);
        assert_eq!(changes.period(), None);
        let mut odd = Changes::default();
        for (at, value) in [(5, 1.0), (5, 2.0), (4, 3.0), (i64::MIN, 1.0), (6, f64::NAN), (i64::MAX, 7.0)] {
            odd.poll(at, value);
        }
        assert_eq!((odd.seen, odd.period()), (0, None));
    }

    #[test]
    fn memory_is_bounded() {
        let mut changes = Changes::default();
        (0..100_000).for_each(|at| changes.poll(at * 1_000_000, at as f64));
        assert_eq!((changes.updates().len(), changes.seen), (MOST_UPDATES, 99_999));
    }
}
