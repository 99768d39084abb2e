//! No room on a disk: the agent's, for its spool, and the coordinator's, for its run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::roles::Role;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Far;
use crate::scene::{PACED, Scene, binary, count, levels};

/// A file system in memory that only those see who enter it. It goes with its holder, and that with this process.
struct SmallDisk {
    holder: Role,
    dir: PathBuf,
}

impl SmallDisk {
    fn mount(dir: &Path, size: &str) -> Self {
        let mut command = Command::new("unshare");
        let script = r#"mount -t tmpfs -o size="$0" none "$1" && echo ready; exec cat"#;
        command.args(["--mount", "sh", "-c", script, size]).arg(dir);
        let holder = Role::start_command(command).unwrap();
        holder.line("ready").expect("failed to mount a file system of its own");
        Self { holder, dir: dir.to_owned() }
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.pid())).arg(binary());
        command
    }

    /// What others see it as.
    fn seen(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.pid()));
        root.join(self.dir.strip_prefix("/").unwrap())
    }
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_under_the_spool_is_told_once_and_what_does_not_fit_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(dir.path(), "128k");
    let mut far = Far::alone(disk.enter(), dir.path());
    far.forwarder.cut();
    std::thread::sleep(Duration::from_secs(10));
    far.forwarder.heal();
    let told = far.coordinator().announced("far: failed to write the spool").unwrap();
    assert!(told.contains("No space left") && told.contains("--spool-dir"), "{told}");
    far.scene.complete();
    let (summary, accounts) = (far.scene.summary(), far.scene.accounts());
    assert_eq!(accounts.contradictions(), [""; 0]);
    let dropped = |key: &str| levels(&summary).iter().map(|l| count(&l["outside"], key)).sum::<u64>();
    assert_eq!(accounts.totals.unreported, dropped("dropped_records"), "what is not reported was left out");
    assert!(accounts.totals.unreported > 0, "all of it fitted: the test shows nothing");
    assert_eq!(dropped("dropped_windows"), 0, "windows never are");
    assert_eq!(super::entries(&disk.seen()), 0, "no file is left");
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_under_the_run_ends_it_in_words_and_what_is_there_can_be_merged() {
    let mut scene = Scene::new(&PACED);
    let run = scene.run_dir();
    std::fs::create_dir(&run).unwrap();
    let disk = SmallDisk::mount(&run, "200k");
    let load = ["--concurrency", "8", "--duration", "60s", "--output-len", "10", "--agents", "1"];
    scene.coordinate_by(disk.enter(), &load);
    scene.agent("a");
    let told = scene.coordinator().announced("tailcliff: failed to write journal").unwrap();
    assert!(told.contains("No space left") && told.contains("tailcliff merge"), "{told}");
    assert_eq!(scene.wait(), 5);
    // Without a coordinator the load ends, and the agent keeps what it has until it is told to stop.
    std::thread::sleep(Duration::from_secs(6));
    kill(Pid::from_raw(scene.nodes[0].pid().cast_signed()), Signal::SIGTERM).unwrap();
    scene.nodes[0].wait().unwrap();
    scene.end_server();
    std::fs::copy(disk.seen().join("journal.tcj"), run.join("journal.tcj")).unwrap();
    let (code, said) = scene.tailcliff(&["merge", run.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    let accounts = scene.accounts();
    assert_eq!(accounts.contradictions(), [""; 0]);
    assert!(accounts.totals.completed > 50, "{:?}", accounts.totals);
    assert!(levels(&scene.summary())[0]["certificate"]["verdict"] == "void", "it did not end");
}
