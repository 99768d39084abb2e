//! Incremental parser of server-sent events, as WHATWG's "event stream interpretation" has them, whatever the split of
//! the bytes. Only `data` is kept: `event`, `id` and `retry` say nothing about a model's reply.

use memchr::memchr2;

/// Bytes that one event, or one line of any kind, may have. A larger one is an attack or not an event stream.
pub const MAX_EVENT_BYTES: usize = 1 << 20;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Why a stream was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A line or an event over [`MAX_EVENT_BYTES`].
    #[error("failed to read the event stream: an event is larger than {MAX_EVENT_BYTES} bytes")]
    TooLarge,
}

/// The parser's state between reads; one per reply.
#[derive(Debug, Default)]
pub struct Parser {
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// `data` of the event so far, lines joined by LF.
    data: Vec<u8>,
    /// The event has a `data` field, be it empty.
    has_data: bool,
    /// The last byte was CR: an LF right after it belongs to it.
    after_cr: bool,
    /// The first line, which alone may carry a byte order mark, is behind us.
    past_first_line: bool,
}

impl Parser {
    /// A parser at the beginning of a reply.
    pub fn new() -> Parser {
        Parser::default()
    }

    /// Takes the next bytes and calls `on_event` with the `data` of each event that they complete. An event that is
    /// still open at the stream's end is dropped, as the standard says. Nothing may be fed after an error.
    pub fn feed(&mut self, bytes: &[u8], mut on_event: impl FnMut(&[u8])) -> Result<(), SseError> {
        let mut rest = bytes;
        if self.after_cr && !rest.is_empty() {
            self.after_cr = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        loop {
            rest = self.whole_events(rest, &mut on_event);
            let Some(end) = memchr2(b'\n', b'\r', rest) else { break };
            self.end_line(&rest[..end], &mut on_event)?;
            let ended_by = rest[end];
            rest = &rest[end + 1..];
            if ended_by == b'\r' {
                // The line ends now: waiting for an LF that may never come would hold a token back.
                self.after_cr = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
        }
        self.keep(rest)
    }

    /// The usual events, each one `data` line and an empty line that lie in this read: they need not be copied.
    fn whole_events<'a>(&mut self, bytes: &'a [u8], on_event: &mut impl FnMut(&[u8])) -> &'a [u8] {
        let mut rest = bytes;
        if !self.line.is_empty() || self.has_data || !self.past_first_line {
            return rest;
        }
        while let Some(line) = rest.strip_prefix(b"data:") {
            let Some(end) = memchr2(b'\n', b'\r', line) else { break };
            let (value, after) = line.split_at(end);
            if !after.starts_with(b"\n\n") || value.len() >= MAX_EVENT_BYTES {
                break;
            }
            on_event(value.strip_prefix(b" ").unwrap_or(value));
            rest = &after[2..];
        }
        rest
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), SseError> {
        self.check_line(part)?;
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn check_line(&self, part: &[u8]) -> Result<(), SseError> {
        if self.line.len() + part.len() > MAX_EVENT_BYTES { Err(SseError::TooLarge) } else { Ok(()) }
    }

    fn end_line(&mut self, tail: &[u8], on_event: &mut impl FnMut(&[u8])) -> Result<(), SseError> {
        if self.line.is_empty() {
            self.check_line(tail)?;
            // The usual case: the whole line lies in this read and need not be copied.
            return self.whole_line(tail, on_event);
        }
        self.keep(tail)?;
        let mut line = std::mem::take(&mut self.line);
        let result = self.whole_line(&line, on_event);
        line.clear();
        self.line = line;
        result
    }

    fn whole_line(&mut self, line: &[u8], on_event: &mut impl FnMut(&[u8])) -> Result<(), SseError> {
        let line = self.without_bom(line);
        if line.is_empty() {
            self.dispatch(on_event);
            return Ok(());
        }
        let (field, value) = split_field(line);
        if field == b"data" { self.add_data(value) } else { Ok(()) }
    }

    fn without_bom<'a>(&mut self, line: &'a [u8]) -> &'a [u8] {
        if self.past_first_line {
            return line;
        }
        self.past_first_line = true;
        line.strip_prefix(BOM).unwrap_or(line)
    }

    fn add_data(&mut self, value: &[u8]) -> Result<(), SseError> {
        if self.data.len() + value.len() >= MAX_EVENT_BYTES {
            return Err(SseError::TooLarge);
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        Ok(())
    }

    fn dispatch(&mut self, on_event: &mut impl FnMut(&[u8])) {
        if self.has_data {
            on_event(&self.data);
        }
        self.has_data = false;
        self.data.clear();
    }
}

/// `field: value`, where one space after the colon is not part of the value. A comment has an empty field.
fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|&b| b == b':') {
        None => (line, b""),
        Some(colon) => {
            let value = &line[colon + 1..];
            (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testdata;

    fn events_of(parts: &[&[u8]]) -> Vec<String> {
        let mut parser = Parser::new();
        let mut events = Vec::new();
        for part in parts {
            parser.feed(part, |e| events.push(String::from_utf8_lossy(e).into_owned())).unwrap();
        }
        events
    }

    /// The standard's rules read plainly over the whole text; slow and obvious.
    fn reference(stream: &str) -> Vec<String> {
        let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
        let lines = stream.replace("\r\n", "\n").replace('\r', "\n");
        let mut events = Vec::new();
        let mut data: Vec<String> = Vec::new();
        // What follows the last line end is not a line yet.
        let complete = lines.rfind('\n').map_or("", |end| &lines[..end + 1]);
        for line in complete.split_terminator('\n') {
            if line.is_empty() {
                if !data.is_empty() {
                    events.push(std::mem::take(&mut data).join("\n"));
                }
            } else if let Some(value) = line.strip_prefix("data:") {
                data.push(value.strip_prefix(' ').unwrap_or(value).to_owned());
            } else if line == "data" {
                data.push(String::new());
            }
        }
        events
    }

    #[test]
    fn reads_each_kind_of_line() {
        let stream =
            "\u{feff}data: a\n\n: note\nevent: x\nid\ndata:b\ndata:  c\n\ndata\n\nDATA: no\n\ndata: open\n";
        assert_eq!(events_of(&[stream.as_bytes()]), ["a", "b\n c", ""]);
    }

    #[test]
    fn an_event_ends_at_its_cr_without_waiting() {
        assert_eq!(events_of(&[b"data: a\r\r"]), ["a"]);
        assert_eq!(events_of(&[b"data: a\r", b"\n\r", b"\ndata: b\r\n\r", b"\n"]), ["a", "b"]);
        assert_eq!(events_of(&[b"data: a\r", b"", b"\ndata: b\n\n"]), ["a\nb"]);
    }

    #[test]
    fn every_split_of_every_recording_gives_the_same_events() {
        for (name, _) in testdata::STREAMS {
            for stream in [testdata::body(name).to_owned(), testdata::body(name).replace('\n', "\r\n")] {
                let (bytes, whole) = (stream.as_bytes(), reference(&stream));
                assert!(whole.len() > 5 && whole.last().unwrap() == "[DONE]", "{name}");
                let single: Vec<&[u8]> = bytes.chunks(1).collect();
                assert_eq!(events_of(&single), whole, "{name} byte by byte");
                for at in 0..=bytes.len() {
                    assert_eq!(events_of(&[&bytes[..at], &bytes[at..]]), whole, "{name} split at {at}");
                }
            }
        }
    }

    #[test]
    fn too_large_is_an_error_in_every_shape() {
        let long = vec![b'x'; MAX_EVENT_BYTES + 1];
        assert_eq!(Parser::new().feed(&long, |_| {}), Err(SseError::TooLarge));
        let mut lines = Parser::new();
        let line = format!("data: {}\n", "x".repeat(1000));
        let fed = (0..2000).try_for_each(|_| lines.feed(line.as_bytes(), |_| {}));
        assert_eq!(fed, Err(SseError::TooLarge));
        let mut empty = Parser::new();
        let fed = (0..MAX_EVENT_BYTES + 2).try_for_each(|_| empty.feed(b"data\n", |_| {}));
        assert_eq!(fed, Err(SseError::TooLarge));
    }

    fn streams() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("data: "),
            Just("data:"),
            Just("data"),
            Just(":"),
            Just(" "),
            Just("\n"),
            Just("\r"),
            Just("\r\n"),
            Just("\n\n"),
            Just("event: e"),
            Just("{\"é\":1}"),
            Just("\u{feff}"),
            Just("x"),
        ];
        proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference_at_any_split(stream in streams(), cuts: Vec<usize>) {
            let bytes = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(events_of(&parts), reference(&stream));
        }

        #[test]
        fn arbitrary_bytes_never_panic(parts: Vec<Vec<u8>>) {
            let mut parser = Parser::new();
            parts.iter().for_each(|p| parser.feed(p, |_| {}).unwrap());
        }
    }
}
