//! Each fault, as the client sees it and as the truth log tells it.

use model_sim::{Config, Outcome, Params, Timing};
use serde_json::Value;

use crate::client::*;

/// One streamed chat request with this `sim_fault`.
fn ask(fault: &str) -> (Answer, model_sim::TruthRecord) {
    let server = Server::start(quick());
    let answer = server.connect().post(CHAT, &chat(&format!(r#","sim_fault":{fault}"#)));
    (answer, server.stop_one())
}

#[test]
fn a_pause_is_one_gap() {
    // Long beside what a busy machine adds: a late token before the pause shortens it.
    let (answer, record) = ask(r#"{"kind":"pause","token":2,"ms":1000}"#);
    assert_eq!(answer.content().0.len(), 5);
    let gaps: Vec<i64> = record.emissions.windows(2).map(|w| (w[1] - w[0]) / MS).collect();
    assert!(gaps[1] >= 500, "the pause lies before token 2: {gaps:?}");
    assert_eq!(gaps.iter().max(), Some(&gaps[1]), "and nowhere else");
    assert_eq!(record.outcome, Outcome::Completed);
}

#[test]
fn a_stall_never_ends_but_with_the_client() {
    let server = Server::start(quick());
    let mut client = server.connect();
    client.send(post(CHAT, &chat(r#","sim_fault":{"kind":"stall","token":2}"#), ""));
    client.head();
    client.stream.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
    let stalled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.chunks()));
    assert!(stalled.is_err(), "the stream ended: {stalled:?}");
    drop(client);
    let mut other = server.connect();
    assert_eq!(other.post(CHAT, &chat("")).status, 200);
    let truth = server.stop();
    let stalled = &truth.records[0];
    assert_eq!((stalled.outcome, stalled.output_tokens), (Outcome::ClientGone, 2));
}

#[test]
fn a_stall_at_shutdown_is_logged_as_aborted() {
    let server = Server::start(faulty(&["stall:token=1"]));
    let mut client = server.connect();
    client.send(post(CHAT, &chat(""), ""));
    client.head();
    assert_eq!(server.stop_one().outcome, Outcome::Aborted);
    assert!(client.chunks().1, "the stream is cut");
}

#[test]
fn a_drop_cuts_the_stream_at_its_token() {
    for fault in [r#"{"kind":"drop","token":3}"#, r#"{"kind":"drop","token":3,"reset":true}"#] {
        let (answer, record) = ask(fault);
        assert!(answer.cut);
        assert!(answer.content().0.len() <= 3, "a reset may destroy what was not yet read");
        assert_eq!((record.outcome, record.output_tokens, record.status), (Outcome::Dropped, 3, Some(200)));
    }
    let (answer, _) = ask(r#"{"kind":"drop","token":3}"#);
    assert_eq!(answer.content().0.len(), 3);
}

#[test]
fn a_reset_is_a_reset() {
    use std::io::Read;
    let server = Server::start(faulty(&["drop:token=0,reset=true"]));
    let mut client = server.connect();
    client.send(post(CHAT, &chat(""), ""));
    client.head();
    let error = client.stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn an_http_error_instead_of_an_answer() {
    for code in [500, 503, 429] {
        let (answer, record) = ask(&format!(r#"{{"kind":"status","code":{code}}}"#));
        assert_eq!((answer.status, answer.json()["error"]["code"].as_u64()), (code, Some(code.into())));
        assert_eq!(
            (record.outcome, record.status, record.emissions.len()),
            (Outcome::Rejected, Some(code), 0)
        );
    }
}

#[test]
fn a_truncated_event_is_no_json_and_the_rest_is() {
    let (answer, record) = ask(r#"{"kind":"truncate","token":1}"#);
    let events = answer.events();
    assert_eq!(events.len(), 7);
    let broken: Vec<bool> = events[..6].iter().map(|e| serde_json::from_str::<Value>(e).is_err()).collect();
    assert_eq!(broken, [false, false, true, false, false, false]);
    assert_eq!((record.outcome, record.output_tokens), (Outcome::Truncated, 5));
}

#[test]
fn an_error_inside_the_stream() {
    let (answer, record) = ask(r#"{"kind":"stream_error","token":2}"#);
    let events = answer.events();
    assert_eq!((answer.status, events.len()), (200, 1 + 2 + 1 + 1));
    assert_eq!(serde_json::from_str::<Value>(events[3]).unwrap()["error"]["code"], 500);
    assert_eq!(events[4], "[DONE]");
    assert_eq!((record.outcome, record.output_tokens), (Outcome::StreamError, 2));
}

#[test]
fn no_done() {
    let (answer, record) = ask(r#"{"kind":"no_done"}"#);
    assert_eq!((answer.events().len(), answer.cut), (6, false));
    assert!(!answer.body.contains("DONE"));
    assert_eq!(record.outcome, Outcome::NoDone);
}

#[test]
fn several_tokens_per_chunk() {
    let (answer, record) = ask(r#"{"kind":"chunk","tokens":2}"#);
    assert_eq!(answer.content().0, [" the load", " rises and", " then"]);
    assert_eq!((record.emissions.len(), record.output_tokens), (3, 5));
}

#[test]
fn reasoning_comes_first() {
    let (answer, record) = ask(r#"[{"kind":"reasoning","tokens":3},{"kind":"chunk","tokens":2}]"#);
    let (text, reasoning) = answer.content();
    assert_eq!((reasoning, text), (vec![" the load".into(), " rises".into()], vec![" and then".into()]));
    assert_eq!((record.emissions.len(), record.output_tokens), (3, 5));
}

#[test]
fn closes_though_it_promised_not_to() {
    let server = Server::start(faulty(&["close"]));
    let mut client = server.connect();
    let answer = client.post(CHAT, &chat(""));
    assert_eq!((answer.events().len(), answer.cut), (7, false));
    assert_eq!(header(&answer.head, "connection"), None);
    assert!(client.is_closed());
    let mut client = server.connect();
    client.post(CHAT, &chat("").replace(r#""stream":true"#, r#""stream":false"#));
    assert_eq!(client.get("/health").status, 200, "replies that are not streamed keep the connection");
}

/// Waits for the head of a reply whose first token comes after 150 ms; how long that took, ms.
fn head_after(flags: &[&str]) -> i64 {
    let timing = Timing::Paced { ttft_ns: 150 * MS, itl_ns: MS };
    let server = Server::start(Config { timing, ..faulty(flags) });
    let mut client = server.connect();
    let sent = model_sim::clock::raw_ns();
    client.send(post(CHAT, &chat(""), ""));
    client.head();
    (model_sim::clock::raw_ns() - sent) / MS
}

#[test]
fn late_headers_come_with_the_first_token() {
    assert!(head_after(&["late_headers"]) >= 150);
    // Normally at once; a busy machine gets several tries.
    assert!((0..5).any(|_| head_after(&[]) < 150));
}

#[test]
fn loading_ends() {
    let server = Server::start(faulty(&["loading:ms=2000"]));
    let mut client = server.connect();
    assert_eq!(client.get("/health").status, 503);
    let answer = client.post(CHAT, &chat(""));
    assert_eq!((answer.status, answer.json()["error"]["message"].as_str()), (503, Some("Loading model")));
    let deadline = model_sim::clock::raw_ns() + 20_000 * MS;
    while client.get("/health").status == 503 {
        assert!(model_sim::clock::raw_ns() < deadline, "it loads for ever");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(client.get("/health").status, 200);
    assert_eq!(client.post(CHAT, &chat("")).status, 200);
}

#[test]
fn a_full_queue_is_503() {
    // The third comes while the first runs, which takes half a second.
    let params = Params { max_num_seqs: 1, max_queue: Some(1), step_base_ns: 100 * MS, ..Params::default() };
    let server = Server::start(Config { timing: Timing::Engine(params), ..quick() });
    let mut clients: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|c| c.send(post(CHAT, &chat(""), "")));
    let mut status: Vec<u16> = clients.iter_mut().map(|c| c.answer().status).collect();
    status.sort_unstable();
    assert_eq!(status, [200, 200, 503]);
}

#[test]
fn faults_hit_every_nth_request() {
    let server = Server::start(faulty(&["status:code=500,every=3"]));
    let mut client = server.connect();
    let status: Vec<u16> = (0..6).map(|_| client.post(CHAT, &chat("")).status).collect();
    assert_eq!(status, [200, 200, 500, 200, 200, 500]);
}

#[test]
fn faults_of_whole_replies() {
    let whole = |fault: &str| {
        let server = Server::start(quick());
        let body = chat(&format!(r#","sim_fault":{fault}"#)).replace(r#""stream":true"#, r#""stream":false"#);
        let mut client = server.connect();
        client.send(post(CHAT, &body, ""));
        client
    };
    assert_eq!(whole(r#"{"kind":"stream_error","token":1}"#).answer().status, 500);
    assert!(serde_json::from_str::<Value>(&whole(r#"{"kind":"truncate","token":1}"#).answer().body).is_err());
    assert!(whole(r#"{"kind":"drop","token":1}"#).is_closed());
    let thought = whole(r#"{"kind":"reasoning","tokens":1}"#).answer().json();
    assert_eq!(thought["choices"][0]["message"]["reasoning_content"], " the");
}
