//! A coordinator on an open port: whoever dials in with nonsense is refused in words, and the run goes on waiting.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use tailcliff_proto::link::{LinkError, dial, join};
use tailcliff_proto::v1::bulk_client::BulkClient;
use tailcliff_proto::v1::clock_client::ClockClient;
use tailcliff_proto::v1::{self, clock_up, node_message};
use tailcliff_proto::{BUILD, PROTOCOL};
use tokio_util::sync::CancellationToken;

struct Coordinator {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Coordinator {
    fn start() -> Self {
        Self::waiting("60s", "1")
    }

    fn waiting(patience: &str, agents: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tailcliff"))
            .args(["coordinate", "--listen", "127.0.0.1:0", "--agents", agents, "--wait", patience])
            .args(["--url", "127.0.0.1:9", "--model", "m"])
            .current_dir(dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        let address = line.split([' ', ',']).find(|word| word.starts_with("127.0.0.1:")).unwrap().to_owned();
        // What it says further is read, so that it never waits for a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, dir }
    }

    /// Numbers of the requests in the journal so far, in its order.
    fn stored(&self) -> Vec<u64> {
        let runs = self.dir.path().join("runs");
        let run = std::fs::read_dir(runs).unwrap().next().unwrap().unwrap().path();
        let (entries, _) = tailcliff::journal::read(&run).unwrap();
        let batches = entries.into_iter().filter_map(|entry| match entry.fact {
            Some(tailcliff::journal::Fact::Batch(stored)) => stored.batch,
            _ => None,
        });
        batches.flat_map(|batch| batch.records).map(|record| record.request).collect()
    }

    fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    async fn hello(&self, hello: v1::Hello) -> Result<tailcliff_proto::link::ControlLink, LinkError> {
        join(dial(&self.address, &CancellationToken::new()).await.unwrap(), hello).await
    }

    async fn refusal(&self, hello: v1::Hello) -> String {
        self.hello(hello).await.map(|link| link.welcome).unwrap_err().to_string()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

fn agent() -> v1::Hello {
    let node_kind = v1::NodeKind::Agent as i32;
    v1::Hello { protocol: PROTOCOL, build: BUILD.to_owned(), node_kind, incarnation: 7, ..Default::default() }
}

#[tokio::test]
async fn hellos_that_make_no_sense_are_refused_in_words() {
    let mut coordinator = Coordinator::start();
    let other = v1::Hello { protocol: 99, build: "9.9.9".to_owned(), ..agent() };
    let refusal = coordinator.refusal(other).await;
    assert!(refusal.contains("99") && refusal.contains("9.9.9"), "theirs: {refusal}");
    assert!(refusal.contains(&format!("speaks {PROTOCOL}")) && refusal.contains(BUILD), "ours: {refusal}");
    assert!(coordinator.refusal(v1::Hello { node_kind: 0, ..agent() }).await.contains("neither"));
    assert!(coordinator.refusal(v1::Hello { incarnation: 0, ..agent() }).await.contains("incarnation"));
    let probe = v1::Hello { node_kind: v1::NodeKind::GpuProbe as i32, ..agent() };
    assert!(coordinator.refusal(probe).await.contains("0 gpu-probes"));
    let name = "x\u{1b}[2J".repeat(10_000);
    let _link = coordinator.hello(v1::Hello { name, ..agent() }).await.unwrap();
    let full = coordinator.refusal(v1::Hello { incarnation: 8, ..agent() }).await;
    assert!(full.contains("has its 1 agents"), "{full}");
    assert!(coordinator.is_alive());
}

#[tokio::test]
async fn batches_from_strangers_and_with_holes_are_refused_and_never_acked() {
    let mut coordinator = Coordinator::start();
    let channel = dial(&coordinator.address, &CancellationToken::new()).await.unwrap();
    let ship = |batches: Vec<v1::Batch>| {
        let mut client = BulkClient::new(channel.clone());
        async move { client.ship(tokio_stream::iter(batches)).await.unwrap().into_inner() }
    };
    let batch = |seq| v1::Batch { incarnation: 7, seq, ..Default::default() };
    assert!(ship(vec![batch(1)]).await.message().await.unwrap_err().message().contains("hello"));
    let _link = coordinator.hello(agent()).await.unwrap();
    let mut acks = ship(vec![batch(1), batch(2), batch(1)]).await;
    let mut acked = 0;
    while let Some(ack) = acks.message().await.unwrap() {
        acked = acked.max(ack.through_seq);
    }
    assert_eq!(acked, 2, "a repeat is acked again and harms nothing");
    assert!(ship(vec![batch(9)]).await.message().await.unwrap_err().message().contains("missing"));
    assert!(coordinator.is_alive());
}

/// Two streams of one node, as after a break whose first stream the network still holds: what they bring twice, late or out
/// of order is stored once and in order.
#[tokio::test]
async fn batches_that_come_twice_and_out_of_order_are_stored_once_and_in_order() {
    let mut coordinator = Coordinator::start();
    let _link = coordinator.hello(agent()).await.unwrap();
    let channel = dial(&coordinator.address, &CancellationToken::new()).await.unwrap();
    let open = || {
        let (out, batches) = tokio::sync::mpsc::channel(64);
        let mut client = BulkClient::new(channel.clone());
        let batches = tokio_stream::wrappers::ReceiverStream::new(batches);
        (out, async move { client.ship(batches).await.unwrap().into_inner() })
    };
    let record = |seq| v1::RequestRecord { request: seq, ..Default::default() };
    let batch = |seq| v1::Batch { incarnation: 7, seq, records: vec![record(seq)], ..Default::default() };
    let (old, old_acks) = open();
    let (new, new_acks) = open();
    for seq in [1, 2, 3, 3, 2] {
        old.send(batch(seq)).await.unwrap();
    }
    let mut old_acks = old_acks.await;
    through(&mut old_acks, 3).await;
    for seq in [1, 2, 3, 4, 5, 4] {
        new.send(batch(seq)).await.unwrap();
    }
    let mut new_acks = new_acks.await;
    through(&mut new_acks, 5).await;
    for seq in [4, 5, 6] {
        old.send(batch(seq)).await.unwrap();
    }
    through(&mut old_acks, 6).await;
    // Neither a hole nor what follows it is taken, and what was before is still there.
    new.send(batch(8)).await.unwrap();
    while let Ok(ack) = new_acks.message().await {
        assert!(ack.unwrap().through_seq <= 6);
    }
    assert_eq!(coordinator.stored(), [1, 2, 3, 4, 5, 6]);
    assert!(coordinator.is_alive());
}

/// Reads acks until this one comes.
async fn through(acks: &mut tonic::Streaming<v1::Ack>, seq: u64) {
    while acks.message().await.unwrap().unwrap().through_seq < seq {}
}

#[tokio::test]
async fn connections_that_never_say_anything_hold_up_no_end() {
    let mut coordinator = Coordinator::waiting("2s", "2");
    let link = coordinator.hello(agent()).await.unwrap();
    let clock = tailcliff_proto::link::clock_address(&coordinator.address, &link.welcome);
    drop(link);
    let _silent = [&coordinator.address, &clock].map(|address| TcpStream::connect(address).unwrap());
    for _ in 0..300 {
        if let Some(status) = coordinator.child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(4), "the other agent never came");
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("it waits for a peer that says nothing");
}

#[tokio::test]
async fn noise_on_both_ports_and_out_of_turn_messages_end_nothing() {
    let mut coordinator = Coordinator::start();
    let link = coordinator.hello(agent()).await.unwrap();
    let clock = tailcliff_proto::link::clock_address(&coordinator.address, &link.welcome);
    for address in [&coordinator.address, &clock] {
        let mut stream = TcpStream::connect(address).unwrap();
        let noise: Vec<u8> = (0..100_000).map(|_| fastrand::u8(..)).collect();
        // It may close before all is written.
        let _cut = stream.write_all(&noise);
        let _cut = stream.shutdown(std::net::Shutdown::Write);
        let _rest = stream.read_to_end(&mut Vec::new());
    }
    let done = v1::LevelDone { level: u32::MAX, last_batch_seq: u64::MAX, ..Default::default() };
    for kind in [
        node_message::Kind::Done(done),
        node_message::Kind::Started(v1::LevelStarted {
            was_late: true,
            asked_raw_ns: i64::MIN,
            actual_raw_ns: i64::MAX,
            level: 3,
            order_sent_ref_ns: Some(i64::MAX),
            said_raw_ns: Some(i64::MIN),
            received_ref_ns: Some(i64::MIN),
        }),
        node_message::Kind::Heartbeat(v1::Heartbeat {
            sent_raw_ns: i64::MIN,
            heard_sent_ns: Some(i64::MIN),
            heard_raw_ns: Some(i64::MAX),
        }),
        node_message::Kind::Armed(v1::LevelArmed { level: 9, error: "x".repeat(100_000) }),
        node_message::Kind::Hello(agent()),
    ] {
        link.out.send(v1::NodeMessage { kind: Some(kind) }).await.unwrap();
    }
    let channel = dial(&clock, &CancellationToken::new()).await.unwrap();
    let pong = v1::ClockPong { t1_ns: i64::MIN, t2_ns: i64::MAX, ..Default::default() };
    let up = [clock_up::Kind::Hello(v1::ClockHello { incarnation: 7 }), clock_up::Kind::Pong(pong)];
    let up = tokio_stream::iter(up.map(|kind| v1::ClockUp { kind: Some(kind) }));
    let _ended = ClockClient::new(channel).exchange(up).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(coordinator.is_alive());
}
