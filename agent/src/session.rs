//! The agent's side of the control connection: takes orders, runs levels, keeps the lease, dials again when the stream
//! breaks. A level outlives a short break; what it said meanwhile is said again.

use std::time::Duration;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::link::{ControlLink, LinkError, clock_address, dial, join};
use tailcliff_proto::outbox::Outbox;
use tailcliff_proto::v1::{self, coordinator_message::Kind as Order, node_message::Kind as Say};
use tailcliff_proto::{BUILD, PROTOCOL, host, pong};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::level::{self, Armed, Ends};
use crate::preflight::preflight;

const HEARTBEAT: Duration = Duration::from_secs(1);
/// At the end of a run, how long batches are given to reach the coordinator's disk.
const LAST_ACKS: Duration = Duration::from_secs(10);
/// Shortest and longest lease believed.
const LEASES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));

/// One agent process.
pub(crate) struct Session {
    config: Config,
    incarnation: u64,
    outbox: Outbox,
    shutdown: CancellationToken,
    lease: Duration,
    heard: Instant,
    run_id: Option<u64>,
    armed: Option<Armed>,
    running: Option<(u32, Ends)>,
    /// Said by levels, to be passed on.
    inbox: mpsc::Receiver<Say>,
    levels: mpsc::Sender<Say>,
    /// What a new connection must hear again.
    newest: Vec<Say>,
}

/// Why a conversation ended.
enum Over {
    /// The run is over, or we were told to stop.
    Finished,
    /// The stream broke.
    Broken,
}

impl Session {
    /// A session that has not dialled yet.
    pub(crate) fn new(config: Config, shutdown: CancellationToken) -> Session {
        let (levels, inbox) = mpsc::channel(64);
        let incarnation = fastrand::u64(1..);
        Session {
            outbox: Outbox::new(incarnation, config.outbox_bytes),
            incarnation,
            shutdown,
            lease: Duration::from_secs(5),
            heard: Instant::now(),
            run_id: None,
            armed: None,
            running: None,
            inbox,
            levels,
            newest: Vec::new(),
            config,
        }
    }

    /// Until the run ends, `shutdown`, or a refusal.
    pub(crate) async fn run(mut self) -> Result<(), LinkError> {
        let children = self.shutdown.child_token();
        let _stop_children = children.clone().drop_guard();
        let ship = tokio::spawn(self.outbox.clone().ship(self.config.coordinator.clone(), children.clone()));
        let mut clock_runs = false;
        loop {
            let Some(link) = self.connect().await? else { break };
            if !clock_runs {
                let address = clock_address(&self.config.coordinator, &link.welcome);
                pong::answer_pings(address, self.incarnation, children.clone())
                    .map_err(|e| LinkError::Broken(format!("failed to start the clock thread: {e}")))?;
                clock_runs = true;
            }
            if let Over::Finished = self.converse(link).await {
                break;
            }
        }
        self.abandon();
        if !self.shutdown.is_cancelled() {
            // The coordinator closes when we do; what is not acked by then is counted there as unreported.
            let _late = tokio::time::timeout(LAST_ACKS, self.outbox.drained()).await;
        }
        ship.abort();
        Ok(())
    }

    /// Dials until welcomed, giving up the load when the lease lapses meanwhile; `None` when told to stop.
    async fn connect(&mut self) -> Result<Option<ControlLink>, LinkError> {
        loop {
            let attempt = async {
                let channel = dial(&self.config.coordinator, &self.shutdown).await?;
                join(channel, self.hello()).await
            };
            let lapse = self.heard + self.lease;
            let lapses = self.running.is_some();
            let link = tokio::select! {
                link = attempt => link,
                () = tokio::time::sleep_until(lapse), if lapses => {
                    self.abandon();
                    continue;
                }
                () = self.shutdown.cancelled() => return Ok(None),
            };
            match link {
                Ok(link) => return self.welcomed(link).map(Some),
                Err(LinkError::Stopped) => return Ok(None),
                Err(LinkError::Broken(_)) => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(fatal) => return Err(fatal),
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
        self.heard = Instant::now();
        Ok(link)
    }

    fn hello(&self) -> v1::Hello {
        v1::Hello {
            protocol: PROTOCOL,
            build: BUILD.to_owned(),
            node_kind: v1::NodeKind::Agent as i32,
            name: self.config.name.clone(),
            incarnation: self.incarnation,
            host: Some(host::facts(self.config.shards.max(1))),
            ..Default::default()
        }
    }

    /// Talks over one connection until it breaks or the run is over.
    async fn converse(&mut self, mut link: ControlLink) -> Over {
        for said in self.newest.clone() {
            say(&link, said);
        }
        let mut beat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                message = link.inbound.message() => {
                    let Ok(Some(message)) = message else { return Over::Broken };
                    self.heard = Instant::now();
                    if let Some(Order::End(_)) = message.kind {
                        return Over::Finished;
                    }
                    message.kind.into_iter().for_each(|order| self.obey(order, &link));
                }
                Some(said) = self.inbox.recv() => self.pass_on(said, &link),
                _ = beat.tick() => say(&link, Say::Heartbeat(v1::Heartbeat { sent_raw_ns: HostClock.now() })),
                () = tokio::time::sleep_until(self.heard + self.lease) => {
                    // Connected, but nobody speaks: as good as cut.
                    self.abandon();
                    return Over::Broken;
                }
                () = self.shutdown.cancelled() => return Over::Finished,
            }
        }
    }

    fn pass_on(&mut self, said: Say, link: &ControlLink) {
        match &said {
            Say::Started(_) => self.newest = vec![said.clone()],
            Say::Done(done) => {
                if self.running.as_ref().is_some_and(|(level, _)| *level == done.level) {
                    self.running = None;
                }
                self.newest.push(said.clone());
            }
            _ => {}
        }
        say(link, said);
    }

    fn obey(&mut self, order: Order, link: &ControlLink) {
        match order {
            Order::Preflight(order) => {
                let levels = self.levels.clone();
                tokio::spawn(async move {
                    let (target, workload) =
                        (order.target.unwrap_or_default(), order.workload.unwrap_or_default());
                    let done = preflight(&target, &workload).await;
                    let _over = levels.send(Say::PreflightDone(done)).await;
                });
            }
            Order::Arm(order) => self.arm(&order, link),
            Order::Start(start) => self.start(&start, link),
            Order::Stop(stop) => {
                if let Some((_, ends)) = self.running.as_ref().filter(|(level, _)| *level == stop.level) {
                    ends.stop.cancel();
                }
            }
            Order::Heartbeat(_) | Order::Welcome(_) | Order::Refused(_) | Order::End(_) => {}
        }
    }

    fn arm(&mut self, order: &v1::ArmLevel, link: &ControlLink) {
        // An order for another level means that nobody waits for the one before.
        self.abandon();
        self.newest.clear();
        let armed = level::arm(order, self.config.shards, self.incarnation, &self.outbox);
        let error = armed.as_ref().err().cloned().unwrap_or_default();
        self.armed = armed.ok();
        say(link, Say::Armed(v1::LevelArmed { level: order.level, error }));
    }

    fn start(&mut self, start: &v1::StartAt, link: &ControlLink) {
        match self.armed.take() {
            Some(armed) if armed.level() == start.level => {
                self.running = Some((armed.level(), armed.ends()));
                tokio::spawn(armed.run(start.at_raw_ns, self.levels.clone()));
            }
            other => {
                self.armed = other;
                let text = format!("told to start level {}, which is not armed", start.level);
                say(link, Say::Notice(v1::NodeNotice { text }));
            }
        }
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

fn say(link: &ControlLink, kind: Say) {
    // A full channel is a stream that does not move: the lease will tell, and what matters is said again.
    let _full = link.out.try_send(v1::NodeMessage { kind: Some(kind) });
}
