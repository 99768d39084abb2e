//! Cuts a file into its elements, each with the line that it begins on: lines of JSON, or the elements of a JSON array
//! one by one, so that one wrong element is told apart from its neighbours.

/// An element and its line, from 1; or where and why the file cannot be cut further.
type Element<'a> = Result<(u64, &'a [u8]), (u64, String)>;

/// Elements of a file. With `array`, one that begins with `[` is cut at its elements; any other at its lines.
pub(super) fn elements(bytes: &[u8], array: bool) -> Box<dyn Iterator<Item = Element<'_>> + '_> {
    let first = bytes.iter().position(|b| !b.is_ascii_whitespace());
    match first {
        Some(at) if array && bytes[at] == b'[' => Box::new(Elements::new(bytes, at)),
        _ => Box::new(lines(bytes)),
    }
}

/// Lines that are not blank.
fn lines(bytes: &[u8]) -> impl Iterator<Item = Element<'_>> {
    let numbered = bytes.split(|&b| b == b'\n').zip(1..);
    numbered.map(|(line, number)| Ok((number, line.trim_ascii()))).filter(|e| !matches!(e, Ok((_, b""))))
}

struct Elements<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u64,
    over: bool,
}

impl<'a> Elements<'a> {
    fn new(bytes: &'a [u8], open: usize) -> Self {
        let mut elements = Self { bytes, at: 0, line: 1, over: false };
        elements.step_to(open + 1);
        elements
    }

    /// Moves on, counting lines.
    fn step_to(&mut self, to: usize) {
        let passed = &self.bytes[self.at..to];
        self.line += passed.iter().filter(|&&b| b == b'\n').count() as u64;
        self.at = to;
    }

    fn skip(&mut self, unwanted: impl Fn(u8) -> bool) {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&b| !unwanted(b)).unwrap_or(rest.len());
        self.step_to(self.at + length);
    }

    fn torn(&mut self, reason: impl Into<String>) -> Option<Element<'a>> {
        self.over = true;
        Some(Err((self.line, reason.into())))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        self.skip(|b| b.is_ascii_whitespace() || b == b',');
        let rest = &self.bytes[self.at..];
        match rest.first() {
            None => return self.torn("the array does not end: the file was cut short"),
            Some(b']') => {
                self.over = true;
                return None;
            }
            Some(_) => {}
        }
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<serde::de::IgnoredAny>();
        match values.next() {
            Some(Ok(_)) => {
                let (line, from, to) = (self.line, self.at, self.at + values.byte_offset());
                self.step_to(to);
                Some(Ok((line, &self.bytes[from..to])))
            }
            Some(Err(error)) => {
                // The parser counts from where this element begins.
                self.line += error.line().saturating_sub(1) as u64;
                self.torn(super::not_json(&error))
            }
            None => self.torn("the array does not end: the file was cut short"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn cut(text: &[u8]) -> Vec<Result<(u64, String), (u64, String)>> {
        let own = |e: Element<'_>| e.map(|(line, b)| (line, String::from_utf8_lossy(b).into_owned()));
        elements(text, true).map(own).collect()
    }

    #[test]
    fn lines_have_their_numbers_whatever_ends_them() {
        let expected = [Ok((1, "{}".to_owned())), Ok((3, "{\"a\":1}".to_owned())), Ok((4, "x".to_owned()))];
        assert_eq!(cut(b"{}\r\n\r\n {\"a\":1} \r\nx"), expected);
        assert!(cut(b"").is_empty() && cut(b"\n\r\n  ").is_empty());
    }

    #[test]
    fn elements_of_an_array_have_the_line_they_begin_on() {
        let expected =
            [Ok((1, "{\"a\":\n1}".to_owned())), Ok((3, "2".to_owned())), Ok((4, "[3]".to_owned()))];
        assert_eq!(cut(b"[{\"a\":\n1},\n 2,\n[3]\n]\n"), expected);
        assert!(cut(b" [ ] ").is_empty());
    }

    #[test]
    fn a_torn_array_says_where_and_stops() {
        for (text, good, line) in [
            (&b"[{},\n{},"[..], 2, 2),
            (b"[{},\n\n{\"a\":\n oops}, {}]", 1, 4),
            (b"[{}\n", 1, 2),
            (b"[\"\xff", 0, 1),
        ] {
            let all = cut(text);
            assert_eq!(all.len(), good + 1, "{all:?}");
            assert_eq!(all.last().unwrap().as_ref().unwrap_err().0, line, "{all:?}");
        }
    }

    #[test]
    fn an_element_is_one_value() {
        let whole = |e: Result<(u64, String), _>| serde_json::from_str::<Value>(&e.unwrap().1).is_ok();
        assert!(cut(br#"[1, "a,]", {"b": [2, {}]}, null]"#).into_iter().all(whole));
    }
}
