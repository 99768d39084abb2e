//! From journal entries to [`RunData`]: order kept, repeats dropped.

use std::path::Path;
use std::sync::Arc;

use tailcliff_proto::v1;

use crate::clock::{Beat, Exchange};
use crate::journal::{Entry, FILE_NAME, Fact, Frames, JournalError, Place, Resumed};
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
        Some(fact) => take_of_node_or_level(data, of, fact, from),
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

fn take_of_node_or_level(data: &mut RunData, of: Incarnation, fact: Fact, from: Source<'_>) {
    match fact {
        Fact::Share(share) => {
            if let (Some(log), Some(part)) = (level(data, share.level), share.share) {
                log.shares.insert(of, part);
            }
        }
        Fact::Started(started) => {
            let here = |ns: Option<i64>| ns.map(|ns| ns.saturating_add(data.shift_ns));
            let received_ref_ns = here(started.received_ref_ns);
            // What an earlier coordinator sent was stamped by another clock.
            let is_before = |sent: &i64| received_ref_ns.is_none_or(|received| *sent <= received);
            let order_sent_ref_ns = here(started.order_sent_ref_ns).filter(is_before);
            let started = v1::LevelStarted { order_sent_ref_ns, received_ref_ns, ..started };
            if let Some(log) = level(data, started.level) {
                // Said again after a break: the first time it was heard when it happened.
                log.started.entry(of).or_insert(started);
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
                take_of_node(node, fact, from, shift_ns);
            }
        }
    }
}

fn level(data: &mut RunData, index: u32) -> Option<&mut LevelLog> {
    data.levels.iter_mut().rev().find(|log| log.drive.level == index)
}

/// Stamps of the coordinator are `shift_ns` behind those of the first.
fn take_of_node(node: &mut Node, fact: Fact, (shelf, place): Source<'_>, shift_ns: i64) {
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
        Fact::Beat(stored) => {
            let beat = Beat::from(stored);
            let received_ref_ns = here(beat.received_ref_ns);
            let heard = beat.heard.map(|(sent, read)| (here(sent), read));
            // What an earlier coordinator sent was stamped by another clock.
            let heard = heard.filter(|(sent, _)| *sent <= received_ref_ns);
            node.beats.push(Beat { received_ref_ns, heard, ..beat });
        }
        Fact::Batch(stored) => {
            let last = node.last_seq;
            if let Some(batch) = stored.batch.filter(|b| b.seq > last) {
                node.last_seq = batch.seq;
                node.batch_stamps.push((batch.sent_raw_ns, here(stored.received_ref_ns)));
                node.file(shelf, Filed::new(place, &batch));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
