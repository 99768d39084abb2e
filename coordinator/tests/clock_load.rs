//! The clock's own connection and threads keep their pings from waiting behind anything: under 10,000 messages a second on
//! the control connection of a runtime that is busy besides, the bar holds, and how far off the clock is gets printed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and print what it found")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tailcliff::clock::{Exchange, Track};
use tailcliff::door::{Door, Strangers};
use tailcliff::pinger::{self, ClockEvent};
use tailcliff::service::{self, Input, message};
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::link::{dial, join};
use tailcliff_proto::pong;
use tailcliff_proto::v1::{self, coordinator_message, node_message};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const NODE: u64 = 42;
const SECONDS: u64 = 6;
/// Messages asked for each millisecond.
const PER_MS: u32 = 10;

#[test]
fn pings_keep_their_bar_under_ten_thousand_messages_a_second_and_a_busy_runtime() {
    let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let coordinator = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let clock = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let [control_at, clock_at] = [&coordinator, &clock].map(|l| l.local_addr().unwrap().to_string());
    let server = {
        let (stop, heard) = (stop.clone(), heard.clone());
        std::thread::spawn(move || runtime().block_on(receive(coordinator, &stop, &heard)))
    };
    let node = {
        let stop = stop.clone();
        std::thread::spawn(move || runtime().block_on(flood(&control_at, &stop)))
    };
    let exchanges = measure(clock, clock_at);
    stop.store(true, Relaxed);
    node.join().unwrap();
    server.join().unwrap();

    let track = Track::fit(&exchanges, &[]);
    assert!(track.breaks().is_empty(), "{:?}", track.breaks());
    // One clock on both sides: whatever is not 0 is error.
    let error = |e: &Exchange| {
        let at = track.to_ref(e.t1).unwrap();
        assert!((at.ns - e.t1).abs() <= at.bound_ns, "{} ns off, bar {}", at.ns - e.t1, at.bound_ns);
        (at.ns - e.t1).abs()
    };
    let mut errors: Vec<i64> = exchanges.iter().map(error).collect();
    errors.sort_unstable();
    let at = |p: f64| errors[((errors.len() - 1) as f64 * p) as usize] as f64 / 1e3;
    let bar = track.median_bound_ns().unwrap() as f64 / 1e3;
    let a_second = heard.load(Relaxed) / SECONDS;
    println!(
        "clock beside {a_second} messages a second and a busy runtime: error p50 {:.1} p99 {:.1} max {:.1} µs under a bar of \
         ±{bar:.1} µs, {} exchanges",
        at(0.5),
        at(0.99),
        at(1.0),
        errors.len()
    );
    assert!(a_second > 1_000, "no load: the test shows nothing");
    assert!(errors.len() > 80, "only {} exchanges", errors.len());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn nobody() -> Strangers {
    Strangers::new(mpsc::channel(1).0)
}

/// The coordinator's control side: welcomes, and counts what it is told.
async fn receive(listener: std::net::TcpListener, stop: &AtomicBool, heard: &AtomicU64) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let (inputs, mut inbox) = mpsc::channel(1_024);
    let serving =
        tokio::spawn(async move { service::serve(listener, &Door::default(), nobody(), inputs, None).await });
    while !stop.load(Relaxed) {
        match tokio::time::timeout(Duration::from_millis(100), inbox.recv()).await {
            Ok(Some(Input::Hello { out, .. })) => {
                let welcome = coordinator_message::Kind::Welcome(v1::Welcome::default());
                out.send(Ok(message(welcome))).await.unwrap();
                // The stream lives as long as its sender.
                std::mem::forget(out);
            }
            Ok(Some(Input::Said(..))) => drop(heard.fetch_add(1, Relaxed)),
            _ => {}
        }
    }
    serving.abort();
}

/// A node's control side: 10 messages a ms, and a runtime that is kept busy for half of each ms besides.
async fn flood(control: &str, stop: &AtomicBool) {
    let channel = dial(control, &CancellationToken::new()).await.unwrap();
    let agent = v1::NodeKind::Agent as i32;
    let link = join(channel, v1::Hello { node_kind: agent, incarnation: NODE, ..Default::default() }).await;
    let link = link.unwrap();
    let mut beat = tokio::time::interval(Duration::from_millis(1));
    while !stop.load(Relaxed) {
        beat.tick().await;
        for level in 0..PER_MS {
            let progress = v1::LevelProgress { level, ..Default::default() };
            let said = node_message::Kind::Progress(progress);
            let message = v1::NodeMessage { kind: Some(said) };
            if link.out.send(message).await.is_err() {
                return;
            }
        }
        let until = HostClock.now() + 500_000;
        while HostClock.now() < until {
            std::hint::spin_loop();
        }
    }
}

/// Pings as a run makes them.
fn measure(listener: std::net::TcpListener, address: String) -> Vec<Exchange> {
    let shutdown = CancellationToken::new();
    let (events, mut inbox) = mpsc::channel(64);
    let (_pinger, thread) =
        pinger::serve((listener, 1), Door::default(), nobody(), events, shutdown.clone()).unwrap();
    let node = pong::answer_pings(address, NODE, shutdown.clone()).unwrap();
    let mut all = Vec::new();
    runtime().block_on(async {
        let over = tokio::time::sleep(Duration::from_secs(SECONDS));
        tokio::pin!(over);
        loop {
            tokio::select! {
                event = inbox.recv() => match event {
                    Some(ClockEvent::Burst { exchanges, .. }) => all.extend(exchanges),
                    Some(ClockEvent::Snapshot(..)) => {}
                    None => return,
                },
                () = &mut over => return,
            }
        }
    });
    shutdown.cancel();
    drop(inbox);
    thread.join().unwrap();
    node.join().unwrap();
    all
}
