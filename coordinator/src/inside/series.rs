//! Scrapes of one endpoint as they follow one another. Totals are counted on where a server began anew, as Prometheus'
//! `increase` does: what came between the last scrape and the restart is lost, and the restart is counted.

use std::collections::BTreeMap;
use std::rc::Rc;

use tailcliff_proto::v1::{self, ServerLatency};

use crate::clock::Aligned;

/// Figures beyond this are nobody's.
const MOST: f64 = 1e18;
/// Buckets of a histogram that are believed.
const BUCKETS_MAX: usize = 512;
/// A scrape takes no longer, ns.
const TOOK_MAX_NS: i64 = 600_000_000_000;

/// A figure that a server may have.
pub(super) fn sane(value: Option<f64>) -> Option<f64> {
    value.filter(|value| (0.0..=MOST).contains(value))
}

/// A histogram, or the growth of one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hist {
    pub(super) upper_s: Vec<f64>,
    pub(super) cumulative: Vec<f64>,
    pub(super) sum_s: f64,
    pub(super) count: f64,
    /// Differs where its buckets were cut anew: then nothing can be subtracted.
    cut: u32,
}

impl Hist {
    fn of(wire: &v1::ServerHistogram) -> Option<(ServerLatency, Self)> {
        let of = ServerLatency::try_from(wire.of).ok().filter(|of| *of != ServerLatency::Unspecified)?;
        let (upper_s, cumulative) = (wire.upper_s.clone(), wire.cumulative.clone());
        let count = sane(Some(wire.count))?;
        let is_whole = upper_s.len() == cumulative.len()
            && upper_s.len() <= BUCKETS_MAX
            && upper_s.iter().all(|s| s.is_finite())
            && upper_s.is_sorted_by(|a, b| a < b)
            && cumulative.iter().all(|n| (0.0..=count).contains(n))
            && cumulative.is_sorted();
        let sum_s = sane(Some(wire.sum_s))?;
        is_whole.then_some((of, Self { upper_s, cumulative, sum_s, count, cut: 0 }))
    }

    fn fell(&self, before: &Self) -> bool {
        let mut pairs = self.cumulative.iter().zip(&before.cumulative);
        self.count < before.count || self.sum_s < before.sum_s || pairs.any(|(now, then)| now < then)
    }

    /// Adds one with the same buckets.
    pub(super) fn add(&mut self, other: &Self) {
        self.sum_s += other.sum_s;
        self.count += other.count;
        self.cumulative.iter_mut().zip(&other.cumulative).for_each(|(into, n)| *into += n);
    }

    /// What came since then; `None` where the buckets are others.
    pub(super) fn since(&self, then: &Self) -> Option<Self> {
        let is_alike = self.cut == then.cut && self.upper_s == then.upper_s;
        is_alike.then(|| Self {
            upper_s: self.upper_s.clone(),
            cumulative: self.cumulative.iter().zip(&then.cumulative).map(|(b, a)| b - a).collect(),
            sum_s: self.sum_s - then.sum_s,
            count: self.count - then.count,
            cut: self.cut,
        })
    }
}

/// Totals, in the order of [`Totals::counters`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Counter {
    Preemptions,
    CacheQueries,
    CacheHits,
    Drafted,
    Accepted,
}

const COUNTERS: usize = 5;

/// What an endpoint's totals had come to at one scrape.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// The moment lies within, on the coordinator's clock, ns.
    pub(super) moment: (i64, i64),
    counters: [Option<f64>; COUNTERS],
    pub(super) histograms: BTreeMap<i32, Hist>,
    /// Times that the server began anew until then.
    pub(super) restarts: u32,
}

impl Totals {
    /// A total, counted on over restarts.
    pub(super) fn counter(&self, of: Counter) -> Option<f64> {
        self.counters[of as usize]
    }

    /// Every figure is the same.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.counters == other.counters && self.histograms == other.histograms
    }

    /// A sum of times is longer than it was.
    pub(super) fn has_grown_since(&self, then: &Self) -> bool {
        let sum = |hist: (&i32, &Hist)| then.histograms.get(hist.0).is_some_and(|a| hist.1.sum_s > a.sum_s);
        self.histograms.iter().any(sum)
    }

    /// The middle of its moment, ns.
    pub(super) fn at_ns(&self) -> i64 {
        self.moment.0 + (self.moment.1 - self.moment.0) / 2
    }
}

/// When a scrape's values were so: between the asking and the answer, give or take the clock's bound.
pub(crate) fn moment(at: Aligned, took_ns: i64) -> (i64, i64) {
    let took = took_ns.clamp(0, TOOK_MAX_NS);
    (at.ns.saturating_sub(at.bound_ns), at.ns.saturating_add(took).saturating_add(at.bound_ns))
}

/// Counts on from scrape to scrape.
#[derive(Debug, Default)]
pub(super) struct Counting {
    /// (what was lost to restarts, the last that was said).
    counters: [(f64, Option<f64>); COUNTERS],
    histograms: BTreeMap<i32, (Hist, Hist)>,
    restarts: u32,
}

impl Counting {
    /// The totals with this scrape, which follows all before it.
    pub(super) fn next(&mut self, sample: &v1::ServerSample, moment: (i64, i64)) -> Rc<Totals> {
        let said =
            [sample.preemptions, sample.cache_queries, sample.cache_hits, sample.drafted, sample.accepted];
        let mut began_anew = false;
        let mut counters = [None; COUNTERS];
        for (((lost, last), said), total) in self.counters.iter_mut().zip(said).zip(&mut counters) {
            let Some(value) = sane(said) else { continue };
            if let Some(before) = last.filter(|before| value < *before) {
                *lost += before;
                began_anew = true;
            }
            *last = Some(value);
            *total = Some(*lost + value);
        }
        let mut histograms = BTreeMap::new();
        for (of, hist) in sample.histograms.iter().filter_map(Hist::of) {
            began_anew |= self.histogram(of as i32, hist.clone());
            if let Some((lost, _)) = self.histograms.get(&(of as i32)) {
                let mut total = lost.clone();
                total.add(&hist);
                histograms.insert(of as i32, total);
            }
        }
        self.restarts += u32::from(began_anew);
        Rc::new(Totals { moment, counters, histograms, restarts: self.restarts })
    }

    /// True when it fell.
    fn histogram(&mut self, of: i32, hist: Hist) -> bool {
        let nothing = |cut| Hist {
            cut,
            cumulative: vec![0.0; hist.upper_s.len()],
            upper_s: hist.upper_s.clone(),
            ..Hist::default()
        };
        match self.histograms.get_mut(&of) {
            Some((lost, last)) if last.upper_s == hist.upper_s => {
                let fell = hist.fell(last);
                if fell {
                    lost.add(last);
                }
                *last = hist;
                fell
            }
            other => {
                let cut = other.as_ref().map_or(0, |(lost, _)| lost.cut + 1);
                let is_new = other.is_none();
                let lost = nothing(cut);
                self.histograms.insert(of, (lost, hist));
                !is_new
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(preemptions: f64, count: f64) -> v1::ServerSample {
        let hist = v1::ServerHistogram {
            of: ServerLatency::Ttft as i32,
            upper_s: vec![0.1, 1.0],
            cumulative: vec![count / 2.0, count],
            sum_s: count / 10.0,
            count,
        };
        v1::ServerSample { preemptions: Some(preemptions), histograms: vec![hist], ..Default::default() }
    }

    #[test]
    fn totals_go_on_where_a_server_began_anew() {
        let mut counting = Counting::default();
        let all = [(5.0, 10.0), (8.0, 20.0), (1.0, 4.0), (3.0, 6.0)];
        let told: Vec<_> = all.iter().map(|&(n, count)| counting.next(&scrape(n, count), (0, 0))).collect();
        let counted: Vec<_> = told.iter().map(|t| t.counter(Counter::Preemptions).unwrap()).collect();
        assert_eq!(counted, [5.0, 8.0, 9.0, 11.0]);
        let hist = |i: usize| &told[i].histograms[&(ServerLatency::Ttft as i32)];
        let grown = hist(3).since(hist(0)).unwrap();
        assert_eq!((grown.count, grown.cumulative, told[3].restarts), (16.0, vec![8.0, 16.0], 1));
    }

    #[test]
    fn what_no_server_can_have_is_absent() {
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e19] {
            let mut sample = scrape(odd, 10.0);
            sample.histograms[0].sum_s = odd;
            let told = Counting::default().next(&sample, (0, 0));
            assert_eq!(told.counter(Counter::Preemptions), None);
            assert!(told.histograms.is_empty());
        }
        let broken: [fn(&mut v1::ServerHistogram); 6] = [
            |h| h.upper_s = vec![1.0, 0.1],
            |h| h.upper_s = vec![f64::NAN, 1.0],
            |h| h.cumulative = vec![6.0, 5.0],
            |h| h.cumulative = vec![5.0, 11.0],
            |h| h.cumulative = vec![5.0],
            |h| h.of = 77,
        ];
        for change in broken {
            let mut sample = scrape(1.0, 10.0);
            change(&mut sample.histograms[0]);
            assert!(Counting::default().next(&sample, (0, 0)).histograms.is_empty());
        }
    }

    #[test]
    fn nothing_is_subtracted_from_other_buckets() {
        let mut counting = Counting::default();
        let first = counting.next(&scrape(0.0, 10.0), (0, 0));
        let mut other = scrape(0.0, 20.0);
        other.histograms[0].upper_s = vec![0.2, 1.0];
        let second = counting.next(&other, (0, 0));
        let third = counting.next(&scrape(0.0, 30.0), (0, 0));
        let of = |t: &Totals| t.histograms[&(ServerLatency::Ttft as i32)].clone();
        assert_eq!(of(&second).since(&of(&first)), None);
        assert_eq!(of(&third).since(&of(&first)), None, "though the buckets are the same again");
    }
}
