//! The bare clients against the simulated server: what they say they saw is what the server says it did.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use e2e::floor::{self, Load};
use e2e::plain_reqwest;
use model_sim::{Config, Timing, Truth};
use tokio_util::sync::CancellationToken;

/// Runs `client` against a server with these `--fault` flags; what the client returns, and the truth.
fn against<T>(faults: &[&str], client: impl FnOnce(SocketAddr) -> T) -> (T, Truth) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let config = Config {
        timing: Timing::Paced { ttft_ns: 3_000_000, itl_ns: 500_000 },
        faults: faults.iter().map(|f| f.parse().unwrap()).collect(),
        keep_truth: 1000,
        ..Config::default()
    };
    let shutdown = stop.clone();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            model_sim::serve(listener, config, shutdown).await.unwrap()
        })
    });
    let returned = client(addr);
    stop.cancel();
    (returned, server.join().unwrap())
}

fn load() -> Load {
    Load {
        name: Some("bare"),
        model: "sim".into(),
        connections: 4,
        requests_each: 3,
        duration_ns: None,
        max_tokens: 12,
        streaming: true,
    }
}

fn check(
    client: fn(SocketAddr, &Load) -> std::io::Result<Vec<floor::Record>>,
    faults: &[&str],
    chunks_each: usize,
) {
    let (records, truth) = against(faults, |addr| client(addr, &load()).unwrap());
    let truth: BTreeMap<_, _> =
        truth.records.into_iter().map(|r| (r.request_id.clone().unwrap(), r)).collect();
    assert_eq!((records.len(), truth.len()), (12, 12));
    for seen in records {
        let emitted = &truth[&seen.request_id];
        assert_eq!((seen.arrivals_ns.len(), emitted.emissions.len()), (chunks_each, chunks_each));
        assert!(
            seen.intended_ns < seen.sent_ns && seen.sent_ns <= emitted.arrived_ns,
            "sent before it arrived"
        );
        let causal = seen.arrivals_ns.iter().zip(&emitted.emissions).all(|(at, emitted)| at >= emitted);
        assert!(causal, "seen before it was written");
        assert!(seen.done_ns >= seen.arrivals_ns[chunks_each - 1]);
    }
}

fn reqwest(address: SocketAddr, load: &Load) -> std::io::Result<Vec<floor::Record>> {
    Ok(plain_reqwest::run(address, load)?.0)
}

#[test]
fn sees_every_chunk_after_it_was_written() {
    check(floor::run, &[], 12);
    check(reqwest, &[], 12);
}

#[test]
fn counts_chunks_not_tokens() {
    check(floor::run, &["chunk:tokens=5"], 3);
    check(reqwest, &["chunk:tokens=5"], 3);
}

#[test]
fn a_server_that_closes_is_an_error() {
    let (result, _) = against(&["drop:token=3"], |addr| floor::run(addr, &load()));
    assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    let (result, _) = against(&["drop:token=3"], |addr| plain_reqwest::run(addr, &load()));
    assert!(result.is_err());
}

#[test]
fn the_body_has_what_tailcliff_sends() {
    let body: serde_json::Value = serde_json::from_str(&load().body(7, 1)).unwrap();
    assert_eq!(body["stream_options"]["include_usage"], true);
    assert_eq!((&body["stream"], &body["max_tokens"]), (&true.into(), &12.into()));
    let prompt = body["messages"][0]["content"].as_str().unwrap();
    assert_eq!(prompt.split(' ').count(), 16);
}

#[test]
fn several_events_in_one_read_and_one_event_over_two() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 4096];
        assert!(stream.read(&mut asked).unwrap() > 0);
        let event =
            |text: &str| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        let (cut, rest) = (event("d"), "data: [DONE]\n\n");
        let (left, right) = cut.split_at(20);
        let parts = [event("") + &event("a") + &event("b") + &event("c") + left, format!("{right}{rest}")];
        for part in parts {
            stream.write_all(part.as_bytes()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
    });
    let records = floor::run(addr, &Load { connections: 1, requests_each: 1, ..load() }).unwrap();
    server.join().unwrap();
    let arrivals = &records[0].arrivals_ns;
    assert_eq!(arrivals.len(), 4, "the empty delta is no content");
    assert!(arrivals[2] < arrivals[3], "the cut event is dated by its end");
    assert!(arrivals.is_sorted());
}
