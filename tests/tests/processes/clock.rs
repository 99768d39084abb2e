//! An agent whose clock is 100,000 s away, on this host and at the other end of a cable: its truth is known exactly.

use std::process::Command;

use tailcliff::clock::{Track, TrackKind};
use tailcliff::stored::Node;

use crate::network::Network;
use crate::scene::{PACED, SHORT, Scene, binary, count, levels};

const AWAY_NS: i64 = 100_000 * 1_000_000_000;

/// Makes `unshare` start the agent in a time namespace of its own, `AWAY_NS` ahead.
fn in_another_time(unshare: &mut Command) {
    unshare.args(["--time", "--fork", "--kill-child", "--monotonic", "100000", "--boottime", "100000"]);
    unshare.arg(binary());
}

#[test]
#[ignore = "needs root"]
fn an_agent_in_another_time_namespace_is_on_the_same_timeline() {
    let mut elsewhere = Command::new("unshare");
    in_another_time(&mut elsewhere);
    one_timeline(Scene::new(&PACED), elsewhere, "time namespace");
}

/// TLS costs both ways of a ping alike: the bar may grow, and still holds the truth.
#[test]
#[ignore = "needs root"]
fn an_agent_in_another_time_namespace_is_on_the_same_timeline_over_tls() {
    let mut elsewhere = Command::new("unshare");
    in_another_time(&mut elsewhere);
    one_timeline(Scene::new(&PACED).secured(None), elsewhere, "time namespace, over TLS");
}

#[test]
#[ignore = "needs root"]
fn an_agent_in_another_network_and_time_namespace_is_on_the_same_timeline() {
    let scene = Scene::within(Some(Network::lay()), &PACED);
    let mut elsewhere = scene.network().far("unshare".as_ref());
    in_another_time(&mut elsewhere);
    one_timeline(scene, elsewhere, "network and time namespace");
}

/// The run of three agents and a probe, with one agent elsewhere: all is as when they share a clock, and the offset that
/// was found is the true one, within its bar.
fn one_timeline(mut scene: Scene, elsewhere: Command, place: &str) {
    scene.coordinate(&[&SHORT[..], &["--agents", "3", "--probes", "1"]].concat());
    scene.agent("a");
    scene.agent("b");
    scene.agent_by(elsewhere, "elsewhere");
    scene.probe();
    scene.complete();
    whole(&scene);
    let data = scene.stored();
    let domains = tailcliff::clock::resolve(&data);
    for (&of, node) in &data.nodes {
        let track = domains.track(of).unwrap();
        if node.hello.name == "elsewhere" {
            assert_eq!(track.kind(), TrackKind::Fitted);
            covered(node, track, place);
        } else {
            assert_eq!(track.kind(), TrackKind::SameClock, "{}", node.hello.name);
        }
    }
    assert_eq!(data.nodes.len(), 4);
}

/// A run of [`SHORT`] by three agents and a probe: both levels whole, nothing lost, nothing before its cause.
pub(crate) fn whole(scene: &Scene) {
    let (summary, accounts) = (scene.summary(), scene.accounts());
    assert_eq!(accounts.differences(), [""; 0]);
    assert_eq!((accounts.totals.released, accounts.unseen().count()), (60, 0));
    assert_eq!(levels(&summary).len(), 2);
    for level in levels(&summary) {
        assert_eq!((count(level, "completed"), count(level, "failed")), (30, 0), "{level}");
        assert_eq!(count(level, "total_output_tokens"), 300);
    }
    let error = scene.truth_error();
    assert_eq!((error.requests, error.chunks, error.unmatched), (60, 600, 0));
    assert_eq!((error.impossible, error.duplicates), (0, 0));
    let gpu = std::fs::read_to_string(scene.run_dir().join("gpu_trace.csv")).unwrap();
    assert!(gpu.lines().count() > 50, "a sample each 10 ms");
}

/// The true offset lies within the bar at every exchange; how far the estimate is off is printed.
fn covered(node: &Node, track: &Track, place: &str) {
    let error = |e: &tailcliff::clock::Exchange| {
        let at = track.to_ref(e.t1).unwrap();
        let off = at.ns - (e.t1 - AWAY_NS);
        assert!(off.abs() <= at.bound_ns, "{off} ns off, bar {}", at.bound_ns);
        off.abs()
    };
    let mut errors: Vec<i64> = node.exchanges.iter().map(error).collect();
    assert!(errors.len() >= 100, "only {} exchanges", errors.len());
    errors.sort_unstable();
    let at = |p: f64| errors[((errors.len() - 1) as f64 * p) as usize] as f64 / 1e3;
    let bar = track.median_bound_ns().unwrap() as f64 / 1e3;
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(at);
    println!(
        "clock of an agent in another {place}: error p50 {p50:.1} p99 {p99:.1} max {max:.1} µs under a bar of ±{bar:.1} µs, \
         {} exchanges",
        errors.len()
    );
}
