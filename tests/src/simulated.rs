//! Requests of virtual levels as records, so that the product judges them as it judges an agent's.

use model_sim::VirtualRequest;
use tailcliff_proto::v1;

/// As an agent would report it, its clock being the level's; one without an end was under way at `until_ns`.
pub fn record(request: &VirtualRequest, until_ns: i64) -> v1::RequestRecord {
    let outcome = if request.done_ns.is_some() { v1::Outcome::Completed } else { v1::Outcome::Incomplete };
    v1::RequestRecord {
        outcome: outcome as i32,
        phase: v1::Phase::Measured as i32,
        intended_raw_ns: request.sent_ns,
        issued_raw_ns: Some(request.sent_ns),
        sent_raw_ns: Some(request.sent_ns),
        first_token_raw_ns: request.first_ns,
        last_token_raw_ns: request.done_ns,
        done_raw_ns: request.done_ns.unwrap_or(until_ns),
        prompt_tokens: Some(request.prompt_tokens),
        output_tokens: Some(request.output_tokens),
        content_chunks: request.output_tokens as u32,
        longest_gap_ns: Some(request.longest_gap_ns),
        ..v1::RequestRecord::default()
    }
}
