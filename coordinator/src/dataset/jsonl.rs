//! JSON lines with `prompt` or `messages`, and where they have them `output_len` (or `max_tokens`), `label` and
//! `session_id`.

use serde_json::Value;
use tailcliff_proto::v1::{self, turn::Content};

use super::{Flaw, Reading, broken, label, name, object, positive, short, text, turn};

pub(super) fn entry(json: &[u8], reading: &Reading<'_>) -> Result<v1::Entry, Flaw> {
    let line = object(json)?;
    let max_tokens = reading.output(positive(&line, &["output_len", "max_tokens"])?);
    let turn = match (text(&line, "prompt")?, line.get("messages")) {
        (Some(_), Some(_)) => return Err(broken("it has both prompt and messages")),
        (Some(prompt), None) => prompt_turn(prompt, max_tokens, reading)?,
        (None, Some(list)) => messages(list, max_tokens, reading)?,
        (None, None) => return Err(broken("it has neither prompt nor messages")),
    };
    let session = name(text(&line, "session_id")?.unwrap_or_default());
    Ok(v1::Entry { turns: vec![turn], label: label(&line)?, session, at_ns: None })
}

fn prompt_turn(prompt: &str, max_tokens: u32, reading: &Reading<'_>) -> Result<v1::Turn, Flaw> {
    if prompt.trim().is_empty() {
        return Err(broken("its prompt is empty"));
    }
    Ok(turn(Content::User(prompt.to_owned()), max_tokens, reading.length(prompt)?))
}

/// A list of messages that is sent as it is.
pub(super) fn messages(list: &Value, max_tokens: u32, reading: &Reading<'_>) -> Result<v1::Turn, Flaw> {
    if !reading.chat {
        return Err(broken("messages need --endpoint-type chat"));
    }
    let length = length(list, reading)?;
    Ok(turn(Content::MessagesJson(list.to_string()), max_tokens, length))
}

/// Length of all texts of a list of messages.
pub(super) fn length(list: &Value, reading: &Reading<'_>) -> Result<u32, Flaw> {
    let all = list.as_array().filter(|all| !all.is_empty());
    let all = all.ok_or_else(|| broken(format!("messages is {}, not a list of messages", short(list))))?;
    let mut sum = 0u32;
    for message in all {
        let is_message = message.get("role").is_some_and(Value::is_string);
        if !is_message {
            return Err(broken(format!("{} is no message: it has no role", short(message))));
        }
        for text in texts(message.get("content")) {
            sum = sum.saturating_add(reading.length(text)?);
        }
    }
    Ok(sum)
}

/// Content is a text, or a list of parts of which some are text.
fn texts(content: Option<&Value>) -> Vec<&str> {
    match content {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => Vec::new(),
    }
}
