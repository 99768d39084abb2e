//! One request's stamps on the coordinator's clock.

use tailcliff_proto::v1::RequestRecord;

use crate::merge::timeline::Timeline;
use crate::stored::Incarnation;

/// A straight line through the places of a request's two ends: what lies between them is placed by it, which costs two
/// look-ups a request, however many tokens it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    from_raw_ns: i64,
    slope: f64,
    /// Intended send.
    pub(super) intended_ns: i64,
    /// End.
    pub(super) done_ns: i64,
    /// How far both may be off.
    pub(super) bound_ns: i64,
}

impl Life {
    /// `None` without a clock track.
    pub(super) fn of(of: Incarnation, record: &RequestRecord, timeline: &Timeline) -> Option<Self> {
        let intended = timeline.place(of, record.intended_raw_ns)?;
        let done = timeline.place(of, record.done_raw_ns)?;
        let raw = record.done_raw_ns.saturating_sub(record.intended_raw_ns);
        let placed = done.ns.saturating_sub(intended.ns);
        Some(Self {
            from_raw_ns: record.intended_raw_ns,
            slope: if raw > 0 && placed > 0 { placed as f64 / raw as f64 } else { 1.0 },
            intended_ns: intended.ns,
            done_ns: done.ns,
            bound_ns: intended.bound_ns.max(done.bound_ns),
        })
    }

    /// A stamp of this request, ns.
    pub(super) fn at(&self, raw_ns: i64) -> i64 {
        let after = raw_ns.saturating_sub(self.from_raw_ns) as f64 * self.slope;
        self.intended_ns.saturating_add(after as i64)
    }
}
