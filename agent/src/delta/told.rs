//! What a server tells of itself in a reply, beside the text: its counts of tokens, and llama.cpp its own times. Whatever is
//! not what it should be is absent, and never a reason to refuse the reply.

use serde::Deserialize;
use serde::de::Deserializer;
use serde_json::Value;

/// Longest time that is believed, ms: over 11 days.
const MAX_MS: f64 = 1e9;

/// Tokens as the server counts them. A count that is no count, such as a negative one, is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    #[serde(default, deserialize_with = "count")]
    pub prompt_tokens: Option<u64>,
    /// Tokens generated, reasoning included.
    #[serde(default, deserialize_with = "count")]
    pub completion_tokens: Option<u64>,
    /// Tokens of the prompt that were found in a cache.
    #[serde(default, rename = "prompt_tokens_details", deserialize_with = "cached")]
    pub cached_tokens: Option<u64>,
}

/// llama.cpp's `timings`: of this request, by its own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Processing the prompt, ns.
    pub prefill_ns: Option<i64>,
    /// Making the answer, ns.
    pub decode_ns: Option<i64>,
    /// Tokens of the prompt that were found in a cache.
    pub cached_tokens: Option<u64>,
}

fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(Value::deserialize(deserializer)?.as_u64())
}

fn cached<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(Value::deserialize(deserializer)?.get("cached_tokens").and_then(Value::as_u64))
}

/// `None` where there is not one time or count in it that makes sense.
pub(super) fn timings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timings>, D::Error> {
    let told = Value::deserialize(deserializer)?;
    let ns = |name: &str| {
        let ms = told.get(name)?.as_f64()?;
        (0.0..MAX_MS).contains(&ms).then(|| (ms * 1e6).round() as i64)
    };
    let timings = Timings {
        prefill_ns: ns("prompt_ms"),
        decode_ns: ns("predicted_ms"),
        cached_tokens: told.get("cache_n").and_then(Value::as_u64),
    };
    Ok(Some(timings).filter(|timings| *timings != Timings::default()))
}

#[cfg(test)]
mod tests {
    use super::super::{Reader, parse};
    use super::*;
    use crate::{sse, testdata};

    fn last(name: &str) -> (Option<Usage>, Option<Timings>) {
        let (mut told, mut reader) = ((None, None), Reader::default());
        let fed = sse::Parser::new().feed(testdata::body(name).as_bytes(), |event: &[u8]| {
            let delta = reader.read(event).unwrap();
            told = (delta.usage.or(told.0), delta.timings.or(told.1));
        });
        fed.unwrap();
        told
    }

    #[test]
    fn recorded_servers_tell_their_times_and_what_they_had_cached() {
        let (usage, timings) = last("llama-cpp-chat-stream");
        assert_eq!(usage.unwrap().cached_tokens, Some(0));
        let expected =
            Timings { prefill_ns: Some(244_376_000), decode_ns: Some(304_031_000), cached_tokens: Some(0) };
        assert_eq!(timings, Some(expected));
        let (usage, timings) = last("llama-cpp-completions-stream");
        assert_eq!(usage.unwrap().cached_tokens, Some(1));
        let expected =
            Timings { prefill_ns: Some(64_782_000), decode_ns: Some(218_221_000), cached_tokens: Some(1) };
        assert_eq!(timings, Some(expected));
        for name in ["vllm-0.32-chat-stream", "vllm-0.32-completions-stream"] {
            let (usage, timings) = last(name);
            assert_eq!((usage.unwrap().cached_tokens, timings), (None, None), "{name}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_absent_and_the_reply_stands() {
        let read = |timings: &str| {
            let json = format!(r#"{{"choices":[{{"text":"a"}}],"timings":{timings}}}"#);
            let delta = parse(json.as_bytes()).unwrap();
            assert_eq!(delta.text_chars, 1, "{timings}");
            delta.timings
        };
        for odd in ["null", "7", "\"slow\"", "[1]", "{}", "{\"prompt_ms\":-1,\"cache_n\":-1}"] {
            assert_eq!(read(odd), None, "{odd}");
        }
        for odd in ["-1", "-0.001", "1e9", "1e300", "\"5\"", "null", "{}"] {
            let json = format!(r#"{{"prompt_ms":{odd},"predicted_ms":2,"cache_n":{odd}}}"#);
            let timings = Timings { decode_ns: Some(2_000_000), ..Timings::default() };
            assert_eq!(read(&json), Some(timings), "{odd}");
        }
        assert_eq!(read(r#"{"prompt_ms":0}"#).unwrap().prefill_ns, Some(0));
        for odd in ["null", "3", "[]", "{}", r#"{"cached_tokens":-1}"#, r#"{"cached_tokens":1.5}"#] {
            let json = format!(r#"{{"usage":{{"prompt_tokens":3,"prompt_tokens_details":{odd}}}}}"#);
            let usage = parse(json.as_bytes()).unwrap().usage.unwrap();
            assert_eq!((usage.prompt_tokens, usage.cached_tokens), (Some(3), None), "{odd}");
        }
    }

    #[test]
    fn times_in_every_chunk_are_all_read() {
        let chunk = |ms: u32| {
            format!(r#"{{"choices":[{{"delta":{{"content":"a"}}}}],"timings":{{"predicted_ms":{ms}}}}}"#)
        };
        let mut reader = Reader::default();
        // The same twice: the likeness of a chunk that says more than text is no measure of others.
        for ms in [1, 1, 2] {
            let delta = reader.read(chunk(ms).as_bytes()).unwrap();
            assert_eq!(delta.timings.unwrap().decode_ns, Some(i64::from(ms) * 1_000_000));
        }
    }
}
