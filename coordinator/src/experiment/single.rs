//! One request of an experiment, as far as its figures ask, and of what class its failure is.

use tailcliff_proto::v1::{Outcome, Phase, RequestRecord};

use crate::merge::timeline::Timeline;
use crate::merge::{record, tally};
use crate::stored::{Incarnation, RunData};

/// Longest text of a failure that is kept.
const LONGEST_DETAIL: usize = 300;

/// One request of the measured phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Single {
    /// Intended send and end on the coordinator's clock, ns; `None` without a clock track.
    pub times_ns: Option<(i64, i64)>,
    /// A whole answer.
    pub completed: bool,
    /// Why it failed; `None` of what did not.
    pub failure: Option<Failure>,
    /// Intended send → end, ns.
    pub e2e_ns: Option<i64>,
    /// Intended send → first token, ns.
    pub ttft_ns: Option<i64>,
    /// Per token after the first, ns.
    pub tpot_ns: Option<i64>,
    /// Tokens of the answer.
    pub output_tokens: Option<u64>,
    /// Length of the prompt in the plan's unit.
    pub input_len: Option<u32>,
}

/// Why a request failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// In words, the same for all of a kind.
    pub class: String,
    /// What another try would be.
    pub again: Again,
    /// What was said.
    pub detail: String,
}

/// What another try of a failed request would be to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Again {
    /// The server did no work for it and says so: another try may find room.
    TurnedAway,
    /// The server may still be at it: another try is the same work twice.
    WorkTwice,
    /// Nothing is known of what another try would meet.
    #[default]
    Unknown,
}

/// Those of one level's measured phase, in the order of their intended sends, as far as that is known.
pub(crate) fn singles(data: &RunData, level: u32, timeline: &Timeline) -> Vec<Single> {
    let mut all = Vec::new();
    for (of, node) in tally::agents(data) {
        for batch in node.each_batch_of(level) {
            let records =
                batch.records.iter().filter(|r| r.level == level && r.phase == Phase::Measured as i32);
            all.extend(records.map(|record| single(of, record, timeline)));
        }
    }
    all.sort_by_key(|single: &Single| single.times_ns);
    all
}

fn single(of: Incarnation, record: &RequestRecord, timeline: &Timeline) -> Single {
    let place = |raw| timeline.place(of, raw).map(|at| at.ns);
    let outcome = record::outcome(record);
    let completed = outcome == Outcome::Completed;
    // What the client paused on purpose is in no latency.
    let is_timed = completed && !record.is_control();
    Single {
        times_ns: place(record.intended_raw_ns).zip(place(record.done_raw_ns)),
        completed,
        failure: (outcome == Outcome::Failed).then(|| failure(record)),
        e2e_ns: record::e2e_ns(record).filter(|_| is_timed),
        ttft_ns: record::ttft_ns(record).filter(|_| is_timed),
        tpot_ns: record::tpot_ns(record).filter(|_| is_timed),
        output_tokens: record.output_tokens,
        input_len: record.input_len,
    }
}

fn failure(record: &RequestRecord) -> Failure {
    let (class, again) = class(record);
    let detail: String = record.error_detail.chars().take(LONGEST_DETAIL).collect();
    Failure { class, again, detail }
}

fn class(record: &RequestRecord) -> (String, Again) {
    let where_ = if record.first_token_raw_ns.is_none() { "before the first token" } else { "in mid-answer" };
    let (words, again) = match record.error_kind.as_str() {
        "timeout" => (format!("timeout {where_}"), Again::WorkTwice),
        "read_timeout" => (format!("silence {where_}"), Again::WorkTwice),
        "http_status" => of_status(record.http_status),
        "connect_refused" => ("connection refused".to_owned(), Again::TurnedAway),
        "connect_reset" => ("connection reset".to_owned(), Again::TurnedAway),
        "connect_timeout" => ("no connection in time".to_owned(), Again::TurnedAway),
        "early_end" => (format!("connection ended {where_}"), Again::Unknown),
        "stale_connection" => ("kept connection had died".to_owned(), Again::Unknown),
        "malformed" => (format!("broken reply {where_}"), Again::Unknown),
        "error_event" => (format!("error sent {where_}"), Again::Unknown),
        "client_limit" => ("limit of the client's host".to_owned(), Again::Unknown),
        "" => ("no reason told".to_owned(), Again::Unknown),
        other => (other.replace('_', " "), Again::Unknown),
    };
    (words, again)
}

fn of_status(status: Option<u32>) -> (String, Again) {
    match status {
        Some(status @ (429 | 502 | 503 | 504)) => (format!("HTTP {status}"), Again::TurnedAway),
        Some(status) => (format!("HTTP {status}"), Again::Unknown),
        None => ("HTTP status".to_owned(), Again::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: &str, http_status: Option<u32>, first_token_raw_ns: Option<i64>) -> (String, Again) {
        class(&RequestRecord {
            error_kind: kind.to_owned(),
            http_status,
            first_token_raw_ns,
            ..Default::default()
        })
    }

    #[test]
    fn failures_are_told_apart_by_how_far_they_came() {
        let told = |kind, status, token, words: &str, again| {
            assert_eq!(failed(kind, status, token), (words.to_owned(), again));
        };
        told("timeout", None, None, "timeout before the first token", Again::WorkTwice);
        told("timeout", Some(200), Some(1), "timeout in mid-answer", Again::WorkTwice);
        told("http_status", Some(503), None, "HTTP 503", Again::TurnedAway);
        told("http_status", Some(429), None, "HTTP 429", Again::TurnedAway);
        told("http_status", Some(500), None, "HTTP 500", Again::Unknown);
        told("connect_refused", None, None, "connection refused", Again::TurnedAway);
        told("early_end", Some(200), Some(1), "connection ended in mid-answer", Again::Unknown);
        told("some_new_kind", None, None, "some new kind", Again::Unknown);
    }
}
