//! An agent's process is stopped for a while, as a machine that swaps or a frozen container is.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
