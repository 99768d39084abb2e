//! Token arrivals of one request as bytes: for each content chunk the nanoseconds since the stamp before it (the first
//! since `intended`), then the characters that it added, both as LEB128 varints. About five bytes per chunk.

/// A varint of 64 bits never takes more.
const MAX_VARINT: usize = 10;

/// Collects arrivals in wire form.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    bytes: Vec<u8>,
}

/// How long the bytes of some arrivals had lain in the socket when they were read, in wire form: a varint for each arrival up
/// to the last known one, 0 for unknown and 1 + ns for a wait.
#[derive(Clone, Debug, Default)]
pub struct SocketWaits {
    bytes: Vec<u8>,
    entries: u32,
}

impl SocketWaits {
    /// Notes the wait of arrival number `number`, from 1, ns; ones that were passed over are unknown.
    pub fn set(&mut self, number: u32, wait_ns: Option<u64>) {
        let Some(wait_ns) = wait_ns else { return };
        while self.entries + 1 < number {
            self.bytes.push(0);
            self.entries += 1;
        }
        if self.entries < number {
            put(&mut self.bytes, wait_ns.saturating_add(1));
            self.entries = number;
        }
    }

    /// The wire form, for `RequestRecord.socket_waits`.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads waits back, one for each arrival, `None` where it is unknown; nothing more after bytes that are none.
pub fn decode_waits(bytes: &[u8]) -> impl Iterator<Item = Option<u64>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        (!rest.is_empty()).then(|| take(&mut rest).ok()).flatten().map(|value| value.checked_sub(1))
    })
}

/// One content chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Nanoseconds since the chunk before it; the first counts from `intended`.
    pub gap_ns: u64,
    /// Characters (Unicode scalar values) that it added.
    pub chars: u64,
}

/// Why arrivals could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArrivalsError {
    /// The bytes end within a number, or between a gap and its characters.
    #[error("failed to read arrivals: the bytes end within an entry")]
    Cut,
    /// A number does not fit in 64 bits.
    #[error("failed to read arrivals: a number is longer than 64 bits")]
    TooLong,
}

impl Arrivals {
    /// Adds one content chunk.
    pub fn push(&mut self, gap_ns: u64, chars: u64) {
        put(&mut self.bytes, gap_ns);
        put(&mut self.bytes, chars);
    }

    /// Bytes so far: what the caller bounds.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// No chunk yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The wire form, for `RequestRecord.arrivals`.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads the wire form back, entry by entry; after an error there is nothing more. Allocates nothing.
pub fn decode(bytes: &[u8]) -> impl Iterator<Item = Result<Arrival, ArrivalsError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let entry = take_entry(&mut rest);
        if entry.is_err() {
            rest = &[];
        }
        Some(entry)
    })
}

fn take_entry(rest: &mut &[u8]) -> Result<Arrival, ArrivalsError> {
    Ok(Arrival { gap_ns: take(rest)?, chars: take(rest)? })
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take(rest: &mut &[u8]) -> Result<u64, ArrivalsError> {
    let mut value = 0u64;
    for (i, &byte) in rest.iter().take(MAX_VARINT).enumerate() {
        // The tenth byte has room for one bit only.
        if i == MAX_VARINT - 1 && byte > 1 {
            return Err(ArrivalsError::TooLong);
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *rest = &rest[i + 1..];
            return Ok(value);
        }
    }
    Err(ArrivalsError::Cut)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_bytes() {
        let mut arrivals = Arrivals::default();
        arrivals.push(300, 4);
        arrivals.push(0, 127);
        assert_eq!(arrivals.into_bytes(), [0xac, 0x02, 0x04, 0x00, 0x7f]);
    }

    #[test]
    fn waits_of_some_arrivals() {
        let mut waits = SocketWaits::default();
        waits.set(3, Some(300));
        waits.set(4, None);
        waits.set(5, Some(0));
        waits.set(5, Some(7));
        let bytes = waits.into_bytes();
        assert_eq!(decode_waits(&bytes).collect::<Vec<_>>(), [None, None, Some(300), None, Some(0)]);
        assert_eq!(decode_waits(&[0x80]).count(), 0);
        assert_eq!(decode_waits(&[0xff; 30]).count(), 0);
    }

    #[test]
    fn hostile_bytes_are_errors() {
        let read = |bytes: &[u8]| decode(bytes).collect::<Vec<_>>();
        assert_eq!(read(&[]), []);
        assert_eq!(read(&[0x80]), [Err(ArrivalsError::Cut)]);
        assert_eq!(read(&[1]), [Err(ArrivalsError::Cut)]);
        assert_eq!(read(&[0xff; 30]), [Err(ArrivalsError::TooLong)]);
        let after = [1, 2, 0x80];
        assert_eq!(read(&after), [Ok(Arrival { gap_ns: 1, chars: 2 }), Err(ArrivalsError::Cut)]);
    }

    proptest! {
        #[test]
        fn reads_back_what_was_pushed(entries: Vec<(u64, u64)>) {
            let mut arrivals = Arrivals::default();
            entries.iter().for_each(|&(gap, chars)| arrivals.push(gap, chars));
            let bytes = arrivals.into_bytes();
            let back: Vec<_> = decode(&bytes).map(|a| a.map(|a| (a.gap_ns, a.chars))).collect();
            prop_assert_eq!(back, entries.into_iter().map(Ok).collect::<Vec<_>>());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            // Each entry takes at least two bytes, but for a last one that is cut.
            prop_assert!(decode(&bytes).count() <= bytes.len() / 2 + 1);
        }
    }
}
