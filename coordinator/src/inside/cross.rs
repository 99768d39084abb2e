//! The server's own histograms against what its clients saw. Between a scrape before a level and one after it both speak of
//! the same requests, if nobody else asked the server; the means' difference is then what lies between its front end and our
//! sockets: network and client.

use std::rc::Rc;

use tailcliff_proto::v1::{self, Outcome, ServerLatency};

use crate::clock::Aligned;
use crate::merge::record;
use crate::merge::tally::agents;
use crate::merge::timeline::Timeline;
use crate::stored::RunData;

use super::figures::Cross;
use super::series::{Hist, Totals};

/// Counts that differ by this share or less, or by one, are of the same requests.
const APART: f64 = 0.01;
/// In the order told.
const ALL: [ServerLatency; 7] = [
    ServerLatency::Ttft,
    ServerLatency::Itl,
    ServerLatency::Tpot,
    ServerLatency::E2e,
    ServerLatency::Queue,
    ServerLatency::Prefill,
    ServerLatency::Decode,
];

/// What to compare a level's requests with.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Of each endpoint the scrapes before and after.
    pub(super) pairs: Vec<(Rc<Totals>, Rc<Totals>)>,
    /// All of them, with such scrapes or without.
    pub(super) endpoints: usize,
}

/// What the client saw between the scrapes of a level.
#[derive(Debug, Default)]
struct Seen {
    edges: Edges,
    ttft: Sum,
    itl: Sum,
    tpot: Sum,
    e2e: Sum,
    /// Requests that got a first token and did not end as they should.
    cut: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    sum_ns: f64,
    count: u64,
    /// Such as came so near to a scrape that it may have them or not.
    unsure: u64,
}

/// Moments of the scrapes, earliest and latest, of all endpoints together.
#[derive(Clone, Copy, Debug, Default)]
struct Edges {
    from: (i64, i64),
    to: (i64, i64),
}

/// Where an event lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Within,
    Unsure,
    Outside,
}

impl Edges {
    fn of(pairs: &[(Rc<Totals>, Rc<Totals>)]) -> Option<Self> {
        let span = |a: (i64, i64), b: (i64, i64)| (a.0.min(b.0), a.1.max(b.1));
        let from = pairs.iter().map(|(a, _)| a.moment).reduce(span)?;
        let to = pairs.iter().map(|(_, b)| b.moment).reduce(span)?;
        Some(Self { from, to })
    }

    fn side(&self, at: Aligned) -> Side {
        let (early, late) = (at.ns.saturating_sub(at.bound_ns), at.ns.saturating_add(at.bound_ns));
        if early > self.from.1 && late < self.to.0 {
            Side::Within
        } else if late >= self.from.0 && early <= self.to.1 {
            Side::Unsure
        } else {
            Side::Outside
        }
    }
}

impl Sum {
    fn add(&mut self, side: Side, (ns, count): (i64, u64)) {
        match side {
            Side::Within => {
                self.sum_ns += ns as f64;
                self.count += count;
            }
            Side::Unsure => self.unsure += count,
            Side::Outside => {}
        }
    }

    fn mean_ns(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_ns / self.count as f64)
    }
}

/// Of each level; one look at every record for all of them. Requests of the levels beside it count where they lie between
/// the scrapes, as they do for the server.
pub(super) fn of_levels(data: &RunData, timeline: &Timeline, asked: &[Asked]) -> Vec<Vec<Cross>> {
    let tells = |asked: &&Asked| {
        asked.pairs.iter().any(|(a, b)| !a.histograms.is_empty() && !b.histograms.is_empty())
    };
    let edges = asked.iter().map(|asked| Some(asked).filter(tells).and_then(|asked| Edges::of(&asked.pairs)));
    let mut seen: Vec<Option<Seen>> =
        edges.map(|edges| edges.map(|edges| Seen { edges, ..Seen::default() })).collect();
    let mut unplaced = 0;
    if seen.iter().any(Option::is_some) {
        for (of, node) in agents(data) {
            for batch in node.each_batch() {
                for record in &batch.records {
                    let placed = |raw: i64| timeline.place(of, raw);
                    unplaced += u64::from(placed(record.done_raw_ns).is_none());
                    seen.iter_mut().flatten().for_each(|seen| seen.record(record, &placed));
                }
            }
        }
    }
    let told = |(asked, seen): (&Asked, Option<Seen>)| {
        seen.map_or_else(Vec::new, |seen| {
            ALL.iter().filter_map(|of| cross(*of, asked, &seen, unplaced)).collect()
        })
    };
    asked.iter().zip(seen).map(told).collect()
}

impl Seen {
    /// From the send on: the server cannot see what was before. It counts a first token whatever becomes of its request, and
    /// of whole requests those that end as they should.
    fn record(&mut self, record: &v1::RequestRecord, place: &impl Fn(i64) -> Option<Aligned>) {
        let side = |edges: &Edges, raw: i64| place(raw).map_or(Side::Outside, |at| edges.side(at));
        let Some(sent) = record.sent_raw_ns else { return };
        let completed = record::outcome(record) == Outcome::Completed;
        let span = |from: i64, to: i64| to.checked_sub(from).filter(|ns| *ns >= 0);
        if let Some(first) = record.first_token_raw_ns {
            let at = side(&self.edges, first);
            span(sent, first).into_iter().for_each(|ns| self.ttft.add(at, (ns, 1)));
            self.cut += u64::from(!completed && at == Side::Within);
        }
        if let (Some(last), Some(gaps)) = (record.last_token_raw_ns, record::gaps(record)) {
            self.itl.add(side(&self.edges, last), gaps);
        }
        if !completed {
            return;
        }
        let at = side(&self.edges, record.done_raw_ns);
        let end = record.last_chunk_raw_ns.unwrap_or(record.done_raw_ns);
        span(sent, end).into_iter().for_each(|ns| self.e2e.add(at, (ns, 1)));
        record::tpot_ns(record).into_iter().for_each(|ns| self.tpot.add(at, (ns, 1)));
    }

    fn of(&self, of: ServerLatency) -> Option<Sum> {
        match of {
            ServerLatency::Ttft => Some(self.ttft),
            ServerLatency::Itl => Some(self.itl),
            ServerLatency::Tpot => Some(self.tpot),
            ServerLatency::E2e => Some(self.e2e),
            _ => None,
        }
    }
}

/// What the endpoints' histograms grew by between their scrapes.
struct Server {
    grown: Hist,
    /// Endpoints that told.
    endpoints: usize,
    /// All have the same buckets.
    alike: bool,
    restarted: bool,
}

fn server(of: ServerLatency, asked: &Asked) -> Option<Server> {
    let mut told: Option<Server> = None;
    for (a, b) in &asked.pairs {
        let grown = a.histograms.get(&(of as i32)).zip(b.histograms.get(&(of as i32)));
        let Some(grown) = grown.and_then(|(a, b)| b.since(a)) else { continue };
        let restarted = b.restarts > a.restarts;
        match &mut told {
            None => told = Some(Server { grown, endpoints: 1, alike: true, restarted }),
            Some(all) => {
                all.alike &= all.grown.upper_s == grown.upper_s;
                all.grown.add(&grown);
                all.endpoints += 1;
                all.restarted |= restarted;
            }
        }
    }
    told
}

fn cross(of: ServerLatency, asked: &Asked, seen: &Seen, unplaced: u64) -> Option<Cross> {
    let server = server(of, asked)?;
    let client = seen.of(of);
    let count = server.grown.count.round();
    if count < 1.0 {
        return None;
    }
    let server_mean_ns = server.grown.sum_s / server.grown.count * 1e9;
    let (mean, words, agree) = match client {
        Some(client) => {
            let (agree, words) = held(of, count, client, seen, &server, asked.endpoints, unplaced);
            (client.mean_ns(), words, agree)
        }
        None => (None, "only the server knows".to_owned(), false),
    };
    Some(Cross {
        of,
        server_count: count as u64,
        client_count: client.map_or(0, |client| client.count),
        server_mean_ns,
        client_mean_ns: mean,
        difference_ns: mean.filter(|_| agree).map(|mean| mean - server_mean_ns),
        server_p95_ns: p95(&server),
        words,
    })
}

/// Whether both counted the same, and what must be said of it.
fn held(
    of: ServerLatency,
    count: f64,
    client: Sum,
    seen: &Seen,
    server: &Server,
    endpoints: usize,
    unplaced: u64,
) -> (bool, String) {
    let apart = (APART * count).max(1.0);
    let agree = (count - client.count as f64).abs() <= apart && client.unsure as f64 <= apart;
    if agree && server.endpoints == endpoints {
        return (true, "from the send on; the difference is network and client".to_owned());
    }
    let mut why = Vec::new();
    if !agree {
        why.push(format!("the server counted {count:.0} and its clients {}", client.count));
        match of {
            ServerLatency::Itl => {
                why.push("a chunk of several tokens, or a token without text, is no gap to both".to_owned())
            }
            _ if count > client.count as f64 => {
                why.push(
                    "other clients, another tool's warm-up, or requests whose records were lost".to_owned(),
                );
            }
            _ => why.push("it does not count all that it answers, or its totals are behind".to_owned()),
        }
    }
    if client.unsure > 0 {
        why.push(format!("{} lie too near to a scrape to tell on which side", client.unsure));
    }
    if seen.cut > 0 {
        why.push(format!("{} requests were cut off after their first token", seen.cut));
    }
    if unplaced > 0 {
        why.push(format!("{unplaced} records have no place on the timeline"));
    }
    if server.restarted {
        why.push("the server began anew in between".to_owned());
    }
    if server.endpoints < endpoints {
        why.push(format!("{} of {endpoints} endpoints tell it", server.endpoints));
    }
    (false, format!("no difference is told: {}", why.join("; ")))
}

/// The bucket that holds the 95th percentile (nearest rank), ns; open above beyond the last bound.
fn p95(server: &Server) -> Option<(f64, Option<f64>)> {
    let Hist { upper_s, cumulative, count, .. } = &server.grown;
    if !server.alike || upper_s.is_empty() {
        return None;
    }
    let rank = (0.95 * count).ceil();
    let bucket = cumulative.iter().position(|n| *n >= rank);
    let lower = |i: usize| i.checked_sub(1).map_or(0.0, |i| upper_s[i].max(0.0) * 1e9);
    Some(match bucket {
        Some(i) => (lower(i), Some(upper_s[i] * 1e9)),
        None => (lower(upper_s.len()), None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_at_an_edge_is_on_no_side_of_it() {
        let edges = Edges { from: (100, 120), to: (500, 520) };
        let side = |ns: i64, bound_ns: i64| edges.side(Aligned { ns, bound_ns });
        for (ns, bound_ns, expected) in [
            (90, 5, Side::Outside),
            (90, 10, Side::Unsure),
            (110, 0, Side::Unsure),
            (125, 5, Side::Unsure),
            (126, 5, Side::Within),
            (494, 5, Side::Within),
            (495, 5, Side::Unsure),
            (510, 0, Side::Unsure),
            (525, 5, Side::Unsure),
            (526, 5, Side::Outside),
            (300, 1_000, Side::Unsure),
        ] {
            assert_eq!(side(ns, bound_ns), expected, "{ns} ± {bound_ns}");
        }
    }

    #[test]
    fn a_difference_is_told_only_of_the_same_requests() {
        let held = |(count, unsure): (u64, u64), endpoints: usize| {
            let client = Sum { sum_ns: 1e9, count, unsure };
            let server = Server { grown: Hist::default(), endpoints: 1, alike: true, restarted: false };
            held(ServerLatency::Ttft, 1_000.0, client, &Seen::default(), &server, endpoints, 0)
        };
        for same in [(1_000, 0), (990, 10), (1_010, 0)] {
            assert!(held(same, 1).0, "{same:?}");
        }
        let of = |what, endpoints, words: &str| {
            let (agree, why) = held(what, endpoints);
            assert!(!agree && why.contains(words), "{what:?}: {why}");
        };
        of((989, 0), 1, "the server counted 1000 and its clients 989; other clients");
        of((1_011, 0), 1, "it does not count all that it answers");
        of((1_000, 11), 1, "11 lie too near to a scrape");
        of((1_000, 0), 2, "1 of 2 endpoints tell it");
    }
}
