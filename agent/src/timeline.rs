//! From a request's stamped events to its record; pure.
use tailcliff_proto::v1::RequestRecord;

/// Time to the first token, from `intended`, in ns.
pub fn ttft_ns(record: &RequestRecord) -> Option<u64> {
    u64::try_from(record.first_token_raw_ns? - record.intended_raw_ns).ok()
}

/// From `intended` to the end, in ns.
pub fn e2e_ns(record: &RequestRecord) -> Option<u64> {
    u64::try_from(record.done_raw_ns - record.intended_raw_ns).ok()
}

/// (last − first token) / (n − 1), in ns; n = output tokens, at least 2.
pub fn tpot_ns(record: &RequestRecord) -> Option<u64> {
    let gaps = record.output_tokens?.checked_sub(1).filter(|&g| g > 0)?;
    u64::try_from(record.last_token_raw_ns? - record.first_token_raw_ns?).ok().map(|ns| ns / gaps)
}
