//! The demo as a person stops it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Stdio};

use e2e::roles::Role;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A terminal sends Ctrl-C to the whole foreground group. The server and the nodes must be in none of it, or nothing is
/// left to drain.
#[test]
fn ctrl_c_drains_prints_what_was_measured_and_exits_as_interrupted() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.env("TMPDIR", temporary.path()).stderr(Stdio::piped());
    let mut demo = Role::start_command(command).unwrap();
    demo.announced("level 1/7").unwrap();
    killpg(Pid::from_raw(demo.pid().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    let held = demo.line("held against the server's truth log, ").unwrap();
    assert!(held.contains(" 0 sent twice"), "{held}");
    demo.line("interrupted; what was measured is kept").unwrap();
}
