//! `tailcliff coldwarm` against a server that a command restarts: what is measured, what is left running, and what a person
//! is told when the command, the server or the person will not. SIMULATED: the server is model-sim, the GPU nvml-sim's.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::roles::{ROLE, Role};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::scene::binary;

/// A server that comes and goes by a command, and what coldwarm wrote of it.
struct Place {
    dir: tempfile::TempDir,
    port: u16,
}

impl Place {
    fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { dir: tempfile::tempdir().unwrap(), port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pid_file(&self) -> String {
        self.path("pid").display().to_string()
    }

    /// A shell's words that are the server.
    fn server(&self, args: &str) -> String {
        let binary = binary().display();
        format!("{ROLE}=model-sim '{binary}' --listen 127.0.0.1:{} --timing paced {args}", self.port)
    }

    /// Ends the server of before, and starts one that outlives the command.
    fn restart(&self, args: &str) -> String {
        let (pid, server) = (self.pid_file(), self.server(args));
        format!(
            "if [ -f '{pid}' ]; then kill $(cat '{pid}'); while kill -0 $(cat '{pid}') 2>/dev/null; do sleep 0.05; done; \
             fi; {server} >/dev/null 2>&1 & echo $! > '{pid}'"
        )
    }

    fn command(&self, restart: &str, more: &[&str]) -> Command {
        let mut command = Command::new(binary());
        let url = format!("127.0.0.1:{}", self.port);
        command.env(ROLE, "tailcliff").args(["coldwarm", "--url", &url, "--model", "sim", "--ignore-eos"]);
        command.args(["--restart-cmd", restart, "--max-tokens", "8"]);
        if !more.contains(&"--runs") {
            command.args(["--runs", "3"]);
        }
        command.arg("--nvml-path").arg(nvml_sim::library_path().unwrap());
        command.arg("--output-dir").arg(self.path("out")).args(more);
        command
    }

    /// Exit code, and what a person is told.
    fn coldwarm(&self, restart: &str, more: &[&str]) -> (i32, String) {
        let output = self.command(restart, more).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("out/coldwarm.json")).unwrap()).unwrap()
    }

    fn markdown(&self) -> String {
        std::fs::read_to_string(self.path("out/coldwarm.md")).unwrap()
    }

    fn is_up(&self) -> bool {
        std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    fn pid(&self) -> Option<i32> {
        std::fs::read_to_string(self.path("pid")).ok()?.trim().parse().ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A server that a command left behind; it is this test's, and still there unless the test ended it.
        if let Some(pid) = self.pid().filter(|_| self.is_up()) {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn names(runs: &Value) -> Vec<&str> {
    runs.as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap()).collect()
}

const SLOW_START: &str = "--fault loading:ms=900 --first-penalty-ms 700";

#[test]
fn a_restart_is_timed_to_ready_and_to_its_first_token_and_the_server_survives() {
    let place = Place::new();
    let restart = format!("API_KEY=hunter2 && {}", place.restart(SLOW_START));
    let (code, told) =
        place.coldwarm(&restart, &["--restarts", "2", "--whole-restart", "--env", "TAILCLIFF_ROLE"]);
    assert_eq!(code, 0, "{told}");
    assert!(place.is_up(), "a server that was started elsewhere is left alone");
    let (json, text) = (place.json(), place.markdown());
    let all = json["restarts"].as_array().unwrap();
    assert_eq!((all.len(), json["ending"].as_str()), (3, Some("complete")));
    let warm = ["cold_1", "warm_1", "warm_2", "warm_3"];
    let whole = ["whole_1", "whole_2", "whole_3"];
    for (number, cycle) in all.iter().enumerate() {
        let streamed = number < 2;
        let expected = if streamed {
            [&warm[..], &whole, &["fresh_1"]].concat()
        } else {
            [&warm[..], &["fresh_1"]].concat()
        };
        assert_eq!(names(&cycle["runs"]), expected);
        assert_eq!(cycle["streamed"], streamed);
        // The server says 503 for the first 900 ms of its life.
        assert!(cycle["ready_s"].as_f64().unwrap() >= 0.9, "{cycle}");
        assert_eq!(cycle["old_gone_s"].is_null(), number == 0, "{cycle}");
        let cold = &cycle["runs"][0];
        let first = if streamed { &cold["ttft_s"] } else { &cold["wall_s"] };
        assert!(first.as_f64().unwrap() >= 0.75, "{cold}");
        assert_eq!(cold["ttft_s"].is_null(), !streamed);
        assert_eq!(cold["output_tokens"], 8);
        let kind = if streamed { "ttft" } else { "wall" };
        assert!(cycle["cold_penalty"][kind].as_f64().unwrap() > 2.0, "{cycle}");
        assert!(cycle["memory"]["total_bytes"].as_u64().is_some());
        // The terms of each stretch add up to it.
        for stretch in ["startup", "first"] {
            let terms = cycle[stretch]["terms"].as_array().unwrap();
            let sum: i64 = terms.iter().map(|term| term["ns"].as_i64().unwrap()).sum();
            assert_eq!(sum, cycle[stretch]["span_ns"].as_i64().unwrap());
        }
        let flags = cycle["process"]["command"].to_string();
        assert!(flags.contains("loading:ms=900"), "{flags}");
    }
    assert!(text.contains("SIMULATED") && json["simulated"] == true);
    for section in [
        "## Server config",
        "## GPU snapshot",
        "## Cold vs warm",
        "## Warm variance",
        "## Sanity metrics",
        "## Interpretation",
        "Next knob",
        "SLO anchor",
        "TAILCLIFF_ROLE=model-sim",
    ] {
        assert!(text.contains(section), "{section}");
    }
    for entry in std::fs::read_dir(place.path("out")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(
            !String::from_utf8_lossy(&bytes).contains("hunter"),
            "a secret of the restart command is told"
        );
    }
    assert!(!told.contains("hunter"));
}

#[test]
fn a_command_that_stays_is_the_server_and_is_ended() {
    let place = Place::new();
    let (code, told) = place.coldwarm(&format!("exec env {}", place.server("")), &["--restarts", "2"]);
    assert_eq!(code, 0, "{told}");
    assert!(!place.is_up(), "our own child is ended: {told}");
    assert!(place.json()["restarts"].as_array().unwrap().iter().all(|cycle| cycle["command_stays"] == true));
}

#[test]
fn a_command_that_fails_hangs_or_restarts_nothing_is_told_as_such() {
    for (command, seconds, words) in [
        ("echo no such model; exit 3", "60s", "the restart command failed (exit status: 3)"),
        ("exec sleep 1000", "2s", "was still running"),
        ("true", "2s", "nobody answered, and the command had ended"),
    ] {
        let place = Place::new();
        let (code, told) = place.coldwarm(command, &["--ready-timeout", seconds]);
        assert_eq!(code, 3, "{command}: {told}");
        assert!(told.contains(words), "{command}: {told}");
        assert!(place.markdown().contains("Broken off"), "{command}");
        assert_eq!(place.json()["slo_anchor"], Value::Null);
    }
    let place = Place::new();
    let never = place.restart("--fault loading:ms=3600000");
    let (code, told) = place.coldwarm(&never, &["--ready-timeout", "2s"]);
    assert!(code == 3 && told.contains("the server said HTTP 503"), "{told}");
}

#[test]
fn the_old_server_is_not_taken_for_a_new_one() {
    let place = Place::new();
    let shell = Command::new("sh").args(["-c", &place.restart("")]).status().unwrap();
    assert!(shell.success());
    let up = (0..3_000).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        place.is_up()
    });
    assert!(up, "no server within a minute");
    let (code, told) = place.coldwarm("true", &["--ready-timeout", "2s"]);
    assert!(code == 3 && told.contains("the server from before answered"), "{told}");
}

#[test]
fn a_server_that_dies_among_the_warm_runs_leaves_what_was_measured() {
    let place = Place::new();
    let server = place.server("");
    let restart = format!(
        "{server} --paced-ttft-ms 500 >/dev/null 2>&1 & pid=$!; (sleep 4; kill -9 $pid) >/dev/null 2>&1 &"
    );
    let (code, told) = place.coldwarm(&restart, &["--runs", "20"]);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("requests in a row failed"), "{told}");
    let json = place.json();
    let runs = json["restarts"][0]["runs"].as_array().unwrap();
    assert!(runs[0]["completed"] == true && runs.last().unwrap()["completed"] == false, "{runs:?}");
    assert!(runs.len() < 20 && place.markdown().contains("failed:"));
}

#[test]
fn ctrl_c_keeps_what_there_is_and_ends_what_is_ours() {
    let place = Place::new();
    // Its own standard input is none: it must not take that for its parent's end.
    let unset = "exec env -u TAILCLIFF_ROLE_DIES_WITH_PARENT";
    let server = format!("{unset} {}", place.server("--paced-ttft-ms 300"));
    let role = Role::start_heard(place.command(&server, &["--runs", "1000"]), "tailcliff", &[]);
    let mut role = role.unwrap();
    role.announced("warm_2: ").unwrap();
    kill(Pid::from_raw(role.pid().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(role.wait().unwrap().code(), Some(130));
    assert!(place.markdown().contains("**Interrupted"));
    let json = place.json();
    let runs = names(&json["restarts"][0]["runs"]);
    assert!(runs.starts_with(&["cold_1", "warm_1", "warm_2"]), "{runs:?}");
    assert!(json["restarts"][0]["cold_penalty"]["ttft"].is_number());
    assert!(!place.is_up());
}

#[test]
fn a_place_that_cannot_be_written_is_found_out_before_anything_is_restarted() {
    let place = Place::new();
    std::fs::write(place.path("out"), "a file").unwrap();
    let mark = place.path("mark");
    let (code, told) = place.coldwarm(&format!("touch '{}'", mark.display()), &[]);
    assert!(code == 5 && told.contains("--output-dir"), "{told}");
    assert!(!Path::new(&mark).exists(), "the server was restarted for nothing");
    let (code, told) = place.coldwarm("true", &["--ready", "health"]);
    assert!(code == 2 && told.contains("--ready"), "{told}");
}
