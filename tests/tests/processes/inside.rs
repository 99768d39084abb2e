//! The server's inside view over whole runs: each part of each request against the simulated server's truth log, with one
//! clock and with several, by spans and by a file of stamps, and what is said when spans or metrics do not come.

mod servers;
mod told;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use e2e::forward::{Forwarder, Way};
use model_sim::TruthRecord;
use serde_json::Value;

use crate::clock::{AWAY_S, in_another_time, whole_requests};
use crate::scene::{SHORT, Scene, count, levels};
use told::{Told, Waterfall};

/// An engine that four requests fill, so that some queue, with a front end on both its sides.
const ENGINE: [&str; 8] =
    ["--max-num-seqs", "4", "--step-base-ms", "3", "--front-end-ms", "2,1", "--otlp-delay-ms", "500"];

/// A port that nobody listens on: the server dials it before the probe is there.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A scene whose server exports to the probe that is to come, and the flags of that probe.
fn traced(more: &[&str]) -> (Scene, Vec<String>) {
    let otlp = format!("127.0.0.1:{}", free_port());
    let endpoint = format!("grpc://{otlp}");
    let scene = Scene::new(&[&ENGINE[..], &["--otlp-endpoint", &endpoint], more].concat());
    let metrics = format!("http://{}/metrics", scene.url());
    (scene, vec!["--otlp-listen".to_owned(), otlp, "--server-metrics".to_owned(), metrics])
}

/// Adds a probe with these flags that reads a simulated GPU.
fn probe(scene: &mut Scene, name: &str, flags: &[String]) {
    let nvml = nvml_sim::library_path().unwrap();
    let mut all = vec!["--nvml-path", nvml.to_str().unwrap()];
    all.extend(flags.iter().map(String::as_str));
    scene.probe_named(name, &all);
}

/// Joined and unmatched over all levels.
fn joined(summary: &Value) -> (u64, u64) {
    let of = |key: &str| levels(summary).iter().map(|level| count(&level["inside"], key)).sum();
    (of("joined"), of("unmatched"))
}

/// Every request of a whole run is joined, and each of its parts is what the truth log says.
fn every_part_is_true(scene: &Scene, told: Told, away_ns: &BTreeMap<&str, i64>) {
    whole_requests(scene);
    assert_eq!(joined(&scene.summary()), (60, 0));
    let rows = Waterfall::read(&scene.run_dir());
    assert_eq!(rows.len(), 60);
    let (data, truth) = (scene.stored(), scene.accounts().truth);
    let mut bounds: Vec<i64> = Vec::new();
    for (agent, record) in told::records(&data) {
        let row = rows.of(&record.request_id);
        let away_ns = away_ns.get(agent.as_str()).copied().unwrap_or(0);
        row.is_true(told, &record, &truth.by_id[&record.request_id], away_ns);
        assert_eq!(row.agent, agent);
        bounds.push(row.bound_ns);
    }
    bounds.sort_unstable();
    println!("{} requests by {told:?}: bound p50 {} ns, worst {} ns", rows.len(), bounds[30], bounds[59]);
    let queued = |t: &TruthRecord| t.dequeued_ns.unwrap() - t.enqueued_ns.unwrap() > 1_000_000;
    assert!(truth.by_id.values().any(queued), "nobody queued: the run shows nothing");
}

#[test]
fn every_part_of_every_request_is_what_the_truth_log_says() {
    let (mut scene, flags) = traced(&[]);
    scene.coordinate(&[&SHORT[..], &["--agents", "3", "--probes", "1"]].concat());
    ["a", "b", "c"].into_iter().for_each(|name| scene.agent(name));
    probe(&mut scene, "probe", &flags);
    scene.complete();
    every_part_is_true(&scene, Told::Spans, &BTreeMap::new());
    let summary = scene.summary();
    for level in levels(&summary) {
        assert_eq!(level["inside"]["impossible"], 0, "{level}");
        assert!(level["inside"]["front_ms"].as_f64().unwrap() >= 3.0, "2 ms before and 1 ms after: {level}");
    }
}

/// One agent in another time, over a path of 80 µs there and 280 µs back: its parts between clocks are off by what half the
/// difference hides, and within their bound.
#[test]
#[ignore = "needs root"]
fn every_part_is_true_within_its_bound_over_another_clock_and_an_uneven_path() {
    let (mut scene, flags) = traced(&[]);
    scene.coordinate(&[&SHORT[..], &["--agents", "3", "--probes", "1"]].concat());
    let control = scene.address().parse().unwrap();
    let way = |us| Way::constant(Duration::from_micros(us));
    let forwarder = Forwarder::start([127, 0, 0, 5].into(), control, way(80), way(280)).unwrap();
    scene.agent("a");
    scene.agent_by(in_another_time(), "elsewhere");
    scene.agent_at(in_another_time(), &forwarder.address().to_string(), "uneven", &[]);
    probe(&mut scene, "probe", &flags);
    scene.complete();
    let away_ns = i64::from(AWAY_S) * 1_000_000_000;
    every_part_is_true(&scene, Told::Spans, &[("elsewhere", away_ns), ("uneven", away_ns)].into());
}

#[test]
fn a_server_without_tracing_tells_by_a_file_of_stamps() {
    let dir = tempfile::tempdir().unwrap();
    let stamps = dir.path().join("stamps.jsonl").display().to_string();
    let mut scene = Scene::new(&[&ENGINE[..], &["--stamps-log", &stamps]].concat());
    scene.coordinate(&[&SHORT[..], &["--agents", "2", "--probes", "1"]].concat());
    ["a", "b"].into_iter().for_each(|name| scene.agent(name));
    probe(&mut scene, "probe", &["--server-stamps".to_owned(), stamps]);
    scene.complete();
    every_part_is_true(&scene, Told::Stamps, &BTreeMap::new());
}

/// Spans that never come, and spans without ids: their requests are unmatched, no other is, and what came is counted.
#[test]
fn lost_spans_and_spans_without_ids_are_counted() {
    let (mut scene, flags) = traced(&[
        "--span-fault",
        "lost:every=3",
        "--span-fault",
        "no_ids:every=4",
        "--span-fault",
        "garbage:every=5",
    ]);
    scene.coordinate(&[&SHORT[..], &["--agents", "1", "--probes", "1"]].concat());
    scene.agent("a");
    probe(&mut scene, "probe", &flags);
    scene.complete();
    whole_requests(&scene);
    // Spans are made in the order of the truth log, the preflight's among them.
    let spans = told::in_order(&scene.truth_log());
    let gone = |n: usize| n.is_multiple_of(3) || n.is_multiple_of(4);
    let rows = Waterfall::read(&scene.run_dir());
    let (mut missing, mut nameless) = (0, 0);
    for (n, record) in (1..).zip(&spans) {
        nameless += u64::from(n % 4 == 0 && n % 3 != 0);
        let id = record.request_id.as_deref().unwrap();
        if id != tailcliff_agent::preflight::REQUEST_ID {
            missing += u64::from(gone(n));
            assert_eq!(rows.has(id), !gone(n), "span {n}, of {id}");
        }
    }
    assert!(missing > 20 && nameless > 5);
    assert_eq!(joined(&scene.summary()), (60 - missing, missing));
    let tally = told::last_tally(&scene.stored());
    assert_eq!(tally.without_ids, nameless, "{tally:?}");
    assert!(tally.malformed >= 1, "{tally:?}");
}

#[test]
fn metrics_that_are_gone_in_mid_run_are_said_so_and_the_run_is_carried_out() {
    let (mut scene, flags) = traced(&["--metrics-fault", "gone_at_ms=9000"]);
    let args =
        ["--concurrency", "3", "--duration", "12s", "--output-len", "10", "--agents", "1", "--probes", "1"];
    scene.coordinate(&args);
    scene.agent("a");
    probe(
        &mut scene,
        "probe",
        &[&flags[..], &["--server-metrics-interval".to_owned(), "200ms".to_owned()]].concat(),
    );
    scene.complete();
    let summary = scene.summary();
    let level = &levels(&summary)[0];
    let (scrapes, failed) = (count(&level["server"], "scrapes"), count(&level["server"], "failed"));
    assert!(0 < failed && failed < scrapes, "it was there, and then it was not: {}", level["server"]);
    assert!(!level["server"]["notes"].as_array().unwrap().is_empty(), "{}", level["server"]);
    assert_eq!(scene.accounts().differences(), [""; 0]);
}
