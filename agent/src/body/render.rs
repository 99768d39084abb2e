//! Writes one turn's body: the level's fields, the length asked for, and the prompt or the conversation so far.

use bytes::Bytes;
use tailcliff_proto::v1::{self, turn::Content};
use tailcliff_proto::words::mix;

use super::fields::prompt_key;
use super::script::{About, Prepared};
use super::synthetic::Synthetic;
use super::{Bodies, Place, Source};
use crate::pick::Order;
use crate::target::Endpoint;

/// Bytes of a real answer that go into the history; more would be a server that never ends.
const MOST_ANSWER: usize = 256 << 10;

impl Bodies {
    /// Turns of the session at a place.
    pub(super) fn turns(&self, place: Place) -> u32 {
        match &self.source {
            Source::Words(words) => words.turns(),
            Source::Entries(order, _) => self.picked(order, place).1.map_or(1, |e| e.turns.len() as u32),
            Source::Fixed(_) | Source::Absent => 1,
        }
    }

    fn picked(&self, order: &Order, place: Place) -> (usize, Option<&v1::Entry>) {
        let at = order.entry(place.stream, place.number);
        (at, self.corpus.as_deref().and_then(|corpus| corpus.entries().get(at)))
    }

    /// Adds the answer to a turn to the history.
    pub(super) fn answered(&self, place: Place, turn: u32, answer: Option<&str>, history: &mut Vec<u8>) {
        // What is sent as it is carries its own history.
        if history.is_empty() {
            return;
        }
        let real =
            answer.filter(|text| !text.trim().is_empty()).map(|text| upto(text, MOST_ANSWER).to_owned());
        let text = real.unwrap_or_else(|| self.stand_in(place, turn));
        say(history, "assistant", |out| push_json(out, &text));
    }

    fn stand_in(&self, place: Place, turn: u32) -> String {
        let key = turn_key(self.key(place), turn);
        match &self.source {
            Source::Entries(order, words) => {
                let turn = self.picked(order, place).1.and_then(|entry| entry.turns.get(turn as usize));
                let own = turn.map(|turn| turn.answer.clone()).filter(|answer| !answer.is_empty());
                own.unwrap_or_else(|| words.answer(key, turn.map_or(1, |turn| turn.max_tokens)))
            }
            Source::Words(words) => words.answer(key, words.output_tokens(key, self.max_tokens)),
            Source::Fixed(_) | Source::Absent => String::new(),
        }
    }

    /// A turn of a session; the history gets what the user says.
    pub(super) fn turn(&self, place: Place, turn: u32, history: &mut Vec<u8>) -> Prepared {
        match &self.source {
            Source::Absent => self.plain(self.fields.begin(self.max_tokens, 1)),
            Source::Fixed(text) => {
                let mut body = self.fields.begin(self.max_tokens, text.len() + 64);
                self.put_prompt(&mut body, |out| quoted(out, |out| out.extend_from_slice(text)));
                self.plain(body)
            }
            Source::Words(words) => self.synthetic(words, place, turn, history),
            Source::Entries(order, words) => match self.picked(order, place) {
                (at, Some(entry)) => {
                    let key = turn_key(self.key(place), turn);
                    let body = self.of_entry(entry, turn, (words, key), history);
                    Prepared { body: body.into(), ..self.about_entry(at, entry, turn) }
                }
                // An order is made for the corpus that is here.
                (_, None) => self.plain(self.fields.begin(self.max_tokens, 1)),
            },
        }
    }

    /// Closes a body that has the workload's own length and label.
    fn plain(&self, mut body: Vec<u8>) -> Prepared {
        body.push(b'}');
        let asked_tokens = self.fields.asked_tokens(self.max_tokens);
        let about = About { label: self.label.clone(), asked_tokens, ..About::default() };
        Prepared { body: body.into(), delay_ns: 0, about }
    }

    fn synthetic(&self, words: &Synthetic, place: Place, turn: u32, history: &mut Vec<u8>) -> Prepared {
        let session = self.key(place);
        let key = turn_key(session, turn);
        let asked = words.output_tokens(key, self.max_tokens);
        let input = words.input_len(key, turn);
        let mut body = self.fields.begin(asked, history.len() + input as usize * 8 + 64);
        let write = |out: &mut Vec<u8>| quoted(out, |out| words.write(out, session, key, turn));
        let is_session = words.turns() > 1;
        match is_session {
            true => self.put_history(&mut body, history, write),
            false => self.put_prompt(&mut body, write),
        }
        let mut prepared = self.plain(body);
        let about = &mut prepared.about;
        (about.asked_tokens, about.input_len) = (self.fields.asked_tokens(asked), Some(input));
        if is_session {
            about.turn = Some(turn);
            about.session = format!("{}-{}", place.stream, place.number);
        }
        prepared.delay_ns = if turn > 0 { words.delay_ns() } else { 0 };
        prepared
    }

    fn of_entry(
        &self,
        entry: &v1::Entry,
        number: u32,
        (words, key): (&Synthetic, u64),
        history: &mut Vec<u8>,
    ) -> Vec<u8> {
        let Some(turn) = entry.turns.get(number as usize) else { return Vec::new() };
        let Some(content) = &turn.content else { return Vec::new() };
        let begin = || self.fields.begin(turn.max_tokens, history.len() + turn.input_len as usize * 8 + 64);
        let mut body = match content {
            Content::BodyJson(json) => return self.fields.around(json),
            _ => begin(),
        };
        match content {
            Content::BodyJson(_) => {}
            Content::MessagesJson(json) => {
                self.put_value(&mut body, |out| out.extend_from_slice(json.as_bytes()));
            }
            Content::Blocks(blocks) => {
                self.put_prompt(&mut body, |out| quoted(out, |out| words.write_blocks(out, blocks, key)));
            }
            Content::User(text) if entry.turns.len() > 1 => {
                self.put_history(&mut body, history, |out| push_json(out, text));
            }
            Content::User(text) => self.put_prompt(&mut body, |out| push_json(out, text)),
        }
        body.push(b'}');
        body
    }

    /// What a turn of an entry is, but for its body.
    fn about_entry(&self, at: usize, entry: &v1::Entry, number: u32) -> Prepared {
        let turn = entry.turns.get(number as usize);
        let label = if entry.label.is_empty() { self.label.clone() } else { entry.label.as_str().into() };
        let about = About {
            label,
            entry: u32::try_from(at).ok(),
            session: entry.session.clone(),
            turn: (entry.turns.len() > 1).then_some(number),
            asked_tokens: turn.and_then(|turn| self.fields.asked_tokens(turn.max_tokens)),
            input_len: turn.map(|turn| turn.input_len).filter(|n| *n > 0),
        };
        Prepared { body: Bytes::new(), delay_ns: turn.map_or(0, |turn| turn.delay_ns.max(0)), about }
    }

    /// `,"messages":` or `,"prompt":` and what `value` writes.
    fn put_value(&self, body: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
        body.extend_from_slice(b",\"");
        body.extend_from_slice(prompt_key(self.fields.endpoint()).as_bytes());
        body.extend_from_slice(b"\":");
        value(body);
    }

    /// One prompt: for a chat, one message of the user. `text` writes a JSON string.
    fn put_prompt(&self, body: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
        match self.fields.endpoint() {
            Endpoint::Completions => self.put_value(body, text),
            Endpoint::Chat => self.put_value(body, |out| {
                out.push(b'[');
                message(out, "user", text);
                out.push(b']');
            }),
        }
    }

    /// What was said, with one more message of the user.
    fn put_history(&self, body: &mut Vec<u8>, history: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
        say(history, "user", text);
        self.put_value(body, |out| {
            out.push(b'[');
            out.extend_from_slice(history);
            out.push(b']');
        });
    }
}

/// A single request's key is its session's own.
fn turn_key(session: u64, turn: u32) -> u64 {
    if turn == 0 { session } else { mix(session ^ mix(u64::from(turn))) }
}

fn say(history: &mut Vec<u8>, role: &str, text: impl FnOnce(&mut Vec<u8>)) {
    if !history.is_empty() {
        history.push(b',');
    }
    message(history, role, text);
}

fn message(out: &mut Vec<u8>, role: &str, text: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"{\"role\":\"");
    out.extend_from_slice(role.as_bytes());
    out.extend_from_slice(b"\",\"content\":");
    text(out);
    out.push(b'}');
}

fn quoted(out: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    text(out);
    out.push(b'"');
}

/// A string as JSON. Writing to memory does not fail.
fn push_json(out: &mut Vec<u8>, text: &str) {
    let _infallible = serde_json::to_writer(out, text);
}

fn upto(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
