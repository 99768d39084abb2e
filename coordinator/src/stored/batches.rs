//! A node's batches: held in memory, or left in the journal and read again each time they are asked for, so that a merge
//! needs no memory for them. Either way they come in the order of their numbers, each once.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::sync::{Arc, OnceLock};

use tailcliff_proto::v1;

use super::Node;
use crate::journal::{Fact, Place, read_again};

/// A journal that batches are read from again.
#[derive(Debug)]
pub struct Shelf {
    file: File,
    /// The first failure: whoever made figures of what came before it has to ask.
    trouble: OnceLock<io::Error>,
}

/// A batch that was left in the journal.
#[derive(Clone, Copy, Debug)]
pub struct Filed {
    place: Place,
    /// First and last level that it speaks of; first > last for none.
    levels: (u32, u32),
    records: u32,
    has_samples: bool,
    has_evidence: bool,
    has_host_samples: bool,
    has_loop_lags: bool,
    has_server: bool,
    /// What it stands in for, of which the node's spool kept no more than the count.
    lost: Option<v1::LostParts>,
}

impl Shelf {
    /// Over an open journal.
    pub fn new(file: File) -> Self {
        Self { file, trouble: OnceLock::new() }
    }

    /// Why not everything could be read again, if so.
    pub fn trouble(&self) -> Option<io::Error> {
        self.trouble.get().map(|error| io::Error::new(error.kind(), error.to_string()))
    }

    fn read(&self, filed: &Filed) -> Option<v1::Batch> {
        match read_again(&self.file, filed.place).map(|entry| entry.fact) {
            Ok(Some(Fact::Batch(stored))) => stored.batch,
            Ok(_) => None,
            Err(error) => {
                let _first = self.trouble.set(error);
                None
            }
        }
    }
}

impl Filed {
    /// What is remembered of a batch that lies there.
    pub fn new(place: Place, batch: &v1::Batch) -> Self {
        let records = batch.records.iter().map(|r| r.level);
        let others = batch.windows.iter().map(|w| w.level).chain(batch.in_flight.iter().map(|s| s.level));
        let others = others.chain(batch.loop_lags.iter().map(|l| l.level));
        let span = |(first, last): (u32, u32), level: u32| (first.min(level), last.max(level));
        Self {
            place,
            levels: records.chain(others).fold((u32::MAX, 0), span),
            records: u32::try_from(batch.records.len()).unwrap_or(u32::MAX),
            has_samples: !batch.gpu_samples.is_empty(),
            has_evidence: has_evidence(batch),
            has_host_samples: !batch.host_samples.is_empty(),
            has_loop_lags: !batch.loop_lags.is_empty(),
            has_server: has_server(batch),
            lost: batch.lost,
        }
    }
}

impl Node {
    /// Every batch.
    pub fn each_batch(&self) -> impl Iterator<Item = Cow<'_, v1::Batch>> {
        self.each_of(|_| true)
    }

    /// Every batch that speaks of a level, and maybe of others.
    pub fn each_batch_of(&self, level: u32) -> impl Iterator<Item = Cow<'_, v1::Batch>> {
        self.each_of(move |filed| (filed.levels.0..=filed.levels.1).contains(&level))
    }

    /// Every batch that has GPU samples.
    pub fn each_batch_with_samples(&self) -> impl Iterator<Item = Cow<'_, v1::Batch>> {
        self.each_of(|filed| filed.has_samples).filter(|batch| !batch.gpu_samples.is_empty())
    }

    /// Every batch that says something of GPUs or of the server's host.
    pub fn each_batch_with_evidence(&self) -> impl Iterator<Item = Cow<'_, v1::Batch>> {
        self.each_of(|filed| filed.has_evidence).filter(|batch| has_evidence(batch))
    }

    /// Every batch that has samples of the host.
    pub fn each_batch_with_host_samples(&self) -> impl Iterator<Item = Cow<'_, v1::Batch>> {
        self.each_of(|filed| filed.has_host_samples).filter(|batch| !batch.host_samples.is_empty())
    }

    /// Every batch that tells of event loops that stood still.
    pub fn each_batch_with_loop_lags(&self) -> impl Iterator<Item = Cow<'_, v1::Batch>> {
        self.each_of(|filed| filed.has_loop_lags).filter(|batch| !batch.loop_lags.is_empty())
    }

    /// Every batch in which a model server tells of itself.
    pub fn each_batch_with_server(&self) -> impl Iterator<Item = Cow<'_, v1::Batch>> {
        self.each_of(|filed| filed.has_server).filter(|batch| has_server(batch))
    }

    fn each_of(&self, wanted: impl Fn(&Filed) -> bool) -> impl Iterator<Item = Cow<'_, v1::Batch>> {
        let filed = self.filed.iter().filter(move |filed| wanted(filed));
        let read = filed.filter_map(|filed| self.shelf.as_ref()?.read(filed)).map(Cow::Owned);
        self.batches.iter().map(Cow::Borrowed).chain(read)
    }

    /// What the node's spool lost.
    pub fn lost_parts(&self) -> impl Iterator<Item = v1::LostParts> {
        let held = self.batches.iter().filter_map(|batch| batch.lost);
        held.chain(self.filed.iter().filter_map(|filed| filed.lost))
    }

    /// Batches in all.
    pub fn batch_count(&self) -> u64 {
        (self.batches.len() + self.filed.len()) as u64
    }

    /// Records in all.
    pub fn record_count(&self) -> u64 {
        let held: u64 = self.batches.iter().map(|batch| batch.records.len() as u64).sum();
        held + self.filed.iter().map(|filed| u64::from(filed.records)).sum::<u64>()
    }

    /// Takes in a batch, on top of those that it has.
    pub fn file(&mut self, shelf: &Arc<Shelf>, filed: Filed) {
        self.shelf.get_or_insert_with(|| shelf.clone());
        self.filed.push(filed);
    }

    /// Brings everything into memory.
    pub fn hold(&mut self) {
        self.batches = self.each_batch().map(Cow::into_owned).collect();
        self.filed = Vec::new();
    }
}

fn has_evidence(batch: &v1::Batch) -> bool {
    !(batch.gpu_samples.is_empty()
        && batch.sensors.is_empty()
        && batch.host_samples.is_empty()
        && batch.driver_samples.is_empty()
        && batch.gpm_samples.is_empty()
        && batch.probe_costs.is_empty()
        && batch.gpu_events.is_empty())
}

fn has_server(batch: &v1::Batch) -> bool {
    !(batch.server_samples.is_empty()
        && batch.server_spans.is_empty()
        && batch.server_stamps.is_empty()
        && batch.wall_clocks.is_empty()
        && batch.span_tallies.is_empty()
        && batch.server_facts.is_empty())
}
