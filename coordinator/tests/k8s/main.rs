//! `tailcliff k8s run` against a stand-in for kubectl, which records calls and claims no cluster: every way that it ends
//! is told in words, with an exit code, and leaves nothing behind unsaid.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const KEY: &str = "sk-do-not-print-me";

struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    /// With files that the stand-in answers from.
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        Self { dir }
    }

    fn command(&self, flags: &[&str]) -> Command {
        let kubectl = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/k8s/kubectl");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff"));
        command.args(["k8s", "run", "--url", "h:1", "--model", "m", "--run-id", "t"]);
        if !flags.contains(&"--wait") {
            command.args(["--wait", "1s"]);
        }
        command.args(["--output-dir", "out", "--kubectl"]).arg(kubectl).args(flags);
        command.current_dir(self.dir.path()).env("STAGE", self.dir.path()).env("OPENAI_API_KEY", KEY);
        command
    }

    fn run(&self, flags: &[&str]) -> (i32, String) {
        ended(self.command(flags).output().unwrap())
    }

    /// Starts it, waits for a line of its standard error, and signals it; then again, where `again` comes.
    fn interrupted(&self, flags: &[&str], moments: &[&str]) -> (i32, String) {
        let mut child = self.command(flags).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        for moment in moments {
            if moment.is_empty() {
                self.until_called(&mut child, "auth can-i");
            } else {
                let mut line = || lines.next().map(Result::unwrap);
                while let Some(line) = line() {
                    said += &format!("{line}\n");
                    if line.contains(moment) {
                        break;
                    }
                }
            }
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
        }
        lines.for_each(|line| said += &format!("{}\n", line.unwrap()));
        (child.wait().unwrap().code().unwrap(), said)
    }

    fn until_called(&self, child: &mut Child, what: &str) {
        while !self.calls().contains(what) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    fn calls(&self) -> String {
        self.read("calls")
    }
}

fn ended(output: Output) -> (i32, String) {
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains(KEY) && !said.contains("panicked"), "{said}");
    (output.status.code().unwrap(), said)
}

fn pod(part: &str, state: &str) -> String {
    format!(
        r#"{{"kind":"Pod","metadata":{{"labels":{{"app.kubernetes.io/component":"{part}"}}}},"status":{{"containerStatuses":[{{"state":{state}}}]}}}}"#
    )
}

fn items(all: &[&str]) -> String {
    format!(r#"{{"items":[{}]}}"#, all.join(","))
}

fn running() -> String {
    items(&[&pod("coordinator", r#"{"running":{}}"#)])
}

/// A coordinator that nobody joins, where a port-forward would lead to one.
fn coordinator(wait: &str) -> String {
    let binary = env!("CARGO_BIN_EXE_tailcliff");
    format!(
        "exec {binary} coordinate --listen 127.0.0.1:$1 --url h:1 --model m --wait {wait} --serve-results 30s --output-dir \"$STAGE/run\" 2>>\"$STAGE/said\"\n"
    )
}

#[test]
fn what_cannot_begin_makes_nothing() {
    for (files, flags, says) in [
        (vec![], vec!["--kubectl", "/not/there/kubectl"], "--kubectl"),
        (
            vec![("can-i.err", "error: context \"x\" does not exist\n")],
            vec!["--context", "x"],
            "context \"x\" does not exist",
        ),
        (vec![("can-i", "no\n")], vec!["-n", "theirs"], "--namespace"),
        (vec![("taken", "job.batch/t-agent\n")], vec![], "--run-id"),
        (
            vec![("get.err", "Error from server (NotFound): secrets \"k\" not found\n")],
            vec!["--api-key-secret", "k"],
            "secret k is not there",
        ),
    ] {
        let stage = Stage::new(&files);
        // The stand-in comes first on the command line, and the last of two flags counts.
        let (code, said) = match flags.first() {
            Some(&"--kubectl") => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff"));
                command.args(["k8s", "run", "--url", "h:1", "--model", "m"]).args(&flags);
                ended(command.output().unwrap())
            }
            _ => stage.run(&flags),
        };
        assert_eq!(code, 10, "{says}: {said}");
        assert!(said.contains(says), "{says}: {said}");
        assert!(
            !stage.calls().contains("create -f") && !stage.calls().contains("delete -"),
            "{}",
            stage.calls()
        );
    }
}

#[test]
fn an_api_server_that_refuses_the_objects_is_quoted_and_what_it_took_is_deleted() {
    let stage =
        Stage::new(&[("create.err", "Error from server (Forbidden): namespaces \"load\" is forbidden\n")]);
    let (code, said) = stage.run(&["-n", "load"]);
    assert_eq!(code, 10, "{said}");
    assert!(said.contains("namespaces \"load\" is forbidden"), "{said}");
    assert!(stage.calls().contains("--namespace=load delete"), "{}", stage.calls());
}

#[test]
fn the_key_goes_to_the_cluster_by_standard_input_alone() {
    let stage = Stage::new(&[("create.err", "no\n")]);
    let _refused = stage.run(&[]);
    assert!(stage.read("created.yaml").contains(KEY) && !stage.calls().contains(KEY));
    assert!(stage.read("created.yaml").contains("name: t-api-key"));
}

#[test]
fn pods_that_do_not_start_are_a_reason_each_and_exit_4() {
    let waiting = |reason: &str, message: &str| {
        format!(r#"{{"waiting":{{"reason":"{reason}","message":"{message}"}}}}"#)
    };
    let no_image = pod("agent", &waiting("ImagePullBackOff", "Back-off pulling tailcliff:9"));
    let no_secret = pod("coordinator", &waiting("CreateContainerConfigError", "secret gone not found"));
    let quota = r#"{"items":[{"involvedObject":{"name":"t-agent"},"message":"exceeded quota: pods=3"}]}"#;
    for (file, text, says) in [
        (
            "pods",
            items(&[&no_image, &no_image]),
            "2 agent pods: the image cannot be had: Back-off pulling tailcliff:9",
        ),
        ("pods", items(&[&no_secret]), "secret gone not found"),
        ("events", quota.to_owned(), "exceeded quota: pods=3"),
        ("pods", items(&[]), "no pod of the coordinator runs"),
    ] {
        let stage = Stage::new(&[(file, &text)]);
        let (code, said) = stage.run(&[]);
        assert_eq!(code, 4, "{says}: {said}");
        assert!(said.contains(says) && said.contains("deleted the run's objects"), "{says}: {said}");
        assert!(stage.calls().contains("-l tailcliff.dev/run=t"), "{}", stage.calls());
    }
}

#[test]
fn a_coordinator_whose_agents_do_not_come_is_fetched_through_a_port_forward_that_died() {
    let stage = Stage::new(&[("pods", &running()), ("coordinator", &coordinator("1s")), ("dies", "")]);
    let (code, said) = stage.run(&["--agents", "3", "--allow-unauthenticated"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("lost connection to pod") && said.contains("0 of 1 agents"), "{said}");
    assert!(said.contains("the coordinator speaks") && said.contains("deleted"), "{said}");
    let calls = stage.calls();
    assert_eq!(calls.matches("port-forward --address").count(), 2, "{calls}\n{said}\n{}", stage.read("said"));
}

#[test]
fn a_coordinator_that_is_killed_gives_its_code_and_its_reason() {
    let job = r#"{"kind":"Job","metadata":{"name":"t-coordinator"},"status":{"conditions":[{"type":"Failed","status":"True","message":"backoff limit"}]}}"#;
    let killed = pod("coordinator", r#"{"terminated":{"exitCode":137,"reason":"OOMKilled"}}"#);
    let stage = Stage::new(&[("pods", &items(&[&killed, job]))]);
    let (code, said) = stage.run(&["--volume", "1Gi"]);
    assert_eq!(code, 137, "{said}");
    assert!(said.contains("backoff limit") && said.contains("kept on claim t-runs"), "{said}");
    assert!(!stage.calls().contains("persistentvolumeclaims"), "what it measured stays: {}", stage.calls());
}

#[test]
fn what_cannot_be_deleted_is_said_with_how_to() {
    let stage = Stage::new(&[("delete.err", "Error from server: etcd is away\n")]);
    let (code, said) = stage.run(&[]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("etcd is away; they are left there: kubectl delete jobs"), "{said}");
}

#[test]
fn ctrl_c_in_each_phase_cleans_up() {
    let checking = Stage::new(&[("slow", "")]);
    let (code, said) = checking.interrupted(&[], &[""]);
    assert_eq!((code, said.contains("nothing was made")), (130, true), "{said}");
    assert!(!checking.calls().contains("create -f"));

    let pending = Stage::new(&[]);
    let (code, said) = pending.interrupted(&["--wait", "60s"], &["made run t"]);
    assert_eq!((code, said.contains("nothing was measured")), (130, true), "{said}");
    assert!(said.contains("deleted the run's objects"), "{said}");

    let running = running();
    let under_way = Stage::new(&[("pods", &running), ("coordinator", &coordinator("60s"))]);
    let (code, said) = under_way.interrupted(&["--allow-unauthenticated"], &["the coordinator speaks"]);
    assert_eq!(code, 130, "{said}");
    assert!(said.contains("stopping the run") && said.contains("interrupted"), "{said}");
    assert!(said.contains("deleted the run's objects"), "{said}");

    // Nobody is there to be stopped; the second ends the wait for that.
    let deaf = Stage::new(&[("pods", &running)]);
    let (code, said) = deaf.interrupted(&[], &["the coordinator speaks", "stopping the run"]);
    assert_eq!((code, said.contains("left behind")), (130, true), "{said}");
    assert!(said.contains("deleted the run's objects"), "{said}");
}
