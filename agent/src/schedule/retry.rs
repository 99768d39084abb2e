//! When a request is tried again, and after which rest. Off unless asked for: a retry is load that the server did not
//! cause to be offered, and under overload more of it.

use tailcliff_proto::v1::{Outcome, RequestRecord};

use super::random::Random;

/// Longest rest before a retry, ns.
const LONGEST_REST_NS: i64 = 10_000_000_000;
/// Keeps the rests' sequence apart from others of the same seed.
const RESTS: u64 = 0x7265_7374_7300_0000;
/// Answers that ask for another try: too many requests, and three ways of not being there just now.
const TRY_LATER: [u32; 4] = [429, 502, 503, 504];

/// A policy of retries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Tries beyond the first; 0 for none.
    pub tries: u32,
    /// Longest rest before the first of them, ns; it doubles with each, up to 10 s.
    pub backoff_ns: i64,
    /// What the rests follow from, with the request's numbers.
    pub seed: u64,
}

impl Retry {
    /// The rest before the next try, ns; `None` when `record`, the try numbered `attempt` from 0, is the last. Only what
    /// failed before a byte of a reply, or with a status that says "later", is tried again.
    pub fn rest_ns(&self, record: &RequestRecord, attempt: u32) -> Option<i64> {
        if attempt >= self.tries || !is_worth_another(record) {
            return None;
        }
        let most = self.backoff_ns.saturating_mul(1 << attempt.min(30)).clamp(0, LONGEST_REST_NS);
        let place = u64::from(record.level) << 32 | u64::from(record.stream);
        let mut random = Random::of(&[RESTS, self.seed, place, record.request, u64::from(attempt)]);
        // Full jitter: requests that failed together must not come back together.
        Some((random.unit() * most as f64) as i64)
    }
}

fn is_worth_another(record: &RequestRecord) -> bool {
    if record.outcome() != Outcome::Failed {
        return false;
    }
    match record.http_status {
        Some(status) => TRY_LATER.contains(&status),
        None => record.headers_raw_ns.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(http_status: Option<u32>) -> RequestRecord {
        RequestRecord { outcome: Outcome::Failed as i32, http_status, ..Default::default() }
    }

    const RETRY: Retry = Retry { tries: 3, backoff_ns: 100_000_000, seed: 1 };

    #[test]
    fn only_what_the_server_has_not_begun_to_answer_is_tried_again() {
        let again = |record: RequestRecord| RETRY.rest_ns(&record, 0).is_some();
        assert!(again(failed(None)) && again(failed(Some(429))) && again(failed(Some(503))));
        assert!(!again(failed(Some(500))) && !again(failed(Some(400))));
        assert!(!again(RequestRecord { headers_raw_ns: Some(1), ..failed(None) }));
        assert!(!again(failed(Some(200))), "a stream that broke half-way has begun");
        assert!(!again(RequestRecord { outcome: Outcome::Completed as i32, ..failed(None) }));
        assert!(!again(RequestRecord { outcome: Outcome::Incomplete as i32, ..failed(None) }));
        assert_eq!(Retry::default().rest_ns(&failed(None), 0), None, "off by default");
        assert_eq!(RETRY.rest_ns(&failed(None), 3), None, "three retries and no more");
    }

    #[test]
    fn rests_double_are_spread_bounded_and_the_same_again() {
        let rests = |attempt: u32| -> Vec<i64> {
            let retry = Retry { tries: 100, ..RETRY };
            let of = |request| RequestRecord { request, ..failed(None) };
            (0..1_000).map(|request| retry.rest_ns(&of(request), attempt).unwrap()).collect()
        };
        for (attempt, most) in [(0, 100_000_000), (1, 200_000_000), (4, 1_600_000_000), (60, LONGEST_REST_NS)]
        {
            let all = rests(attempt);
            assert!(all.iter().all(|ns| (0..=most).contains(ns)), "{attempt}");
            let mean = all.iter().sum::<i64>() / 1_000;
            assert!((mean - most / 2).abs() < most / 20, "{attempt}: {mean}");
            assert_eq!(all, rests(attempt));
        }
    }
}
