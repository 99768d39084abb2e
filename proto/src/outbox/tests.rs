//! An outbox with and without a spool: whatever happens, batches come out in order, each once, and none is missing.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::mpsc;

use super::{Outbox, SpoolConfig, Worth, cost};
use crate::clock::HostClock;
use crate::v1;

fn record(bytes: usize) -> v1::RequestRecord {
    v1::RequestRecord { error_detail: "x".repeat(bytes), ..Default::default() }
}

fn batch(bytes: usize) -> v1::Batch {
    let loop_lags = vec![v1::LoopLag::default()];
    v1::Batch { records: vec![record(bytes)], loop_lags, ..Default::default() }
}

fn room_for(batches: usize, bytes: usize) -> usize {
    batches * (cost(&batch(bytes)) + 16)
}

#[test]
fn evidence_of_every_kind_has_its_cost() {
    let empty = cost(&v1::Batch::default());
    let more = |batch: v1::Batch| cost(&batch) - empty;
    let stamped = v1::DriverSamples { raw_ns: vec![1; 500], values: vec![1.0; 500], ..Default::default() };
    assert!(more(v1::Batch { driver_samples: vec![stamped], ..Default::default() }) >= 1_000 * 8);
    let words = v1::SensorReport { note: "x".repeat(500), ..Default::default() };
    let words = v1::Batch { sensors: vec![words], ..Default::default() };
    assert!(more(words) >= size_of::<v1::SensorReport>() + 500);
    let batches = [
        (
            v1::Batch { gpu_samples: vec![Default::default(); 9], ..Default::default() },
            size_of::<v1::GpuSample>(),
        ),
        (
            v1::Batch { gpm_samples: vec![Default::default(); 9], ..Default::default() },
            size_of::<v1::GpmSample>(),
        ),
        (
            v1::Batch { host_samples: vec![Default::default(); 9], ..Default::default() },
            size_of::<v1::HostSample>(),
        ),
        (
            v1::Batch { gpu_events: vec![Default::default(); 9], ..Default::default() },
            size_of::<v1::GpuEvent>(),
        ),
        (
            v1::Batch { probe_costs: vec![Default::default(); 9], ..Default::default() },
            size_of::<v1::ProbeCost>(),
        ),
        (
            v1::Batch { loop_lags: vec![Default::default(); 9], ..Default::default() },
            size_of::<v1::LoopLag>(),
        ),
    ];
    for (batch, each) in batches {
        assert!(more(batch.clone()) >= 9 * each, "{batch:?}");
    }
}

/// With a spool of `mib` in `dir`.
fn spooling(limit: usize, dir: &Path, mib: u64) -> (Outbox, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel(16);
    let outbox = Outbox::new(7, limit);
    outbox.spool(SpoolConfig { dir: dir.to_owned(), bytes: mib << 20 }, tell).unwrap();
    (outbox, told)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never: {what}");
}

/// Pushes, each time waiting until there is room.
fn push_patiently(outbox: &Outbox, bytes: usize) {
    until("room", || outbox.push(batch(bytes)).is_ok());
}

/// Takes everything up to a number as a stream would, acking as it goes.
fn drain(outbox: &Outbox, through: u64) -> Vec<v1::Batch> {
    let mut all = Vec::new();
    for seq in outbox.acked()..through {
        until("the next batch", || outbox.next_after(seq).is_some());
        all.push(outbox.next_after(seq).unwrap());
        outbox.acknowledge(seq + 1);
    }
    all
}

fn in_order(batches: &[v1::Batch], from: u64) -> bool {
    batches.iter().zip(from..).all(|(batch, seq)| batch.seq == seq && batch.incarnation == 7)
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let spool = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let mut all: Vec<_> = std::fs::read_dir(spool).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn batches_are_numbered_kept_and_released_by_acks() {
    let outbox = Outbox::new(7, 1 << 20);
    for expected in 1..=3 {
        assert_eq!(outbox.push(v1::Batch::default()).unwrap(), expected);
    }
    assert_eq!(outbox.next_after(0).unwrap().seq, 1);
    outbox.acknowledge(2);
    assert_eq!(outbox.next_after(0).unwrap().seq, 3, "a replay starts at the oldest unacked batch");
    outbox.acknowledge(99);
    assert!(outbox.next_after(0).is_none());
    assert_eq!(outbox.push(v1::Batch::default()).unwrap(), 4);
    assert_eq!(outbox.next_after(3).unwrap().seq, 4, "an ack from the future deletes nothing later");
}

#[test]
fn what_does_not_fit_comes_back() {
    let outbox = Outbox::new(7, room_for(1, 10));
    assert!(outbox.push(batch(10)).is_ok());
    let returned = outbox.push(batch(100)).unwrap_err();
    assert_eq!((returned.records.len(), outbox.last_seq()), (1, 1));
}

#[test]
fn what_is_worth_less_is_refused_first() {
    let outbox = Outbox::new(7, room_for(100, 10));
    let all = [Worth::Traces, Worth::SomeTraces, Worth::Records, Worth::Gauges, Worth::Most];
    let taken = all.map(|worth| (0..200).filter(|_| outbox.push_worth(worth, batch(10)).is_ok()).count());
    assert!(taken[0] >= 70 && taken.iter().all(|&n| n >= 5), "each leaves room to the next: {taken:?}");
    assert!(outbox.push(batch(10)).is_err());
}

#[test]
fn beyond_memory_batches_go_to_disk_and_come_back_in_order_and_no_file_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, mut told) = spooling(room_for(10, 10_000), dir.path(), 64);
    (0..300).for_each(|_| push_patiently(&outbox, 10_000));
    assert_eq!(outbox.last_seq(), 300);
    assert_eq!(entries(dir.path()), 1);
    assert!(told.try_recv().unwrap().contains(dir.path().to_str().unwrap()), "a person is told where");
    let batches = drain(&outbox, 300);
    assert!(in_order(&batches, 1));
    assert!(batches.iter().all(|b| b.lost.is_none() && b.records == [record(10_000)]));
    until("no file is left when all is acked", || entries(dir.path()) == 0);
    push_patiently(&outbox, 10_000);
    assert_eq!(drain(&outbox, 301)[0].seq, 301);
    assert!(told.try_recv().is_err(), "nothing else to tell");
}

#[tokio::test]
async fn closing_leaves_no_file_whatever_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, _told) = spooling(room_for(10, 1_000), dir.path(), 64);
    (0..100).for_each(|_| push_patiently(&outbox, 1_000));
    assert_eq!(entries(dir.path()), 1);
    outbox.close();
    outbox.closed().await;
    assert_eq!(entries(dir.path()), 0);
}

#[test]
fn memory_stays_bounded_while_nothing_is_acked() {
    let dir = tempfile::tempdir().unwrap();
    let limit = room_for(20, 10_000);
    let (outbox, _told) = spooling(limit, dir.path(), 64);
    for _ in 0..1_000 {
        push_patiently(&outbox, 10_000);
        assert!(outbox.shared.state().memory <= limit);
    }
    let state = outbox.shared.state();
    let in_memory = state.head.len() + state.tail.len();
    assert!(in_memory <= 20 && state.spool.on_disk.len() + in_memory == 1_000, "{in_memory}");
}

#[test]
fn a_full_spool_is_told_once_and_what_memory_cannot_hold_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, mut told) = spooling(room_for(10, 10_000), dir.path(), 1);
    until("full", || outbox.push(batch(10_000)).is_err() && told_of(&mut told, "--spool-mib"));
    for _ in 0..100 {
        assert!(outbox.push(batch(10_000)).is_err());
    }
    let kept = outbox.last_seq();
    assert!((90..130).contains(&kept), "1 MiB and ten: {kept}");
    assert!(!told_of(&mut told, "--spool-mib"), "once");
    assert!(in_order(&drain(&outbox, kept), 1));
    push_patiently(&outbox, 10_000);
    assert_eq!(drain(&outbox, kept + 1).len(), 1, "it goes on when there is room again");
}

fn told_of(told: &mut mpsc::Receiver<String>, what: &str) -> bool {
    std::iter::from_fn(|| told.try_recv().ok()).any(|text| text.contains(what))
}

#[test]
fn a_disk_that_cannot_be_written_is_told_once_and_memory_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (outbox, mut told) = spooling(room_for(10, 1_000), &file, 64);
    let kept = (0..100).filter(|_| outbox.push(batch(1_000)).is_ok()).count() as u64;
    assert_eq!(kept, 10);
    until("told", || told_of(&mut told, "--spool-dir"));
    assert!(in_order(&drain(&outbox, kept), 1), "nothing that was taken is lost");
    (0..5).for_each(|_| push_patiently(&outbox, 1_000));
    assert!(in_order(&drain(&outbox, kept + 5), kept + 1));
    assert!(!told_of(&mut told, "--spool-dir"), "once");
}

/// Files that were damaged or cut short while they waited: what they held is counted, and the numbers have no hole.
#[test]
fn a_damaged_spool_is_counted_and_holds_up_nothing() {
    for damage in [0, 1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let (outbox, mut told) = spooling(room_for(10, 1_000), dir.path(), 64);
        (0..100).for_each(|_| push_patiently(&outbox, 1_000));
        until("written", || outbox.shared.state().tail.is_empty());
        let path = &segments(dir.path())[0];
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        match damage {
            0 => bytes.truncate(middle),
            1 => bytes[middle] ^= 16,
            _ => bytes.clear(),
        }
        std::fs::write(path, bytes).unwrap();
        let batches = drain(&outbox, 100);
        assert!(in_order(&batches, 1));
        let lost: u64 = batches.iter().filter_map(|b| b.lost).map(|lost| lost.records).sum();
        let whole: u64 = batches.iter().map(|b| b.records.len() as u64).sum();
        assert_eq!(lost + whole, 100, "each record is there or counted");
        let lags: u64 = batches.iter().filter_map(|b| b.lost).map(|lost| lost.evidence).sum();
        assert_eq!(lags, lost, "and so is each lag of a loop, one a batch");
        assert_eq!(lost == 1, damage == 1, "{lost} lost by damage {damage}");
        assert!(lost > 0 && told_of(&mut told, "lost"));
    }
}

/// The oldest may go to the front while it is written: acked as fast as they come, batches are on either side by turns.
#[test]
fn batches_that_move_to_the_front_while_they_are_written_are_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, _told) = spooling(room_for(12, 5_000), dir.path(), 64);
    let pushing = outbox.clone();
    let all = 4_000;
    let pushed = std::thread::spawn(move || {
        for _ in 0..all {
            // Memory's first half holds six: the seventh and the eighth go to disk, or to the front as acks come.
            while pushing.unacked() > 7 || pushing.push(batch(5_000)).is_err() {
                std::thread::yield_now();
            }
        }
    });
    let mut sent = 0;
    let deadline = HostClock.now() + 60_000_000_000;
    while sent < all {
        assert!(HostClock.now() < deadline, "stuck behind {sent}");
        if let Some(batch) = outbox.next_after(sent) {
            assert_eq!((batch.seq, batch.records.len(), batch.lost), (sent + 1, 1, None));
            sent = batch.seq;
        }
        // Late by a few, so that there is always something in the way.
        outbox.acknowledge(if pushed.is_finished() { sent } else { sent.saturating_sub(sent % 3) });
    }
    pushed.join().unwrap();
    outbox.close();
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    /// Takes the next batches and acks some of them, late and out of order.
    Ship(u64, u64),
    /// The stream broke: all unacked ones come again.
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..6_000).prop_map(Step::Push),
        2 => (1u64..20, 0u64..20).prop_map(|(take, ack)| Step::Ship(take, ack)),
        1 => Just(Step::Reconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 16, ..ProptestConfig::default() })]

    /// What a receiver keeps that takes only the next number is every batch, once, in order.
    #[test]
    fn whatever_the_stream_does_each_batch_arrives_once(steps in prop::collection::vec(step(), 1..200)) {
        let dir = tempfile::tempdir().unwrap();
        let (outbox, _told) = spooling(room_for(12, 2_000), dir.path(), 64);
        let (mut pushed, mut received, mut sent) = (Vec::new(), Vec::new(), 0);
        let take = |sent: &mut u64, received: &mut Vec<usize>| {
            let Some(batch) = outbox.next_after(*sent) else { return false };
            assert!(batch.seq <= received.len() as u64 + 1, "a hole before {}", batch.seq);
            if batch.seq == received.len() as u64 + 1 {
                received.push(batch.records[0].error_detail.len());
            }
            *sent = batch.seq;
            true
        };
        for step in steps {
            match step {
                Step::Push(bytes) => {
                    pushed.extend(outbox.push(batch(bytes)).is_ok().then_some(bytes));
                }
                Step::Ship(most, late) => {
                    for _ in 0..most {
                        take(&mut sent, &mut received);
                    }
                    let through = sent.saturating_sub(late);
                    // An older ack after a newer one changes nothing.
                    [through, through.saturating_sub(3)].into_iter().for_each(|seq| outbox.acknowledge(seq));
                }
                Step::Reconnect => sent = 0,
            }
        }
        while received.len() < pushed.len() {
            outbox.acknowledge(sent);
            until("the rest", || take(&mut sent, &mut received));
        }
        prop_assert_eq!(received, pushed);
        outbox.close();
    }
}
