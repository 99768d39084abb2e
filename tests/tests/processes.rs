//! Whole runs as separate OS processes, held against the simulated server's truth log, and what happens when processes die.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::roles::Role;
use e2e::truth_check;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_demo"))
}

struct Scene {
    dir: tempfile::TempDir,
    server: Role,
    url: String,
    coordinator: Option<Role>,
    address: String,
    nodes: Vec<Role>,
}

impl Scene {
    fn new(server_args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let truth = dir.path().join("truth.jsonl");
        let mut args = vec!["--listen", "127.0.0.1:0", "--truth-log", truth.to_str().unwrap()];
        args.extend(server_args);
        let server = Role::start(binary(), "model-sim", &args).unwrap();
        let url = server.line("listening on ").unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        Self { dir, server, url, coordinator: None, address, nodes: Vec::new() }
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    fn coordinate(&mut self, args: &[&str]) {
        let run = self.run_dir();
        let mut all = vec![
            "coordinate",
            "--listen",
            &self.address,
            "--url",
            &self.url,
            "--model",
            "sim",
            "--ignore-eos",
        ];
        all.extend(["--output-dir", run.to_str().unwrap()]);
        all.extend(args);
        self.coordinator = Some(Role::start(binary(), "tailcliff", &all).unwrap());
    }

    fn agent(&mut self, name: &str) {
        let args = ["--coordinator", &self.address, "--name", name, "--shards", "1"];
        self.nodes.push(Role::start(binary(), "agent", &args).unwrap());
    }

    fn probe(&mut self, more: &[&str]) {
        let mut args = vec!["--coordinator", &self.address, "--name", "probe"];
        args.extend(more);
        self.nodes.push(Role::start(binary(), "gpu-probe", &args).unwrap());
    }

    /// Exit code of the coordinator.
    fn wait(&mut self) -> i32 {
        self.coordinator.as_mut().unwrap().wait().unwrap().code().unwrap()
    }

    /// Ends the server, which writes its truth log out.
    fn end_server(&mut self) {
        self.server.end().unwrap();
    }

    fn summary(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.run_dir().join("summary.json")).unwrap()).unwrap()
    }

    /// Waits until the server has seen this many requests.
    fn under_way(&self, requests: usize) {
        let truth = self.dir.path().join("truth.jsonl");
        for _ in 0..600 {
            let lines = std::fs::read_to_string(&truth).unwrap_or_default().lines().count();
            if lines >= requests {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the load never got under way");
    }
}

fn free_port() -> u16 {
    // Two in a row: the clock takes the next one.
    for _ in 0..100 {
        let one = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = one.local_addr().unwrap().port();
        if port < u16::MAX && std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
    panic!("no two free ports in a row");
}

fn count(level: &Value, key: &str) -> u64 {
    level[key].as_u64().unwrap_or_else(|| panic!("{key} in {level}"))
}

fn assert_all_accounted_for(summary: &Value) {
    for level in summary["levels"].as_array().unwrap() {
        let parts = ["completed", "failed", "incomplete", "unreported"].map(|key| count(level, key));
        assert_eq!(count(level, "released"), parts.iter().sum::<u64>(), "{level}");
    }
}

const PACED: [&str; 6] = ["--timing", "paced", "--paced-ttft-ms", "20", "--paced-itl-ms", "5"];
const SHORT: [&str; 6] = ["--concurrency", "3,6", "--num-prompts", "30", "--output-len", "10"];

#[test]
fn three_agents_and_a_probe_make_one_timeline() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&[&SHORT[..], &["--agents", "3", "--probes", "1"]].concat());
    for name in ["a", "b", "c"] {
        scene.agent(name);
    }
    let nvml = nvml_sim::library_path().unwrap();
    scene.probe(&["--nvml-path", nvml.to_str().unwrap()]);
    assert_eq!(scene.wait(), 0);
    for node in &mut scene.nodes {
        assert!(node.wait().unwrap().success(), "nodes end with the run");
    }
    scene.end_server();
    let summary = scene.summary();
    assert_all_accounted_for(&summary);
    for level in summary["levels"].as_array().unwrap() {
        assert_eq!((count(level, "completed"), count(level, "failed")), (30, 0), "{level}");
        assert_eq!(count(level, "total_output_tokens"), 300);
    }
    let started = tailcliff::load::load(&scene.run_dir()).unwrap().header.started_ref_ns;
    let error =
        truth_check::compare(&scene.run_dir(), &scene.dir.path().join("truth.jsonl"), started).unwrap();
    assert_eq!((error.requests, error.chunks, error.impossible), (60, 600, 0));
    let gpu = std::fs::read_to_string(scene.run_dir().join("gpu_trace.csv")).unwrap();
    assert!(gpu.lines().count() > 50, "a sample each 10 ms");
}

#[test]
fn a_killed_agent_is_counted_and_the_run_goes_on() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&["--concurrency", "4,5", "--duration", "8s", "--output-len", "10", "--agents", "2"]);
    scene.agent("stays");
    scene.agent("dies");
    scene.under_way(40);
    scene.nodes[1].kill();
    assert_eq!(scene.wait(), 0);
    let summary = scene.summary();
    assert_all_accounted_for(&summary);
    let levels = summary["levels"].as_array().unwrap();
    assert_eq!(levels[0]["certificate"]["verdict"], "void", "{}", levels[0]["certificate"]);
    assert!(count(&levels[1], "completed") > 0, "the other agent carried the next level");
}

#[test]
fn a_dead_coordinator_stops_the_load_and_loses_nothing_that_was_acked() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&["--concurrency", "4", "--duration", "60s", "--output-len", "10", "--agents", "1"]);
    scene.agent("a");
    scene.under_way(60);
    scene.coordinator.as_mut().unwrap().kill();
    // The lease is 5 s; within twice that nothing may be sent any more.
    std::thread::sleep(Duration::from_secs(10));
    let truth = scene.dir.path().join("truth.jsonl");
    let seen = || std::fs::read_to_string(&truth).unwrap().lines().count();
    let before = seen();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(seen(), before, "the load goes on without a coordinator");
    assert!(scene.nodes[0].ended().unwrap().is_none(), "the agent keeps what it measured, and waits");
    assert!(!scene.run_dir().join("summary.json").exists());
    let merged = Command::new(binary())
        .env("TAILCLIFF_ROLE", "tailcliff")
        .args(["merge", scene.run_dir().to_str().unwrap()])
        .output()
        .unwrap();
    assert!(merged.status.success(), "{}", String::from_utf8_lossy(&merged.stderr));
    let summary = scene.summary();
    assert_all_accounted_for(&summary);
    assert!(count(&summary["levels"][0], "completed") > 20);
}

#[test]
fn ctrl_c_drains_writes_and_says_so() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&["--concurrency", "2,4", "--duration", "30s", "--output-len", "10", "--agents", "1"]);
    scene.agent("a");
    scene.under_way(20);
    kill(Pid::from_raw(scene.coordinator.as_ref().unwrap().pid() as i32), Signal::SIGINT).unwrap();
    assert_eq!(scene.wait(), 130);
    let summary = scene.summary();
    assert_all_accounted_for(&summary);
    assert_eq!(summary["levels"].as_array().unwrap().len(), 1);
    assert!(count(&summary["levels"][0], "completed") >= 10);
}

#[test]
fn a_server_that_fails_in_every_way_is_accounted_for() {
    for fault in
        ["drop:token=3", "status:code=500", "truncate:token=3", "stream_error:token=3", "stall:token=3"]
    {
        let mut scene = Scene::new(&[&PACED[..], &["--fault", &format!("{fault},every=2")]].concat());
        let args =
            ["--concurrency", "4", "--num-prompts", "24", "--output-len", "8", "--request-timeout", "1500ms"];
        scene.coordinate(&[&args[..], &["--agents", "1"]].concat());
        scene.agent("a");
        assert_eq!(scene.wait(), 0, "{fault}");
        let summary = scene.summary();
        assert_all_accounted_for(&summary);
        let level = &summary["levels"][0];
        assert_eq!(count(level, "released"), 24, "{fault}: {level}");
        assert!(count(level, "failed") > 0, "{fault}: {level}");
    }
}

#[test]
fn a_server_that_dies_leaves_failed_requests_and_a_finished_run() {
    let mut scene = Scene::new(&PACED);
    let args = ["--concurrency", "4", "--duration", "4s", "--output-len", "10", "--request-timeout", "2s"];
    scene.coordinate(&[&args[..], &["--agents", "1"]].concat());
    scene.agent("a");
    scene.under_way(20);
    scene.server.kill();
    assert_eq!(scene.wait(), 0);
    let summary = scene.summary();
    assert_all_accounted_for(&summary);
    assert!(count(&summary["levels"][0], "failed") > 0);
}

#[test]
#[ignore = "needs root"]
fn an_agent_in_another_time_namespace_is_on_the_same_timeline() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&[&SHORT[..], &["--agents", "3"]].concat());
    scene.agent("a");
    scene.agent("b");
    let mut elsewhere = Command::new("unshare");
    elsewhere
        .args(["--time", "--fork", "--kill-child", "--monotonic", "100000", "--boottime", "100000"])
        .arg(binary());
    let args = ["--coordinator", &scene.address, "--name", "elsewhere", "--shards", "1"];
    scene.nodes.push(Role::start_with(elsewhere, "agent", &args).unwrap());
    assert_eq!(scene.wait(), 0);
    scene.end_server();
    let summary = scene.summary();
    assert_all_accounted_for(&summary);
    let data = tailcliff::load::load(&scene.run_dir()).unwrap();
    let domains = tailcliff::clock::resolve(&data);
    let (of, node) = data.nodes.iter().find(|(_, node)| node.hello.name == "elsewhere").unwrap();
    let track = domains.track(*of).unwrap();
    assert_eq!(track.kind(), tailcliff::clock::TrackKind::Fitted);
    let offset = node.exchanges[0].middle_offset();
    assert!((99_000..101_000).contains(&(offset / 1_000_000_000)), "{offset} ns: not another clock");
    // Its truth is known: the offset is exactly 100,000 s, which the server's log confirms within the bar.
    let started = data.header.started_ref_ns;
    let error =
        truth_check::compare(&scene.run_dir(), &scene.dir.path().join("truth.jsonl"), started).unwrap();
    assert_eq!((error.requests, error.impossible), (60, 0));
    let errors = |e: &tailcliff::clock::Exchange| {
        let exact = e.t1 - 100_000_000_000_000;
        let at = track.to_ref(e.t1).unwrap();
        assert!((at.ns - exact).abs() <= at.bound_ns, "{} ns off, bar {}", at.ns - exact, at.bound_ns);
        (at.ns - exact).abs()
    };
    let mut errors: Vec<i64> = node.exchanges.iter().map(errors).collect();
    errors.sort_unstable();
    let at = |p: f64| errors[((errors.len() - 1) as f64 * p) as usize] as f64 / 1e3;
    let bound = track.median_bound_ns().unwrap() as f64 / 1e3;
    println!("clock error p50 {:.1} p99 {:.1} max {:.1} µs, bar ±{bound:.1} µs", at(0.5), at(0.99), at(1.0));
}
