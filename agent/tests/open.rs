//! Open loop, ramps and retries through the agent's door: what is sent is what the schedule says.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[allow(dead_code, reason = "another test file uses the rest of it")]
mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::{Coordinator, Model, PATIENCE};
use tailcliff_agent::config::Config;
use tailcliff_agent::schedule::{Arrivals, Pattern};
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1::{self, ArrivalPattern, Outcome, Phase, coordinator_message::Kind as Order};
use tokio_util::sync::CancellationToken;

const MS: i64 = 1_000_000;
const S: i64 = 1_000 * MS;
const SEED: u64 = 11;
const LEVEL: u32 = 3;

/// An agent of two shards with a coordinator that does what the test says.
struct Scene {
    coordinator: Coordinator,
    _shutdown: tokio_util::sync::DropGuard,
}

/// What one level came to.
struct Ended {
    at: i64,
    done: v1::LevelDone,
    records: Vec<v1::RequestRecord>,
    in_flight: Vec<u32>,
}

impl Scene {
    async fn new() -> Scene {
        let mut coordinator = Coordinator::start(Duration::from_secs(60)).await;
        let mut config = Config::new(coordinator.address.clone());
        config.shards = 2;
        let shutdown = CancellationToken::new();
        tokio::spawn(tailcliff_agent::run(config, shutdown.clone()));
        coordinator.joined().await;
        Scene { coordinator, _shutdown: shutdown.drop_guard() }
    }

    async fn begin(&mut self, target: v1::Target, load: v1::LoadShare) -> i64 {
        let workload = v1::Workload { input_words: 5, max_tokens: 4, seed: SEED, ..Default::default() };
        let order = v1::ArmLevel {
            level: LEVEL,
            target: Some(target),
            workload: Some(workload),
            load: Some(load),
            ..Default::default()
        };
        self.coordinator.order(Order::Arm(order)).await;
        assert_eq!(self.coordinator.armed().await.error, "");
        let at = HostClock.now() + 100 * MS;
        let start = v1::StartAt { level: LEVEL, at_raw_ns: at, ..Default::default() };
        self.coordinator.order(Order::Start(start)).await;
        at
    }

    async fn end(&mut self, at: i64) -> Ended {
        let done = self.coordinator.done().await;
        let batches = self.coordinator.batches_through(done.last_batch_seq).await;
        let mut records: Vec<_> = batches.iter().flat_map(|b| b.records.clone()).collect();
        records.retain(|r| r.intended_raw_ns >= at);
        let samples = batches.iter().flat_map(|b| &b.in_flight).filter(|s| s.raw_ns >= at);
        let ended = Ended { at, in_flight: samples.map(|s| s.in_flight).collect(), done, records };
        ended.is_accounted_for();
        ended
    }

    async fn run(&mut self, target: v1::Target, load: v1::LoadShare) -> Ended {
        let at = self.begin(target, load).await;
        self.end(at).await
    }
}

impl Ended {
    fn is_accounted_for(&self) {
        let counts = self.counts();
        assert_eq!(counts.released, counts.completed + counts.failed + counts.incomplete);
        assert_eq!(counts.released, self.records.len() as u64);
        let ids: BTreeSet<_> = self.records.iter().map(|r| r.request_id.as_str()).collect();
        assert_eq!(ids.len(), self.records.len(), "each try is its own");
        let held = self.records.iter().filter(|r| r.held_ns.is_some()).count() as u64;
        assert_eq!(counts.held_back, held);
        let retried = self.records.iter().filter(|r| r.attempt > 0).count() as u64;
        assert_eq!(counts.retried, retried);
    }

    fn counts(&self) -> v1::LevelCounts {
        self.done.counts.unwrap()
    }

    /// (number, offset from the start) of each request, in order.
    fn arrivals(&self) -> Vec<(u64, i64)> {
        let mut all: Vec<_> = self.records.iter().map(|r| (r.request, r.intended_raw_ns - self.at)).collect();
        all.sort_unstable();
        all
    }
}

fn open(rate_per_s: f64, pattern: ArrivalPattern, stop: v1::load_share::Stop) -> v1::LoadShare {
    let open = v1::OpenLoad { rate_per_s, pattern: pattern as i32, agents: 1, ..Default::default() };
    v1::LoadShare { open: Some(open), seed: SEED, stop: Some(stop), drain_ns: 20 * S, ..Default::default() }
}

fn requests(n: u64) -> v1::load_share::Stop {
    v1::load_share::Stop::Requests(n)
}

fn with_open(load: v1::LoadShare, change: impl FnOnce(&mut v1::OpenLoad)) -> v1::LoadShare {
    let mut open = load.open.unwrap();
    change(&mut open);
    v1::LoadShare { open: Some(open), ..load }
}

fn histogram(wire: &Option<v1::Histogram>) -> LatencyHistogram {
    LatencyHistogram::try_from(wire.as_ref().unwrap()).unwrap()
}

#[tokio::test]
async fn each_request_is_meant_for_its_arrival_and_told_in_its_phase() {
    let model = Model::start(2, Duration::from_millis(3)).await;
    let mut scene = Scene::new().await;
    let load = v1::LoadShare { warmup_ns: 200 * MS, ..open(100.0, ArrivalPattern::Constant, requests(40)) };
    let ended = scene.run(model.target(), load).await;
    let expected: Vec<_> = (0..60).map(|k| (k, k as i64 * 10 * MS)).collect();
    assert_eq!(ended.arrivals(), expected);
    for record in &ended.records {
        let phase = if record.request < 20 { Phase::Warmup } else { Phase::Measured };
        assert_eq!((record.phase(), record.outcome()), (phase, Outcome::Completed));
        assert!(record.issued_raw_ns.unwrap() >= record.intended_raw_ns, "never early");
        assert_eq!((record.stream, record.attempt, record.held_ns), (0, 0, None));
    }
    let done = &ended.done;
    assert_eq!(histogram(&done.health.as_ref().unwrap().send_lag).len(), 40, "the warm-up is left out");
    assert!(histogram(&done.held).is_empty() && done.never_sent == 0);
    assert!(done.own_bound && done.max_in_flight.unwrap() > 0);
}

#[tokio::test]
async fn two_agents_make_the_arrivals_of_one() {
    let model = Model::start(1, Duration::from_millis(1)).await;
    let mut scene = Scene::new().await;
    let load = open(150.0, ArrivalPattern::Poisson, requests(60));
    let whole = scene.run(model.target(), load).await.arrivals();
    let law = Arrivals::paced(Pattern::Poisson, 150.0, 0, SEED, LEVEL);
    assert_eq!(whole, (0..).zip(law.take(60)).collect::<Vec<_>>());
    let mut union = Vec::new();
    for agent in 0..2 {
        let part = with_open(load, |open| (open.agents, open.agent) = (2, agent));
        let arrivals = scene.run(model.target(), part).await.arrivals();
        assert_eq!(arrivals.len(), 30);
        union.extend(arrivals);
    }
    union.sort_unstable();
    assert_eq!(union, whole);
}

/// Each request takes 100 ms, so that two places serve 20 of the 100 that come a second.
#[tokio::test]
async fn the_bound_holds_back_and_says_how_many_and_how_long() {
    let model = Model::start(1, Duration::from_millis(100)).await;
    let mut scene = Scene::new().await;
    let stop = v1::load_share::Stop::DurationNs(500 * MS);
    let load = with_open(open(100.0, ArrivalPattern::Constant, stop), |open| open.max_in_flight = 2);
    let ended = scene.run(model.target(), v1::LoadShare { drain_ns: 300 * MS, ..load }).await;
    let (counts, done) = (ended.counts(), &ended.done);
    assert_eq!(counts.released + done.never_sent, 50, "every arrival is told of");
    assert!(done.never_sent > 10 && counts.released >= 4, "{counts:?}");
    assert_eq!((done.max_in_flight, done.own_bound), (Some(2), false));
    assert!(ended.in_flight.iter().all(|&n| n <= 2), "{:?}", ended.in_flight);
    let waits = histogram(&done.held);
    assert_eq!(waits.len(), counts.held_back);
    assert_eq!(counts.held_back, counts.released - 2, "all but the first two had to wait");
    for record in ended.records.iter().filter(|r| r.held_ns.is_some()) {
        let issued = record.issued_raw_ns.unwrap();
        assert!(issued - record.intended_raw_ns >= record.held_ns.unwrap());
    }
    let longest = ended.records.iter().filter_map(|r| r.held_ns).max().unwrap();
    assert!(longest > 100 * MS, "the queue grew: {longest} ns");
    let lag = histogram(&done.health.as_ref().unwrap().send_lag).quantile_ns(0.5).unwrap();
    assert!(lag < 50_000_000, "waiting for a place is no send lag: {lag} ns");
}

#[tokio::test]
async fn all_at_once_is_bounded_and_all_are_sent() {
    let model = Model::start(1, Duration::from_millis(5)).await;
    let mut scene = Scene::new().await;
    let load = open(f64::INFINITY, ArrivalPattern::Poisson, requests(30));
    let ended = scene.run(model.target(), with_open(load, |open| open.max_in_flight = 5)).await;
    assert_eq!(ended.counts().completed, 30);
    assert_eq!(ended.counts().held_back, 25);
    assert!(ended.records.iter().all(|r| r.intended_raw_ns == ended.at && r.phase() == Phase::Measured));
    let connections = ended.records.iter().filter(|r| !r.reused_connection).count();
    assert!(connections <= 5, "{connections} connections");
    let free = scene.run(model.target(), load).await;
    assert_eq!((free.counts().completed, free.counts().held_back), (30, 0));
}

#[tokio::test]
async fn an_order_to_stop_ends_arrivals_and_what_waits_is_told() {
    let model = Model::start(1, Duration::from_secs(100)).await;
    let mut scene = Scene::new().await;
    let load = with_open(open(200.0, ArrivalPattern::Constant, requests(1_000_000)), |o| o.max_in_flight = 4);
    let at = scene.begin(model.target(), v1::LoadShare { drain_ns: 100 * MS, ..load }).await;
    scene.coordinator.started().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stopped = HostClock.now();
    let stop = v1::StopReleasing { level: LEVEL, ..Default::default() };
    scene.coordinator.order(Order::Stop(stop)).await;
    let ended = tokio::time::timeout(PATIENCE, scene.end(at)).await.unwrap();
    let counts = ended.counts();
    assert_eq!((counts.released, counts.incomplete), (4, 4));
    let least = ((stopped - at) / (5 * MS)) as u64 - 4;
    assert!(ended.done.never_sent >= least, "{} of at least {least}", ended.done.never_sent);
}

/// The drain of a level by requests counts from the last one that was sent.
#[tokio::test]
async fn requests_that_outlive_the_drain_are_given_up() {
    let model = Model::start(1, Duration::from_secs(100)).await;
    let mut scene = Scene::new().await;
    let load = open(100.0, ArrivalPattern::Constant, requests(10));
    let ended = scene.run(model.target(), v1::LoadShare { drain_ns: 200 * MS, ..load }).await;
    assert_eq!((ended.counts().incomplete, ended.done.never_sent), (10, 0));
    // Each shard's own last one: the ninth, or the tenth.
    assert!(ended.records.iter().all(|r| r.done_raw_ns >= ended.at + 280 * MS));
}

#[tokio::test]
async fn streams_start_one_after_another_on_a_ramp() {
    let model = Model::start(1, Duration::from_millis(5)).await;
    let mut scene = Scene::new().await;
    let load = v1::LoadShare {
        concurrency: 4,
        all_streams: 4,
        stop: Some(requests(8)),
        warmup_ns: 400 * MS,
        ramp_ns: 400 * MS,
        drain_ns: 20 * S,
        ..Default::default()
    };
    let ended = scene.run(model.target(), load).await;
    let first = |stream| {
        let of = ended.records.iter().filter(|r| r.stream == stream).map(|r| r.intended_raw_ns);
        of.min().unwrap() - ended.at
    };
    let firsts: Vec<_> = (0..4).map(first).collect();
    assert!((0..4).all(|i| firsts[i] >= i as i64 * 100 * MS) && firsts.is_sorted(), "{firsts:?}");
    assert_eq!(firsts[0], 0);
    let of = |phase| ended.records.iter().filter(|r| r.phase() == phase).count();
    assert!(of(Phase::Measured) == 8 && of(Phase::Warmup) > 8);
}

/// Nobody listens at the target: each request is refused at each of its three tries.
#[tokio::test]
async fn every_try_is_a_record_and_counts_from_the_first() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = v1::Target {
        base_url: format!("http://{free}"),
        endpoint_type: v1::EndpointType::Chat as i32,
        streaming: true,
        ..Default::default()
    };
    let mut scene = Scene::new().await;
    for (retries, tries) in [(0, 1), (2, 3)] {
        let load = v1::LoadShare {
            retries,
            retry_backoff_ns: 20 * MS,
            ..open(50.0, ArrivalPattern::Constant, requests(6))
        };
        let ended = scene.run(target.clone(), load).await;
        let counts = ended.counts();
        assert_eq!((counts.failed, counts.retried), (6 * tries, 6 * (tries - 1)));
        for request in 0..6 {
            let mut of: Vec<_> = ended.records.iter().filter(|r| r.request == request).collect();
            of.sort_by_key(|r| r.attempt);
            let attempts: Vec<_> = of.iter().map(|r| u64::from(r.attempt)).collect();
            assert_eq!(attempts, (0..tries).collect::<Vec<_>>());
            assert!(of.iter().all(|r| r.intended_raw_ns == ended.at + request as i64 * 20 * MS));
            assert!(of.is_sorted_by_key(|r| r.issued_raw_ns));
        }
        let lag = histogram(&ended.done.health.as_ref().unwrap().send_lag);
        assert_eq!(lag.len(), 6, "a retry is no late send");
    }
}
