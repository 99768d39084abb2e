//! `requests.csv` and `token_trace.csv`: every request and every content chunk, on the common timeline. `t_s` counts
//! from the start of the run. Rows are ordered by agent, then as the agent reported them; those of one request are
//! together.

use std::io::{self, Write};

use tailcliff_proto::arrivals;
use tailcliff_proto::v1::{self, Outcome, Phase, TokenSource};

use crate::axis::Load;
use crate::clock::Aligned;
use crate::merge::timeline::Timeline;
use crate::merge::{record, tally};
use crate::stored::{Incarnation, Node, RunData};

use super::table::{Cell, Column, count, csv_header, csv_row, flag, float, ms, s, text, us};

/// Columns of `requests.csv`. `t_s` is the intended send; it and the other times are empty when the agent has no clock
/// track; durations come from the agent's own clock and are always there. From `label` on, what was asked: `entry` and
/// `turn` count from 0, `session` is the dataset's own name for it, `input_len` is in the plan's unit.
/// Then which event loop of the agent drove it, and how long it was paused on purpose, if it was. Last what the server said
/// in its reply: its own times for prompt and answer, and the prompt tokens that it found in its cache.
pub const REQUESTS: [Column; 50] = [
    s("t_s"),
    us("unc_us"),
    text("agent"),
    count("level"),
    count("concurrency"),
    count("stream"),
    count("request"),
    text("request_id"),
    text("phase"),
    text("outcome"),
    text("error_kind"),
    text("error_detail"),
    count("http_status"),
    flag("reused_connection"),
    s("issued_s"),
    s("connected_s"),
    s("sent_s"),
    s("headers_s"),
    s("first_chunk_s"),
    s("first_token_s"),
    s("last_token_s"),
    s("done_s"),
    ms("ttft_ms"),
    ms("tpot_ms"),
    ms("e2el_ms"),
    ms("longest_gap_ms"),
    count("prompt_tokens"),
    count("output_tokens"),
    text("token_source"),
    count("content_chunks"),
    count("text_len"),
    text("trace"),
    text("finish_reason"),
    s("last_chunk_s"),
    ms("socket_wait_max_ms"),
    ms("socket_wait_ms"),
    float("request_rate"),
    count("attempt"),
    ms("held_ms"),
    text("label"),
    count("entry"),
    text("session"),
    count("turn"),
    count("asked_tokens"),
    count("input_len"),
    count("shard"),
    ms("control_pause_ms"),
    ms("server_prefill_ms"),
    ms("server_decode_ms"),
    count("cached_tokens"),
];

/// Columns of `token_trace.csv`: `text_len` is the request's characters so far; `socket_wait_us` is how long a chunk's bytes
/// had lain in the client's socket when they were read, empty where the kernel dated none of them.
pub const TRACE: [Column; 9] = [
    s("t_s"),
    text("event"),
    count("text_len"),
    text("request_id"),
    text("agent"),
    count("level"),
    count("stream"),
    us("unc_us"),
    us("socket_wait_us"),
];

/// A row of `requests.csv`.
pub type Request<'a> = [Cell<'a>; REQUESTS.len()];
/// A row of `token_trace.csv`.
pub type Event<'a> = [Cell<'a>; TRACE.len()];

/// Writes `requests.csv`.
///
/// # Errors
/// What `out` says.
pub fn write_requests(out: &mut impl Write, data: &RunData, timeline: &Timeline) -> io::Result<()> {
    csv_header(out, &REQUESTS)?;
    each_request(data, timeline, |row| csv_row(out, &REQUESTS, row))
}

/// Writes `token_trace.csv`; requests of agents without a clock track are left out (the summary counts them).
///
/// # Errors
/// What `out` says.
pub fn write_trace(out: &mut impl Write, data: &RunData, timeline: &Timeline) -> io::Result<()> {
    csv_header(out, &TRACE)?;
    each_event(data, timeline, |row| csv_row(out, &TRACE, row))
}

/// Every row of `requests.csv`.
///
/// # Errors
/// The first of `write`.
pub fn each_request(
    data: &RunData,
    timeline: &Timeline,
    mut write: impl FnMut(&Request<'_>) -> io::Result<()>,
) -> io::Result<()> {
    each_record(data, timeline, |agent, record| {
        let load = data.levels.iter().find(|l| l.drive.level == record.level).map(|l| l.load);
        write(&request(agent, load, record))
    })
}

/// Every row of `token_trace.csv`.
///
/// # Errors
/// The first of `write`.
pub fn each_event(
    data: &RunData,
    timeline: &Timeline,
    mut write: impl FnMut(&Event<'_>) -> io::Result<()>,
) -> io::Result<()> {
    each_record(data, timeline, |agent, record| events(agent, record, &mut write))
}

/// An agent whose stamps can be told on the run's timeline.
struct Agent<'a> {
    of: Incarnation,
    node: &'a Node,
    timeline: &'a Timeline,
    started_ref_ns: i64,
}

fn each_record(
    data: &RunData,
    timeline: &Timeline,
    mut write: impl FnMut(&Agent<'_>, &v1::RequestRecord) -> io::Result<()>,
) -> io::Result<()> {
    let started_ref_ns = data.header.started_ref_ns;
    for (of, node) in tally::agents(data) {
        let agent = Agent { of, node, timeline, started_ref_ns };
        for batch in node.each_batch() {
            batch.records.iter().try_for_each(|record| write(&agent, record))?;
        }
    }
    Ok(())
}

impl Agent<'_> {
    /// A raw stamp, counted from the run's start.
    fn place(&self, raw: i64) -> Option<Aligned> {
        let at = self.timeline.place(self.of, raw)?;
        Some(Aligned { ns: at.ns.saturating_sub(self.started_ref_ns), ..at })
    }

    fn time(&self, raw: Option<i64>) -> Cell<'static> {
        Cell::ns(raw.and_then(|raw| self.place(raw)).map(|at| at.ns))
    }
}

fn request<'a>(agent: &Agent<'a>, load: Option<Load>, record: &'a v1::RequestRecord) -> Request<'a> {
    let at = agent.place(record.intended_raw_ns);
    let outcome = record::outcome(record);
    let rate = load.and_then(|load| load.request_rate());
    [
        Cell::ns(at.map(|at| at.ns)),
        Cell::ns(at.map(|at| at.bound_ns)),
        Cell::text(&agent.node.hello.name),
        Cell::Count(record.level.into()),
        Cell::count(load.and_then(|load| load.concurrency())),
        Cell::Count(record.stream.into()),
        Cell::Count(record.request),
        Cell::text(&record.request_id),
        Cell::text(phase(record)),
        Cell::text(outcome_name(outcome)),
        Cell::text(&record.error_kind),
        Cell::text(&record.error_detail),
        Cell::count(record.http_status),
        Cell::Flag(record.reused_connection),
        agent.time(record.issued_raw_ns),
        agent.time(record.connected_raw_ns),
        agent.time(record.sent_raw_ns),
        agent.time(record.headers_raw_ns),
        agent.time(record.first_chunk_raw_ns),
        agent.time(record.first_token_raw_ns),
        agent.time(record.last_token_raw_ns),
        agent.time(Some(record.done_raw_ns)),
        Cell::ns(record::ttft_ns(record)),
        Cell::ns(record::tpot_ns(record)),
        Cell::ns(record::e2e_ns(record).filter(|_| outcome == Outcome::Completed)),
        Cell::ns(record.longest_gap_ns),
        Cell::count(record.prompt_tokens),
        Cell::count(record.output_tokens),
        Cell::text(token_source(record)),
        Cell::Count(record.content_chunks.into()),
        Cell::Count(record.text_len),
        Cell::text(trace(record)),
        Cell::text(&record.finish_reason),
        agent.time(record.last_chunk_raw_ns),
        Cell::ns(record.socket_wait_max_ns),
        Cell::ns(record.socket_wait_sum_ns),
        rate.map_or(Cell::Absent, |rate| Cell::Float(rate.0)),
        Cell::Count(record.attempt.into()),
        Cell::ns(record.held_ns),
        Cell::text(&record.label),
        Cell::count(record.entry),
        Cell::text(&record.session),
        Cell::count(record.turn),
        Cell::count(record.asked_tokens),
        Cell::count(record.input_len),
        Cell::Count(record.shard.into()),
        Cell::ns(record.is_control().then_some(record.control_pause_ns)),
        Cell::ns(record.server_prefill_ns),
        Cell::ns(record.server_decode_ns),
        Cell::count(record.cached_tokens),
    ]
}

pub(super) fn phase(record: &v1::RequestRecord) -> &'static str {
    match Phase::try_from(record.phase) {
        Ok(Phase::Warmup) => "warmup",
        Ok(Phase::Measured) => "measured",
        Ok(Phase::Drain) => "drain",
        _ => "",
    }
}

pub(super) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::Failed => "failed",
        Outcome::Incomplete | Outcome::Unspecified => "incomplete",
    }
}

fn token_source(record: &v1::RequestRecord) -> &'static str {
    match TokenSource::try_from(record.token_source) {
        Ok(TokenSource::Usage) => "usage",
        Ok(TokenSource::Chunks) => "chunks",
        Ok(TokenSource::Words) => "words",
        Ok(TokenSource::Tokenizer) => "tokenizer",
        _ => "",
    }
}

/// Whether its arrivals are in `token_trace.csv`.
fn trace(record: &v1::RequestRecord) -> &'static str {
    match record {
        record if record.arrivals_dropped => "dropped",
        record if record.arrivals.is_empty() => "none",
        record if arrivals::decode(&record.arrivals).any(|a| a.is_err()) => "unreadable",
        _ => "kept",
    }
}

fn events(
    agent: &Agent<'_>,
    record: &v1::RequestRecord,
    write: &mut impl FnMut(&Event<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut event = |raw: i64, event: &str, text_len: u64, waited: Option<u64>| {
        let Some(at) = agent.place(raw) else { return Ok(()) };
        write(&[
            Cell::Ns(at.ns),
            Cell::text(event),
            Cell::Count(text_len),
            Cell::text(&record.request_id),
            Cell::text(&agent.node.hello.name),
            Cell::Count(record.level.into()),
            Cell::Count(record.stream.into()),
            Cell::Ns(at.bound_ns),
            Cell::ns(waited.map(|ns| i64::try_from(ns).unwrap_or(i64::MAX))),
        ])
    };
    if let Some(sent) = record.sent_raw_ns {
        event(sent, "client_send", 0, None)?;
    }
    let (mut at, mut text_len) = (record.intended_raw_ns, 0u64);
    let mut waits = arrivals::decode_waits(&record.socket_waits);
    // A trace that cannot be read to its end is shown as far as it goes; the summary counts it.
    for arrival in arrivals::decode(&record.arrivals).map_while(Result::ok) {
        at = at.saturating_add_unsigned(arrival.gap_ns);
        text_len = text_len.saturating_add(arrival.chars);
        event(at, "token_chunk", text_len, waits.next().flatten())?;
    }
    event(record.done_raw_ns, "client_done", record.text_len, None)
}
