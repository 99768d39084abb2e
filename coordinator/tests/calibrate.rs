//! `tailcliff calibrate` and the stub, as a person runs them: on a small ladder, into a state directory of its own.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn tailcliff(state: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff"));
    let tmp = state.join("tmp");
    std::fs::create_dir_all(&tmp).unwrap();
    command.args(args).current_dir(state).env("XDG_STATE_HOME", state).env("TMPDIR", tmp);
    command
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

const SMALL: [&str; 7] = ["calibrate", "--concurrency", "4", "--duration", "500ms", "--itl", "1ms"];

#[test]
fn it_measures_stores_and_later_runs_carry_it() {
    let dir = tempfile::tempdir().unwrap();
    let output = tailcliff(dir.path(), &SMALL).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("plain reqwest") && out.lines().all(|l| l.chars().count() <= 80), "{out}");
    let file = json(&dir.path().join("tailcliff/calibration.json"));
    let entry = file["hosts"].as_object().unwrap().values().next().unwrap();
    let level = &entry["levels"][0];
    assert_eq!(level["concurrency"], 4);
    for client in ["tailcliff", "plain_reqwest"] {
        let of = &level[client];
        assert!(of["requests"].as_u64().unwrap() >= 4, "{level}");
        let added = &of["added_ttft_after_send_ms"];
        let [p50, p99] = ["p50", "p99"].map(|p| added[p].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p99, "{level}");
        let held = of["held_stub"].as_f64().unwrap();
        assert!(held > 0.0 && held <= 4.01, "four streams were asked for: {level}");
        assert!(entry["burst"][client]["events_per_s_per_core"].as_f64().unwrap() > 0.0, "{entry}");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0, "its runs are gone");

    let stub = Stub::start(dir.path(), &["stub", "--mode", "burst", "--tokens", "4"]);
    let args =
        ["run", "--url", &stub.address, "--model", "stub", "--concurrency", "2", "--num-prompts", "30"];
    let output = tailcliff(dir.path(), &[&args[..], &["--output-dir", "run"]].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let environment = json(&dir.path().join("run/environment.json"));
    assert_eq!(&environment["agents"][0]["calibration"], entry);
    let summary = json(&dir.path().join("run/summary.json"));
    assert_eq!(&summary["calibration"][0]["calibration"], entry);
    let checks = summary["levels"][0]["certificate"]["checks"].as_array().unwrap();
    assert!(
        checks.iter().any(|c| c["name"] == "cpu_share_busiest_shard" && c["value"].is_f64()),
        "{checks:?}"
    );
}

#[test]
fn interrupted_it_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = tailcliff(dir.path(), &["calibrate", "--concurrency", "2", "--duration", "60s"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    err.read_line(&mut line).unwrap();
    assert!(line.contains("calibrating 1/1: 2 streams"), "{line}");
    let pid = Pid::from_raw(child.id().cast_signed());
    let stub = wait_for_child(child.id());
    kill(pid, Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    err.read_to_string(&mut line).unwrap();
    assert!(line.contains("nothing is stored"), "{line}");
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    assert!(!dir.path().join("tailcliff").exists());
    assert!(kill(Pid::from_raw(stub), None).is_err(), "the stub outlives it");
}

/// A child of a process, once it has one.
fn wait_for_child(of: u32) -> i32 {
    for _ in 0..1_000 {
        let children = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
        if let Some(child) = children.split_whitespace().next() {
            return child.parse().unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("no stub was started")
}

#[test]
fn wrong_flags_exit_2_and_a_stub_serves_loopback_alone() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["calibrate", "--concurrency", "0"][..], &["calibrate", "--concurrency", "4,2"]] {
        let output = tailcliff(dir.path(), args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let open = tailcliff(dir.path(), &["stub", "--listen", "0.0.0.0:0"]).output().unwrap();
    assert!(!open.status.success() && open.stdout.is_empty());
    assert!(String::from_utf8_lossy(&open.stderr).contains("loopback"));
}

struct Stub {
    child: std::process::Child,
    out: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Stub {
    fn start(dir: &Path, args: &[&str]) -> Stub {
        let mut child = tailcliff(dir, args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Stub { child, out, address }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

#[test]
fn a_stub_ends_with_its_standard_input_or_a_signal_and_tells_what_it_knows() {
    let dir = tempfile::tempdir().unwrap();
    for by_signal in [false, true] {
        let mut stub = Stub::start(dir.path(), &["stub", "--mode", "plain", "--tokens", "3"]);
        let mut client = TcpStream::connect(&stub.address).unwrap();
        client.write_all(b"POST / HTTP/1.1\r\nx-request-id: a\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        assert!(client.read(&mut [0; 4096]).unwrap() > 0);
        if by_signal {
            kill(Pid::from_raw(stub.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        } else {
            drop(stub.child.stdin.take());
        }
        let mut rest = String::new();
        stub.out.read_to_string(&mut rest).unwrap();
        assert!(stub.child.wait().unwrap().success());
        let lines: Vec<Value> = rest.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(
            (&lines[0]["id"], &lines[0]["writes"][0][1], &lines[1]["lost"]),
            (&"a".into(), &3.into(), &0.into())
        );
    }
}
