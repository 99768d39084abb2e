//! The agent's own binary: what is wrong with its flags is one line and exit 2, before anything is dialled.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;

const SECRET: &str = "hush-hush-hush-hush";

fn refusal(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff-agent"));
    let output = command.args(args).current_dir(dir).env("TAILCLIFF_TOKEN", SECRET).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert!(!text.contains(SECRET), "{text}");
    text
}

#[test]
fn what_cannot_be_trusted_is_told_before_anything_is_dialled() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("empty"), "").unwrap();
    for (args, says) in [
        (vec!["--coordinator", "nohost"], "HOST:PORT"),
        (vec!["--coordinator", "10.255.255.1:7100"], "without TLS"),
        (vec!["--coordinator", "127.0.0.1:1", "--tls-dir", "not-there"], "not-there/tls.crt"),
        (vec!["--coordinator", "127.0.0.1:1", "--token-file", "empty"], "at least 16"),
        (vec!["--coordinator", "127.0.0.1:1", "--allow-target", "ftp://x"], "no host"),
        (vec!["--coordinator", "127.0.0.1:1", "--api-key-file", "empty"], "--allow-target"),
        (vec!["--coordinator", "127.0.0.1:1", "--api-key-file", "empty", "--allow-target", "x"], "no key"),
        (vec!["--coordinator", "127.0.0.1:1", "--token", SECRET], "--token"),
    ] {
        let text = refusal(dir.path(), &args);
        assert!(text.contains(says), "{args:?}: {text}");
    }
}
