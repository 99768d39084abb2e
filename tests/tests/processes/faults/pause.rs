//! An agent's process is stopped for a while, as a machine that swaps or a frozen container is.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;

use crate::scene::{PACED, Scene, count, levels};

/// Five seconds are about the lease: either the level is void and driven again, or it says that the client was late.
#[test]
fn an_agent_that_is_stopped_for_five_seconds_has_no_level_that_looks_whole() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&["--concurrency", "4", "--duration", "10s", "--output-len", "10", "--agents", "2"]);
    scene.agent("stopped");
    scene.agent("other");
    scene.under_way(60);
    let pid = Pid::from_raw(scene.nodes[0].pid().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    kill(pid, Signal::SIGCONT).unwrap();
    scene.complete();
    let (summary, accounts) = (scene.summary(), scene.accounts());
    assert_eq!(accounts.differences(), [""; 0], "it still has all that it measured");
    let first = &levels(&summary)[0]["certificate"];
    assert_ne!(first["verdict"], "ok", "{first}");
    let last = levels(&summary).last().unwrap();
    assert!(count(last, "completed") > 100, "{last}");
    println!("{}: {}", first["verdict"], first["reasons"]);
}

/// What a verdict on a stall goes by: all clocks here are one, so that the lag can be held against the signals.
#[test]
fn an_agent_that_is_stopped_for_a_moment_says_when_each_of_its_loops_stood_still() {
    const MS: i64 = 1_000_000;
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&["--concurrency", "4", "--duration", "4s", "--output-len", "10", "--agents", "2"]);
    scene.agent("stopped");
    scene.agent("other");
    scene.under_way(20);
    let pid = Pid::from_raw(scene.nodes[0].pid().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    let stopped = HostClock.now();
    std::thread::sleep(Duration::from_millis(400));
    let woken = HostClock.now();
    kill(pid, Signal::SIGCONT).unwrap();
    scene.complete();
    // The signal takes a moment to stop the last thread, which was seen to run 10 ms before its watch was due.
    let spans = |lag: &v1::LoopLag| lag.from_raw_ns < stopped + 110 * MS && lag.to_raw_ns >= woken;
    let data = scene.stored();
    for node in data.nodes.values() {
        let batches: Vec<_> = node.each_batch().collect();
        let shards: BTreeSet<_> = batches.iter().flat_map(|b| &b.records).map(|r| r.shard).collect();
        let lags = batches.iter().flat_map(|b| &b.loop_lags).filter(|lag| spans(lag));
        let stood: BTreeSet<_> = lags.clone().map(|lag| lag.shard).collect();
        let expected = if node.hello.name == "stopped" { shards } else { BTreeSet::new() };
        assert_eq!(stood, expected, "{}", node.hello.name);
        assert!(lags.clone().all(|lag| lag.to_raw_ns - lag.from_raw_ns > 280 * MS));
    }
}
