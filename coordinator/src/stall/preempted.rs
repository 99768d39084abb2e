//! Answers that the server put out of its batch around a stall, by its own total: between the scrapes that saw it rise.

use std::collections::BTreeMap;

use tailcliff_proto::v1::NodeKind;

use crate::inside::{moment, rising};
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

/// What one scrape said.
#[derive(Clone, Copy, Debug)]
struct Said {
    at_ns: i64,
    /// Its values are of a moment within.
    moment: (i64, i64),
    total: f64,
}

/// Of each endpoint by each probe the scrapes that saw its total rise, in the order of time.
pub(super) struct Rises(Vec<Vec<Rise>>);

impl Rises {
    pub(super) fn read(data: &RunData, timeline: &Timeline) -> Self {
        let mut all = Vec::new();
        for (of, node) in of_kind(data, NodeKind::GpuProbe) {
            let mut series: BTreeMap<String, Vec<Said>> = BTreeMap::new();
            for batch in node.each_batch_with_server() {
                for sample in &batch.server_samples {
                    let total = sample.preemptions.filter(|n| (0.0..=1e18).contains(n));
                    let Some((total, at)) = total.zip(place(timeline, of, sample.raw_ns)) else { continue };
                    let said = Said { at_ns: at.ns, moment: moment(at, sample.took_ns), total };
                    keep(series.entry(sample.endpoint.clone()).or_default(), said);
                }
            }
            all.extend(series.into_values().map(|said| rises(&said)).filter(|rises| !rises.is_empty()));
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

/// Of scrapes with one total only the first and the last are kept.
fn keep(series: &mut Vec<Said>, said: Said) {
    match series.as_mut_slice() {
        [.., first, last] if first.total == said.total && last.total == said.total => *last = said,
        _ => series.push(said),
    }
}

/// Between scrapes that follow one another.
fn rises(series: &[Said]) -> Vec<Rise> {
    let moments: Vec<i64> = series.iter().map(|said| said.at_ns).collect();
    let in_order = series.iter().zip(rising(&moments)).filter(|(_, kept)| *kept).map(|(said, _)| said);
    let mut last: Option<&Said> = None;
    let mut rises = Vec::new();
    for said in in_order {
        let rise = last.replace(said).map(|before| Rise {
            from_ns: before.moment.0,
            to_ns: said.moment.1,
            count: said.total - before.total,
        });
        rises.extend(rise.filter(|rise| rise.count > 0.0 && rise.from_ns < rise.to_ns));
        if rises.len() >= RISES_MAX {
            break;
        }
    }
    // How long a scrape took is another machine's word as well.
    rises.sort_by_key(|rise| rise.to_ns);
    rises
}
