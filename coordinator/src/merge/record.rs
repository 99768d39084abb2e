//! What one record says, as durations of its agent's own clock: the definitions that agents cut their windows by. A
//! stamp that is missing, or that a broken agent sent out of order, gives no duration.

use tailcliff_proto::v1::{Outcome, RequestRecord};

use crate::stored::Incarnation;

/// Agent, level, stream, number and attempt: one try of a request. A name does not tell two lives of one agent apart.
pub(crate) type Try = (Incarnation, u32, u32, u64, u32);

/// Which try a record of agent `of` is of.
pub(crate) fn one_try(of: Incarnation, record: &RequestRecord) -> Try {
    (of, record.level, record.stream, record.request, record.attempt)
}

/// How it ended; a value this build does not know counts as incomplete.
pub(crate) fn outcome(record: &RequestRecord) -> Outcome {
    Outcome::try_from(record.outcome)
        .ok()
        .filter(|o| *o != Outcome::Unspecified)
        .unwrap_or(Outcome::Incomplete)
}

/// Intended send → end, ns.
pub(crate) fn e2e_ns(record: &RequestRecord) -> Option<i64> {
    span(record.intended_raw_ns, record.done_raw_ns)
}

/// Intended send → first token, ns.
pub(crate) fn ttft_ns(record: &RequestRecord) -> Option<i64> {
    span(record.intended_raw_ns, record.first_token_raw_ns?)
}

/// Time per token after the first, ns; needs two tokens, which came in two chunks at least.
pub(crate) fn tpot_ns(record: &RequestRecord) -> Option<i64> {
    let steps = i64::try_from(record.output_tokens?.checked_sub(1)?).ok().filter(|n| *n > 0)?;
    gaps(record).map(|(span, _)| span / steps)
}

/// Sum of the gaps between content chunks in ns, and how many they are.
pub(crate) fn gaps(record: &RequestRecord) -> Option<(i64, u64)> {
    let gaps = u64::from(record.content_chunks).checked_sub(1).filter(|n| *n > 0)?;
    Some((span(record.first_token_raw_ns?, record.last_token_raw_ns?)?, gaps))
}

fn span(from: i64, to: i64) -> Option<i64> {
    to.checked_sub(from).filter(|ns| *ns >= 0)
}
