//! A process of a run dies, or is told to stop: what was measured is kept, and every request is accounted for.

use std::process::Command;
use std::time::Duration;

use model_sim::{Outcome, TruthRecord};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tailcliff_proto::clock::HostClock;

use crate::scene::{PACED, Scene, binary, count, levels};

const S: i64 = 1_000_000_000;

#[test]
fn a_killed_agent_is_counted_and_the_run_goes_on() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&[
        "--concurrency",
        "4,5",
        "--duration",
        "8s",
        "--output-len",
        "10",
        "--agents",
        "2",
        "--rejoin-wait",
        "0s",
    ]);
    scene.agent("stays");
    scene.agent("dies");
    scene.under_way(180);
    let killed_ns = HostClock.now();
    scene.nodes[1].kill();
    assert_eq!(scene.wait(), 0);
    scene.end_server();
    let summary = scene.summary();
    assert_eq!(levels(&summary)[0]["certificate"]["verdict"], "void", "{summary}");
    assert_eq!(levels(&summary).len(), 3);
    let carried = |level: &serde_json::Value| count(level, "completed") > 0;
    assert!(levels(&summary)[1..].iter().all(carried), "the other agent carried the rest");
    unreported_is_what_the_agent_took_with_it(&scene, "dies", 2);
    nothing_acked_is_lost(&scene, killed_ns);
}

/// What reached the server and is in no row is unreported, as far as the agent lived to tell of it: what it sent after its
/// last progress nobody can know. And no more is unreported than that and what was on its way to the server.
fn unreported_is_what_the_agent_took_with_it(scene: &Scene, agent: &str, streams: u64) {
    let (data, accounts) = (scene.stored(), scene.accounts());
    assert_eq!(accounts.contradictions(), [""; 0]);
    assert_eq!(accounts.unseen().count(), 0);
    let (of, _) = data.nodes.iter().find(|(_, node)| node.hello.name == agent).unwrap();
    let lost: Vec<(&str, &TruthRecord)> = accounts.unrecorded().collect();
    let its = format!("{of:x}-");
    assert!(lost.iter().all(|(id, _)| id.starts_with(&its)), "others lost nothing: {lost:?}");
    let told_ns = data.levels.iter().filter_map(|level| level.progress.get(of)).map(|p| p.raw_ns).max();
    let known = lost.iter().filter(|(_, truth)| truth.arrived_ns <= told_ns.unwrap()).count() as u64;
    let (lost, unreported) = (lost.len() as u64, accounts.totals.unreported);
    println!(
        "{lost} requests went with {agent}, {known} of them before its last word; {unreported} unreported"
    );
    assert!(lost > 0, "it took nothing with it: the test shows nothing");
    assert!((known..=lost + streams).contains(&unreported), "{unreported} unreported");
}

#[test]
fn a_dead_coordinator_stops_the_load_and_loses_nothing_that_was_acked() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&["--concurrency", "4", "--duration", "60s", "--output-len", "10", "--agents", "1"]);
    scene.agent("a");
    scene.under_way(200);
    let killed_ns = HostClock.now();
    scene.coordinator().kill();
    // The lease is 5 s; within twice that nothing may be sent any more.
    std::thread::sleep(Duration::from_secs(10));
    let before = scene.logged();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(scene.logged(), before, "the load goes on without a coordinator");
    assert!(scene.nodes[0].ended().unwrap().is_none(), "the agent keeps what it measured, and waits");
    assert!(!scene.run_dir().join("summary.json").exists());
    scene.nodes[0].kill();
    scene.end_server();
    merge(&scene);
    unreported_is_what_the_agent_took_with_it(&scene, "a", 4);
    nothing_acked_is_lost(&scene, killed_ns);
}

/// An agent hands its records on twice a second: what ended two seconds before a kill was stored and acked.
fn nothing_acked_is_lost(scene: &Scene, killed_ns: i64) {
    let accounts = scene.accounts();
    let long_before = |t: &TruthRecord| t.outcome == Outcome::Completed && t.ended_ns < killed_ns - 2 * S;
    let lost: Vec<&str> = accounts.unrecorded().filter(|(_, t)| long_before(t)).map(|(id, _)| id).collect();
    assert_eq!(lost, [""; 0], "acked records are lost");
    let acked = accounts.truth.by_id.values().filter(|t| long_before(t)).count();
    assert!(acked >= 20, "only {acked} were acked: the test shows nothing");
}

fn merge(scene: &Scene) {
    let mut merge = Command::new(binary());
    merge.env(e2e::roles::ROLE, "tailcliff").args(["merge", scene.run_dir().to_str().unwrap()]);
    let merged = merge.output().unwrap();
    assert!(merged.status.success(), "{}", String::from_utf8_lossy(&merged.stderr));
}

/// Stopped and woken, as by Ctrl-Z and `fg`: the agent's lease lapsed meanwhile, so its level must not look whole.
#[test]
fn a_coordinator_that_sleeps_for_longer_than_the_lease_gets_a_void_level_and_drives_it_again() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&["--concurrency", "4,5", "--duration", "9s", "--output-len", "10", "--agents", "1"]);
    scene.agent("a");
    scene.under_way(60);
    let pid = Pid::from_raw(scene.coordinator().pid().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_millis(6500));
    kill(pid, Signal::SIGCONT).unwrap();
    scene.complete();
    let (summary, accounts) = (scene.summary(), scene.accounts());
    assert_eq!(accounts.differences(), [""; 0], "the agent kept what it measured");
    let certificate = |level: usize| &levels(&summary)[level]["certificate"];
    assert_eq!(certificate(0)["verdict"], "void", "{summary}");
    assert!(certificate(0)["reasons"].to_string().contains("lease"), "{}", certificate(0));
    assert_eq!((count(&levels(&summary)[1], "concurrency"), count(&levels(&summary)[1], "attempt")), (4, 2));
    for level in [1, 2] {
        assert_ne!(certificate(level)["verdict"], "void", "{}", certificate(level));
        assert!(count(&levels(&summary)[level], "completed") > 100);
    }
}

#[test]
fn ctrl_c_drains_writes_and_says_so() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&["--concurrency", "2,4", "--duration", "30s", "--output-len", "10", "--agents", "1"]);
    scene.agent("a");
    scene.under_way(20);
    kill(Pid::from_raw(scene.coordinator().pid().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(scene.wait(), 130);
    scene.end_server();
    let (summary, accounts) = (scene.summary(), scene.accounts());
    assert_eq!(accounts.differences(), [""; 0]);
    // A stream may have been stopped between releasing a request and sending it.
    assert!(accounts.unseen().all(|row| row.outcome == "incomplete"));
    assert!(accounts.unseen().count() <= 2);
    assert_eq!(levels(&summary).len(), 1);
    assert!(count(&levels(&summary)[0], "completed") >= 10);
}

/// The server ends in mid-stream; being told to, it still writes its truth log, without which nothing could be counted.
#[test]
fn a_server_that_dies_leaves_failed_requests_and_a_finished_run() {
    let mut scene = Scene::new(&PACED);
    let args = ["--concurrency", "4", "--duration", "4s", "--output-len", "20", "--request-timeout", "2s"];
    // Streams out of step: there is no moment at which all of them are between two requests.
    let apart = ["--warmup", "700ms", "--ramp", "700ms", "--agents", "1"];
    scene.coordinate(&[&args[..], &apart].concat());
    scene.agent("a");
    scene.under_way(20);
    scene.end_server();
    assert_eq!(scene.wait(), 0);
    let accounts = scene.accounts();
    assert_eq!(accounts.differences(), [""; 0]);
    let aborted = accounts.truth.by_id.values().filter(|t| t.outcome == Outcome::Aborted).count();
    assert!(aborted > 0, "it died between requests: the test shows nothing");
    let (refused, cut): (Vec<_>, Vec<_>) =
        accounts.unseen().partition(|row| row.error_kind == "connect_refused");
    assert!(accounts.unseen().all(|row| row.outcome == "failed"));
    assert!(!refused.is_empty(), "nothing was tried after its death");
    // Each of the four streams may have been sending at that very moment.
    assert!(cut.len() <= 4, "{cut:?}");
}
