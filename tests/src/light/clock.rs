//! The simulated clock of a light agent, as a host elsewhere would have it: another origin, another rate, another boot. It
//! answers the coordinator's pings on a connection of its own, like any agent.

use std::time::Duration;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::link::dial;
use tailcliff_proto::v1::clock_client::ClockClient;
use tailcliff_proto::v1::{self, clock_down, clock_up};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// A rate of so many parts in 10⁹ and an offset against this host's raw clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    number: u32,
    offset_ns: i64,
    rate_ppb: i64,
    origin_ns: i64,
}

impl Clock {
    /// That of agent `number`: within a day and 50 ppm of ours.
    pub fn of(seed: u64, number: u32) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ (u64::from(number) << 32));
        Self {
            number,
            offset_ns: random.i64(-86_400_000_000_000..86_400_000_000_000),
            rate_ppb: random.i64(-50_000..=50_000),
            origin_ns: super::now(),
        }
    }

    /// What it shows when the host's clock shows `host_ns`.
    pub fn at(&self, host_ns: i64) -> i64 {
        let since = i128::from(host_ns - self.origin_ns);
        host_ns + self.offset_ns + (since * i128::from(self.rate_ppb) / 1_000_000_000) as i64
    }

    /// What the host's clock shows when it shows `own_ns`.
    pub fn host(&self, own_ns: i64) -> i64 {
        let since = i128::from(own_ns - self.offset_ns - self.origin_ns);
        self.origin_ns + (since * 1_000_000_000 / i128::from(1_000_000_000 + self.rate_ppb)) as i64
    }

    fn now(&self) -> i64 {
        self.at(super::now())
    }

    fn snapshot(&self) -> v1::ClockSnapshot {
        let snapshot = HostClock.snapshot();
        v1::ClockSnapshot {
            boot_id: format!("simulated-{}", self.number),
            raw_ns: self.at(snapshot.raw_ns),
            ..snapshot
        }
    }

    /// Answers pings until told to stop, dialling again when the connection breaks.
    pub async fn answer(self, address: String, incarnation: u64, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let _broken = self.answer_once(&address, incarnation, &shutdown).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn answer_once(
        &self,
        address: &str,
        incarnation: u64,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let channel = dial(address, shutdown).await?;
        let (out, answers) = mpsc::channel(64);
        out.send(clock_up::Kind::Hello(v1::ClockHello { incarnation })).await?;
        let clock = *self;
        // Stamped when the connection takes it, as agents do.
        let messages = ReceiverStream::new(answers).map(move |kind| clock.stamped(kind));
        let mut pings = ClockClient::new(channel).exchange(messages).await?.into_inner();
        loop {
            let message = tokio::select! {
                message = pings.message() => message?,
                () = shutdown.cancelled() => return Ok(()),
            };
            let read_at = self.now();
            match message.and_then(|message| message.kind) {
                Some(clock_down::Kind::Ping(ping)) => out.send(pong(&ping, read_at)).await?,
                Some(clock_down::Kind::SnapshotRequest(_)) => {
                    out.send(clock_up::Kind::Snapshot(self.snapshot())).await?;
                }
                None => return Ok(()),
            }
        }
    }

    fn stamped(&self, kind: clock_up::Kind) -> v1::ClockUp {
        let kind = match kind {
            clock_up::Kind::Pong(pong) => clock_up::Kind::Pong(v1::ClockPong { t2_ns: self.now(), ..pong }),
            other => other,
        };
        v1::ClockUp { kind: Some(kind) }
    }
}

fn pong(ping: &v1::ClockPing, read_at: i64) -> clock_up::Kind {
    clock_up::Kind::Pong(v1::ClockPong {
        burst: ping.burst,
        seq: ping.seq,
        t0_ns: ping.t0_ns,
        t1_ns: read_at,
        t2_ns: read_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_is_the_same_moment() {
        for number in 0..20 {
            let clock = Clock::of(7, number);
            for later_s in [0, 1, 3_600] {
                let host = clock.origin_ns + later_s * 1_000_000_000;
                assert!((clock.host(clock.at(host)) - host).abs() <= 2, "{clock:?}");
            }
        }
    }
}
