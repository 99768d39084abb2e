//! Peers that mean no good: each is told so or left, and the server goes on serving.

use std::io::Write;

use model_sim::Outcome;

use crate::client::*;

fn status_of(bytes: impl AsRef<[u8]>) -> u16 {
    let server = Server::start(quick());
    let mut client = server.connect();
    client.send(bytes);
    let answer = client.answer();
    assert!(client.is_closed(), "the connection must end");
    assert_eq!(server.connect().post(CHAT, &chat("")).status, 200, "others are still served");
    assert_eq!(server.stop().total, 1, "what was never a request is not logged");
    answer.status
}

#[test]
fn garbage() {
    assert_eq!(status_of("\0\u{1}garbage\r\n\r\n"), 400);
    assert_eq!(status_of(b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n"), 400, "a TLS hello");
    assert_eq!(status_of("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
}

#[test]
fn absurd_lengths() {
    let post = |headers: &str| format!("POST {CHAT} HTTP/1.1\r\n{headers}\r\n\r\n");
    assert_eq!(status_of(post("content-length: 18446744073709551616")), 413);
    assert_eq!(status_of(post("content-length: 99999999999")), 413);
    assert_eq!(status_of(post("content-length: -5")), 400);
    assert_eq!(status_of(post("transfer-encoding: chunked")), 411);
}

#[test]
fn an_endless_head_is_cut_off() {
    let server = Server::start(quick());
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\n");
    let line = format!("x-filler: {}\r\n", "y".repeat(1000));
    let mut sent = 0;
    // The server stops reading after its bound; from then on writing fails, or the answer is there.
    while sent < 10_000 && client.stream.write_all(line.as_bytes()).is_ok() {
        sent += 1;
    }
    assert!(sent < 10_000, "ten megabytes of headers were swallowed");
    assert_eq!(server.connect().get("/health").status, 200);
}

#[test]
fn a_long_head_is_answered() {
    assert_eq!(status_of(format!("GET / HTTP/1.1\r\nx: {}\r\n", "y".repeat(45_000))), 431);
}

#[test]
fn deeply_nested_json() {
    let server = Server::start(quick());
    let body = format!(r#"{{"messages":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(server.connect().post(CHAT, &body).status, 400);
    let huge = r#"{"prompt":"a","max_tokens":99999999999999999999}"#;
    assert_eq!(server.connect().post("/v1/completions", huge).status, 400);
}

#[test]
fn a_client_that_leaves_half_way_frees_its_place() {
    let params = model_sim::Params { max_num_seqs: 1, ..model_sim::Params::default() };
    let server = Server::start(model_sim::Config { timing: model_sim::Timing::Engine(params), ..quick() });
    let mut leaver = server.connect();
    leaver.send(post(CHAT, &chat("").replace(r#""max_tokens":5"#, r#""max_tokens":20000"#), ""));
    leaver.head();
    drop(leaver);
    // 20,000 steps of 8 ms would take minutes; the one slot must be free long before.
    assert_eq!(server.connect().post(CHAT, &chat("")).status, 200);
    let truth = server.stop();
    assert_eq!(truth.records[0].outcome, Outcome::ClientGone);
    assert_eq!(truth.records[1].outcome, Outcome::Completed);
}

#[test]
fn half_a_request_is_no_request() {
    let server = Server::start(quick());
    for part in ["", "POST", "POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 10\r\n\r\n{"] {
        server.connect().send(part);
    }
    assert_eq!(server.connect().get("/health").status, 200);
    assert_eq!(server.stop().total, 0);
}

#[test]
fn bytes_sent_during_a_reply_wait_their_turn() {
    let server = Server::start(quick());
    let mut client = server.connect();
    client.send(post(CHAT, &chat(""), ""));
    client.head();
    client.send("GET /health HTTP/1.1\r\n\r\n");
    assert!(!client.chunks().1);
    assert_eq!(client.answer().status, 200);
}

#[test]
fn a_curl_that_waits_to_be_asked_for_its_body() {
    let server = Server::start(quick());
    let mut client = server.connect();
    let request = post(CHAT, &chat(""), "expect: 100-continue\r\n");
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    client.send(format!("{head}\r\n\r\n"));
    assert!(client.head().starts_with("HTTP/1.1 100 "));
    client.send(body);
    assert_eq!(client.answer().events().len(), 7);
}
