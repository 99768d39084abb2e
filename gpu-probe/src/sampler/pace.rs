//! When to read what: deadlines on a grid, and intervals that follow what a reading costs. Pure.

/// Of a signal's interval, the most that reading it may take: beyond, it is read less often.
pub(crate) const MOST_SHARE: f64 = 0.03;
/// Of the time, the most that the readings of the fast thread may take: the rest of the 1 % of a core is for waking up.
const MOST_FAST_SHARE: f64 = 0.008;
/// Of all that is cheap, what power alone takes: 6 of 20 µs on an H100.
const POWER_PART: f64 = 0.3;
/// Costs that a median is taken of.
const REMEMBERED: usize = 9;
/// Intervals are slowed to multiples of this, ns.
const GRAIN_NS: i64 = 10_000_000;

/// The first deadline after both `due` and `now`, on the grid of `due`; all ns.
pub(crate) fn next_deadline(due: i64, now: i64, interval: i64) -> i64 {
    due + ((now - due).max(0) / interval + 1) * interval
}

/// Every how many ticks all is read that can be, when that takes so long, and power alone at the others; `most` at most.
pub(crate) fn stride(full_ns: i64, interval_ns: i64, most: u32) -> u32 {
    let most = most.max(1);
    let mean = |stride: f64| full_ns as f64 * (1.0 + (stride - 1.0) * POWER_PART) / stride;
    let fits = |stride: u32| mean(f64::from(stride)) <= MOST_FAST_SHARE * interval_ns as f64;
    std::iter::successors(Some(1), |stride: &u32| stride.checked_mul(2))
        .take_while(|stride| *stride < most)
        .find(|stride| fits(*stride))
        .unwrap_or(most)
}

/// The one that a part of all are below; `None` of none.
pub(crate) fn quantile(mut values: Vec<i64>, part: f64) -> Option<i64> {
    values.sort_unstable();
    values.get((values.len() as f64 * part) as usize).copied()
}

/// One thing that is read again and again; all ns.
#[derive(Clone, Debug)]
pub(crate) struct Paced<T> {
    pub(crate) what: T,
    usual_ns: i64,
    pub(crate) interval_ns: i64,
    pub(crate) due_ns: i64,
    costs: Vec<i64>,
    told_ns: i64,
}

/// A reading that costs too much to be made as often as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slowed {
    pub(crate) cost_ns: i64,
    pub(crate) usual_ns: i64,
    pub(crate) interval_ns: i64,
}

impl<T> Paced<T> {
    /// To be read at once, and then each `interval_ns`.
    pub(crate) fn new(what: T, interval_ns: i64, now_ns: i64) -> Self {
        let interval_ns = interval_ns.max(1_000_000);
        Self {
            what,
            usual_ns: interval_ns,
            interval_ns,
            due_ns: now_ns,
            costs: Vec::new(),
            told_ns: interval_ns,
        }
    }

    /// It was read, at a cost, and is over `now_ns`: how many deadlines were missed, and whether it is slowed by this (said
    /// the first time, and when it has doubled since).
    pub(crate) fn done(&mut self, cost_ns: i64, now_ns: i64) -> (u64, Option<Slowed>) {
        if self.costs.len() == REMEMBERED {
            self.costs.remove(0);
        }
        self.costs.push(cost_ns);
        let next = next_deadline(self.due_ns, now_ns, self.interval_ns);
        let missed = ((next - self.due_ns) / self.interval_ns - 1).unsigned_abs();
        self.due_ns = next;
        (missed, self.follow_cost(now_ns))
    }

    /// It is not to be read now.
    pub(crate) fn skip(&mut self, now_ns: i64) {
        self.due_ns = next_deadline(self.due_ns, now_ns, self.interval_ns);
    }

    fn follow_cost(&mut self, now_ns: i64) -> Option<Slowed> {
        // A first reading loads what later ones find in place.
        if self.costs.len() < 4 {
            return None;
        }
        let cost_ns = quantile(self.costs.clone(), 0.5)?;
        let least = (cost_ns as f64 / MOST_SHARE).ceil() as i64;
        let slowed = (least + GRAIN_NS - 1) / GRAIN_NS * GRAIN_NS;
        let before = self.interval_ns;
        self.interval_ns = if least > self.usual_ns { slowed.max(self.usual_ns) } else { self.usual_ns };
        if self.interval_ns != before {
            self.due_ns = next_deadline(self.due_ns - before, now_ns, self.interval_ns);
        }
        let first = self.told_ns == self.usual_ns && self.interval_ns > self.usual_ns;
        if !first && self.interval_ns < 2 * self.told_ns {
            return None;
        }
        self.told_ns = self.interval_ns;
        Some(Slowed { cost_ns, usual_ns: self.usual_ns, interval_ns: self.interval_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn missed_ticks_are_skipped_not_bunched() {
        assert_eq!(next_deadline(100, 103, 10), 110);
        assert_eq!(next_deadline(100, 110, 10), 120);
        assert_eq!(next_deadline(100, 139, 10), 140);
        // Woken early: the next one is the next, not this one again.
        assert_eq!(next_deadline(100, 99, 10), 110);
    }

    #[test]
    fn a_reading_that_costs_too_much_is_slowed_said_once_and_quickened_again() {
        let mut energy = Paced::new("energy", 50 * MS, 0);
        let mut now = 0;
        let mut read = |energy: &mut Paced<_>, cost: i64| {
            now = energy.due_ns + cost;
            energy.done(cost, now).1
        };
        let said: Vec<_> = (0..20).filter_map(|_| read(&mut energy, 3 * MS)).collect();
        assert_eq!(said, [Slowed { cost_ns: 3 * MS, usual_ns: 50 * MS, interval_ns: 60 * MS }]);
        let said: Vec<_> = (0..20).filter_map(|_| read(&mut energy, 12 * MS)).collect();
        assert_eq!(said.last().map(|s| s.interval_ns), Some(240 * MS));
        let again: Vec<_> = (0..20).filter_map(|_| read(&mut energy, MS)).collect();
        assert!(again.is_empty() && energy.interval_ns == 50 * MS, "{again:?}");
    }

    #[test]
    fn a_cheap_reading_keeps_its_grid_and_counts_what_it_missed() {
        let mut levels = Paced::new((), 100 * MS, 0);
        assert_eq!(levels.done(MS, MS), (0, None));
        assert_eq!((levels.due_ns, levels.done(MS, 350 * MS)), (100 * MS, (2, None)));
        assert_eq!(levels.due_ns, 400 * MS);
    }

    #[test]
    fn all_but_power_is_read_less_often_where_the_fast_readings_take_too_much() {
        let us = 1_000;
        // 20 µs a card, as on an H100: one card, eight of them, and one that answers slowly.
        assert_eq!([20, 80, 100, 160, 3_000].map(|full| stride(full * us, 10 * MS, 10)), [1, 1, 2, 4, 10]);
        assert_eq!(stride(160 * us, 1_000 * MS, 1), 1);
        assert_eq!((stride(i64::MAX, 1, 7), stride(MS, MS, 0)), (7, 1));
    }
}
