//! When to read what: deadlines on a grid, and intervals that follow what a reading costs. Pure.

/// Of a core, the most that all the slow readings together may take: beyond, what takes most of it is read less often.
pub(crate) const SLOW_SHARE: f64 = 0.05;
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

    /// It was read, at a cost, and is over `now_ns`: how many deadlines were missed.
    pub(crate) fn done(&mut self, cost_ns: i64, now_ns: i64) -> u64 {
        if self.costs.len() == REMEMBERED {
            self.costs.remove(0);
        }
        self.costs.push(cost_ns);
        let next = next_deadline(self.due_ns, now_ns, self.interval_ns);
        let missed = ((next - self.due_ns) / self.interval_ns - 1).unsigned_abs();
        self.due_ns = next;
        missed
    }

    /// It is not to be read now.
    pub(crate) fn skip(&mut self, now_ns: i64) {
        self.due_ns = next_deadline(self.due_ns, now_ns, self.interval_ns);
    }

    /// What a reading usually costs; `None` until that is known: a first one loads what later ones find in place.
    fn cost_ns(&self) -> Option<i64> {
        if self.costs.len() < 4 { None } else { quantile(self.costs.clone(), 0.5) }
    }

    /// Of a core, what reading it as often as it should be takes: also of what was read only a few times, so that the others
    /// need not be slowed twice.
    fn share(&self) -> f64 {
        let cost = self.cost_ns().or_else(|| self.costs.iter().min().copied());
        cost.map_or(0.0, |cost| cost as f64 / self.usual_ns as f64)
    }

    fn keep_to(&mut self, most_share: f64, now_ns: i64) {
        let Some(cost_ns) = self.cost_ns() else { return };
        let least = (cost_ns as f64 / most_share).ceil() as i64;
        let slowed = least.saturating_add(GRAIN_NS - 1) / GRAIN_NS * GRAIN_NS;
        let before = self.interval_ns;
        self.interval_ns = if least > self.usual_ns { slowed.max(self.usual_ns) } else { self.usual_ns };
        // One that is due already stays so: it is not put off again and again.
        if self.interval_ns != before && self.due_ns > now_ns {
            self.due_ns = next_deadline(self.due_ns - before, now_ns, self.interval_ns);
        }
    }

    /// Whether it is slowed, said the first time, and when it has doubled since.
    pub(crate) fn news(&mut self) -> Option<Slowed> {
        let cost_ns = self.cost_ns()?;
        let first = self.told_ns == self.usual_ns && self.interval_ns > self.usual_ns;
        if !first && self.interval_ns < 2 * self.told_ns {
            return None;
        }
        self.told_ns = self.interval_ns;
        Some(Slowed { cost_ns, usual_ns: self.usual_ns, interval_ns: self.interval_ns })
    }
}

/// Slows what takes most, so that all together take no more of a core than they may.
pub(crate) fn share_out<T>(all: &mut [Paced<T>], now_ns: i64) {
    let most = most_share(all.iter().map(Paced::share).collect());
    all.iter_mut().for_each(|one| one.keep_to(most, now_ns));
}

/// The share that each may take at most. One that takes less leaves what it does not need to the others, so that nothing
/// cheap is slowed by what is dear: a driver's buffer has to be read before it is written over.
fn most_share(mut shares: Vec<f64>) -> f64 {
    shares.sort_unstable_by(f64::total_cmp);
    let (mut left, mut takers) = (SLOW_SHARE, shares.len());
    for share in shares {
        let fair = left / takers as f64;
        if share > fair {
            return fair;
        }
        (left, takers) = (left - share, takers - 1);
    }
    SLOW_SHARE
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

    /// Reads everything for half a minute at these costs; gives what was said, and of a core what all took, in the end.
    fn read(
        all: &mut [Paced<&'static str>],
        cost: impl Fn(&str) -> i64,
        now: &mut i64,
    ) -> (Vec<Slowed>, f64) {
        let (mut said, from, mut took) = (Vec::new(), *now, 0);
        while *now < from + 30_000 * MS {
            let next = all.iter_mut().min_by_key(|one| one.due_ns).unwrap();
            let cost = cost(next.what);
            *now = next.due_ns.max(*now) + cost;
            next.done(cost, *now);
            share_out(all, *now);
            said.extend(all.iter_mut().filter_map(Paced::news));
            took += if *now > from + 10_000 * MS { cost } else { 0 };
        }
        (said, took as f64 / (20_000 * MS) as f64)
    }

    fn interval_ms(all: &[Paced<&'static str>], what: &str) -> i64 {
        all.iter().find(|one| one.what == what).unwrap().interval_ns / MS
    }

    #[test]
    fn a_reading_that_costs_too_much_is_slowed_said_once_and_quickened_again() {
        let (mut energy, mut now) = ([Paced::new("energy", 50 * MS, 0)], 0);
        let (said, _) = read(&mut energy, |_| 3 * MS, &mut now);
        assert_eq!(said, [Slowed { cost_ns: 3 * MS, usual_ns: 50 * MS, interval_ns: 60 * MS }]);
        let (said, _) = read(&mut energy, |_| 12 * MS, &mut now);
        assert_eq!(said.last().map(|s| s.interval_ns), Some(240 * MS));
        let (said, _) = read(&mut energy, |_| MS, &mut now);
        assert!(said.is_empty() && energy[0].interval_ns == 50 * MS, "{said:?}");
    }

    #[test]
    fn all_together_keep_to_their_share_and_what_is_cheap_is_not_slowed() {
        // As measured on an H100, by so many cards.
        let usual =
            [("energy", 100), ("gpm", 500), ("power", 250), ("util", 1_000), ("levels", 250), ("host", 200)];
        let cost = |what: &str| match what {
            "energy" => 3_300_000,
            "gpm" => 10 * MS,
            "power" => 600_000,
            "util" => 5_600_000,
            _ => 30_000,
        };
        for (cards, energy_ms, gpm_ms, power_ms) in [(1, 160, 500, 250), (8, 2_180, 6_610, 400)] {
            let mut all = usual.map(|(what, ms)| Paced::new(what, ms * MS, 0));
            let (_, took) = read(&mut all, |what| cards * cost(what), &mut 0);
            assert!((0.8..=1.1).contains(&(took / SLOW_SHARE)), "{cards}: {took}");
            for (what, ms) in [("energy", energy_ms), ("gpm", gpm_ms), ("power", power_ms)] {
                let found = interval_ms(&all, what);
                assert!((found - ms).abs() <= 10 + ms / 50, "{cards}: {what} {found}");
            }
            assert_eq!(["levels", "host"].map(|what| interval_ms(&all, what)), [250, 200]);
        }
    }

    #[test]
    fn what_is_due_already_is_not_put_off_by_being_slowed() {
        let mut late = Paced::new((), 100 * MS, 0);
        (0..4).for_each(|_| _ = late.done(8 * MS, late.due_ns));
        let due = late.due_ns;
        share_out(std::slice::from_mut(&mut late), due + 30 * MS);
        assert_eq!((late.due_ns, late.interval_ns), (due, 160 * MS));
    }

    #[test]
    fn a_cheap_reading_keeps_its_grid_and_counts_what_it_missed() {
        let mut levels = Paced::new((), 100 * MS, 0);
        assert_eq!(levels.done(MS, MS), 0);
        assert_eq!((levels.due_ns, levels.done(MS, 350 * MS)), (100 * MS, 2));
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
