//! Reads datasets of the field's formats and turns them into entries that agents can send. One file a format; what they
//! share is here: which lines are broken, which merely unfit, and how long a prompt is.

mod corpus;
mod jsonl;
mod mooncake;
mod openai_batch;
mod sharegpt;
mod split;
mod words;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use prost::Message;
use serde_json::{Map, Value};
use tailcliff_proto::tokens::TokenCounter;
use tailcliff_proto::{MAX_CORPUS_BYTES, MAX_ENTRIES, v1};

pub use corpus::Corpus;
pub use words::one_token_words;

/// Bytes of a dataset's file that are read.
const MAX_FILE: u64 = 2 << 30;
/// Bytes of one entry: it travels in one message.
const MAX_ENTRY: usize = 8 << 20;
/// Longest answer that an entry may ask for, tokens.
const MAX_OUTPUT: u64 = 10_000_000;
/// Flaws that are repeated to the user.
const EXAMPLES: usize = 3;

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Conversations of humans and models.
    ShareGpt,
    /// A line of JSON with `prompt` or `messages`.
    Jsonl,
    /// The input of OpenAI's batch service.
    OpenAiBatch,
    /// A trace of lengths, times and shared blocks.
    Mooncake,
}

/// How a dataset is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// What is in the file.
    pub format: Format,
    /// The endpoint takes messages.
    pub chat: bool,
    /// Path of the endpoint, which a batch must be meant for.
    pub endpoint: &'a str,
    /// Of conversations: all turns, not the first alone.
    pub multi_turn: bool,
    /// Length of every answer, whatever the dataset says.
    pub output_len: Option<u32>,
    /// Length of answers that the dataset says nothing of.
    pub default_output_len: u32,
    /// Entries to read.
    pub limit: usize,
    /// Bytes of entries at most, [`MAX_CORPUS_BYTES`] but in tests.
    pub most_bytes: usize,
    /// Leave out broken lines.
    pub skip_broken: bool,
    /// Counts tokens; words without it.
    pub counter: Option<&'a TokenCounter>,
    /// Fields that the user's extra body brings: they win over the dataset's.
    pub extra_body: Option<&'a Map<String, Value>>,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Dataset {
    /// Entries in the order of the file, or of their times.
    pub entries: Vec<v1::Entry>,
    /// Lines left out because they are broken.
    pub broken: u64,
    /// Lines left out because nothing in them can be sent.
    pub unfit: u64,
    /// Some of both, with their lines.
    pub examples: Vec<String>,
    /// Of the file's bytes.
    pub crc32c: u32,
}

/// Why a dataset cannot be used; each is one line.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file cannot be read.
    #[error("failed to read {}: {reason}", path.display())]
    File {
        /// As given.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A broken line, or a broken element of an array.
    #[error("{} line {line}: {reason}; mend it, or give --dataset-errors skip", path.display())]
    Line {
        /// As given.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// The file's outer form is broken, so that nothing after it can be read.
    #[error("{} line {line}: {reason}; what follows cannot be told apart", path.display())]
    Torn {
        /// As given.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// Nothing to send.
    #[error("{} holds no entry that can be sent{hint}", path.display())]
    Empty {
        /// As given.
        path: PathBuf,
        /// What was left out.
        hint: String,
    },
    /// More than agents are sent.
    #[error("{} has more than {MAX_ENTRIES} entries or {} MiB of them: try --dataset-limit {fits}", path.display(), MAX_CORPUS_BYTES >> 20)]
    TooLarge {
        /// As given.
        path: PathBuf,
        /// Entries that would fit.
        fits: usize,
    },
}

/// What is wrong with one line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It is not what the format says.
    Broken(String),
    /// It is, but holds nothing to send; such lines are common in real datasets and never stop a run.
    Unfit(&'static str),
}

fn broken(reason: impl Into<String>) -> Flaw {
    Flaw::Broken(reason.into())
}

/// Reads a dataset.
///
/// # Errors
/// A file that cannot be read, a broken line unless those are skipped, nothing to send, or too much.
pub fn read(path: &Path, reading: &Reading<'_>) -> Result<Dataset, DatasetError> {
    let bytes = read_file(path)?;
    let mut dataset = Dataset { crc32c: crc32c::crc32c(&bytes), ..Dataset::default() };
    let mut trace = mooncake::Trace::default();
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut size = 0;
    for element in split::elements(text, reading.format == Format::ShareGpt) {
        if dataset.entries.len() >= reading.limit {
            break;
        }
        let (line, element) =
            element.map_err(|(line, reason)| DatasetError::Torn { path: path.to_owned(), line, reason })?;
        let entry = match reading.format {
            Format::ShareGpt => sharegpt::entry(element, reading).map(Some),
            Format::Jsonl => jsonl::entry(element, reading).map(Some),
            Format::OpenAiBatch => openai_batch::entry(element, reading).map(Some),
            Format::Mooncake => trace.take(element, reading, &mut dataset.entries),
        };
        match entry.and_then(|entry| entry.map(bounded).transpose()) {
            Ok(Some(entry)) => {
                size += entry.encoded_len();
                dataset.entries.push(entry);
            }
            // A turn more of an entry that is there: about as long as its line.
            Ok(None) => size += element.len(),
            Err(flaw) => dataset.leave_out(path, line, flaw, reading.skip_broken)?,
        }
        if size > reading.most_bytes || dataset.entries.len() > MAX_ENTRIES {
            let fits = dataset.entries.len() - 1;
            return Err(DatasetError::TooLarge { path: path.to_owned(), fits });
        }
    }
    mooncake::in_order_of_time(&mut dataset.entries);
    match dataset.entries.is_empty() {
        true => Err(DatasetError::Empty { path: path.to_owned(), hint: dataset.left_out_words() }),
        false => Ok(dataset),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, DatasetError> {
    let fail = |reason: String| DatasetError::File { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|e| fail(e.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| fail(e.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(fail(format!("it has more than {} GiB: cut it", MAX_FILE >> 30)));
    }
    Ok(bytes)
}

fn bounded(entry: v1::Entry) -> Result<v1::Entry, Flaw> {
    let bytes = entry.encoded_len();
    match bytes > MAX_ENTRY {
        true => Err(broken(format!(
            "its {} MiB are more than the {} MiB of a message",
            bytes >> 20,
            MAX_ENTRY >> 20
        ))),
        false => Ok(entry),
    }
}

impl Dataset {
    fn leave_out(&mut self, path: &Path, line: u64, flaw: Flaw, skip: bool) -> Result<(), DatasetError> {
        let reason = match flaw {
            Flaw::Broken(reason) if !skip => {
                return Err(DatasetError::Line { path: path.to_owned(), line, reason });
            }
            Flaw::Broken(reason) => {
                self.broken += 1;
                reason
            }
            Flaw::Unfit(reason) => {
                self.unfit += 1;
                reason.to_owned()
            }
        };
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("line {line}: {reason}"));
        }
        Ok(())
    }

    fn left_out_words(&self) -> String {
        match self.examples.first() {
            Some(example) => format!(": {} lines were left out, {example}", self.broken + self.unfit),
            None => String::new(),
        }
    }
}

impl Reading<'_> {
    /// Length of a text in tokens, or in words without a tokenizer.
    fn length(&self, text: &str) -> Result<u32, Flaw> {
        let length = match self.counter {
            Some(counter) => {
                counter.count(text).ok_or_else(|| broken("the tokenizer cannot take its text apart"))?
            }
            None => text.split_whitespace().count() as u64,
        };
        Ok(u32::try_from(length).unwrap_or(u32::MAX))
    }

    /// What an answer may have: as the user says, else as the dataset says, else the default.
    fn output(&self, of_dataset: Option<u32>) -> u32 {
        self.output_len.or(of_dataset).unwrap_or(self.default_output_len).max(1)
    }
}

/// A whole number of at least 1 under one of these names.
fn positive(object: &Map<String, Value>, names: &[&str]) -> Result<Option<u32>, Flaw> {
    let given = names.iter().find_map(|name| object.get(*name).filter(|v| !v.is_null()).map(|v| (name, v)));
    let Some((name, value)) = given else { return Ok(None) };
    let number = value.as_u64().filter(|n| (1..=MAX_OUTPUT).contains(n));
    let wrong = || broken(format!("{name} is {}, not a number of 1 or more", short(value)));
    number.map(|n| Some(n as u32)).ok_or_else(wrong)
}

/// A text under a name; absent is none, another type a flaw.
fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Flaw> {
    match object.get(name).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(broken(format!("{name} is {}, not a text", short(other)))),
    }
}

/// A label that fits a column.
fn label(object: &Map<String, Value>) -> Result<String, Flaw> {
    let label = text(object, "label")?.unwrap_or_default();
    match label.chars().count() <= MAX_LABEL && !label.chars().any(char::is_control) {
        true => Ok(label.to_owned()),
        false => Err(broken(format!("its label is no short word (at most {MAX_LABEL} characters)"))),
    }
}

/// Characters of a label or a name.
pub const MAX_LABEL: usize = 64;

/// A name of the dataset's own, cut to what a column holds.
fn name(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_LABEL).collect()
}

fn object(json: &[u8]) -> Result<Map<String, Value>, Flaw> {
    match serde_json::from_slice(json) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(broken(format!("{} is no JSON object", short(&other)))),
        Err(error) => Err(broken(not_json(&error))),
    }
}

/// What the parser says, with the column in the line but without its line, which is always the first.
fn not_json(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or_default();
    format!("not JSON: {said} at column {}", error.column())
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    let cut: String = text.chars().take(24).collect();
    if cut.len() < text.len() { format!("{cut}…") } else { cut }
}

/// A turn with everything but its place in a session.
fn turn(content: v1::turn::Content, max_tokens: u32, input_len: u32) -> v1::Turn {
    v1::Turn { content: Some(content), max_tokens, input_len, ..Default::default() }
}

#[cfg(test)]
mod tests;
