//! What an outbox takes of a process's memory while nothing is acked. In a process of its own: others' memory would count.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and print what it found")]

use tailcliff_proto::outbox::{Outbox, SpoolConfig};
use tailcliff_proto::v1;

const MEMORY: u64 = 16 << 20;
/// A minute at 4,000 requests a second, in batches as an agent cuts them.
const BATCHES: u64 = 600;
const RECORDS: u64 = 400;

#[test]
fn a_minute_without_an_ack_at_4_000_requests_a_second_is_bounded_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (tell, _told) = tokio::sync::mpsc::channel(16);
    let outbox = Outbox::new(1, MEMORY as usize);
    outbox.spool(SpoolConfig { dir: dir.path().to_owned(), bytes: 1 << 30 }, tell).unwrap();
    let before = resident();
    let mut most = 0;
    for number in 0..BATCHES {
        let mut batch = batch(number);
        while let Err(refused) = outbox.push(batch) {
            // Faster than any agent: the disk is waited for.
            std::thread::sleep(std::time::Duration::from_millis(1));
            batch = *refused;
        }
        most = most.max(resident().saturating_sub(before));
    }
    assert_eq!(outbox.last_seq(), BATCHES);
    let all = BATCHES * prost::Message::encoded_len(&batch(0)) as u64;
    println!("{} MiB waited, {} MiB of memory were used, of {} allowed", all >> 20, most >> 20, MEMORY >> 20);
    assert!(all > 4 * MEMORY, "{all} bytes: the test shows nothing");
    // The rest is the allocator's, and batches on their way to the disk.
    assert!(most < 2 * MEMORY, "{} MiB", most >> 20);
    outbox.close();
}

fn batch(number: u64) -> v1::Batch {
    let records = (0..RECORDS).map(|n| record(number * RECORDS + n)).collect();
    v1::Batch { records, ..Default::default() }
}

/// As of a reply of 60 tokens.
fn record(request: u64) -> v1::RequestRecord {
    let at = |ns: u64| Some((request * 1_000 + ns) as i64);
    v1::RequestRecord {
        request,
        issued_raw_ns: at(1),
        sent_raw_ns: at(2),
        headers_raw_ns: at(3),
        first_chunk_raw_ns: at(4),
        first_token_raw_ns: at(5),
        last_token_raw_ns: at(6),
        arrivals: vec![130; 240],
        socket_waits: vec![1; 60],
        request_id: format!("11955ade4c067579-0-{request}"),
        finish_reason: "length".to_owned(),
        ..Default::default()
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}
