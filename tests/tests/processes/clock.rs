//! Agents whose clocks are 100,000 s away, on this host, at the other end of a cable, and over bad paths: their truth is
//! known exactly.

use std::process::Command;
use std::time::Duration;

use e2e::forward::{Forwarder, Order, Remote, Way};
use serde_json::{Value, json};
use tailcliff::clock::{Domains, Track, TrackKind};
use tailcliff::stored::{Incarnation, Node, RunData};

use crate::network::Network;
use crate::scene::{PACED, SHORT, Scene, binary, count, levels};

/// How far ahead the clocks of other places are, s.
pub(crate) const AWAY_S: u32 = 100_000;
const S: i64 = 1_000_000_000;

#[test]
#[ignore = "needs root"]
fn an_agent_in_another_time_namespace_is_on_the_same_timeline() {
    one_timeline(Scene::new(&PACED), in_another_time(), "time namespace");
}

/// Starts the agent in a time namespace of its own, ahead of this one.
pub(crate) fn in_another_time() -> Command {
    let (mut unshare, ahead) = (Command::new("unshare"), AWAY_S.to_string());
    unshare.args(["--time", "--fork", "--kill-child", "--monotonic", &ahead, "--boottime", &ahead]);
    unshare.arg(binary());
    unshare
}

/// TLS costs both ways of a ping alike: the bar may grow, and still holds the truth.
#[test]
#[ignore = "needs root"]
fn an_agent_in_another_time_namespace_is_on_the_same_timeline_over_tls() {
    let scene = Scene::new(&PACED).secured(None);
    one_timeline(scene, in_another_time(), "time namespace, over TLS");
}

#[test]
#[ignore = "needs root"]
fn an_agent_in_another_network_and_time_namespace_is_on_the_same_timeline() {
    let scene = Scene::within(Some(Network::star(&[AWAY_S])), &PACED);
    let elsewhere = scene.network().far(0, binary());
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
            covered(node, track, AWAY_S, place);
        } else {
            assert_eq!(track.kind(), TrackKind::SameClock, "{}", node.hello.name);
        }
    }
    assert_eq!(data.nodes.len(), 4);
}

/// Three hosts with a clock each, over a plain path, one of 80 µs there and 280 µs back, and one with jitter of 400 µs on
/// its way back only: every stamp is placed within its bar, and the bar of the uneven path says what it is worth.
#[test]
#[ignore = "needs root"]
fn three_hosts_over_bad_paths_are_on_one_timeline() {
    let away = [AWAY_S - 1, AWAY_S, AWAY_S + 1];
    let mut scene = Scene::within(Some(Network::star(&away)), &PACED);
    scene.coordinate(&[&SHORT[..], &["--agents", "3", "--probes", "1"]].concat());
    let constant = |us| Way::constant(Duration::from_micros(us));
    let jitter = Way { jitter: Duration::from_micros(400), seed: 5, ..constant(140) };
    let paths = [
        ("plain", constant(0), constant(0)),
        ("asymmetric", constant(80), constant(280)),
        ("jittery", constant(140), jitter),
    ];
    let mut forwarders = Vec::new();
    for (host, (name, up, down)) in paths.into_iter().enumerate() {
        let there = || scene.network().far(host, binary());
        let mut forwarder = Remote::start(there(), "127.0.0.1", scene.address()).unwrap();
        forwarder.order(Order::Up(up)).unwrap();
        forwarder.order(Order::Down(down)).unwrap();
        let agent = there();
        scene.agent_at(agent, &forwarder.address, name, &[]);
        forwarders.push(forwarder);
    }
    scene.probe();
    scene.complete();
    whole(&scene);
    let data = scene.stored();
    let domains = tailcliff::clock::resolve(&data);
    let median = |name: &str| {
        let (of, node) = named(&data, name)[0];
        let host = paths.iter().position(|(path, ..)| *path == name).unwrap();
        covered(node, domains.track(of).unwrap(), away[host], &format!("namespace over a {name} path"))
    };
    for name in ["plain", "jittery"] {
        median(name);
    }
    // Pings take 280 µs and pongs 80: half the difference is invisible, and the stamps lie so much too early.
    let off = median("asymmetric");
    assert!((-160_000..-40_000).contains(&off), "{off} ns off");
    let said = scene.coordinator().line("clocks: ").unwrap();
    assert!(said.contains("asymmetric ±") && said.contains("(worst ±"), "{said}");
    starts_are_true(&scene, &data, &away, &paths.map(|(name, ..)| name));
    told(&scene);
}

/// The starts in the summary are where the agents' own stamps, less what their clocks are away, say that they were.
fn starts_are_true(scene: &Scene, data: &RunData, away: &[u32; 3], names: &[&str; 3]) {
    let summary = scene.summary();
    for (level, log) in levels(&summary).iter().zip(&data.levels) {
        let starts = &level["starts"];
        assert_eq!(starts["agents"], 3, "{level}");
        for start in starts["latest"].as_array().unwrap() {
            let host = names.iter().position(|name| start["name"] == *name).unwrap();
            let started = &log.started[&named(data, names[host])[0].0];
            let true_ns = started.actual_raw_ns - i64::from(away[host]) * S - log.start_ref_ns;
            let [late, bound] = ["late_us", "bound_us"].map(|key| start[key].as_f64().unwrap());
            assert!((late - true_ns as f64 / 1e3).abs() <= bound, "{start}: truly {true_ns} ns");
        }
        println!("starts of three hosts: {} µs apart, ±{} µs", starts["spread_us"], starts["bound_us"]);
    }
}

/// What the summary says of a run over three clocks.
fn told(scene: &Scene) {
    let summary = scene.summary();
    let causality = &summary["causality"];
    assert_eq!(causality["violations"], 0, "{causality}");
    let kinds = causality["kinds"].as_object().unwrap();
    let counts: Vec<u64> = kinds.values().map(|kind| kind["pairs"].as_u64().unwrap()).collect();
    assert!(kinds.len() == 5 && counts.iter().all(|pairs| *pairs > 0), "{causality}");
    let alignment = &summary["gpu_to_token"];
    println!(
        "GPU to token over three hosts: ±{} µs, worst ±{} µs, repeatable to {} µs; {} messages in order",
        alignment["median_bound_us"],
        alignment["worst_bound_us"],
        alignment["repeatability_us"],
        causality["pairs"]
    );
    assert!(alignment["worst_bound_us"].as_f64().unwrap() > 180.0, "half of 360 µs: {alignment}");
}

/// A path whose delay is far longer and less even than any bound worth having: the run is carried out, its latencies are
/// as good as ever, and the user is told what cannot be known.
#[test]
#[ignore = "needs root"]
fn a_clock_that_cannot_be_synchronised_is_said_so() {
    let mut scene = Scene::within(Some(Network::star(&[AWAY_S])), &PACED);
    scene.coordinate(&[&SHORT[..], &["--agents", "1", "--probes", "1"]].concat());
    let there = || scene.network().far(0, binary());
    let mut forwarder = Remote::start(there(), "127.0.0.1", scene.address()).unwrap();
    let uneven = |seed| Way { base: Duration::from_millis(15), jitter: Duration::from_millis(10), seed };
    forwarder.order(Order::Up(uneven(1))).unwrap();
    forwarder.order(Order::Down(uneven(2))).unwrap();
    let agent = there();
    scene.agent_at(agent, &forwarder.address, "remote", &[]);
    scene.probe();
    let doubt = scene.coordinator().announced("remote: its clock is known to ±").unwrap();
    assert!(doubt.contains("only"), "{doubt}");
    scene.complete();
    whole(&scene);
    let data = scene.stored();
    let (of, node) = named(&data, "remote")[0];
    let domains = tailcliff::clock::resolve(&data);
    covered(node, domains.track(of).unwrap(), AWAY_S, "namespace over 30 to 230 ms of round trip");
    let summary = scene.summary();
    let warnings = summary["warnings"].to_string();
    assert!(warnings.contains("agent remote: its clock is known to ±"), "{warnings}");
    assert!(warnings.contains("GPU samples beside tokens are"), "{warnings}");
    for level in levels(&summary) {
        assert!(level["certificate"]["notes"].to_string().contains("stamps are on the common timeline to ±"));
    }
}

/// A firewall that lets the control port pass and not the clock's: the run is carried out, and nothing is placed on a
/// timeline that nobody knows.
#[test]
fn an_agent_that_cannot_reach_the_clock_is_said_so_and_its_stamps_are_unaligned() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&[&SHORT[..], &["--agents", "1"]].concat());
    let control = scene.address().parse().unwrap();
    let forwarder = Forwarder::start_without_clock([127, 0, 0, 3].into(), control).unwrap();
    scene.agent_at(Command::new(binary()), &forwarder.address().to_string(), "blocked", &[]);
    let advice = scene.coordinator().announced("blocked: its clock is not known").unwrap();
    assert!(advice.contains("can it reach the clock port"), "{advice}");
    scene.complete();
    let (summary, accounts) = (scene.summary(), scene.accounts());
    assert_eq!(accounts.differences(), [""; 0]);
    assert!(summary["warnings"].to_string().contains("agent blocked has no clock track"), "{summary}");
    assert_eq!(summary["causality"]["pairs"], 0, "what has no place is no pair");
    for level in levels(&summary) {
        assert_eq!((count(level, "completed"), &level["starts"]), (30, &Value::Null), "{level}");
        let notes = level["certificate"]["notes"].to_string();
        assert!(
            notes.contains("start order late: blocked") && notes.contains("no stamp could be placed"),
            "{notes}"
        );
        assert!(level["median_e2el_ms"].as_f64().unwrap() > 60.0, "latencies are of one clock: {level}");
    }
}

/// An order to start that is under way for longer than its lead: the agent starts at once, and every output says so.
#[test]
fn a_start_that_came_late_is_recorded_and_named() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&["--concurrency", "4,6", "--duration", "4s", "--output-len", "10", "--agents", "2"]);
    let control = scene.address().parse().unwrap();
    let forwarder = Forwarder::start([127, 0, 0, 4].into(), control, Way::default(), Way::default()).unwrap();
    scene.agent("punctual");
    scene.agent_at(Command::new(binary()), &forwarder.address().to_string(), "late", &[]);
    // Within the first level; the second one's start has a lead of half a second.
    scene.under_way(10);
    forwarder.obey(Order::Down(Way::constant(Duration::from_millis(900))));
    assert!(scene.coordinator().announced("agent late started ").unwrap().contains(" ms late"));
    scene.complete();
    let summary = scene.summary();
    let [first, second] = [0, 1].map(|i| &levels(&summary)[i]);
    assert_eq!((count(&first["starts"], "agents"), count(&second["starts"], "agents")), (2, 2));
    assert!(first["starts"]["spread_us"].as_f64().unwrap() < 100_000.0, "{first}");
    let (starts, notes) = (&second["starts"], second["certificate"]["notes"].to_string());
    let [last, other] = [0, 1].map(|i| &starts["latest"][i]);
    assert_eq!((&last["name"], &last["order_was_late"]), (&json!("late"), &json!(true)), "{starts}");
    assert_eq!((&other["name"], &other["order_was_late"]), (&json!("punctual"), &json!(false)), "{starts}");
    // One clock for all, so the lead's other 400 ms are there to the µs.
    assert!(last["late_us"].as_f64().unwrap() > 390_000.0 && starts["bound_us"] == 0.0, "{starts}");
    assert!(notes.contains("start order late: late") && notes.contains("apart, late last"), "{notes}");
    assert_eq!(summary["causality"]["violations"], 0, "{}", summary["causality"]);
}

/// A process killed and started again on its host goes on with the host's clock; one that comes up on another host, even
/// with the same boot id, has a clock of its own.
#[test]
#[ignore = "needs root"]
fn a_pod_restarted_on_its_host_keeps_the_track_and_on_another_host_it_starts_unknown() {
    let mut scene = Scene::within(Some(Network::star(&[AWAY_S, AWAY_S + 7])), &PACED);
    scene.coordinate(&[&SHORT[..], &["--agents", "2"]].concat());
    let pod = |scene: &mut Scene, host| {
        let command = scene.network().far(host, binary());
        scene.agent_by(command, "pod");
        scene.coordinator().announced("agent pod").unwrap();
    };
    pod(&mut scene, 0);
    // Its first burst of pings, and a beat.
    std::thread::sleep(Duration::from_secs(2));
    scene.nodes.remove(0).kill();
    scene.coordinator().announced("pod is lost").unwrap();
    pod(&mut scene, 0);
    pod(&mut scene, 1);
    scene.complete();
    whole_requests(&scene);
    let data = scene.stored();
    let domains = tailcliff::clock::resolve(&data);
    let pods = named(&data, "pod");
    assert_eq!(pods.len(), 3);
    let away = |(of, node): &(Incarnation, &Node)| {
        let e = node.exchanges.first().unwrap();
        let away = u32::try_from((e.t1 - e.t0 + S / 2) / S).unwrap();
        covered(node, domains.track(*of).unwrap(), away, "namespace, restarted");
        (away, domains.number(*of).unwrap())
    };
    let mut places: Vec<_> = pods.iter().map(away).collect();
    places.sort_unstable();
    assert_eq!(places.iter().map(|(away, _)| *away).collect::<Vec<_>>(), [AWAY_S, AWAY_S, AWAY_S + 7]);
    assert_eq!(places[0].1, places[1].1, "one host, one clock");
    assert_ne!(places[1].1, places[2].1, "another host, another clock");
    no_breaks(&domains, &pods);
}

fn no_breaks(domains: &Domains, pods: &[(Incarnation, &Node)]) {
    for (of, node) in pods {
        let track = domains.track(*of).unwrap();
        assert!(track.breaks().is_empty(), "a restart is no break: {:?}", track.breaks());
        assert!(track.exchanges() >= node.exchanges.len());
    }
}

fn named<'a>(data: &'a RunData, name: &str) -> Vec<(Incarnation, &'a Node)> {
    // Those that came later under the same name have a number after it.
    let nodes = data.nodes.iter().filter(|(_, node)| node.hello.name.starts_with(name));
    nodes.map(|(&of, node)| (of, node)).collect()
}

/// A run of [`SHORT`] by three agents and a probe: both levels whole, nothing lost, nothing before its cause.
pub(crate) fn whole(scene: &Scene) {
    whole_requests(scene);
    let gpu = std::fs::read_to_string(scene.run_dir().join("gpu_trace.csv")).unwrap();
    assert!(gpu.lines().count() > 50, "a sample each 10 ms");
}

/// The same, without a look at the GPU.
pub(crate) fn whole_requests(scene: &Scene) {
    let (summary, accounts) = (scene.summary(), scene.accounts());
    assert_eq!(accounts.differences(), [""; 0]);
    assert_eq!((accounts.totals.released, accounts.unseen().count()), (60, 0));
    assert_eq!(levels(&summary).len(), 2);
    assert_eq!(summary["causality"]["violations"], 0, "{}", summary["causality"]);
    for level in levels(&summary) {
        assert!(count(&level["starts"], "agents") > 0, "{level}");
        assert_eq!((count(level, "completed"), count(level, "failed")), (30, 0), "{level}");
        assert_eq!(count(level, "total_output_tokens"), 300);
    }
    let error = scene.truth_error();
    assert_eq!((error.requests, error.chunks, error.unmatched), (60, 600, 0));
    assert_eq!((error.impossible, error.duplicates), (0, 0));
}

/// The true offset lies within the bar at every exchange. How far the estimate is off is printed; the middle of it, with its
/// sign, is given back, ns.
fn covered(node: &Node, track: &Track, away_s: u32, place: &str) -> i64 {
    let error = |e: &tailcliff::clock::Exchange| {
        let at = track.to_ref(e.t1).unwrap();
        let off = at.ns - (e.t1 - i64::from(away_s) * S);
        assert!(off.abs() <= at.bound_ns, "{off} ns off, bar {}", at.bound_ns);
        off
    };
    let mut signed: Vec<i64> = node.exchanges.iter().map(error).collect();
    assert!(signed.len() >= 64, "only {} exchanges", signed.len());
    signed.sort_unstable();
    let middle = signed[signed.len() / 2];
    let mut errors: Vec<i64> = signed.into_iter().map(i64::abs).collect();
    errors.sort_unstable();
    let at = |p: f64| errors[((errors.len() - 1) as f64 * p) as usize] as f64 / 1e3;
    let bar = track.median_bound_ns().unwrap() as f64 / 1e3;
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(at);
    println!(
        "clock of an agent in another {place}: error p50 {p50:.1} p99 {p99:.1} max {max:.1} µs under a bar of ±{bar:.1} µs, \
         {} exchanges",
        errors.len()
    );
    middle
}
