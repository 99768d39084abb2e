//! Builds request bodies. Servers keep the beginnings of prompts that they have seen, so synthetic prompts part within
//! their first eight words, most of them at the first; everything follows from the seed and a request's numbers, so that
//! a run can be repeated. A body is made before its request is due: none of this is part of any latency.

mod entry;
mod fields;
mod render;
mod script;
mod synthetic;

use std::sync::Arc;

use bytes::Bytes;
use tailcliff_proto::tokens::TokenCounter;
use tailcliff_proto::words::mix;
use tailcliff_proto::{MAX_INPUT_WORDS, v1};

use crate::corpus::Corpus;
use crate::pick::Order;
use crate::target::{Endpoint, Target};

use fields::Fields;
pub use script::{About, Prepared, Script};
use synthetic::Synthetic;

/// Makes the bodies of one level.
#[derive(Debug)]
pub struct Bodies {
    fields: Fields,
    source: Source,
    corpus: Option<Arc<Corpus>>,
    label: Arc<str>,
    seed: u64,
    max_tokens: u32,
    /// Some sessions have more than one turn.
    has_sessions: bool,
}

/// Which request (or session) of the run.
#[derive(Clone, Copy, Debug)]
struct Place {
    level: u32,
    stream: u32,
    /// Within the stream, from 0.
    number: u64,
}

#[derive(Debug)]
enum Source {
    /// JSON text between the quotes, the same for every request.
    Fixed(Vec<u8>),
    /// Words to draw.
    Words(Synthetic),
    /// Entries of the corpus, with what their blocks are made of.
    Entries(Order, Synthetic),
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
    TooManyWords(u64),
    /// JSON has no such number.
    #[error("failed to build request bodies: the {0} is not a number")]
    NotANumber(&'static str),
    /// A synthetic part that makes no sense.
    #[error("failed to build request bodies: {0}")]
    Synthetic(&'static str),
    /// Another corpus than the one that is here.
    #[error("failed to build request bodies: the dataset has not arrived at this agent")]
    NoCorpus,
    /// What has only a prompt cannot carry a conversation.
    #[error("failed to build request bodies: a completions endpoint takes one prompt, not a conversation")]
    Conversation,
    /// A part could not be written as JSON.
    #[error("failed to write the request body: {0}")]
    Json(#[from] serde_json::Error),
}

impl Bodies {
    /// Bodies of a workload for a target, from `corpus` where the workload picks from one. A fixed prompt is sent as it
    /// is to every request, and servers will cache it.
    pub fn new(
        target: &Target,
        workload: &v1::Workload,
        corpus: Option<Arc<Corpus>>,
    ) -> Result<Bodies, BodyError> {
        let fields = Fields::new(target, workload)?;
        let source = source_of(&fields, workload, corpus.as_deref())?;
        let is_chat = fields.endpoint() == Endpoint::Chat;
        let talks = match &source {
            Source::Words(words) => words.turns() > 1,
            Source::Entries(..) => corpus.as_ref().is_some_and(|c| c.entries().iter().any(entry::needs_chat)),
            Source::Fixed(_) | Source::Absent => false,
        };
        if talks && !is_chat {
            return Err(BodyError::Conversation);
        }
        let is_session = |entry: &v1::Entry| entry.turns.len() > 1;
        let has_sessions = match &source {
            Source::Entries(..) => corpus.as_ref().is_some_and(|c| c.entries().iter().any(is_session)),
            Source::Words(_) | Source::Fixed(_) | Source::Absent => talks,
        };
        Ok(Bodies {
            has_sessions,
            fields,
            source,
            corpus,
            label: workload.label.as_str().into(),
            seed: workload.seed,
            max_tokens: workload.max_tokens,
        })
    }

    /// A stream's requests, one after another.
    pub fn script(self: &Arc<Self>, level: u32, stream: u32) -> Script {
        Script::new(self.clone(), level, stream)
    }

    /// The session of a level's arrival number `number`, one turn after another.
    pub fn session(self: &Arc<Self>, level: u32, number: u64) -> Script {
        Script::at(self.clone(), level, number)
    }

    /// What servers answer is of use: as a session's history, or to be counted where they do not count.
    pub fn wants_answers(&self) -> bool {
        self.has_sessions || self.counter().is_some()
    }

    /// One request on its own: of a session, its first turn. The same for the same seed and numbers; a synthetic one of
    /// eight words or more is unlike every other.
    pub fn prepare(&self, level: u32, stream: u32, request: u64) -> Prepared {
        self.turn(Place { level, stream, number: request }, 0, &mut Vec::new())
    }

    /// The body alone of [`Self::prepare`].
    pub fn body(&self, level: u32, stream: u32, request: u64) -> Bytes {
        self.prepare(level, stream, request).body
    }

    /// Counts tokens of answers where the server does not; `None` when no tokenizer was given.
    pub fn counter(&self) -> Option<&TokenCounter> {
        self.corpus.as_deref().and_then(Corpus::counter)
    }

    /// Bytes of one body, about: on average over a dataset, at the longest turn of a synthetic session.
    pub(crate) fn typical_bytes(&self) -> u64 {
        let head = self.fields.bytes();
        head + match &self.source {
            Source::Fixed(text) => text.len() as u64,
            Source::Words(words) => words.bytes(self.max_tokens),
            Source::Entries(..) => self.corpus.as_deref().map_or(0, entry::mean_bytes),
            Source::Absent => 0,
        }
    }

    /// 64 bits that name the request (or session). Collisions are those of a random function: 10⁶ requests share one
    /// with probability 3 in 10⁸.
    fn key(&self, Place { level, stream, number }: Place) -> u64 {
        let place = u64::from(level) << 32 | u64::from(stream);
        [place, number].into_iter().fold(mix(self.seed), |key, part| mix(key ^ mix(part)))
    }
}

fn source_of(fields: &Fields, workload: &v1::Workload, corpus: Option<&Corpus>) -> Result<Source, BodyError> {
    if fields.has_own_prompt() {
        return Ok(Source::Absent);
    }
    if let Some(pick) = &workload.pick {
        let corpus = corpus.filter(|corpus| corpus.id() == pick.corpus_id).ok_or(BodyError::NoCorpus)?;
        // Without entries it is there for its tokenizer alone.
        if let Some(order) = Order::new(corpus.entries().len(), workload.seed, pick) {
            let words = v1::Workload { input_words: 1, ..workload.clone() };
            return Ok(Source::Entries(order, Synthetic::new(&words)?));
        }
    }
    if !workload.prompt.is_empty() {
        let quoted = serde_json::to_vec(&workload.prompt)?;
        return Ok(Source::Fixed(quoted[1..quoted.len() - 1].to_vec()));
    }
    match workload.input_words.max(workload.input_chars) {
        0 => Err(BodyError::NoPrompt),
        count if count > MAX_INPUT_WORDS => Err(BodyError::TooManyWords(u64::from(count))),
        _ => Ok(Source::Words(Synthetic::new(workload)?)),
    }
}

#[cfg(test)]
mod tests;
