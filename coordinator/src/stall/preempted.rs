//! Answers that the server put out of its batch around a stall, by its own total: between the scrapes that saw it rise.

use std::collections::BTreeMap;

use tailcliff_proto::v1::NodeKind;

use crate::merge::tally::of_kind;
use crate::merge::timeline::Timeline;
use crate::stored::RunData;

use super::gaps::Gap;
use super::place;

/// Rises that are kept of one endpoint.
const RISES_MAX: usize = 100_000;

/// By how much the total rose between scrapes around a stall.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preempted {
    /// At least so many answers.
    pub count: f64,
    /// From the scrape before to the one after, ns.
    pub over_ns: i64,
}

/// A total that rose.
#[derive(Clone, Copy, Debug)]
struct Rise {
    from_ns: i64,
    to_ns: i64,
    count: f64,
}

/// One endpoint by one probe.
#[derive(Default)]
struct Series {
    /// The last scrape: when it was asked for at the earliest, and its total.
    last: Option<(i64, f64)>,
    rises: Vec<Rise>,
}

/// Of each endpoint by each probe the scrapes that saw its total rise, in the order of time.
pub(super) struct Rises(Vec<Vec<Rise>>);

impl Rises {
    pub(super) fn read(data: &RunData, timeline: &Timeline) -> Self {
        let mut all = Vec::new();
        for (of, node) in of_kind(data, NodeKind::GpuProbe) {
            let mut series: BTreeMap<String, Series> = BTreeMap::new();
            for batch in node.each_batch_with_server() {
                for sample in &batch.server_samples {
                    let total = sample.preemptions.filter(|n| (0.0..=1e18).contains(n));
                    let Some((total, at)) = total.zip(place(timeline, of, sample.raw_ns)) else { continue };
                    let Series { last, rises } = series.entry(sample.endpoint.clone()).or_default();
                    // A scrape's values are of a moment after its beginning, and before its end.
                    let to_ns = at.ns.saturating_add(sample.took_ns.max(0)).saturating_add(at.bound_ns);
                    if let Some((from_ns, before)) = *last
                        && total > before
                        && from_ns < to_ns
                        && rises.len() < RISES_MAX
                    {
                        rises.push(Rise { from_ns, to_ns, count: total - before });
                    }
                    if last.is_none_or(|(from_ns, _)| from_ns < at.ns) {
                        *last = Some((at.ns.saturating_sub(at.bound_ns), total));
                    }
                }
            }
            all.extend(series.into_values().map(|series| series.rises).filter(|rises| !rises.is_empty()));
        }
        Self(all)
    }

    /// Of the endpoint that put out most: whether others are the same one, nobody needs to know here.
    pub(super) fn view(&self, gap: &Gap) -> Option<Preempted> {
        let (from, to) = (gap.from_ns.saturating_sub(gap.bound_ns), gap.to_ns.saturating_add(gap.bound_ns));
        let of = |rises: &Vec<Rise>| {
            let first = rises.partition_point(|rise| rise.to_ns < from);
            let near = rises[first..].iter().take_while(|rise| rise.from_ns < to);
            let all = near.copied().reduce(|a, b| Rise { to_ns: b.to_ns, count: a.count + b.count, ..a })?;
            Some(Preempted { count: all.count, over_ns: all.to_ns - all.from_ns })
        };
        self.0.iter().filter_map(of).max_by(|a, b| a.count.total_cmp(&b.count))
    }
}
