//! The one histogram of tailcliff: 1 µs to 1 hour in ns, 3 significant digits, so that any two can be added. On the
//! wire: HdrHistogram V2 bytes (readable by other HdrHistogram tools) and a count of values that did not fit.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};

use crate::v1;

/// Smallest value told apart, ns.
pub const LOWEST_NS: u64 = 1_000;
/// Largest value held, ns: one hour.
pub const HIGHEST_NS: u64 = 3_600_000_000_000;
/// Decimal digits kept.
pub const SIGNIFICANT_DIGITS: u8 = 3;

/// Values that a histogram from the wire may hold: a second of a million requests a second has 10⁶, and a million such
/// can still be added and written again.
const MOST_VALUES: u64 = 1 << 40;

/// A histogram of durations in ns, with the values it could not hold counted beside.
#[derive(Clone, Debug)]
pub struct LatencyHistogram {
    inner: Histogram<u64>,
    out_of_range: u64,
}

/// Why bytes were not a histogram of ours.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not HdrHistogram V2, or cut short.
    #[error("histogram bytes are not HdrHistogram V2: {0}")]
    Format(String),
    /// Another range or precision: adding it would be silently wrong.
    #[error("histogram has another range or precision ({0})")]
    Shape(String),
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { inner: empty(), out_of_range: 0 }
    }
}

#[allow(clippy::expect_used)]
fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS).expect("constant bounds are valid")
}

impl LatencyHistogram {
    /// Adds one duration; one that is negative or over an hour is counted as out of range, never clipped.
    pub fn record(&mut self, ns: i64) {
        let fits = u64::try_from(ns).is_ok_and(|v| v <= HIGHEST_NS && self.inner.record(v).is_ok());
        if !fits {
            self.out_of_range += 1;
        }
    }

    /// Adds another histogram's counts.
    pub fn add(&mut self, other: &Self) {
        // A broken peer may claim any number.
        self.out_of_range = self.out_of_range.saturating_add(other.out_of_range);
        if self.inner.add(&other.inner).is_err() {
            self.out_of_range = self.out_of_range.saturating_add(other.inner.len());
        }
    }

    /// Values held.
    pub fn len(&self) -> u64 {
        self.inner.len()
    }

    /// True when no value is held.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// Values that did not fit.
    pub fn out_of_range(&self) -> u64 {
        self.out_of_range
    }

    /// The value at a quantile in 0..=1, in ns; `None` when empty.
    pub fn quantile_ns(&self, quantile: f64) -> Option<u64> {
        (!self.is_empty()).then(|| self.inner.value_at_quantile(quantile))
    }

    /// Mean in ns; `None` when empty.
    pub fn mean_ns(&self) -> Option<f64> {
        (!self.is_empty()).then(|| self.inner.mean())
    }

    /// Smallest and largest value in ns; `None` when empty.
    pub fn min_max_ns(&self) -> Option<(u64, u64)> {
        (!self.is_empty()).then(|| (self.inner.min(), self.inner.max()))
    }

    /// The histogram inside, for writers of HdrHistogram logs.
    pub fn hdr(&self) -> &Histogram<u64> {
        &self.inner
    }

    /// Forgets every value, keeping the memory.
    pub fn clear(&mut self) {
        self.inner.reset();
        self.out_of_range = 0;
    }

    /// Wire form.
    pub fn to_wire(&self) -> v1::Histogram {
        let mut v2 = Vec::new();
        // Writing to memory cannot fail but by a count over i64, which no run reaches.
        if V2Serializer::new().serialize(&self.inner, &mut v2).is_err() {
            v2.clear();
        }
        v1::Histogram { v2, out_of_range: self.out_of_range }
    }
}

/// Bytes of the header: cookie, payload length, normalising offset, digits (u32 each), lowest, highest (u64), ratio (f64),
/// all big endian.
const HEADER: usize = 40;

/// Refuses what the header promises before memory is taken for it: a range or a payload length alone could ask for
/// gigabytes.
fn check_header(v2: &[u8]) -> Result<(), DecodeError> {
    let short = || DecodeError::Format("shorter than its header".to_owned());
    let word = |at: usize| {
        v2.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes).ok_or_else(short)
    };
    let long = |at: usize| {
        v2.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes).ok_or_else(short)
    };
    let payload = word(4)? as usize;
    if v2.len() < HEADER || payload != v2.len() - HEADER {
        return Err(DecodeError::Format(format!("{} bytes, its header promises {payload}", v2.len())));
    }
    let shape = (long(16)?, long(24)?, word(12)?);
    if shape != (LOWEST_NS, HIGHEST_NS, u32::from(SIGNIFICANT_DIGITS)) {
        return Err(DecodeError::Shape(format!("{shape:?}")));
    }
    Ok(())
}

impl TryFrom<&v1::Histogram> for LatencyHistogram {
    type Error = DecodeError;

    fn try_from(wire: &v1::Histogram) -> Result<Self, DecodeError> {
        check_header(&wire.v2)?;
        let mut bytes = wire.v2.as_slice();
        let inner: Histogram<u64> =
            Deserializer::new().deserialize(&mut bytes).map_err(|e| DecodeError::Format(format!("{e:?}")))?;
        let shape = (inner.low(), inner.high(), inner.sigfig());
        if shape != (LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS) {
            return Err(DecodeError::Shape(format!("{shape:?}")));
        }
        if inner.len() > MOST_VALUES {
            return Err(DecodeError::Format(format!("{} values in one window", inner.len())));
        }
        Ok(Self { inner, out_of_range: wire.out_of_range })
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::{Serializer, V2Serializer};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_wire_keeps_every_count(values in proptest::collection::vec(-5i64..2 * HIGHEST_NS as i64, 0..50)) {
            let mut histogram = LatencyHistogram::default();
            values.iter().for_each(|&v| histogram.record(v));
            let back = LatencyHistogram::try_from(&histogram.to_wire()).unwrap();
            prop_assert_eq!(back.hdr(), histogram.hdr());
            prop_assert_eq!(back.len() + back.out_of_range(), values.len() as u64);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read_but_never_panic(v2 in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _either = LatencyHistogram::try_from(&v1::Histogram { v2, out_of_range: 0 });
        }

        #[test]
        fn a_damaged_histogram_never_panics(at in 0usize..2000, to in any::<u8>(), cut in 0usize..2000) {
            let mut histogram = LatencyHistogram::default();
            (0..300).for_each(|i| histogram.record(i * i * 10_007));
            let mut v2 = histogram.to_wire().v2;
            let at = at % v2.len();
            v2[at] = to;
            v2.truncate(cut.max(1));
            let _either = LatencyHistogram::try_from(&v1::Histogram { v2, out_of_range: 0 });
        }
    }

    #[test]
    fn a_header_that_promises_gigabytes_is_refused_before_they_are_taken() {
        let mut v2 = LatencyHistogram::default().to_wire().v2;
        v2[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        let refused = LatencyHistogram::try_from(&v1::Histogram { v2, out_of_range: 0 });
        assert!(matches!(refused, Err(DecodeError::Format(text)) if text.contains("promises")));
    }

    #[test]
    fn counts_that_no_run_makes_are_refused_and_sums_never_overflow() {
        let mut huge = LatencyHistogram::default();
        huge.inner.record_n(5_000, u64::MAX >> 2).unwrap();
        assert!(LatencyHistogram::try_from(&huge.to_wire()).is_err());
        let mut sum = LatencyHistogram { out_of_range: u64::MAX, ..LatencyHistogram::default() };
        sum.add(&LatencyHistogram { out_of_range: 9, ..LatencyHistogram::default() });
        assert_eq!(sum.out_of_range(), u64::MAX);
    }

    #[test]
    fn another_shape_is_refused_by_its_header() {
        let mut wide = Histogram::<u64>::new_with_bounds(1, 1 << 40, 5).unwrap();
        wide.record(7).unwrap();
        let mut v2 = Vec::new();
        V2Serializer::new().serialize(&wide, &mut v2).unwrap();
        let refused = LatencyHistogram::try_from(&v1::Histogram { v2, out_of_range: 0 });
        assert!(matches!(refused, Err(DecodeError::Shape(_))));
    }
}
