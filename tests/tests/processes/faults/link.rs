//! The link between an agent and its coordinator is cut, or stands and carries nothing: ten seconds are longer than the
//! lease, so the level is void and driven again, but what was measured arrives, once.

use std::time::Duration;

use e2e::memory::most_resident;

use super::{Far, entries};
use crate::scene::levels;

const FAULT: Duration = Duration::from_secs(10);

/// Of each level, its verdict, and what it says of why.
fn verdicts(far: &Far) -> Vec<(String, String)> {
    let said = |level: &serde_json::Value| {
        let certificate = &level["certificate"];
        (certificate["verdict"].as_str().unwrap().to_owned(), certificate["reasons"].to_string())
    };
    levels(&far.scene.summary()).iter().map(said).collect()
}

fn arrives_once_though(fault: impl FnOnce(&Far)) {
    let spool = tempfile::tempdir().unwrap();
    let mut far = Far::and_near(spool.path());
    fault(&far);
    std::thread::sleep(FAULT);
    assert_eq!(entries(spool.path()), 1, "what memory does not hold is on disk");
    let most = most_resident(far.scene.nodes[0].pid()).unwrap() >> 20;
    println!("the agent took {most} MiB at most");
    assert!(most < 128, "{most} MiB with an outbox of 1 MiB");
    far.forwarder.heal();
    // Its own words come when there is somebody to tell.
    let told = far.coordinator().announced("far: the coordinator is away or slow").unwrap();
    assert!(told.contains(spool.path().to_str().unwrap()), "{told}");
    far.scene.complete();
    assert_eq!(far.scene.accounts().differences(), [""; 0], "nothing is lost, and nothing counted twice");
    let verdicts = verdicts(&far);
    assert_eq!(verdicts[0].0, "void", "{verdicts:?}");
    assert!(verdicts.len() == 2 && verdicts[1].0 != "void", "driven again: {verdicts:?}");
    assert_eq!(entries(spool.path()), 0, "no file is left");
}

#[test]
fn a_link_that_is_cut_for_ten_seconds_and_healed_loses_nothing() {
    arrives_once_though(|far| far.forwarder.cut());
}

#[test]
fn a_link_that_stands_and_carries_nothing_for_ten_seconds_loses_nothing() {
    arrives_once_though(|far| far.forwarder.swallow());
}
