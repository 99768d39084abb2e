//! The thread that moves batches between memory and disk, so that no shard and no stream ever waits for a file: what
//! memory has no room for is written behind what is there already, and read back when that is acked.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

use super::segments::{FRAME_HEAD, Place, Segments, sweep};
use super::{Kept, Shared, State};
use crate::clock::HostClock;
use crate::v1;

/// A disk that could not be written is tried again after this, ns: it may have room again.
const RETRY_NS: i64 = 30_000_000_000;
/// The same is looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// Memory that is left of a batch while it is on disk.
const INDEX_BYTES: usize = size_of::<Spooled>();

/// Where batches go that memory has no room for.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// A directory in which to make one; it is gone again when all is acked.
    pub dir: PathBuf,
    /// Most that it may take.
    pub bytes: u64,
}

impl SpoolConfig {
    /// As flags say: a directory, or else the system's for temporary files that are large; none for 0 MiB.
    pub fn from_flags(dir: Option<PathBuf>, mib: u32) -> Option<Self> {
        let usual = || std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        (mib > 0).then(|| Self { dir: dir.unwrap_or_else(usual), bytes: u64::from(mib) << 20 })
    }
}

/// A batch on disk.
#[derive(Debug)]
pub(super) struct Spooled {
    pub(super) seq: u64,
    place: Place,
    cost: usize,
    held: [u32; 5],
}

impl Spooled {
    fn new(kept: &Kept, place: Place) -> Self {
        let batch = &kept.batch;
        let (records, windows) = (batch.records.len(), batch.windows.len());
        let held =
            [records, windows, batch.in_flight.len(), batch.gpu_samples.len(), super::other_readings(batch)];
        Self { seq: batch.seq, place, cost: kept.cost, held: held.map(|n| n as u32) }
    }

    /// What stands in for it when it cannot be read back: without a batch of its number none after it could be shipped.
    fn lost(&self, incarnation: u64) -> v1::Batch {
        let [records, windows, in_flight, gpu_samples, evidence] = self.held.map(u64::from);
        let lost = v1::LostParts { records, windows, in_flight, gpu_samples, evidence };
        v1::Batch {
            incarnation,
            seq: self.seq,
            sent_raw_ns: HostClock.now(),
            lost: Some(lost),
            ..Default::default()
        }
    }
}

/// What a spool is doing, as its outbox sees it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Between memory's oldest and newest.
    pub(super) on_disk: std::collections::VecDeque<Spooled>,
    /// Whoever owns the outbox is done.
    pub(super) closing: bool,
    /// There is a thread, which may have files.
    pub(super) lives: bool,
    /// After an error, nothing is written before this, ns.
    paused_until: i64,
}

#[derive(Debug)]
enum Task {
    Write(Kept),
    Read(Place),
    Retire(u64),
    SayFull,
    End,
}

struct Worker {
    shared: Arc<Shared>,
    config: SpoolConfig,
    segments: Segments,
    tell: mpsc::Sender<String>,
    /// What a person was told of, once each.
    told: Told,
}

#[derive(Default)]
struct Told {
    used: bool,
    full: bool,
    broken: bool,
    lost: bool,
}

/// Starts the thread; what a person must know goes to `tell`.
pub(super) fn start(
    shared: Arc<Shared>,
    config: SpoolConfig,
    tell: mpsc::Sender<String>,
) -> io::Result<JoinHandle<()>> {
    let segments = Segments::new(config.dir.clone(), config.bytes);
    let worker = Worker { shared, config, segments, tell, told: Told::default() };
    std::thread::Builder::new().name("spool".to_owned()).spawn(move || worker.work())
}

impl Worker {
    fn work(mut self) {
        let (spools, bytes) = sweep(&self.config.dir);
        if spools > 0 {
            self.say(&format!(
                "removed the spool of {spools} killed process(es) from {}: {} MiB of measurements that never reached \
                 their coordinator",
                self.config.dir.display(),
                bytes.div_ceil(1 << 20)
            ));
        }
        loop {
            match self.next_task() {
                Task::Write(kept) => self.write(&kept),
                Task::Read(place) => self.read(place),
                Task::Retire(acked) => self.segments.retire(acked),
                Task::SayFull => self.say_full(),
                Task::End => break,
            }
        }
        self.segments.remove();
        self.shared.state().spool.lives = false;
        self.shared.changed.notify_waiters();
    }

    fn say(&self, text: &str) {
        // A full channel has troubles enough in it.
        let _full = self.tell.try_send(text.to_owned());
    }

    fn next_task(&self) -> Task {
        let mut state = self.shared.state();
        loop {
            if let Some(task) = self.task(&mut state) {
                return task;
            }
            state = self.rest(state);
        }
    }

    fn rest<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.spool.paused_until == 0 {
            return self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let woken = self.shared.work.wait_timeout(state, LOOK);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }

    fn task(&self, state: &mut State) -> Option<Task> {
        if state.spool.closing {
            return Some(Task::End);
        }
        if state.close_up(&self.shared) {
            self.shared.changed.notify_waiters();
        }
        if self.segments.has_spent(state.acked) {
            return Some(Task::Retire(state.acked));
        }
        let back = state.spool.on_disk.front().filter(|next| self.shared.takes_back(state, next.cost));
        let back = back.map(|next| Task::Read(next.place));
        // Whoever waits for batches to ship comes first; then room is made for those that measure.
        if state.head.is_empty() && back.is_some() {
            return back;
        }
        if state.spool.paused_until < HostClock.monotonic() {
            state.spool.paused_until = 0;
        }
        let is_paused = state.spool.paused_until > 0;
        match state.tail.front().filter(|_| !is_paused) {
            Some(oldest) if self.segments.bytes() + frame_bytes(oldest) <= self.config.bytes => {
                Some(Task::Write(oldest.clone()))
            }
            Some(_) if !self.told.full => Some(Task::SayFull),
            _ => back,
        }
    }

    fn write(&mut self, kept: &Kept) {
        let place = match self.segments.append(&kept.batch) {
            Ok(place) => place,
            Err(error) => return self.pause(&error),
        };
        let mut state = self.shared.state();
        // Meanwhile it may have moved to the front, since all before it was acked.
        if state.tail.front().is_some_and(|oldest| oldest.batch.seq == kept.batch.seq) {
            state.tail.pop_front();
            state.memory = state.memory.saturating_sub(kept.cost) + INDEX_BYTES;
            state.spool.on_disk.push_back(Spooled::new(kept, place));
        }
        drop(state);
        if !std::mem::replace(&mut self.told.used, true) {
            let path = self.segments.path().unwrap_or(&self.config.dir).display().to_string();
            self.say(&format!("the coordinator is away or slow: measurements wait in {path}"));
        }
    }

    fn pause(&mut self, error: &io::Error) {
        self.shared.state().spool.paused_until = HostClock.monotonic().saturating_add(RETRY_NS);
        if !std::mem::replace(&mut self.told.broken, true) {
            self.say(&format!(
                "failed to write the spool in {}: {error}; measurements wait in memory alone, and those that do not fit \
                 are left out and counted; name another --spool-dir",
                self.config.dir.display()
            ));
        }
    }

    fn say_full(&mut self) {
        self.told.full = true;
        self.say(&format!(
            "the spool has the {} MiB that it may have: measurements that do not fit into memory either are left out \
             and counted; raise --spool-mib",
            self.config.bytes >> 20
        ));
    }

    fn read(&mut self, place: Place) {
        let read = self.segments.read(place);
        let mut state = self.shared.state();
        let Some(next) = state.spool.on_disk.pop_front() else { return };
        let is_it = |batch: &v1::Batch| batch.seq == next.seq && batch.incarnation == self.shared.incarnation;
        let (batch, why) = match read {
            Ok(batch) if is_it(&batch) => (batch, None),
            Ok(_) => (next.lost(self.shared.incarnation), Some(io::ErrorKind::InvalidData.into())),
            Err(error) => (next.lost(self.shared.incarnation), Some(error)),
        };
        state.memory = state.memory.saturating_sub(INDEX_BYTES) + next.cost;
        state.head_cost += next.cost;
        state.head.push_back(Kept { batch: Arc::new(batch), cost: next.cost });
        drop(state);
        self.shared.changed.notify_waiters();
        if let Some(why) = why
            && !std::mem::replace(&mut self.told.lost, true)
        {
            self.say(&lost_words(&next, &why));
        }
    }
}

fn lost_words(next: &Spooled, why: &io::Error) -> String {
    let [records, windows, ..] = next.held;
    format!(
        "failed to read a batch back from the spool: {why}; its {records} records and {windows} windows are lost, and the \
         report counts these and any further"
    )
}

fn frame_bytes(kept: &Kept) -> u64 {
    use prost::Message;
    (kept.batch.encoded_len() + FRAME_HEAD) as u64
}
