//! Reads one payload of a chat or completions reply: how much text it brings, which usage, did it end. Text is counted
//! as it is parsed, and kept only when asked; a field that load testing has no use for is skipped.

mod reader;
mod told;

use std::borrow::Cow;
use std::fmt;

pub use reader::{Kept, Reader};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
pub use told::{Timings, Usage};

/// What ends an OpenAI-style stream.
const DONE: &[u8] = b"[DONE]";

/// What one payload says: a chunk of a stream, or a whole reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Characters of answer text added.
    pub text_chars: u64,
    /// Characters of reasoning added.
    pub reasoning_chars: u64,
    /// Characters of tool calls added: names and arguments.
    pub tool_chars: u64,
    /// Whitespace-separated words of all of them: of use for a whole reply only, and 0 for a chunk.
    pub words: u64,
    /// `stop`, `length`, …: given once, in the last chunk of the text.
    pub finish_reason: Option<String>,
    /// The server's own count so far; when it comes repeatedly, the last one holds.
    pub usage: Option<Usage>,
    /// The server's own times so far; likewise.
    pub timings: Option<Timings>,
    /// The message of an error object in place of a chunk.
    pub error: Option<String>,
    /// This is the `[DONE]` marker.
    pub done: bool,
}

impl Delta {
    /// Characters that a reader would see arrive; 0 means that this payload is no token.
    pub fn chars(&self) -> u64 {
        self.text_chars.saturating_add(self.reasoning_chars).saturating_add(self.tool_chars)
    }
}

/// Why a payload could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// Not JSON, or a known field of another type.
    #[error("failed to read the reply as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// JSON, but neither a chunk, a reply nor an error.
    #[error("failed to read the reply: it has neither choices, usage nor error")]
    Foreign,
}

/// Reads one payload: the `data` of an event, or the body of a non-streamed reply.
pub fn parse(payload: &[u8]) -> Result<Delta, DeltaError> {
    parse_with(payload, |_, _| {})
}

/// The same; hands each piece of text to `on_text`, as borrowed from the payload where it can be.
fn parse_with(payload: &[u8], mut on_text: impl FnMut(Kind, &Cow<'_, str>)) -> Result<Delta, DeltaError> {
    if payload.trim_ascii() == DONE {
        return Ok(Delta { done: true, ..Delta::default() });
    }
    let reply: Reply<'_> = serde_json::from_slice(payload)?;
    if reply.choices.is_none() && reply.usage.is_none() && reply.error.is_none() {
        // Older servers put `{"object":"error","message":…}` in the place of a chunk.
        let error = error_message(payload).ok_or(DeltaError::Foreign)?;
        return Ok(Delta { error: Some(error), ..Delta::default() });
    }
    Ok(reply.into_delta(&mut on_text))
}

/// The message of an error reply: `{"error":{"message":…}}`, `{"error":"…"}`, `{"message":…}` or `{"detail":…}`.
/// `None` when the body is something else.
pub fn error_message(body: &[u8]) -> Option<String> {
    let reply: ErrorReply = serde_json::from_slice(body).ok()?;
    reply.error.or(reply.message).or(reply.detail).map(|m| m.0)
}

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Answer,
    Reasoning,
    Tool,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    usage: Option<Usage>,
    #[serde(default, deserialize_with = "told::timings")]
    timings: Option<Timings>,
    error: Option<Message>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    /// Chat, streamed.
    #[serde(borrow)]
    delta: Option<Said<'a>>,
    /// Chat, whole.
    #[serde(borrow)]
    message: Option<Said<'a>>,
    /// Completions.
    #[serde(borrow)]
    text: Option<Text<'a>>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    /// Said in the place of content.
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    /// llama.cpp, DeepSeek, older vLLM.
    #[serde(borrow)]
    reasoning_content: Option<Text<'a>>,
    /// Newer vLLM. A server that sends both sends the same text twice.
    #[serde(borrow)]
    reasoning: Option<Text<'a>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    /// What tool calls were before there could be several.
    #[serde(borrow)]
    function_call: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    arguments: Option<Text<'a>>,
}

impl Reply<'_> {
    fn into_delta(self, on_text: &mut impl FnMut(Kind, &Cow<'_, str>)) -> Delta {
        let (usage, timings) = (self.usage, self.timings);
        let mut delta = Delta { usage, timings, error: self.error.map(|m| m.0), ..Delta::default() };
        for choice in self.choices.unwrap_or_default() {
            choice.each_text(&mut |kind, text| {
                on_text(kind, text);
                *delta.chars_of(kind) += text.chars().count() as u64;
            });
            // Some servers say "" for "not yet".
            let reason = choice.finish_reason.filter(|r| !r.is_empty());
            delta.finish_reason = delta.finish_reason.take().or(reason);
        }
        delta
    }
}

impl Delta {
    fn chars_of(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Answer => &mut self.text_chars,
            Kind::Reasoning => &mut self.reasoning_chars,
            Kind::Tool => &mut self.tool_chars,
        }
    }
}

impl Choice<'_> {
    fn each_text(&self, on_text: &mut impl FnMut(Kind, &Cow<'_, str>)) {
        let mut give = |kind, text: &Option<Text<'_>>| text.iter().for_each(|text| on_text(kind, &text.0));
        give(Kind::Answer, &self.text);
        for said in [&self.delta, &self.message].into_iter().flatten() {
            give(Kind::Answer, &said.content);
            give(Kind::Answer, &said.refusal);
            give(
                Kind::Reasoning,
                if said.reasoning_content.is_some() { &said.reasoning_content } else { &said.reasoning },
            );
            let calls = said.tool_calls.iter().flatten().filter_map(|call| call.function.as_ref());
            for function in calls.chain(&said.function_call) {
                give(Kind::Tool, &function.name);
                give(Kind::Tool, &function.arguments);
            }
        }
    }
}

/// A JSON string, borrowed from the payload unless it has escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

#[derive(Deserialize)]
struct ErrorReply {
    error: Option<Message>,
    message: Option<Message>,
    detail: Option<Message>,
}

/// What an error field says, be it a string, an object with a `message`, or anything else.
struct Message(String);

const NO_MESSAGE: &str = "error without a message";

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Message, D::Error> {
        deserializer.deserialize_any(MessageVisitor)
    }
}

struct MessageVisitor;

impl<'de> Visitor<'de> for MessageVisitor {
    type Value = Message;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an error")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Message, E> {
        Ok(Message(text.to_owned()))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Message, E> {
        Ok(Message(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, code: u64) -> Result<Message, E> {
        Ok(Message(format!("error {code}")))
    }

    fn visit_i64<E: de::Error>(self, code: i64) -> Result<Message, E> {
        Ok(Message(format!("error {code}")))
    }

    fn visit_f64<E: de::Error>(self, code: f64) -> Result<Message, E> {
        Ok(Message(format!("error {code}")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Message, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Message(NO_MESSAGE.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
        let mut message = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "message" {
                message = map.next_value::<Option<String>>()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Message(message.unwrap_or_else(|| NO_MESSAGE.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{sse, testdata};

    fn read(json: &str) -> Delta {
        parse(json.as_bytes()).unwrap()
    }

    fn usage(prompt: u64, completion: u64) -> Option<Usage> {
        Some(Usage { prompt_tokens: Some(prompt), completion_tokens: Some(completion), cached_tokens: None })
    }

    /// (content chunks, text, last usage, finish reason, `[DONE]` markers) of a recorded stream.
    fn replay(name: &str) -> (usize, String, Option<Usage>, Option<String>, usize) {
        let (mut deltas, mut text) = (Vec::new(), String::new());
        let mut reader = Reader::default();
        reader.keep_text();
        reader.begin();
        let mut on_event = |event: &[u8]| {
            deltas.push(reader.read(event).unwrap());
            assert_eq!(deltas.last(), Some(&parse(event).unwrap()), "{name}");
        };
        sse::Parser::new().feed(testdata::body(name).as_bytes(), &mut on_event).unwrap();
        text.push_str(&reader.take_text().answer);
        let chars: u64 = deltas.iter().map(Delta::chars).sum();
        assert_eq!(chars, text.chars().count() as u64, "{name}");
        assert!(deltas.iter().all(|d| d.error.is_none()), "{name}");
        let content = deltas.iter().filter(|d| d.chars() > 0).count();
        let done = deltas.iter().filter(|d| d.done).count();
        let finish = deltas.iter().find_map(|d| d.finish_reason.clone());
        let usage = deltas.iter().filter_map(|d| d.usage).next_back();
        (content, text, usage.map(|usage| Usage { cached_tokens: None, ..usage }), finish, done)
    }

    #[test]
    fn reads_every_recorded_stream() {
        let length = Some("length".to_owned());
        let text = "<|im_end|>user\n".to_owned();
        assert_eq!(replay("llama-cpp-chat-stream"), (8, text, usage(29, 8), length.clone(), 1));
        let text = " the limit for the 5".to_owned();
        assert_eq!(replay("llama-cpp-completions-stream"), (6, text, usage(4, 6), length.clone(), 1));
        let text = "IB pre need facilities objectork".to_owned();
        assert_eq!(replay("vllm-0.32-completions-stream"), (6, text, usage(3, 6), length.clone(), 1));
        let (content, text, counted, finish, done) = replay("vllm-0.32-chat-stream");
        assert_eq!((content, counted, finish, done), (32, usage(17, 32), length, 1));
        assert!(text.starts_with("******** Franivalentlect") && text.ends_with("DI Exhibit GNU"), "{text}");
    }

    #[test]
    fn reads_every_recorded_error() {
        let says = |name, part: &str| {
            let message = error_message(testdata::body(name).as_bytes()).unwrap();
            assert!(message.contains(part), "{name}: {message}");
        };
        says("llama-cpp-error-400", "request (4024 tokens) exceeds the available context size");
        says("vllm-0.32-error-400", "max_tokens=5000 cannot be greater");
        says("vllm-0.32-error-404", "The model `nope` does not exist");
        assert_eq!(error_message(b"{\"detail\":\"Not Found\"}").unwrap(), "Not Found");
        assert_eq!(error_message(b"<html>"), None);
    }

    #[test]
    fn reads_whole_replies() {
        let chat = r#"{"choices":[{"message":{"role":"assistant","content":"Oké\n yes","reasoning_content":"hm"},
            "finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":3,"total_tokens":4}}"#;
        let got = Reader::default().read_whole(chat.as_bytes()).unwrap();
        assert_eq!((got.text_chars, got.reasoning_chars, got.words), (8, 2, 3));
        assert_eq!((got.finish_reason.as_deref(), got.usage), (Some("stop"), usage(1, 3)));
        assert_eq!(Reader::default().read_whole(br#"{"choices":[{"text":"a b"}]}"#).unwrap().words, 2);
    }

    #[test]
    fn a_role_alone_is_no_token() {
        assert_eq!(read(r#"{"choices":[{"delta":{"role":"assistant","content":null}}]}"#).chars(), 0);
        assert_eq!(read(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#).chars(), 0);
        assert_eq!(read(r#"{"choices":[{"delta":{"reasoning":"so"}}]}"#).chars(), 2);
        let both = r#"{"choices":[{"delta":{"reasoning":"so","reasoning_content":"so"}}]}"#;
        assert_eq!(read(both).chars(), 2);
    }

    #[test]
    fn tool_calls_and_refusals_are_tokens() {
        let call = r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{\"a\""}}]}}]}"#;
        assert_eq!((read(call).tool_chars, read(call).chars()), (5, 5));
        assert_eq!(read(r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"x"}]}}]}"#).chars(), 0);
        assert_eq!(read(r#"{"choices":[{"delta":{"function_call":{"arguments":"12"}}}]}"#).tool_chars, 2);
        assert_eq!(read(r#"{"choices":[{"delta":{"content":null,"refusal":"No."}}]}"#).text_chars, 3);
    }

    #[test]
    fn a_count_that_is_none_is_absent() {
        for odd in ["-1", "1.5", "\"7\"", "null", "1e30"] {
            let json = format!(r#"{{"usage":{{"prompt_tokens":3,"completion_tokens":{odd}}}}}"#);
            let expected = Usage { prompt_tokens: Some(3), ..Usage::default() };
            assert_eq!(read(&json).usage, Some(expected), "{odd}");
        }
    }

    #[test]
    fn an_empty_reason_is_none() {
        assert_eq!(read(r#"{"choices":[{"text":"a","finish_reason":""}]}"#).finish_reason, None);
    }

    #[test]
    fn an_error_may_take_any_shape() {
        let error = |json| read(json).error.unwrap();
        assert_eq!(error(r#"{"error":{"code":500,"message":"out of memory"}}"#), "out of memory");
        assert_eq!(error(r#"{"error":"busy"}"#), "busy");
        assert_eq!(error(r#"{"error":503}"#), "error 503");
        assert_eq!(error(r#"{"error":{"message":null}}"#), NO_MESSAGE);
        assert_eq!(error(r#"{"error":[1]}"#), NO_MESSAGE);
        assert_eq!(error(r#"{"object":"error","message":"too long","code":400}"#), "too long");
        assert_eq!(read(r#"{"error":null,"choices":[]}"#).error, None);
    }

    #[test]
    fn hostile_json_is_an_error() {
        let deep = "[".repeat(100_000);
        let deep_field = format!("{{\"x\":{deep}");
        for bad in [
            "",
            "{",
            "null",
            "{}",
            "[]",
            "{\"choices\":3}",
            "{\"choices\":[{\"text\":7}]}",
            &deep,
            &deep_field,
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{:.40}", bad);
        }
        assert!(parse(b"{\"choices\":[{\"text\":\"\xff\"}]}").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = (parse(&bytes), error_message(&bytes));
        }

        #[test]
        fn any_text_is_counted_as_it_is(text: String) {
            let json = serde_json::json!({"choices": [{"delta": {"content": text}}]}).to_string();
            prop_assert_eq!(read(&json).text_chars, text.chars().count() as u64);
            let mut reader = Reader::default();
            reader.keep_text();
            prop_assert_eq!(reader.read(json.as_bytes()).unwrap().text_chars, text.chars().count() as u64);
            prop_assert_eq!(reader.take_text().answer, text);
        }

        #[test]
        fn a_cut_payload_is_an_error(cut in 1usize..200) {
            let json = br#"{"choices":[{"index":0,"delta":{"content":"caf\u00e9"},"finish_reason":null}],"usage":null}"#;
            prop_assume!(cut < json.len());
            prop_assert!(parse(&json[..cut]).is_err());
        }
    }
}
