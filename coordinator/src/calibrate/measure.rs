//! What a client added, from what it saw and what the stub knows: pure. Both stamp the same host's raw clock, so that no
//! error bar lies between them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tailcliff_proto::histogram::LatencyHistogram;

use crate::local::{PREFLIGHT_ID, Served};
use crate::report::text::{json_ms, number};

/// One request as a client saw it, ns RAW.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its `x-request-id`.
    pub id: &'a str,
    /// When it was meant to go out.
    pub intended_ns: i64,
    /// When it was written.
    pub sent_ns: i64,
    /// When its first token was read.
    pub first_token_ns: i64,
}

/// TTFT that a client added: its own, less the time between the stub's read of the request and its first write.
#[derive(Clone, Debug, Default)]
pub struct Added {
    /// From the stamp of the send.
    pub after_send: LatencyHistogram,
    /// From the intended send, which TTFT counts from.
    pub from_intended: LatencyHistogram,
    /// Requests that the stub does not know.
    pub unmatched: u64,
    /// Tokens that were seen before they were written: must be none.
    pub impossible: u64,
}

/// A client over one level.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// What it added.
    pub added: Added,
    /// Streams in flight by its own gauge, averaged over the window; `None` without one.
    pub held_gauge: Option<f64>,
    /// Requests between the stub's read and its last write, averaged over the window.
    pub held_stub: Option<f64>,
    /// CPU time of its load-making threads for each token, ns.
    pub cpu_ns_per_event: Option<f64>,
}

impl Client {
    /// Tokens for each second of its threads' CPU time.
    pub fn events_per_s_per_core(&self) -> Option<f64> {
        self.cpu_ns_per_event.filter(|ns| *ns > 0.0).map(|ns| 1e9 / ns)
    }

    pub(super) fn to_json(&self) -> Value {
        let of = |histogram: &LatencyHistogram| {
            let ms = |q| json_ms(histogram.quantile_ns(q).map(|ns| ns as f64));
            json!({ "p50": ms(0.5), "p99": ms(0.99) })
        };
        json!({
            "requests": self.added.after_send.len(),
            "added_ttft_after_send_ms": of(&self.added.after_send),
            "added_ttft_from_intended_ms": of(&self.added.from_intended),
            "held_gauge": number(self.held_gauge, 1),
            "held_stub": number(self.held_stub, 1),
            "cpu_us_per_event": number(self.cpu_ns_per_event.map(|ns| ns / 1e3), 3),
        })
    }
}

/// Compares each request that a client saw with what the stub knows of it.
pub fn added<'a>(seen: impl Iterator<Item = Seen<'a>>, served: &[Served]) -> Added {
    let known: BTreeMap<&str, &Served> = served.iter().map(|s| (s.id.as_str(), s)).collect();
    let mut added = Added::default();
    for seen in seen {
        let Some((read, first)) = known.get(seen.id).and_then(|s| Some((s.read_ns, s.first_write_ns()?)))
        else {
            added.unmatched += 1;
            continue;
        };
        let own = first - read;
        added.impossible += u64::from(seen.first_token_ns < first || seen.sent_ns > read);
        added.after_send.record(seen.first_token_ns - seen.sent_ns - own);
        added.from_intended.record(seen.first_token_ns - seen.intended_ns - own);
    }
    added
}

/// Requests that the stub had under way on average between two moments; `None` when there is no time between them.
pub fn held(served: &[Served], from_ns: i64, to_ns: i64) -> Option<f64> {
    let inside = |s: &Served| (s.last_write_ns().min(to_ns) - s.read_ns.max(from_ns)).max(0);
    let all: i64 = served.iter().map(inside).sum();
    (to_ns > from_ns).then(|| all as f64 / (to_ns - from_ns) as f64)
}

/// Tokens that the stub wrote for a load.
pub fn tokens(served: &[Served]) -> u64 {
    served.iter().filter(|s| s.id != PREFLIGHT_ID).map(Served::tokens).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    /// Read at 1 ms, first token written at 51 ms, the last at 91 ms.
    fn served(id: &str) -> Served {
        let writes = vec![(50 * MS as u64, 1), (40 * MS as u64, 1)];
        Served { id: id.to_owned(), read_ns: MS, writes, whole: true }
    }

    #[test]
    fn what_a_client_adds_is_its_own_time_less_the_stubs() {
        let seen = |id, sent_ns, first_token_ns| Seen { id, intended_ns: 0, sent_ns, first_token_ns };
        let all = [seen("a", MS / 2, 53 * MS), seen("b", 0, 60 * MS)];
        let stub = [served("a")];
        let found = added(all.into_iter(), &stub);
        assert_eq!((found.unmatched, found.impossible, found.after_send.len()), (1, 0, 1));
        let value = |h: &LatencyHistogram| h.quantile_ns(0.5).unwrap() / 10_000;
        assert_eq!((value(&found.after_send), value(&found.from_intended)), (250, 300), "2.5 and 3 ms");
        let early = [seen("a", 0, 50 * MS), seen("a", 2 * MS, 53 * MS)];
        assert_eq!(added(early.into_iter(), &stub).impossible, 2, "seen early; sent after it was read");
    }

    #[test]
    fn the_stub_counts_what_it_had_under_way() {
        let two = [served("a"), served("b")];
        assert_eq!(held(&two, MS, 91 * MS), Some(2.0));
        assert_eq!(held(&two, 46 * MS, 136 * MS), Some(1.0), "half of the window is after their ends");
        assert_eq!(held(&two, 5, 5), None);
        assert_eq!(tokens(&[served("a"), served(PREFLIGHT_ID)]), 2, "the preflight is no part of a load");
    }
}
