//! What an entry of a dataset needs and weighs.

use prost::Message;
use tailcliff_proto::v1::{self, turn::Content};

use crate::corpus::Corpus;

/// Bytes of a word of a block and its space, about.
const WORD_BYTES: u64 = 7;

/// It is a conversation, or brings messages.
pub(super) fn needs_chat(entry: &v1::Entry) -> bool {
    let users = entry.turns.iter().filter(|turn| matches!(turn.content, Some(Content::User(_)))).count();
    users > 1 || entry.turns.iter().any(|turn| matches!(turn.content, Some(Content::MessagesJson(_))))
}

/// Bytes of a request, on average over the entries: history counts at its longest.
pub(super) fn mean_bytes(corpus: &Corpus) -> u64 {
    let blocks = |turn: &v1::Turn| match &turn.content {
        Some(Content::Blocks(blocks)) => u64::from(blocks.words) * WORD_BYTES,
        _ => 0,
    };
    let bytes =
        |entry: &v1::Entry| entry.encoded_len() as u64 + entry.turns.iter().map(blocks).max().unwrap_or(0);
    let all: u64 = corpus.entries().iter().map(bytes).sum();
    all / corpus.entries().len().max(1) as u64
}
