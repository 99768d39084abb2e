//! T = queue + network + compute, as far as a client can tell: what an answer took on average, cut into what it waited
//! beyond an unloaded server, one trip over the network, and the rest.

use crate::certificate::Verdict;
use crate::knee::duration;
use crate::levels::Level;

/// Where the time of a level's mean answer went, ns. The parts that are known add up to its mean E2E.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts {
    /// Mean TTFT beyond that of the lowest level.
    pub queue_ns: f64,
    /// One round trip, as the quickest connecting took; `None` when no connection was made in time's sight.
    pub network_ns: Option<f64>,
    /// The rest.
    pub compute_ns: f64,
    /// What is measured and what is inferred.
    pub words: String,
}

/// Of each level; `None` where nothing tells its TTFT.
pub(super) fn of_levels(levels: &[Level]) -> Vec<Option<Parts>> {
    let is_usable = |level: &&Level| level.certificate.verdict != Verdict::Void && !level.load.is_at_once();
    let told = levels.iter().filter(is_usable).filter(|level| level.latencies.ttft.mean_ns().is_some());
    let lowest = told.min_by(|a, b| a.load.x().total_cmp(&b.load.x()));
    let trip = levels.iter().filter_map(|level| level.quickest_connect_ns).min();
    levels.iter().map(|level| of(level, lowest?, trip)).collect()
}

fn of(level: &Level, lowest: &Level, trip: Option<i64>) -> Option<Parts> {
    let mean = |level: &Level| level.latencies.ttft.mean_ns();
    let (whole, first, base) = (level.latencies.e2e.mean_ns()?, mean(level)?, mean(lowest)?);
    let queue_ns = (first - base).clamp(0.0, whole);
    let network_ns = trip.map(|ns| (ns as f64).min(whole - queue_ns));
    let queue = if level.load == lowest.load {
        "queue is 0 by definition: what others wait is counted from this level".to_owned()
    } else {
        format!(
            "queue (inferred) is the mean TTFT beyond its {} at {}: waiting for a place, and prefills of others",
            duration(base.max(0.0) as u64),
            lowest.load.words()
        )
    };
    let network = match trip {
        Some(ns) => format!(
            "network (measured) is one round trip as the quickest connecting took, {}: what a full link adds hides in the others",
            duration(ns.max(0).unsigned_abs())
        ),
        None => "network is not known: no connection was timed, and it hides in compute".to_owned(),
    };
    let words = format!(
        "{queue}; {network}; compute is the rest of the mean E2E (measured), pauses in mid-answer too"
    );
    Some(Parts { queue_ns, network_ns, compute_ns: whole - queue_ns - network_ns.unwrap_or(0.0), words })
}
