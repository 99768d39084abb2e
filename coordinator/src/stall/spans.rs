//! Spans of time, joined where they touch: when requests were in flight, and when their tokens came.

/// Spans that wait to be joined at most.
const LOOSE: usize = 1 << 20;

/// Spans [from, to] in ns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Union {
    spans: Vec<(i64, i64)>,
    loose_from: usize,
}

/// When the server had something to do for this run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans {
    /// Sent and not ended.
    pub(crate) in_flight: Union,
    /// Between the first and the last token.
    pub(crate) streaming: Union,
    /// Of these, within a stall.
    pub(crate) stalled: Union,
}

impl Union {
    pub(crate) fn add(&mut self, from: i64, to: i64) {
        if to > from {
            self.spans.push((from, to));
        }
        if self.spans.len() - self.loose_from > LOOSE {
            self.close();
        }
    }

    /// Joins what touches; needed before anything is asked.
    pub(crate) fn close(&mut self) {
        self.spans.sort_unstable();
        let mut joined: Vec<(i64, i64)> = Vec::with_capacity(self.spans.len().min(1024));
        for &(from, to) in &self.spans {
            match joined.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => joined.push((from, to)),
            }
        }
        self.spans = joined;
        self.loose_from = self.spans.len();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// True when none of [from, to] lies inside.
    pub(crate) fn misses(&self, from: i64, to: i64) -> bool {
        self.first_after(from).is_none_or(|span| span.0 > to)
    }

    /// True when all of [from, to] lies inside.
    pub(crate) fn covers(&self, from: i64, to: i64) -> bool {
        self.first_after(from).is_some_and(|span| span.0 <= from && to <= span.1)
    }

    /// The first span that ends at `ns` or later.
    fn first_after(&self, ns: i64) -> Option<&(i64, i64)> {
        self.spans.get(self.spans.partition_point(|span| span.1 < ns))
    }
}

impl Spans {
    pub(crate) fn close(&mut self) {
        [&mut self.in_flight, &mut self.streaming, &mut self.stalled].into_iter().for_each(Union::close);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_touch_are_one() {
        let mut union = Union::default();
        [(10, 20), (30, 40), (18, 30), (50, 50), (60, 70)].into_iter().for_each(|(a, b)| union.add(a, b));
        union.close();
        assert_eq!(union.spans, [(10, 40), (60, 70)]);
        assert!(
            union.covers(10, 40) && union.covers(15, 35) && !union.covers(35, 41) && !union.covers(45, 50)
        );
        assert!(union.misses(41, 59) && union.misses(0, 9) && union.misses(71, 99));
        assert!(!union.misses(0, 10) && !union.misses(39, 45) && !union.misses(41, 60));
    }
}
