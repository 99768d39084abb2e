//! The one task that owns the state of a run: nodes and their connections, the journal, the state machine. Inputs come
//! in over channels, orders go out; every fact is journalled before anything is built on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1::{self, coordinator_message::Kind as Order, node_message::Kind as Said};
use tailcliff_proto::{BUILD, PROTOCOL};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tonic::Status;

use crate::axis::Load;
use crate::beats::Beats;
use crate::clock::online::Online;
use crate::dataset::Corpus;
use crate::display::Display;
use crate::journal::{Entry, Exchanges, Fact, Journal, JournalError, StoredBatch};
use crate::metrics::figures::NodeFigures;
use crate::pinger::{ClockEvent, Pinger};
use crate::resume::Resume;
use crate::run::{Ending, Event, LEASE_NS, Run};
use crate::search::seen::Seen;
use crate::service::{Connection, Input, ToNode, ToShipper, message};
use crate::stored::{Drive, Incarnation};

/// Agents that may each tell their progress four times a second.
const FEW_AGENTS: u32 = 40;
/// Happenings of this kind in a second.
const BEATS_PER_SECOND: usize = 4;

/// Something for the owner of the state.
#[derive(Debug)]
pub enum Happening {
    /// From a node's control or bulk connection.
    Node(Input),
    /// From the clock thread.
    Clock(ClockEvent),
    /// A batch is on disk.
    Stored(Incarnation, u64),
    /// The user wants out.
    Interrupt(String),
    /// A node inside this process ended, and why.
    Failed(v1::NodeKind, String),
    /// Something for the person who runs the coordinator.
    Told(String),
    /// What a search's level came to.
    Judged(Box<Result<Seen, String>>),
    /// A quarter of a second passed.
    Beat,
}

#[derive(Debug)]
struct Peer {
    kind: v1::NodeKind,
    index: u32,
    name: String,
    connection: Option<(Connection, ToNode)>,
    online: Online,
    last_seq: u64,
}

impl Peer {
    /// As a scrape is told of it.
    fn figures(&self, now: i64) -> NodeFigures {
        NodeFigures {
            name: self.name.clone(),
            is_agent: self.kind == v1::NodeKind::Agent,
            connected: self.connection.is_some(),
            clock_bound_ns: self.online.to_node(now).map(|(_, bound_ns)| bound_ns),
        }
    }
}

mod admission;
mod orders;

/// The owner.
#[derive(Debug)]
pub struct Fleet {
    run: Run,
    journal: Journal,
    pinger: Pinger,
    clock_port: u32,
    run_id: u64,
    /// Places for agents and probes.
    places: (u32, u32),
    peers: BTreeMap<Incarnation, Peer>,
    /// Away for longer than their lease; one that comes back still has what it measured.
    lost: BTreeMap<Incarnation, Peer>,
    planned: Option<(Drive, Load, BTreeMap<Incarnation, v1::LoadShare>)>,
    voided: BTreeMap<u32, String>,
    started: Vec<u32>,
    interrupted: bool,
    last_refusal: String,
    beats: Beats,
    /// Trace mode: the newest word of each agent on a level that is not settled.
    told: BTreeMap<Incarnation, Arc<v1::Telemetry>>,
    stored: mpsc::UnboundedSender<(Incarnation, u64)>,
    turn: usize,
    display: Display,
    corpus: Option<Arc<Corpus>>,
    /// Where the journal is, and who is told what a level of a search came to.
    judged: Option<(PathBuf, mpsc::UnboundedSender<Result<Seen, String>>)>,
}

impl Fleet {
    /// An empty fleet with places for (agents, probes) of the run `run_id`; `stored` is told of each batch on disk.
    pub fn new(
        run: Run,
        journal: Journal,
        pinger: Pinger,
        (run_id, clock_port): (u64, u16),
        places: (u32, u32),
        stored: mpsc::UnboundedSender<(Incarnation, u64)>,
        display: Display,
    ) -> Self {
        Self {
            run,
            journal,
            pinger,
            clock_port: u32::from(clock_port),
            run_id,
            places,
            peers: BTreeMap::new(),
            lost: BTreeMap::new(),
            planned: None,
            voided: BTreeMap::new(),
            started: Vec::new(),
            interrupted: false,
            last_refusal: String::new(),
            beats: Beats::default(),
            told: BTreeMap::new(),
            stored,
            turn: 0,
            display,
            corpus: None,
            judged: None,
        }
    }

    /// Tells `judged` of each level of a search, from the journal in `dir`.
    #[must_use]
    pub fn judging(mut self, dir: PathBuf, judged: mpsc::UnboundedSender<Result<Seen, String>>) -> Self {
        self.judged = Some((dir, judged));
        self
    }

    /// With what agents are told before the preflight.
    #[must_use]
    pub fn with_corpus(mut self, corpus: Option<Arc<Corpus>>) -> Self {
        self.corpus = corpus;
        self
    }

    /// With the nodes of an earlier coordinator, which may come back and still have what they measured.
    #[must_use]
    pub fn resumed(mut self, resume: &Resume) -> Self {
        for node in &resume.nodes {
            let peer = Peer {
                kind: node.kind,
                index: node.index,
                name: node.name.clone(),
                connection: None,
                online: Online::default(),
                last_seq: node.last_seq,
            };
            self.lost.insert(node.incarnation, peer);
        }
        self.started = resume.levels.clone();
        self
    }

    /// Takes in one happening; returns the ending once the run is over.
    ///
    /// # Errors
    /// When the journal cannot be written: nothing more can be promised then.
    pub fn take(&mut self, happening: Happening) -> Result<Option<Ending>, JournalError> {
        match happening {
            Happening::Node(Input::Hello { connection, hello, out }) => self.hello(connection, *hello, out),
            Happening::Node(Input::Said(connection, of, said)) if self.is_current(connection, of) => {
                self.said(of, *said)
            }
            Happening::Node(Input::Gone(connection, of)) if self.is_current(connection, of) => self.gone(of),
            Happening::Node(Input::Said(..) | Input::Gone(..)) => Ok(None),
            Happening::Node(Input::Batch { batch, ack, room }) => self.batch(*batch, ack, room),
            Happening::Clock(event) => self.clock(event),
            Happening::Stored(of, seq) => self.step(Event::Stored(of, seq)),
            Happening::Interrupt(why) => {
                let next = match std::mem::replace(&mut self.interrupted, true) {
                    false => "draining; once more to end at once",
                    true => "ending at once",
                };
                self.display.say(&format!("{why}: {next}"));
                self.step(Event::Interrupt(why))
            }
            Happening::Failed(kind, why) => self.step(Event::Failed(kind, why)),
            Happening::Told(line) => {
                self.display.say(&label(&line));
                Ok(None)
            }
            Happening::Judged(seen) => self.step(Event::Judged(*seen)),
            Happening::Beat => self.beat(),
        }
    }

    /// True once a level was started.
    pub fn has_started(&self) -> bool {
        !self.started.is_empty()
    }

    /// The journal, to be closed when the run is over.
    pub fn into_parts(self) -> (Journal, Display) {
        (self.journal, self.display)
    }

    fn is_current(&self, connection: Connection, of: Incarnation) -> bool {
        let current = self.peers.get(&of).and_then(|peer| peer.connection.as_ref());
        current.is_some_and(|(current, _)| *current == connection)
    }

    fn append(&self, incarnation: Incarnation, fact: Fact) -> Result<(), JournalError> {
        self.journal.append(Entry { incarnation, fact: Some(fact) }, None)
    }

    fn step(&mut self, event: Event) -> Result<Option<Ending>, JournalError> {
        let mut ending = None;
        for command in self.run.step(HostClock.now(), event) {
            ending = self.obey(command)?.or(ending);
        }
        Ok(ending)
    }

    fn hello(
        &mut self,
        connection: Connection,
        hello: v1::Hello,
        out: ToNode,
    ) -> Result<Option<Ending>, JournalError> {
        let of = hello.incarnation;
        let kind = hello.node_kind();
        if let Err(refused) = self.admit(&hello) {
            let text = format!("refused {}: {}", label(&hello.name), refused.reason);
            // One that asks again every second is told of once.
            if self.last_refusal != text {
                self.display.say(&text);
                self.last_refusal = text;
            }
            // One who dialled and left at once needs no answer.
            let _left = out.try_send(Ok(message(Order::Refused(refused))));
            return Ok(None);
        }
        let index = self.place_of(&hello);
        let ending = match self.replaced(of, kind, index) {
            Some(gone) => self.step(Event::Replaced(gone))?,
            None => None,
        };
        let is_new = !self.peers.contains_key(&of) && !self.lost.contains_key(&of);
        let name = self.name_for(&hello);
        let back = self.lost.remove(&of);
        let peer = self.peers.entry(of).or_insert_with(|| {
            back.unwrap_or_else(|| Peer {
                kind,
                index,
                name: name.clone(),
                connection: None,
                online: Online::default(),
                last_seq: 0,
            })
        });
        peer.index = index;
        let welcome = v1::Welcome {
            protocol: PROTOCOL,
            build: BUILD.to_owned(),
            node_index: peer.index,
            lease_ns: LEASE_NS,
            clock_port: self.clock_port,
            run_id: self.run_id,
            report_every_ns: report_every_ns(self.places.0),
        };
        let _left = out.try_send(Ok(message(Order::Welcome(welcome))));
        peer.connection = Some((connection, out));
        let what = if kind == v1::NodeKind::Agent { "agent" } else { "gpu-probe" };
        let joined = if is_new { "joined" } else { "is back" };
        self.display.say(&format!("{what} {name} ({}) {joined}", host_of(&hello)));
        if is_new && !hello.gpu_absent_reason.is_empty() {
            self.display
                .say(&format!("gpu-probe {name}: no GPU columns: {}", label(&hello.gpu_absent_reason)));
        }
        self.display.probe(&name, &hello.gpus);
        self.run.call(of, name.clone());
        let hello = v1::Hello { token: String::new(), name, index: Some(index), ..hello };
        let reads_gpus = !hello.gpus.is_empty();
        self.append(of, Fact::Hello(hello))?;
        let over = if reads_gpus { self.step(Event::ReadsGpus)? } else { None };
        Ok(over.or(self.step(Event::Joined(of, kind))?).or(ending))
    }

    fn said(&mut self, of: Incarnation, said: Said) -> Result<Option<Ending>, JournalError> {
        match &said {
            Said::PreflightDone(done) => self.append(of, Fact::Preflight(done.clone()))?,
            Said::Started(started) => {
                let received_ref_ns = Some(HostClock.now());
                self.append(of, Fact::Started(v1::LevelStarted { received_ref_ns, ..*started }))?;
                // Asked for 0, it was told to start at once: there is no time to be late by.
                if started.was_late && started.asked_raw_ns != 0 {
                    let late_ms = started.actual_raw_ns.saturating_sub(started.asked_raw_ns) as f64 / 1e6;
                    let name = self.name(of);
                    self.display.say(&format!("agent {name} started {late_ms:.1} ms late"));
                }
            }
            Said::Progress(progress) => {
                self.append(of, Fact::Progress(*progress))?;
                self.display.progress(of, progress);
            }
            Said::Telemetry(told) => return self.telemetry(of, told),
            Said::Done(done) => {
                self.append(of, Fact::Done(done.clone()))?;
                self.display.done(of, done);
            }
            Said::Notice(notice) => {
                let line = format!("{}: {}", self.name(of), label(&notice.text));
                self.display.say(&line);
                return Ok(None);
            }
            Said::Leaving(leaving) => {
                let line = format!("{} leaves: {}", self.name(of), label(&leaving.reason));
                self.display.say(&line);
            }
            Said::Heartbeat(beat) => {
                let kept = self.beats.keep(of, self.peers.len(), beat, HostClock.now());
                kept.map_or(Ok(()), |fact| self.append(of, fact))?;
            }
            Said::Armed(_) | Said::CorpusHeld(_) => {}
            Said::Hello(_) => return Ok(None),
        }
        self.step(Event::Said(of, said))
    }

    /// What an agent traced so far: its last word is stored, the others are shown.
    fn telemetry(&mut self, of: Incarnation, told: &v1::Telemetry) -> Result<Option<Ending>, JournalError> {
        if told.is_final {
            self.told.remove(&of);
            self.append(of, Fact::Telemetry(told.clone()))?;
        }
        let told = Arc::new(told.clone());
        if !told.is_final {
            self.told.insert(of, told.clone());
        }
        let name = self.name(of);
        self.display.telemetry(of, name, told);
        Ok(None)
    }

    /// Of an agent that died, the last that it said is stored.
    fn keep_last_words(&mut self) -> Result<(), JournalError> {
        for (of, told) in std::mem::take(&mut self.told) {
            self.append(of, Fact::Telemetry((*told).clone()))?;
        }
        Ok(())
    }

    fn name(&self, of: Incarnation) -> String {
        self.peers.get(&of).map_or_else(|| format!("{of:x}"), |peer| peer.name.clone())
    }

    fn gone(&mut self, of: Incarnation) -> Result<Option<Ending>, JournalError> {
        if let Some(peer) = self.peers.get_mut(&of) {
            peer.connection = None;
        }
        self.step(Event::Gone(of))
    }

    fn batch(
        &mut self,
        batch: v1::Batch,
        ack: ToShipper,
        room: OwnedSemaphorePermit,
    ) -> Result<Option<Ending>, JournalError> {
        let (of, seq) = (batch.incarnation, batch.seq);
        let refuse = |ack: ToShipper, text: &str| {
            ack.send(Err(Status::failed_precondition(text)));
            Ok(None)
        };
        // One whose place was taken meanwhile still has what it measured.
        let known = self.peers.get_mut(&of).or_else(|| self.lost.get_mut(&of));
        let Some(peer) = known else { return refuse(ack, "say hello first") };
        if seq > peer.last_seq + 1 {
            return refuse(ack, "a batch is missing");
        }
        let is_repeat = seq <= peer.last_seq;
        peer.last_seq = peer.last_seq.max(seq);
        let (fired, on_disk) = oneshot::channel();
        if is_repeat {
            // Already journalled, and entries reach the disk in order: an empty entry is the ack of a repeat.
            let nothing = Entry { incarnation: of, fact: None };
            self.journal.append(nothing, Some(fired))?;
        } else {
            self.display.windows(&batch.windows);
            self.display.samples(&peer.name, &batch.gpu_samples);
            let stored = StoredBatch { batch: Some(batch), received_ref_ns: HostClock.now() };
            let entry = Entry { incarnation: of, fact: Some(Fact::Batch(stored)) };
            self.journal.append(entry, Some(fired))?;
        }
        let stored = self.stored.clone();
        tokio::spawn(async move {
            let is_stored = on_disk.await.is_ok();
            drop(room);
            if is_stored {
                let _over = stored.send((of, seq));
                ack.send(Ok(v1::Ack { through_seq: seq }));
            }
        });
        Ok(None)
    }

    fn clock(&mut self, event: ClockEvent) -> Result<Option<Ending>, JournalError> {
        match event {
            ClockEvent::Burst { of, exchanges, lost } => {
                let Some(peer) = self.peers.get_mut(&of) else { return Ok(None) };
                exchanges.iter().for_each(|&exchange| peer.online.push(exchange));
                let stamps_ns = exchanges.iter().flat_map(|e| [e.t0, e.t1, e.t2, e.t3]).collect();
                self.append(of, Fact::Exchanges(Exchanges { stamps_ns }))?;
                if lost > 0 {
                    self.append(of, Fact::LostPings(lost))?;
                }
                self.step(Event::Pinged(of, exchanges.len() as u32))
            }
            ClockEvent::Snapshot(of, snapshot) => {
                if self.peers.contains_key(&of) {
                    self.append(of, Fact::Snapshot(*snapshot))?;
                }
                Ok(None)
            }
        }
    }

    fn beat(&mut self) -> Result<Option<Ending>, JournalError> {
        // Each node hears one a second, a fifth of its lease; they take turns, so that a large fleet makes no bursts of them.
        self.turn += 1;
        let turn = self.turn % BEATS_PER_SECOND;
        let all: Vec<_> = self.peers.keys().copied().skip(turn).step_by(BEATS_PER_SECOND).collect();
        for of in all {
            let beat = v1::Heartbeat { sent_raw_ns: HostClock.now(), ..Default::default() };
            self.send(of, Order::Heartbeat(beat));
        }
        let now = HostClock.now();
        if self.display.wants_nodes(now) {
            self.display.nodes(self.peers.values().map(|peer| peer.figures(now)).collect());
        }
        self.display.repaint(now);
        self.step(Event::Tick)
    }
}

/// How often agents tell their progress: each quarter of a second where a person watches a few, each second where many
/// would only add up to noise.
fn report_every_ns(agents: u32) -> i64 {
    if agents <= FEW_AGENTS { 250_000_000 } else { 1_000_000_000 }
}

fn host_of(hello: &v1::Hello) -> String {
    label(hello.host.as_ref().map_or("", |host| &host.hostname))
}

/// Text from a node, fit for a terminal: bounded, and with nothing that moves the cursor.
fn label(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
