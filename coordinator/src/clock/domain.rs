//! Clock domains: processes that share a boot and a time namespace share a raw clock, whatever they call themselves.

use std::collections::BTreeMap;

use super::track::{Track, TrackKind};
use crate::stored::{Incarnation, Node, RunData};

/// One track for each node. A node in the coordinator's own domain gets its clock, with no error, as long as its
/// exchanges allow an offset of 0 (cloned machines may share a boot id); any other is fitted.
pub fn resolve(data: &RunData) -> BTreeMap<Incarnation, Track> {
    data.nodes.iter().map(|(&of, node)| (of, of_node(node, &data.header.clock_domain))).collect()
}

fn of_node(node: &Node, coordinator: &(String, u64)) -> Track {
    let here = |s: &tailcliff_proto::v1::ClockSnapshot| {
        s.boot_id == coordinator.0 && s.timens_inode == coordinator.1
    };
    let same = !coordinator.0.is_empty() && !node.snapshots.is_empty() && node.snapshots.iter().all(here);
    let agrees =
        node.exchanges.iter().filter(|e| e.is_possible()).all(|e| e.t2 - e.t3 <= 0 && e.t1 - e.t0 >= 0);
    if same && agrees {
        return Track::same_clock(node.exchanges.len());
    }
    Track::fit(&node.exchanges, &node.snapshots)
}

/// How far apart two stamps' clocks may be: nothing within one domain, else both bounds, ns.
pub fn pair_bound_ns(a: &Track, b: &Track) -> Option<i64> {
    if a.kind() == TrackKind::SameClock && b.kind() == TrackKind::SameClock {
        return Some(0);
    }
    Some(a.median_bound_ns()? + b.median_bound_ns()?)
}
