//! Conversations through the agent's door: what the server said is what it is told again, in either loop; and what it does
//! not count, the tokenizer counts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[allow(dead_code, reason = "another test file uses the rest of it")]
mod support;

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::Value;
use support::{Coordinator, Model};
use tailcliff_agent::config::Config;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1::{self, TokenSource, coordinator_message::Kind as Order};
use tokio_util::sync::CancellationToken;

const MS: i64 = 1_000_000;
const TURNS: u32 = 3;

async fn run(order: v1::ArmLevel, corpus: Option<v1::CorpusPart>) -> (v1::LevelDone, Vec<v1::RequestRecord>) {
    let mut coordinator = Coordinator::start(Duration::from_secs(60)).await;
    let shutdown = CancellationToken::new();
    let _end = shutdown.clone().drop_guard();
    tokio::spawn(tailcliff_agent::run(Config::new(coordinator.address.clone()), shutdown));
    coordinator.joined().await;
    if let Some(part) = corpus {
        coordinator.order(Order::Corpus(part)).await;
        let held = |said| matches!(said, v1::node_message::Kind::CorpusHeld(_)).then_some(());
        coordinator.hear(held).await;
    }
    coordinator.order(Order::Arm(order)).await;
    assert_eq!(coordinator.armed().await.error, "");
    let at_raw_ns = HostClock.now() + 50 * MS;
    coordinator.order(Order::Start(v1::StartAt { at_raw_ns, ..Default::default() })).await;
    let done = coordinator.done().await;
    let batches = coordinator.batches_through(done.last_batch_seq).await;
    (done, batches.iter().flat_map(|b| b.records.clone()).collect())
}

fn order(model: &Model, workload: v1::Workload, load: v1::LoadShare) -> v1::ArmLevel {
    let (target, workload) = (Some(model.target()), Some(workload));
    v1::ArmLevel { target, workload, load: Some(load), ..Default::default() }
}

fn talks() -> v1::Workload {
    let synthetic = Some(v1::Synthetic { turns: TURNS, ..Default::default() });
    v1::Workload { input_words: 4, max_tokens: 4, seed: 1, synthetic, ..Default::default() }
}

fn closed(requests: u64) -> v1::LoadShare {
    let stop = Some(v1::load_share::Stop::Requests(requests));
    v1::LoadShare { concurrency: 1, stop, ..Default::default() }
}

/// Every turn must hold all that was said before, the server's part as it said it.
fn assert_told_again(model: &Model, sessions: usize) {
    let bodies: Vec<Value> =
        model.bodies.lock().unwrap().iter().map(|body| serde_json::from_slice(body).unwrap()).collect();
    assert_eq!(bodies.len(), sessions * TURNS as usize);
    let of = |length: usize| bodies.iter().filter(move |b| b["messages"].as_array().unwrap().len() == length);
    for turn in 0..TURNS as usize {
        assert_eq!(of(2 * turn + 1).count(), sessions, "each session has turn {turn}");
    }
    for body in of(5) {
        let messages = body["messages"].as_array().unwrap();
        let said =
            |i: usize| (messages[i]["role"].as_str().unwrap(), messages[i]["content"].as_str().unwrap());
        assert_eq!((said(1), said(3)), (("assistant", "abab"), ("assistant", "abab")));
        assert!([0, 2, 4].iter().all(|&i| said(i).0 == "user" && said(i).1.split(' ').count() == 4));
    }
}

#[tokio::test]
async fn in_closed_loop_a_streams_turns_follow_one_another() {
    let model = Model::start(2, Duration::from_millis(2)).await;
    let (_, records) = run(order(&model, talks(), closed(6)), None).await;
    assert_told_again(&model, 2);
    let turns: Vec<_> = records.iter().map(|r| r.turn).collect();
    assert_eq!(turns, [Some(0), Some(1), Some(2), Some(0), Some(1), Some(2)]);
}

#[tokio::test]
async fn in_open_loop_each_arrival_begins_a_session() {
    let model = Model::start(2, Duration::from_millis(2)).await;
    let pattern = v1::ArrivalPattern::Constant as i32;
    let open = Some(v1::OpenLoad { rate_per_s: 50.0, pattern, agents: 1, ..Default::default() });
    let stop = Some(v1::load_share::Stop::Requests(4));
    let load = v1::LoadShare { open, stop, drain_ns: 20_000 * MS, ..Default::default() };
    let (done, records) = run(order(&model, talks(), load), None).await;
    assert_told_again(&model, 4);
    let counts = done.counts.unwrap();
    assert_eq!((counts.released, counts.completed, records.len()), (12, 12, 12));
    for record in &records {
        assert_eq!(record.turn, Some(record.stream), "a later turn's stream is its number");
    }
    let ids: std::collections::BTreeSet<_> = records.iter().map(|r| &r.request_id).collect();
    assert_eq!(ids.len(), 12);
}

#[tokio::test]
async fn what_the_server_does_not_count_the_tokenizer_counts() {
    let model = Model::start(2, Duration::from_millis(2)).await;
    let tokenizer = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"abab":0,"[UNK]":1},"unk_token":"[UNK]"}}"#;
    let corpus = || v1::CorpusPart {
        corpus_id: 5,
        count: 1,
        tokenizer_json: tokenizer.as_bytes().to_vec(),
        ..Default::default()
    };
    let pick = Some(v1::Pick { corpus_id: 5, streams: 1, ..Default::default() });
    let workload = v1::Workload { pick, synthetic: None, ..talks() };
    let (_, records) = run(order(&model, workload.clone(), closed(2)), Some(corpus())).await;
    assert!(records.iter().all(|r| (r.output_tokens, r.token_source()) == (Some(2), TokenSource::Usage)));
    model.uncounted.store(true, SeqCst);
    let (_, records) = run(order(&model, workload, closed(2)), Some(corpus())).await;
    assert_eq!(records.len(), 2);
    // One word in two chunks.
    assert!(records.iter().all(|r| (r.output_tokens, r.token_source()) == (Some(1), TokenSource::Tokenizer)));
    assert!(records.iter().all(|r| r.content_chunks == 2));
}
