//! Did one request keep its limits?

use tailcliff_proto::v1::{Outcome, RequestRecord};

use crate::merge::record::{e2e_ns, tpot_ns, ttft_ns};
use crate::plan::SloPlan;

/// `None` when nobody can say: it was given up before a limit was broken, or lacks the figure that a limit is on.
pub(crate) fn keeps(slo: &SloPlan, record: &RequestRecord, outcome: Outcome) -> Option<bool> {
    if outcome == Outcome::Failed {
        return Some(false);
    }
    let done = outcome == Outcome::Completed;
    let terms: Vec<_> = slo.terms.iter().map(|(metric, limit)| term(record, done, metric, *limit)).collect();
    if terms.contains(&Some(false)) {
        return Some(false);
    }
    (done && terms.iter().all(Option::is_some)).then_some(true)
}

fn term(record: &RequestRecord, done: bool, metric: &str, limit_ns: i64) -> Option<bool> {
    let within = |ns: i64| ns <= limit_ns;
    // What is not over has lasted at least so long.
    let so_far = || e2e_ns(record).filter(|ns| !within(*ns)).map(|_| false);
    match metric {
        "ttft" => match ttft_ns(record) {
            Some(ns) => Some(within(ns)),
            // An answer without a token never had its first one.
            None if done => Some(false),
            None => so_far(),
        },
        // One token has no time to the next, which is no fault.
        "tpot" => match tpot_ns(record).filter(|_| done) {
            Some(ns) => Some(within(ns)),
            None => (done && is_single(record)).then_some(true),
        },
        "itl" => match record.longest_gap_ns {
            Some(ns) => Some(within(ns)),
            None => (done && record.content_chunks < 2).then_some(true),
        },
        _ if done => e2e_ns(record).map(within),
        _ => so_far(),
    }
}

fn is_single(record: &RequestRecord) -> bool {
    record.content_chunks < 2 || record.output_tokens.is_some_and(|tokens| tokens < 2)
}
