//! The restart command: run by a shell, its output in a file, its end judged. A process that it leaves behind is none of
//! ours; one that stays is.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tailcliff_proto::clock::HostClock;
use tokio::process::{Child, Command};

/// What a server gets to end by itself, before it is killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// Read and written by its owner alone.
const ONLY_MINE: u32 = 0o600;

/// A command under way, or ended.
#[derive(Debug)]
pub(super) struct Restart {
    child: Child,
    group: Option<Pid>,
    pub(super) began_ns: i64,
    pub(super) ended: Option<Ended>,
}

/// How it ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) at_ns: i64,
}

impl Restart {
    /// Runs `command`, with its output appended to `log`. It is in a process group of its own: Ctrl-C in the terminal ends
    /// this process, and not the server.
    ///
    /// # Errors
    /// When the log cannot be written, or the shell cannot be run.
    pub(super) fn begin(command: &str, log: &Path) -> io::Result<Self> {
        // Nobody knows what it prints.
        let out = File::options().create(true).append(true).mode(ONLY_MINE).open(log)?;
        out.set_permissions(Permissions::from_mode(ONLY_MINE))?;
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).process_group(0);
        shell.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let began_ns = HostClock.now();
        let child = shell.spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Self { child, group, began_ns, ended: None })
    }

    /// How it ended, if it has by now.
    pub(super) fn look(&mut self) -> Option<Ended> {
        if self.ended.is_none() {
            let status = self.child.try_wait().ok().flatten();
            self.ended = status.map(|status| Ended { status, at_ns: HostClock.now() });
        }
        self.ended
    }

    /// It still runs, so that it is the server, or what holds it.
    pub(super) fn stays(&mut self) -> bool {
        self.look().is_none()
    }

    /// Ends what stays: SIGTERM to its process group, SIGKILL when that is not enough. What the command left behind, having
    /// ended itself, is not touched.
    pub(super) async fn end(&mut self) {
        if !self.stays() {
            return;
        }
        self.signal(Some(Signal::SIGTERM));
        if tokio::time::timeout(PATIENCE, self.gone()).await.is_err() {
            self.signal(Some(Signal::SIGKILL));
            let _stuck = tokio::time::timeout(PATIENCE, self.gone()).await;
        }
        let _noted = self.look();
    }

    /// Until nobody of the group is left: a shell ends at once, its server when it has cleaned up.
    async fn gone(&mut self) {
        let _reaped = self.child.wait().await;
        while self.signal(None) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// To the whole group; `None` only asks whether there is one. Its number is its own as long as it has a member.
    fn signal(&self, signal: Option<Signal>) -> bool {
        self.group.is_some_and(|group| killpg(group, signal).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_there(pid: i32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}/stat")).exists() && !is_zombie(pid)
    }

    fn is_zombie(pid: i32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
    }

    async fn ended(restart: &mut Restart) -> Ended {
        for _ in 0..500 {
            if let Some(ended) = restart.look() {
                return ended;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it never ended")
    }

    fn pid_in(log: &Path) -> i32 {
        std::fs::read_to_string(log).unwrap().trim().parse().unwrap()
    }

    #[tokio::test]
    async fn what_a_command_leaves_behind_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut restart = Restart::begin("sleep 100 & echo $!", &log).unwrap();
        assert!(ended(&mut restart).await.status.success());
        restart.end().await;
        let pid = pid_in(&log);
        assert!(is_there(pid), "a server that was started survives");
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }

    #[tokio::test]
    async fn what_stays_is_ended_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut restart = Restart::begin("sleep 100 & echo $!; wait", &log).unwrap();
        while std::fs::read_to_string(&log).unwrap_or_default().trim().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(restart.stays());
        restart.end().await;
        assert!(!restart.stays() && !is_there(pid_in(&log)));
    }

    #[tokio::test]
    async fn its_output_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        std::fs::write(&old, "").unwrap();
        std::fs::set_permissions(&old, Permissions::from_mode(0o644)).unwrap();
        for log in [new, old] {
            let mut restart = Restart::begin("true", &log).unwrap();
            ended(&mut restart).await;
            assert_eq!(std::fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600, "{log:?}");
        }
    }

    #[tokio::test]
    async fn a_failure_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut restart = Restart::begin("echo no such model >&2; exit 3", &dir.path().join("log")).unwrap();
        assert_eq!(ended(&mut restart).await.status.code(), Some(3));
        assert_eq!(std::fs::read_to_string(dir.path().join("log")).unwrap(), "no such model\n");
        assert!(Restart::begin("true", Path::new("/nowhere/log")).is_err());
    }
}
