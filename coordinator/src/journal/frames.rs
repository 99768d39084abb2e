//! Reads a journal frame by frame: memory for one of them, however long the file is.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use prost::Message;

use super::{Entry, FILE_NAME, JournalError, MAGIC, MAX_FRAME};

/// Bytes before a frame's payload: its length and its checksum.
const HEAD: u64 = 8;

/// Where an entry lies, to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    at: u64,
    length: u32,
}

/// The entries of a journal in order, as far as they are whole.
#[derive(Debug)]
pub struct Frames {
    path: PathBuf,
    file: BufReader<File>,
    at: u64,
    end: u64,
    payload: Vec<u8>,
}

impl Frames {
    /// Opens the journal of a run directory; what is appended from now on is not read.
    ///
    /// # Errors
    /// When it cannot be read or is not a journal.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let path = dir.join(FILE_NAME);
        let fail = |source| JournalError::Read { path: path.clone(), source };
        let file = File::open(&path).map_err(fail)?;
        let end = file.metadata().map_err(fail)?.len();
        let mut file = BufReader::with_capacity(1 << 18, file);
        let mut magic = [0; MAGIC.len()];
        match file.read_exact(&mut magic) {
            Ok(()) if magic == *MAGIC => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(fail(error)),
            _ => return Err(JournalError::Foreign(path)),
        }
        Ok(Self { path, file, at: MAGIC.len() as u64, end, payload: Vec::new() })
    }

    /// The next entry and where it lies; `None` at the first frame that is not whole, and at the end.
    ///
    /// # Errors
    /// What the file system says.
    pub fn next_entry(&mut self) -> Result<Option<(Place, Entry)>, JournalError> {
        self.read_next().map_err(|source| JournalError::Read { path: self.path.clone(), source })
    }

    fn read_next(&mut self) -> io::Result<Option<(Place, Entry)>> {
        if self.torn() < HEAD {
            return Ok(None);
        }
        let mut head = [0; HEAD as usize];
        self.file.read_exact(&mut head)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length as usize > MAX_FRAME || self.torn() < HEAD + u64::from(length) {
            return Ok(None);
        }
        self.payload.resize(length as usize, 0);
        self.file.read_exact(&mut self.payload)?;
        let Some(entry) = decode(&self.payload, u32::from_le_bytes([c0, c1, c2, c3])) else {
            return Ok(None);
        };
        let place = Place { at: self.at, length };
        self.at += HEAD + u64::from(length);
        Ok(Some((place, entry)))
    }

    /// Bytes that are not read yet; after the last entry, those that are not a whole frame.
    pub fn torn(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// The file, for reading entries again.
    pub fn into_file(self) -> File {
        self.file.into_inner()
    }
}

/// Reads one entry again.
///
/// # Errors
/// What the file system says, or when it is no longer what it was.
pub fn read_again(file: &File, place: Place) -> io::Result<Entry> {
    let mut bytes = vec![0; HEAD as usize + place.length as usize];
    file.read_exact_at(&mut bytes, place.at)?;
    let (head, payload) = bytes.split_at(HEAD as usize);
    let checksum = head.last_chunk().map(|four| u32::from_le_bytes(*four));
    let changed = || io::Error::new(io::ErrorKind::InvalidData, "the journal changed while it was read");
    checksum.and_then(|checksum| decode(payload, checksum)).ok_or_else(changed)
}

fn decode(payload: &[u8], checksum: u32) -> Option<Entry> {
    (crc32c::crc32c(payload) == checksum).then(|| Entry::decode(payload).ok()).flatten()
}
