//! From journal entries to [`RunData`]: order kept, repeats dropped.

use std::path::Path;
use std::sync::Arc;

use tailcliff_proto::v1;

use crate::clock::Exchange;
use crate::journal::{Entry, FILE_NAME, Fact, Frames, JournalError, Place};
use crate::stored::{Filed, Incarnation, LevelLog, Node, RunData, Shelf};

/// Reads a run directory's journal; its batches stay there, and are read again when they are asked for.
///
/// # Errors
/// When there is none, or it is not ours. A journal cut short is no error: `torn_bytes` tells.
pub fn open(dir: &Path) -> Result<RunData, JournalError> {
    let mut frames = Frames::open(dir)?;
    let shelf = Arc::new(Shelf::new(Frames::open(dir)?.into_file()));
    let mut data = RunData::default();
    while let Some((place, entry)) = frames.next_entry()? {
        take(&mut data, entry, (&shelf, place));
    }
    data.torn_bytes = frames.torn();
    Ok(data)
}

/// The same with every batch in memory.
///
/// # Errors
/// As [`open`], or when a batch could not be read again.
pub fn load(dir: &Path) -> Result<RunData, JournalError> {
    let mut data = open(dir)?;
    data.nodes.values_mut().for_each(Node::hold);
    match data.trouble() {
        Some(source) => Err(JournalError::Read { path: dir.join(FILE_NAME), source }),
        None => Ok(data),
    }
}

/// Where an entry was read from.
type Source<'a> = (&'a Arc<Shelf>, Place);

fn take(data: &mut RunData, entry: Entry, from: Source<'_>) {
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
        Some(fact) => take_of_node_or_level(data, of, fact, from),
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

fn take_of_node_or_level(data: &mut RunData, of: Incarnation, fact: Fact, from: Source<'_>) {
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
                take_of_node(node, fact, from);
            }
        }
    }
}

fn level(data: &mut RunData, index: u32) -> Option<&mut LevelLog> {
    data.levels.iter_mut().rev().find(|log| log.level == index)
}

fn take_of_node(node: &mut Node, fact: Fact, (shelf, place): Source<'_>) {
    match fact {
        Fact::Exchanges(exchanges) => {
            let four = exchanges.stamps_ns.chunks_exact(4);
            node.exchanges.extend(four.map(|s| Exchange { t0: s[0], t1: s[1], t2: s[2], t3: s[3] }));
        }
        Fact::Snapshot(snapshot) => node.snapshots.push(snapshot),
        Fact::Preflight(done) => node.preflight = Some(done),
        Fact::Lost(at) => node.lost_ref_ns = Some(at),
        Fact::LostPings(n) => node.lost_pings += n,
        Fact::Batch(stored) => {
            let last = node.last_seq;
            if let Some(batch) = stored.batch.filter(|b| b.seq > last) {
                node.last_seq = batch.seq;
                node.batch_stamps.push((batch.sent_raw_ns, stored.received_ref_ns));
                node.file(shelf, Filed::new(place, &batch));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
