//! The body of an export: read within bounds of size, of time and of all bodies together, and decompressed within bounds.

use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use flate2::bufread::{GzDecoder, ZlibDecoder};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::reply::Refusal;

/// Of one export, as sent and as decompressed: the bound that gRPC servers have by default.
pub(super) const MOST_BYTES: usize = 4 << 20;
/// Of all exports that are being read, KiB.
const MOST_KIB: usize = 32 << 10;
/// For a whole body to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Memory for bodies that are being read.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST_KIB)))
    }
}

/// A whole body and the room that it takes.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) bytes: BytesMut,
    _room: Option<OwnedSemaphorePermit>,
}

/// Reads a body.
///
/// # Errors
/// When it is too large, does not come in time or not whole, or when others take all the room there is.
pub(super) async fn read(body: Incoming, room: &Room) -> Result<Whole, Refusal> {
    // One that says how large it is, is not read in vain.
    if body.size_hint().lower() > MOST_BYTES as u64 {
        return Err(Refusal::TooLarge);
    }
    tokio::time::timeout(PATIENCE, collect(body, room)).await.unwrap_or(Err(Refusal::CutShort))
}

async fn collect(mut body: Incoming, room: &Room) -> Result<Whole, Refusal> {
    let (mut bytes, mut held) = (BytesMut::new(), None::<OwnedSemaphorePermit>);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refusal::CutShort)?.into_data() else { continue };
        let len = bytes.len() + data.remaining();
        if len > MOST_BYTES {
            return Err(Refusal::TooLarge);
        }
        // A buffer that grows is twice as large as what is in it.
        let wanted = (2 * len).div_ceil(1024);
        let more = wanted.saturating_sub(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if more > 0 {
            let more = room.0.clone().try_acquire_many_owned(more as u32).map_err(|_| Refusal::Busy)?;
            match &mut held {
                Some(held) => held.merge(more),
                None => held = Some(more),
            }
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Whole { bytes, _room: held })
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    None,
    Gzip,
    Deflate,
}

impl Coding {
    /// By its name in a header; `None` for one that is not known.
    pub(super) fn named(name: Option<&[u8]>) -> Option<Self> {
        match name {
            None | Some(b"" | b"identity") => Some(Self::None),
            Some(b"gzip" | b"x-gzip") => Some(Self::Gzip),
            Some(b"deflate") => Some(Self::Deflate),
            Some(_) => None,
        }
    }

    /// What was sent, and no more of it than an export may have.
    pub(super) fn decode(self, sent: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
        match self {
            Self::None => Ok(Cow::Borrowed(sent)),
            // Of one member: millions of empty ones would fit in an export, and each takes a decoder's set-up.
            Self::Gzip => {
                let mut from = GzDecoder::new(sent);
                let bytes = inflate(&mut from)?;
                ended(from.get_ref()).map(|()| Cow::Owned(bytes))
            }
            Self::Deflate => {
                let mut from = ZlibDecoder::new(sent);
                let bytes = inflate(&mut from)?;
                ended(from.get_ref()).map(|()| Cow::Owned(bytes))
            }
        }
    }
}

/// Nothing may follow what was compressed.
fn ended(rest: &[u8]) -> Result<(), Refusal> {
    if rest.is_empty() { Ok(()) } else { Err(Refusal::Malformed("something follows what is compressed")) }
}

fn inflate(from: impl Read) -> Result<Vec<u8>, Refusal> {
    let mut to = Vec::new();
    // A byte more, by which what is too large shows.
    let read = from.take(MOST_BYTES as u64 + 1).read_to_end(&mut to);
    read.map_err(|_| Refusal::Malformed("it is not compressed as it says"))?;
    if to.len() > MOST_BYTES { Err(Refusal::TooLarge) } else { Ok(to) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    #[test]
    fn one_whole_is_decompressed_and_nothing_may_follow_it() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(b"spans").unwrap();
        let gzip = gzip.finish().unwrap();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(b"spans").unwrap();
        let zlib = zlib.finish().unwrap();
        let empty = GzEncoder::new(Vec::new(), Compression::fast()).finish().unwrap();
        assert_eq!(Coding::Gzip.decode(&empty).unwrap().as_ref(), b"");
        for (coding, whole) in [(Coding::Gzip, gzip), (Coding::Deflate, zlib)] {
            assert_eq!(coding.decode(&whole).unwrap().as_ref(), b"spans");
            for more in [&empty[..], &[0], &whole[..]] {
                let followed = coding.decode(&[&whole, more].concat()).map(Cow::into_owned);
                assert!(matches!(followed, Err(Refusal::Malformed(_))), "{coding:?} {more:?}");
            }
        }
    }
}
