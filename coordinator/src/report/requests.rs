//! `requests.csv` and `token_trace.csv`: every request and every content chunk, on the common timeline. `t_s` counts
//! from the start of the run. Rows are ordered by agent, then as the agent reported them; those of one request are
//! together.

use std::io::{self, Write};

use tailcliff_proto::arrivals;
use tailcliff_proto::v1::{self, Outcome, Phase, TokenSource};

use crate::merge::timeline::Timeline;
use crate::merge::{record, tally};
use crate::stored::{Incarnation, Node, RunData};

use super::text::{cell, micros, millis, quoted, seconds};

/// Columns of `requests.csv`. `t_s` is the intended send; it and the other times are empty when the agent has no clock
/// track; durations come from the agent's own clock and are always there. From `label` on, what was asked: `entry` and
/// `turn` count from 0, `session` is the dataset's own name for it, `input_len` is in the plan's unit.
/// Then which event loop of the agent drove it, and how long it was paused on purpose, if it was.
pub const REQUEST_COLUMNS: &str = "t_s,unc_us,agent,level,concurrency,stream,request,request_id,phase,outcome,\
    error_kind,error_detail,http_status,reused_connection,issued_s,connected_s,sent_s,headers_s,first_chunk_s,\
    first_token_s,last_token_s,done_s,ttft_ms,tpot_ms,e2el_ms,longest_gap_ms,prompt_tokens,output_tokens,\
    token_source,content_chunks,text_len,trace,finish_reason,last_chunk_s,socket_wait_max_ms,socket_wait_ms,\
    request_rate,attempt,held_ms,label,entry,session,turn,asked_tokens,input_len,shard,control_pause_ms";

/// Columns of `token_trace.csv`: `text_len` is the request's characters so far; `socket_wait_us` is how long a chunk's bytes
/// had lain in the client's socket when they were read, empty where the kernel dated none of them.
pub const TRACE_COLUMNS: &str = "t_s,event,text_len,request_id,agent,level,stream,unc_us,socket_wait_us";

/// Writes `requests.csv`.
///
/// # Errors
/// What `out` says.
pub fn write_requests(out: &mut impl Write, data: &RunData, timeline: &Timeline) -> io::Result<()> {
    writeln!(out, "{REQUEST_COLUMNS}")?;
    each_record(data, timeline, |agent, record| write_request(out, data, agent, record))
}

/// Writes `token_trace.csv`; requests of agents without a clock track are left out (the summary counts them).
///
/// # Errors
/// What `out` says.
pub fn write_trace(out: &mut impl Write, data: &RunData, timeline: &Timeline) -> io::Result<()> {
    writeln!(out, "{TRACE_COLUMNS}")?;
    each_record(data, timeline, |agent, record| write_events(out, agent, record))
}

/// An agent whose stamps can be told as seconds since the run's start.
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
    /// (`t_s`, `unc_us`) of a raw stamp.
    fn time(&self, raw: i64) -> Option<(String, String)> {
        let at = self.timeline.place(self.of, raw)?;
        Some((seconds(at.ns.saturating_sub(self.started_ref_ns)), micros(at.bound_ns)))
    }

    fn seconds(&self, raw: Option<i64>) -> String {
        raw.and_then(|raw| self.time(raw)).map(|(t, _)| t).unwrap_or_default()
    }
}

fn write_request(
    out: &mut impl Write,
    data: &RunData,
    agent: &Agent<'_>,
    record: &v1::RequestRecord,
) -> io::Result<()> {
    let (t_s, unc_us) = agent.time(record.intended_raw_ns).unwrap_or_default();
    let load = data.levels.iter().find(|l| l.drive.level == record.level).map(|l| l.load);
    let concurrency = load.and_then(|load| load.concurrency());
    let outcome = record::outcome(record);
    let e2e = record::e2e_ns(record).filter(|_| outcome == Outcome::Completed).map(millis);
    write!(out, "{t_s},{unc_us},{},{},{},", quoted(&agent.node.hello.name), record.level, cell(concurrency))?;
    write!(out, "{},{},{},", record.stream, record.request, quoted(&record.request_id))?;
    write!(out, "{},{},", phase(record), outcome_name(outcome))?;
    write!(out, "{},{},", quoted(&record.error_kind), quoted(&record.error_detail))?;
    write!(out, "{},{},", cell(record.http_status), record.reused_connection)?;
    let stamps = [
        record.issued_raw_ns,
        record.connected_raw_ns,
        record.sent_raw_ns,
        record.headers_raw_ns,
        record.first_chunk_raw_ns,
        record.first_token_raw_ns,
        record.last_token_raw_ns,
        Some(record.done_raw_ns),
    ];
    for stamp in stamps {
        write!(out, "{},", agent.seconds(stamp))?;
    }
    let (ttft, tpot) = (record::ttft_ns(record).map(millis), record::tpot_ns(record).map(millis));
    write!(out, "{},{},{},", cell(ttft), cell(tpot), cell(e2e))?;
    write!(out, "{},", cell(record.longest_gap_ns.map(millis)))?;
    write!(out, "{},{},", cell(record.prompt_tokens), cell(record.output_tokens))?;
    write!(out, "{},{},{},", token_source(record), record.content_chunks, record.text_len)?;
    write!(out, "{},{},", trace(record), quoted(&record.finish_reason))?;
    let waits = [record.socket_wait_max_ns, record.socket_wait_sum_ns].map(|ns| cell(ns.map(millis)));
    write!(out, "{},{},{},", agent.seconds(record.last_chunk_raw_ns), waits[0], waits[1])?;
    let rate = load.and_then(|load| load.request_rate());
    write!(out, "{},{},{},", cell(rate), record.attempt, cell(record.held_ns.map(millis)))?;
    write!(out, "{},{},", quoted(&record.label), cell(record.entry))?;
    write!(out, "{},{},", quoted(&record.session), cell(record.turn))?;
    write!(out, "{},{},", cell(record.asked_tokens), cell(record.input_len))?;
    let paused = record.is_control().then(|| millis(record.control_pause_ns));
    writeln!(out, "{},{}", record.shard, cell(paused))
}

fn phase(record: &v1::RequestRecord) -> &'static str {
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

fn write_events(out: &mut impl Write, agent: &Agent<'_>, record: &v1::RequestRecord) -> io::Result<()> {
    let mut event = |raw: i64, event: &str, text_len: u64, waited: Option<u64>| {
        let Some((t_s, unc_us)) = agent.time(raw) else { return Ok(()) };
        let (id, name) = (quoted(&record.request_id), quoted(&agent.node.hello.name));
        write!(out, "{t_s},{event},{text_len},{id},{name},{},{},{unc_us},", record.level, record.stream)?;
        writeln!(out, "{}", cell(waited.map(|ns| micros(i64::try_from(ns).unwrap_or(i64::MAX)))))
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
