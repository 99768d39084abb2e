//! Half a minute of the soak, so that it still works when somebody has half an hour.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a test may panic, and print what it found")]

use std::process::Command;

#[test]
fn half_a_minute_at_steady_load_drops_nothing_and_takes_no_more_memory() {
    let soak = Command::new(env!("CARGO_BIN_EXE_soak")).args(["--minutes", "0.5"]).output();
    let soak = soak.expect("failed to start the soak");
    let (said, why) = (String::from_utf8_lossy(&soak.stdout), String::from_utf8_lossy(&soak.stderr));
    println!("{said}");
    assert!(soak.status.success() && said.contains("memory flat"), "{why}");
}
