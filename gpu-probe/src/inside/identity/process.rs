//! The server's process, where this host shows it.

use std::fs::File;
use std::io::Read;

use super::facts::Facts;
use super::flags;
use crate::host::{Server, processes_of};

/// Bytes of a command line that are read.
const MOST_BYTES: u64 = 256 << 10;

#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    /// As it was given, secrets and all: never to be told but through [`Facts::process`].
    command: Vec<String>,
}

/// Finds it; files of /proc are read.
///
/// # Errors
/// In words, why none is found.
pub(super) fn find(server: Option<Server>) -> Result<Process, String> {
    let server = server.ok_or("no --server-port or --server-pid names its process")?;
    let pid = processes_of(server)?.first().copied().ok_or("none is found")?;
    let mut bytes = Vec::new();
    let file = File::open(format!("/proc/{pid}/cmdline"));
    let read = file.and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes));
    read.map_err(|error| format!("the command line of process {pid} cannot be read: {error}"))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(Process { pid, command: text.split_terminator('\0').map(str::to_owned).collect() })
}

impl Process {
    pub(super) fn tell(&self, facts: &mut Facts) {
        facts.process(self.pid, &self.command);
        flags::tell(&self.command, facts);
    }
}
