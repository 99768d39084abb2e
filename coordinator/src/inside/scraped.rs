//! What is kept of one endpoint's scrapes for one level: sums of its gauges, and whole scrapes at the edges.

use std::collections::BTreeMap;
use std::rc::Rc;

use tailcliff_proto::v1;

use super::series::{Totals, sane};

/// Series by name that are kept of an endpoint.
const NAMED_MAX: usize = 256;

/// On the coordinator's clock, [from, to) in ns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// The measured window.
    pub(super) window: (i64, i64),
    /// From the common start to the end of the last request.
    pub(super) whole: (i64, i64),
}

/// A gauge over a window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gauge {
    sum: f64,
    count: u64,
    max: Option<f64>,
}

impl Gauge {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
        self.max = Some(self.max.map_or(value, |max| max.max(value)));
    }

    /// (mean, maximum) of the scrapes: they come at a steady beat.
    pub(super) fn get(self) -> Option<(f64, f64)> {
        Some((self.sum / self.count as f64, self.max?))
    }
}

/// Two scrapes of an endpoint with a level between them.
#[derive(Debug)]
pub(super) struct Around {
    pub(super) before: Rc<Totals>,
    pub(super) after: Rc<Totals>,
    /// None came after the level: the later one is of its window, and what came after it is in neither.
    pub(super) is_within: bool,
}

/// One endpoint in one level.
#[derive(Debug, Default)]
pub(super) struct OfLevel {
    /// Within the window, answered or not.
    pub(super) scrapes: u64,
    pub(super) failed: u64,
    pub(super) took_ns: Vec<i64>,
    pub(super) running: Gauge,
    pub(super) waiting: Gauge,
    pub(super) kv_usage: Gauge,
    pub(super) named: BTreeMap<String, Gauge>,
    /// Values of more names than are kept.
    pub(super) over: u64,
    /// Why one failed, the last.
    pub(super) why: Option<String>,
    /// The last scrape at or before the window's start, the first and the last within, the first at or after its end.
    pub(super) before: Option<Rc<Totals>>,
    pub(super) first: Option<Rc<Totals>>,
    pub(super) last: Option<Rc<Totals>>,
    pub(super) after: Option<Rc<Totals>>,
    /// The last scrape that was over when the level began, and the first that began when all of it had ended.
    from: Option<Rc<Totals>>,
    to: Option<Rc<Totals>>,
    /// The longest time without an answer in the window, and since when there is none.
    longest: Option<(i64, i64)>,
    answered_ns: Option<i64>,
}

impl OfLevel {
    /// Takes in the next scrape; without totals when it failed.
    pub(super) fn take(
        &mut self,
        span: Span,
        at_ns: i64,
        sample: &v1::ServerSample,
        totals: Option<&Rc<Totals>>,
    ) {
        let (from, to) = span.window;
        if (from..to).contains(&at_ns) {
            self.scrapes += 1;
            match totals {
                Some(totals) => self.inside(sample, totals),
                None => self.fail(&sample.failed),
            }
        }
        let Some(totals) = totals else { return };
        if at_ns <= from {
            self.before = Some(totals.clone());
        }
        if at_ns >= to {
            self.after.get_or_insert_with(|| totals.clone());
        }
        if totals.moment.1 <= span.whole.0 {
            self.from = Some(totals.clone());
        }
        if totals.moment.0 >= span.whole.1 {
            self.to.get_or_insert_with(|| totals.clone());
        }
        if at_ns >= from {
            let hole = (self.answered_ns.unwrap_or(from), at_ns.min(to));
            self.keep_longer(hole);
            self.answered_ns = Some(at_ns.min(to));
        }
    }

    fn inside(&mut self, sample: &v1::ServerSample, totals: &Rc<Totals>) {
        let gauges = [
            (&mut self.running, sample.running),
            (&mut self.waiting, sample.waiting),
            (&mut self.kv_usage, sample.kv_usage.filter(|share| *share <= 1.0)),
        ];
        for (gauge, value) in gauges {
            sane(value).into_iter().for_each(|value| gauge.add(value));
        }
        // One by name may fall below 0 by its nature.
        for v1::NamedValue { name, value } in
            sample.named.iter().filter(|n| sane(Some(n.value.abs())).is_some())
        {
            if let Some(gauge) = self.named.get_mut(name) {
                gauge.add(*value);
            } else if self.named.len() < NAMED_MAX {
                self.named.entry(name.clone()).or_default().add(*value);
            } else {
                self.over += 1;
            }
        }
        self.took_ns.push(sample.took_ns.max(0));
        self.first.get_or_insert_with(|| totals.clone());
        self.last = Some(totals.clone());
    }

    fn fail(&mut self, why: &str) {
        self.failed += 1;
        self.why = Some(why.chars().take(200).collect());
    }

    fn keep_longer(&mut self, hole: (i64, i64)) {
        if self.longest.is_none_or(|(from, to)| hole.1 - hole.0 > to - from) {
            self.longest = Some(hole);
        }
    }

    /// Scrapes of the window that were answered.
    pub(super) fn answered(&self) -> u64 {
        self.scrapes - self.failed
    }

    /// Nothing was asked in the window, and what was asked around it tells nothing of it.
    pub(super) fn is_empty(&self) -> bool {
        self.scrapes == 0 && (self.before.is_none() || self.after.is_none())
    }

    /// The longest part of the window in which nothing was told.
    pub(super) fn silence(&self, span: Span) -> (i64, i64) {
        let (from, to) = span.window;
        let end = (self.answered_ns.unwrap_or(from), to);
        self.longest.filter(|hole| hole.1 - hole.0 > end.1 - end.0).unwrap_or(end)
    }

    /// The scrapes before and after all of the level; where the one after is missing, the last within its window.
    pub(super) fn around(&self) -> Option<Around> {
        let (a, b) = (self.from.as_ref()?, self.to.as_ref().or(self.last.as_ref())?);
        (a.moment.1 < b.moment.0).then(|| Around {
            before: a.clone(),
            after: b.clone(),
            is_within: self.to.is_none(),
        })
    }

    /// The scrapes while nothing of the level was under way: before it, and after it.
    pub(super) fn edges(&self) -> [Option<&Totals>; 2] {
        [self.from.as_deref(), self.to.as_deref()]
    }
}

#[cfg(test)]
mod tests {
    use super::super::series::Counting;
    use super::*;

    #[test]
    fn histograms_are_of_a_whole_level_with_its_warm_up_and_its_last_answers() {
        let span = Span { window: (10, 20), whole: (5, 25) };
        let around = |scrapes: &[i64], bound: i64| {
            let (mut level, mut counting) = (OfLevel::default(), Counting::default());
            for at in scrapes {
                let sample = v1::ServerSample::default();
                let totals = counting.next(&sample, (at - bound, at + bound));
                level.take(span, *at, &sample, Some(&totals));
            }
            level.around().map(|around| (around.before.at_ns(), around.after.at_ns()))
        };
        assert_eq!(around(&[2, 4, 7, 12, 18, 22, 26, 28], 0), Some((4, 26)));
        assert_eq!(around(&[2, 4, 7, 12, 18, 22, 26, 28], 2), Some((2, 28)), "each may be so much off");
        assert_eq!(around(&[2, 4, 7, 12, 18, 22], 0), Some((4, 18)), "the last within the window");
        assert_eq!(around(&[7, 12, 26], 0), None);
        assert_eq!(around(&[2, 12, 18], 3), Some((2, 18)));
        assert_eq!(around(&[-5, 14], 10), None, "which of them came first is not known");
    }
}
