//! The OpenAI API as vLLM speaks it: what a request asks, and the JSON of replies, events and errors.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::Config;
use crate::fault::Fault;

/// Tokens generated for a request that names no limit.
const DEFAULT_MAX_TOKENS: u64 = 128;

/// The two endpoints that generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Completions,
}

/// What a request asks, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ask {
    pub(crate) kind: Kind,
    /// Words of the prompt, at least 1: this server's stand-in for tokens (token ids count as given).
    pub(crate) prompt_tokens: u64,
    pub(crate) max_tokens: u64,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) continuous_usage: bool,
    pub(crate) ignore_eos: bool,
    pub(crate) faults: Vec<Fault>,
}

/// An error as vLLM words it.
#[derive(Debug, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    kind: &'static str,
    message: String,
    param: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn bad_request(message: impl Into<String>, param: Option<&'static str>) -> Self {
        Self { status: 400, kind: "BadRequestError", message: message.into(), param }
    }

    /// The error that a status stands for.
    pub(crate) fn of_status(status: u16, message: impl Into<String>) -> Self {
        let kind = match status {
            400 => "BadRequestError",
            404 => "NotFoundError",
            429 => "RateLimitError",
            503 => "unavailable_error",
            _ => "InternalServerError",
        };
        Self { status, kind, message: message.into(), param: None }
    }

    pub(crate) fn body(&self) -> String {
        let Self { status, kind, message, param } = self;
        json!({"error": {"message": message, "type": kind, "param": param, "code": status}}).to_string()
    }
}

#[derive(Deserialize)]
struct Body {
    model: Option<String>,
    messages: Option<Vec<Message>>,
    prompt: Option<Value>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    ignore_eos: Option<bool>,
    sim_fault: Option<Value>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: bool,
    continuous_usage_stats: bool,
}

/// Reads a request's body.
pub(crate) fn read(kind: Kind, body: &[u8], config: &Config) -> Result<Ask, ApiError> {
    let body: Body = serde_json::from_slice(body)
        .map_err(|e| ApiError::bad_request(format!("failed to read the body: {e}"), None))?;
    check_model(&body, config)?;
    let prompt_tokens = match kind {
        Kind::Chat => count_messages(&body)?,
        Kind::Completions => count_prompt(body.prompt.as_ref())?,
    }
    .max(1);
    let options = body.stream_options.unwrap_or_default();
    Ok(Ask {
        kind,
        prompt_tokens,
        max_tokens: max_tokens(body.max_completion_tokens.or(body.max_tokens), prompt_tokens, config)?,
        stream: body.stream.unwrap_or(false),
        include_usage: options.include_usage,
        continuous_usage: options.continuous_usage_stats,
        ignore_eos: body.ignore_eos.unwrap_or(false),
        faults: read_faults(body.sim_fault)?,
    })
}

fn check_model(body: &Body, config: &Config) -> Result<(), ApiError> {
    match &body.model {
        Some(model) if *model != config.model => Err(ApiError {
            param: Some("model"),
            ..ApiError::of_status(404, format!("The model `{model}` does not exist."))
        }),
        _ => Ok(()),
    }
}

fn count_messages(body: &Body) -> Result<u64, ApiError> {
    let messages = body.messages.as_deref().unwrap_or_default();
    if messages.is_empty() {
        return Err(ApiError::bad_request("messages must not be empty", Some("messages")));
    }
    Ok(messages.iter().filter_map(|m| m.content.as_ref()).map(count_content).sum())
}

/// Words of a message: a string, or parts of which the texts count.
fn count_content(content: &Value) -> u64 {
    match content {
        Value::String(text) => words(text),
        Value::Array(parts) => parts.iter().filter_map(|p| p.get("text")?.as_str()).map(words).sum(),
        _ => 0,
    }
}

/// A string, token ids, or one of these in an array; several prompts at once are more than this server does.
fn count_prompt(prompt: Option<&Value>) -> Result<u64, ApiError> {
    match prompt {
        Some(Value::String(text)) => Ok(words(text)),
        Some(Value::Array(ids)) if !ids.is_empty() && ids.iter().all(Value::is_u64) => Ok(ids.len() as u64),
        Some(Value::Array(one)) if one.len() == 1 && !one[0].is_u64() => count_prompt(one.first()),
        _ => Err(ApiError::bad_request("prompt must be one string or one list of token ids", Some("prompt"))),
    }
}

fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

fn max_tokens(asked: Option<i64>, prompt_tokens: u64, config: &Config) -> Result<u64, ApiError> {
    let longest = config.max_model_len;
    let room = longest.saturating_sub(prompt_tokens);
    if room == 0 {
        let message = format!(
            "This model's maximum context length is {longest} tokens. However, your request has {prompt_tokens} input tokens."
        );
        return Err(ApiError::bad_request(message, None));
    }
    let Some(asked) = asked else { return Ok(DEFAULT_MAX_TOKENS.min(room)) };
    match u64::try_from(asked) {
        Ok(n @ 1..) if n <= room => Ok(n),
        Ok(n @ 1..) => Err(ApiError::bad_request(
            format!(
                "max_tokens={n} and {prompt_tokens} prompt tokens cannot be greater than max_model_len={longest}. Please request fewer output tokens."
            ),
            Some("max_tokens"),
        )),
        _ => Err(ApiError::bad_request(
            format!("max_tokens must be at least 1, got {asked}."),
            Some("max_tokens"),
        )),
    }
}

/// One fault, or a list.
fn read_faults(value: Option<Value>) -> Result<Vec<Fault>, ApiError> {
    let faults = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(list @ Value::Array(_)) => serde_json::from_value(list),
        Some(one) => serde_json::from_value(one).map(|fault| vec![fault]),
    };
    faults.map_err(|e| ApiError::bad_request(format!("failed to read sim_fault: {e}"), Some("sim_fault")))
}

/// Token `index` as text: never empty, with a leading space, as most tokens of real models.
pub(crate) fn token_text(index: u64) -> &'static str {
    const WORDS: [&str; 8] = [" the", " load", " rises", " and", " then", " it", " falls", " again"];
    WORDS[(index % 8) as usize]
}

/// Builds the JSON of one request's replies; what repeats in every event is laid out once.
pub(crate) struct Frames {
    kind: Kind,
    stream_head: String,
    whole_head: String,
    prompt_tokens: u64,
    include_usage: bool,
    continuous_usage: bool,
}

impl Frames {
    pub(crate) fn new(ask: &Ask, model: &str, id: &str, created: i64) -> Self {
        let (prefix, stream_object, object) = match ask.kind {
            Kind::Chat => ("chatcmpl", "chat.completion.chunk", "chat.completion"),
            Kind::Completions => ("cmpl", "text_completion", "text_completion"),
        };
        let id = Value::from(format!("{prefix}-{id}"));
        let model = Value::from(model);
        let head = |object| format!(r#"{{"id":{id},"object":"{object}","created":{created},"model":{model}"#);
        Self {
            kind: ask.kind,
            stream_head: head(stream_object),
            whole_head: head(object),
            prompt_tokens: ask.prompt_tokens,
            include_usage: ask.include_usage,
            continuous_usage: ask.continuous_usage,
        }
    }

    /// The event that opens a chat stream; completions have none.
    pub(crate) fn opening(&self) -> Option<String> {
        let choice = r#","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}"#;
        (self.kind == Kind::Chat).then(|| event(&format!("{}{choice}", self.stream_head)))
    }

    /// A content event: `text` brings the reply to `done` tokens. Reasoning exists in chat only.
    pub(crate) fn content(&self, text: &str, reasoning: bool, done: u64, finish: Option<&str>) -> String {
        let text = Value::from(text);
        let delta = match (self.kind, reasoning) {
            (Kind::Chat, true) => format!(r#""delta":{{"reasoning_content":{text}}}"#),
            (Kind::Chat, false) => format!(r#""delta":{{"content":{text}}}"#),
            (Kind::Completions, _) => format!(r#""text":{text}"#),
        };
        let finish = finish.map_or("null".into(), |f| format!("\"{f}\""));
        let head = &self.stream_head;
        let mut json =
            format!(r#"{head},"choices":[{{"index":0,{delta},"logprobs":null,"finish_reason":{finish}}}]"#);
        if self.continuous_usage {
            let _ = write!(json, r#","usage":{}"#, self.usage(done));
        }
        json.push('}');
        event(&json)
    }

    /// The usage event, if the request asked for it.
    pub(crate) fn closing(&self, done: u64) -> Option<String> {
        let usage = || format!(r#"{},"choices":[],"usage":{}}}"#, self.stream_head, self.usage(done));
        self.include_usage.then(|| event(&usage()))
    }

    /// A whole reply that is not streamed.
    pub(crate) fn whole(&self, text: &str, reasoning: &str, done: u64, finish: &str) -> String {
        let text = Value::from(text);
        let reasoning = match reasoning {
            "" => Value::Null,
            some => Value::from(some),
        };
        let choice = match self.kind {
            Kind::Chat => format!(
                r#""message":{{"role":"assistant","content":{text},"reasoning_content":{reasoning}}}"#
            ),
            Kind::Completions => format!(r#""text":{text}"#),
        };
        let (head, usage) = (&self.whole_head, self.usage(done));
        format!(
            r#"{head},"choices":[{{"index":0,{choice},"logprobs":null,"finish_reason":"{finish}"}}],"usage":{usage}}}"#
        )
    }

    fn usage(&self, done: u64) -> String {
        let prompt = self.prompt_tokens;
        format!(r#"{{"prompt_tokens":{prompt},"total_tokens":{},"completion_tokens":{done}}}"#, prompt + done)
    }
}

/// One server-sent event.
pub(crate) fn event(payload: &str) -> String {
    format!("data: {payload}\n\n")
}

/// The list of models.
pub(crate) fn models(config: &Config, created: i64) -> String {
    let model = json!({
        "id": config.model, "object": "model", "created": created, "owned_by": "model-sim",
        "max_model_len": config.max_model_len,
    });
    json!({"object": "list", "data": [model]}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(kind: Kind, body: &str) -> Result<Ask, ApiError> {
        read(kind, body.as_bytes(), &Config { max_model_len: 100, ..Config::default() })
    }

    #[test]
    fn counts_the_words_of_every_form_of_prompt() {
        let chat =
            |m: &str| ask(Kind::Chat, &format!(r#"{{"messages":{m}}}"#)).map(|a| a.prompt_tokens).unwrap();
        assert_eq!(chat(r#"[{"role":"system","content":"be brief"},{"role":"user","content":"a b  c"}]"#), 5);
        assert_eq!(
            chat(r#"[{"role":"user","content":[{"type":"text","text":"a b"},{"type":"image_url"}]}]"#),
            2
        );
        assert_eq!(chat(r#"[{"role":"user","content":null}]"#), 1);
        let text = |p: &str| ask(Kind::Completions, &format!(r#"{{"prompt":{p}}}"#)).map(|a| a.prompt_tokens);
        assert_eq!(text(r#""a b c""#), Ok(3));
        assert_eq!(text("[1,2,3,4]"), Ok(4));
        assert_eq!(text(r#"["a b"]"#), Ok(2));
        assert_eq!(text("[[5,6]]"), Ok(2));
        assert_eq!(text(r#"["a","b"]"#).unwrap_err().status, 400);
        assert_eq!(text("[]").unwrap_err().status, 400);
        assert_eq!(text("7").unwrap_err().status, 400);
    }

    #[test]
    fn refuses_what_vllm_refuses() {
        let status = |body: &str| ask(Kind::Completions, body).unwrap_err().status;
        assert_eq!(status("{"), 400);
        assert_eq!(status(r#"{"prompt":"a","model":"other"}"#), 404);
        assert_eq!(status(r#"{"prompt":"a","max_tokens":0}"#), 400);
        assert_eq!(status(r#"{"prompt":"a","max_tokens":-4}"#), 400);
        assert_eq!(status(r#"{"prompt":"a","max_tokens":100}"#), 400);
        assert_eq!(status(r#"{"prompt":"a","sim_fault":{"kind":"nope"}}"#), 400);
        let long = format!(r#"{{"prompt":"{}"}}"#, "w ".repeat(100));
        assert_eq!(status(&long), 400);
        assert_eq!(ask(Kind::Chat, r#"{"messages":[]}"#).unwrap_err().status, 400);
        assert_eq!(ask(Kind::Completions, r#"{"prompt":"a"}"#).unwrap().max_tokens, 99);
    }

    #[test]
    fn every_event_is_json_of_the_recorded_shape() {
        let body =
            r#"{"messages":[{"content":"a b"}],"max_tokens":2,"stream_options":{"include_usage":true}}"#;
        let frames = Frames::new(&ask(Kind::Chat, body).unwrap(), "m\"x", "id\n1", 5);
        let parse =
            |e: &str| -> Value { serde_json::from_str(e.strip_prefix("data: ").unwrap().trim()).unwrap() };
        assert_eq!(parse(&frames.opening().unwrap())["choices"][0]["delta"]["content"], "");
        let content = parse(&frames.content(" \"hi\"", false, 2, Some("length")));
        assert_eq!(content["choices"][0]["delta"]["content"], " \"hi\"");
        assert_eq!(content["choices"][0]["finish_reason"], "length");
        assert_eq!((&content["model"], &content["id"]), (&json!("m\"x"), &json!("chatcmpl-id\n1")));
        let usage = parse(&frames.closing(2).unwrap());
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(usage["usage"], json!({"prompt_tokens": 2, "total_tokens": 4, "completion_tokens": 2}));
        let whole: Value = serde_json::from_str(&frames.whole("a", "", 2, "stop")).unwrap();
        assert_eq!(whole["choices"][0]["message"]["content"], "a");
    }
}
