//! One level on this agent: armed (threads and bodies made), started at its time, watched, and summed up. It runs on
//! whatever becomes of the control connection; its owner decides when it must stop.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tailcliff_proto::clock::{HostClock, RawNs};
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::outbox::{Outbox, Worth};
use tailcliff_proto::v1::{self, node_message::Kind as Say};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::body::Bodies;
use crate::controls::Controls;
use crate::corpus::Corpus;
use crate::host_check;
use crate::pacer;
use crate::schedule::{Load, MAX_STREAMS, Model, Stop};
use crate::shard::{self, Gauges, OpenPart, Part, Report, Work};
use crate::target::Target;
use crate::trace::collect::{Collector, collector};
use crate::trace::{Trace, watch_control};

pub(crate) const PROGRESS: Duration = Duration::from_millis(250);
const GAUGE: Duration = Duration::from_millis(100);
/// In-flight samples handed on at once.
const GAUGE_BATCH: usize = 10;
/// A start further ahead than this is a mistake of clocks, ns.
const LONGEST_WAIT_NS: i64 = 60_000_000_000;
/// Bodies of the requests in flight, all streams together, at most.
const MOST_BODY_BYTES: u64 = 4 << 30;
/// After an order to stop, those in flight get at most this long.
const STOP_DRAIN: Duration = Duration::from_secs(2);

/// A level that waits for its start.
#[derive(Debug)]
pub(crate) struct Armed {
    level: u32,
    load: Load,
    bound: Option<Bound>,
    outbox: Outbox,
    gauges: Vec<Arc<Gauges>>,
    ready: Vec<oneshot::Receiver<()>>,
    starts: Vec<oneshot::Sender<RawNs>>,
    reports: Vec<oneshot::Receiver<Report>>,
    /// In trace mode.
    trace: Option<Collector>,
    ends: Ends,
}

/// Of an open loop: requests in flight at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    in_flight: u32,
    /// It is this host's, and not the plan's.
    is_own: bool,
}

/// The two ways to end a level early.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    /// No new requests; those in flight get a short drain.
    pub(crate) stop: CancellationToken,
    /// At once.
    pub(crate) cancel: CancellationToken,
}

/// Makes everything that a level needs before its start.
///
/// # Errors
/// One line for the user: a share or target that makes no sense, or too few file descriptors or threads.
pub(crate) fn arm(
    order: &v1::ArmLevel,
    corpus: Option<Arc<Corpus>>,
    shards: u32,
    incarnation: u64,
    outbox: &Outbox,
) -> Result<Armed, String> {
    let share = order.load.as_ref().ok_or("the order has no load")?;
    let load = Load::parse(share, order.level).map_err(|e| e.to_string())?;
    let target = order.target.as_ref().ok_or("the order has no target")?;
    let target = Arc::new(Target::parse(target).map_err(|e| e.to_string())?);
    let controls =
        Controls::parse(order.controls.as_ref(), &load, target.http2()).map_err(|e| e.to_string())?;
    let workload = order.workload.clone().unwrap_or_default();
    let times = times(&load, corpus.as_deref())?;
    let bodies = Arc::new(Bodies::new(&target, &workload, corpus).map_err(|e| e.to_string())?);
    let (shards, bound) = room(&load, bodies.typical_bytes(), shards)?;
    let (trace, port) = match order.trace {
        true => Some(collector(order.level, load.warmup_ns, target.port())).unzip(),
        false => (None, None),
    };
    let mut armed = Armed {
        level: order.level,
        load,
        bound,
        outbox: outbox.clone(),
        gauges: Vec::new(),
        ready: Vec::new(),
        starts: Vec::new(),
        reports: Vec::new(),
        trace,
        ends: Ends::default(),
    };
    for number in 0..shards {
        let gauges = Arc::new(Gauges::default());
        let work = Work {
            level: order.level,
            shard: number,
            incarnation,
            part: part(&load, bound, &times, number, shards),
            retry: load.retry,
            controls,
            block: controls.block(order.level, number, shards, &load),
            fresh_connections: load.fresh_connections,
            warmup_ns: load.warmup_ns,
            target: target.clone(),
            bodies: bodies.clone(),
            outbox: outbox.clone(),
            gauges: gauges.clone(),
            trace: port.as_ref().map(|port| port(number)),
            stop: armed.ends.stop.clone(),
            cancel: armed.ends.cancel.clone(),
        };
        let (start, started) = oneshot::channel();
        let (prepared, ready) = oneshot::channel();
        let report =
            shard::spawn(work, prepared, started).map_err(|e| format!("failed to start a shard: {e}"))?;
        armed.gauges.push(gauges);
        armed.ready.push(ready);
        armed.starts.push(start);
        armed.reports.push(report);
    }
    Ok(armed)
}

/// How many shards a level gets, and the bound on requests in flight of an open loop. Streams are a demand that this
/// host meets or refuses; a bound is a ceiling, which what the host can hold lowers, and the level says so.
fn room(load: &Load, body_bytes: u64, shards: u32) -> Result<(u32, Option<Bound>), String> {
    match &load.model {
        Model::Closed(streams) => {
            let shards = shards.clamp(1, streams.count);
            let host = host_check::check(u64::from(streams.count), u64::from(shards), load.fresh_connections);
            if let Some(refusal) = host.refusals.into_iter().next() {
                return Err(refusal);
            }
            check_memory(body_bytes, streams.count)?;
            Ok((shards, None))
        }
        Model::Open(open) => {
            let free = host_check::most_streams(u64::from(shards));
            let own = free.min(MOST_BODY_BYTES / body_bytes.max(1)).min(u64::from(MAX_STREAMS)) as u32;
            if own == 0 {
                return Err("this host has no file descriptor or port left for a request: raise its limits"
                    .to_owned());
            }
            let asked = open.max_in_flight.filter(|&asked| asked <= own);
            let bound = Bound { in_flight: asked.unwrap_or(own), is_own: asked.is_none() };
            Ok((shards.clamp(1, bound.in_flight), Some(bound)))
        }
    }
}

/// The dataset's times, of a replay.
fn times(load: &Load, corpus: Option<&Corpus>) -> Result<Arc<[i64]>, String> {
    match &load.model {
        Model::Open(open) if open.replay.is_some() => {
            let times = corpus.and_then(Corpus::arrivals_ns).ok_or("the dataset has no times to replay")?;
            Ok(times.into())
        }
        _ => Ok(Arc::from([])),
    }
}

/// A shard's part: each takes its turn of the streams or arrivals, and as even a part of the bound as can be.
fn part(load: &Load, bound: Option<Bound>, times: &Arc<[i64]>, number: u32, shards: u32) -> Part {
    match &load.model {
        Model::Closed(streams) => {
            Part::Closed(streams.slots(load).skip(number as usize).step_by(shards as usize).collect())
        }
        Model::Open(open) => {
            let in_flight = bound.map_or(1, |bound| bound.in_flight);
            let limit = in_flight / shards + u32::from(number < in_flight % shards);
            let drain_ns = matches!(load.stop, Stop::Requests(_)).then_some(load.drain_ns);
            let releases = open.part(open.arrivals(times), number, shards, load.warmup_ns, load.stop);
            Part::Open(OpenPart { releases, limit, drain_ns })
        }
    }
}

fn check_memory(each: u64, streams: u32) -> Result<(), String> {
    let all = each.saturating_mul(u64::from(streams));
    if all > MOST_BODY_BYTES {
        let gib = all >> 30;
        return Err(format!(
            "{streams} requests of about {each} bytes each in flight need {gib} GiB of memory: try a shorter input"
        ));
    }
    Ok(())
}

impl Armed {
    /// Its number.
    pub(crate) fn level(&self) -> u32 {
        self.level
    }

    /// Fires once for each shard that has made its first requests' bodies and waits for the start.
    pub(crate) fn ready(&mut self) -> Vec<oneshot::Receiver<()>> {
        std::mem::take(&mut self.ready)
    }

    /// How to end it.
    pub(crate) fn ends(&self) -> Ends {
        self.ends.clone()
    }

    /// Runs it from its start, on this agent's clock, to its last ended request; says `Started`, `Progress` and `Done`.
    /// A start that has passed is now: the delay is the level's, and no request's latency.
    pub(crate) async fn run(self, order: v1::StartAt, report_every: Duration, said: mpsc::Sender<Say>) {
        let Self { level, load, bound, outbox, gauges, ready: _, starts, reports, trace, ends } = self;
        let (at, now) = (order.at_raw_ns, HostClock.now());
        let start = at.max(now);
        let (told, actual) = oneshot::channel();
        if let Err(why) = pace(start, now, starts, told, &ends) {
            let text = format!("level {level} could not be started: {why}");
            let _gone = said.send(Say::Notice(v1::NodeNotice { text })).await;
        }
        if let Ok(actual_raw_ns) = actual.await {
            let started = v1::LevelStarted {
                level,
                asked_raw_ns: at,
                actual_raw_ns,
                was_late: at < now,
                order_sent_ref_ns: order.sent_ref_ns,
                said_raw_ns: Some(HostClock.now()),
                received_ref_ns: None,
            };
            // The owner of the connection outlives every level.
            let _gone = said.send(Say::Started(started)).await;
        }
        let (control, last_telemetry) = trace_from(trace, start, &said).unzip();
        let mut sampled = Sampled::default();
        let reports = tokio::select! {
            reports = collect(reports) => reports,
            never = watch(level, &gauges, &outbox, &mut sampled, report_every, &said) => match never {},
            never = enforce(&load, start, &ends) => match never {},
            never = watch_control(control) => match never {},
        };
        hand_on(&outbox, &mut sampled);
        let wall_ns = (HostClock.now() - start).max(0);
        let done = sum_up(level, &gauges, &outbox, &reports, bound, wall_ns);
        let done = v1::LevelDone { dropped_in_flight: sampled.dropped, ..done };
        let _gone = said.send(Say::Progress(progress(level, &gauges))).await;
        if let Some(Ok(telemetry)) = or_none(last_telemetry).await {
            let _gone = said.send(Say::Telemetry(telemetry)).await;
        }
        let _gone = said.send(Say::Done(done)).await;
    }
}

/// Starts the thread of a trace: the control thread's own part in it, and where the last word will come.
fn trace_from(
    trace: Option<Collector>,
    start: RawNs,
    said: &mpsc::Sender<Say>,
) -> Option<(Trace, oneshot::Receiver<v1::Telemetry>)> {
    match trace?.spawn(start, said.clone()) {
        Ok((control, last)) => Some((control.open(start), last)),
        Err(why) => {
            let text = format!("failed to start the trace: {why}");
            let _full = said.try_send(Say::Notice(v1::NodeNotice { text }));
            None
        }
    }
}

async fn or_none<F: Future>(future: Option<F>) -> Option<F::Output> {
    match future {
        Some(future) => Some(future.await),
        None => None,
    }
}

/// On an error the senders are gone, and every shard ends without a request.
fn pace(
    start: RawNs,
    now: RawNs,
    starts: Vec<oneshot::Sender<RawNs>>,
    told: oneshot::Sender<RawNs>,
    ends: &Ends,
) -> Result<(), String> {
    if start.saturating_sub(now) > LONGEST_WAIT_NS {
        return Err(format!("its start is {} s ahead of this agent's clock", (start - now) / 1_000_000_000));
    }
    pacer::spawn(start, starts, told, ends.cancel.clone()).map_err(|e| e.to_string())
}

async fn collect(reports: Vec<oneshot::Receiver<Report>>) -> Vec<Report> {
    let mut all = Vec::new();
    for report in reports {
        // A shard that died without a report shows in the counts: released, but never ended.
        all.extend(report.await.ok());
    }
    all
}

/// Ends the drain when its time is over.
async fn enforce(load: &Load, start: RawNs, ends: &Ends) -> std::convert::Infallible {
    let drain = Duration::from_nanos(load.drain_ns.unsigned_abs());
    let deadline = async {
        match load.deadline_ns() {
            Some(ns) => {
                tokio::time::sleep(Duration::from_nanos((start + ns - HostClock.now()).max(0).unsigned_abs()))
                    .await
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = deadline => {}
        () = ends.stop.cancelled() => tokio::time::sleep(drain.min(STOP_DRAIN)).await,
    }
    ends.cancel.cancel();
    std::future::pending().await
}

/// Samples what is in flight on a beat of its own, and reports progress.
async fn watch(
    level: u32,
    gauges: &[Arc<Gauges>],
    outbox: &Outbox,
    sampled: &mut Sampled,
    report_every: Duration,
    said: &mpsc::Sender<Say>,
) -> std::convert::Infallible {
    let mut tell = tokio::time::interval(report_every);
    let mut next = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {
                // Half to one and a half of the beat: in step with even arrivals, it would see the same moment of each.
                next += GAUGE.mul_f64(0.5 + fastrand::f64());
                let in_flight = progress(level, gauges).in_flight;
                sampled.waiting.push(v1::InFlightSample { level, raw_ns: HostClock.now(), in_flight });
                if sampled.waiting.len() >= GAUGE_BATCH {
                    hand_on(outbox, sampled);
                }
            }
            _ = tell.tick() => {
                let _full = said.try_send(Say::Progress(progress(level, gauges)));
            }
        }
    }
}

/// What is in flight, from time to time.
#[derive(Default)]
struct Sampled {
    waiting: Vec<v1::InFlightSample>,
    dropped: u64,
}

/// One that does not fit thins the sample.
fn hand_on(outbox: &Outbox, sampled: &mut Sampled) {
    let in_flight = std::mem::take(&mut sampled.waiting);
    if in_flight.is_empty() {
        return;
    }
    let batch = v1::Batch { in_flight, ..Default::default() };
    if let Err(batch) = outbox.push_worth(Worth::Gauges, batch) {
        sampled.dropped += batch.in_flight.len() as u64;
    }
}

fn progress(level: u32, gauges: &[Arc<Gauges>]) -> v1::LevelProgress {
    let counts = total(gauges);
    let ended = counts.completed + counts.failed + counts.incomplete;
    let output_tokens = gauges.iter().map(|g| g.output_tokens.load(Relaxed)).sum();
    let in_flight = u32::try_from(counts.released.saturating_sub(ended)).unwrap_or(u32::MAX);
    let raw_ns = HostClock.now();
    v1::LevelProgress { level, raw_ns, counts: Some(counts), in_flight, output_tokens }
}

fn total(gauges: &[Arc<Gauges>]) -> v1::LevelCounts {
    let mut total = v1::LevelCounts::default();
    for counts in gauges.iter().map(|g| g.counts()) {
        total.released += counts.released;
        total.completed += counts.completed;
        total.failed += counts.failed;
        total.incomplete += counts.incomplete;
        total.retried += counts.retried;
        total.held_back += counts.held_back;
    }
    total
}

fn sum_up(
    level: u32,
    gauges: &[Arc<Gauges>],
    outbox: &Outbox,
    reports: &[Report],
    bound: Option<Bound>,
    wall_ns: i64,
) -> v1::LevelDone {
    let pooled = |part: fn(&Report) -> &LatencyHistogram| {
        let mut all = LatencyHistogram::default();
        reports.iter().for_each(|report| all.add(part(report)));
        all.to_wire()
    };
    let health = v1::ClientHealth {
        cpu_ns: reports.iter().map(|r| r.cpu_ns).sum(),
        wall_ns,
        shards: gauges.len() as u32,
        send_lag: Some(pooled(|r| &r.send_lag)),
        scheduler_lag: Some(pooled(|r| &r.scheduler_lag)),
        shard_health: reports.iter().map(shard_health).collect(),
        socket_wait: Some(pooled(|r| &r.socket_wait)),
    };
    v1::LevelDone {
        level,
        counts: Some(total(gauges)),
        dry_raw_ns: reports.iter().filter_map(|r| r.dry).min(),
        last_batch_seq: outbox.last_seq(),
        dropped_token_traces: reports.iter().map(|r| r.dropped_traces).sum(),
        dropped_records: reports.iter().map(|r| r.dropped_records).sum(),
        dropped_windows: reports.iter().map(|r| r.dropped_windows).sum(),
        dropped_loop_lags: reports.iter().map(|r| r.dropped_loop_lags).sum(),
        health: Some(health),
        given_up: String::new(),
        held: bound.map(|_| pooled(|r| &r.held.waits)),
        never_sent: reports.iter().map(|r| r.held.never_sent).sum(),
        max_in_flight: bound.map(|bound| bound.in_flight),
        own_bound: bound.is_some_and(|bound| bound.is_own),
        dropped_in_flight: 0,
    }
}

fn shard_health(report: &Report) -> v1::ShardHealth {
    let lag = &report.scheduler_lag;
    let ns = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
    v1::ShardHealth {
        shard: report.number,
        streams: report.streams,
        cpu_ns: report.cpu_ns,
        wall_ns: report.wall_ns,
        scheduler_lag_p95_ns: lag.quantile_ns(0.95).map(ns),
        scheduler_lag_p99_ns: lag.quantile_ns(0.99).map(ns),
        scheduler_lag_max_ns: lag.min_max_ns().map(|(_, max)| ns(max)),
    }
}
