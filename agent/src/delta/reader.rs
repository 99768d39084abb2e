//! Reads the payloads of one reply after the other. Most chunks of a stream differ from the one before in nothing but their
//! text, and are read by that likeness: some 20 ns for two comparisons and a look for quotes, where parsing the JSON of a
//! usual chunk takes about a microsecond. At a hundred tokens a read that is the greater part of a client's work.

use std::borrow::Cow;

use super::{Delta, DeltaError, Kind, parse_with};

/// Payloads above this are read anew each time, bytes.
const MAX_LIKENESS: usize = 4096;
/// Bytes of text that are kept of one reply.
const MAX_TEXT: usize = 1 << 20;

/// What a reply said, where it was asked to be kept; cut at a mebibyte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The answer.
    pub answer: String,
    /// Reasoning and tool calls.
    pub beside: String,
}

/// Reads payloads; one for each stream slot.
#[derive(Debug, Default)]
pub struct Reader {
    likeness: Option<Likeness>,
    kept: Option<Kept>,
}

/// What stands before and after the one text of a chunk that said nothing else. Another chunk with the same around its
/// text is the same JSON with another text in that place, as long as this holds nothing that would end it or be more
/// than itself: no quote, no escape, no control character, and only UTF-8.
#[derive(Debug)]
struct Likeness {
    before: Vec<u8>,
    after: Vec<u8>,
    kind: Kind,
}

impl Reader {
    /// A new reply begins.
    pub fn begin(&mut self) {
        self.likeness = None;
        if let Some(kept) = &mut self.kept {
            kept.answer.clear();
            kept.beside.clear();
        }
    }

    /// Keeps texts from now on.
    pub fn keep_text(&mut self) {
        self.kept.get_or_insert_default();
    }

    /// The text of the reply so far; empty unless texts are kept.
    pub fn take_text(&mut self) -> Kept {
        self.kept.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Reads one chunk of a stream: the `data` of an event.
    ///
    /// # Errors
    /// As [`super::parse`].
    pub fn read(&mut self, payload: &[u8]) -> Result<Delta, DeltaError> {
        if let Some((text, kind)) = self.likeness.as_ref().and_then(|likeness| likeness.text_of(payload)) {
            let mut delta = Delta::default();
            *delta.chars_of(kind) = text.chars().count() as u64;
            note(&mut self.kept, kind, text);
            return Ok(delta);
        }
        self.read_anew(payload)
    }

    /// Reads the body of a reply that is not streamed, and counts its words.
    ///
    /// # Errors
    /// As [`super::parse`].
    pub fn read_whole(&mut self, body: &[u8]) -> Result<Delta, DeltaError> {
        let mut words = 0;
        let kept = &mut self.kept;
        let delta = parse_with(body, |kind, text| {
            words += text.split_whitespace().count() as u64;
            note(kept, kind, text);
        })?;
        Ok(Delta { words, ..delta })
    }

    fn read_anew(&mut self, payload: &[u8]) -> Result<Delta, DeltaError> {
        let (mut place, mut texts) = (None, 0);
        let kept = &mut self.kept;
        let delta = parse_with(payload, |kind, text| {
            texts += 1;
            note(kept, kind, text);
            if let Cow::Borrowed(text) = text {
                // Borrowed from the payload: its place there follows from its address.
                place = (text.as_ptr() as usize)
                    .checked_sub(payload.as_ptr() as usize)
                    .map(|at| (at, text.len(), kind));
            }
        })?;
        let tells = delta.usage.is_some() || delta.timings.is_some();
        let says_only_text = !tells && delta.finish_reason.is_none() && delta.error.is_none() && !delta.done;
        self.likeness = place
            .filter(|_| texts == 1 && says_only_text && payload.len() <= MAX_LIKENESS)
            .and_then(|(at, length, kind)| Likeness::new(payload, at, length, kind));
        Ok(delta)
    }
}

impl Likeness {
    fn new(payload: &[u8], at: usize, length: usize, kind: Kind) -> Option<Likeness> {
        let (before, after) = (payload.get(..at)?, payload.get(at + length..)?);
        let is_quoted = before.last() == Some(&b'"') && after.first() == Some(&b'"');
        is_quoted.then(|| Likeness { before: before.to_vec(), after: after.to_vec(), kind })
    }

    fn text_of<'a>(&self, payload: &'a [u8]) -> Option<(&'a str, Kind)> {
        let text = payload.strip_prefix(self.before.as_slice())?.strip_suffix(self.after.as_slice())?;
        if text.iter().any(|&b| b == b'"' || b == b'\\' || b < 0x20) {
            return None;
        }
        Some((std::str::from_utf8(text).ok()?, self.kind))
    }
}

fn note(kept: &mut Option<Kept>, kind: Kind, text: &str) {
    let Some(kept) = kept else { return };
    let to = if kind == Kind::Answer { &mut kept.answer } else { &mut kept.beside };
    if to.len() + text.len() <= MAX_TEXT {
        to.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse;
    use super::*;

    fn chunk(text: &str, tail: &str) -> String {
        let text = serde_json::Value::from(text);
        format!(
            r#"{{"id":"x","choices":[{{"index":0,"delta":{{"content":{text}}},"finish_reason":null}}]{tail}}}"#
        )
    }

    #[test]
    fn chunks_alike_are_read_by_their_likeness() {
        let mut reader = Reader::default();
        reader.read(chunk("a", "").as_bytes()).unwrap();
        let likeness = reader.likeness.as_ref().unwrap();
        assert_eq!(likeness.text_of(chunk(" wörld", "").as_bytes()), Some((" wörld", Kind::Answer)));
        assert_eq!(likeness.text_of(chunk("", "").as_bytes()), Some(("", Kind::Answer)));
        for other in [chunk("a\"b", ""), chunk("a\\", ""), chunk("\n", ""), chunk("a", ",\"usage\":null")] {
            assert_eq!(likeness.text_of(other.as_bytes()), None, "{other}");
        }
        reader.read(chunk("a", ",\"usage\":{\"completion_tokens\":1}").as_bytes()).unwrap();
        assert!(reader.likeness.is_none(), "a chunk that says more is no measure of others");
    }

    fn pieces() -> impl Strategy<Value = String> {
        let text = prop_oneof![
            "[ -~é]{0,6}",
            Just("\"".to_owned()),
            Just("\\".to_owned()),
            Just("\u{7}".to_owned()),
            Just("\"},\"finish_reason\":\"stop\"}],\"x\":{\"y\":{\"z\":\"".to_owned()),
        ];
        let tail = prop_oneof![6 => Just(""), 1 => Just(",\"usage\":{\"completion_tokens\":3}"), 1 => Just(" "),
                1 => Just(",\"timings\":{\"prompt_ms\":3.5}")];
        prop_oneof![
            8 => (text, tail).prop_map(|(text, tail)| chunk(&text, tail)),
            // Not quoted as JSON wants it: a text that ends early, and one that holds another field.
            2 => prop_oneof![Just("a\"b"), Just("a\",\"role\":\"b"), Just("a\",\"content\":\"b"), Just("\t")]
                .prop_map(|raw| chunk("?!", "").replace("?!", raw)),
            1 => Just("[DONE]".to_owned()),
            1 => "[ -~]{0,20}",
            1 => Just(r#"{"choices":[{"delta":{"content":"a","reasoning":"b"}}]}"#.to_owned()),
            1 => Just(r#"{"choices":[{"delta":{"reasoning":"b"}}]}"#.to_owned()),
        ]
    }

    proptest! {
        #[test]
        fn likeness_changes_nothing(payloads in proptest::collection::vec((pieces(), any::<(u8, u8)>()), 0..20)) {
            let mut reader = Reader::default();
            reader.keep_text();
            let mut answer = String::new();
            for (payload, (at, byte)) in payloads {
                let mut payload = payload.into_bytes();
                // Now and then one byte is another: bad JSON, bad UTF-8, another key.
                if at < 60 && !payload.is_empty() {
                    let at = usize::from(at) % payload.len();
                    payload[at] = byte;
                }
                match (reader.read(&payload), parse(&payload)) {
                    (Ok(fast), Ok(slow)) => {
                        prop_assert_eq!(fast, slow);
                        let _parsed = parse_with(&payload, |kind, text| {
                            if kind == Kind::Answer {
                                answer.push_str(text);
                            }
                        });
                    }
                    (fast, slow) => prop_assert!(fast.is_err() && slow.is_err(), "{:?} {:?}", fast, slow),
                }
            }
            prop_assert_eq!(reader.take_text().answer, answer);
        }
    }
}
