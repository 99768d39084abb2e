//! The client against servers that do all that real ones do, and worse.

use std::sync::Mutex;

use tailcliff_proto::arrivals;
use tailcliff_proto::trace_context::TraceContext;
use tailcliff_proto::v1::{Outcome, RequestRecord, TokenSource};

use super::*;
use crate::testdata;
use crate::testserver::{Asked, LAST_CHUNK, STREAM_HEAD, Server, chunk, done, finish, reply, stream, token};

fn client(target: &v1::Target) -> Client {
    Client::new(Arc::new(Target::parse(target).unwrap()), false)
}

pub(super) fn attempt() -> Attempt {
    Attempt {
        level: 1,
        stream: 2,
        request: 3,
        phase: v1::Phase::Measured,
        intended_raw_ns: HostClock.now(),
        request_id: "run-1-2-3".to_owned(),
        body: Bytes::from_static(b"{\"model\":\"m\"}"),
        control_pause: None,
    }
}

/// That of [`attempt`].
pub(super) fn traceparent() -> String {
    String::from_utf8(TraceContext::of("run-1-2-3").traceparent().to_vec()).unwrap()
}

pub(super) async fn send(client: &mut Client) -> RequestRecord {
    let record = client.request(attempt(), &Cancel::new()).await;
    check_stamps(&record);
    record
}

/// One request to a server that always says the same and then closes.
async fn told(bytes: impl Into<Vec<u8>>) -> RequestRecord {
    let server = Server::always(bytes, true).await;
    send(&mut client(&server.target())).await
}

pub(super) fn ended(record: &RequestRecord) -> (Outcome, &str) {
    (record.outcome(), &record.error_kind)
}

/// What holds for every record, however it ended.
fn check_stamps(r: &RequestRecord) {
    assert_eq!((r.level, r.stream, r.request, r.phase()), (1, 2, 3, v1::Phase::Measured));
    assert_eq!(r.request_id, "run-1-2-3");
    let stamps = [
        Some(r.intended_raw_ns),
        r.issued_raw_ns,
        r.connected_raw_ns,
        r.sent_raw_ns,
        r.headers_raw_ns,
        r.first_chunk_raw_ns,
        r.first_token_raw_ns,
        r.last_token_raw_ns,
        Some(r.done_raw_ns),
    ];
    let happened: Vec<_> = stamps.into_iter().flatten().collect();
    assert!(happened.is_sorted(), "{stamps:?}");
    assert!(r.error_detail.chars().count() <= 300 && !r.error_detail.contains("sk-test-secret"), "{r:?}");
    let arrived: Vec<_> = arrivals::decode(&r.arrivals).map(Result::unwrap).collect();
    assert_eq!(arrived.len(), r.content_chunks as usize);
}

/// A recording as its server sent it: the body in HTTP chunks, one for each event.
fn recorded(name: &str, line_end: &str) -> String {
    let events = testdata::body(name).split_inclusive("\n\n");
    let chunks: String = events.map(|e| chunk(&e.replace('\n', line_end))).collect();
    format!("{STREAM_HEAD}{chunks}{LAST_CHUNK}")
}

/// Content chunks, characters, prompt tokens, output tokens.
type Figures = (u32, u64, Option<u64>, Option<u64>);

/// What each recording holds.
const RECORDED: [(&str, Figures); 4] = [
    ("llama-cpp-chat-stream", (8, 15, Some(29), Some(8))),
    ("llama-cpp-completions-stream", (6, 20, Some(4), Some(6))),
    ("vllm-0.32-chat-stream", (32, 150, Some(17), Some(32))),
    ("vllm-0.32-completions-stream", (6, 32, Some(3), Some(6))),
];

fn figures(r: &RequestRecord) -> Figures {
    assert_eq!(ended(r), (Outcome::Completed, ""), "{r:?}");
    assert_eq!((r.finish_reason.as_str(), r.token_source()), ("length", TokenSource::Usage));
    (r.content_chunks, r.text_len, r.prompt_tokens, r.output_tokens)
}

#[tokio::test]
async fn every_recorded_stream_completes() {
    for (name, expected) in RECORDED {
        for line_end in ["\n", "\r\n", "\r"] {
            assert_eq!(figures(&told(recorded(name, line_end)).await), expected, "{name} {line_end:?}");
        }
    }
}

#[tokio::test]
async fn what_a_server_says_of_its_own_time_is_in_the_record() {
    let said = |r: &RequestRecord| (r.server_prefill_ns, r.server_decode_ns, r.cached_tokens);
    let record = told(recorded("llama-cpp-completions-stream", "\n")).await;
    assert_eq!(said(&record), (Some(64_782_000), Some(218_221_000), Some(1)));
    let record = told(recorded("vllm-0.32-chat-stream", "\n")).await;
    assert_eq!(said(&record), (None, None, None));
    // A reply that is not streamed, as llama.cpp writes it.
    let body = r#"{"choices":[{"message":{"content":"a b"},"finish_reason":"length"}],
        "usage":{"completion_tokens":2,"prompt_tokens":4,"prompt_tokens_details":{"cached_tokens":3}},
        "timings":{"cache_n":3,"prompt_n":1,"prompt_ms":1.5,"predicted_n":2,"predicted_ms":80.25}}"#;
    let server = Server::always(reply("200 OK", "application/json", body), true).await;
    let target = v1::Target { streaming: false, ..server.target() };
    let record = send(&mut client(&target)).await;
    assert_eq!(ended(&record), (Outcome::Completed, ""));
    assert_eq!(said(&record), (Some(1_500_000), Some(80_250_000), Some(3)));
}

#[tokio::test]
async fn a_reply_may_come_byte_by_byte() {
    let bytes = recorded("llama-cpp-completions-stream", "\n");
    let server = Server::start(move |mut conn| {
        let bytes = bytes.clone();
        async move {
            conn.ask().await;
            for byte in bytes.as_bytes() {
                conn.say([*byte]).await;
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    let record = send(&mut client(&server.target())).await;
    assert_eq!(figures(&record), RECORDED[1].1);
}

#[tokio::test]
async fn the_request_is_what_the_target_says() {
    let seen: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let to = Arc::clone(&seen);
    let server = Server::start(move |mut conn| {
        let to = Arc::clone(&to);
        async move {
            while let Some(asked) = conn.ask().await {
                to.lock().unwrap().push(asked);
                conn.say(stream(&["a"])).await;
            }
        }
    })
    .await;
    let mut client = client(&server.target());
    let records = [send(&mut client).await, send(&mut client).await];
    assert_eq!(records.map(|r| r.reused_connection), [false, true]);
    assert_eq!((server.connections(), server.requests()), (1, 2));
    let asked = &seen.lock().unwrap()[1];
    let head = asked.head.to_ascii_lowercase();
    for line in [
        "post /v1/chat/completions http/1.1".to_owned(),
        format!("host: 127.0.0.1:{}", server.port),
        "authorization: bearer sk-test-secret".to_owned(),
        "x-request-id: run-1-2-3".to_owned(),
        format!("traceparent: {}", traceparent()),
        "content-type: application/json".to_owned(),
        "content-length: 13".to_owned(),
    ] {
        assert!(head.lines().any(|l| l == line), "{line} is not in {head}");
    }
    assert_eq!(asked.body, b"{\"model\":\"m\"}");
}

#[tokio::test]
async fn each_gap_is_kept() {
    let server = Server::start(|mut conn| async move {
        conn.ask().await;
        conn.say(format!("{STREAM_HEAD}{}", token("a"))).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        conn.say(token("bc")).await;
        conn.say(format!("{}{}{LAST_CHUNK}", finish(), done())).await;
    })
    .await;
    let record = send(&mut client(&server.target())).await;
    assert_eq!(ended(&record).0, Outcome::Completed);
    let arrived: Vec<_> = arrivals::decode(&record.arrivals).map(Result::unwrap).collect();
    assert_eq!(arrived.iter().map(|a| a.chars).collect::<Vec<_>>(), [1, 2]);
    assert!(arrived[1].gap_ns >= 290_000_000, "{arrived:?}");
    assert_eq!(record.longest_gap_ns, Some(arrived[1].gap_ns as i64));
    assert_eq!(record.first_token_raw_ns, Some(record.intended_raw_ns + arrived[0].gap_ns as i64));
    assert_eq!((record.output_tokens, record.token_source()), (Some(2), TokenSource::Chunks));
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_closed() {
    let text = format!("{STREAM_HEAD}{}{}", token("a"), token("b"));
    let record = told(text.clone()).await;
    assert_eq!(ended(&record), (Outcome::Failed, "early_end"));
    assert_eq!((record.content_chunks, record.output_tokens, record.http_status), (2, Some(2), Some(200)));
    // A proxy that lost its server ends the body well.
    assert_eq!(ended(&told(format!("{text}{LAST_CHUNK}")).await), (Outcome::Failed, "early_end"));
    // The reason was given, but the end of the body never came.
    assert_eq!(ended(&told(format!("{text}{}", finish())).await), (Outcome::Failed, "early_end"));
    assert_eq!(ended(&told("").await), (Outcome::Failed, "early_end"));
    assert_eq!(ended(&told("HTTP/1.1 200 O").await), (Outcome::Failed, "early_end"));
}

#[tokio::test]
async fn a_reply_is_whole_without_done_if_it_gave_a_reason_and_ended_well() {
    let text = format!("{STREAM_HEAD}{}{}{LAST_CHUNK}", token("a"), finish());
    assert_eq!(ended(&told(text).await), (Outcome::Completed, ""));
    let until_close = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n\
        data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":\"stop\"}]}\n\n";
    assert_eq!(ended(&told(until_close).await), (Outcome::Completed, ""));
}

#[tokio::test]
async fn after_done_nothing_the_connection_does_matters() {
    let server = Server::start(|mut conn| async move {
        conn.ask().await;
        conn.say(format!("{STREAM_HEAD}{}{}", token("a"), done())).await;
        match conn.number {
            0 => conn.reset(),
            _ => drop(conn.until_gone().await),
        }
    })
    .await;
    let mut client = client(&server.target());
    let begun = HostClock.now();
    for _ in 0..3 {
        let record = send(&mut client).await;
        assert_eq!((ended(&record), record.reused_connection), ((Outcome::Completed, ""), false));
    }
    assert_eq!((server.connections(), server.requests()), (3, 3));
    assert!(
        HostClock.now() - begun < 30_000_000_000,
        "the body's end was awaited until the request's timeout"
    );
}

#[tokio::test]
async fn an_error_inside_the_stream_is_the_servers() {
    let error =
        chunk("data: {\"error\":{\"message\":\"out of memory for sk-test-secret\",\"code\":500}}\n\n");
    let record = told(format!("{STREAM_HEAD}{}{error}{}{LAST_CHUNK}", token("a"), done())).await;
    assert_eq!(ended(&record), (Outcome::Failed, "error_event"));
    assert_eq!((record.error_detail.as_str(), record.content_chunks), ("out of memory for ***", 1));
    let whole = reply("200 OK", "application/json", "{\"error\":\"busy\"}");
    assert_eq!(ended(&told(whole).await), (Outcome::Failed, "error_event"));
}

#[tokio::test]
async fn what_is_no_reply_is_a_bad_reply() {
    let big_header = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let many_headers = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(500));
    let not_json = format!("{STREAM_HEAD}{}{LAST_CHUNK}", chunk("data: hello\n\n"));
    let cut_json = format!("{STREAM_HEAD}{}{LAST_CHUNK}", chunk("data: {\"choices\":[{\"del\n\n"));
    let too_large = format!("{STREAM_HEAD}{}", chunk(&"x".repeat(2 << 20)));
    let bad_chunk = format!("{STREAM_HEAD}{}zz\r\nhello", token("a"));
    for (what, bytes) in [
        ("big header", big_header),
        ("many headers", many_headers),
        ("not json", not_json),
        ("cut json", cut_json),
        ("too large", too_large),
        ("bad chunk", bad_chunk),
        ("no http", "SSH-2.0-OpenSSH_9.6\r\n\r\n".to_owned()),
        ("html", reply("200 OK", "text/html; charset=utf-8", "<html>")),
        ("json", reply("200 OK", "application/json", "{\"choices\":[]}")),
        ("no event", reply("200 OK", "text/plain", "hello")),
        ("empty", reply("200 OK", "text/event-stream", "")),
    ] {
        let record = told(bytes).await;
        assert_eq!(ended(&record), (Outcome::Failed, "malformed"), "{what}");
        let no_head = ["big header", "many headers", "no http"].contains(&what);
        assert_eq!(record.http_status.is_none(), no_head, "{what}");
    }
}

/// Says `head`, then `piece` for as long as anyone listens.
async fn endless(head: &'static str, piece: String) -> RequestRecord {
    let server = Server::start(move |mut conn| {
        let piece = piece.clone();
        async move {
            conn.ask().await;
            conn.say(head).await;
            while conn.try_say(&piece).await {}
        }
    })
    .await;
    send(&mut client(&server.target())).await
}

#[tokio::test]
async fn a_server_that_never_ends_is_given_up_on_at_a_limit() {
    let line = "x".repeat(64 << 10);
    let chunked = format!("{:x}\r\n{line}\r\n", line.len());
    let head = "HTTP/1.1 200 OK\r\n";
    for (what, head, piece) in [
        ("a line without an end", STREAM_HEAD, chunked),
        ("headers", head, "name: value\r\n".repeat(500)),
        ("a header", "HTTP/1.1 200 OK\r\nname: ", line.clone()),
        ("interim replies", "", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(500)),
        ("an extension", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", line.clone()),
        (
            "trailers",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
            "name: value\r\n".repeat(500),
        ),
        ("no chunk size", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "0".repeat(1000)),
        ("a status line", "HTTP/1.1 200 ", line),
    ] {
        let record = endless(head, piece).await;
        assert_eq!(ended(&record), (Outcome::Failed, "malformed"), "{what}: {}", record.error_detail);
    }
}

#[tokio::test]
async fn an_http_error_is_told_with_the_servers_words_and_keeps_the_connection() {
    let body = "{\"error\":{\"message\":\"bad key sk-test-secret\"}}";
    let server = Server::always(reply("401 Unauthorized", "application/json", body), false).await;
    let mut client = client(&server.target());
    for reused in [false, true] {
        let record = send(&mut client).await;
        assert_eq!(ended(&record), (Outcome::Failed, "http_status"));
        assert_eq!((record.http_status, record.reused_connection), (Some(401), reused));
        assert_eq!(record.error_detail, "HTTP 401: bad key ***");
    }
    for name in ["llama-cpp-error-400", "vllm-0.32-error-400", "vllm-0.32-error-404"] {
        let record = told(testdata::whole(name)).await;
        assert_eq!(ended(&record), (Outcome::Failed, "http_status"), "{name}");
        assert!(record.error_detail.len() > 40, "{}", record.error_detail);
    }
    let moved = told("HTTP/1.1 302 Found\r\nlocation: http://evil/\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!((ended(&moved), moved.error_detail.as_str()), ((Outcome::Failed, "http_status"), "HTTP 302"));
    // It stays open: only a reader that gives up answers before the request's timeout.
    let endless = format!("HTTP/1.1 500 No\r\ncontent-length: 9999999999\r\n\r\n{}", "x".repeat(1 << 20));
    let server = Server::always(endless, false).await;
    let record = send(&mut self::client(&server.target())).await;
    assert_eq!((ended(&record), record.http_status), ((Outcome::Failed, "http_status"), Some(500)));
}

#[tokio::test]
async fn a_reply_that_is_not_streamed_has_no_token_times() {
    let with = |usage: &str| {
        let body = format!(
            "{{\"choices\":[{{\"message\":{{\"content\":\"two words\"}},\"finish_reason\":\"stop\"}}]{usage}}}"
        );
        reply("200 OK", "application/json", &body)
    };
    let ask = async |bytes: String| {
        let server = Server::always(bytes, false).await;
        send(&mut client(&v1::Target { streaming: false, ..server.target() })).await
    };
    let record = ask(with(",\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":4}")).await;
    assert_eq!(ended(&record), (Outcome::Completed, ""));
    assert_eq!((record.output_tokens, record.text_len), (Some(4), 9));
    assert_eq!((record.first_token_raw_ns, record.content_chunks), (None, 0));
    let record = ask(with("")).await;
    assert_eq!((record.output_tokens, record.token_source()), (Some(2), TokenSource::Words));
    let record = ask(reply("200 OK", "application/json", "{\"choices\":[")).await;
    assert_eq!(ended(&record), (Outcome::Failed, "malformed"));
    let text = "x".repeat(crate::reply::MAX_REPLY);
    let record =
        ask(reply("200 OK", "application/json", &format!("{{\"choices\":[{{\"text\":\"{text}\"}}]}}"))).await;
    assert_eq!(ended(&record), (Outcome::Failed, "malformed"));
    assert!(record.error_detail.contains("larger than"), "{}", record.error_detail);
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{}";
    let server = Server::always(cut, true).await;
    let record = send(&mut client(&v1::Target { streaming: false, ..server.target() })).await;
    assert_eq!(ended(&record), (Outcome::Failed, "early_end"));
}

#[tokio::test]
async fn a_connection_that_dies_in_reuse_is_stale_and_nothing_is_sent_twice() {
    let server = Server::start(|mut conn| async move {
        conn.ask().await;
        conn.say(stream(&["a"])).await;
        if conn.number == 0 {
            // The second request is read whole and then left without a byte of reply.
            conn.ask().await;
            return;
        }
        conn.until_gone().await;
    })
    .await;
    let mut client = client(&server.target());
    assert_eq!(ended(&send(&mut client).await), (Outcome::Completed, ""));
    let stale = send(&mut client).await;
    assert_eq!((ended(&stale), stale.reused_connection), ((Outcome::Failed, "stale_connection"), true));
    assert!(stale.sent_raw_ns.is_some() && stale.headers_raw_ns.is_none());
    assert_eq!((server.connections(), server.requests()), (1, 2));
    for _ in 0..2 {
        let record = send(&mut client).await;
        assert_eq!((ended(&record), record.reused_connection), ((Outcome::Completed, ""), false));
    }
    assert_eq!((server.connections(), server.requests()), (3, 4));
}

#[tokio::test]
async fn a_break_after_the_first_byte_of_a_reused_connection_is_not_stale() {
    let server = Server::start(|mut conn| async move {
        conn.ask().await;
        conn.say(stream(&["a"])).await;
        conn.ask().await;
        conn.say("HTTP/1.1 2").await;
    })
    .await;
    let mut client = client(&server.target());
    send(&mut client).await;
    let record = send(&mut client).await;
    assert_eq!((ended(&record), record.reused_connection), ((Outcome::Failed, "early_end"), true));
}

#[tokio::test]
async fn a_connection_that_ended_while_idle_is_replaced_without_a_failure() {
    let server = Server::always(stream(&["a"]), true).await;
    let mut client = client(&server.target());
    for connections in 1..=3 {
        let record = send(&mut client).await;
        assert_eq!((ended(&record), record.reused_connection), ((Outcome::Completed, ""), false));
        assert_eq!(server.connections(), connections);
        assert!(client.closes_within(Duration::from_secs(20)).await);
    }
}

/// The runtime learns of a connection's end only when it turns; between two requests of a closed loop it does not.
#[tokio::test]
async fn an_end_that_only_the_kernel_knows_of_is_noticed() {
    let (closed, wait_closed) = std::sync::mpsc::channel();
    let (port, wait_target) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::start(move |mut conn| {
                let closed = closed.clone();
                async move {
                    conn.ask().await;
                    conn.say(stream(&["a"])).await;
                    // Late enough that the client has read the reply's end by itself.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    drop(conn);
                    closed.send(()).unwrap();
                }
            })
            .await;
            port.send(server.target()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let mut client = client(&wait_target.recv().unwrap());
    for _ in 0..2 {
        let record = send(&mut client).await;
        assert_eq!((ended(&record), record.reused_connection), ((Outcome::Completed, ""), false));
        // This blocks the runtime, and is meant to.
        wait_closed.recv().unwrap();
    }
}

#[tokio::test]
async fn fresh_connections_are_never_reused() {
    let server = Server::always(stream(&["a"]), false).await;
    let target = Arc::new(Target::parse(&server.target()).unwrap());
    let mut client = Client::new(target, true);
    for connections in 1..=3 {
        assert!(!send(&mut client).await.reused_connection);
        assert_eq!(server.connections(), connections);
    }
}

#[tokio::test]
async fn cancel_keeps_what_was_measured_and_drops_the_connection() {
    let (gone, seen_gone) = tokio::sync::oneshot::channel();
    let gone = Arc::new(Mutex::new(Some(gone)));
    let cancel = Cancel::new();
    let stop = cancel.clone();
    let server = Server::start(move |mut conn| {
        let (gone, stop) = (gone.lock().unwrap().take(), stop.clone());
        async move {
            conn.ask().await;
            conn.say(format!("{STREAM_HEAD}{}{}", token("a"), token("b"))).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            stop.cancel();
            let _ = gone.unwrap().send(conn.until_gone().await);
        }
    })
    .await;
    let record = client(&server.target()).request(attempt(), &cancel).await;
    check_stamps(&record);
    assert_eq!(ended(&record), (Outcome::Incomplete, "cancelled"));
    assert_eq!((record.content_chunks, record.http_status), (2, Some(200)));
    assert!(record.sent_raw_ns.is_some() && record.first_token_raw_ns.is_some());
    assert!(seen_gone.await.unwrap());
    let before = client(&server.target()).request(attempt(), &cancel).await;
    assert_eq!((ended(&before), before.connected_raw_ns), ((Outcome::Incomplete, "cancelled"), None));
}

#[tokio::test]
async fn a_silent_server_is_a_timeout() {
    let server = Server::start(|mut conn| async move {
        conn.ask().await;
        if conn.number == 1 {
            conn.say(format!("{STREAM_HEAD}{}", token("a"))).await;
        }
        conn.until_gone().await;
    })
    .await;
    let target = v1::Target { request_timeout_ns: 400_000_000, ..server.target() };
    let silent = send(&mut client(&target)).await;
    assert_eq!(ended(&silent), (Outcome::Failed, "timeout"));
    assert!(silent.sent_raw_ns.is_some() && silent.headers_raw_ns.is_none());
    assert!(silent.done_raw_ns - silent.intended_raw_ns >= 400_000_000);
    let stalled = send(&mut client(&target)).await;
    assert_eq!((ended(&stalled), stalled.content_chunks), ((Outcome::Failed, "timeout"), 1));
}

#[tokio::test]
async fn no_connection_is_a_connect_failure() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base_url = format!("http://127.0.0.1:{port}");
    let server = Server::always("", true).await;
    let refused = send(&mut client(&v1::Target { base_url, ..server.target() })).await;
    assert_eq!(ended(&refused), (Outcome::Failed, "connect_refused"));
    assert!(refused.error_detail.contains(&port.to_string()), "{}", refused.error_detail);
    assert_eq!((refused.connected_raw_ns, refused.sent_raw_ns), (None, None));
    let base_url = "http://no-such-host.invalid:80".to_owned();
    let unknown = send(&mut client(&v1::Target { base_url, ..server.target() })).await;
    assert_eq!(ended(&unknown), (Outcome::Failed, "resolve"));
    assert!(unknown.error_detail.contains("no-such-host.invalid"), "{}", unknown.error_detail);
}

#[tokio::test]
async fn sent_is_when_the_last_byte_went_out() {
    let server = Server::start(|mut conn| async move {
        // More than the socket buffers hold: until it is read, the request is not sent.
        tokio::time::sleep(Duration::from_millis(300)).await;
        conn.ask().await;
        conn.say(stream(&["a"])).await;
    })
    .await;
    let body = Bytes::from(vec![b'x'; 32 << 20]);
    let large = Attempt { body, ..attempt() };
    let record = client(&server.target()).request(large, &Cancel::new()).await;
    check_stamps(&record);
    assert_eq!(ended(&record), (Outcome::Completed, ""));
    assert!(record.sent_raw_ns.unwrap() - record.connected_raw_ns.unwrap() >= 200_000_000, "{record:?}");
}

#[tokio::test]
async fn of_the_chunks_of_one_read_only_the_newest_is_dated() {
    let server = Server::start(|mut conn| async move {
        while conn.ask().await.is_some() {
            conn.say(format!("{STREAM_HEAD}{}{}{}", token("a"), token("b"), token("c"))).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            conn.say(format!("{}{}{}{LAST_CHUNK}", token("d"), finish(), done())).await;
        }
    })
    .await;
    let mut client = client(&server.target());
    let mut dated = Vec::new();
    // The kernel begins to stamp a moment after it was first asked to.
    for _ in 0..200 {
        let record = send(&mut client).await;
        assert_eq!(record.content_chunks, 4);
        dated = arrivals::decode_waits(&record.socket_waits).map(|wait| wait.is_some()).collect();
        if dated.last() == Some(&true) && dated.len() == 4 && dated[2] {
            break;
        }
    }
    assert_eq!(dated, [false, false, true, true]);
}
