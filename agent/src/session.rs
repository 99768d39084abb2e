//! The agent's side of the control connection: takes orders, runs levels, keeps the lease, dials again when the stream
//! breaks. A level outlives a short break; what it said meanwhile is said again.

use std::sync::Arc;
use std::time::Duration;

use tailcliff_proto::beat::Beats;
use tailcliff_proto::link::{ControlLink, LinkError};
use tailcliff_proto::outbox::Outbox;
use tailcliff_proto::v1::{self, coordinator_message::Kind as Order, node_message::Kind as Say};
use tailcliff_proto::{BUILD, PROTOCOL, host, pong};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::corpus::{Corpus, Intake, Taken};
use crate::level::{self, Armed, Ends};
use crate::{calibration, host_check, permit, preflight};
use tailcliff_proto::reach::reach;

const HEARTBEAT: Duration = Duration::from_secs(1);
/// At the end of a run, how long the next ack is waited for while batches are not on the coordinator's disk.
const LAST_ACKS: Duration = Duration::from_secs(5);
/// The same when told to stop: whoever stops a process does not wait long.
const HASTY_ACKS: Duration = Duration::from_secs(3);
/// After the last ack, for the clock's last burst of pings.
const LINGER: Duration = Duration::from_millis(250);
/// Why a level was given up without an order.
const LAPSED: &str = "nothing was heard from the coordinator for longer than the lease";
/// Shortest and longest lease believed.
const LEASES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));

/// Shortest and longest time between two reports of progress that is obeyed.
const REPORTS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// One agent process.
pub(crate) struct Session {
    config: Config,
    incarnation: u64,
    outbox: Outbox,
    shutdown: CancellationToken,
    lease: Duration,
    /// How often progress is told.
    report_every: Duration,
    heard: Instant,
    run_id: Option<u64>,
    armed: Option<Armed>,
    running: Option<(u32, Ends)>,
    /// The level that was given up when the lease lapsed.
    given_up: Option<u32>,
    preflight: Option<AbortHandle>,
    /// The dataset, as far as it has come.
    corpus: Intake,
    /// The newest level that was ordered.
    level: Option<u32>,
    beats: Beats,
    /// Why the run goes on without this agent, if so.
    turned_away: Option<String>,
    /// The coordinator said that the run is over.
    is_over: bool,
    /// Said by levels and the preflight, to be passed on.
    inbox: mpsc::Receiver<Say>,
    levels: mpsc::Sender<Say>,
    /// Said by the spool, for a person; what the coordinator may not have heard is said again.
    troubles: mpsc::Receiver<String>,
    notices: Vec<(Instant, String)>,
    /// What a new connection must hear again: the broken one may have lost it.
    newest: Vec<Say>,
}

impl Session {
    /// A session that has not dialled yet.
    pub(crate) fn new(config: Config, shutdown: CancellationToken) -> Session {
        let (levels, inbox) = mpsc::channel(64);
        let incarnation = fastrand::u64(1..);
        let (tell, troubles) = mpsc::channel(16);
        Session {
            outbox: outbox(incarnation, &config, tell),
            incarnation,
            shutdown,
            lease: Duration::from_secs(5),
            report_every: level::PROGRESS,
            heard: Instant::now(),
            run_id: None,
            armed: None,
            running: None,
            given_up: None,
            preflight: None,
            corpus: Intake::default(),
            turned_away: None,
            is_over: false,
            level: None,
            beats: Beats::default(),
            inbox,
            levels,
            troubles,
            notices: Vec::new(),
            newest: Vec::new(),
            config,
        }
    }

    /// Until the run ends, `shutdown`, or a refusal. No file of the spool is left then.
    pub(crate) async fn run(mut self) -> Result<(), LinkError> {
        let ended = self.serve().await;
        let left = self.outbox.unacked();
        self.outbox.close();
        self.outbox.closed().await;
        let unshipped = LinkError::Unshipped(left);
        match ended {
            Ok(()) if left > 0 => Err(unshipped),
            Err(_) if left > 0 => {
                (self.config.tell)(&unshipped.to_string());
                ended
            }
            _ => ended,
        }
    }

    async fn serve(&mut self) -> Result<(), LinkError> {
        // No child of `shutdown`: when told to stop, what was measured is still shipped.
        let children = CancellationToken::new();
        let _stop_children = children.clone().drop_guard();
        tokio::spawn(self.outbox.clone().ship(self.config.coordinator.clone(), children.clone()));
        let mut clock_runs = false;
        permit::words(&self.config).into_iter().for_each(|line| (self.config.tell)(&line));
        loop {
            let Some(link) = self.connect().await? else { return Err(LinkError::Left) };
            if !clock_runs {
                let route = self.config.coordinator.clock(&link.welcome);
                pong::answer_pings(route, self.incarnation, children.clone())
                    .map_err(|e| LinkError::Broken(format!("failed to start the clock thread: {e}")))?;
                clock_runs = true;
            }
            if let Some(link) = self.converse(link).await {
                self.leave(link).await;
                return match self.turned_away.take() {
                    Some(why) => Err(LinkError::Refused(why)),
                    None if !self.is_over => Err(LinkError::Left),
                    None => Ok(()),
                };
            }
            // A link that stood and carried nothing took with it what was said since the last word from its other end.
            let heard = self.heard;
            self.notices.retain(|(said, _)| *said >= heard);
        }
    }

    /// Dials until welcomed, giving up the load when the lease lapses meanwhile; `None` when told to stop.
    async fn connect(&mut self) -> Result<Option<ControlLink>, LinkError> {
        let shutdown = self.shutdown.clone();
        let (route, hello) = (self.config.coordinator.clone(), self.hello());
        let reached = reach(&route, &hello, &shutdown, self.config.tell);
        tokio::pin!(reached);
        loop {
            tokio::select! {
                link = &mut reached => return match link {
                    Ok(link) => self.welcomed(link).map(Some),
                    Err(LinkError::Stopped) => Ok(None),
                    Err(fatal) => Err(fatal),
                },
                Some(said) = self.inbox.recv() => drop(self.remember(said)),
                Some(trouble) = self.troubles.recv() => self.take_trouble(trouble),
                () = tokio::time::sleep_until(self.heard + self.lease), if self.has_level() => self.lapse(),
                () = shutdown.cancelled() => return Ok(None),
            }
        }
    }

    fn welcomed(&mut self, link: ControlLink) -> Result<ControlLink, LinkError> {
        let run_id = link.welcome.run_id;
        if *self.run_id.get_or_insert(run_id) != run_id {
            let text = "another run has taken this coordinator's place; start this agent again to join it";
            return Err(LinkError::Refused(text.to_owned()));
        }
        self.lease = Duration::from_nanos(link.welcome.lease_ns.unsigned_abs()).clamp(LEASES.0, LEASES.1);
        self.report_every = match link.welcome.report_every_ns {
            0 => level::PROGRESS,
            ns => Duration::from_nanos(ns.unsigned_abs()).clamp(REPORTS.0, REPORTS.1),
        };
        self.heard = Instant::now();
        (self.config.tell)(&format!("joined the run at {}", self.config.coordinator));
        Ok(link)
    }

    fn hello(&self) -> v1::Hello {
        v1::Hello {
            protocol: PROTOCOL,
            build: BUILD.to_owned(),
            node_kind: v1::NodeKind::Agent as i32,
            name: self.config.name.clone(),
            incarnation: self.incarnation,
            host: Some(self.host()),
            index: self.config.index,
            ..Default::default()
        }
    }

    fn host(&self) -> v1::HostFacts {
        let facts = host::facts(self.config.shards.max(1));
        let calibration_json = calibration::of_host(&facts).unwrap_or_default();
        v1::HostFacts { calibration_json, ..facts }
    }

    /// Talks over one connection until it breaks; gives it back when the run is over, or we were told to stop.
    async fn converse(&mut self, mut link: ControlLink) -> Option<ControlLink> {
        for said in self.newest.clone() {
            say(&link, said);
        }
        self.notices.iter().for_each(|(_, text)| say(&link, notice(text)));
        let mut beat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                message = link.inbound.message() => {
                    let Ok(Some(message)) = message else { return None };
                    self.heard = Instant::now();
                    if let Some(Order::End(end)) = message.kind {
                        self.is_over = true;
                        self.turned_away = end.turned_away.then_some(end.reason);
                        return Some(link);
                    }
                    message.kind.into_iter().for_each(|order| self.obey(order, &link));
                }
                Some(said) = self.inbox.recv() => self.pass_on(said, &link),
                Some(trouble) = self.troubles.recv() => {
                    say(&link, notice(&trouble));
                    self.take_trouble(trouble);
                }
                _ = beat.tick() => say(&link, Say::Heartbeat(self.beats.beat())),
                () = tokio::time::sleep_until(self.heard + self.lease) => {
                    // Connected, but nobody speaks: as good as cut.
                    self.lapse();
                    return None;
                }
                () = self.shutdown.cancelled() => return Some(link),
            }
        }
    }

    /// Ships what is left, still connected: the coordinator takes the end of the link for the end of the data.
    async fn leave(&mut self, mut link: ControlLink) {
        let shutdown = self.shutdown.clone();
        let is_hasty = shutdown.is_cancelled();
        let running = self.running.as_ref().map(|(level, _)| *level);
        if is_hasty {
            say(&link, Say::Leaving(v1::Leaving { reason: "it was told to stop".to_owned() }));
        }
        self.abandon();
        let outbox = self.outbox.clone();
        let shipped = async {
            // Its `Done` stays here: a level that this agent leaves must not look like one that it finished.
            while let Some(level) = running {
                if matches!(self.inbox.recv().await, Some(Say::Done(done)) if done.level == level) {
                    break;
                }
            }
            self.outbox.drained().await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            () = shipped => {}
            () = stay(&mut link) => {}
            () = tokio::time::sleep(HASTY_ACKS), if is_hasty => {}
            // A full spool takes a while.
            () = outbox.stalled(LAST_ACKS), if !is_hasty => {}
            () = shutdown.cancelled(), if !is_hasty => {}
        }
    }

    /// Each is told once in the life of a process, so that there are few.
    fn take_trouble(&mut self, text: String) {
        (self.config.tell)(&text);
        self.notices.push((Instant::now(), text));
    }

    fn pass_on(&mut self, said: Say, link: &ControlLink) {
        let said = self.remember(said);
        say(link, said);
    }

    /// Keeps what a new connection must hear again; gives it back, marked when it ends a level that was given up.
    fn remember(&mut self, mut said: Say) -> Say {
        let level = match &mut said {
            Say::Armed(armed) => armed.level,
            Say::Started(started) => started.level,
            // The others heal with the next one.
            Say::Telemetry(telemetry) if telemetry.is_final => telemetry.level,
            Say::Done(done) => {
                if self.given_up == Some(done.level) {
                    done.given_up = LAPSED.to_owned();
                }
                self.running.take_if(|(running, _)| *running == done.level);
                done.level
            }
            Say::PreflightDone(_) => {
                self.newest.push(said.clone());
                return said;
            }
            _ => return said,
        };
        // What an earlier level had left to say is nobody's concern after the next was armed.
        if self.level == Some(level) {
            self.newest.push(said.clone());
        }
        said
    }

    fn obey(&mut self, order: Order, link: &ControlLink) {
        match order {
            Order::Corpus(part) => self.take_part(part, link),
            Order::Preflight(order) => self.preflight(order),
            Order::Arm(mut order) => self.arm(&mut order, link),
            Order::Start(start) => self.start(&start, link),
            Order::Stop(stop) => self.stop(stop.level, link),
            Order::Heartbeat(beat) => self.beats.hear(&beat),
            Order::Welcome(_) | Order::Refused(_) | Order::End(_) => {}
        }
    }

    fn take_part(&mut self, part: v1::CorpusPart, link: &ControlLink) {
        match self.corpus.take(part) {
            Taken::Held(held) => say(link, Say::CorpusHeld(held)),
            Taken::Complete(make) => {
                let levels = self.levels.clone();
                // A large tokenizer takes longer than a lease to load.
                tokio::task::spawn_blocking(move || drop(levels.blocking_send(Say::CorpusHeld(make()))));
            }
        }
    }

    fn preflight(&mut self, mut order: v1::Preflight) {
        self.newest.clear();
        self.level = None;
        let (levels, shards) = (self.levels.clone(), self.config.shards);
        let corpus = self.corpus.of(order.workload.as_ref().unwrap_or(&v1::Workload::default()));
        let permitted = permit::target(&self.config, order.target.as_mut());
        let task = tokio::spawn(async move {
            let done = match permitted.map(|()| corpus) {
                Err(error) => v1::PreflightDone {
                    error_kind: permit::ERROR_KIND.to_owned(),
                    error,
                    ..Default::default()
                },
                Ok(Ok(corpus)) => preflight(order, corpus, shards).await,
                Ok(Err(error)) => {
                    v1::PreflightDone { error_kind: "rejected".to_owned(), error, ..Default::default() }
                }
            };
            let _over = levels.send(Say::PreflightDone(done)).await;
        });
        // Only the newest order's answer is waited for.
        if let Some(earlier) = self.preflight.replace(task.abort_handle()) {
            earlier.abort();
        }
    }

    fn arm(&mut self, order: &mut v1::ArmLevel, link: &ControlLink) {
        // An order for another level means that nobody waits for the one before.
        self.abandon();
        self.newest.clear();
        self.level = Some(order.level);
        self.given_up = None;
        let corpus = self.corpus.of(&order.workload.clone().unwrap_or_default());
        let permitted = permit::target(&self.config, order.target.as_mut());
        let armed = permitted
            .and(corpus)
            .and_then(|corpus| level::arm(order, corpus, self.config.shards, self.incarnation, &self.outbox));
        match armed {
            Ok(mut armed) => {
                tokio::spawn(tell_when_ready(order.level, armed.ready(), self.levels.clone()));
                self.armed = Some(armed);
            }
            Err(error) => self.pass_on(Say::Armed(v1::LevelArmed { level: order.level, error }), link),
        }
    }

    fn start(&mut self, start: &v1::StartAt, link: &ControlLink) {
        match self.armed.take() {
            Some(armed) if armed.level() == start.level => {
                self.running = Some((armed.level(), armed.ends()));
                tokio::spawn(armed.run(*start, self.report_every, self.levels.clone()));
            }
            other => {
                self.armed = other;
                // Said again after a break, to one who heard it the first time.
                if !self.knows(start.level) {
                    self.refuse(start.level, "it was not armed when its start came", link);
                }
            }
        }
    }

    fn stop(&mut self, level: u32, link: &ControlLink) {
        if let Some((_, ends)) = self.running.as_ref().filter(|(running, _)| *running == level) {
            ends.stop.cancel();
        } else if self.armed.as_ref().is_some_and(|armed| armed.level() == level) {
            self.abandon();
            self.refuse(level, "it was stopped before its start", link);
        }
    }

    /// The level runs here, is ending here, or has ended here.
    fn knows(&self, level: u32) -> bool {
        let ended = |said: &Say| matches!(said, Say::Done(done) if done.level == level);
        let runs = self.running.as_ref().is_some_and(|(running, _)| *running == level);
        runs || self.given_up == Some(level) || self.newest.iter().any(ended)
    }

    /// The end of a level that never ran here.
    fn refuse(&mut self, level: u32, why: &str, link: &ControlLink) {
        let given_up = why.to_owned();
        let counts = Some(v1::LevelCounts::default());
        let done = v1::LevelDone {
            level,
            counts,
            last_batch_seq: self.outbox.last_seq(),
            given_up,
            ..Default::default()
        };
        self.pass_on(Say::Done(done), link);
    }

    fn has_level(&self) -> bool {
        self.armed.is_some() || self.running.is_some()
    }

    /// The lease is over: no load without a coordinator.
    fn lapse(&mut self) {
        let running = self.running.as_ref().map(|(level, _)| *level);
        if let Some(level) = running {
            let seconds = self.lease.as_secs_f64();
            let text = "the load is stopped, and what was measured is kept";
            (self.config.tell)(&format!(
                "no word from the coordinator for {seconds:.0} s in level {level}: {text}"
            ));
        }
        self.given_up = running.or(self.given_up);
        self.abandon();
    }

    /// Gives up what is armed or runs, at once; what was measured stays in the outbox.
    fn abandon(&mut self) {
        let armed = self.armed.take().map(|armed| armed.ends());
        for ends in armed.into_iter().chain(self.running.take().map(|(_, ends)| ends)) {
            ends.stop.cancel();
            ends.cancel.cancel();
        }
    }
}

/// However a session ends, even dropped half-way: no load goes on without it.
impl Drop for Session {
    fn drop(&mut self) {
        self.abandon();
        self.outbox.close();
        if let Some(preflight) = self.preflight.take() {
            preflight.abort();
        }
    }
}

/// What this host cannot hold is told before the server is asked for anything.
async fn preflight(order: v1::Preflight, corpus: Option<Arc<Corpus>>, shards: u32) -> v1::PreflightDone {
    let (target, workload) = (order.target.unwrap_or_default(), order.workload.unwrap_or_default());
    let streams = order.most_streams;
    let shards = shards.clamp(1, streams.max(1));
    let host = host_check::check(u64::from(streams), u64::from(shards), false);
    if !host.refusals.is_empty() {
        let (error_kind, error) = (host_check::ERROR_KIND.to_owned(), host.refusals.join("; "));
        return v1::PreflightDone { error_kind, error, warnings: host.warnings, ..Default::default() };
    }
    let mut warnings = host.warnings;
    let done = preflight::preflight(&target, &workload, corpus).await;
    if done.closes_after_reply {
        warnings = host_check::check(u64::from(streams), u64::from(shards), true).warnings;
    }
    v1::PreflightDone { warnings, ..done }
}

/// Says that a level is armed once all its shards wait for the start.
async fn tell_when_ready(level: u32, ready: Vec<oneshot::Receiver<()>>, levels: mpsc::Sender<Say>) {
    let mut error = String::new();
    for shard in ready {
        if shard.await.is_err() {
            error = "a shard ended before the start".to_owned();
        }
    }
    let _over = levels.send(Say::Armed(v1::LevelArmed { level, error })).await;
}

/// Keeps a link alive until the other end closes it.
async fn stay(link: &mut ControlLink) {
    let mut beat = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            message = link.inbound.message() => if !matches!(message, Ok(Some(_))) { return },
            _ = beat.tick() => say(link, Say::Heartbeat(Beats::default().beat())),
        }
    }
}

fn notice(text: &str) -> Say {
    Say::Notice(v1::NodeNotice { text: text.to_owned() })
}

fn outbox(incarnation: u64, config: &Config, tell: mpsc::Sender<String>) -> Outbox {
    let outbox = Outbox::new(incarnation, config.outbox_bytes);
    let started = config.spool.clone().map_or(Ok(()), |spool| outbox.spool(spool, tell));
    if let Err(error) = started {
        (config.tell)(&format!(
            "failed to start the spool's thread: {error}; measurements wait in memory alone"
        ));
    }
    outbox
}

fn say(link: &ControlLink, kind: Say) {
    // A full channel is a stream that does not move: the lease will tell, and what matters is said again.
    let _full = link.out.try_send(v1::NodeMessage { kind: Some(kind) });
}
