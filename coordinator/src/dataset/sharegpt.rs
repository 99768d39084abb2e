//! ShareGPT: a JSON array (or lines) of `conversations` of `human` and `gpt`. By default the first prompt, with the
//! length of its answer as the length asked for, as the field's tools use it; by flag the whole conversation.

use serde_json::{Map, Value};
use tailcliff_proto::v1::{self, turn::Content};

use super::{Flaw, Reading, broken, label, name, object, short, text, turn};

pub(super) fn entry(json: &[u8], reading: &Reading<'_>) -> Result<v1::Entry, Flaw> {
    let conversation = object(json)?;
    let pairs = pairs(&conversation)?;
    let wanted = if reading.multi_turn { pairs.len() } else { pairs.len().min(1) };
    let mut turns = Vec::with_capacity(wanted);
    for (prompt, answer) in pairs.into_iter().take(wanted) {
        let output = reading.output(Some(reading.length(answer)?));
        let content = Content::User(prompt.to_owned());
        // What nobody will need is not sent along: history is only that of a conversation.
        let answer = if reading.multi_turn { answer.to_owned() } else { String::new() };
        turns.push(v1::Turn { answer, ..turn(content, output, reading.length(prompt)?) });
    }
    if turns.is_empty() {
        return Err(Flaw::Unfit("no prompt of a human that has an answer"));
    }
    let session = name(text(&conversation, "id").ok().flatten().unwrap_or_default());
    Ok(v1::Entry { turns, label: label(&conversation)?, session, at_ns: None })
}

/// Prompts and their answers, as far as the two alternate.
fn pairs(conversation: &Map<String, Value>) -> Result<Vec<(&str, &str)>, Flaw> {
    let said = conversation.get("conversations").or(conversation.get("conversation"));
    let said = said.ok_or_else(|| broken("it has no conversations"))?;
    let said =
        said.as_array().ok_or_else(|| broken(format!("conversations is {}, not a list", short(said))))?;
    let said: Vec<(Voice, &str)> = said.iter().map(line).collect::<Result<_, _>>()?;
    let first = said.iter().position(|(voice, _)| *voice == Voice::Human).unwrap_or(said.len());
    let mut pairs = Vec::new();
    for pair in said[first..].chunks(2) {
        match pair {
            [(Voice::Human, prompt), (Voice::Model, answer)]
                if !prompt.trim().is_empty() && !answer.trim().is_empty() =>
            {
                pairs.push((*prompt, *answer));
            }
            _ => break,
        }
    }
    Ok(pairs)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Voice {
    Human,
    Model,
    /// System prompts and tools.
    Other,
}

fn line(value: &Value) -> Result<(Voice, &str), Flaw> {
    let wrong = || broken(format!("{} is no line of a conversation", short(value)));
    let line = value.as_object().ok_or_else(wrong)?;
    let from = text(line, "from")?.or(text(line, "role")?).ok_or_else(wrong)?;
    let said = text(line, "value")?.or(text(line, "content")?).ok_or_else(wrong)?;
    let voice = match from {
        "human" | "user" => Voice::Human,
        "gpt" | "assistant" | "chatgpt" | "bing" | "bard" => Voice::Model,
        _ => Voice::Other,
    };
    Ok((voice, said))
}
