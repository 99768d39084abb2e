//! One light agent's conversation with the coordinator, from hello to the run's end: what an agent says, with simulated
//! measurements, one batch of windows and records and one of the gauge each second.

use std::time::Duration;

use anyhow::{Context, bail};
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::link::{ControlLink, LinkError, clock_address, dial, join};
use tailcliff_proto::outbox::Outbox;
use tailcliff_proto::v1::{
    self, Phase, coordinator_message::Kind as Order, load_share::Stop, node_message::Kind as Say,
};
use tailcliff_proto::{BUILD, PROTOCOL, host};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::streams::{Kind, Streams, Windows};
use super::{Args, Clock, Truth, now};

const OUTBOX_BYTES: usize = 16 << 20;
const SECOND_NS: i64 = 1_000_000_000;
/// Samples of the gauge each second, as agents take.
const GAUGE_SAMPLES: i64 = 10;
/// For a welcome.
const WELCOME_PATIENCE: Duration = Duration::from_secs(10);
/// Between two hellos that came to nothing.
const REJOIN_PAUSE: Duration = Duration::from_millis(200);
/// After the last ack, for the clock's last pings.
const LINGER: Duration = Duration::from_millis(250);

/// One agent.
pub(super) struct Session {
    number: u32,
    incarnation: u64,
    clock: Clock,
    outbox: Outbox,
    armed: Option<v1::ArmLevel>,
    level: Option<Level>,
    truth: Truth,
    e2e: LatencyHistogram,
}

/// A level under way.
struct Level {
    number: u32,
    streams: Streams,
    /// Start on the agent's clock, and the whole seconds reported since.
    start_ns: i64,
    seconds: i64,
}

impl Session {
    pub(super) fn new(args: &Args, number: u32) -> Self {
        let incarnation = fastrand::u64(1..);
        Self {
            number,
            incarnation,
            clock: Clock::of(args.seed, number),
            outbox: Outbox::new(incarnation, OUTBOX_BYTES),
            armed: None,
            level: None,
            truth: Truth { agents: 1, ..Truth::default() },
            e2e: LatencyHistogram::default(),
        }
    }

    /// Until the run ends; what really happened, and the latencies of its measured requests.
    pub(super) async fn run(
        mut self,
        args: Args,
        shutdown: CancellationToken,
    ) -> anyhow::Result<(Truth, LatencyHistogram)> {
        let children = CancellationToken::new();
        let _stop_children = children.clone().drop_guard();
        self.truth.dialled_ns.mark(now());
        let mut link = self.join(&args.coordinator, &shutdown).await?;
        self.truth.welcomed_ns.mark(now());
        tokio::spawn(self.outbox.clone().ship(args.coordinator.clone().into(), children.clone()));
        let address = clock_address(&args.coordinator, &link.welcome);
        tokio::spawn(self.clock.answer(address, self.incarnation, children.clone()));
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        loop {
            let due = self.level.as_ref().map(|level| due(&self.clock, level));
            tokio::select! {
                message = link.inbound.message() => {
                    let order = message?.and_then(|message| message.kind).context("the coordinator hung up")?;
                    if let Order::End(_) = order {
                        break;
                    }
                    self.obey(order, &args, &link).await?;
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.report(&link).await?;
                }
                _ = beat.tick() => {
                    say(&link, Say::Heartbeat(v1::Heartbeat { sent_raw_ns: self.clock.at(now()), ..Default::default() })).await?;
                }
                () = shutdown.cancelled() => bail!("told to stop"),
            }
        }
        self.outbox.drained().await;
        tokio::time::sleep(LINGER).await;
        Ok((self.truth, self.e2e))
    }

    /// Dials until welcomed, as agents do.
    async fn join(&self, address: &str, shutdown: &CancellationToken) -> Result<ControlLink, LinkError> {
        loop {
            let channel = dial(address, shutdown).await?;
            match tokio::time::timeout(WELCOME_PATIENCE, join(channel, self.hello())).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(LinkError::Broken(_))) | Err(_) => tokio::time::sleep(REJOIN_PAUSE).await,
                Ok(Err(fatal)) => return Err(fatal),
            }
        }
    }

    fn hello(&self) -> v1::Hello {
        v1::Hello {
            protocol: PROTOCOL,
            build: BUILD.to_owned(),
            node_kind: v1::NodeKind::Agent as i32,
            name: format!("simulated-{}", self.number),
            incarnation: self.incarnation,
            host: Some(host::facts(1)),
            ..Default::default()
        }
    }

    async fn obey(&mut self, order: Order, args: &Args, link: &ControlLink) -> anyhow::Result<()> {
        match order {
            Order::Preflight(_) => {
                let answer = "simulated: nothing was asked".to_owned();
                say(link, Say::PreflightDone(v1::PreflightDone { ok: true, answer, ..Default::default() }))
                    .await
            }
            Order::Arm(order) => {
                self.truth.arm_ns.mark(now());
                let armed = v1::LevelArmed { level: order.level, error: String::new() };
                self.armed = Some(order);
                say(link, Say::Armed(armed)).await
            }
            Order::Start(start) => self.start(&start, args, link).await,
            _ => Ok(()),
        }
    }

    async fn start(&mut self, start: &v1::StartAt, args: &Args, link: &ControlLink) -> anyhow::Result<()> {
        let Some(order) = self.armed.take().filter(|order| order.level == start.level) else {
            return Ok(());
        };
        self.truth.start_ordered_ns.mark(now());
        self.truth.starts_ns.mark(self.clock.host(start.at_raw_ns));
        let error = (self.clock.host(start.at_raw_ns) - start.at_ref_ns).abs();
        self.truth.worst_start_error_ns = self.truth.worst_start_error_ns.max(error);
        self.truth.beyond_bound += u32::from(error > start.bound_ns.saturating_add(2));
        let share = order.load.unwrap_or_default();
        let Some(Stop::DurationNs(duration_ns)) = share.stop else {
            bail!("light agents know levels by --duration only")
        };
        let kind = Kind {
            agent: self.number,
            level: start.level,
            streams: share.concurrency,
            first_stream: share.first_stream,
            warmup_ns: share.warmup_ns,
            duration_ns,
            latency_ns: i64::from(args.latency_ms) * 1_000_000,
            tokens: args.tokens.max(1),
            seed: args.seed,
        };
        let (streams, start_ns) = (Streams::new(kind), start.at_raw_ns);
        self.level = Some(Level { number: start.level, streams, start_ns, seconds: 0 });
        let was_late = start_ns < self.clock.at(now());
        let (level, asked_raw_ns) = (start.level, start.at_raw_ns);
        say(
            link,
            Say::Started(v1::LevelStarted {
                level,
                asked_raw_ns,
                actual_raw_ns: asked_raw_ns,
                was_late,
                ..Default::default()
            }),
        )
        .await
    }

    /// One more second of the level is over.
    async fn report(&mut self, link: &ControlLink) -> anyhow::Result<()> {
        let Some(level) = &mut self.level else { return Ok(()) };
        level.seconds += 1;
        let end_ns = level.start_ns + level.seconds * SECOND_NS;
        let records = level.streams.until(level.seconds * SECOND_NS, level.start_ns);
        for record in records.iter().filter(|record| record.phase() == Phase::Measured) {
            let latency = record.done_raw_ns - record.intended_raw_ns;
            self.truth.measured += 1;
            self.truth.e2e_sum_ns += latency.unsigned_abs();
            self.e2e.record(latency);
        }
        let gauge = |i| v1::InFlightSample {
            level: level.number,
            raw_ns: end_ns - SECOND_NS + i * SECOND_NS / GAUGE_SAMPLES,
            in_flight: level.streams.in_flight(),
        };
        let in_flight = (0..GAUGE_SAMPLES).map(gauge).collect();
        let windows = WINDOWS.with_borrow_mut(|windows| windows.of(&records, end_ns));
        self.push(v1::Batch { in_flight, ..Default::default() })?;
        self.push(v1::Batch { windows, records, ..Default::default() })?;
        let Some(level) = &self.level else { return Ok(()) };
        say(link, Say::Progress(progress(level, end_ns))).await?;
        if level.streams.is_over() {
            self.truth.released += level.streams.released;
            self.truth.done_ns.mark(now());
            let done = done(level, self.outbox.last_seq());
            self.level = None;
            say(link, Say::Done(done)).await?;
        }
        Ok(())
    }

    fn push(&self, batch: v1::Batch) -> anyhow::Result<()> {
        let refused = |_| anyhow::anyhow!("the outbox of a light agent is full: the coordinator is too slow");
        self.outbox.push(batch).map(|_| ()).map_err(refused)
    }
}

thread_local! {
    /// One set for all agents of a process: each takes a MiB.
    static WINDOWS: std::cell::RefCell<Windows> = std::cell::RefCell::default();
}

/// When the next second of a level is over.
fn due(clock: &Clock, level: &Level) -> Instant {
    let at = clock.host(level.start_ns + (level.seconds + 1) * SECOND_NS);
    Instant::now() + Duration::from_nanos((at - now()).max(0).unsigned_abs())
}

fn counts(level: &Level) -> v1::LevelCounts {
    v1::LevelCounts {
        released: level.streams.released,
        completed: level.streams.completed,
        ..Default::default()
    }
}

fn progress(level: &Level, raw_ns: i64) -> v1::LevelProgress {
    v1::LevelProgress {
        level: level.number,
        raw_ns,
        counts: Some(counts(level)),
        in_flight: level.streams.in_flight(),
        output_tokens: level.streams.output_tokens(),
    }
}

fn done(level: &Level, last_batch_seq: u64) -> v1::LevelDone {
    let mut lag = LatencyHistogram::default();
    (1..=20).for_each(|i| lag.record(i * 50_000));
    let health = v1::ClientHealth {
        wall_ns: level.seconds * SECOND_NS,
        shards: 1,
        send_lag: Some(lag.to_wire()),
        scheduler_lag: Some(lag.to_wire()),
        ..Default::default()
    };
    v1::LevelDone {
        level: level.number,
        counts: Some(counts(level)),
        last_batch_seq,
        health: Some(health),
        ..Default::default()
    }
}

async fn say(link: &ControlLink, kind: Say) -> anyhow::Result<()> {
    let sent = link.out.send(v1::NodeMessage { kind: Some(kind) }).await;
    sent.map_err(|_| anyhow::anyhow!("the coordinator hung up"))
}
