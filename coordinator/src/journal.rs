//! The run directory's journal: append-only frames of length, crc32c and one entry each. Acked only after fdatasync,
//! so that what a node forgets is on disk; readable to the last whole frame however the coordinator died.

mod fact;
mod frames;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use prost::Message;
use tokio::sync::oneshot;

pub use fact::{Entry, Exchanges, Fact, LevelPlanned, LevelShare, Resumed, StoredBatch, StoredBeat};
pub use frames::{Frames, Place, read_again};

/// File name inside the run directory.
pub const FILE_NAME: &str = "journal.tcj";
/// Where the end of a journal goes that was cut short, when the run is gone on with.
pub const TORN_NAME: &str = "journal.torn";
/// First bytes of the file: name and version of the format.
pub const MAGIC: &[u8; 8] = b"tcliffj1";
/// Longest frame that is believed, bytes.
pub const MAX_FRAME: usize = 32 << 20;

/// Why a journal could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be made.
    #[error("failed to make journal {path}: {source}")]
    Create {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// It cannot be written any further.
    #[error("failed to write journal {path}: {source}; what it holds can be merged with `tailcliff merge`")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// It cannot be read.
    #[error("failed to read journal {path}: {source}; give the directory of a run, which holds it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The writer ended, because an earlier write failed.
    #[error("failed to write the journal: {0}")]
    Stopped(String),
    /// More of its end is unreadable than one write can leave.
    #[error(
        "failed to go on with journal {path}: its last {bytes} bytes cannot be read, so it was damaged and not cut short; \
         `tailcliff merge` keeps what comes before"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What cannot be read.
        bytes: u64,
    },
    /// Another process writes it.
    #[error("failed to lock {0}: another coordinator writes this run; wait for its end, or end it first")]
    Held(PathBuf),
    /// Not ours.
    #[error("failed to read {0}: it is not a journal of this version; give the directory of a run")]
    Foreign(PathBuf),
}

/// Entries that wait for a disk that rests: some ten seconds of a fleet of 1,000. Batches among them are bounded elsewhere.
const WAITING: usize = 1 << 16;

type Order = (Entry, Option<oneshot::Sender<()>>);

/// The writing end: a thread that groups what is waiting into one fdatasync.
#[derive(Debug)]
pub struct Journal {
    orders: mpsc::SyncSender<Order>,
    writer: JoinHandle<Result<(), JournalError>>,
}

impl Journal {
    /// Creates the file in `dir` (which must exist) and starts the writer.
    ///
    /// # Errors
    /// When the file exists already or cannot be made.
    pub fn create(dir: &Path) -> Result<Self, JournalError> {
        let path = dir.join(FILE_NAME);
        let fail = |source| JournalError::Create { path: path.clone(), source };
        let file = OpenOptions::new().append(true).create_new(true).open(&path).map_err(fail)?;
        let file = lock(&path, file)?;
        (&*file).write_all(MAGIC).map_err(fail)?;
        Self::start(path.clone(), file).map_err(fail)
    }

    fn start(path: PathBuf, file: Flock<File>) -> io::Result<Self> {
        let (orders, inbox) = mpsc::sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("journal".to_owned());
        let writer = thread.spawn(move || write_all(&path, &file, &inbox))?;
        Ok(Self { orders, writer })
    }

    /// Appends an entry; `stored` fires once it is on disk.
    ///
    /// # Errors
    /// When the writer has died of an earlier error; [`Self::close`] tells which.
    pub fn append(&self, entry: Entry, stored: Option<oneshot::Sender<()>>) -> Result<(), JournalError> {
        let stopped = |_| JournalError::Stopped("the writer has stopped".to_owned());
        self.orders.send((entry, stored)).map_err(stopped)
    }

    /// Writes what waits, and ends.
    ///
    /// # Errors
    /// The first error of the writer.
    pub fn close(self) -> Result<(), JournalError> {
        drop(self.orders);
        self.writer.join().unwrap_or_else(|_| Err(JournalError::Stopped("the writer panicked".to_owned())))
    }
}

/// The journal of an earlier coordinator, which no other can write while this is held.
#[derive(Debug)]
pub struct Held {
    dir: PathBuf,
    file: Flock<File>,
}

impl Held {
    /// Takes hold of a run directory's journal.
    ///
    /// # Errors
    /// When there is none, or another coordinator writes it.
    pub fn take(dir: &Path) -> Result<Self, JournalError> {
        let path = dir.join(FILE_NAME);
        let file = OpenOptions::new().append(true).open(&path);
        let file = file.map_err(|source| JournalError::Read { path: path.clone(), source })?;
        Ok(Self { dir: dir.to_owned(), file: lock(&path, file)? })
    }

    /// Writes on behind the last whole frame. What is behind that goes to a file of its own; how many bytes, comes back.
    ///
    /// # Errors
    /// When it cannot be read or written, or so much of it is no whole frame that this is no matter of a write cut short.
    pub fn write_on(self) -> Result<(Journal, u64), JournalError> {
        let path = self.dir.join(FILE_NAME);
        let fail = |source| JournalError::Write { path: path.clone(), source };
        let mut frames = Frames::open(&self.dir)?;
        while frames.next_entry()?.is_some() {}
        let torn = frames.torn();
        if torn > MAX_FRAME as u64 {
            return Err(JournalError::Damaged { path: path.clone(), bytes: torn });
        }
        let whole = self.file.metadata().map_err(fail)?.len().saturating_sub(torn);
        if torn > 0 {
            let mut tail = vec![0; torn as usize];
            File::open(&path).and_then(|file| file.read_exact_at(&mut tail, whole)).map_err(fail)?;
            std::fs::write(self.dir.join(TORN_NAME), tail).map_err(fail)?;
            self.file.set_len(whole).map_err(fail)?;
        }
        Ok((Journal::start(path.clone(), self.file).map_err(fail)?, torn))
    }
}

/// Held as long as the file is written, and given up by the system however the process ends.
fn lock(path: &Path, file: File) -> Result<Flock<File>, JournalError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => JournalError::Held(path.to_owned()),
        errno => JournalError::Write { path: path.to_owned(), source: errno.into() },
    })
}

fn write_all(path: &Path, file: &File, inbox: &mpsc::Receiver<Order>) -> Result<(), JournalError> {
    let fail = |source| JournalError::Write { path: path.to_owned(), source };
    let mut out = BufWriter::with_capacity(1 << 20, file);
    while let Ok(first) = inbox.recv() {
        let mut waiting = Vec::new();
        for (entry, stored) in std::iter::once(first).chain(inbox.try_iter().take(1024)) {
            write_frame(&mut out, &entry).map_err(fail)?;
            waiting.extend(stored);
        }
        out.flush().map_err(fail)?;
        if !waiting.is_empty() {
            out.get_ref().sync_data().map_err(fail)?;
        }
        for stored in waiting {
            // The one who asked may be gone; the entry is on disk all the same.
            let _gone = stored.send(());
        }
    }
    out.get_ref().sync_all().map_err(fail)
}

fn write_frame(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    let bytes = entry.encode_to_vec();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&crc32c::crc32c(&bytes).to_le_bytes())?;
    out.write_all(&bytes)
}

/// Reads every whole frame; returns the entries and how many bytes at the end were not one.
///
/// # Errors
/// When the file cannot be read or is not a journal.
pub fn read(dir: &Path) -> Result<(Vec<Entry>, u64), JournalError> {
    let mut frames = Frames::open(dir)?;
    let mut entries = Vec::new();
    while let Some((_, entry)) = frames.next_entry()? {
        entries.push(entry);
    }
    Ok((entries, frames.torn()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(n: u64) -> Entry {
        Entry { incarnation: n, fact: Some(Fact::LostPings(n)) }
    }

    #[test]
    fn a_journal_cut_anywhere_reads_to_its_last_whole_frame() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(dir.path()).unwrap();
        for n in 1..=5 {
            journal.append(lost(n), None).unwrap();
        }
        journal.close().unwrap();
        let path = dir.path().join(FILE_NAME);
        let whole = std::fs::read(&path).unwrap();
        let frame = (whole.len() - MAGIC.len()) / 5;
        for cut in MAGIC.len()..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (entries, torn) = read(dir.path()).unwrap();
            assert_eq!(entries.len(), (cut - MAGIC.len()) / frame, "cut at {cut}");
            assert_eq!(torn as usize, (cut - MAGIC.len()) % frame);
        }
    }

    #[test]
    fn a_journal_is_written_on_behind_its_last_whole_frame_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(dir.path()).unwrap();
        (1..=3).for_each(|n| journal.append(lost(n), None).unwrap());
        assert!(matches!(Held::take(dir.path()), Err(JournalError::Held(_))));
        journal.close().unwrap();
        let path = dir.path().join(FILE_NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend([7; 5]);
        std::fs::write(&path, bytes).unwrap();
        let held = Held::take(dir.path()).unwrap();
        assert!(matches!(Held::take(dir.path()), Err(JournalError::Held(_))), "held before it is read");
        let (journal, torn) = held.write_on().unwrap();
        assert_eq!((torn, std::fs::read(dir.path().join(TORN_NAME)).unwrap()), (5, vec![7; 5]));
        journal.append(lost(4), None).unwrap();
        journal.close().unwrap();
        let (entries, torn) = read(dir.path()).unwrap();
        assert_eq!((entries.iter().map(|e| e.incarnation).collect::<Vec<_>>(), torn), (vec![1, 2, 3, 4], 0));
    }

    #[test]
    fn a_flipped_bit_ends_the_reading_there() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(dir.path()).unwrap();
        for n in 1..=3 {
            journal.append(lost(n), None).unwrap();
        }
        journal.close().unwrap();
        let path = dir.path().join(FILE_NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (entries, torn) = read(dir.path()).unwrap();
        assert_eq!(entries.len(), 1);
        assert!(torn > 0);
    }

    #[test]
    fn another_file_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), "hello there").unwrap();
        assert!(matches!(read(dir.path()), Err(JournalError::Foreign(_))));
    }
}
