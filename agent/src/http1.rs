//! HTTP/1.1 as a client reads it (RFC 9112), one reply at a time, pushed in as its bytes come: whatever the split, the same
//! parts come out, and nothing is copied but the head of a reply that is cut by a read. A library's reader hands each chunk
//! out as an allocation of its own through a channel; at 128 tokens a read that costs more than reading the tokens.

use httparse::{EMPTY_HEADER, Status};

/// A reply's head beyond this is refused, bytes.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;
/// A chunk's size line with its extensions, and all trailers together, bytes.
const MAX_CHUNK_LINE: usize = 4 * 1024;
const MAX_TRAILERS: usize = 16 * 1024;

/// Why bytes are no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("failed to read the reply's head: {0}")]
    Head(httparse::Error),
    #[error("failed to read the reply's head: it is larger than {MAX_HEAD} bytes")]
    HeadTooLarge,
    #[error("failed to read the reply: its content-length makes no sense")]
    Length,
    #[error("failed to read the reply: its transfer-encoding is not chunked")]
    Encoding,
    #[error("failed to read the reply: a chunk is not framed as HTTP says")]
    Chunk,
    #[error("failed to read the reply: its trailers are larger than {MAX_TRAILERS} bytes")]
    Trailers,
}

/// What a head says that a load tester wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) status: u16,
    pub(crate) content_type: &'a str,
    pub(crate) server: &'a str,
    /// The reply says that the connection ends with it.
    pub(crate) says_close: bool,
}

/// What the bytes were.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Head(Head<'a>),
    /// A piece of the body, never empty.
    Body(&'a [u8]),
    /// The reply is whole; comes once.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// Bytes left of a body with a length.
    Length(u64),
    /// Until the connection ends.
    ToEnd,
    /// In a chunk's size line: the size so far and the bytes of the line.
    Size(u64, usize),
    /// In what follows the size: an extension, then CR.
    Extension(u64, usize),
    /// After the size line's CR.
    SizeEnd(u64),
    /// Bytes left of a chunk.
    Chunk(u64),
    /// After a chunk: CR, then LF.
    ChunkCr,
    ChunkLf,
    /// Trailers: bytes of all, bytes of this line.
    Trailer(usize, usize),
    /// After the CR of an empty trailer line.
    LastLf,
    Over,
}

/// Reads one reply after the other.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    /// The beginning of a head that a read has cut.
    held: Vec<u8>,
    keeps_alive: bool,
}

impl Decoder {
    pub(crate) fn new() -> Decoder {
        Decoder { state: State::Head, held: Vec::new(), keeps_alive: true }
    }

    /// The next reply begins.
    pub(crate) fn begin(&mut self) {
        self.state = State::Head;
        self.held.clear();
    }

    /// The latest reply leaves the connection fit for another.
    pub(crate) fn keeps_alive(&self) -> bool {
        self.keeps_alive && self.state == State::Over
    }

    /// Takes the next bytes; returns how many were left over after the reply's end. Nothing may be fed after an error.
    pub(crate) fn feed<E: From<HttpError>>(
        &mut self,
        bytes: &[u8],
        mut on: impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut rest = bytes;
        if self.state == State::Head {
            rest = self.take_head(rest, &mut on)?;
        }
        while !rest.is_empty() && self.state != State::Over {
            // The usual case: whole chunks, one after the other.
            while let Some((chunk, after)) = self.whole_chunk(rest) {
                on(Part::Body(chunk))?;
                rest = after;
            }
            if !rest.is_empty() {
                rest = self.take_body(rest, &mut on)?;
            }
        }
        Ok(rest.len())
    }

    /// The connection ended; true when that ends the reply as it should.
    pub(crate) fn ends_here(&mut self) -> bool {
        let is_end = self.state == State::ToEnd;
        self.keeps_alive = false;
        if is_end {
            self.state = State::Over;
        }
        is_end
    }

    fn take_head<'a, E: From<HttpError>>(
        &mut self,
        bytes: &'a [u8],
        on: &mut impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<&'a [u8], E> {
        if self.held.is_empty() {
            return match self.parse_heads(bytes, on)? {
                Some(used) => Ok(&bytes[used..]),
                None => self.hold(bytes).map(|()| &bytes[bytes.len()..]),
            };
        }
        let before = self.held.len();
        self.held.extend_from_slice(bytes);
        // A head ends with an empty line: without one among the new bytes there is nothing to parse again.
        let fresh = &self.held[before.saturating_sub(3)..];
        if !fresh.windows(2).any(|w| w == b"\n\n") && !fresh.windows(3).any(|w| w == b"\n\r\n") {
            return self.check_held().map(|()| &bytes[bytes.len()..]);
        }
        let held = std::mem::take(&mut self.held);
        match self.parse_heads(&held, on)? {
            Some(used) => {
                self.held = held;
                self.held.clear();
                // What was held before had no end: the head's end lies in the new bytes.
                Ok(&bytes[used.saturating_sub(before)..])
            }
            None => {
                self.held = held;
                self.check_held().map(|()| &bytes[bytes.len()..])
            }
        }
    }

    fn hold<E: From<HttpError>>(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.held.extend_from_slice(bytes);
        self.check_held()
    }

    fn check_held<E: From<HttpError>>(&self) -> Result<(), E> {
        if self.held.len() > MAX_HEAD { Err(HttpError::HeadTooLarge.into()) } else { Ok(()) }
    }

    /// Parses the head, passing over interim ones (1xx); the bytes used, or `None` when the head is not all there.
    fn parse_heads<E: From<HttpError>>(
        &mut self,
        bytes: &[u8],
        on: &mut impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<Option<usize>, E> {
        let mut used = 0;
        loop {
            let mut headers = [EMPTY_HEADER; MAX_HEADERS];
            let mut reply = httparse::Response::new(&mut headers);
            let end = match reply.parse(&bytes[used..]).map_err(HttpError::Head)? {
                Status::Partial => return Ok(None),
                Status::Complete(end) => end,
            };
            used += end;
            if used > MAX_HEAD {
                return Err(HttpError::HeadTooLarge.into());
            }
            let status = reply.code.unwrap_or(0);
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let read = read_headers(&reply)?;
            self.keeps_alive = !read.head.says_close && reply.version == Some(1);
            self.state = match (status, read.framing) {
                (204 | 304, _) => State::Length(0),
                (_, framing) => framing,
            };
            on(Part::Head(read.head))?;
            if self.state == State::Length(0) {
                self.end(on)?;
            }
            return Ok(Some(used));
        }
    }

    /// The chunk that these bytes begin with, if they hold all of it and its framing is the plainest there is.
    fn whole_chunk<'a>(&self, bytes: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        if self.state != State::Size(0, 0) {
            return None;
        }
        let mut size = 0;
        // Six digits are more than one read holds.
        for (digits, &byte) in bytes.iter().enumerate().take(6) {
            match byte {
                b'0'..=b'9' => size = size << 4 | usize::from(byte - b'0'),
                b'a'..=b'f' => size = size << 4 | usize::from(byte - b'a' + 10),
                b'\r' if size > 0 => {
                    let rest = bytes[digits..].strip_prefix(b"\r\n")?;
                    let (chunk, after) = rest.split_at_checked(size)?;
                    return Some((chunk, after.strip_prefix(b"\r\n")?));
                }
                _ => return None,
            }
        }
        None
    }

    fn take_body<'a, E: From<HttpError>>(
        &mut self,
        bytes: &'a [u8],
        on: &mut impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<&'a [u8], E> {
        match self.state {
            State::Chunk(left) => {
                let (part, rest) = split(bytes, left);
                on(Part::Body(part))?;
                let left = left - part.len() as u64;
                self.state = if left == 0 { State::ChunkCr } else { State::Chunk(left) };
                Ok(rest)
            }
            State::Length(left) => {
                let (part, rest) = split(bytes, left);
                on(Part::Body(part))?;
                self.state = State::Length(left - part.len() as u64);
                if self.state == State::Length(0) {
                    self.end(on)?;
                }
                Ok(rest)
            }
            State::ToEnd => {
                on(Part::Body(bytes))?;
                Ok(&bytes[bytes.len()..])
            }
            State::Head | State::Over => Ok(bytes),
            framing => {
                self.state = after(framing, bytes[0])?;
                if self.state == State::Over {
                    on(Part::End)?;
                }
                Ok(&bytes[1..])
            }
        }
    }

    fn end<E>(&mut self, on: &mut impl FnMut(Part<'_>) -> Result<(), E>) -> Result<(), E> {
        self.state = State::Over;
        on(Part::End)
    }
}

/// One byte of the framing between the pieces of a chunked body.
fn after(state: State, byte: u8) -> Result<State, HttpError> {
    match (state, byte) {
        (State::Size(_, 0), b'\r' | b';' | b' ' | b'\t') => Err(HttpError::Chunk),
        (State::Size(size, _), b'\r') => Ok(State::SizeEnd(size)),
        (State::Size(size, length), b';' | b' ' | b'\t') => Ok(State::Extension(size, length)),
        // Sixteen digits fill 64 bits.
        (State::Size(size, length), digit) if length < 16 => {
            let digit = char::from(digit).to_digit(16).ok_or(HttpError::Chunk)?;
            Ok(State::Size(size << 4 | u64::from(digit), length + 1))
        }
        (State::Extension(size, _), b'\r') => Ok(State::SizeEnd(size)),
        (State::Extension(size, length), byte) if byte != b'\n' && length < MAX_CHUNK_LINE => {
            Ok(State::Extension(size, length + 1))
        }
        (State::SizeEnd(0), b'\n') => Ok(State::Trailer(0, 0)),
        (State::SizeEnd(size), b'\n') => Ok(State::Chunk(size)),
        (State::ChunkCr, b'\r') => Ok(State::ChunkLf),
        (State::ChunkLf, b'\n') => Ok(State::Size(0, 0)),
        (State::Trailer(_, 0), b'\r') => Ok(State::LastLf),
        (State::LastLf, b'\n') => Ok(State::Over),
        (State::Trailer(all, _), _) if all >= MAX_TRAILERS => Err(HttpError::Trailers),
        (State::Trailer(all, _), b'\n') => Ok(State::Trailer(all + 1, 0)),
        (State::Trailer(all, line), _) => Ok(State::Trailer(all + 1, line + 1)),
        _ => Err(HttpError::Chunk),
    }
}

fn split(bytes: &[u8], left: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()))
}

struct Headers<'a> {
    head: Head<'a>,
    framing: State,
}

fn read_headers<'a>(reply: &httparse::Response<'_, 'a>) -> Result<Headers<'a>, HttpError> {
    let mut head = Head { status: reply.code.unwrap_or(0), content_type: "", server: "", says_close: false };
    let (mut length, mut chunked) = (None, false);
    for header in reply.headers.iter() {
        let text = || std::str::from_utf8(header.value).unwrap_or_default().trim();
        match header.name {
            name if name.eq_ignore_ascii_case("content-type") => head.content_type = text(),
            name if name.eq_ignore_ascii_case("server") => head.server = text(),
            name if name.eq_ignore_ascii_case("connection") => {
                head.says_close |= text().split(',').any(|token| token.trim().eq_ignore_ascii_case("close"));
            }
            name if name.eq_ignore_ascii_case("content-length") => {
                let given = text().parse().map_err(|_| HttpError::Length)?;
                // Two that differ are an attack on whoever reads only one.
                if *length.get_or_insert(given) != given {
                    return Err(HttpError::Length);
                }
            }
            name if name.eq_ignore_ascii_case("transfer-encoding") => {
                if !text().eq_ignore_ascii_case("chunked") {
                    return Err(HttpError::Encoding);
                }
                chunked = true;
            }
            _ => {}
        }
    }
    let framing = match (chunked, length) {
        (true, _) => State::Size(0, 0),
        (false, Some(length)) => State::Length(length),
        (false, None) => State::ToEnd,
    };
    Ok(Headers { head, framing })
}

#[cfg(test)]
mod tests;
