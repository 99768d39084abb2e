//! Deliberate faults of an agent: they happen as ordered, the records tell of them, and no figure has them in it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[allow(dead_code, reason = "another test file uses the rest of it")]
mod support;

use std::time::Duration;

use support::{Coordinator, Model, PATIENCE};
use tailcliff_agent::config::Config;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1::{self, Phase, coordinator_message::Kind as Order};
use tokio_util::sync::CancellationToken;

const MS: i64 = 1_000_000;
const LONG: Duration = Duration::from_secs(60);

fn load(duration_ns: i64) -> v1::LoadShare {
    let stop = Some(v1::load_share::Stop::DurationNs(duration_ns));
    let (warmup_ns, drain_ns) = (300 * MS, 20_000 * MS);
    v1::LoadShare { concurrency: 6, stop, warmup_ns, drain_ns, ..Default::default() }
}

fn order(model: &Model, load: v1::LoadShare, controls: Option<v1::Controls>) -> v1::ArmLevel {
    let workload = Some(v1::Workload { input_words: 5, max_tokens: 4, seed: 1, ..Default::default() });
    let (target, load) = (Some(model.target()), Some(load));
    v1::ArmLevel { level: 3, target, workload, load, controls, ..Default::default() }
}

/// One level on an agent of two shards; its start, its end and all it sent.
async fn run(load: v1::LoadShare, controls: Option<v1::Controls>) -> (i64, v1::LevelDone, Vec<v1::Batch>) {
    let model = Model::start(4, Duration::from_millis(10)).await;
    let mut coordinator = Coordinator::start(LONG).await;
    let mut config = Config::new(coordinator.address.clone());
    config.shards = 2;
    let agent = tokio::spawn(tailcliff_agent::run(config, CancellationToken::new()));
    coordinator.joined().await;
    coordinator.order(Order::Arm(order(&model, load, controls))).await;
    assert_eq!(coordinator.armed().await.error, "");
    let at = HostClock.now() + 100 * MS;
    coordinator.order(Order::Start(v1::StartAt { level: 3, at_raw_ns: at, ..Default::default() })).await;
    let start = coordinator.started().await.actual_raw_ns;
    let done = coordinator.done().await;
    let batches = coordinator.batches_through(done.last_batch_seq).await;
    coordinator.order(Order::End(v1::RunEnd::default())).await;
    tokio::time::timeout(PATIENCE, agent).await.expect("the agent leaves").unwrap().unwrap();
    (start, done, batches)
}

fn longest(lags: &[v1::LoopLag], shard: u32) -> Option<&v1::LoopLag> {
    let of_shard = lags.iter().filter(|lag| lag.shard == shard);
    of_shard.max_by_key(|lag| lag.to_raw_ns - lag.from_raw_ns)
}

#[tokio::test]
async fn paused_requests_are_records_and_in_no_histogram() {
    let controls = v1::Controls { pause_ns: 150 * MS, every: 4, block_ns: 0 };
    let (_, done, batches) = run(load(1_500 * MS), Some(controls)).await;
    let records: Vec<_> = batches.iter().flat_map(|batch| batch.records.clone()).collect();
    let counts = done.counts.unwrap();
    assert_eq!(counts.released, records.len() as u64, "all are counted");
    let (paused, others): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.is_control());
    assert!(paused.len() >= 6 && others.len() > 2 * paused.len(), "{} of {}", paused.len(), records.len());
    let looked =
        |r: &v1::RequestRecord| r.headers_raw_ns.is_none_or(|at| at >= r.sent_raw_ns.unwrap() + 149 * MS);
    assert!(paused.iter().all(|r| looked(r)));
    assert!(records.iter().any(|r| r.shard == 0) && records.iter().any(|r| r.shard == 1));
    let completed = |phase| {
        let of = |r: &&&v1::RequestRecord| r.phase() == phase && r.outcome() == v1::Outcome::Completed;
        others.iter().filter(of).count() as u64
    };
    for phase in [Phase::Warmup, Phase::Measured] {
        let in_windows: u64 =
            batches.iter().flat_map(|b| &b.windows).filter(|w| w.phase() == phase).map(|w| w.completed).sum();
        assert_eq!(in_windows, completed(phase), "{phase:?}");
    }
    let health = done.health.unwrap();
    let waits = LatencyHistogram::try_from(health.socket_wait.as_ref().unwrap()).unwrap();
    let arrivals: u64 = others
        .iter()
        .filter(|r| r.phase() != Phase::Warmup)
        .map(|r| tailcliff_proto::arrivals::decode_waits(&r.socket_waits).flatten().count() as u64)
        .sum();
    assert_eq!(waits.len(), arrivals, "what waited on purpose is no wait of the client's");
}

#[tokio::test]
async fn one_loop_stands_still_once_and_says_when() {
    let controls = v1::Controls { pause_ns: 0, every: 0, block_ns: 400 * MS };
    let (start, done, batches) = run(load(1_200 * MS), Some(controls)).await;
    let lags: Vec<_> = batches.iter().flat_map(|batch| batch.loop_lags.clone()).collect();
    assert!(lags.iter().all(|lag| lag.level == 3 && lag.shard < 2));
    assert_eq!(done.dropped_loop_lags, 0);
    // Level 3 of two shards: the turn of shard 1.
    let lag = longest(&lags, 1).expect("its lag is told");
    let (from, middle) = (lag.from_raw_ns, start + 900 * MS);
    let ran_before = from - 10 * MS;
    assert!(ran_before <= middle + 100 * MS && lag.to_raw_ns >= middle + 400 * MS, "{lag:?} {middle}");
    assert!(lag.to_raw_ns - from >= 389 * MS, "{lag:?}");
    let others = longest(&lags, 0).map_or(0, |lag| lag.to_raw_ns - lag.from_raw_ns);
    assert!(others < 300 * MS, "the other loop went on: {others}");
    let mut ended: Vec<_> =
        batches.iter().flat_map(|b| &b.records).map(|record| (record.shard, record.done_raw_ns)).collect();
    ended.sort_unstable();
    // Whoever had its turn just before or after is no part of it: the block is the one gap within.
    let gap = ended
        .windows(2)
        .filter(|pair| pair[0].0 == 1 && pair[1].0 == 1)
        .max_by_key(|pair| pair[1].1 - pair[0].1)
        .map(|pair| (pair[0].1, pair[1].1))
        .unwrap();
    assert!(gap.1 - gap.0 >= 390 * MS && gap.1 > from && gap.0 < lag.to_raw_ns, "{gap:?} {lag:?}");
    assert!(ended.iter().any(|(shard, at)| *shard == 0 && (gap.0..gap.1).contains(at)));
    assert!(batches.iter().flat_map(|b| &b.records).all(|r| !r.is_control()));
}

#[tokio::test]
async fn without_controls_no_request_is_paused_and_a_loop_that_runs_tells_of_no_long_lag() {
    let (_, _, batches) = run(load(600 * MS), None).await;
    assert!(batches.iter().flat_map(|b| &b.records).all(|r| !r.is_control() && r.control_pause_ns == 0));
    let lags: Vec<_> = batches.iter().flat_map(|batch| batch.loop_lags.clone()).collect();
    let worst =
        (0..2).filter_map(|shard| longest(&lags, shard)).map(|lag| lag.to_raw_ns - lag.from_raw_ns).max();
    // A busy host may hold up any loop for a moment.
    assert!(worst.unwrap_or(0) < 300 * MS, "{lags:?}");
}

#[tokio::test]
async fn controls_that_make_no_sense_are_refused_in_words() {
    let model = Model::start(1, Duration::ZERO).await;
    let mut coordinator = Coordinator::start(LONG).await;
    let agent = tokio::spawn(tailcliff_agent::run(
        Config::new(coordinator.address.clone()),
        CancellationToken::new(),
    ));
    coordinator.joined().await;
    let controls = |pause_ns, every, block_ns| Some(v1::Controls { pause_ns, every, block_ns });
    let mut over_http2 = order(&model, load(1_000 * MS), controls(MS, 1, 0));
    over_http2.target.as_mut().unwrap().http_version = v1::HttpVersion::HttpVersion2 as i32;
    let hostile = [
        (order(&model, load(1_000 * MS), controls(i64::MAX, 1, 0)), "between"),
        (order(&model, load(1_000 * MS), controls(MS, 0, 0)), "one in"),
        (order(&model, load(1_000 * MS), controls(0, 0, 900 * MS)), "twice as long"),
        (over_http2, "HTTP/1.1"),
    ];
    for (order, word) in hostile {
        coordinator.order(Order::Arm(order)).await;
        let error = coordinator.armed().await.error;
        assert!(error.contains(word), "{error:?} does not mention {word}");
    }
    coordinator.order(Order::End(v1::RunEnd::default())).await;
    tokio::time::timeout(PATIENCE, agent).await.expect("the agent leaves").unwrap().unwrap();
}
