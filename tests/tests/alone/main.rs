//! What takes a machine that nothing else loads: searches through the whole system. Tests of one binary run beside each
//! other, those of two binaries do not, and these take turns.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test may panic, and print what it found"
)]

#[path = "../processes/network.rs"]
#[allow(dead_code, reason = "the scene may be within one")]
mod network;
#[path = "../processes/scene.rs"]
#[allow(dead_code, reason = "made for more tests than these")]
mod scene;
mod search;
