//! Mooncake's traces: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` of blocks of 512, and where they have
//! them `session_id`, `delay` (ms) and `messages`. Prompts are made by the agents, so that equal ids give equal blocks
//! at equal places; a line that continues a session after a delay is a turn of it and is sent as it stands.

use std::collections::HashMap;

use prost::Message;
use serde_json::{Map, Value};
use tailcliff_proto::MAX_INPUT_WORDS;
use tailcliff_proto::v1::{self, turn::Content};

use super::{Flaw, MAX_ENTRY, Reading, broken, jsonl, label, name, object, positive, short, text, turn};

/// Tokens of a block.
const BLOCK: u32 = 512;
/// A week, ms: a trace of more is mistaken.
const LONGEST_MS: f64 = 7.0 * 24.0 * 3600.0 * 1e3;
/// Turns of one session.
const MOST_TURNS: usize = 1_000;

/// What lines before said: sessions that later lines may continue, by name.
#[derive(Debug, Default)]
pub(super) struct Trace {
    sessions: HashMap<String, usize>,
}

impl Trace {
    /// Takes a line: a new entry, or a turn more of one that is there.
    pub(super) fn take(
        &mut self,
        json: &[u8],
        reading: &Reading<'_>,
        entries: &mut [v1::Entry],
    ) -> Result<Option<v1::Entry>, Flaw> {
        let line = object(json)?;
        let session = session(&line)?;
        let delay_ns = ms(&line, "delay")?;
        let at_ns = ms(&line, "timestamp")?;
        let turn = content(&line, reading)?;
        let before = self.sessions.get(&session).and_then(|&at| entries.get_mut(at));
        match (before, delay_ns, at_ns) {
            (Some(entry), Some(delay_ns), _) if !session.is_empty() => {
                if entry.turns.len() >= MOST_TURNS {
                    return Err(broken(format!("session {session:?} has more than {MOST_TURNS} turns")));
                }
                entry.turns.push(v1::Turn { delay_ns, ..turn });
                if entry.encoded_len() > MAX_ENTRY {
                    entry.turns.pop();
                    return Err(broken(format!("session {session:?} has more than {} MiB", MAX_ENTRY >> 20)));
                }
                Ok(None)
            }
            (_, _, None) => Err(broken("it has no timestamp, nor a delay after a line of its session")),
            (_, _, Some(at_ns)) => {
                if !session.is_empty() {
                    self.sessions.insert(session.clone(), entries.len());
                }
                let label = label(&line)?;
                Ok(Some(v1::Entry { turns: vec![turn], label, session, at_ns: Some(at_ns) }))
            }
        }
    }
}

/// Entries that have times go in the order of these, counted from the first: a trace cut from the middle of another
/// does not begin with a silence.
pub(super) fn in_order_of_time(entries: &mut [v1::Entry]) {
    entries.sort_by_key(|entry| entry.at_ns);
    let first = entries.first().and_then(|entry| entry.at_ns).unwrap_or(0);
    for at_ns in entries.iter_mut().filter_map(|entry| entry.at_ns.as_mut()) {
        *at_ns -= first;
    }
}

fn session(line: &Map<String, Value>) -> Result<String, Flaw> {
    match line.get("session_id") {
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => Ok(name(text(line, "session_id")?.unwrap_or_default())),
    }
}

/// Milliseconds under a name, as ns.
fn ms(line: &Map<String, Value>, name: &str) -> Result<Option<i64>, Flaw> {
    let Some(value) = line.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
    let ms = value.as_f64().filter(|ms| (0.0..=LONGEST_MS).contains(ms));
    let wrong = || broken(format!("{name} is {}, not milliseconds of a week", short(value)));
    ms.map(|ms| Some((ms * 1e6).round() as i64)).ok_or_else(wrong)
}

fn content(line: &Map<String, Value>, reading: &Reading<'_>) -> Result<v1::Turn, Flaw> {
    let output = positive(line, &["output_length"])?;
    if let Some(list) = line.get("messages") {
        return jsonl::messages(list, reading.output(output), reading);
    }
    let words = positive(line, &["input_length"])?.filter(|&n| n <= MAX_INPUT_WORDS);
    let words = words.ok_or_else(|| broken("it has no input_length, or one beyond every model's"))?;
    let output = output.or(reading.output_len).ok_or_else(|| broken("it has no output_length"))?;
    let ids = ids(line)?;
    let blocks = words.div_ceil(BLOCK);
    if ids.len() as u64 > u64::from(blocks) {
        return Err(broken(format!("{} hash_ids for {blocks} blocks of {BLOCK}", ids.len())));
    }
    let blocks = v1::Blocks { ids, block_words: BLOCK, words };
    Ok(turn(Content::Blocks(blocks), reading.output(Some(output)), words))
}

fn ids(line: &Map<String, Value>) -> Result<Vec<u64>, Flaw> {
    let Some(value) = line.get("hash_ids").filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
    let wrong = || broken(format!("hash_ids is {}, not a list of whole numbers", short(value)));
    // Some traces have hashes with a sign: the same 64 bits name the same block.
    let id = |id: &Value| id.as_u64().or(id.as_i64().map(|n| n as u64)).ok_or_else(wrong);
    value.as_array().ok_or_else(wrong)?.iter().map(id).collect()
}
