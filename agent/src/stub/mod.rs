//! A fixed-schedule OpenAI-compatible server that knows the truth: what `calibrate` and the bench measure clients against.
//! One thread, epoll, replies made in advance, so that it is not the bottleneck; it notes when the last byte of each
//! request was read and when each token was written. It has no model: what it takes is its schedule and nothing else.

mod command;
mod connection;
mod reply;
mod request;
mod server;
mod truth;

use std::io;
use std::net::TcpListener;
use std::os::fd::BorrowedFd;

pub use command::{Args, serve};
pub use truth::{Served, Truth};

/// How replies come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The whole reply at once, not streamed.
    Plain,
    /// A stream of chunks, all at once.
    Burst,
    /// A stream on a schedule that counts from the read of the request.
    Paced {
        /// To the first token, ns.
        ttft_ns: i64,
        /// From token to token, ns.
        itl_ns: i64,
        /// Shift each request's schedule by a share of `itl_ns` of its own, so that streams do not tick in step.
        spread: bool,
    },
}

/// What a stub goes by.
#[derive(Clone, Debug)]
pub struct Config {
    /// How replies come.
    pub mode: Mode,
    /// Tokens of a reply, each a chunk of its own; fewer when the request's `max_tokens` says so.
    pub tokens: u32,
    /// Bytes of truth kept at most; requests beyond are counted as lost.
    pub keep_bytes: usize,
}

/// Tokens of a reply at most.
pub const MAX_TOKENS: u32 = 100_000;
/// Bytes of truth kept unless told otherwise.
pub const KEEP_BYTES: usize = 512 << 20;

/// Serves until one of `ends` can be read or is closed; returns what it knows. Blocks the thread.
///
/// # Errors
/// When the listener or epoll fails. What a client does to its connection is no error.
pub fn run(config: &Config, listener: TcpListener, ends: &[BorrowedFd<'_>]) -> io::Result<Truth> {
    server::Server::new(config, listener, ends)?.run()
}

#[cfg(test)]
mod tests;
