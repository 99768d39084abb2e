//! What a child says, line by line. A thread reads it, so that a full pipe never holds the child up, and a child that
//! says nothing never holds its parent up for ever.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tailcliff_proto::clock::HostClock;

/// Longest time that a line is awaited.
const PATIENCE_NS: i64 = 60_000_000_000;

/// The lines of one output.
#[derive(Debug)]
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    /// Starts reading.
    pub(crate) fn read(from: impl Read + Send + 'static) -> Self {
        Self::start(from, |_| {})
    }

    /// Starts reading, and passes every line on to this process's own standard error.
    pub(crate) fn pass_on(from: impl Read + Send + 'static) -> Self {
        Self::start(from, |line| {
            // A closed terminal is no reason to stop listening.
            let _closed = writeln!(io::stderr(), "{line}");
        })
    }

    fn start(from: impl Read + Send + 'static, also: impl Fn(&str) + Send + 'static) -> Self {
        let (lines, heard) = channel();
        std::thread::spawn(move || drain(from, &lines, also));
        Self(heard)
    }

    /// The first line from here on that starts with `prefix`, less the prefix.
    pub(crate) fn find(&self, prefix: &str) -> io::Result<String> {
        self.find_within(prefix, PATIENCE_NS)
    }

    fn find_within(&self, prefix: &str, patience_ns: i64) -> io::Result<String> {
        let deadline = HostClock.now() + patience_ns;
        loop {
            let left = (deadline - HostClock.now()).max(0).unsigned_abs();
            let (kind, what) = match self.0.recv_timeout(Duration::from_nanos(left)) {
                Ok(line) => match line.strip_prefix(prefix) {
                    Some(rest) => return Ok(rest.trim().to_owned()),
                    None => continue,
                },
                Err(RecvTimeoutError::Timeout) => (io::ErrorKind::TimedOut, "waited in vain for it to say"),
                Err(RecvTimeoutError::Disconnected) => {
                    (io::ErrorKind::UnexpectedEof, "it ended without saying")
                }
            };
            return Err(io::Error::new(kind, format!("{what} {prefix:?}")));
        }
    }
}

fn drain(from: impl Read, lines: &Sender<String>, also: impl Fn(&str)) {
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        also(&line);
        // Whoever asked may have gone; the pipe must be emptied all the same.
        let _nobody = lines.send(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_line_and_then_the_next() {
        let lines = Lines::read(&b"a 1\nb \xff\na 2\n"[..]);
        assert_eq!(lines.find("a ").unwrap(), "1");
        assert_eq!(lines.find("a ").unwrap(), "2");
        assert_eq!(lines.find("a ").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn is_not_patient_for_ever() {
        let (reader, _held_open) = std::io::pipe().unwrap();
        let error = Lines::read(reader).find_within("a", 20_000_000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
