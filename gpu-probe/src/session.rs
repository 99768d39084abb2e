//! The probe's side of the control connection: says what GPUs there are, samples while there is a run to sample for,
//! dials again when the stream breaks.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use tailcliff_proto::beat::Beats;
use tailcliff_proto::link::{ControlLink, LinkError};
use tailcliff_proto::outbox::Outbox;
use tailcliff_proto::reach::reach;
use tailcliff_proto::v1::{self, coordinator_message::Kind as Order, node_message::Kind as Say};
use tailcliff_proto::{BUILD, PROTOCOL, host, pong};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Config, OUTBOX_BYTES};
use crate::inside;
use crate::nvml::NvmlSource;
use crate::sampler::{self, Inputs, Switch};

const HEARTBEAT: Duration = Duration::from_secs(1);
/// At the end, how long the next ack is waited for while batches are not on the coordinator's disk.
const LAST_ACKS: Duration = Duration::from_secs(5);
/// How long a thread may take to end. The sampler's own waits for drivers are shorter; what reads a file on a mount that is dead
/// never comes back.
const LAST_ROUND: Duration = Duration::from_secs(6);
const LAST_LOOK: Duration = Duration::from_secs(3);
/// How long the coordinator may take to hear the last that is said.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// For the last lines of a file, once the run is over: a server writes them at once, where an exporter gathers spans.
const LAST_LINES: Duration = Duration::from_secs(1);

pub(crate) struct Session {
    config: Config,
    hello: v1::Hello,
    outbox: Outbox,
    switch: Arc<Switch>,
    troubles: mpsc::Receiver<String>,
    told: u64,
    /// Ticks and missed ones at the last beat, and how many missed ones a person was told of.
    seen: (u64, u64),
    told_missed: u64,
    /// When, after a break, nobody is sampled for any more.
    lapse: Option<Instant>,
    beats: Beats,
    shutdown: CancellationToken,
    sampling: CancellationToken,
    looking_inside: CancellationToken,
    /// However this session ends, its threads end too.
    _stop: [DropGuard; 2],
    sampler: Option<JoinHandle<()>>,
    inside: Option<JoinHandle<()>>,
}

impl Session {
    /// A session over `source`; without one it says why there are no GPU columns, and samples the host.
    pub(crate) fn new(
        config: Config,
        source: Result<NvmlSource, String>,
        shutdown: CancellationToken,
    ) -> Result<Self, LinkError> {
        let incarnation = fastrand::u64(1..);
        let outbox = Outbox::new(incarnation, OUTBOX_BYTES);
        let switch = Arc::new(Switch::default());
        let (sampling, looking_inside) = (shutdown.child_token(), shutdown.child_token());
        // Before there are threads: should one of them not begin, the others end.
        let stop = [sampling.clone().drop_guard(), looking_inside.clone().drop_guard()];
        let (say, troubles) = mpsc::channel(64);
        let spooled = config.spool.clone().map_or(Ok(()), |spool| outbox.spool(spool, say.clone()));
        if let Err(error) = spooled {
            (config.tell)(&format!(
                "failed to start the spool's thread: {error}; samples wait in memory alone"
            ));
        }
        let mut hello = v1::Hello {
            protocol: PROTOCOL,
            build: BUILD.to_owned(),
            node_kind: v1::NodeKind::GpuProbe as i32,
            name: config.name.clone(),
            incarnation,
            host: Some(host::facts(0)),
            ..Default::default()
        };
        let source = source.map_err(|reason| hello.gpu_absent_reason = reason).ok();
        hello.gpus = source.as_ref().map(NvmlSource::facts).unwrap_or_default();
        let shipped = outbox.clone();
        let sink = Box::new(move |batch| shipped.push(batch).map(drop));
        let heard = inside::Sink::new(outbox.clone(), switch.clone(), say.clone());
        let inside = inside::start(&config, heard, looking_inside.clone());
        let inside = inside.map_err(|e| LinkError::Broken(e.to_string()))?;
        let inputs = Inputs::of(&config, source);
        let sampler = sampler::spawn(inputs, sink, switch.clone(), say, sampling.clone())
            .map_err(|e| LinkError::Broken(format!("failed to start the sampler: {e}")))?;
        Ok(Self {
            config,
            hello,
            outbox,
            switch,
            troubles,
            told: 0,
            seen: (0, 0),
            told_missed: 0,
            lapse: None,
            beats: Beats::default(),
            shutdown,
            _stop: stop,
            sampling,
            looking_inside,
            sampler: Some(sampler),
            inside,
        })
    }

    /// Until the run ends, `shutdown`, or a refusal. No file of the spool is left then.
    pub(crate) async fn run(mut self) -> Result<(), LinkError> {
        let ended = self.serve().await;
        self.outbox.close();
        self.outbox.closed().await;
        ended
    }

    async fn serve(&mut self) -> Result<(), LinkError> {
        // Not children of `shutdown`: what was sampled still has to be shipped after it.
        let children = CancellationToken::new();
        let _stop_children = children.clone().drop_guard();
        let ship = tokio::spawn(self.outbox.clone().ship(self.config.coordinator.clone(), children.clone()));
        let mut run_id = None;
        while let Some(link) = self.connect().await? {
            if run_id.is_none() {
                let route = self.config.coordinator.clock(&link.welcome);
                pong::answer_pings(route, self.hello.incarnation, children.clone())
                    .map_err(|e| LinkError::Broken(format!("failed to start the clock thread: {e}")))?;
            }
            if *run_id.get_or_insert(link.welcome.run_id) != link.welcome.run_id {
                let text =
                    "another run has taken this coordinator's place; start this probe again to join it";
                return Err(LinkError::Refused(text.to_owned()));
            }
            if let Some(link) = self.converse(link).await {
                // Held until the last batch is acked: the coordinator takes a closed stream for the end of what comes.
                if self.finish(&link).await {
                    say_out(link).await;
                }
                break;
            }
        }
        ship.abort();
        Ok(())
    }

    /// Ends what there is to end; true when a person is to be told something of it.
    async fn finish(&mut self, link: &ControlLink) -> bool {
        let mut told = false;
        self.sampling.cancel();
        self.looking_inside.cancel();
        // They hand on their last samples.
        let threads = [
            (self.sampler.take(), LAST_ROUND, "the sampler"),
            (self.inside.take(), LAST_LOOK, "the look at what the server tells of itself"),
        ];
        for (thread, most, name) in threads {
            let Some(thread) = thread else { continue };
            if !ended(&thread, most).await {
                let text = format!(
                    "{name} does not end; its thread is left behind, and what it had not handed on is lost"
                );
                (self.config.tell)(&text);
                notice(link, text);
                told = true;
            }
        }
        while let Ok(trouble) = self.troubles.try_recv() {
            (self.config.tell)(&trouble);
            notice(link, trouble);
            told = true;
        }
        // What is not acked by then stays unsaid: the coordinator is gone, or as good as.
        tokio::select! {
            () = self.outbox.drained() => {}
            () = self.outbox.stalled(LAST_ACKS) => {}
        }
        told
    }

    async fn connect(&mut self) -> Result<Option<ControlLink>, LinkError> {
        let never = Instant::now();
        loop {
            let lapse = self.lapse;
            let attempt = reach(&self.config.coordinator, &self.hello, &self.shutdown, self.config.tell);
            let link = tokio::select! {
                link = attempt => link,
                () = tokio::time::sleep_until(lapse.unwrap_or(never)), if lapse.is_some() => {
                    self.switch.on.store(false, Relaxed);
                    self.switch.lapsed.store(true, Relaxed);
                    self.lapse = None;
                    continue;
                }
                () = self.shutdown.cancelled() => return Ok(None),
            };
            match link {
                Ok(link) => {
                    (self.config.tell)(&format!("joined the run at {}", self.config.coordinator));
                    return Ok(Some(link));
                }
                Err(LinkError::Stopped) => return Ok(None),
                Err(fatal) => return Err(fatal),
            }
        }
    }

    /// Talks over one connection; gives it back when the run is over.
    async fn converse(&mut self, mut link: ControlLink) -> Option<ControlLink> {
        self.switch.on.store(true, Relaxed);
        self.switch.lapsed.store(false, Relaxed);
        self.lapse = None;
        let lease =
            Duration::from_nanos(link.welcome.lease_ns.unsigned_abs()).max(Duration::from_millis(100));
        let mut heard = Instant::now();
        let mut beat = tokio::time::interval(HEARTBEAT);
        // Set once the run is over: until then its last spans are taken.
        let mut drained = None;
        loop {
            tokio::select! {
                message = link.inbound.message() => {
                    let Ok(Some(message)) = message else { break };
                    heard = Instant::now();
                    match message.kind {
                        // Told twice, it waits for nothing.
                        Some(Order::End(_)) if drained.is_some() => return Some(link),
                        Some(Order::End(end)) => {
                            drained = self.drain(&link, &end);
                            if drained.is_none() {
                                return Some(link);
                            }
                        }
                        Some(Order::Heartbeat(beat)) => self.beats.hear(&beat),
                        _ => {}
                    }
                }
                Some(trouble) = self.troubles.recv() => {
                    (self.config.tell)(&trouble);
                    notice(&link, trouble);
                }
                _ = beat.tick() => self.beat(&link),
                () = tokio::time::sleep_until(heard + lease) => break,
                () = tokio::time::sleep_until(drained.unwrap_or(heard)), if drained.is_some() => break,
                () = self.shutdown.cancelled() => return Some(link),
            }
        }
        if drained.is_some() {
            return Some(link);
        }
        // Agents that lost the coordinator too end by then, and the last spans of their requests come later.
        self.lapse = Some(heard + lease + self.last_spans());
        None
    }

    /// The run is over: until when its last spans may come, which exporters send in batches. Only the server's inside view goes
    /// on until then.
    fn drain(&self, link: &ControlLink, end: &v1::RunEnd) -> Option<Instant> {
        let drain = self.last_spans();
        if end.turned_away || end.nothing_driven || drain.is_zero() {
            return None;
        }
        self.sampling.cancel();
        let text = format!("waiting {} s for the server's last spans", drain.as_secs_f64());
        (self.config.tell)(&text);
        notice(link, text);
        Some(Instant::now() + drain)
    }

    /// How long after requests their last spans, or stamps, may come.
    fn last_spans(&self) -> Duration {
        let inside = &self.config.inside;
        match (&inside.otlp, &inside.stamps) {
            (Some(_), _) => inside.drain,
            (None, Some(_)) => inside.drain.min(LAST_LINES),
            (None, None) => Duration::ZERO,
        }
    }

    fn beat(&mut self, link: &ControlLink) {
        let unheard = self.switch.unheard_exports.swap(0, Relaxed);
        if unheard > 0 {
            notice(
                link,
                format!(
                    "{unheard} exports of spans came while the coordinator was away for too long, and were left out"
                ),
            );
        }
        say(link, Say::Heartbeat(self.beats.beat()));
        let dropped = self.switch.dropped_samples.load(Relaxed);
        if dropped != std::mem::replace(&mut self.told, dropped) {
            notice(link, format!("{dropped} samples of GPUs, host and server did not fit and were left out"));
        }
        let (all_ticks, all_missed) =
            (self.switch.fast.ticks.load(Relaxed), self.switch.fast.missed.load(Relaxed));
        let before = std::mem::replace(&mut self.seen, (all_ticks, all_missed));
        let (ticks, missed) = (all_ticks - before.0, all_missed - before.1);
        // A tick or two a second is a busy host; a tenth of them is a probe slower than it was asked to be. Told once, and
        // again when it has doubled.
        if missed * 10 > ticks + missed && all_missed >= 2 * self.told_missed {
            self.told_missed = all_missed;
            let text = format!(
                "{missed} of {} sampling ticks were missed within a second ({} so far)",
                ticks + missed,
                all_missed
            );
            notice(link, text);
        }
    }
}

/// However a session ends, even dropped half-way: no file is left.
impl Drop for Session {
    fn drop(&mut self) {
        self.outbox.close();
    }
}

/// Whether it ended in time.
async fn ended(thread: &JoinHandle<()>, most: Duration) -> bool {
    let until = Instant::now() + most;
    while !thread.is_finished() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    thread.is_finished()
}

/// Closes our side, so that what was said last is heard, and waits a moment for the other's end.
async fn say_out(link: ControlLink) {
    let ControlLink { out, mut inbound, .. } = link;
    drop(out);
    let heard = async { while let Ok(Some(_)) = inbound.message().await {} };
    let _late = tokio::time::timeout(LAST_WORDS, heard).await;
}

fn notice(link: &ControlLink, text: String) {
    say(link, Say::Notice(v1::NodeNotice { text }));
}

fn say(link: &ControlLink, kind: Say) {
    // A full channel is a stream that does not move, which the lease will tell.
    let _full = link.out.try_send(v1::NodeMessage { kind: Some(kind) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_never_ends_is_waited_for_no_longer_than_it_may_take() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || held.recv().unwrap_or_default());
        assert!(!ended(&thread, Duration::from_millis(50)).await);
        drop(release);
        assert!(ended(&thread, Duration::from_secs(30)).await);
    }
}
