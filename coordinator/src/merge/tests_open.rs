//! Merged open loops against servers whose answers are arithmetic.

use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1::{self, Outcome, Phase};

use super::testrun::{self, MS, S};
use super::window::Rule;
use super::*;
use crate::axis::{Load, Rate};
use crate::plan::Plan;

/// An open loop of one agent: a request each 1/rate from the start on, answered by a server of `capacity_per_s` that
/// takes `life_ns` and queues what is too much. Warm-up 1 s, window 10 s.
struct Scene {
    rate: f64,
    capacity_per_s: f64,
    life_ns: i64,
    by_requests: bool,
}

const FITS: Scene = Scene { rate: 4.0, capacity_per_s: 1e9, life_ns: 400 * MS, by_requests: false };

impl Scene {
    fn data(&self) -> RunData {
        let mut data = testrun::run(1, 1, &[1]);
        let (warmup_ns, length) = (S, 10 * S);
        data.header.plan = Plan {
            request_rate: vec![Rate(self.rate)],
            concurrency: Vec::new(),
            warmup_ns,
            num_prompts: self.by_requests.then_some((self.rate * 10.0) as u64),
            duration_ns: (!self.by_requests).then_some(length),
            ..data.header.plan
        };
        let log = &mut data.levels[0];
        log.load = Load::Rate(Rate(self.rate));
        let start = log.start_ref_ns + testrun::offset(1);
        let (mut free, mut records) = (start, Vec::new());
        for k in 0..((warmup_ns + length) as f64 / 1e9 * self.rate).round() as u64 {
            let at = start + (k as f64 / self.rate * 1e9) as i64;
            free = free.max(at) + (1e9 / self.capacity_per_s) as i64;
            let phase = if at < start + warmup_ns { Phase::Warmup } else { Phase::Measured };
            records.push(v1::RequestRecord {
                request: k,
                phase: phase as i32,
                intended_raw_ns: at,
                issued_raw_ns: Some(at),
                done_raw_ns: free + self.life_ns,
                outcome: Outcome::Completed as i32,
                output_tokens: Some(2),
                request_id: format!("k{k}"),
                ..Default::default()
            });
        }
        let gauge = |i: i64| {
            // In no step with the arrivals, as the agents' own are not.
            let raw_ns = start + i * 97 * MS + i * i % 13 * MS;
            let life = |r: &&v1::RequestRecord| r.intended_raw_ns <= raw_ns && raw_ns < r.done_raw_ns;
            let in_flight = records.iter().filter(life).count() as u32;
            v1::InFlightSample { level: 0, raw_ns, in_flight }
        };
        let batch = &mut data.nodes.get_mut(&1).unwrap().batches[0];
        batch.in_flight = (0..400).map(gauge).collect();
        batch.windows.clear();
        let released = records.len() as u64;
        batch.records = records;
        let done = log.done.get_mut(&1).unwrap();
        done.counts = Some(v1::LevelCounts { released, ..Default::default() });
        done.max_in_flight = Some(64);
        data
    }

    fn level(&self) -> Level {
        merge(&self.data()).levels.remove(0)
    }
}

#[test]
fn a_server_that_keeps_up_does_what_is_offered() {
    for by_requests in [false, true] {
        let level = Scene { by_requests, ..FITS }.level();
        let (throughput, rates) = (level.throughput.unwrap(), level.rates.unwrap());
        let rule = if by_requests { Rule::Arrivals } else { Rule::Duration };
        assert_eq!(throughput.window.rule, rule);
        for rate in [throughput.requests.per_s, rates.offered, rates.achieved] {
            assert!((rate - 4.0).abs() < 0.05, "{rule:?}: {rate}");
        }
        let little = level.little.unwrap();
        assert!((little.in_flight - 1.6).abs() < 0.1 && little.residual.abs() < 0.05, "{little:?}");
        assert_eq!(level.load.concurrency(), None);
    }
}

/// Each takes 2 s, and 80 of them come within 8 s or 4: a fourth of them, or half, is under way at the last arrival.
#[test]
fn a_server_that_keeps_up_has_no_knee_without_a_warmup_either() {
    for rate in [10.0, 20.0] {
        let mut data = Scene { rate, life_ns: 2 * S, by_requests: true, ..FITS }.data();
        data.header.plan.warmup_ns = 0;
        let batch = &mut data.nodes.get_mut(&1).unwrap().batches[0];
        batch.records.truncate(80);
        batch.records.iter_mut().for_each(|record| record.phase = Phase::Measured as i32);
        let level = merge(&data).levels.remove(0);
        let (throughput, rates) = (level.throughput.unwrap(), level.rates.unwrap());
        assert_eq!(throughput.window.rule, Rule::Arrivals, "{rate}");
        for found in [throughput.requests.per_s, rates.offered, rates.achieved] {
            assert!((found / rate - 1.0).abs() < 0.05, "{rate}: {found}");
        }
    }
}

/// Twice its capacity: counted by shares of lives, the queue's waiting would pass for work.
#[test]
fn a_server_that_does_not_keep_up_is_told_its_capacity() {
    for by_requests in [false, true] {
        let level = Scene { rate: 10.0, capacity_per_s: 5.0, by_requests, ..FITS }.level();
        let throughput = level.throughput.unwrap();
        // By requests, half of them end after the last arrival: the window with the fewer would speak for the few.
        let near = (throughput.requests.per_s - 5.0).abs() < 0.2;
        assert!(near, "{:?}: {}", throughput.window.rule, throughput.requests.per_s);
        assert!((level.rates.unwrap().offered - 10.0).abs() < 0.2, "whatever the window of throughput");
        let little = level.little.unwrap();
        assert!(little.residual.abs() < 0.05, "{little:?}");
    }
}

#[test]
fn what_was_held_back_and_never_sent_is_told() {
    let mut data = FITS.data();
    let done = data.levels[0].done.get_mut(&1).unwrap();
    let mut waits = LatencyHistogram::default();
    (1..=4).for_each(|n| waits.record(n * 50 * MS));
    done.held = Some(waits.to_wire());
    done.counts.as_mut().unwrap().held_back = 4;
    done.never_sent = 20;
    let level = &merge(&data).levels[0];
    let held = level.held.as_ref().unwrap();
    assert_eq!((held.requests, held.never_sent, held.bound), (4, 20, Some(64)));
    assert!((level.rates.unwrap().offered - 6.0).abs() < 0.05, "what was never sent had arrived");
    let notes = level.certificate.notes.join("; ");
    assert!(
        notes.contains("4 requests held back by --max-concurrency (p99 200.")
            && notes.contains("20 arrivals")
    );
    assert_eq!(level.certificate.verdict, Verdict::Ok, "the bound is the plan's");
    data.levels[0].done.get_mut(&1).unwrap().own_bound = true;
    let level = &merge(&data).levels[0];
    assert_eq!(level.certificate.verdict, Verdict::ClientBound);
    assert!(level.certificate.reasons[0].contains("24 requests held back at the 64 in flight"));
}

/// Stopped in its sixth second, with two of three held back: 4 a second had arrived.
#[test]
fn what_an_interrupted_level_offered_ends_with_it() {
    let mut data = FITS.data();
    data.levels[0].voided = Some("interrupted".to_owned());
    let start = data.levels[0].start_ref_ns + testrun::offset(1);
    let batch = &mut data.nodes.get_mut(&1).unwrap().batches[0];
    batch.records.truncate(8);
    // The eight that were sent had been meant for the first two seconds, and were spread over six.
    for (k, record) in batch.records.iter_mut().enumerate() {
        record.issued_raw_ns = Some(start + k as i64 * 6 * S / 7);
        record.done_raw_ns = start + (k as i64 + 1) * 6 * S / 7;
    }
    data.levels[0].done.get_mut(&1).unwrap().never_sent = 16;
    let rates = merge(&data).levels[0].rates.unwrap();
    assert!((rates.offered - 4.0).abs() < 0.1, "{rates:?}");
    assert!((rates.achieved - 7.0 / 6.0).abs() < 0.2, "{rates:?}");
}

#[test]
fn retries_are_released_and_told_and_no_arrivals() {
    let mut data = FITS.data();
    let before = merge(&data).levels.remove(0);
    let batch = &mut data.nodes.get_mut(&1).unwrap().batches[0];
    let last = batch.records.len() - 1;
    batch.records[last - 3].outcome = Outcome::Failed as i32;
    let mut again = v1::RequestRecord { attempt: 1, ..batch.records[last - 3].clone() };
    again.outcome = Outcome::Completed as i32;
    batch.records.push(again);
    let done = data.levels[0].done.get_mut(&1).unwrap();
    done.counts.as_mut().unwrap().released += 1;
    let level = merge(&data).levels.remove(0);
    let (counts, was) = (level.measured, before.measured);
    assert_eq!((counts.completed, counts.failed, level.retried), (was.completed, 1, 1));
    assert_eq!(level.all_phases.released(), before.all_phases.released() + 1);
    assert_eq!(level.rates, before.rates);
    assert!(level.certificate.notes.iter().any(|n| n.starts_with("1 of the released are retries")));
}

#[test]
fn all_at_once_has_no_warmup_and_is_counted_over_the_makespan() {
    let mut data = Scene { rate: 40.0, capacity_per_s: 10.0, by_requests: true, ..FITS }.data();
    let start = data.levels[0].start_ref_ns + testrun::offset(1);
    data.levels[0].load = Load::Rate(Rate(f64::INFINITY));
    for record in &mut data.nodes.get_mut(&1).unwrap().batches[0].records {
        (record.intended_raw_ns, record.issued_raw_ns) = (start, Some(start));
        record.phase = Phase::Measured as i32;
    }
    let merged = merge(&data);
    let throughput = merged.levels[0].throughput.unwrap();
    assert_eq!(throughput.window.rule, Rule::Makespan);
    assert!((throughput.requests.per_s - 10.0).abs() < 0.1, "{throughput:?}");
    assert_eq!(merged.knee.skipped.len(), 1);
    assert!(merged.levels[0].certificate.notes.iter().any(|n| n.contains("all requests at once")));
}
