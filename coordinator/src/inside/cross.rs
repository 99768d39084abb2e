//! The server's own histograms against what its clients saw. Between a scrape before a level and one after it both speak of
//! the same requests, if nobody else asked the server; the means' difference is then what lies between its front end and our
//! sockets: network and client.

use tailcliff_proto::v1::{self, Outcome, ServerLatency};

use crate::clock::Aligned;
use crate::merge::record;
use crate::merge::tally::agents;
use crate::merge::timeline::Timeline;
use crate::stored::RunData;

use super::figures::Cross;
use super::scraped::Around;
use super::series::Hist;

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
    pub(super) pairs: Vec<Around>,
    /// All of them, with such scrapes or without.
    pub(super) endpoints: usize,
}

/// What the client saw between the scrapes of a level.
#[derive(Debug, Default)]
struct Seen {
    edges: Edges,
    sums: [Sum; KINDS],
    /// Requests that got a first token and did not end as they should.
    cut: u64,
}

/// What a request adds to, by place.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Ttft,
    Itl,
    Tpot,
    E2e,
    /// It completed without any content: the token that ended it was its first.
    Silent,
}

const KINDS: usize = 5;

/// What a request adds, and when; placed once, for all levels.
#[derive(Debug, Default)]
struct Adds {
    all: [Option<(Aligned, (i64, u64))>; KINDS],
    /// It was cut off after its first token.
    is_cut: bool,
    /// From the earliest to the latest of it.
    span: Option<(i64, i64)>,
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
    fn of(pairs: &[Around]) -> Option<Self> {
        let span = |a: (i64, i64), b: (i64, i64)| (a.0.min(b.0), a.1.max(b.1));
        let from = pairs.iter().map(|pair| pair.before.moment).reduce(span)?;
        let to = pairs.iter().map(|pair| pair.after.moment).reduce(span)?;
        Some(Self { from, to })
    }

    /// Something of this time may lie within.
    fn touch(&self, (early, late): (i64, i64)) -> bool {
        late >= self.from.0 && early <= self.to.1
    }

    fn side(&self, at: Aligned) -> Side {
        let (early, late) = (at.ns.saturating_sub(at.bound_ns), at.ns.saturating_add(at.bound_ns));
        if early > self.from.1 && late < self.to.0 {
            Side::Within
        } else if self.touch((early, late)) {
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
        asked.pairs.iter().any(|pair| [&pair.before, &pair.after].iter().all(|s| !s.histograms.is_empty()))
    };
    let edges = asked.iter().map(|asked| Some(asked).filter(tells).and_then(|asked| Edges::of(&asked.pairs)));
    let mut seen: Vec<Option<Seen>> =
        edges.map(|edges| edges.map(|edges| Seen { edges, ..Seen::default() })).collect();
    let mut unplaced = 0;
    if seen.iter().any(Option::is_some) {
        for (of, node) in agents(data) {
            for batch in node.each_batch() {
                for record in &batch.records {
                    let done = timeline.place(of, record.done_raw_ns);
                    unplaced += u64::from(done.is_none());
                    let adds = Adds::of(record, done, |raw| timeline.place(of, raw));
                    seen.iter_mut().flatten().for_each(|seen| seen.add(&adds));
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

impl Adds {
    /// From the send on: the server cannot see what was before. It counts a first token whatever becomes of its request, and
    /// of whole requests those that end as they should.
    fn of(record: &v1::RequestRecord, done: Option<Aligned>, place: impl Fn(i64) -> Option<Aligned>) -> Self {
        let mut adds = Self::default();
        let Some(sent) = record.sent_raw_ns else { return adds };
        let completed = record::outcome(record) == Outcome::Completed;
        let span = |from: i64, to: i64| to.checked_sub(from).filter(|ns| *ns >= 0);
        let mut put = |kind: Kind, at: Option<Aligned>, value: Option<(i64, u64)>| {
            adds.all[kind as usize] = at.zip(value);
        };
        let first = record.first_token_raw_ns;
        put(Kind::Ttft, first.and_then(&place), first.and_then(|first| span(sent, first)).map(|ns| (ns, 1)));
        let gaps = record::gaps(record);
        put(Kind::Itl, record.last_token_raw_ns.filter(|_| gaps.is_some()).and_then(place), gaps);
        if completed {
            let end = record.last_chunk_raw_ns.unwrap_or(record.done_raw_ns);
            put(Kind::E2e, done, span(sent, end).map(|ns| (ns, 1)));
            put(Kind::Tpot, done, record::tpot_ns(record).map(|ns| (ns, 1)));
            let is_silent = first.is_none() && record.content_chunks == 0 && record.text_len == 0;
            put(Kind::Silent, done, is_silent.then_some((0, 1)));
        }
        adds.is_cut = !completed;
        let near = |at: Aligned| (at.ns.saturating_sub(at.bound_ns), at.ns.saturating_add(at.bound_ns));
        let all = adds.all.iter().flatten().map(|(at, _)| near(*at));
        adds.span = all.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        adds
    }
}

impl Seen {
    fn add(&mut self, adds: &Adds) {
        if !adds.span.is_some_and(|span| self.edges.touch(span)) {
            return;
        }
        for (sum, (at, value)) in self.sums.iter_mut().zip(&adds.all).filter_map(|(s, a)| Some((s, (*a)?))) {
            sum.add(self.edges.side(at), value);
        }
        let first = adds.all[Kind::Ttft as usize].filter(|_| adds.is_cut);
        self.cut += u64::from(first.is_some_and(|(at, _)| self.edges.side(at) == Side::Within));
    }

    fn of(&self, of: ServerLatency) -> Option<Sum> {
        match of {
            ServerLatency::Ttft => Some(self.sums[Kind::Ttft as usize]),
            ServerLatency::Itl => Some(self.sums[Kind::Itl as usize]),
            ServerLatency::Tpot => Some(self.sums[Kind::Tpot as usize]),
            ServerLatency::E2e => Some(self.sums[Kind::E2e as usize]),
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
    for Around { before: a, after: b, .. } in &asked.pairs {
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
            let (agree, words) = held(of, count, client, seen, &server, asked, unplaced);
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
    asked: &Asked,
    unplaced: u64,
) -> (bool, String) {
    let apart = (APART * count).max(1.0);
    let silent = if of == ServerLatency::Ttft { seen.sums[Kind::Silent as usize] } else { Sum::default() };
    // Of the answers without content the server may count a first token or not.
    let without = count - client.count as f64;
    let is_same = without.abs() <= apart || (0.0..=silent.count as f64 + apart).contains(&without);
    let agree = is_same && (client.unsure + silent.unsure) as f64 <= apart;
    let endpoints = asked.endpoints;
    let mut also = Vec::new();
    if asked.pairs.iter().any(|pair| pair.is_within) {
        also.push("no scrape came after the level had ended: up to the last one in its window".to_owned());
    }
    if silent.count > 0 {
        also.push(format!(
            "{} completed requests had no content (the token that ended them was their first): that token is in the server's \
             figures only",
            silent.count
        ));
    }
    if agree && server.endpoints == endpoints {
        let words = "from the send on; the difference is network and client".to_owned();
        return (true, [vec![words], also].concat().join("; "));
    }
    let mut why = also;
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
            let asked = Asked { pairs: Vec::new(), endpoints };
            held(ServerLatency::Ttft, 1_000.0, client, &Seen::default(), &server, &asked, 0)
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

    #[test]
    fn a_record_is_placed_once_for_all_levels_and_far_ones_are_not_looked_at() {
        let record = v1::RequestRecord {
            sent_raw_ns: Some(100),
            first_token_raw_ns: Some(200),
            last_token_raw_ns: Some(300),
            done_raw_ns: 400,
            outcome: Outcome::Completed as i32,
            content_chunks: 3,
            output_tokens: Some(3),
            ..Default::default()
        };
        let placed = std::cell::Cell::new(0);
        let place = |ns: i64| {
            placed.set(placed.get() + 1);
            Some(Aligned { ns, bound_ns: 5 })
        };
        let adds = Adds::of(&record, place(record.done_raw_ns), place);
        assert_eq!((placed.get(), adds.span), (3, Some((195, 405))));
        let within = |from: i64, to: i64| {
            let edges = Edges { from: (from, from), to: (to, to) };
            let mut seen = Seen { edges, ..Seen::default() };
            seen.add(&adds);
            (seen.edges.touch((195, 405)), seen.sums.map(|sum| sum.count))
        };
        assert_eq!(within(0, 1_000), (true, [1, 2, 1, 1, 0]));
        assert_eq!(within(250, 1_000), (true, [0, 2, 1, 1, 0]));
        assert_eq!([within(0, 190), within(500, 600)], [(false, [0; KINDS]); 2]);
    }
}
