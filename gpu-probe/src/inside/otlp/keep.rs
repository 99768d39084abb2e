//! What is kept of the exports that came: within a rate, counted, and handed on in batches.

use tailcliff_proto::v1;

use super::span::{Came, Found};
use crate::inside::Sink;

/// Spans that are kept a second, and at once: SGLang's ten slices of 2,000 requests a second.
const SPANS_PER_S: i64 = 20_000;
/// Bytes of exports that are read a second, and at once, as they are when decompressed: more than as many spans take. What
/// comes above costs no decoding.
const BYTES_PER_S: i64 = 64 << 20;
/// Spans are handed on when there are so many, or a while after they came.
pub(super) const TOGETHER: usize = 500;

/// So many a second, and as many at once. What was taken beyond that is owed.
#[derive(Debug)]
struct Bucket {
    per_s: i64,
    left: i64,
    filled_ns: i64,
}

impl Bucket {
    fn full(per_s: i64, now_ns: i64) -> Self {
        Self { per_s, left: per_s, filled_ns: now_ns }
    }

    /// What may be taken; below 0, what is owed.
    fn left(&mut self, now_ns: i64) -> i64 {
        let since = i128::from(now_ns.saturating_sub(self.filled_ns).max(0));
        let gained = i64::try_from(i128::from(self.per_s) * since / 1_000_000_000).unwrap_or(i64::MAX);
        if gained > 0 {
            self.left = self.left.saturating_add(gained).min(self.per_s);
            self.filled_ns = now_ns;
        }
        self.left
    }

    fn take(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(i64::try_from(amount).unwrap_or(i64::MAX));
    }
}

/// Spans that wait to be handed on, and what may yet come.
pub(super) struct Keep {
    sink: Sink,
    waiting: Vec<v1::ServerSpan>,
    spans: Bucket,
    bytes: Bucket,
}

impl Keep {
    pub(super) fn new(sink: Sink, now_ns: i64) -> Self {
        let (spans, bytes) = (Bucket::full(SPANS_PER_S, now_ns), Bucket::full(BYTES_PER_S, now_ns));
        Self { sink, waiting: Vec::new(), spans, bytes }
    }

    /// Nobody asks for spans while there is no run: they are taken and dropped, and no count speaks of them, since a count of
    /// spans that no run could have had would read as a loss of this one's.
    pub(super) fn is_on(&self) -> bool {
        self.sink.is_on()
    }

    /// An export came that nobody asks for. Should a run go on without us, it may be one of its.
    pub(super) fn unheard(&self) {
        self.sink.unheard();
    }

    /// Whether another export is to be read. What it takes is known only then, and may be owed.
    pub(super) fn reads(&mut self, now_ns: i64) -> bool {
        self.bytes.left(now_ns) > 0
    }

    /// So many bytes were read and decompressed.
    pub(super) fn has_read(&mut self, bytes: usize) {
        self.bytes.take(bytes);
    }

    /// Room for the spans of an export.
    pub(super) fn room(&mut self, came: Came) -> Found {
        let left = usize::try_from(self.spans.left(came.raw_ns)).unwrap_or(0);
        Found::new(came, left)
    }

    /// Takes in an export that was read whole.
    pub(super) fn take(&mut self, found: Found) {
        self.spans.take(found.spans.len());
        {
            let mut totals = self.sink.tally.totals();
            totals.received += found.received;
            totals.without_ids += found.without_ids;
            totals.over_rate += found.over_rate;
        }
        self.waiting.extend(found.spans);
        if self.waiting.len() >= TOGETHER {
            self.hand_on();
        }
    }

    pub(super) fn malformed(&self) {
        self.count(|totals| totals.malformed += 1);
    }

    pub(super) fn turned_away(&self) {
        self.count(|totals| totals.turned_away += 1);
    }

    pub(super) fn put_off(&self) {
        self.count(|totals| totals.put_off += 1);
    }

    fn count(&self, count: impl FnOnce(&mut v1::SpanTally)) {
        if self.is_on() {
            count(&mut self.sink.tally.totals());
        }
    }

    /// Hands on what waits; what there is no room for is counted.
    pub(super) fn hand_on(&mut self) {
        while !self.waiting.is_empty() {
            let rest = self.waiting.split_off(self.waiting.len().min(TOGETHER));
            let server_spans = std::mem::replace(&mut self.waiting, rest);
            let lost = self.sink.push(v1::Batch { server_spans, ..Default::default() });
            self.sink.tally.totals().without_room += lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn a_bucket_holds_a_second_and_fills_in_one() {
        let mut bucket = Bucket::full(10, 5 * S);
        assert_eq!(bucket.left(5 * S), 10);
        bucket.take(10);
        assert_eq!(bucket.left(5 * S), 0);
        // Looked at more often than it gains one, it gains all the same.
        for i in 1..=50 {
            bucket.left(5 * S + i * S / 100);
        }
        assert_eq!(bucket.left(5 * S + S / 2), 5);
        assert_eq!(bucket.left(90 * S), 10);
        bucket.take(25);
        assert_eq!((bucket.left(91 * S), bucket.left(92 * S)), (-5, 5));
        assert_eq!(bucket.left(93 * S), 10);
        // A clock that goes back harms nothing.
        assert_eq!(bucket.left(3 * S), 10);
    }
}
