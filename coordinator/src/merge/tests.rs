//! The merge against the raw records it came from.

use proptest::prelude::*;
use tailcliff_proto::v1::{self, Outcome, Phase};

use super::testrun::{self, MS, gaps};
use super::window::Rule;
use super::*;
use crate::axis::Load;
use crate::stored::Incarnation;

fn measured(data: &RunData, level: u32) -> Vec<&v1::RequestRecord> {
    let all = data.nodes.values().flat_map(|n| &n.batches).flat_map(|b| &b.records);
    let inside = |r: &&v1::RequestRecord| r.level == level && r.phase == Phase::Measured as i32;
    all.filter(inside).filter(|r| r.outcome == Outcome::Completed as i32).collect()
}

/// The value that `percent` of the sorted values do not exceed (nearest rank).
fn pooled(mut values: Vec<i64>, percent: f64) -> f64 {
    values.sort_unstable();
    let rank = (percent / 100.0 * values.len() as f64).ceil().max(1.0) as usize;
    values[rank - 1] as f64
}

fn agrees(data: &RunData) {
    for level in merge(data).levels {
        let records = measured(data, level.drive.level);
        let values: [Vec<i64>; 4] = [
            records.iter().filter_map(|r| record::ttft_ns(r)).collect(),
            records.iter().filter_map(|r| record::tpot_ns(r)).collect(),
            records.iter().flat_map(|r| gaps(r)).collect(),
            records.iter().filter_map(|r| record::e2e_ns(r)).collect(),
        ];
        for ((name, metric), values) in level.latencies.named().into_iter().zip(values) {
            assert_eq!(metric.histogram.len(), values.len() as u64, "{name}");
            let mean = values.iter().sum::<i64>() as f64 / values.len() as f64;
            assert!((metric.mean_ns().unwrap() - mean).abs() < 1.0, "{name}: the mean is exact");
            for percent in [50.0, 95.0, 99.0] {
                let (ours, true_ns) =
                    (metric.percentile_ns(percent).unwrap() as f64, pooled(values.clone(), percent));
                assert!((ours / true_ns - 1.0).abs() <= 1e-3, "p{percent} {name}: {ours} against {true_ns}");
                let Some((low, high)) = metric.interval_ns(percent) else { continue };
                assert!(low as f64 <= true_ns && true_ns <= high as f64, "p{percent} {name}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn merged_percentiles_are_those_of_the_pooled_records(seed: u64, five: bool) {
        agrees(&testrun::run(seed, if five { 5 } else { 1 }, &[1, 2]));
    }
}

#[test]
fn throughput_is_what_ended_inside_the_window() {
    let data = testrun::run(1, 3, &[4]);
    let level = &merge(&data).levels[0];
    let throughput = level.throughput.unwrap();
    assert_eq!(throughput.window.rule, Rule::Duration);
    let (start, end) =
        (data.levels[0].start_ref_ns + testrun::S, data.levels[0].start_ref_ns + 11 * testrun::S);
    let mut inside = 0;
    for (&of, node) in &data.nodes {
        let records = node.batches.iter().flat_map(|b| &b.records);
        let ends = records
            .filter(|r| r.outcome == Outcome::Completed as i32)
            .map(|r| r.done_raw_ns - testrun::offset(of));
        inside += ends.filter(|at| (start..end).contains(at)).count();
    }
    assert!(throughput.completed.abs_diff(inside as u64) <= 1, "{} against {inside}", throughput.completed);
    // Three streams: at either edge each has one request that lies in it partly.
    assert!((throughput.requests.per_s - throughput.completed as f64 / 10.0).abs() < 3.0 / 10.0);
    assert!((throughput.total_tokens.per_s / throughput.requests.per_s - 24.0).abs() < 1e-9);
    let (low, high) = throughput.requests.interval.unwrap();
    assert!(
        low < throughput.requests.per_s
            && throughput.requests.per_s < high
            && high - low < throughput.requests.per_s
    );
    let little = level.little.unwrap();
    assert!((little.in_flight - 3.0).abs() < 0.01 && little.residual.abs() < 0.02, "{little:?}");
    assert_eq!(level.certificate.verdict, Verdict::Ok, "{:?}", level.certificate);
    assert!(level.clock.unwrap().worst_ns < 100_000);
}

/// With `--num-prompts`, the window ends when the first agent's first slot runs dry.
#[test]
fn requests_mode_counts_until_the_first_slot_is_dry() {
    let mut data = testrun::run(2, 2, &[2]);
    data.header.plan.duration_ns = None;
    data.header.plan.num_prompts = Some(100);
    let start = data.levels[0].start_ref_ns;
    for (of, after) in [(1, 9), (2, 8)] {
        let done = data.levels[0].done.get_mut(&of).unwrap();
        done.dry_raw_ns = Some(start + after * testrun::S + testrun::offset(of));
    }
    let window = merge(&data).levels[0].throughput.unwrap().window;
    assert_eq!(window.rule, Rule::Steady);
    assert!((window.seconds() - 7.0).abs() < 1e-3, "{window:?}");
    // Dry after 2 s: one second holds a tenth of the requests, too few to speak for them.
    let dry = start + 2 * testrun::S + testrun::offset(2);
    data.levels[0].done.get_mut(&2).unwrap().dry_raw_ns = Some(dry);
    let level = &merge(&data).levels[0];
    let window = level.throughput.unwrap().window;
    assert_eq!(window.rule, Rule::Makespan);
    assert!(window.seconds() > 9.8 && window.seconds() < 10.3, "{window:?}");
    assert!(level.certificate.notes.iter().any(|n| n.contains("makespan")));
}

/// A server that takes 1 s a request whatever the load, streams in step, requests split up front: the rate is the number
/// of streams, however few requests each one makes.
#[test]
fn streams_in_step_lose_no_work_at_the_windows_edges() {
    for (streams, requests) in [(8, 80), (16, 80), (8, 32), (16, 32), (16, 40)] {
        let each = |stream: i64| requests / streams + i64::from(stream < requests % streams);
        // No two streams are as fast as one another to the ns, nor two requests.
        let life = |stream: i64, i: i64| testrun::S + stream * 300_000 + (i * 7 + stream * 13) % 11 * 100_000;
        let mut points = Vec::new();
        let mut dry = i64::MAX;
        for stream in 0..streams {
            let mut at = 0;
            for i in 0..each(stream) {
                let done_ns = at + life(stream, i);
                let (measured, outcome) = (true, Outcome::Completed);
                points.push(tally::Point {
                    answer: None,
                    connecting_ns: 0,
                    intended_ns: at,
                    issued_ns: at,
                    done_ns,
                    outcome,
                    measured,
                    first: true,
                    input_tokens: 0,
                    output_tokens: 10,
                    good: false,
                });
                at = done_ns;
            }
            dry = dry.min(at);
        }
        let window = window::Window { rule: Rule::Steady, start_ns: 0, end_ns: dry };
        let found = window::throughput(window, Load::Streams(1), &points);
        let off = found.requests.per_s / streams as f64 - 1.0;
        assert!(off.abs() < 0.01, "{streams} streams, {requests} requests: {} /s", found.requests.per_s);
        assert!((found.output_tokens.per_s / found.requests.per_s - 10.0).abs() < 1e-9);
    }
}

/// Streams that each send as soon as their last request has ended, whose lives are exponential with this mean.
fn closed_loop(random: &mut fastrand::Rng, streams: u64, mean_s: f64, until_ns: i64) -> Vec<tally::Point> {
    let mut points = Vec::new();
    for _ in 0..streams {
        let mut at = 0;
        while at < until_ns {
            let done_ns = at + 1 + (-mean_s * (1.0 - random.f64()).ln() * 1e9) as i64;
            points.push(tally::Point {
                answer: None,
                connecting_ns: 0,
                intended_ns: at,
                issued_ns: at,
                done_ns,
                outcome: Outcome::Completed,
                measured: true,
                first: true,
                input_tokens: 0,
                output_tokens: 1,
                good: false,
            });
            at = done_ns;
        }
    }
    points
}

#[test]
fn nineteen_of_twenty_bars_of_a_rate_cover_the_truth() {
    let mut random = fastrand::Rng::with_seed(99);
    // Lives short beside a part of the window, and lives longer than one.
    for (streams, mean_s) in [(1, 0.1), (8, 0.1), (8, 0.4), (8, 2.0), (32, 5.0)] {
        let runs = 600;
        let covered = (0..runs).filter(|_| {
            let points = closed_loop(&mut random, streams, mean_s, 80 * testrun::S);
            let window =
                window::Window { rule: Rule::Duration, start_ns: 40 * testrun::S, end_ns: 60 * testrun::S };
            let rate = window::throughput(window, Load::Streams(1), &points).requests;
            let truth = streams as f64 / mean_s;
            rate.interval.is_none_or(|(low, high)| low <= truth && truth <= high)
        });
        let share = covered.count() as f64 / f64::from(runs);
        println!("{streams} streams, mean {mean_s} s: {share:.3} covered");
        assert!(share > 0.92, "{streams} streams, mean {mean_s} s: {share}");
    }
}

/// Agent 2 dies: its second batch never came, its last progress, at its 30th request, told of 500 released.
fn with_lost_agent() -> RunData {
    let mut data = testrun::run(3, 2, &[2]);
    data.levels[0].done.remove(&2);
    let counts = v1::LevelCounts { released: 500, completed: 480, failed: 2, ..Default::default() };
    let counts = Some(counts);
    let node = data.nodes.get_mut(&2).unwrap();
    node.batches[0].records.truncate(40);
    let raw_ns = node.batches[0].records[29].issued_raw_ns.unwrap();
    data.levels[0].progress.insert(2, v1::LevelProgress { level: 0, raw_ns, counts, ..Default::default() });
    node.lost_ref_ns = Some(1);
    data
}

#[test]
fn released_is_the_sum_of_its_parts_when_an_agent_is_lost() {
    let merged = merge(&with_lost_agent());
    let level = &merged.levels[0];
    assert_eq!(level.all_phases.unreported, 470, "ten of its forty records are of later requests");
    let first = data_records(&with_lost_agent(), 1);
    assert_eq!(level.all_phases.released(), 510 + first);
    assert_eq!(level.measured.unreported, 470, "the phase is unknown, so they all count");
    assert_eq!(level.certificate.verdict, Verdict::Void);
    assert_eq!(level.certificate.lost_agents, 1);
    assert!(merged.warnings.iter().any(|w| w.contains("agent-2 was lost")), "{:?}", merged.warnings);
}

/// Batches that a node could not read back from its spool came as numbers alone.
#[test]
fn what_a_spool_lost_is_told_of_its_node() {
    let mut data = testrun::run(3, 2, &[1]);
    let lost = |records| v1::LostParts { records, windows: 2, ..Default::default() };
    for lost in [lost(40), lost(u64::MAX)] {
        testrun::push(&mut data, 2, v1::Batch { lost: Some(lost), ..Default::default() });
    }
    let merged = merge(&data);
    let told = merged.warnings.iter().find(|w| w.contains("spool")).unwrap();
    assert!(told.contains("agent-2") && told.contains("4 windows"), "{told}");
    assert_eq!(merged.nodes.iter().filter(|node| node.lost_in_spool.is_some()).count(), 1);
}

fn data_records(data: &RunData, of: Incarnation) -> u64 {
    data.nodes[&of].batches.iter().map(|b| b.records.len() as u64).sum()
}

proptest! {
    /// Whatever agents claim, the identity holds and nothing overflows.
    #[test]
    fn the_identity_survives_lies(claims in proptest::collection::vec(any::<u64>(), 3), done: bool) {
        let mut data = RunData::default();
        let mut log = LevelLog { load: Load::Streams(3), ..LevelLog::default() };
        for (of, &released) in (1u64..).zip(&claims) {
            log.shares.insert(of, v1::LoadShare::default());
            let counts = Some(v1::LevelCounts { released, ..Default::default() });
            if done {
                log.done.insert(of, v1::LevelDone { counts, ..Default::default() });
            } else {
                log.progress.insert(of, v1::LevelProgress { counts, ..Default::default() });
            }
        }
        data.levels.push(log);
        let level = &merge(&data).levels[0];
        let c = level.all_phases;
        prop_assert_eq!(c.released(), c.completed + c.failed + c.incomplete + c.unreported);
        prop_assert_eq!(level.measured.error_rate(), None);
    }
}

#[test]
fn nothing_completed_is_no_number() {
    let mut data = testrun::run(4, 1, &[1]);
    for record in data.nodes.get_mut(&1).unwrap().batches.iter_mut().flat_map(|b| &mut b.records) {
        record.outcome = Outcome::Failed as i32;
    }
    data.nodes.get_mut(&1).unwrap().batches[0].windows.clear();
    let merged = merge(&data);
    let level = &merged.levels[0];
    assert_eq!(level.measured.completed, 0);
    assert!(
        level.latencies.named().iter().all(|(_, m)| m.percentile_ns(95.0).is_none() && m.mean_ns().is_none())
    );
    assert_eq!(level.measured.error_rate(), Some(1.0));
    assert_eq!(level.throughput.unwrap().requests.per_s, 0.0);
    assert_eq!(merged.knee.skipped, [(Load::Streams(1), "no completed request".to_owned())]);
    assert_eq!(level.certificate.verdict, Verdict::Thin);
    assert!(level.sample_error.is_some());
}

#[test]
fn hostile_bytes_are_counted() {
    let mut data = testrun::run(5, 1, &[1]);
    let batch = &mut data.nodes.get_mut(&1).unwrap().batches[0];
    let good = batch.windows.len();
    batch.windows[good - 1].ttft = Some(v1::Histogram { v2: vec![0xff; 40], out_of_range: 0 });
    batch.records[0].arrivals = vec![0x80];
    batch.records[1].outcome = 77;
    batch.records[2].done_raw_ns = i64::MIN;
    batch.records[3].first_token_raw_ns = Some(i64::MAX);
    let level = &merge(&data).levels[0];
    assert_eq!((level.outside.bad_windows, level.outside.bad_traces), (1, 1));
    assert_eq!(level.outside.unaligned, 1, "a stamp that far out has no place");
    assert!(level.certificate.notes.iter().any(|n| n.contains("1 windows unreadable")));
}

#[test]
fn a_busy_client_is_told_apart_from_a_slow_server() {
    let mut data = testrun::run(6, 2, &[2]);
    data.levels[0].done.get_mut(&2).unwrap().health.as_mut().unwrap().cpu_ns = 10 * testrun::S;
    let certificate = &merge(&data).levels[0].certificate;
    assert_eq!(certificate.verdict, Verdict::ClientBound);
    assert!(certificate.reasons[0].contains("91 % busy"), "{certificate:?}");
    let mut late = testrun::run(6, 1, &[2]);
    let mut lag = tailcliff_proto::histogram::LatencyHistogram::default();
    (0..100).for_each(|_| lag.record(6 * MS));
    let health = late.levels[0].done.get_mut(&1).unwrap().health.as_mut().unwrap();
    (health.send_lag, health.scheduler_lag) = (Some(lag.to_wire()), Some(lag.to_wire()));
    let certificate = &merge(&late).levels[0].certificate;
    assert_eq!(certificate.verdict, Verdict::ClientBound);
    assert!(certificate.reasons[0].contains("100 of 100 sends"), "{certificate:?}");
    assert!(certificate.reasons[1].contains("6.0 ms late to what was due"), "{certificate:?}");
    // Two late sends are accidents, however few the others; a third in so few is not.
    for (accidents, verdict) in [(2, Verdict::Ok), (3, Verdict::ClientBound)] {
        let mut lag = tailcliff_proto::histogram::LatencyHistogram::default();
        (0..100).for_each(|i| lag.record(if i < accidents { 6 * MS } else { MS / 20 }));
        let health = late.levels[0].done.get_mut(&1).unwrap().health.as_mut().unwrap();
        (health.send_lag, health.scheduler_lag) = (Some(lag.to_wire()), None);
        assert_eq!(merge(&late).levels[0].certificate.verdict, verdict, "{accidents}");
    }
}

#[test]
fn a_level_cut_short_counts_its_rate_until_the_cut() {
    let mut data = testrun::run(6, 1, &[2]);
    let whole = merge(&data).levels[0].throughput.unwrap();
    data.header.plan.duration_ns = data.header.plan.duration_ns.map(|ns| ns * 10).or(Some(100 * testrun::S));
    let diluted = merge(&data).levels[0].throughput.unwrap();
    assert!(diluted.requests.per_s < whole.requests.per_s / 5.0);
    data.levels[0].voided = Some("interrupted".to_owned());
    let cut = merge(&data).levels[0].throughput.unwrap();
    let ratio = cut.requests.per_s / whole.requests.per_s;
    assert!((0.8..1.25).contains(&ratio), "{ratio}");
}

#[test]
fn a_node_without_pings_is_unaligned_and_counted() {
    let mut data = testrun::run(7, 2, &[2]);
    data.nodes.get_mut(&2).unwrap().exchanges.clear();
    let merged = merge(&data);
    let level = &merged.levels[0];
    assert_eq!(level.outside.unaligned, data_records(&data, 2));
    assert!(merged.warnings.iter().any(|w| w.contains("agent agent-2 has no clock track")));
    agrees(&data);
}

#[test]
fn the_probes_resolution_is_measured_where_it_sampled() {
    let mut data = testrun::run(8, 1, &[1, 2]);
    testrun::add_probe(&mut data);
    let merged = merge(&data);
    assert_eq!(merged.levels[0].certificate.probe_interval_ns, Some(10 * MS));
    assert_eq!(merged.levels[1].certificate.probe_interval_ns, None);
    assert!(merged.warnings.iter().any(|w| w.contains("simulated")));
}
