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
/// Looks, some two seconds, at a file whose name another has.
pub(super) const LAST_LOOKS: u32 = 10;

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
    open: Option<Reader>,
    /// Another has its name, and a server that has not noticed goes on writing to it: read for so many more looks.
    before: Option<(Reader, u32)>,
    was_there: bool,
}

impl Follower {
    /// From the end of the file as it is now: what is in it is of others. A line that is begun there is theirs too. When there
    /// is none, from the beginning of the one that comes.
    pub(super) fn at_end(path: &Path) -> Self {
        let mut open = Reader::of(path).ok().flatten();
        open.iter_mut().for_each(Reader::pass_all);
        Self { was_there: open.is_some(), open, before: None }
    }

    /// There has been a file at all.
    pub(super) fn was_there(&self) -> bool {
        self.was_there
    }

    /// Bytes that are there and not read yet.
    pub(super) fn left(&self) -> u64 {
        self.open.iter().chain(self.before.iter().map(|(before, _)| before)).map(Reader::left).sum()
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
        self.read_before(&mut left, take);
        let there = there(path)?;
        if let Some(open) = &mut self.open {
            open.read(&mut left, take)?;
            let replaced = there.is_none_or(|there| id(&there) != open.id);
            // Read to its end before another is.
            if !replaced || left == 0 {
                return Ok(());
            }
            let before = self.open.take().map(|open| (open, LAST_LOOKS));
            if let Some((mut older, _)) = std::mem::replace(&mut self.before, before) {
                older.end(take);
            }
        }
        self.open = Reader::of(path)?;
        self.was_there |= self.open.is_some();
        self.open.as_mut().map_or(Ok(()), |open| open.read(&mut left, take))
    }

    fn read_before(&mut self, left: &mut usize, take: &mut impl FnMut(Taken<'_>)) {
        let Some((before, looks)) = &mut self.before else { return };
        let read = before.read(left, take);
        *looks = looks.saturating_sub(1);
        if read.is_err() || (*looks == 0 && *left > 0) {
            before.end(take);
            self.before = None;
        }
    }

    /// A line that was begun has no more to come: it may be whole all the same.
    pub(super) fn end(&mut self, take: &mut impl FnMut(Taken<'_>)) {
        self.before.iter_mut().for_each(|(before, _)| before.end(take));
        self.open.iter_mut().for_each(|open| open.end(take));
    }
}

/// One file.
#[derive(Debug)]
struct Reader {
    file: File,
    id: (u64, u64),
    at: u64,
    /// Of a line that has no end yet.
    begun: Vec<u8>,
    /// The line that is being read is passed over, and was counted already.
    passing: bool,
}

impl Reader {
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
        Ok(Some(Self { file, id: id(&metadata), at: 0, begun: Vec::new(), passing: false }))
    }

    /// What it has by now, and the rest of a line that is begun there.
    fn pass_all(&mut self) {
        self.at = self.file.seek(SeekFrom::End(0)).unwrap_or(0);
        self.passing = self.at > 0 && !self.ends_a_line();
    }

    /// The byte before the end is a line's.
    fn ends_a_line(&mut self) -> bool {
        let mut last = [0];
        let read = self.file.seek(SeekFrom::End(-1)).and_then(|_| self.file.read_exact(&mut last));
        read.is_ok() && last == *b"\n"
    }

    fn left(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len().saturating_sub(self.at))
    }

    fn read(&mut self, left: &mut usize, take: &mut impl FnMut(Taken<'_>)) -> io::Result<()> {
        // Of the handle, since another may have the name by now.
        if self.file.metadata()?.len() < self.at {
            self.at = self.file.seek(SeekFrom::Start(0))?;
            self.cut_off(take);
        }
        let mut piece = [0; PIECE];
        while *left > 0 {
            let most = piece.len().min(*left);
            let len = match self.file.read(&mut piece[..most]) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.at += len as u64;
            *left -= len;
            self.split(&piece[..len], take);
        }
        Ok(())
    }

    fn end(&mut self, take: &mut impl FnMut(Taken<'_>)) {
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
