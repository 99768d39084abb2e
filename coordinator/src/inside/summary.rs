//! What is told of a run's servers as a whole.

use std::collections::BTreeMap;

use tailcliff_proto::v1::{NodeKind, SpanTally};

use super::figures::Summary;
use super::index::Index;
use crate::knee::duration;
use crate::merge::tally::of_kind;
use crate::merge::timeline::Timeline;
use crate::stored::RunData;

/// Of a run, of whose requests `matched` were told of by a server.
pub(crate) fn summary(data: &RunData, timeline: &Timeline, index: &Index, matched: u64) -> Summary {
    let mut summary = Summary {
        spans: index.spans,
        unmatched_spans: index.tellings.saturating_sub(matched),
        told_twice: index.told_twice,
        ..Summary::default()
    };
    for (_, node) in of_kind(data, NodeKind::GpuProbe) {
        let name = &node.hello.name;
        let (mut tally, mut facts) = (None, BTreeMap::new());
        for batch in node.each_batch_with_server() {
            tally = batch.span_tallies.last().copied().or(tally);
            facts.extend(batch.server_facts.iter().map(|facts| (facts.endpoint.clone(), facts.clone())));
        }
        summary.tallies.extend(tally.map(|tally| (name.clone(), tally)));
        summary.facts.extend(facts.into_values().map(|facts| (name.clone(), facts)));
    }
    let name = |of| data.nodes.get(&of).map_or_else(String::new, |node| node.hello.name.clone());
    let steps = index.steps(timeline).into_iter();
    summary.wall_steps = steps.map(|(of, by, at)| (name(of), by, at.ns)).collect();
    summary.warnings = warnings(data, &summary, index);
    summary
}

fn warnings(data: &RunData, summary: &Summary, index: &Index) -> Vec<String> {
    let mut all = Vec::new();
    for (probe, tally) in &summary.tallies {
        let SpanTally { over_rate, without_ids, without_room, malformed, turned_away, bad_lines, .. } =
            *tally;
        let parts = [
            (over_rate, "spans came faster than they are kept"),
            (without_ids, "spans had neither trace id nor request id"),
            (without_room, "spans had no room"),
            (malformed, "exports were no OTLP, or too large"),
            (turned_away, "connections of exporters were turned away"),
            (bad_lines, "lines of the file of stamps could not be read"),
        ];
        let said: Vec<String> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        if !said.is_empty() {
            all.push(format!("gpu-probe {probe}: {}: what they told is missing", said.join(", ")));
        }
    }
    for (probe, by, at) in &summary.wall_steps {
        let at_s = at.saturating_sub(data.header.started_ref_ns) as f64 / 1e9;
        let by = format!("{}{}", if *by < 0 { "−" } else { "+" }, duration(by.unsigned_abs()));
        all.push(format!(
            "gpu-probe {probe}: the wall clock of its host stepped by {by} before {at_s:.1} s of the run: spans of that time are placed \
             by their requests, or counted as unplaced"
        ));
    }
    if index.from_elsewhere > 0 {
        all.push(format!(
            "{} spans came to a probe from another host: their stamps are that host's wall clock and are placed by the probe's, so \
             the parts between clocks are off by what the two differ; run a probe on the server's node",
            index.from_elsewhere
        ));
    }
    if summary.told_twice > 0 {
        all.push(format!(
            "{} requests were told of more than once, such as by two servers behind one URL: the one that ended last counts",
            summary.told_twice
        ));
    }
    all
}
