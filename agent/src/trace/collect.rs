//! The thread that adds up what shards hand over, and tells the coordinator each second. It waits for nobody: a message
//! that finds no room is lost, and the next one heals it.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use tailcliff_proto::clock::{HostClock, RawNs};
use tailcliff_proto::v1::{self, node_message::Kind as Say};
use tokio::sync::{mpsc, oneshot};

use super::tally::Tally;
use super::{Batch, Port, WAITING, connections};

const TICK_NS: i64 = 1_000_000_000;
/// The kernel's table of connections is read no more often than this many times what reading it took.
const TABLE_REST: i64 = 200;

/// A collector that waits for its level's start.
#[derive(Debug)]
pub(crate) struct Collector {
    level: u32,
    port: u16,
    warmup_ns: i64,
    inbox: Receiver<Batch>,
    control: Port,
}

/// Where each shard hands over, and what takes it in; `port` is the target's.
pub(crate) fn collector(level: u32, warmup_ns: i64, port: u16) -> (Collector, impl Fn(u32) -> Port) {
    let (out, inbox) = sync_channel(WAITING);
    let control = Port { shard: None, warmup_ns, out };
    let of = control.clone();
    let shard = move |number| Port { shard: Some(number), ..of.clone() };
    (Collector { level, port, warmup_ns, inbox, control }, shard)
}

impl Collector {
    /// Starts the thread; gives the control thread's port, and where the last word comes once every port is closed.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn spawn(
        self,
        start: RawNs,
        said: mpsc::Sender<Say>,
    ) -> io::Result<(Port, oneshot::Receiver<v1::Telemetry>)> {
        let Self { level, port, warmup_ns, inbox, control } = self;
        let (out, last) = oneshot::channel();
        let mut teller = Teller {
            level,
            seq: 0,
            measured_from: start + warmup_ns,
            table: Table { port, scope: connections::scope(), next: 0, established: None },
            tally: Tally::default(),
        };
        std::thread::Builder::new().name("trace".to_owned()).spawn(move || {
            teller.listen(start, &inbox, |telemetry| {
                let _lost = said.try_send(Say::Telemetry(telemetry));
            });
            let _nobody = out.send(teller.tell(true));
        })?;
        Ok((control, last))
    }
}

struct Teller {
    level: u32,
    seq: u64,
    measured_from: RawNs,
    table: Table,
    tally: Tally,
}

impl Teller {
    /// Until every port is closed.
    fn listen(&mut self, start: RawNs, inbox: &Receiver<Batch>, mut say: impl FnMut(v1::Telemetry)) {
        let mut next = start + TICK_NS;
        loop {
            let now = HostClock.now();
            if now >= next {
                next = now.max(next + TICK_NS);
                self.table.read(now);
                say(self.tell(false));
            }
            let patience = Duration::from_nanos((next - now).clamp(0, TICK_NS).unsigned_abs());
            match inbox.recv_timeout(patience) {
                Ok(batch) => self.tally.take(batch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn tell(&mut self, is_final: bool) -> v1::Telemetry {
        self.seq += 1;
        v1::Telemetry {
            level: self.level,
            seq: self.seq,
            raw_ns: HostClock.now(),
            is_final,
            measured_from_raw_ns: self.measured_from,
            // The last count under load: at the end the connections are gone.
            tcp_established: self.table.established,
            tcp_scope: self.table.scope.clone(),
            ..self.tally.telemetry()
        }
    }
}

struct Table {
    port: u16,
    scope: String,
    next: RawNs,
    established: Option<u32>,
}

impl Table {
    fn read(&mut self, now: RawNs) {
        if now < self.next {
            return;
        }
        self.established = connections::established(self.port);
        let took = HostClock.now() - now;
        self.next = now + took.saturating_mul(TABLE_REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_word_comes_when_every_port_is_closed_and_holds_all() {
        let (collector, shard) = collector(4, 0, 1);
        let (said, mut heard) = mpsc::channel(1);
        // Nobody listens to what is said meanwhile.
        said.try_send(Say::Heartbeat(v1::Heartbeat::default())).unwrap();
        let start = HostClock.now() - 10 * TICK_NS;
        let (control, last) = collector.spawn(start, said).unwrap();
        let mut trace = shard(0).open(start);
        drop((control, shard));
        for _ in 0..1_000 {
            trace.add(&v1::RequestRecord {
                phase: v1::Phase::Measured as i32,
                outcome: v1::Outcome::Completed as i32,
                done_raw_ns: 3,
                ..Default::default()
            });
        }
        drop(trace);
        let last = last.await.unwrap();
        assert!(last.is_final && last.seq >= 1);
        assert_eq!((last.level, last.counts.unwrap().completed), (4, 1_000));
        let e2e = last.stages.iter().find(|s| s.stage() == v1::TraceStage::E2e).unwrap();
        let held = tailcliff_proto::histogram::LatencyHistogram::try_from(e2e.histogram.as_ref().unwrap());
        assert_eq!(held.unwrap().len() + last.dropped_events, 1_000);
        assert!(matches!(heard.recv().await, Some(Say::Heartbeat(_))));
    }
}
