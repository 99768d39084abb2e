//! Requests that the client paused on purpose: counted, told, and in no latency.

use tailcliff_proto::v1;

use super::testrun::{self, MS};
use super::*;
use crate::plan::ControlPlan;

/// A run of two agents whose every 20th request was paused, which made it 724 ms longer; agents cut their windows without.
fn paused() -> RunData {
    let mut data = testrun::run(3, 2, &[2]);
    data.header.plan.control = Some(ControlPlan { pause_ns: Some(724 * MS), every: 20, block_ns: None });
    let start_ref_ns = data.levels[0].start_ref_ns;
    for (&of, node) in &mut data.nodes {
        let batch = &mut node.batches[0];
        for record in batch.records.iter_mut().filter(|record| record.request % 20 == 7) {
            record.control_pause_raw_ns = record.sent_raw_ns;
            record.control_pause_ns = 724 * MS;
            let late = [&mut record.first_token_raw_ns, &mut record.last_token_raw_ns];
            late.into_iter().flatten().for_each(|at| *at += 724 * MS);
            record.done_raw_ns += 724 * MS;
        }
        let others: Vec<v1::RequestRecord> =
            batch.records.iter().filter(|record| !record.is_control()).cloned().collect();
        batch.windows = testrun::windows(&others, start_ref_ns + testrun::offset(of));
    }
    data
}

#[test]
fn paused_requests_are_counted_and_in_no_latency() {
    let data = paused();
    let (merged, without) = (merge(&data), merge(&testrun::run(3, 2, &[2])));
    let (level, usual) = (&merged.levels[0], &without.levels[0]);
    assert!(level.control_requests > 5);
    assert_eq!((usual.control_requests, level.measured), (0, usual.measured), "they are requests");
    assert_eq!(level.output_tokens, usual.output_tokens, "the server made their tokens");
    for (name, metric) in level.latencies.named() {
        assert_eq!(metric.count, metric.histogram.len(), "{name}: mean and percentiles are of the same");
        let longest = metric.histogram.min_max_ns().unwrap().1;
        assert!(longest < 724 * MS as u64 && metric.mean_ns().unwrap() < longest as f64, "{name}");
    }
    assert!(level.latencies.e2e.count < usual.latencies.e2e.count);
    let throughput = level.throughput.unwrap();
    assert!(throughput.completed >= usual.throughput.unwrap().completed - 2, "they count where they end");
    let notes = &level.certificate.notes;
    assert!(!notes.iter().any(|note| note.contains("percentiles speak of")), "{notes:?}");
    let told = format!("{} of the released were paused on purpose", level.control_requests);
    assert!(notes.iter().any(|note| note.starts_with(&told)), "{notes:?}");
    let warning = merged.warnings.iter().find(|text| text.starts_with("controls:")).unwrap();
    assert!(warning.contains("one request in 20 is paused on purpose, for 724 ms"), "{warning}");
    assert!(!without.warnings.iter().any(|text| text.contains("controls")));
}

/// What would be wrong, were they left in an agent's windows.
#[test]
fn windows_that_hold_them_are_noticed() {
    let mut data = paused();
    let windows = merge(&testrun::run(3, 2, &[2]));
    for (of, node) in testrun::run(3, 2, &[2]).nodes {
        data.nodes.get_mut(&of).unwrap().batches[0].windows = node.batches[0].windows.clone();
    }
    let notes = merge(&data).levels[0].certificate.notes.clone();
    let completed = windows.levels[0].measured.completed;
    assert!(
        notes.iter().any(|note| note.contains(&format!("percentiles speak of {completed}"))),
        "{notes:?}"
    );
}
