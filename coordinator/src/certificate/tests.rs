//! What each check tells apart.

use tailcliff_proto::v1;

use super::*;
use crate::axis::Load;
use crate::local::ErrorKind;
use crate::merge::testrun::{self, MS, S};
use crate::merge::{Merged, merge};
use crate::stored::RunData;

fn certificate(change: impl FnOnce(&mut RunData)) -> Certificate {
    let mut data = testrun::run(7, 2, &[2]);
    change(&mut data);
    merge(&data).levels[0].certificate.clone()
}

fn health(data: &mut RunData, of: u64) -> &mut v1::ClientHealth {
    data.levels[0].done.get_mut(&of).unwrap().health.as_mut().unwrap()
}

fn check<'a>(certificate: &'a Certificate, name: &str) -> &'a Check {
    certificate.checks.iter().find(|c| c.name == name).unwrap()
}

fn lags(ns: i64) -> Option<v1::Histogram> {
    let mut lag = tailcliff_proto::histogram::LatencyHistogram::default();
    (0..100).for_each(|_| lag.record(ns));
    Some(lag.to_wire())
}

#[test]
fn a_client_with_room_passes_every_check_that_was_measured() {
    let fine = certificate(|_| {});
    assert_eq!(fine.verdict, Verdict::Ok, "{:?}", fine.reasons);
    let unknown: Vec<_> = fine.checks.iter().filter(|c| c.ok.is_none()).map(|c| c.name).collect();
    assert_eq!(unknown, ["socket_wait_p95_worst_agent"], "no agent measured it");
    assert!(fine.checks.iter().all(|c| c.ok != Some(false)));
}

#[test]
fn the_busiest_and_the_latest_shard_are_named() {
    let shard = |shard, cpu_ns, lag| v1::ShardHealth {
        shard,
        cpu_ns,
        wall_ns: 11 * S,
        scheduler_lag_p95_ns: Some(lag),
        scheduler_lag_p99_ns: Some(2 * lag),
        ..Default::default()
    };
    let busy =
        certificate(|data| health(data, 2).shard_health = vec![shard(0, S, MS), shard(1, 10 * S, 2 * MS)]);
    assert_eq!(
        (busy.verdict, check(&busy, "cpu_share_busiest_shard").worst.as_str()),
        (Verdict::ClientBound, "agent-2, shard 1")
    );
    assert!(busy.reasons[0].contains("agent-2, shard 1 was 91 % busy (limit 85 %)"), "{:?}", busy.reasons);
    let late = certificate(|data| health(data, 1).shard_health = vec![shard(0, S, 6 * MS), shard(1, S, MS)]);
    assert_eq!(late.verdict, Verdict::ClientBound);
    assert!(late.reasons[0].contains("agent-1, shard 0 came 6.0 ms late"), "{:?}", late.reasons);
    let fine = certificate(|data| health(data, 1).shard_health = vec![shard(0, 9 * S, 4 * MS)]);
    assert_eq!(fine.verdict, Verdict::Ok, "{:?}", fine.reasons);
    assert!(fine.notes[0].contains("agent-1, shard 0 was hot: scheduler lag p99 8.0 ms"), "{:?}", fine.notes);
}

#[test]
fn bytes_that_lie_in_the_socket_are_the_clients_delay() {
    let late = certificate(|data| health(data, 1).socket_wait = lags(6 * MS));
    assert_eq!(late.verdict, Verdict::ClientBound);
    assert!(late.reasons[0].contains("agent-1 read what had come 6.0 ms late"), "{:?}", late.reasons);
    let fine = certificate(|data| health(data, 1).socket_wait = lags(4 * MS));
    assert_eq!((fine.verdict, check(&fine, "socket_wait_p95_worst_agent").ok), (Verdict::Ok, Some(true)));
}

fn gauge_of(data: &mut RunData, of: u64, in_flight: u32) {
    let batches = data.nodes.get_mut(&of).unwrap().batches.iter_mut();
    batches.flat_map(|b| &mut b.in_flight).for_each(|sample| sample.in_flight = in_flight);
}

#[test]
fn streams_that_were_asked_for_and_not_held_are_the_clients() {
    let asked = |data: &mut RunData, each: u32| {
        data.levels[0].shares.values_mut().for_each(|share| share.concurrency = each);
    };
    for (held, verdict) in [(512, Verdict::Ok), (503, Verdict::Ok), (490, Verdict::ClientBound)] {
        let c = certificate(|data| {
            asked(data, 512);
            (1..=2).for_each(|of| gauge_of(data, of, held));
        });
        assert_eq!(c.verdict, verdict, "{held}: {:?}", c.reasons);
    }
    let c = certificate(|data| asked(data, 512));
    assert!(c.reasons[0].contains("2.0 of 1024 streams were in flight"), "{:?}", c.reasons);
    assert_eq!(check(&c, "in_flight_held").ok, Some(false));
}

#[test]
fn streams_that_rest_after_failures_are_the_servers() {
    let c = certificate(|data| {
        data.levels[0].shares.values_mut().for_each(|share| share.concurrency = 10);
        (1..=2).for_each(|of| gauge_of(data, of, 1));
        for record in data.nodes.values_mut().flat_map(|n| &mut n.batches).flat_map(|b| &mut b.records) {
            record.outcome = v1::Outcome::Failed as i32;
        }
    });
    // About 180 failures in 10 s, up to 100 ms of rest each: 1.8 of the 18 streams that are missing.
    assert_eq!(check(&c, "in_flight_held").ok, Some(false));
    let fewer = certificate(|data| {
        data.levels[0].shares.values_mut().for_each(|share| share.concurrency = 2);
        (1..=2).for_each(|of| gauge_of(data, of, 1));
        for record in data.nodes.values_mut().flat_map(|n| &mut n.batches).flat_map(|b| &mut b.records) {
            record.outcome = v1::Outcome::Failed as i32;
        }
    });
    assert_eq!(check(&fewer, "in_flight_held").ok, Some(true), "{:?}", fewer.reasons);
}

#[test]
fn a_host_without_descriptors_or_ports_is_named_and_a_refusing_server_is_not() {
    let failing = |detail: &str, kind: &str| {
        certificate(|data| {
            let records = &mut data.nodes.get_mut(&1).unwrap().batches[0].records;
            for record in &mut records[..5] {
                record.outcome = v1::Outcome::Failed as i32;
                (record.error_kind, record.error_detail) = (kind.to_owned(), detail.to_owned());
            }
        })
    };
    let files = failing(
        "failed to connect to h:1: Too many open files (os error 24)",
        ErrorKind::ClientLimit.as_str(),
    );
    assert_eq!(
        (files.verdict, check(&files, "descriptor_failures").value),
        (Verdict::ClientBound, Some(5.0))
    );
    let ports = failing(
        "failed to connect to h:1: Cannot assign requested address (os error 99)",
        ErrorKind::ClientLimit.as_str(),
    );
    assert_eq!((ports.verdict, check(&ports, "port_failures").value), (Verdict::ClientBound, Some(5.0)));
    assert!(ports.reasons[0].contains("ip_local_port_range"));
    let refused = failing("failed to connect to h:1: Connection refused (os error 111)", "connect_refused");
    assert_eq!(refused.verdict, Verdict::Ok, "{:?}", refused.reasons);
    assert_eq!(failing("the server says (os error 24)", "http_status").verdict, Verdict::Ok);
}

#[test]
fn dropped_records_beyond_one_in_a_thousand_are_the_clients() {
    let drops = |n| certificate(|data| data.levels[0].done.get_mut(&1).unwrap().dropped_windows = n);
    assert_eq!(drops(0).verdict, Verdict::Ok);
    assert_eq!(drops(2).verdict, Verdict::ClientBound);
}

/// Three levels; the client gives out at the second, where figures alone would show knee and cliff.
fn sweep() -> Merged {
    let mut data = testrun::run(7, 2, &[1, 2, 4]);
    for done in data.levels[1].done.values_mut() {
        done.health.as_mut().unwrap().cpu_ns = 11 * S;
    }
    merge(&data)
}

#[test]
fn knee_and_cliff_pass_over_a_level_that_the_client_could_not_drive() {
    let merged = sweep();
    assert_eq!(merged.levels[1].certificate.verdict, Verdict::ClientBound);
    let steps: Vec<_> = merged.knee.steps.iter().map(|s| (s.from, s.to)).collect();
    assert_eq!(steps, [(Load::Streams(1), Load::Streams(4))]);
    let tails: Vec<_> = merged.cliff.tails.iter().map(|t| t.load).collect();
    assert_eq!(tails, [Load::Streams(1), Load::Streams(4)]);
    for words in [&merged.knee.words, &merged.cliff.words] {
        assert!(words.contains("not judged: 2 (client-bound"), "{words}");
    }
}
