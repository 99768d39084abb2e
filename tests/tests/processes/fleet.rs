//! Agents that are lost, replaced, late or too many, and a coordinator that dies and is started again: the load goes on
//! by rule, and every request of every try is accounted for.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::scene::{PACED, Scene, count, levels};

/// Of each level of the summary: streams asked for, the how-manieth try, and whether it counts.
fn tries(summary: &Value) -> Vec<(u64, u64, bool)> {
    let is_void = |level: &Value| level["certificate"]["verdict"] == "void";
    levels(summary).iter().map(|l| (count(l, "concurrency"), count(l, "attempt"), !is_void(l))).collect()
}

fn shares(scene: &Scene) -> Vec<usize> {
    scene.stored().levels.iter().map(|log| log.shares.len()).collect()
}

const TWO: [&str; 8] = ["--concurrency", "4,5", "--duration", "8s", "--output-len", "10", "--agents", "2"];

/// Two agents, "stays" and "dies", of which the second is killed in mid-level.
fn with_one_killed(args: &[&str]) -> Scene {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&[&TWO[..], args].concat());
    scene.agent("stays");
    scene.agent("dies");
    scene.under_way(100);
    scene.nodes[1].kill();
    scene
}

#[test]
fn a_level_that_loses_an_agent_is_driven_again_by_the_other() {
    let mut scene = with_one_killed(&["--rejoin-wait", "1s"]);
    assert_eq!(scene.wait(), 0);
    scene.end_server();
    let summary = scene.summary();
    assert_eq!(tries(&summary), [(4, 1, false), (4, 2, true), (5, 1, true)]);
    assert_eq!(shares(&scene), [2, 1, 1]);
    assert!(levels(&summary)[1..].iter().all(|level| count(level, "completed") > 100), "{summary}");
    assert_eq!(scene.accounts().contradictions(), [""; 0]);
}

#[test]
fn by_rule_the_rest_of_a_level_is_kept_and_marked() {
    let mut scene = with_one_killed(&["--rejoin-wait", "0s", "--on-lost-agent", "keep"]);
    assert_eq!(scene.wait(), 0);
    scene.end_server();
    let summary = scene.summary();
    assert_eq!(tries(&summary), [(4, 1, true), (5, 1, true)]);
    let certificate = &levels(&summary)[0]["certificate"];
    assert!(certificate["reasons"].to_string().contains("dies was lost"), "{certificate}");
    assert_eq!(certificate["verdict"], "client-bound", "the load asked for was not there: {certificate}");
    assert_eq!(scene.accounts().contradictions(), [""; 0]);
}

#[test]
fn a_process_with_the_index_of_a_dead_one_takes_its_place() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&[&TWO[..], &["--rejoin-wait", "60s"]].concat());
    scene.indexed(0);
    scene.indexed(1);
    scene.under_way(100);
    scene.nodes[1].kill();
    scene.indexed(1);
    assert_eq!(scene.wait(), 0);
    assert!(scene.nodes[2].wait().unwrap().success());
    scene.end_server();
    let summary = scene.summary();
    assert_eq!(tries(&summary), [(4, 1, false), (4, 2, true), (5, 1, true)]);
    assert_eq!(shares(&scene), [2, 2, 2], "the dead one's share is its successor's");
    let names: Vec<_> = summary["nodes"].as_array().unwrap().iter().map(|node| &node["name"]).collect();
    assert_eq!(names.len(), 3);
    assert!(names.iter().any(|name| **name == "agent-1") && names.iter().any(|name| **name == "agent-1-2"));
    assert_eq!(scene.accounts().contradictions(), [""; 0]);
}

#[test]
fn of_two_agents_with_one_index_the_second_is_refused_in_words() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&["--concurrency", "2", "--duration", "3s", "--output-len", "5", "--agents", "2"]);
    scene.indexed(0);
    scene.coordinator().announced("agent agent-0").unwrap();
    scene.indexed(0);
    let refusal = scene.coordinator().announced("refused ").unwrap();
    assert!(refusal.contains("agent-0 has its place 0"), "{refusal}");
    scene.indexed(1);
    assert_eq!(scene.wait(), 0);
    assert!(!scene.nodes[1].wait().unwrap().success(), "there was no place for it");
}

#[test]
fn an_agent_that_leaves_is_not_waited_for_and_a_late_one_takes_part() {
    let mut scene = Scene::new(&PACED);
    let args = ["--concurrency", "4,5,6", "--duration", "8s", "--output-len", "10", "--agents", "2"];
    scene.coordinate(&[&args[..], &["--max-agents", "3", "--rejoin-wait", "0s"]].concat());
    scene.agent("stays");
    scene.agent("leaves");
    scene.under_way(60);
    scene.agent("late");
    scene.coordinator().announced("agent late").unwrap();
    assert!(scene.nodes[1].end().is_err(), "the run is not over: whoever restarts it must not think so");
    scene.coordinator().announced("leaves leaves").unwrap();
    assert_eq!(scene.wait(), 0);
    scene.end_server();
    assert_eq!(tries(&scene.summary()), [(4, 1, false), (4, 2, true), (5, 1, true), (6, 1, true)]);
    assert_eq!(shares(&scene), [2, 2, 2, 2], "the late one in place of the one that left");
    // It had time to tell of all that it did.
    assert_eq!(scene.accounts().contradictions(), [""; 0]);
}

const SWEEP: [&str; 8] =
    ["--concurrency", "2,4,6", "--duration", "5s", "--output-len", "10", "--agents", "2"];

fn throughputs(summary: &Value) -> Vec<f64> {
    let counts = levels(summary).iter().filter(|level| level["certificate"]["verdict"] != "void");
    counts.map(|level| level["request_throughput"].as_f64().unwrap()).collect()
}

#[test]
fn a_run_whose_coordinator_was_killed_goes_on_with_the_level_that_was_under_way() {
    let mut whole = Scene::new(&PACED);
    whole.coordinate(&SWEEP);
    ["a", "b"].iter().for_each(|name| whole.agent(name));
    whole.complete();
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&SWEEP);
    ["a", "b"].iter().for_each(|name| scene.agent(name));
    // Two streams do about 150 requests in the first level.
    scene.under_way(220);
    scene.coordinator().kill();
    scene.resume(&[]);
    scene.complete();
    let summary = scene.summary();
    assert_eq!(tries(&summary), [(2, 1, true), (4, 1, false), (4, 2, true), (6, 1, true)]);
    assert_eq!(scene.accounts().differences(), [""; 0], "the agents kept what the dead one had not");
    for (ours, theirs) in throughputs(&summary).iter().zip(throughputs(&whole.summary())) {
        println!("{ours:.1} requests per second, and {theirs:.1} in a run that was not interrupted");
        assert!((0.8..1.25).contains(&(ours / theirs)), "{ours} against {theirs} requests per second");
    }
    assert!(summary["warnings"].to_string().contains("taken over"), "{}", summary["warnings"]);
}

#[test]
fn two_coordinators_do_not_write_one_run() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&["--concurrency", "2", "--duration", "4s", "--output-len", "5", "--agents", "1"]);
    let dir = scene.run_dir();
    let (code, said) = scene.tailcliff(&["coordinate", "--resume", dir.to_str().unwrap()]);
    assert!(code == 5 && said.contains("another coordinator writes this run"), "{code}: {said}");
    scene.agent("a");
    scene.complete();
    let (code, said) = scene.tailcliff(&["coordinate", "--resume", dir.to_str().unwrap()]);
    assert!(code == 0 && said.contains("was carried out"), "{code}: {said}");
}

#[test]
fn an_interrupted_run_goes_on_and_another_plan_is_refused() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&["--concurrency", "2,4", "--duration", "3s", "--output-len", "10", "--agents", "1"]);
    scene.agent("a");
    scene.under_way(20);
    kill(Pid::from_raw(scene.coordinator().pid().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(scene.wait(), 130);
    let dir = scene.run_dir();
    let other = ["coordinate", "--resume", dir.to_str().unwrap(), "--output-len", "11"];
    let (code, said) = scene.tailcliff(&other);
    assert!(code == 2 && said.contains("output-len: not as the run began"), "{code}: {said}");
    scene.resume(&["--wait", "20s"]);
    scene.agent("a");
    assert_eq!(scene.wait(), 0);
    scene.end_server();
    assert_eq!(tries(&scene.summary()), [(2, 1, false), (2, 2, true), (4, 1, true)]);
    assert_eq!(scene.accounts().differences(), [""; 0]);
}

#[test]
fn a_coordinator_killed_before_its_outputs_were_written_has_them_written_by_the_next() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&["--concurrency", "2", "--duration", "2s", "--output-len", "5", "--agents", "1"]);
    scene.agent("a");
    scene.complete();
    let dir = scene.run_dir();
    std::fs::remove_file(dir.join("summary.json")).unwrap();
    let again = ["coordinate", "--output-dir", dir.to_str().unwrap(), "--resume-if-present"];
    let (code, said) = scene.tailcliff(&again);
    assert_eq!(code, 0, "{said}");
    assert_eq!(levels(&scene.summary()).len(), 1);
}

#[test]
fn a_level_whose_every_try_was_void_is_no_success() {
    let mut scene = with_one_killed(&["--rejoin-wait", "0s", "--level-attempts", "1"]);
    scene.coordinator().announced("level 1 is given up").unwrap();
    assert_eq!(scene.wait(), 8);
    assert_eq!(tries(&scene.summary()), [(4, 1, false), (5, 1, true)]);
}
