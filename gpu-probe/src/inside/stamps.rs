//! Follows the file to which a server without tracing writes a line of JSON for each request.
//!
//! Times in it are seconds since the epoch, or, above 1e17, whole nanoseconds. A second's fraction is as fine as a double can
//! hold it: a quarter of a microsecond today, which is also what the server's own language has when it asks for the time as
//! a double. A server that needs it finer writes nanoseconds.

mod follow;
mod line;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Inside, Sink};
use follow::{Follower, Taken};

/// How often the file is looked at. It is read on this thread: it lies on this host, and a look takes microseconds.
const EVERY: Duration = Duration::from_millis(200);
/// What is read of it at one look, bytes: 5 MiB a second, some 25,000 lines. What is more waits in the file, where it is safe.
const AT_ONCE: usize = 1 << 20;
/// Such pieces that are read at the end, when nothing is read later, and for how long at most.
const LAST_PIECES: u32 = 64;
const LAST_READING: Duration = Duration::from_secs(2);
/// Stamps in a batch at most.
const TOGETHER: usize = 1_000;

/// Until `shutdown`: its last lines too.
pub(super) async fn tail(inside: &Inside, sink: Sink, shutdown: CancellationToken) {
    let Some(path) = inside.stamps.as_deref() else { return };
    let mut tail = Tail::new(path, sink);
    let mut beat = tokio::time::interval(EVERY);
    while shutdown.run_until_cancelled(beat.tick()).await.is_some() {
        tail.look(AT_ONCE);
    }
    tail.finish().await;
}

struct Tail<'a> {
    path: &'a Path,
    follower: Follower,
    sink: Sink,
    stamps: Vec<v1::ServerStamps>,
    /// The last trouble, which is told once.
    told: String,
}

impl<'a> Tail<'a> {
    fn new(path: &'a Path, sink: Sink) -> Self {
        Self { path, follower: Follower::at_end(path), sink, stamps: Vec::new(), told: String::new() }
    }

    fn look(&mut self, most: usize) {
        let mut lines = Vec::new();
        let looked = self.follower.look(self.path, most, &mut |taken| lines.push(owned(taken)));
        self.take(lines);
        match looked {
            Ok(()) => self.told.clear(),
            Err(error) => {
                let path = self.path.display();
                let text = format!("failed to read stamps of the server from {path}: {error}");
                if self.told != text {
                    self.sink.tell(text.clone());
                    self.told = text;
                }
            }
        }
    }

    /// What has come by now, in pieces between which others have their turn.
    async fn finish(&mut self) {
        let until = Instant::now() + LAST_READING;
        for _ in 0..LAST_PIECES {
            self.look(AT_ONCE);
            if self.follower.left() == 0 || Instant::now() > until {
                break;
            }
            tokio::task::yield_now().await;
        }
        self.end();
        if let Some(text) = self.lacks().filter(|_| self.sink.is_on()) {
            self.sink.tell(text);
        }
    }

    /// A line that was begun and will not be finished.
    fn end(&mut self) {
        let mut lines = Vec::new();
        if self.follower.left() == 0 {
            self.follower.end(&mut |taken| lines.push(owned(taken)));
        }
        self.take(lines);
    }

    /// What a person should know of the file at the end.
    fn lacks(&self) -> Option<String> {
        let path = self.path.display();
        let left = self.follower.left();
        if left > 0 {
            return Some(format!("{left} bytes of stamps of the server in {path} came too fast to be read"));
        }
        let hint = "see that --server-stamps names the file that the server writes, and that the probe sees its folder";
        // What could not be read was told already.
        let never = !self.follower.was_there() && self.told.is_empty();
        never.then(|| format!("there never was a file of stamps at {path}: {hint}"))
    }

    /// While there is no run, lines are read past and not counted: they are of requests of no run.
    fn take(&mut self, lines: Vec<Option<Vec<u8>>>) {
        if !self.sink.is_on() {
            return;
        }
        let read_raw_ns = HostClock.now();
        for text in lines {
            let stamps = text.and_then(|text| line::read(&text, read_raw_ns));
            let mut totals = self.sink.tally.totals();
            totals.lines += 1;
            totals.bad_lines += u64::from(stamps.is_none());
            drop(totals);
            self.stamps.extend(stamps);
            if self.stamps.len() >= TOGETHER {
                self.hand_on();
            }
        }
        self.hand_on();
    }

    fn hand_on(&mut self) {
        if !self.stamps.is_empty() {
            let server_stamps = std::mem::take(&mut self.stamps);
            let lost = self.sink.push(v1::Batch { server_stamps, ..Default::default() });
            self.sink.tally.totals().without_room += lost;
        }
    }
}

/// `None` for what is no line.
fn owned(taken: Taken<'_>) -> Option<Vec<u8>> {
    match taken {
        Taken::Line(line) => Some(line.to_vec()),
        Taken::Bad => None,
    }
}
