//! What one record says, as durations of its agent's own clock. A stamp that is missing gives no duration; one that a
//! broken agent sent out of order gives a negative one, which shows, and not a panic.

use tailcliff_proto::v1::{Outcome, RequestRecord};

/// How it ended; a value this build does not know counts as incomplete.
pub(crate) fn outcome(record: &RequestRecord) -> Outcome {
    Outcome::try_from(record.outcome)
        .ok()
        .filter(|o| *o != Outcome::Unspecified)
        .unwrap_or(Outcome::Incomplete)
}

/// Intended send → end, ns.
pub(crate) fn e2e_ns(record: &RequestRecord) -> i64 {
    record.done_raw_ns.saturating_sub(record.intended_raw_ns)
}

/// Intended send → first token, ns.
pub(crate) fn ttft_ns(record: &RequestRecord) -> Option<i64> {
    Some(record.first_token_raw_ns?.saturating_sub(record.intended_raw_ns))
}

/// Time per token after the first, ns; needs two tokens.
pub(crate) fn tpot_ns(record: &RequestRecord) -> Option<i64> {
    let span = record.last_token_raw_ns?.saturating_sub(record.first_token_raw_ns?);
    let tokens = i64::try_from(record.output_tokens?).ok()?;
    (tokens > 1).then(|| span / (tokens - 1))
}

/// Sum of the gaps between content chunks in ns, and how many they are.
pub(crate) fn gaps(record: &RequestRecord) -> Option<(i64, u64)> {
    let span = record.last_token_raw_ns?.saturating_sub(record.first_token_raw_ns?);
    let gaps = u64::from(record.content_chunks).checked_sub(1)?;
    (gaps > 0).then_some((span, gaps))
}
