//! From journal entries to [`RunData`]: order kept, repeats dropped.

use std::path::Path;

use tailcliff_proto::v1;

use crate::clock::Exchange;
use crate::journal::{self, Entry, Fact, JournalError, Resumed};
use crate::stored::{Incarnation, LevelLog, Node, RunData};

/// Reads a run directory's journal.
///
/// # Errors
/// When there is none, or it is not ours. A journal cut short is no error: `torn_bytes` tells.
pub fn load(dir: &Path) -> Result<RunData, JournalError> {
    let (entries, torn_bytes) = journal::read(dir)?;
    let mut data = RunData { torn_bytes, ..RunData::default() };
    for entry in entries {
        take(&mut data, entry);
    }
    Ok(data)
}

fn take(data: &mut RunData, entry: Entry) {
    let of = entry.incarnation;
    match entry.fact {
        Some(Fact::Header(json)) => {
            data.header = serde_json::from_str(&json).unwrap_or_default();
            data.domain = data.header.clock_domain.clone();
        }
        Some(Fact::End(json)) => data.end = serde_json::from_str(&json).ok(),
        Some(Fact::Resumed(by)) => resumed(data, &by),
        Some(Fact::Hello(hello)) => join(data, of, hello),
        Some(Fact::Level(planned)) => data.levels.push(LevelLog {
            drive: planned.drive(),
            load: planned.load(),
            start_ref_ns: planned.start_ref_ns.saturating_add(data.shift_ns),
            ..LevelLog::default()
        }),
        Some(fact) => take_of_node_or_level(data, of, fact),
        None => {}
    }
}

/// Another coordinator went on. One on another host, or after another boot, has another clock: its stamps are taken to
/// the first one's by what the two wall clocks say, which is a step to every node's track, and no more than a label.
fn resumed(data: &mut RunData, by: &Resumed) {
    data.end = None;
    data.resumes += 1;
    let domain = (by.boot_id.clone(), by.timens_inode);
    if domain == data.domain {
        return;
    }
    data.domain = domain;
    // No node's clock is the coordinator's all through the run.
    data.header.clock_domain = Default::default();
    data.other_clocks += 1;
    let started = chrono::DateTime::parse_from_rfc3339(&data.header.started_utc);
    let elapsed_ns = started.ok().and_then(|at| by.realtime_ns.checked_sub(at.timestamp_nanos_opt()?));
    let at_ns = data.header.started_ref_ns.saturating_add(elapsed_ns.unwrap_or(0).max(0));
    data.shift_ns = at_ns.saturating_sub(by.raw_ns);
}

fn join(data: &mut RunData, of: Incarnation, hello: v1::Hello) {
    let kind = hello.node_kind;
    let index = data.nodes.values().filter(|n| n.hello.node_kind == kind).count() as u32;
    // A reconnecting node says hello again; its index stays.
    let node = data.nodes.entry(of).or_insert_with(|| Node { index, ..Node::default() });
    node.index = hello.index.unwrap_or(node.index);
    node.hello = hello;
    node.lost_ref_ns = None;
}

fn take_of_node_or_level(data: &mut RunData, of: Incarnation, fact: Fact) {
    match fact {
        Fact::Share(share) => {
            if let (Some(log), Some(part)) = (level(data, share.level), share.share) {
                log.shares.insert(of, part);
            }
        }
        Fact::Started(started) => {
            if let Some(log) = level(data, started.level) {
                log.started.insert(of, started);
            }
        }
        Fact::Done(done) => {
            if let Some(log) = level(data, done.level) {
                log.done.insert(of, done);
            }
        }
        Fact::Progress(progress) => {
            if let Some(log) = level(data, progress.level) {
                log.progress.insert(of, progress);
            }
        }
        Fact::Telemetry(told) => {
            if let Some(log) = level(data, told.level) {
                log.traces.insert(of, told);
            }
        }
        Fact::Passed(index) => {
            if let Some(log) = level(data, index) {
                log.passed = true;
            }
        }
        Fact::Marked(marked) => {
            if let Some(log) = level(data, marked.level) {
                log.marks.push(marked.reason);
            }
        }
        Fact::Voided(voided) => {
            if let Some(log) = level(data, voided.level) {
                log.voided.get_or_insert(voided.reason);
            }
        }
        fact => {
            let shift_ns = data.shift_ns;
            if let Some(node) = data.nodes.get_mut(&of) {
                take_of_node(node, fact, shift_ns);
            }
        }
    }
}

fn level(data: &mut RunData, index: u32) -> Option<&mut LevelLog> {
    data.levels.iter_mut().rev().find(|log| log.drive.level == index)
}

/// Stamps of the coordinator are `shift_ns` behind those of the first.
fn take_of_node(node: &mut Node, fact: Fact, shift_ns: i64) {
    let here = |ns: i64| ns.saturating_add(shift_ns);
    match fact {
        Fact::Exchanges(exchanges) => {
            let four = exchanges.stamps_ns.chunks_exact(4);
            node.exchanges.extend(four.map(|s| Exchange {
                t0: here(s[0]),
                t1: s[1],
                t2: s[2],
                t3: here(s[3]),
            }));
        }
        Fact::Snapshot(snapshot) => node.snapshots.push(snapshot),
        Fact::Preflight(done) => node.preflight = Some(done),
        Fact::Lost(at) => node.lost_ref_ns = Some(here(at)),
        Fact::LostPings(n) => node.lost_pings += n,
        Fact::Batch(stored) => {
            let last = node.batches.last().map_or(0, |b| b.seq);
            if let Some(batch) = stored.batch.filter(|b| b.seq > last) {
                node.batch_stamps.push((batch.sent_raw_ns, here(stored.received_ref_ns)));
                node.batches.push(batch);
            }
        }
        _ => {}
    }
}
