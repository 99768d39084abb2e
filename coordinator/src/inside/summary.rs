//! What is told of a run's servers as a whole.

use tailcliff_proto::v1::{Batch, NodeKind, SpanTally};

use super::figures::Summary;
use super::index::Index;
use super::levels::Matched;
use crate::knee::duration;
use crate::merge::tally::of_kind;
use crate::merge::timeline::Timeline;
use crate::stored::RunData;

/// Of a run, of whose own requests so much was `matched`.
pub(crate) fn summary(data: &RunData, timeline: &Timeline, index: &Index, matched: Matched) -> Summary {
    let mut summary = Summary {
        spans: index.spans,
        unmatched_spans: index.spans.saturating_sub(matched.spans),
        told_twice: matched.told_twice,
        ..Summary::default()
    };
    for (_, node) in of_kind(data, NodeKind::GpuProbe) {
        let name = &node.hello.name;
        let last = |tally, batch: std::borrow::Cow<'_, _>| newest(tally, &batch);
        let tally = node.each_batch_with_server().fold(None, last);
        summary.tallies.extend(tally.map(|tally| (name.clone(), tally)));
    }
    let name = |of| data.nodes.get(&of).map_or_else(String::new, |node| node.hello.name.clone());
    let steps = index.steps(timeline).into_iter();
    summary.wall_steps = steps.map(|(of, by, at)| (name(of), by, at.ns)).collect();
    summary.warnings = warnings(data, &summary, index);
    summary
}

/// Totals: the last word holds.
fn newest(known: Option<SpanTally>, batch: &Batch) -> Option<SpanTally> {
    batch.span_tallies.last().copied().or(known)
}

fn warnings(data: &RunData, summary: &Summary, index: &Index) -> Vec<String> {
    let mut all = Vec::new();
    for (probe, tally) in &summary.tallies {
        // Of each that is a loss there is a word.
        let SpanTally {
            received: _,
            lines: _,
            over_rate,
            without_ids,
            without_room,
            malformed,
            put_off,
            turned_away,
            bad_lines,
        } = *tally;
        let parts = [
            (over_rate, "spans came faster than they are kept"),
            (without_ids, "spans had neither trace id nor request id"),
            (without_room, "spans had no room"),
            (malformed, "exports were no OTLP, or too large"),
            (put_off, "exports were put off, for their exporter to send again"),
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
            "{} spans came to a probe from another address than its host's: if the server is not on the probe's node, its wall clock is \
             another's, so that of their requests each way is known only to within both together (bound_us)",
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
