//! An agent through its door, against a coordinator and a model server that do what each test says.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use support::{Coordinator, Model, PATIENCE};
use tailcliff_agent::AgentError;
use tailcliff_agent::config::Config;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1::{self, Outcome, Phase, coordinator_message::Kind as Order};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const MS: i64 = 1_000_000;
const S: i64 = 1_000 * MS;
const LONG: Duration = Duration::from_secs(60);

type Agent = JoinHandle<Result<(), AgentError>>;

fn start_agent(coordinator: &Coordinator) -> (Agent, CancellationToken) {
    let mut config = Config::new(coordinator.address.clone());
    (config.name, config.shards) = ("a1".to_owned(), 2);
    let shutdown = CancellationToken::new();
    (tokio::spawn(tailcliff_agent::run(config, shutdown.clone())), shutdown)
}

fn arm(model: &Model, load: v1::LoadShare) -> Order {
    let workload = v1::Workload { input_words: 5, max_tokens: 4, seed: 1, ..Default::default() };
    Order::Arm(v1::ArmLevel {
        level: 3,
        target: Some(model.target()),
        workload: Some(workload),
        load: Some(load),
        ..Default::default()
    })
}

fn requests(concurrency: u32, n: u64, warmup_ns: i64) -> v1::LoadShare {
    let stop = Some(v1::load_share::Stop::Requests(n));
    v1::LoadShare { concurrency, first_stream: 10, stop, warmup_ns, drain_ns: 20 * S, ..Default::default() }
}

fn duration(concurrency: u32, duration_ns: i64, drain_ns: i64) -> v1::LoadShare {
    let stop = Some(v1::load_share::Stop::DurationNs(duration_ns));
    v1::LoadShare { concurrency, first_stream: 10, stop, drain_ns, ..Default::default() }
}

fn start_at(at_raw_ns: i64) -> Order {
    Order::Start(v1::StartAt { level: 3, at_raw_ns, ..Default::default() })
}

/// Arms level 3 and starts it 100 ms from now; returns its start.
async fn begin(coordinator: &mut Coordinator, model: &Model, load: v1::LoadShare) -> i64 {
    coordinator.order(arm(model, load)).await;
    assert_eq!(coordinator.armed().await, v1::LevelArmed { level: 3, error: String::new() });
    let at = HostClock.now() + 100 * MS;
    coordinator.order(start_at(at)).await;
    at
}

async fn end(coordinator: &Coordinator, agent: Agent) {
    coordinator.order(Order::End(v1::RunEnd::default())).await;
    tokio::time::timeout(PATIENCE, agent).await.expect("the agent leaves").unwrap().unwrap();
}

fn records(batches: &[v1::Batch]) -> Vec<v1::RequestRecord> {
    batches.iter().flat_map(|b| b.records.clone()).collect()
}

fn of_outcome(records: &[v1::RequestRecord], outcome: Outcome) -> u64 {
    records.iter().filter(|r| r.outcome() == outcome).count() as u64
}

/// Released = completed + failed + incomplete, in what was said and in what was sent.
fn assert_accounted_for(done: &v1::LevelDone, records: &[v1::RequestRecord]) {
    let counts = done.counts.unwrap();
    assert_eq!(counts.released, counts.completed + counts.failed + counts.incomplete);
    assert_eq!(counts.released, records.len() as u64);
    assert_eq!(counts.completed, of_outcome(records, Outcome::Completed));
    assert_eq!(counts.failed, of_outcome(records, Outcome::Failed));
    assert_eq!(counts.incomplete, of_outcome(records, Outcome::Incomplete));
    let ids: BTreeSet<_> = records.iter().map(|r| r.request_id.clone()).collect();
    assert_eq!(ids.len(), records.len(), "each request is its own");
}

fn histogram(wire: &Option<v1::Histogram>) -> LatencyHistogram {
    LatencyHistogram::try_from(wire.as_ref().unwrap()).unwrap()
}

#[tokio::test]
async fn a_level_by_requests() {
    let model = Model::start(4, Duration::from_millis(20)).await;
    let mut coordinator = Coordinator::start(LONG).await;
    let (agent, _) = start_agent(&coordinator);
    let hello = coordinator.joined().await;
    assert_eq!((hello.name.as_str(), hello.node_kind()), ("a1", v1::NodeKind::Agent));
    assert!(hello.incarnation != 0 && hello.host.unwrap().shards == 2);
    let at = begin(&mut coordinator, &model, requests(3, 11, 200 * MS)).await;
    let started = coordinator.started().await;
    assert_eq!((started.asked_raw_ns, started.was_late), (at, false));
    assert!(started.actual_raw_ns >= at);
    let done = coordinator.done().await;
    let batches = coordinator.batches_through(done.last_batch_seq).await;
    let records = records(&batches);
    assert_accounted_for(&done, &records);
    assert_eq!(records.len() as u64, model.asked.load(SeqCst), "nothing is sent twice");
    let measured: Vec<_> = records.iter().filter(|r| r.phase() == Phase::Measured).collect();
    assert_eq!(measured.len(), 11, "warm-up requests do not count");
    assert!(measured.iter().all(|r| r.intended_raw_ns >= at + 200 * MS));
    let warm = records.iter().filter(|r| r.phase() == Phase::Warmup);
    assert!(warm.clone().all(|r| r.intended_raw_ns < at + 200 * MS));
    assert_eq!(
        warm.filter(|r| r.intended_raw_ns == at).count(),
        3,
        "each stream's first is meant for the start"
    );
    assert_eq!(records.iter().map(|r| r.stream).collect::<BTreeSet<_>>(), BTreeSet::from([10, 11, 12]));
    let prefix = format!("{:x}-3-", hello.incarnation);
    assert!(records.iter().all(|r| r.request_id.starts_with(&prefix)));
    assert_windows_match(&batches, &records);
    assert_health(&done, &records);
    assert!(batches.iter().flat_map(|b| &b.in_flight).any(|s| s.level == 3 && s.in_flight == 3));
    // 11 over 3 streams: the one with 3 is dry first, when its last one has ended.
    let last_end =
        |stream| measured.iter().filter(|r| r.stream == stream).map(|r| r.done_raw_ns).max().unwrap();
    let dry = done.dry_raw_ns.expect("it ended by requests");
    let first = (10..13).map(last_end).min().unwrap();
    assert!(dry >= first && dry - first < 5 * S, "dry {} ns after the first last end", dry - first);
    end(&coordinator, agent).await;
}

fn assert_windows_match(batches: &[v1::Batch], records: &[v1::RequestRecord]) {
    let windows: Vec<_> = batches.iter().flat_map(|b| b.windows.clone()).collect();
    for phase in [Phase::Warmup, Phase::Measured] {
        let of_phase = || windows.iter().filter(|w| w.phase() == phase);
        let mut pooled = [(); 4].map(|()| LatencyHistogram::default());
        for wire in of_phase() {
            let parts = [&wire.ttft, &wire.itl, &wire.tpot, &wire.e2e];
            for (pool, part) in pooled.iter_mut().zip(parts) {
                part.iter().for_each(|h| pool.add(&LatencyHistogram::try_from(h).unwrap()));
            }
        }
        let completed = records.iter().filter(|r| r.phase() == phase && r.outcome() == Outcome::Completed);
        let completed: Vec<_> = completed.collect();
        let n = completed.len() as u64;
        assert_eq!(of_phase().map(|w| w.completed).sum::<u64>(), n);
        assert_eq!(of_phase().map(|w| w.output_tokens).sum::<u64>(), 4 * n);
        assert_eq!(pooled.each_ref().map(LatencyHistogram::len), [n, 3 * n, n, n]);
        let mut e2e = LatencyHistogram::default();
        completed.iter().for_each(|r| e2e.record(r.done_raw_ns - r.intended_raw_ns));
        assert_eq!(pooled[3].hdr(), e2e.hdr(), "merged windows are the pooled records");
    }
}

fn assert_health(done: &v1::LevelDone, records: &[v1::RequestRecord]) {
    let health = done.health.as_ref().unwrap();
    assert_eq!(health.shards, 2);
    assert!(health.cpu_ns > 0 && health.wall_ns > 0);
    let after_warmup = records.iter().filter(|r| r.phase() != Phase::Warmup).count();
    assert_eq!(
        histogram(&health.send_lag).len(),
        after_warmup as u64,
        "as every figure, without the warm-up"
    );
    assert!(!histogram(&health.scheduler_lag).is_empty());
    let of_shards: Vec<_> = health.shard_health.iter().map(|s| (s.shard, s.streams)).collect();
    assert_eq!(of_shards, [(0, 2), (1, 1)]);
    assert_eq!(health.shard_health.iter().map(|s| s.cpu_ns).sum::<i64>(), health.cpu_ns);
    assert!(health.shard_health.iter().all(|s| s.wall_ns > 0 && s.wall_ns <= health.wall_ns));
    assert_eq!((done.dropped_records, done.dropped_token_traces), (0, 0));
}

#[tokio::test]
async fn a_level_by_duration_gives_up_what_outlives_the_drain() {
    // Each request takes 400 s: all that is released is in flight at the end.
    let model = Model::start(4, Duration::from_secs(100)).await;
    let mut coordinator = Coordinator::start(LONG).await;
    let (agent, _) = start_agent(&coordinator);
    coordinator.joined().await;
    let at = begin(&mut coordinator, &model, duration(5, 300 * MS, 200 * MS)).await;
    let done = coordinator.done().await;
    let batches = coordinator.batches_through(done.last_batch_seq).await;
    let records = records(&batches);
    assert_accounted_for(&done, &records);
    assert_eq!(of_outcome(&records, Outcome::Incomplete), 5);
    assert!(records.iter().all(|r| r.done_raw_ns >= at + 500 * MS), "they had their drain");
    assert_eq!(done.dry_raw_ns, None);
    // A level shorter than a second has its gauge too.
    let samples: Vec<_> = batches.iter().flat_map(|b| b.in_flight.clone()).collect();
    assert!(samples.iter().any(|s| s.in_flight == 5), "{samples:?}");
    end(&coordinator, agent).await;
}

#[tokio::test]
async fn nothing_is_released_after_the_duration() {
    let model = Model::start(2, Duration::from_millis(15)).await;
    let mut coordinator = Coordinator::start(LONG).await;
    let (agent, _) = start_agent(&coordinator);
    coordinator.joined().await;
    let at = begin(&mut coordinator, &model, duration(2, 400 * MS, 20 * S)).await;
    let done = coordinator.done().await;
    let records = records(&coordinator.batches_through(done.last_batch_seq).await);
    assert_accounted_for(&done, &records);
    assert_eq!(of_outcome(&records, Outcome::Completed), records.len() as u64, "the drain lets them end");
    assert!(records.iter().all(|r| (at..at + 400 * MS).contains(&r.intended_raw_ns)));
    end(&coordinator, agent).await;
}

#[tokio::test]
async fn a_silent_coordinator_stops_the_load() {
    let model = Model::start(2, Duration::from_millis(20)).await;
    let mut coordinator = Coordinator::start(Duration::from_secs(1)).await;
    let (agent, _) = start_agent(&coordinator);
    coordinator.joined().await;
    begin(&mut coordinator, &model, duration(2, 600 * S, S)).await;
    coordinator.started().await;
    let silent_from = HostClock.now();
    coordinator.state.beats.store(false, SeqCst);
    // It gives the silent connection up, dials again, and says again how the level ended.
    coordinator.joined().await;
    let done = coordinator.done().await;
    coordinator.state.beats.store(true, SeqCst);
    assert!(done.given_up.contains("lease"), "a level that was cut must not look whole: {done:?}");
    let records = records(&coordinator.batches_through(done.last_batch_seq).await);
    assert_accounted_for(&done, &records);
    let last = records.iter().map(|r| r.intended_raw_ns).max().unwrap();
    assert!(last > silent_from, "a lease is not a leash: it goes on for a while");
    assert!(last < silent_from + 10 * S, "load {} s after the last word", (last - silent_from) / S);
    end(&coordinator, agent).await;
}

#[tokio::test]
async fn a_short_break_does_not_stop_the_level() {
    let model = Model::start(2, Duration::from_millis(20)).await;
    let mut coordinator = Coordinator::start(LONG).await;
    let (agent, _) = start_agent(&coordinator);
    let hello = coordinator.joined().await;
    let at = begin(&mut coordinator, &model, duration(2, 1500 * MS, 20 * S)).await;
    coordinator.started().await;
    coordinator.cut();
    let again = coordinator.joined().await;
    assert_eq!(again.incarnation, hello.incarnation, "the same process");
    assert_eq!(coordinator.started().await.asked_raw_ns, at, "said again");
    // A coordinator that missed the first word of it orders the start again: no second load, no refusal.
    coordinator.order(start_at(at)).await;
    let done = coordinator.done().await;
    assert_eq!(done.given_up, "");
    let records = records(&coordinator.batches_through(done.last_batch_seq).await);
    assert_accounted_for(&done, &records);
    assert_eq!(of_outcome(&records, Outcome::Completed), records.len() as u64);
    assert!(records.iter().any(|r| r.intended_raw_ns > at + 1200 * MS), "it went on to its end");
    end(&coordinator, agent).await;
}

#[tokio::test]
async fn unacked_batches_are_sent_again_after_a_break() {
    let model = Model::start(2, Duration::from_millis(5)).await;
    let mut coordinator = Coordinator::start(LONG).await;
    coordinator.state.acks.store(false, SeqCst);
    let (agent, _) = start_agent(&coordinator);
    coordinator.joined().await;
    begin(&mut coordinator, &model, requests(2, 8, 0)).await;
    let done = coordinator.done().await;
    coordinator.batches_through(done.last_batch_seq).await;
    let before = coordinator.sent();
    coordinator.state.acks.store(true, SeqCst);
    coordinator.cut();
    coordinator.joined().await;
    let again = coordinator.done().await;
    assert_eq!(again.last_batch_seq, done.last_batch_seq, "how the level ended is said again");
    end(&coordinator, agent).await;
    let after = coordinator.sent().split_off(before.len());
    assert_eq!(after, before, "the same batches under the same numbers");
}

#[tokio::test]
async fn a_late_order_starts_at_once_and_says_so() {
    // 0 is what a coordinator without a clock says; the other is a broken peer's.
    for at in [0, i64::MIN] {
        let model = Model::start(2, Duration::from_millis(5)).await;
        let mut coordinator = Coordinator::start(LONG).await;
        let (agent, _) = start_agent(&coordinator);
        coordinator.joined().await;
        coordinator.order(arm(&model, requests(2, 6, 50 * MS))).await;
        coordinator.armed().await;
        let ordered = HostClock.now();
        coordinator.order(start_at(at)).await;
        let started = coordinator.started().await;
        assert!(started.was_late && started.asked_raw_ns == at && started.actual_raw_ns >= ordered);
        let done = coordinator.done().await;
        let batches = coordinator.batches_through(done.last_batch_seq).await;
        let records = records(&batches);
        assert_accounted_for(&done, &records);
        assert_eq!(records.iter().filter(|r| r.phase() == Phase::Measured).count(), 6);
        assert!(records.iter().any(|r| r.phase() == Phase::Warmup), "the warm-up counts from the real start");
        assert!(records.iter().all(|r| r.intended_raw_ns >= ordered), "the delay is no request's latency");
        assert!(batches.iter().flat_map(|b| &b.windows).all(|w| w.start_raw_ns >= ordered));
        end(&coordinator, agent).await;
    }
}

#[tokio::test]
async fn an_order_to_stop_lets_the_quick_ones_end() {
    let model = Model::start(2, Duration::from_millis(100)).await;
    let mut coordinator = Coordinator::start(LONG).await;
    let (agent, _) = start_agent(&coordinator);
    coordinator.joined().await;
    begin(&mut coordinator, &model, requests(4, 1_000_000, 0)).await;
    coordinator.started().await;
    coordinator.order(Order::Stop(v1::StopReleasing { level: 99, ..Default::default() })).await;
    while model.asked.load(SeqCst) < 12 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    coordinator.order(Order::Stop(v1::StopReleasing { level: 3, ..Default::default() })).await;
    let done = coordinator.done().await;
    let records = records(&coordinator.batches_through(done.last_batch_seq).await);
    assert_accounted_for(&done, &records);
    assert!(done.counts.unwrap().completed >= 12, "those of another level's stop went on");
    assert_eq!(done.counts.unwrap().incomplete, 0, "200 ms fit into the drain");
    assert_eq!(done.dry_raw_ns, None);
    end(&coordinator, agent).await;
}

#[tokio::test]
async fn what_was_in_flight_at_the_runs_end_is_shipped_before_leaving() {
    let model = Model::start(4, Duration::from_secs(100)).await;
    for by_shutdown in [false, true] {
        let mut coordinator = Coordinator::start(LONG).await;
        let (agent, shutdown) = start_agent(&coordinator);
        coordinator.joined().await;
        begin(&mut coordinator, &model, duration(5, 600 * S, S)).await;
        coordinator.started().await;
        while model.asked.load(SeqCst) < if by_shutdown { 10 } else { 5 } {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if by_shutdown {
            shutdown.cancel();
            let left = tokio::time::timeout(PATIENCE, agent).await.expect("the agent leaves").unwrap();
            assert!(left.unwrap_err().to_string().contains("before the run was over"));
        } else {
            end(&coordinator, agent).await;
        }
        let records = records(&coordinator.sent());
        assert_eq!(of_outcome(&records, Outcome::Incomplete), 5, "by shutdown: {by_shutdown}");
    }
}

#[tokio::test]
async fn hostile_orders_are_refused_in_words_and_a_good_one_still_works() {
    let model = Model::start(2, Duration::from_millis(5)).await;
    let mut coordinator = Coordinator::start(LONG).await;
    let (agent, _) = start_agent(&coordinator);
    coordinator.joined().await;
    coordinator.order(start_at(HostClock.now())).await;
    let done = coordinator.done().await;
    assert!(done.given_up.contains("not armed"), "{done:?}");
    assert_eq!(done.counts.unwrap(), v1::LevelCounts::default());
    coordinator.order(Order::Stop(v1::StopReleasing { level: 5, ..Default::default() })).await;
    coordinator.order(Order::Preflight(v1::Preflight::default())).await;
    let failed = |said| if let v1::node_message::Kind::PreflightDone(p) = said { Some(p) } else { None };
    assert!(!coordinator.hear(failed).await.ok);
    let huge = v1::Workload { input_words: 3_000_000, max_tokens: 4, ..Default::default() };
    let hostile = [
        (v1::ArmLevel::default(), "load"),
        (armed_with(&model, requests(u32::MAX, 1, 0)), "streams"),
        (armed_with(&model, requests(1, 1, i64::MAX)), "warm-up"),
        (armed_with(&model, v1::LoadShare { stop: None, ..requests(1, 1, 0) }), "end"),
        (v1::ArmLevel { target: None, ..armed_with(&model, requests(1, 1, 0)) }, "target"),
        (v1::ArmLevel { workload: Some(huge), ..armed_with(&model, requests(9_000, 1, 0)) }, "memory"),
    ];
    for (order, word) in hostile {
        coordinator.order(Order::Arm(order)).await;
        let error = coordinator.armed().await.error;
        assert!(error.contains(word), "{error:?} does not mention {word}");
    }
    // A start in the far future is a mistake of clocks: the level ends without a request.
    coordinator.order(arm(&model, requests(1, 1, 0))).await;
    coordinator.armed().await;
    coordinator.order(start_at(i64::MAX)).await;
    assert!(coordinator.notice().await.contains("ahead"));
    assert_eq!(coordinator.done().await.counts.unwrap(), v1::LevelCounts::default());
    begin(&mut coordinator, &model, requests(2, 4, 0)).await;
    assert_eq!(coordinator.done().await.counts.unwrap().completed, 4);
    end(&coordinator, agent).await;
}

fn armed_with(model: &Model, load: v1::LoadShare) -> v1::ArmLevel {
    match arm(model, load) {
        Order::Arm(order) => order,
        _ => v1::ArmLevel::default(),
    }
}

#[tokio::test]
async fn an_armed_level_is_told_again_after_a_break() {
    let model = Model::start(2, Duration::from_millis(5)).await;
    let mut coordinator = Coordinator::start(LONG).await;
    let (agent, _) = start_agent(&coordinator);
    coordinator.joined().await;
    coordinator.order(arm(&model, requests(2, 4, 0))).await;
    coordinator.armed().await;
    coordinator.cut();
    coordinator.joined().await;
    assert_eq!(coordinator.armed().await.level, 3, "the first may have been lost with the stream");
    coordinator.order(start_at(HostClock.now() + 50 * MS)).await;
    assert_eq!(coordinator.done().await.counts.unwrap().completed, 4);
    end(&coordinator, agent).await;
}

#[tokio::test]
async fn an_armed_level_that_is_stopped_or_left_alone_says_that_it_never_ran() {
    let model = Model::start(2, Duration::from_millis(5)).await;
    let mut coordinator = Coordinator::start(Duration::from_secs(1)).await;
    let (agent, _) = start_agent(&coordinator);
    coordinator.joined().await;
    coordinator.order(arm(&model, requests(2, 4, 0))).await;
    coordinator.armed().await;
    coordinator.order(Order::Stop(v1::StopReleasing { level: 3, ..Default::default() })).await;
    assert!(coordinator.done().await.given_up.contains("stopped before its start"));
    coordinator.order(arm(&model, requests(2, 4, 0))).await;
    coordinator.armed().await;
    coordinator.state.beats.store(false, SeqCst);
    coordinator.joined().await;
    coordinator.state.beats.store(true, SeqCst);
    coordinator.order(start_at(HostClock.now())).await;
    assert!(coordinator.done().await.given_up.contains("not armed"), "its lease lapsed while it waited");
    assert_eq!(model.asked.load(SeqCst), 0);
    end(&coordinator, agent).await;
}

#[tokio::test]
async fn a_refusal_ends_the_agent_with_the_reason() {
    let coordinator = Coordinator::start(LONG).await;
    *coordinator.state.refuses.lock().unwrap() = Some("the run has its 3 agents".to_owned());
    let (agent, _) = start_agent(&coordinator);
    let error = tokio::time::timeout(PATIENCE, agent).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("the run has its 3 agents"), "{error}");
}

#[tokio::test]
async fn it_waits_for_a_coordinator_and_leaves_when_told() {
    let mut config = Config::new("127.0.0.1:9".to_owned());
    config.shards = 1;
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(tailcliff_agent::run(config, shutdown.clone()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!agent.is_finished(), "nobody answers, and it does not give up");
    shutdown.cancel();
    assert!(tokio::time::timeout(PATIENCE, agent).await.unwrap().unwrap().is_err(), "the run is not over");
}

fn part(number: u32, count: u32, texts: &[&str]) -> Order {
    let entry = |text: &&str| {
        let content = Some(v1::turn::Content::User((*text).to_owned()));
        let turn = v1::Turn { content, max_tokens: 2, input_len: 1, ..Default::default() };
        v1::Entry { turns: vec![turn], label: "refusal".to_owned(), ..Default::default() }
    };
    let entries = texts.iter().map(entry).collect();
    Order::Corpus(v1::CorpusPart { corpus_id: 5, number, count, entries, ..Default::default() })
}

async fn held(coordinator: &mut Coordinator) -> u32 {
    let held = |said| if let v1::node_message::Kind::CorpusHeld(held) = said { Some(held) } else { None };
    let said = coordinator.hear(held).await;
    assert_eq!((said.corpus_id, said.error.as_str()), (5, ""));
    said.held
}

#[tokio::test]
async fn a_dataset_told_in_parts_over_a_break_is_what_is_sent() {
    let model = Model::start(2, Duration::from_millis(5)).await;
    let mut coordinator = Coordinator::start(LONG).await;
    let (agent, _) = start_agent(&coordinator);
    coordinator.joined().await;
    let pick = Some(v1::Pick { corpus_id: 5, streams: 3, ..Default::default() });
    let workload = v1::Workload { pick, seed: 3, ..Default::default() };
    let drawing = v1::ArmLevel { workload: Some(workload), ..armed_with(&model, requests(3, 6, 0)) };
    let drawing =
        v1::ArmLevel { load: drawing.load.map(|l| v1::LoadShare { first_stream: 0, ..l }), ..drawing };
    coordinator.order(part(0, 3, &["a", "b"])).await;
    assert_eq!(held(&mut coordinator).await, 1);
    coordinator.order(Order::Arm(drawing.clone())).await;
    assert!(coordinator.armed().await.error.contains("dataset has not arrived"));
    coordinator.cut();
    coordinator.joined().await;
    for (number, texts) in [(0, &["a", "b"][..]), (1, &["c"]), (2, &["d", "e", "f"])] {
        coordinator.order(part(number, 3, texts)).await;
    }
    while held(&mut coordinator).await < 3 {}
    coordinator.order(Order::Arm(drawing)).await;
    assert_eq!(coordinator.armed().await.error, "");
    coordinator.order(start_at(HostClock.now() + 50 * MS)).await;
    let done = coordinator.done().await;
    let records = records(&coordinator.batches_through(done.last_batch_seq).await);
    assert_accounted_for(&done, &records);
    let entries: BTreeSet<_> = records.iter().map(|r| r.entry.unwrap()).collect();
    assert_eq!(entries, (0..6).collect(), "each once");
    assert!(records.iter().all(|r| r.label == "refusal" && r.asked_tokens == Some(2)));
    end(&coordinator, agent).await;
}

#[tokio::test]
async fn a_traced_level_tells_of_its_measured_requests_before_it_is_done() {
    let model = Model::start(4, Duration::from_millis(20)).await;
    let mut coordinator = Coordinator::start(LONG).await;
    let (agent, _) = start_agent(&coordinator);
    coordinator.joined().await;
    let Order::Arm(order) = arm(&model, requests(3, 11, 200 * MS)) else { unreachable!() };
    coordinator.order(Order::Arm(v1::ArmLevel { trace: true, ..order })).await;
    coordinator.armed().await;
    coordinator.order(start_at(HostClock.now() + 100 * MS)).await;
    let told = coordinator.last_telemetry().await;
    let done = coordinator.done().await;
    let records = records(&coordinator.batches_through(done.last_batch_seq).await);
    let measured: Vec<_> = records.iter().filter(|r| r.phase() == Phase::Measured).collect();
    assert!(measured.len() >= 11 && measured.len() < records.len(), "the warm-up made some too");
    let (n, counts) = (measured.len() as u64, told.counts.unwrap());
    assert_eq!((counts.issued, counts.completed, told.dropped_events), (n, n, 0));
    assert_eq!(counts.output_tokens, measured.iter().filter_map(|r| r.output_tokens).sum::<u64>());
    let stage = |wanted| told.stages.iter().find(|s| s.stage() == wanted);
    let e2e = stage(v1::TraceStage::E2e).unwrap();
    assert_eq!(histogram(&e2e.histogram).len(), n);
    let exact: i64 = measured.iter().map(|r| r.done_raw_ns - r.intended_raw_ns).sum();
    assert_eq!(e2e.sum_ns, exact as u64);
    let shares = told.shares.unwrap();
    assert_eq!(shares.client_ns + shares.network_ns + shares.server_ns, e2e.sum_ns);
    let decode = stage(v1::TraceStage::Decode).map(|s| histogram(&s.histogram).len());
    assert_eq!(decode, Some(n), "in trace mode the code's own time is taken");
    assert!(told.workers.iter().any(|w| w.shard.is_none()), "the control thread is watched too");
    end(&coordinator, agent).await;
}
