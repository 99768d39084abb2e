//! Whole runs as separate OS processes, held against the simulated server's truth log, and what happens when processes die.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test may panic, and print what it found"
)]

mod clock;
mod cluster;
mod coldwarm;
mod death;
mod experiments;
mod faults;
mod fleet;
mod host;
mod inside;
mod network;
mod open;
mod probe;
mod results;
mod scale;
mod scene;
mod secure;
mod ssh;
mod stalls;
mod watch;

use scene::{PACED, SHORT, Scene, count, levels};

#[test]
fn three_agents_and_a_probe_make_one_timeline() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&[&SHORT[..], &["--agents", "3", "--probes", "1"]].concat());
    for name in ["a", "b", "c"] {
        scene.agent(name);
    }
    scene.probe();
    scene.complete();
    clock::whole(&scene);
}

/// Every second request fails, in a way of its own. The server counts the preflight as the first, which thus passes; of
/// the 24 that follow 12 are hit.
#[test]
fn a_server_that_fails_in_every_way_is_accounted_for() {
    for (fault, kind) in [
        ("drop:token=3", "early_end"),
        ("status:code=500", "http_status"),
        ("truncate:token=3", "malformed"),
        ("stream_error:token=3", "error_event"),
        ("stall:token=3", "timeout"),
    ] {
        let mut scene = Scene::new(&[&PACED[..], &["--fault", &format!("{fault},every=2")]].concat());
        let args = ["--concurrency", "4", "--num-prompts", "24", "--output-len", "8"];
        scene.coordinate(&[&args[..], &["--request-timeout", "1500ms", "--agents", "1"]].concat());
        scene.agent("a");
        scene.complete();
        let (summary, accounts) = (scene.summary(), scene.accounts());
        assert_eq!(accounts.differences(), [""; 0], "{fault}");
        assert_eq!(accounts.unseen().count(), 0, "{fault}");
        let level = &levels(&summary)[0];
        let counts = ["released", "completed", "failed", "incomplete", "unreported"].map(|k| count(level, k));
        assert_eq!(counts, [24, 12, 12, 0, 0], "{fault}: {level}");
        assert_eq!(level["error_kinds"], serde_json::json!({ kind: 12 }), "{fault}");
    }
}
