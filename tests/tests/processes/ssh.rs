//! Nodes started over a stand-in for ssh, which runs what it is given on this machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::roles::Role;

use crate::scene::{PACED, Scene, binary, levels};

/// A script, and a folder with the agent, which is a copy of the binary of all roles under its own name.
fn stand_in(dir: &Path) -> (PathBuf, PathBuf) {
    let script = "for last; do line=$last; done\ncase \"$*\" in *\"-- down \"*) echo 'ssh: connect to host down port 22: No route to host' >&2; exit 255;; esac\nexec sh -c \"$line\"\n";
    let agent = format!(
        "#!/bin/sh\necho $$ >>'{}/pids'\nexec env -u TAILCLIFF_ROLE_DIES_WITH_PARENT TAILCLIFF_ROLE=agent '{}' \"$@\" --shards 1\n",
        dir.display(),
        binary().display()
    );
    std::fs::write(dir.join("ssh"), script).unwrap();
    let path = dir.join("tailcliff-agent");
    std::fs::write(&path, agent).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    (dir.join("ssh"), dir.to_owned())
}

fn coordinate(scene: &Scene, port: u16, hosts: &str, more: &[&str]) -> Role {
    let (script, path) = stand_in(scene.dir.path());
    let (listen, ssh, run) =
        (format!("127.0.0.1:{port}"), format!("sh {}", script.display()), scene.run_dir());
    let mut args =
        vec!["coordinate", "--listen", &listen, "--url", scene.url(), "--model", "sim", "--ignore-eos"];
    args.extend(["--ssh", hosts, "--ssh-command", &ssh, "--remote-path", path.to_str().unwrap()]);
    args.extend(["--output-dir", run.to_str().unwrap(), "--output-len", "10"]);
    args.extend(more);
    Role::start_heard(Command::new(binary()), "tailcliff", &args).unwrap()
}

/// Below those that the system gives to whoever dials.
fn free_port() -> u16 {
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..100).map(|_| fastrand::u16(10_000..20_000)).find(|&port| free(port) && free(port + 1)).unwrap()
}

fn agents_are_gone(scene: &Scene) -> bool {
    let pids = std::fs::read_to_string(scene.dir.path().join("pids")).unwrap();
    let gone = |pid: &str| !Path::new(&format!("/proc/{pid}")).exists();
    assert!(pids.lines().count() > 0);
    (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        pids.lines().all(gone)
    })
}

#[test]
fn agents_over_ssh_carry_out_a_run_and_end_with_it() {
    let scene = Scene::new(&PACED);
    let mut coordinator =
        coordinate(&scene, free_port(), "one,two", &["--concurrency", "4", "--num-prompts", "24"]);
    assert!(coordinator.wait().unwrap().success());
    assert_eq!(levels(&scene.summary())[0]["completed"], 24);
    let stored = scene.stored();
    let mut names: Vec<_> = stored.nodes.values().map(|node| node.hello.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["agent-0", "agent-1"]);
    assert!(agents_are_gone(&scene));
}

#[test]
fn a_host_that_fails_is_named_with_the_words_of_ssh() {
    let scene = Scene::new(&PACED);
    let mut coordinator = coordinate(&scene, free_port(), "one,down", &["--wait", "3s"]);
    assert!(coordinator.announced("down: ssh: connect to host down").is_ok());
    assert_eq!(coordinator.wait().unwrap().code(), Some(4));
    assert!(agents_are_gone(&scene));
}

#[test]
fn a_coordinator_that_is_killed_leaves_no_agent_behind() {
    let scene = Scene::new(&PACED);
    let mut coordinator =
        coordinate(&scene, free_port(), "one,two", &["--concurrency", "4", "--duration", "60s"]);
    coordinator.announced("preflight").unwrap();
    coordinator.kill();
    assert!(agents_are_gone(&scene));
}
