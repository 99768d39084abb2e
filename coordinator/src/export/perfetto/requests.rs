//! Agents and their requests: a row for each stream, within it a slice for each request, within that one for each stage; and
//! beneath it a row for what the server told.

use std::collections::BTreeMap;
use std::io::{self, Write};

use tailcliff_proto::v1::{Outcome, RequestRecord};

use super::Clock;
use super::curves;
use super::pick::{Key, Pick, key};
use super::server::{self, Sides};
use super::wire::{Arg, Args, Track, Writer};
use crate::merge::record;
use crate::merge::tally::agents;
use crate::stall::Stall;
use crate::stored::{Incarnation, RunData};

/// Ranks within an agent's process: curves above, then the rows of requests.
const FIRST_ROW: i32 = 10;

/// Requests that are shown, by agent, in the order of their beginning.
#[derive(Debug, Default)]
pub(super) struct Shown {
    of: BTreeMap<Incarnation, Vec<(u64, RequestRecord)>>,
    /// What servers told of them.
    pub(super) sides: Sides,
    /// Left out: their agent has no clock track.
    pub(super) unplaced: u64,
}

impl Shown {
    pub(super) fn len(&self) -> usize {
        self.of.values().map(Vec::len).sum()
    }
}

pub(super) fn shown(data: &RunData, clock: &Clock<'_>, pick: &Pick) -> Shown {
    let mut shown = Shown::default();
    for (of, node) in agents(data) {
        for batch in node.each_batch() {
            for record in batch.records.iter().filter(|record| pick.shows(key(of, record))) {
                match clock.place(of, record.intended_raw_ns) {
                    // Of what may be long, nothing is shown.
                    Some((at, _)) => shown.of.entry(of).or_default().push((at, without_arrivals(record))),
                    None => shown.unplaced += 1,
                }
            }
        }
    }
    let order = |(at, r): &(u64, RequestRecord)| (*at, r.level, r.stream, r.request, r.attempt);
    shown.of.values_mut().for_each(|all| all.sort_by_key(order));
    shown
}

fn without_arrivals(record: &RequestRecord) -> RequestRecord {
    RequestRecord { arrivals: Vec::new(), socket_waits: Vec::new(), ..record.clone() }
}

/// Writes every agent: its curves, its requests, and where they stalled.
pub(super) fn write(
    trace: &mut Writer<impl Write>,
    data: &RunData,
    clock: &Clock<'_>,
    shown: &Shown,
) -> io::Result<()> {
    let mut stalls: BTreeMap<Key, Vec<&Stall>> = BTreeMap::new();
    for stall in &clock.merged.stalls.all {
        let gap = &stall.gap;
        stalls.entry((gap.of, gap.level, gap.stream, gap.request)).or_default().push(stall);
    }
    for (of, node) in agents(data) {
        let process = trace.process(&format!("agent {}", node.hello.name), labels(clock, of))?;
        curves::agent(trace, node, clock, (of, process))?;
        let mut rows = Rows { process, rows: Vec::new(), of_stream: BTreeMap::new() };
        for (at, record) in shown.of.get(&of).into_iter().flatten() {
            let end = clock.place(of, record.done_raw_ns).map_or(*at, |(end, _)| end.max(*at));
            let nth = rows.row(trace, record.stream, *at, end)?;
            let row = rows.rows[nth].track;
            request(trace, clock, of, row, (*at, end), record)?;
            if let Some(side) = shown.sides.of(of, record) {
                let (beneath, free) = rows.beneath(trace, nth)?;
                let taken = server::write(trace, beneath, free, side)?;
                rows.rows[nth].server = Some((beneath, taken));
            }
            // Tries of one request are told apart by when they ran.
            let of_request = stalls.get(&key(of, record)).into_iter().flatten();
            let within = |ns: u64| (*at..=end).contains(&ns);
            for (when, stall) in
                of_request.filter_map(|s| Some((clock.since(s.gap.from_ns).filter(|n| within(*n))?, s)))
            {
                let name = format!("stall: {}", stall.judgement.verdict.as_str());
                trace.instant(row, when, &name, about_stall(stall))?;
            }
        }
    }
    Ok(())
}

/// What must be said of a node's clock.
pub(super) fn labels(clock: &Clock<'_>, of: Incarnation) -> Vec<String> {
    let track = clock.merged.timeline.track(of);
    let bounds = track.and_then(|track| Some((track.median_bound_ns()?, track.worst_bound_ns()?)));
    match bounds {
        Some((median, worst)) => {
            vec![format!("clock ±{} µs, at worst ±{} µs", median as f64 / 1e3, worst as f64 / 1e3)]
        }
        None if track.is_some() => vec!["the coordinator's own clock".to_owned()],
        None => vec!["no clock track: not on this timeline".to_owned()],
    }
}

/// Rows of an agent. A stream has one of its own while its requests follow one another; one that overlaps another goes to
/// the first row that is free, so that slices always nest.
struct Rows {
    process: Track,
    rows: Vec<Row>,
    of_stream: BTreeMap<u32, usize>,
}

struct Row {
    track: Track,
    /// When it is free.
    free: u64,
    /// The row beneath, once something was told, and when that is free.
    server: Option<(Track, u64)>,
}

impl Rows {
    fn row(&mut self, trace: &mut Writer<impl Write>, stream: u32, from: u64, to: u64) -> io::Result<usize> {
        let own = self.of_stream.get(&stream).copied().filter(|&row| self.rows[row].free <= from);
        let any = || self.rows.iter().position(|row| row.free <= from);
        let row = match own {
            Some(row) => row,
            None if self.of_stream.contains_key(&stream) => match any() {
                Some(row) => row,
                None => self.open(trace)?,
            },
            None => self.open(trace)?,
        };
        self.of_stream.entry(stream).or_insert(row);
        self.rows[row].free = to;
        Ok(row)
    }

    fn open(&mut self, trace: &mut Writer<impl Write>) -> io::Result<usize> {
        let row = self.rows.len();
        let track = trace.track(self.process, &format!("requests {row}"), rank(row))?;
        self.rows.push(Row { track, free: 0, server: None });
        Ok(row)
    }

    /// The row beneath one, and from when it is free.
    fn beneath(&self, trace: &mut Writer<impl Write>, row: usize) -> io::Result<(Track, u64)> {
        match self.rows[row].server {
            Some(beneath) => Ok(beneath),
            None => {
                let name = format!("the server's side of requests {row}");
                Ok((trace.track(self.process, &name, rank(row).saturating_add(1))?, 0))
            }
        }
    }
}

/// Each row has a place beneath it.
fn rank(row: usize) -> i32 {
    i32::try_from(row).unwrap_or(i32::MAX).saturating_mul(2).saturating_add(FIRST_ROW)
}

fn request(
    trace: &mut Writer<impl Write>,
    clock: &Clock<'_>,
    of: Incarnation,
    row: Track,
    (from, to): (u64, u64),
    record: &RequestRecord,
) -> io::Result<()> {
    let outcome = record::outcome(record);
    let name = match outcome {
        Outcome::Completed => "request",
        Outcome::Failed => "failed request",
        Outcome::Incomplete | Outcome::Unspecified => "incomplete request",
    };
    trace.begin(row, from, name, about(clock, of, record))?;
    let mut at = from;
    for (stage, raw) in stages(record) {
        let Some((end, _)) = raw.and_then(|raw| clock.place(of, raw)) else { continue };
        let end = end.min(to);
        if end > at {
            trace.slice(row, (at, end), stage)?;
            at = end;
        }
    }
    trace.end(row, to)
}

/// Each stage with the stamp that ends it; one without a stamp is part of the next.
fn stages(record: &RequestRecord) -> [(&'static str, Option<i64>); 7] {
    let connected = record.connected_raw_ns.filter(|_| !record.reused_connection);
    [
        (if record.held_ns.is_some() { "held back" } else { "queued" }, record.issued_raw_ns),
        ("connect", connected),
        ("send", record.sent_raw_ns),
        ("to headers", record.headers_raw_ns),
        ("prefill", record.first_token_raw_ns),
        ("decode", record.last_token_raw_ns),
        ("end", Some(record.done_raw_ns)),
    ]
}

fn about(clock: &Clock<'_>, of: Incarnation, record: &RequestRecord) -> Args {
    let mut args = vec![
        ("request_id", Arg::text(&record.request_id)),
        ("level", Arg::count(record.level)),
        ("stream", Arg::count(record.stream)),
        ("request", Arg::count(record.request)),
        ("attempt", Arg::count(record.attempt)),
        ("reused_connection", Arg::Flag(record.reused_connection)),
    ];
    let bound = clock.place(of, record.intended_raw_ns).map(|(_, bound)| bound);
    args.extend(bound.map(|ns| ("clock_bound_us", Arg::Number(ns as f64 / 1e3))));
    let e2e = record::e2e_ns(record).filter(|_| record::outcome(record) == Outcome::Completed);
    let times = [
        ("ttft_ms", record::ttft_ns(record)),
        ("tpot_ms", record::tpot_ns(record)),
        ("e2el_ms", e2e),
        ("longest_gap_ms", record.longest_gap_ns),
        ("held_ms", record.held_ns),
    ];
    args.extend(times.into_iter().filter_map(|(key, ns)| Some((key, Arg::ms(ns?)))));
    args.extend(record.prompt_tokens.map(|n| ("prompt_tokens", Arg::count(n))));
    args.extend(record.output_tokens.map(|n| ("output_tokens", Arg::count(n))));
    args.extend(record.http_status.map(|n| ("http_status", Arg::count(n))));
    let words = [
        ("error_kind", &record.error_kind),
        ("error_detail", &record.error_detail),
        ("finish_reason", &record.finish_reason),
        ("label", &record.label),
    ];
    args.extend(words.into_iter().filter(|(_, w)| !w.is_empty()).map(|(key, w)| (key, Arg::text(w))));
    args
}

fn about_stall(stall: &Stall) -> Args {
    vec![
        ("gap_ms", Arg::ms(stall.gap.length_ns())),
        ("verdict", Arg::text(stall.judgement.verdict.as_str())),
        ("confidence", Arg::Number(stall.judgement.confidence)),
        ("why", Arg::text(&stall.judgement.why)),
        ("clock_bound_us", Arg::Number(stall.gap.bound_ns as f64 / 1e3)),
    ]
}
