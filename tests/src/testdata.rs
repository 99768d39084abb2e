//! Pieces of files for tests.

/// A line of a truth log.
pub(crate) fn truth_line(id: &str, outcome: &str, emissions: &[i64]) -> String {
    let record = serde_json::json!({
        "request_id": id, "connection": 0, "connection_accepted_ns": 0, "arrived_ns": 0, "enqueued_ns": null,
        "dequeued_ns": null, "first_token_ns": null, "emissions": emissions, "ended_ns": 0, "prompt_tokens": 0,
        "output_tokens": 0, "max_tokens": 0, "stream": true, "status": null, "outcome": outcome,
    });
    format!("{record}\n")
}
