//! Lines of text that a thread of its own writes as they come, so that a slow disk never delays a token.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Lines that may wait for the writing thread; what finds no room stops the log, since one with a hole would be false.
const WAITING: usize = 65_536;

/// A file that grows line by line, whole lines at a time.
#[derive(Debug)]
pub(crate) struct LineLog {
    sender: Option<SyncSender<String>>,
    thread: Option<JoinHandle<()>>,
}

impl LineLog {
    /// Creates the file anew.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let (sender, lines) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("lines".into()).spawn(move || write(&lines, file))?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// Appends a line, which must end with its line feed.
    pub(crate) fn push(&mut self, line: String) {
        if self.sender.as_ref().is_some_and(|sender| sender.try_send(line).is_err()) {
            self.sender = None;
        }
    }
}

impl Drop for LineLog {
    /// Waits for the last line.
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn write(lines: &Receiver<String>, mut file: File) {
    while let Ok(mut text) = lines.recv() {
        // All that waits in one write: a reader sees few cut lines.
        lines.try_iter().for_each(|line| text.push_str(&line));
        if file.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lines_are_there_when_it_is_dropped() {
        let path = std::env::temp_dir().join(format!("model-sim-lines-{}", std::process::id()));
        let mut log = LineLog::create(&path).unwrap();
        (0..1000).for_each(|i| log.push(format!("{i}\n")));
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(text.lines().eq((0..1000).map(|i| i.to_string())));
    }
}
