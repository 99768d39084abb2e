//! The stub as a child process: this same binary with `stub`. It ends when its standard input does, so none outlives us.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::local::Truth;

/// A running stub; killed when dropped.
pub(super) struct Stub {
    child: Child,
    out: BufReader<ChildStdout>,
    /// Where it listens.
    pub(super) address: String,
}

impl Stub {
    /// Starts one with these flags.
    pub(super) fn start(flags: &[String]) -> io::Result<Stub> {
        let mut command = Command::new(std::env::current_exe()?);
        // A group of its own: Ctrl-C reaches us alone, and we end it.
        command.arg("stub").args(flags).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let Some(out) = child.stdout.take() else { return Err(io::Error::other("it has no output")) };
        let mut stub = Stub { child, out: BufReader::new(out), address: String::new() };
        let mut line = String::new();
        stub.out.by_ref().take(1 << 10).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ");
        stub.address = address.ok_or_else(|| io::Error::other(format!("it said {line:?}")))?.to_owned();
        Ok(stub)
    }

    /// Ends it; what it knows. Blocks.
    pub(super) fn end(mut self) -> io::Result<Truth> {
        drop(self.child.stdin.take());
        Truth::read(&mut self.out)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
