//! Follows a file that grows: from where it ended, through truncation and through replacement by another of its name. A file
//! that is truncated and written to beyond where it was within one look cannot be told from one that grew.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A longer line is none.
const LONGEST: usize = 64 << 10;
/// Read at a time.
const PIECE: usize = 64 << 10;

/// What was found in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken<'a> {
    /// Without its end; never an empty one.
    Line(&'a [u8]),
    /// Too long, or cut off before its end.
    Bad,
}

/// The place in the file.
#[derive(Debug, Default)]
pub(super) struct Follower {
    open: Option<Open>,
    /// Of a line that has no end yet.
    begun: Vec<u8>,
    /// The line that is being read is passed over, and was counted already.
    passing: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    id: (u64, u64),
    at: u64,
}

impl Follower {
    /// From the end of the file as it is now: what is in it is of others. A line that is begun there is theirs too. When there
    /// is none, from the beginning of the one that comes.
    pub(super) fn at_end(path: &Path) -> Self {
        let mut this = Self::default();
        if let Ok(Some(mut open)) = Open::of(path) {
            open.at = open.file.seek(SeekFrom::End(0)).unwrap_or(0);
            this.passing = open.at > 0 && !open.ends_a_line();
            this.open = Some(open);
        }
        this
    }

    /// Hands on the lines that were finished since, reading at most so many bytes.
    ///
    /// # Errors
    /// When there is something of that name that cannot be read.
    pub(super) fn look(
        &mut self,
        path: &Path,
        most: usize,
        take: &mut impl FnMut(Taken<'_>),
    ) -> io::Result<()> {
        let mut left = most;
        loop {
            let there = there(path)?;
            let is_same = |open: &Open| there.as_ref().is_some_and(|there| id(there) == open.id);
            if let Some(open) = &mut self.open {
                let replaced = !is_same(open);
                // Of the handle, since another may have that name by now.
                if open.file.metadata()?.len() < open.at {
                    open.at = open.file.seek(SeekFrom::Start(0))?;
                    self.cut_off(take);
                }
                self.read(&mut left, take)?;
                if !replaced || left == 0 {
                    return Ok(());
                }
                // What the old one had is read; what it ended with is a line, or none.
                self.end(take);
            }
            self.open = Open::of(path)?;
            if self.open.is_none() {
                return Ok(());
            }
        }
    }

    /// A line that was begun has no more to come: it may be whole all the same.
    pub(super) fn end(&mut self, take: &mut impl FnMut(Taken<'_>)) {
        if !self.passing && !self.begun.is_empty() {
            take(Taken::Line(&self.begun));
        }
        self.begun.clear();
        self.passing = false;
    }

    /// A line that was begun is gone.
    fn cut_off(&mut self, take: &mut impl FnMut(Taken<'_>)) {
        if !self.passing && !self.begun.is_empty() {
            take(Taken::Bad);
        }
        self.begun.clear();
        self.passing = false;
    }

    fn read(&mut self, left: &mut usize, take: &mut impl FnMut(Taken<'_>)) -> io::Result<()> {
        let mut piece = [0; PIECE];
        while *left > 0 {
            let Some(open) = &mut self.open else { return Ok(()) };
            let most = piece.len().min(*left);
            let len = match open.file.read(&mut piece[..most]) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            open.at += len as u64;
            *left -= len;
            self.split(&piece[..len], take);
        }
        Ok(())
    }

    fn split(&mut self, mut piece: &[u8], take: &mut impl FnMut(Taken<'_>)) {
        while let Some(end) = piece.iter().position(|&byte| byte == b'\n') {
            self.extend(&piece[..end], take);
            self.end(take);
            piece = &piece[end + 1..];
        }
        self.extend(piece, take);
    }

    /// Of one line, which is counted as soon as it is too long, and then passed over.
    fn extend(&mut self, part: &[u8], take: &mut impl FnMut(Taken<'_>)) {
        if self.passing {
            return;
        }
        if self.begun.len() + part.len() > LONGEST {
            self.begun.clear();
            self.passing = true;
            return take(Taken::Bad);
        }
        self.begun.extend_from_slice(part);
    }
}

impl Open {
    /// `None` when there is none of that name.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        // Without waiting, should it have become a pipe meanwhile.
        let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
        let file = match std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let metadata = file.metadata()?;
        regular(&metadata)?;
        Ok(Some(Self { file, id: id(&metadata), at: 0 }))
    }

    /// The byte before the end is a line's.
    fn ends_a_line(&mut self) -> bool {
        let mut last = [0];
        let read = self.file.seek(SeekFrom::End(-1)).and_then(|_| self.file.read_exact(&mut last));
        read.is_ok() && last == *b"\n"
    }
}

fn there(path: &Path) -> io::Result<Option<Metadata>> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => {
            let metadata = read?;
            regular(&metadata)?;
            Ok(Some(metadata))
        }
    }
}

fn regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        Ok(())
    } else {
        Err(io::Error::other("it is no file, as --server-stamps has to be"))
    }
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
