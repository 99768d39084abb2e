//! Answers the coordinator's clock pings on a thread and a connection of their own, so that a pong never waits behind
//! load or data.

use std::io;
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::clock::HostClock;
use crate::link::{LinkError, Route, dial_telling};
use crate::v1::clock_client::ClockClient;
use crate::v1::{self, clock_down, clock_up};

/// Starts the thread; it reconnects until `shutdown`.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn answer_pings(
    route: impl Into<Route>,
    incarnation: u64,
    shutdown: CancellationToken,
) -> io::Result<JoinHandle<()>> {
    let route = route.into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("clock-pong".to_owned()).spawn(move || {
        runtime.block_on(async {
            while !shutdown.is_cancelled() {
                let _ended = answer_until_broken(&route, incarnation, &shutdown).await;
                tokio::select! {
                    () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {}
                    () = shutdown.cancelled() => {}
                }
            }
        });
    })
}

async fn answer_until_broken(
    route: &Route,
    incarnation: u64,
    shutdown: &CancellationToken,
) -> Result<(), LinkError> {
    let channel = dial_telling(route, shutdown, |_| {}).await?;
    let (out, messages) = mpsc::channel(64);
    let hello = clock_up::Kind::Hello(v1::ClockHello { incarnation });
    send(&out, hello).await?;
    // A pong is stamped when the connection takes it, not when it is queued.
    let messages = ReceiverStream::new(messages).map(stamped);
    let mut client = ClockClient::new(channel);
    let mut pings = tokio::select! {
        answer = client.exchange(messages) => answer?.into_inner(),
        () = shutdown.cancelled() => return Ok(()),
    };
    loop {
        let message = tokio::select! {
            message = pings.message() => message?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let read_at = HostClock.now();
        match message.ok_or_else(|| LinkError::Broken("clock stream ended".to_owned()))?.kind {
            Some(clock_down::Kind::Ping(ping)) => send(&out, pong(&ping, read_at)).await?,
            Some(clock_down::Kind::SnapshotRequest(_)) => {
                send(&out, clock_up::Kind::Snapshot(HostClock.snapshot())).await?;
            }
            None => {}
        }
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

fn stamped(kind: clock_up::Kind) -> v1::ClockUp {
    let kind = match kind {
        clock_up::Kind::Pong(pong) => clock_up::Kind::Pong(v1::ClockPong { t2_ns: HostClock.now(), ..pong }),
        other => other,
    };
    v1::ClockUp { kind: Some(kind) }
}

async fn send(out: &mpsc::Sender<clock_up::Kind>, kind: clock_up::Kind) -> Result<(), LinkError> {
    out.send(kind).await.map_err(|_| LinkError::Broken("clock stream closed".to_owned()))
}
