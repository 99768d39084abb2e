//! From journal entries to [`RunData`]: order kept, repeats dropped.

use std::path::Path;

use tailcliff_proto::v1;

use crate::clock::Exchange;
use crate::journal::{self, Entry, Fact, JournalError};
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
        Some(Fact::Header(json)) => data.header = serde_json::from_str(&json).unwrap_or_default(),
        Some(Fact::End(json)) => data.end = serde_json::from_str(&json).ok(),
        Some(Fact::Hello(hello)) => join(data, of, hello),
        Some(Fact::Level(planned)) => data.levels.push(LevelLog {
            level: planned.level,
            load: planned.load(),
            start_ref_ns: planned.start_ref_ns,
            ..LevelLog::default()
        }),
        Some(fact) => take_of_node_or_level(data, of, fact),
        None => {}
    }
}

fn join(data: &mut RunData, of: Incarnation, hello: v1::Hello) {
    let kind = hello.node_kind;
    let index = data.nodes.values().filter(|n| n.hello.node_kind == kind).count() as u32;
    // A reconnecting node says hello again; its index stays.
    let node = data.nodes.entry(of).or_insert_with(|| Node { index, ..Node::default() });
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
        Fact::Voided(voided) => {
            if let Some(log) = level(data, voided.level) {
                log.voided.get_or_insert(voided.reason);
            }
        }
        fact => {
            if let Some(node) = data.nodes.get_mut(&of) {
                take_of_node(node, fact);
            }
        }
    }
}

fn level(data: &mut RunData, index: u32) -> Option<&mut LevelLog> {
    data.levels.iter_mut().rev().find(|log| log.level == index)
}

fn take_of_node(node: &mut Node, fact: Fact) {
    match fact {
        Fact::Exchanges(exchanges) => {
            let four = exchanges.stamps_ns.chunks_exact(4);
            node.exchanges.extend(four.map(|s| Exchange { t0: s[0], t1: s[1], t2: s[2], t3: s[3] }));
        }
        Fact::Snapshot(snapshot) => node.snapshots.push(snapshot),
        Fact::Preflight(done) => node.preflight = Some(done),
        Fact::Lost(at) => node.lost_ref_ns = Some(at),
        Fact::LostPings(n) => node.lost_pings += n,
        Fact::Beat(stored) => node.beats.push(stored.into()),
        Fact::Batch(stored) => {
            let last = node.batches.last().map_or(0, |b| b.seq);
            if let Some(batch) = stored.batch.filter(|b| b.seq > last) {
                node.batch_stamps.push((batch.sent_raw_ns, stored.received_ref_ns));
                node.batches.push(batch);
            }
        }
        _ => {}
    }
}
