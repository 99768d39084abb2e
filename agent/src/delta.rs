//! Reads one payload of a chat or completions reply: how much text it brings, which usage, did it end. Text is counted
//! as it is parsed and not kept; a field that load testing has no use for is skipped.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What ends an OpenAI-style stream.
const DONE: &[u8] = b"[DONE]";

/// What one payload says: a chunk of a stream, or a whole reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Characters of answer text added.
    pub text_chars: u64,
    /// Characters of reasoning added.
    pub reasoning_chars: u64,
    /// Whitespace-separated words of both: of use for a whole reply only.
    pub words: u64,
    /// `stop`, `length`, …: given once, in the last chunk of the text.
    pub finish_reason: Option<String>,
    /// The server's own count so far; when it comes repeatedly, the last one holds.
    pub usage: Option<Usage>,
    /// The message of an error object in place of a chunk.
    pub error: Option<String>,
    /// This is the `[DONE]` marker.
    pub done: bool,
}

impl Delta {
    /// Characters that a reader would see arrive; 0 means that this payload is no token.
    pub fn chars(&self) -> u64 {
        self.text_chars.saturating_add(self.reasoning_chars)
    }
}

/// Tokens as the server counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Tokens generated, reasoning included.
    pub completion_tokens: Option<u64>,
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
    if payload.trim_ascii() == DONE {
        return Ok(Delta { done: true, ..Delta::default() });
    }
    let reply: Reply = serde_json::from_slice(payload)?;
    if reply.choices.is_none() && reply.usage.is_none() && reply.error.is_none() {
        // Older servers put `{"object":"error","message":…}` in the place of a chunk.
        let error = error_message(payload).ok_or(DeltaError::Foreign)?;
        return Ok(Delta { error: Some(error), ..Delta::default() });
    }
    Ok(reply.into_delta())
}

/// The message of an error reply: `{"error":{"message":…}}`, `{"error":"…"}`, `{"message":…}` or `{"detail":…}`.
/// `None` when the body is something else.
pub fn error_message(body: &[u8]) -> Option<String> {
    let reply: ErrorReply = serde_json::from_slice(body).ok()?;
    reply.error.or(reply.message).or(reply.detail).map(|m| m.0)
}

/// The text of one payload, for showing an answer to a person; empty when it has none.
pub fn text_of(payload: &[u8]) -> String {
    let Ok(reply) = serde_json::from_slice::<serde_json::Value>(payload) else { return String::new() };
    let choice = &reply["choices"][0];
    let text = [&choice["delta"]["content"], &choice["message"]["content"], &choice["text"]];
    text.iter().find_map(|t| t.as_str()).unwrap_or_default().to_owned()
}

#[derive(Deserialize)]
struct Reply {
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    error: Option<Message>,
}

#[derive(Deserialize)]
struct Choice {
    /// Chat, streamed.
    delta: Option<Said>,
    /// Chat, whole.
    message: Option<Said>,
    /// Completions.
    text: Option<Text>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<Text>,
    /// llama.cpp, DeepSeek, older vLLM.
    reasoning_content: Option<Text>,
    /// Newer vLLM. A server that sends both sends the same text twice.
    reasoning: Option<Text>,
}

impl Reply {
    fn into_delta(self) -> Delta {
        let mut delta = Delta { usage: self.usage, error: self.error.map(|m| m.0), ..Delta::default() };
        for choice in self.choices.unwrap_or_default() {
            choice.add_to(&mut delta);
        }
        delta
    }
}

impl Choice {
    fn add_to(self, delta: &mut Delta) {
        if let Some(text) = self.text {
            delta.add_text(text);
        }
        for said in [self.delta, self.message].into_iter().flatten() {
            said.content.into_iter().for_each(|t| delta.add_text(t));
            if let Some(reasoning) = said.reasoning_content.or(said.reasoning) {
                delta.reasoning_chars += reasoning.chars;
                delta.words += reasoning.words;
            }
        }
        // Some servers say "" for "not yet".
        let reason = self.finish_reason.filter(|r| !r.is_empty());
        delta.finish_reason = delta.finish_reason.take().or(reason);
    }
}

impl Delta {
    fn add_text(&mut self, text: Text) {
        self.text_chars += text.chars;
        self.words += text.words;
    }
}

/// A JSON string that is measured and dropped: no allocation unless it has escapes.
#[derive(Clone, Copy)]
struct Text {
    chars: u64,
    words: u64,
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text { chars: text.chars().count() as u64, words: text.split_whitespace().count() as u64 })
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
        Some(Usage { prompt_tokens: Some(prompt), completion_tokens: Some(completion) })
    }

    /// (content chunks, text, last usage, finish reason, `[DONE]` markers) of a recorded stream.
    fn replay(name: &str) -> (usize, String, Option<Usage>, Option<String>, usize) {
        let (mut deltas, mut text) = (Vec::new(), String::new());
        let mut on_event = |event: &[u8]| {
            deltas.push(parse(event).unwrap());
            text.push_str(&text_of(event));
        };
        sse::Parser::new().feed(testdata::body(name).as_bytes(), &mut on_event).unwrap();
        let chars: u64 = deltas.iter().map(Delta::chars).sum();
        assert_eq!(chars, text.chars().count() as u64, "{name}");
        assert!(deltas.iter().all(|d| d.error.is_none()), "{name}");
        let content = deltas.iter().filter(|d| d.chars() > 0).count();
        let done = deltas.iter().filter(|d| d.done).count();
        let finish = deltas.iter().find_map(|d| d.finish_reason.clone());
        (content, text, deltas.iter().filter_map(|d| d.usage).next_back(), finish, done)
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
        let got = read(chat);
        assert_eq!((got.text_chars, got.reasoning_chars, got.words), (8, 2, 3));
        assert_eq!((got.finish_reason.as_deref(), got.usage), (Some("stop"), usage(1, 3)));
        assert_eq!(read(r#"{"choices":[{"text":"a b"}]}"#).words, 2);
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
        assert!(parse(br#"{"usage":{"completion_tokens":-1}}"#).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = (parse(&bytes), error_message(&bytes), text_of(&bytes));
        }

        #[test]
        fn any_text_is_counted_as_it_is(text: String) {
            let json = serde_json::json!({"choices": [{"delta": {"content": text}}]}).to_string();
            prop_assert_eq!(read(&json).text_chars, text.chars().count() as u64);
            prop_assert_eq!(text_of(json.as_bytes()), text);
        }

        #[test]
        fn a_cut_payload_is_an_error(cut in 1usize..200) {
            let json = br#"{"choices":[{"index":0,"delta":{"content":"caf\u00e9"},"finish_reason":null}],"usage":null}"#;
            prop_assume!(cut < json.len());
            prop_assert!(parse(&json[..cut]).is_err());
        }
    }
}
