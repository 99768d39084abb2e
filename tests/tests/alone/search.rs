//! Searches through the whole system: a server with few slots, whose knee follows from its parameters.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tailcliff_proto::clock::HostClock;

use crate::scene::{Scene, count, levels};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const SLOTS: f64 = 4.0;
/// 12 tokens take it 0.13 s.
const SERVER: [&str; 6] = ["--max-num-seqs", "4", "--step-base-ms", "10", "--step-per-seq-ms", "0.2"];
const SEARCH: [&str; 16] = [
    "--concurrency",
    "auto",
    "--search-to",
    "16",
    "--duration",
    "4s",
    "--warmup",
    "300ms",
    "--resolution",
    "0.4",
    "--budget",
    "90s",
    "--input-len",
    "16",
    "--output-len",
    "12",
];

fn searching() -> Scene {
    let mut scene = Scene::new(&SERVER);
    scene.coordinate(&[&SEARCH[..], &["--agents", "1"]].concat());
    scene.agent("a");
    scene
}

/// True knees lie within half a step of the batch above the slots: a real client misses the step that begins at the very
/// instant that its request is sent, so that throughput below the slots is less than theirs.
fn is_at_the_slots(summary: &Value) {
    let ci = &summary["knee"]["estimate"]["ci"];
    let (low, high) = (ci[0].as_f64().unwrap(), ci[1].as_f64().unwrap());
    assert!(low <= SLOTS + 1.0 && SLOTS <= high + 0.5 && high < 2.0 * SLOTS, "{}", summary["knee"]);
    let loads: Vec<u64> = levels(summary).iter().map(|level| count(level, "concurrency")).collect();
    assert!(loads.is_sorted() && loads.contains(&1) && loads.len() > 4, "{loads:?}");
    assert_eq!(summary["search"]["levels"].as_u64().unwrap() as usize, loads.len());
}

/// The client could not drive some level.
fn is_bound(level: &&Value) -> bool {
    level["certificate"]["verdict"] == "client-bound"
}

#[test]
fn a_search_finds_the_slots_and_says_that_requests_wait_for_them() {
    let _turn = turn();
    for _ in 0..4 {
        let mut scene = searching();
        assert_eq!(scene.wait(), 0);
        scene.end_server();
        let summary = scene.summary();
        if levels(&summary).iter().any(|level| is_bound(&level)) {
            was_the_clients(&summary);
            continue;
        }
        is_at_the_slots(&summary);
        assert_eq!(summary["diagnosis"]["cause"], "server queue", "{}", summary["diagnosis"]);
        let accounts = scene.accounts();
        assert_eq!((accounts.contradictions(), accounts.unrecorded().count()), (vec![], 0));
        let page = std::fs::read_to_string(scene.run_dir().join("report.html")).unwrap();
        assert!(page.contains("<html") && page.trim_end().ends_with("</html>"));
        return;
    }
    println!("four searches, and on this machine the client was the limit of each");
}

/// On a machine too busy for the client its levels do not count: they say so, and nothing that they leave open is told as
/// the server's.
fn was_the_clients(summary: &Value) {
    let knee = &summary["knee"];
    assert!(!knee["skipped"].as_array().unwrap().is_empty(), "what was left out is named: {knee}");
    let judged = levels(summary).iter().filter(|level| !is_bound(level)).count();
    assert!(judged >= 4 || knee["estimate"].is_null(), "a knee of {judged} levels: {knee}");
}

/// What another coordinator drove is not driven again, and the search ends as it would have.
#[test]
fn a_search_whose_coordinator_is_killed_goes_on() {
    let _turn = turn();
    let mut scene = searching();
    scene.under_way(120);
    scene.coordinator().kill();
    let before: Vec<_> = scene.stored().levels.iter().filter(|log| log.passed).map(|log| log.drive).collect();
    scene.resume(&[]);
    assert_eq!(scene.wait(), 0);
    scene.end_server();
    let data = scene.stored();
    let passed: Vec<_> = data.levels.iter().filter(|log| log.passed).map(|log| log.drive).collect();
    assert!(!before.is_empty() && passed.starts_with(&before), "{before:?} and then {passed:?}");
    assert!(passed.iter().enumerate().all(|(i, drive)| drive.rung == i as u32), "each rung once: {passed:?}");
    assert_eq!(data.resumes, 1);
    let summary = scene.summary();
    assert!(
        levels(&summary).len() > before.len() && summary["search"]["levels"].as_u64() > Some(4),
        "{summary}"
    );
}

#[test]
fn an_interrupted_search_keeps_what_it_found_and_ends_soon() {
    let _turn = turn();
    let mut scene = searching();
    scene.under_way(100);
    kill(Pid::from_raw(scene.coordinator().pid() as i32), Signal::SIGINT).unwrap();
    let asked_ns = HostClock.now();
    assert_eq!(scene.wait(), 130);
    assert!(HostClock.now() - asked_ns < 60_000_000_000, "a drain is bounded");
    scene.end_server();
    let summary = scene.summary();
    assert_eq!(summary["run"]["complete"], false);
    assert!(levels(&summary).iter().any(|level| count(level, "completed") > 0), "{summary}");
}
