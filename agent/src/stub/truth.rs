//! What a stub knows: for each request when its last byte was read, and when each of its tokens was written. In memory a
//! few bytes a token; handed out as JSON lines.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use tailcliff_proto::clock::RawNs;

/// One request, as the server knows it. Stamps in ns of `CLOCK_MONOTONIC_RAW`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Its `x-request-id`; empty without one.
    pub id: String,
    /// When its last byte had been read.
    pub read_ns: RawNs,
    /// Each write that held tokens, in order: ns since the stamp before (the first since `read_ns`), tokens. The stamp is
    /// taken before the write, so that no client sees a token earlier.
    pub writes: Vec<(u64, u32)>,
    /// The reply was written to its end.
    pub whole: bool,
}

/// All requests that a stub served, in the order of their ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Requests, those that fitted.
    pub served: Vec<Served>,
    /// Requests of which nothing was kept, since they did not fit.
    pub lost: u64,
}

#[derive(Serialize, Deserialize)]
struct End {
    lost: u64,
}

impl Served {
    /// When the first token was written; `None` when none was.
    pub fn first_write_ns(&self) -> Option<RawNs> {
        self.writes.first().map(|(gap, _)| self.read_ns.saturating_add_unsigned(*gap))
    }

    /// When the last token was written; the read when none was.
    pub fn last_write_ns(&self) -> RawNs {
        self.writes.iter().fold(self.read_ns, |at, (gap, _)| at.saturating_add_unsigned(*gap))
    }

    /// Tokens written.
    pub fn tokens(&self) -> u64 {
        self.writes.iter().map(|(_, tokens)| u64::from(*tokens)).sum()
    }
}

impl Truth {
    /// Writes a line of JSON for each request, and a last one that says how many are missing.
    ///
    /// # Errors
    /// As the writer says.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for served in &self.served {
            serde_json::to_writer(&mut *out, served)?;
            out.write_all(b"\n")?;
        }
        serde_json::to_writer(&mut *out, &End { lost: self.lost })?;
        out.write_all(b"\n")
    }

    /// Reads what [`Truth::write`] wrote.
    ///
    /// # Errors
    /// When a line is none of its own, or the last one is missing: the stub died before it had told everything.
    pub fn read(from: impl BufRead) -> io::Result<Truth> {
        let mut served = Vec::new();
        for line in from.lines() {
            let line = line?;
            match serde_json::from_str::<Served>(&line) {
                Ok(one) => served.push(one),
                Err(_) => {
                    let End { lost } = serde_json::from_str(&line).map_err(io::Error::other)?;
                    return Ok(Truth { served, lost });
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stub's truth ends without its last line"))
    }
}

/// A request under way, as it is kept: varints of the gaps and counts.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) id: Box<[u8]>,
    pub(super) read_ns: RawNs,
    pub(super) whole: bool,
    last_ns: RawNs,
    writes: Vec<u8>,
}

impl Kept {
    pub(super) fn new(id: &[u8], read_ns: RawNs) -> Kept {
        Kept { id: id.into(), read_ns, last_ns: read_ns, ..Kept::default() }
    }

    /// Notes a write of this many tokens.
    pub(super) fn wrote(&mut self, at: RawNs, tokens: u32) {
        put(&mut self.writes, (at - self.last_ns).max(0).unsigned_abs());
        put(&mut self.writes, u64::from(tokens));
        self.last_ns = at;
    }

    /// Memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Kept>() + self.id.len() + self.writes.capacity()
    }

    pub(super) fn into_served(self) -> Served {
        let mut rest = self.writes.as_slice();
        let mut writes = Vec::new();
        while let (Some(gap), Some(tokens)) = (take(&mut rest), take(&mut rest)) {
            writes.push((gap, u32::try_from(tokens).unwrap_or(u32::MAX)));
        }
        let id = String::from_utf8_lossy(&self.id).into_owned();
        Served { id, read_ns: self.read_ns, writes, whole: self.whole }
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_what_is_read_back() {
        let mut kept = Kept::new(b"a-1", 1_000);
        [(1_000, 1), (51_000_000_000, 128), (51_000_000_127, 300)]
            .into_iter()
            .for_each(|(at, n)| kept.wrote(at, n));
        let served = kept.into_served();
        assert_eq!(served.writes, [(0, 1), (50_999_999_000, 128), (127, 300)]);
        assert_eq!((served.first_write_ns(), served.last_write_ns()), (Some(1_000), 51_000_000_127));
        assert_eq!(served.tokens(), 429);
        let truth = Truth { served: vec![served, Served::default()], lost: 3 };
        let mut bytes = Vec::new();
        truth.write(&mut bytes).unwrap();
        assert_eq!(Truth::read(bytes.as_slice()).unwrap(), truth);
        let cut = &bytes[..bytes.len() - 12];
        assert!(Truth::read(cut).is_err(), "the last line is missing");
    }
}
