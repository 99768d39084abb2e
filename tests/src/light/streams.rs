//! Simulated closed-loop streams: each sends its next request when the one before has ended, and how long each takes follows
//! from the seed. Times are ns since the level's start.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tailcliff_proto::arrivals::Arrivals;
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1::{self, Outcome, Phase, TokenSource};

/// What a level asks of one agent, and what its requests are like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) agent: u32,
    pub(super) level: u32,
    pub(super) streams: u32,
    pub(super) first_stream: u32,
    pub(super) warmup_ns: i64,
    pub(super) duration_ns: i64,
    pub(super) latency_ns: i64,
    pub(super) tokens: u32,
    pub(super) seed: u64,
}

/// A request in flight; ordered by its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    done: i64,
    stream: u32,
    number: u64,
    intended: i64,
}

#[derive(Debug)]
pub(super) struct Streams {
    kind: Kind,
    flights: BinaryHeap<Reverse<Flight>>,
    random: Vec<fastrand::Rng>,
    pub(super) released: u64,
    pub(super) completed: u64,
}

impl Streams {
    pub(super) fn new(kind: Kind) -> Self {
        let seed = |stream: u32| kind.seed ^ (u64::from(kind.agent) << 40) ^ (u64::from(stream) << 8);
        let random = (0..kind.streams).map(|i| fastrand::Rng::with_seed(seed(i) ^ u64::from(kind.level)));
        let mut streams =
            Self { kind, flights: BinaryHeap::new(), random: random.collect(), released: 0, completed: 0 };
        (0..kind.streams).for_each(|stream| streams.release(stream, 0, 0));
        streams
    }

    fn release(&mut self, stream: u32, number: u64, intended: i64) {
        let half = self.kind.latency_ns / 2;
        let latency = half + self.random[stream as usize].i64(0..=2 * half.max(1));
        self.flights.push(Reverse(Flight { done: intended + latency, stream, number, intended }));
        self.released += 1;
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.flights.len() as u32
    }

    pub(super) fn output_tokens(&self) -> u64 {
        self.completed * u64::from(self.kind.tokens)
    }

    pub(super) fn is_over(&self) -> bool {
        self.flights.is_empty()
    }

    /// The requests that have ended by `at`, stamped in a clock that showed `zero` at the start.
    pub(super) fn until(&mut self, at: i64, zero: i64) -> Vec<v1::RequestRecord> {
        let mut ended = Vec::new();
        while let Some(&Reverse(flight)) = self.flights.peek() {
            if flight.done > at {
                break;
            }
            self.flights.pop();
            self.completed += 1;
            if flight.done < self.kind.warmup_ns + self.kind.duration_ns {
                self.release(flight.stream, flight.number + 1, flight.done);
            }
            ended.push(record(&self.kind, flight, zero));
        }
        ended
    }
}

/// A tenth of a request's time goes before its first token; the others follow evenly.
fn record(kind: &Kind, flight: Flight, zero: i64) -> v1::RequestRecord {
    let (intended, done) = (zero + flight.intended, zero + flight.done);
    let latency = done - intended;
    let first = latency / 10;
    let gap = (latency - first) / i64::from(kind.tokens);
    let mut arrivals = Arrivals::default();
    (0..kind.tokens).for_each(|i| arrivals.push(if i == 0 { first } else { gap }.unsigned_abs(), 4));
    let phase = if flight.intended < kind.warmup_ns { Phase::Warmup } else { Phase::Measured };
    v1::RequestRecord {
        level: kind.level,
        stream: kind.first_stream + flight.stream,
        request: flight.number,
        phase: phase as i32,
        intended_raw_ns: intended,
        issued_raw_ns: Some(intended),
        connected_raw_ns: Some(intended),
        sent_raw_ns: Some(intended + 50_000),
        headers_raw_ns: Some(intended + first / 2),
        first_chunk_raw_ns: Some(intended + first),
        first_token_raw_ns: Some(intended + first),
        last_token_raw_ns: Some(intended + first + gap * i64::from(kind.tokens.saturating_sub(1))),
        last_chunk_raw_ns: Some(done),
        done_raw_ns: done,
        outcome: Outcome::Completed as i32,
        http_status: Some(200),
        reused_connection: flight.number > 0,
        prompt_tokens: Some(128),
        output_tokens: Some(u64::from(kind.tokens)),
        token_source: TokenSource::Usage as i32,
        content_chunks: kind.tokens,
        text_len: u64::from(kind.tokens) * 4,
        finish_reason: "length".to_owned(),
        arrivals: arrivals.into_bytes(),
        longest_gap_ns: Some(gap),
        request_id: format!("simulated-{}-{}-{}", kind.agent, flight.stream, flight.number),
        ..Default::default()
    }
}

/// The windows of some records that ended within one second, as agents cut them; each histogram is cleared for the next.
#[derive(Debug, Default)]
pub(super) struct Windows {
    ttft: LatencyHistogram,
    itl: LatencyHistogram,
    tpot: LatencyHistogram,
    e2e: LatencyHistogram,
}

impl Windows {
    /// Of one second that ends at `end_raw_ns`.
    pub(super) fn of(&mut self, records: &[v1::RequestRecord], end_raw_ns: i64) -> Vec<v1::Window> {
        let phases = [Phase::Warmup, Phase::Measured];
        phases.into_iter().filter_map(|phase| self.of_phase(records, phase, end_raw_ns)).collect()
    }

    fn of_phase(&mut self, records: &[v1::RequestRecord], phase: Phase, end: i64) -> Option<v1::Window> {
        let mine: Vec<_> = records.iter().filter(|record| record.phase() == phase).collect();
        let level = mine.first()?.level;
        for record in &mine {
            let (first, last) = (record.first_token_raw_ns?, record.last_token_raw_ns?);
            self.ttft.record(first - record.intended_raw_ns);
            self.e2e.record(record.done_raw_ns - record.intended_raw_ns);
            let gaps = i64::from(record.content_chunks).saturating_sub(1);
            if gaps > 0 {
                self.tpot.record((last - first) / gaps);
                (0..gaps).for_each(|_| self.itl.record(record.longest_gap_ns.unwrap_or_default()));
            }
        }
        let mut wire = [&mut self.ttft, &mut self.itl, &mut self.tpot, &mut self.e2e].map(|histogram| {
            let wire = histogram.to_wire();
            histogram.clear();
            Some(wire)
        });
        Some(v1::Window {
            level,
            phase: phase as i32,
            start_raw_ns: end - 1_000_000_000,
            end_raw_ns: end,
            ttft: wire[0].take(),
            itl: wire[1].take(),
            tpot: wire[2].take(),
            e2e: wire[3].take(),
            completed: mine.len() as u64,
            output_tokens: mine.iter().filter_map(|record| record.output_tokens).sum(),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn kind() -> Kind {
        Kind {
            agent: 3,
            level: 0,
            streams: 4,
            first_stream: 12,
            warmup_ns: S,
            duration_ns: 5 * S,
            latency_ns: S / 2,
            tokens: 8,
            seed: 9,
        }
    }

    #[test]
    fn cut_anywhere_the_same_requests_come() {
        let whole = Streams::new(kind()).until(100 * S, 7);
        let mut streams = Streams::new(kind());
        let parts: Vec<_> = (0..100).flat_map(|i| streams.until(i * S / 7, 7)).collect();
        assert_eq!(parts, whole);
        assert!(streams.is_over());
        assert_eq!((streams.released, streams.completed), (whole.len() as u64, whole.len() as u64));
        assert!(whole.iter().all(|r| r.intended_raw_ns < 7 + 6 * S), "released until the window's end");
        assert!(whole.len() > 30, "{}", whole.len());
    }

    #[test]
    fn windows_hold_every_request_of_their_phase() {
        let records = Streams::new(kind()).until(100 * S, 0);
        let windows = Windows::default().of(&records, S);
        let [warmup, measured] = windows.as_slice() else { panic!("two phases") };
        assert_eq!(warmup.completed + measured.completed, records.len() as u64);
        let e2e = LatencyHistogram::try_from(measured.e2e.as_ref().unwrap()).unwrap();
        assert_eq!(e2e.len(), measured.completed);
    }
}
