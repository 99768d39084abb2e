//! A file of /proc that is kept open and read again from its start: the kernel makes its text anew each time.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file longer than this is none of those that are read here, bytes.
const LONGEST: usize = 4 << 20;

/// One such file; absent when it could not be opened.
#[derive(Debug)]
pub(crate) struct ProcFile {
    file: Option<File>,
    bytes: Vec<u8>,
}

impl ProcFile {
    pub(crate) fn open(path: &Path) -> Self {
        Self { file: File::open(path).ok(), bytes: Vec::new() }
    }

    /// What it says now; `None` when it is absent, or was a process that has ended.
    pub(crate) fn read(&mut self) -> Option<&[u8]> {
        let file = self.file.as_ref()?;
        let mut filled = 0;
        loop {
            if self.bytes.len() - filled < 4096 {
                self.bytes.resize(self.bytes.len() + 16_384, 0);
            }
            match file.read_at(&mut self.bytes[filled..], filled as u64) {
                Ok(0) => return Some(&self.bytes[..filled]),
                Ok(read) => filled += read,
                Err(_) => return None,
            }
            if filled > LONGEST {
                return None;
            }
        }
    }

    /// The same, as text.
    pub(crate) fn text(&mut self) -> Option<&str> {
        std::str::from_utf8(self.read()?).ok()
    }
}
