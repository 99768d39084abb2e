//! The spool's files: segments of frames (length, crc32c, one batch each) in a directory that this process holds locked
//! while it lives, so that the next one can tell what a killed one left behind.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use prost::Message;

use crate::v1;

/// Bytes of a frame before its batch.
pub(super) const FRAME_HEAD: usize = 8;
/// What the directories of spools are called, before a number that is drawn at random.
const NAME: &str = "tailcliff-spool-";
/// A directory that vanishes while it is made was swept away by another process that starts.
const TRIES: u32 = 5;
/// Smallest and largest segment, bytes.
const SEGMENT: (u64, u64) = (64 << 10, 64 << 20);

/// Where a batch lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    segment: u64,
    offset: u64,
    bytes: u32,
}

/// All segments of one process, oldest first.
#[derive(Debug)]
pub(super) struct Segments {
    parent: PathBuf,
    segment_bytes: u64,
    dir: Option<Dir>,
    all: VecDeque<Segment>,
    next: u64,
    /// The newest is written, and one is read.
    writing: Option<File>,
    reading: Option<(u64, File)>,
    /// Of the tests: bytes that the disk still has room for.
    #[cfg(test)]
    pub(super) room: Option<u64>,
}

#[derive(Debug)]
struct Dir {
    path: PathBuf,
    _lock: Flock<File>,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: u64,
    last_seq: u64,
}

impl Segments {
    /// None yet; the directory is made with the first, below `parent`. `most_bytes` is what all may take.
    pub(super) fn new(parent: PathBuf, most_bytes: u64) -> Self {
        Self {
            parent,
            segment_bytes: (most_bytes / 16).clamp(SEGMENT.0, SEGMENT.1),
            dir: None,
            all: VecDeque::new(),
            next: 1,
            writing: None,
            reading: None,
            #[cfg(test)]
            room: None,
        }
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.all.iter().map(|segment| segment.bytes).sum()
    }

    /// Where they are, once there are any.
    pub(super) fn path(&self) -> Option<&Path> {
        self.dir.as_ref().map(|dir| dir.path.as_path())
    }

    /// Appends a batch. After an error nothing of it is there: the next is written over it.
    pub(super) fn append(&mut self, batch: &v1::Batch) -> io::Result<Place> {
        let frame = frame(batch)?;
        if self.all.back().is_none_or(|newest| newest.bytes >= self.segment_bytes) || self.writing.is_none() {
            self.begin()?;
        }
        let (Some(segment), Some(file)) = (self.all.back_mut(), &self.writing) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        #[cfg(test)]
        take_room(&mut self.room, frame.len())?;
        file.write_all_at(&frame, segment.bytes)?;
        let place = Place { segment: segment.number, offset: segment.bytes, bytes: frame.len() as u32 };
        segment.bytes += frame.len() as u64;
        segment.last_seq = batch.seq;
        Ok(place)
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.dir.is_none() {
            self.dir = Some(Dir::make(&self.parent)?);
        }
        let path = self.file(self.next).ok_or(io::ErrorKind::NotFound)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        self.writing = Some(file);
        self.all.push_back(Segment { number: self.next, bytes: 0, last_seq: 0 });
        self.next += 1;
        Ok(())
    }

    fn file(&self, number: u64) -> Option<PathBuf> {
        Some(self.path()?.join(format!("{number:08}.segment")))
    }

    /// Reads a batch back.
    ///
    /// # Errors
    /// When what is there is not what was written.
    pub(super) fn read(&mut self, place: Place) -> io::Result<v1::Batch> {
        if self.reading.as_ref().is_none_or(|(number, _)| *number != place.segment) {
            let path = self.file(place.segment).ok_or(io::ErrorKind::NotFound)?;
            self.reading = Some((place.segment, File::open(path)?));
        }
        let Some((_, file)) = &self.reading else { return Err(io::ErrorKind::NotFound.into()) };
        let mut frame = vec![0; place.bytes as usize];
        file.read_exact_at(&mut frame, place.offset)?;
        parse(&frame).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// True when the oldest segment is not needed any more.
    pub(super) fn has_spent(&self, acked: u64) -> bool {
        self.all.front().is_some_and(|oldest| oldest.last_seq <= acked)
    }

    /// Removes the segments whose batches are all acked; the directory goes with the last one.
    pub(super) fn retire(&mut self, acked: u64) {
        while self.has_spent(acked) {
            let Some(oldest) = self.all.pop_front() else { return };
            self.reading.take_if(|(number, _)| *number == oldest.number);
            // One that cannot be removed is swept away by the next process at the latest.
            let _kept = self.file(oldest.number).map(std::fs::remove_file);
        }
        if self.all.is_empty() {
            self.remove();
        }
    }

    /// Removes everything.
    pub(super) fn remove(&mut self) {
        self.all.clear();
        (self.writing, self.reading) = (None, None);
        if let Some(dir) = self.dir.take() {
            let _kept = std::fs::remove_dir_all(&dir.path);
        }
    }
}

/// However its owner ends.
impl Drop for Segments {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
fn take_room(room: &mut Option<u64>, bytes: usize) -> io::Result<()> {
    let Some(room) = room else { return Ok(()) };
    *room = room.checked_sub(bytes as u64).ok_or(io::ErrorKind::StorageFull)?;
    Ok(())
}

fn frame(batch: &v1::Batch) -> io::Result<Vec<u8>> {
    let length = batch.encoded_len();
    let mut frame = Vec::with_capacity(FRAME_HEAD + length);
    frame.extend(u32::try_from(length).map_err(io::Error::other)?.to_le_bytes());
    frame.extend([0; 4]);
    batch.encode(&mut frame).map_err(io::Error::other)?;
    let crc = crc32c::crc32c(&frame[FRAME_HEAD..]);
    frame[4..FRAME_HEAD].copy_from_slice(&crc.to_le_bytes());
    Ok(frame)
}

fn parse(frame: &[u8]) -> Option<v1::Batch> {
    let (length, rest) = frame.split_first_chunk::<4>()?;
    let (crc, batch) = rest.split_first_chunk::<4>()?;
    let is_whole = u32::from_le_bytes(*length) as usize == batch.len()
        && u32::from_le_bytes(*crc) == crc32c::crc32c(batch);
    is_whole.then(|| v1::Batch::decode(batch).ok()).flatten()
}

impl Dir {
    /// Makes a directory and locks it.
    fn make(parent: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(parent)?;
        for _ in 0..TRIES {
            let path = parent.join(format!("{NAME}{:016x}", fastrand::u64(..)));
            DirBuilder::new().mode(0o700).create(&path)?;
            // Between the two, another process may have taken it for one that was left behind.
            if let Some(lock) = lock(&path) {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(io::Error::other("other processes remove it as soon as it is there"))
    }
}

/// Locks a directory that is still there; the lock ends with the process, however it ends.
fn lock(path: &Path) -> Option<Flock<File>> {
    let dir = Flock::lock(File::open(path).ok()?, FlockArg::LockExclusiveNonblock).ok()?;
    let (held, there) = (dir.metadata().ok()?, std::fs::symlink_metadata(path).ok()?);
    (there.is_dir() && (held.dev(), held.ino()) == (there.dev(), there.ino())).then_some(dir)
}

/// Removes what killed processes left in `parent`; returns how many spools and bytes that were.
pub(super) fn sweep(parent: &Path) -> (u64, u64) {
    let Ok(entries) = std::fs::read_dir(parent) else { return (0, 0) };
    let mut swept = (0, 0);
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(NAME)) {
        let path = entry.path();
        // Locked by its owner while that lives.
        let Some(_lock) = lock(&path) else { continue };
        let files = std::fs::read_dir(&path).into_iter().flatten().flatten();
        let bytes: u64 = files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
        if std::fs::remove_dir_all(&path).is_ok() {
            swept = (swept.0 + 1, swept.1 + bytes);
        }
    }
    swept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(seq: u64) -> v1::Batch {
        let record = v1::RequestRecord { error_detail: "x".repeat(seq as usize % 50), ..Default::default() };
        v1::Batch { seq, records: vec![record], ..Default::default() }
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let mut all: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        all
    }

    #[test]
    fn a_segment_cut_anywhere_gives_its_whole_frames_and_no_other() {
        let parent = tempfile::tempdir().unwrap();
        let mut segments = Segments::new(parent.path().to_owned(), 1 << 20);
        let places: Vec<Place> = (1..=5).map(|seq| segments.append(&batch(seq)).unwrap()).collect();
        let path = segments.file(1).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            for (seq, place) in (1..).zip(&places) {
                let is_there = cut as u64 >= place.offset + u64::from(place.bytes);
                assert_eq!(segments.read(*place).ok(), is_there.then(|| batch(seq)), "{seq} cut at {cut}");
            }
        }
    }

    #[test]
    fn any_flipped_bit_costs_its_own_batch_and_no_other() {
        let parent = tempfile::tempdir().unwrap();
        let mut segments = Segments::new(parent.path().to_owned(), 1 << 20);
        let places: Vec<Place> = (1..=3).map(|seq| segments.append(&batch(seq)).unwrap()).collect();
        let path = segments.file(1).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            for (seq, place) in (1..).zip(&places) {
                let hit = (place.offset..place.offset + u64::from(place.bytes)).contains(&(bit as u64 / 8));
                assert_eq!(segments.read(*place).ok(), (!hit).then(|| batch(seq)), "bit {bit}");
            }
        }
    }

    #[test]
    fn segments_are_cut_and_go_when_they_are_spent_and_the_directory_with_the_last() {
        let parent = tempfile::tempdir().unwrap();
        let mut segments = Segments::new(parent.path().to_owned(), 1);
        let big = |seq| v1::Batch { records: vec![batch(49).records.remove(0); 200], ..batch(seq) };
        let places: Vec<Place> = (1..=30).map(|seq| segments.append(&big(seq)).unwrap()).collect();
        assert!(segments.all.len() > 3, "{}", segments.all.len());
        assert_eq!(files(segments.path().unwrap()).len(), segments.all.len());
        let on_disk: u64 = files(segments.path().unwrap()).iter().map(|f| f.metadata().unwrap().len()).sum();
        assert_eq!(segments.bytes(), on_disk);
        let first = segments.all[0].last_seq;
        segments.retire(first - 1);
        assert_eq!(segments.bytes(), on_disk, "one batch of it is still needed");
        segments.retire(first);
        assert!(segments.read(places[0]).is_err());
        assert_eq!(segments.read(places[29]).unwrap(), big(30));
        segments.retire(30);
        assert!(files(parent.path()).is_empty());
        segments.append(&batch(31)).unwrap();
        drop(segments);
        assert!(files(parent.path()).is_empty());
    }

    #[test]
    fn what_a_dead_process_left_is_swept_and_what_a_living_one_holds_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let mut living = Segments::new(parent.path().to_owned(), 1 << 20);
        let place = living.append(&batch(1)).unwrap();
        let dead = parent.path().join(format!("{NAME}dead"));
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join("00000001.segment"), [0; 100]).unwrap();
        let other = parent.path().join("somebody-elses");
        std::fs::create_dir(&other).unwrap();
        assert_eq!(sweep(parent.path()), (1, 100));
        assert!(!dead.exists() && other.exists());
        assert_eq!(living.read(place).unwrap(), batch(1));
        assert_eq!(sweep(&parent.path().join("absent")), (0, 0));
    }

    #[test]
    fn a_frame_that_did_not_fit_is_written_over() {
        let parent = tempfile::tempdir().unwrap();
        let mut segments = Segments::new(parent.path().to_owned(), 1 << 20);
        let first = segments.append(&batch(1)).unwrap();
        segments.room = Some(10);
        assert_eq!(segments.append(&batch(2)).unwrap_err().kind(), io::ErrorKind::StorageFull);
        segments.room = None;
        let second = segments.append(&batch(2)).unwrap();
        assert_eq!((segments.read(first).unwrap(), segments.read(second).unwrap()), (batch(1), batch(2)));
    }

    #[test]
    fn a_place_where_nothing_can_be_made_is_an_error() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Segments::new(file, 1 << 20).append(&batch(1)).is_err());
    }
}
