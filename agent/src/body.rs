//! Builds request bodies. Servers keep the beginnings of prompts that they have seen, so synthetic prompts part within
//! their first eight words, most of them at the first; they follow from the seed alone, so that a run can be repeated.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tailcliff_proto::{MAX_INPUT_WORDS, v1};

use crate::target::{Endpoint, Target};

/// Makes the bodies of one level.
#[derive(Debug)]
pub struct Bodies {
    /// Everything before the prompt's text.
    head: Vec<u8>,
    /// Everything after it.
    tail: &'static [u8],
    prompt: Prompt,
    seed: u64,
}

#[derive(Debug)]
enum Prompt {
    /// JSON text between the quotes, the same for every request.
    Fixed(Vec<u8>),
    /// Words to draw.
    Words(u32),
    /// The extra body brings its own.
    Absent,
}

/// Why bodies cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Neither a prompt nor a number of words.
    #[error("failed to build request bodies: the workload has neither a prompt nor input words")]
    NoPrompt,
    /// More words than [`MAX_INPUT_WORDS`].
    #[error("failed to build request bodies: {0} input words are more than {MAX_INPUT_WORDS}")]
    TooManyWords(u32),
    /// JSON has no such number.
    #[error("failed to build request bodies: the temperature is not a number")]
    Temperature,
    /// A part could not be written as JSON.
    #[error("failed to write the request body: {0}")]
    Json(#[from] serde_json::Error),
}

impl Bodies {
    /// Bodies of a workload for a target. A fixed prompt is sent as it is to every request, and servers will cache it.
    pub fn new(target: &Target, workload: &v1::Workload) -> Result<Bodies, BodyError> {
        let mut fields = fields_of(target, workload)?;
        target.extra_body().iter().for_each(|(k, v)| {
            fields.insert(k.clone(), v.clone());
        });
        let (key, open, tail): (_, &[u8], &'static [u8]) = match target.endpoint() {
            Endpoint::Chat => ("messages", b"\"messages\":[{\"role\":\"user\",\"content\":\"", b"\"}]}"),
            Endpoint::Completions => ("prompt", b"\"prompt\":\"", b"\"}"),
        };
        let mut head = serde_json::to_vec(&fields)?;
        if fields.contains_key(key) {
            return Ok(Bodies { head, tail: b"", prompt: Prompt::Absent, seed: 0 });
        }
        // `stream` is always there, so that what follows the opened object is one more field.
        head.pop();
        head.push(b',');
        head.extend_from_slice(open);
        Ok(Bodies { head, tail, prompt: prompt_of(workload)?, seed: workload.seed })
    }

    /// The body of one request: the same for the same seed and numbers. A synthetic one of eight words or more is unlike
    /// every other.
    pub fn body(&self, level: u32, stream: u32, request: u64) -> Bytes {
        let mut body = Vec::with_capacity(self.head.len() + self.tail.len() + self.prompt.bytes());
        body.extend_from_slice(&self.head);
        match &self.prompt {
            Prompt::Fixed(text) => body.extend_from_slice(text),
            Prompt::Words(count) => write_words(&mut body, self.key(level, stream, request), *count),
            Prompt::Absent => {}
        }
        body.extend_from_slice(self.tail);
        body.into()
    }

    /// 64 bits that name the request. Collisions are those of a random function: 10⁶ requests share one with
    /// probability 3 in 10⁸.
    fn key(&self, level: u32, stream: u32, request: u64) -> u64 {
        let place = u64::from(level) << 32 | u64::from(stream);
        [place, request].into_iter().fold(mix(self.seed), |key, part| mix(key ^ mix(part)))
    }
}

impl Prompt {
    fn bytes(&self) -> usize {
        match self {
            Prompt::Fixed(text) => text.len(),
            Prompt::Words(count) => *count as usize * 8,
            Prompt::Absent => 0,
        }
    }
}

fn fields_of(target: &Target, workload: &v1::Workload) -> Result<Map<String, Value>, BodyError> {
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
    if !target.model().is_empty() {
        put("model", json!(target.model()));
    }
    if workload.max_tokens > 0 {
        put("max_tokens", json!(workload.max_tokens));
    }
    put("stream", json!(target.streaming()));
    if target.streaming() {
        put("stream_options", json!({"include_usage": true}));
    }
    if let Some(temperature) = workload.temperature {
        let number = serde_json::Number::from_f64(temperature).ok_or(BodyError::Temperature)?;
        put("temperature", Value::Number(number));
    }
    if workload.ignore_eos {
        put("ignore_eos", json!(true));
    }
    Ok(fields)
}

fn prompt_of(workload: &v1::Workload) -> Result<Prompt, BodyError> {
    if !workload.prompt.is_empty() {
        let quoted = serde_json::to_vec(&workload.prompt)?;
        return Ok(Prompt::Fixed(quoted[1..quoted.len() - 1].to_vec()));
    }
    match workload.input_words {
        0 => Err(BodyError::NoPrompt),
        count if count > MAX_INPUT_WORDS => Err(BodyError::TooManyWords(count)),
        count => Ok(Prompt::Words(count)),
    }
}

/// The first eight words spell the key, a byte each; the others are drawn from it.
fn write_words(out: &mut Vec<u8>, key: u64, count: u32) {
    let mut bits = key;
    for i in 0..count {
        if i > 0 {
            out.push(b' ');
        }
        if i > 0 && i % 8 == 0 {
            bits = mix(key ^ u64::from(i));
        }
        out.extend_from_slice(WORDS[(bits & 0xff) as usize].as_bytes());
        bits >>= 8;
    }
}

/// The finaliser of SplitMix64: a bijection of 64 bits that looks random.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// One per byte value: common English words, most of them one token in every vocabulary.
#[rustfmt::skip]
const WORDS: [&str; 256] = [
    "able", "about", "above", "across", "after", "again", "against", "air", "all", "almost", "alone", "along",
    "already", "also", "always", "among", "animal", "answer", "any", "appear", "apple", "area", "arm", "around",
    "art", "ask", "autumn", "away", "baby", "back", "ball", "bank", "base", "bear", "beat", "beauty",
    "bed", "before", "begin", "behind", "believe", "bell", "below", "best", "better", "between", "big", "bird",
    "black", "blood", "blow", "blue", "board", "boat", "body", "bone", "book", "born", "both", "bottom",
    "bowl", "box", "boy", "branch", "bread", "break", "bridge", "bright", "bring", "brother", "brown", "build",
    "burn", "busy", "butter", "buy", "cake", "call", "camp", "can", "car", "card", "care", "carry",
    "case", "cat", "catch", "cause", "cell", "center", "chair", "chance", "change", "chart", "check", "child",
    "choose", "church", "circle", "city", "class", "clean", "clear", "climb", "clock", "close", "cloth", "cloud",
    "coast", "coat", "cold", "color", "come", "common", "cook", "cool", "copper", "copy", "corn", "corner",
    "cost", "cotton", "count", "country", "course", "cover", "cow", "create", "cross", "crowd", "cry", "current",
    "cut", "dance", "dark", "day", "deal", "dear", "deep", "desert", "desk", "dinner", "direct", "dish",
    "doctor", "dog", "dollar", "door", "double", "down", "draw", "dream", "dress", "drink", "drive", "drop",
    "dry", "duck", "during", "dust", "each", "ear", "early", "earth", "east", "easy", "edge", "effect",
    "egg", "eight", "either", "electric", "else", "end", "energy", "engine", "enough", "enter", "equal", "even",
    "evening", "ever", "every", "exact", "example", "eye", "face", "fact", "fair", "fall", "family", "famous",
    "far", "farm", "fast", "father", "fear", "feed", "feel", "few", "field", "fight", "figure", "fill",
    "final", "find", "fine", "finger", "finish", "fire", "first", "fish", "fit", "five", "flat", "floor",
    "flow", "flower", "fly", "follow", "food", "foot", "force", "forest", "form", "forward", "four", "free",
    "fresh", "friend", "front", "fruit", "full", "game", "garden", "gas", "gate", "gather", "gave", "gentle",
    "girl", "give", "glad", "glass", "goat", "gold", "good", "grand", "grass", "gray", "great", "green",
    "ground", "group", "grow", "guess",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn target(endpoint: v1::EndpointType, streaming: bool, extra: &str) -> Target {
        Target::parse(&v1::Target {
            base_url: "http://h:1".to_owned(),
            endpoint_type: endpoint as i32,
            model: "mo\"del".to_owned(),
            streaming,
            extra_body_json: extra.to_owned(),
            ..Default::default()
        })
        .unwrap()
    }

    fn workload(words: u32) -> v1::Workload {
        v1::Workload { input_words: words, max_tokens: 24, seed: 7, ..Default::default() }
    }

    fn chat(workload: &v1::Workload, extra: &str) -> Value {
        let bodies = Bodies::new(&target(v1::EndpointType::Chat, true, extra), workload).unwrap();
        serde_json::from_slice(&bodies.body(1, 2, 3)).unwrap()
    }

    fn prompt(body: &Value) -> String {
        body["messages"][0]["content"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_chat_body_has_what_was_asked_for() {
        let body = chat(&workload(20), "");
        assert_eq!(prompt(&body).split(' ').count(), 20);
        let mut rest = body.as_object().unwrap().clone();
        rest.remove("messages");
        let expected = json!({"model": "mo\"del", "max_tokens": 24, "stream": true,
            "stream_options": {"include_usage": true}});
        assert_eq!(Value::Object(rest), expected);
        let asked = v1::Workload { temperature: Some(0.5), ignore_eos: true, ..workload(1) };
        let body = chat(&asked, "");
        assert_eq!((&body["temperature"], &body["ignore_eos"]), (&json!(0.5), &json!(true)));
    }

    #[test]
    fn a_completions_body_has_a_prompt() {
        let target = target(v1::EndpointType::Completions, false, "");
        let body = Bodies::new(&target, &workload(5)).unwrap().body(0, 0, 0);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["prompt"].as_str().unwrap().split(' ').count(), 5);
        assert_eq!((&body["stream"], body.get("stream_options")), (&json!(false), None));
    }

    #[test]
    fn a_fixed_prompt_is_sent_as_given() {
        let text = "Say \"é\"\nand\tstop \u{1}";
        let asked = v1::Workload { prompt: text.to_owned(), ..workload(0) };
        assert_eq!(prompt(&chat(&asked, "")), text);
    }

    #[test]
    fn the_extra_body_wins() {
        let body = chat(&workload(3), r#"{"max_tokens": 1, "top_k": 5}"#);
        assert_eq!((&body["max_tokens"], &body["top_k"]), (&json!(1), &json!(5)));
        assert_eq!(prompt(&body).split(' ').count(), 3);
        let own = chat(&workload(0), r#"{"messages": [{"role": "system", "content": "x"}]}"#);
        assert_eq!(own["messages"], json!([{"role": "system", "content": "x"}]));
    }

    #[test]
    fn every_prompt_differs_and_follows_from_the_seed() {
        let target = target(v1::EndpointType::Chat, true, "");
        let bodies = Bodies::new(&target, &workload(8)).unwrap();
        let mut seen = HashSet::new();
        let mut first_words = HashSet::new();
        for (level, stream, request) in (0..40_000).map(|i| (i % 4, i / 4 % 10, u64::from(i / 40))) {
            let body = bodies.body(level, stream, request);
            let text = prompt(&serde_json::from_slice(&body).unwrap());
            first_words.insert(text.split(' ').next().unwrap().to_owned());
            assert!(seen.insert(body), "{level} {stream} {request} repeats");
        }
        assert_eq!(first_words.len(), WORDS.len());
        assert_eq!(bodies.body(3, 2, 1), Bodies::new(&target, &workload(8)).unwrap().body(3, 2, 1));
        let reseeded = Bodies::new(&target, &v1::Workload { seed: 8, ..workload(8) }).unwrap();
        assert_ne!(bodies.body(3, 2, 1), reseeded.body(3, 2, 1));
    }

    #[test]
    fn long_prompts_do_not_repeat_within() {
        let text = prompt(&chat(&workload(4096), ""));
        let words: Vec<&str> = text.split(' ').collect();
        let blocks: HashSet<&[&str]> = words.chunks(8).collect();
        assert_eq!((words.len(), blocks.len()), (4096, 512));
        assert_eq!(WORDS.iter().collect::<HashSet<_>>().len(), 256);
    }

    #[test]
    fn mistaken_workloads_are_refused() {
        let error = |w: &v1::Workload| {
            Bodies::new(&target(v1::EndpointType::Chat, true, ""), w).unwrap_err().to_string()
        };
        assert!(error(&workload(0)).contains("neither a prompt nor input words"));
        assert!(error(&workload(u32::MAX)).contains("more than"));
        let nan = v1::Workload { temperature: Some(f64::NAN), ..workload(1) };
        assert!(error(&nan).contains("temperature"));
    }
}
