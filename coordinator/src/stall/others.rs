//! What other requests of the same server did during a stall. That one stream stood still while others went on says more
//! than any GPU can: under batching a busy GPU proves nothing of one request.

use tailcliff_proto::arrivals;
use tailcliff_proto::v1::RequestRecord;

use crate::merge::timeline::Timeline;
use crate::stored::RunData;

use super::gaps::{Gap, ONE_READ_NS};
use super::{each_record, place};

/// A stream that brought this share of what it should have went on.
const WENT_ON: f64 = 0.25;

/// Streams at one place.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// That were under way over the whole of the stall's core, or brought something in it.
    pub streams: u32,
    /// Of these, that went on.
    pub went_on: u32,
    /// Sum over them of the share brought of what the stalled stream's own pace would have.
    pub sum: f64,
}

impl Progress {
    /// Mean share of the usual pace, 0 to 1; `None` without a stream.
    pub fn share(&self) -> Option<f64> {
        (self.streams > 0).then(|| self.sum / f64::from(self.streams))
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            streams: self.streams + other.streams,
            went_on: self.went_on + other.went_on,
            sum: self.sum + other.sum,
        }
    }
}

/// By how near they are to the stalled one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Others {
    /// In the same event loop.
    pub same_loop: Progress,
    /// In other loops of the same agent.
    pub same_agent: Progress,
    /// Of other agents.
    pub elsewhere: Progress,
    /// How far stamps of these may be off against one another, ns.
    pub bound_ns: i64,
}

impl Others {
    /// All of them.
    pub fn all(&self) -> Progress {
        self.same_loop.and(self.same_agent).and(self.elsewhere)
    }
}

/// For each stall, sorted by `from_ns`, what the others did.
pub(super) fn others(data: &RunData, timeline: &Timeline, gaps: &[Gap]) -> Vec<Others> {
    let mut all = vec![Others::default(); gaps.len()];
    let longest = gaps.iter().map(|gap| gap.to_ns.saturating_sub(gap.from_ns)).max().unwrap_or(0);
    let mut stamps = Vec::new();
    each_record(data, |of, record| {
        let span = [record.first_token_raw_ns, Some(record.done_raw_ns)].map(|raw| place(timeline, of, raw?));
        let [Some(begun), Some(ended)] = span else { return };
        let (first, done, bound_ns) = (begun.ns, ended.ns, begun.bound_ns.max(ended.bound_ns));
        let from = gaps.partition_point(|gap| gap.from_ns < first.saturating_sub(longest));
        let to = gaps.partition_point(|gap| gap.from_ns <= done);
        let near = from..to.max(from);
        if near.clone().all(|i| gaps[i].to_ns < first) {
            return;
        }
        read(&mut stamps, record, |raw| place(timeline, of, raw).map(|at| at.ns));
        for i in near {
            let gap = &gaps[i];
            let is_itself = (gap.of, gap.stream, gap.request) == (of, record.stream, record.request)
                && gap.level == record.level;
            if !is_itself && gap.to_ns >= first {
                let others = &mut all[i];
                let place = match (gap.of == of, gap.shard == record.shard) {
                    (true, true) => &mut others.same_loop,
                    (true, false) => &mut others.same_agent,
                    (false, _) => &mut others.elsewhere,
                };
                if note(place, gap, &stamps) && gap.of != of {
                    others.bound_ns = others.bound_ns.max(bound_ns);
                }
            }
        }
    });
    all
}

/// When it was read from: chunks of one read are one, since a client that looks late finds many, and the server may have been
/// at rest for long.
fn read(stamps: &mut Vec<i64>, record: &RequestRecord, place: impl Fn(i64) -> Option<i64>) {
    stamps.clear();
    let mut at = record.intended_raw_ns;
    for arrival in arrivals::decode(&record.arrivals).map_while(Result::ok) {
        at = at.saturating_add_unsigned(arrival.gap_ns);
        let read = place(at).filter(|at| stamps.last().is_none_or(|last| at - last > ONE_READ_NS));
        stamps.extend(read);
    }
}

/// True when it counted.
fn note(progress: &mut Progress, gap: &Gap, stamps: &[i64]) -> bool {
    let (from, to) = gap.core();
    let (Some(first), Some(last)) = (stamps.first(), stamps.last()) else { return false };
    let inside = stamps.partition_point(|at| *at <= to) - stamps.partition_point(|at| *at < from);
    if inside == 0 && !(*first < from && *last > to) {
        return false;
    }
    // Without a pace of its own, two tokens are as much as can be asked. One that began or ended meanwhile had less time.
    let step = gap.median_ns.unwrap_or((to - from) / 2).max(1);
    let alive = ((*last).min(to) - (*first).max(from)).max(0);
    let expected = (alive as f64 / step as f64).max(1.0);
    let share = (inside as f64 / expected).min(1.0);
    progress.streams += 1;
    progress.went_on += u32::from(share >= WENT_ON);
    progress.sum += share;
    true
}
