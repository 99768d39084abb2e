//! The stub against a client of the standard library: its bytes are HTTP and server-sent events, and what it knows is what
//! the client saw.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use tailcliff_proto::clock::HostClock;

use super::*;

/// A stub on a thread; it ends when `stop` is dropped.
struct Running {
    address: std::net::SocketAddr,
    stop: UnixStream,
    thread: std::thread::JoinHandle<Truth>,
}

impl Running {
    fn start(mode: Mode, tokens: u32, keep_bytes: usize) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let config = Config { mode, tokens, keep_bytes };
        let thread = std::thread::spawn(move || run(&config, listener, &[stopped.as_fd()]).unwrap());
        Running { address, stop, thread }
    }

    fn end(self) -> Truth {
        drop(self.stop);
        self.thread.join().unwrap()
    }

    fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        Client(BufReader::new(stream))
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn ask(&mut self, id: &str, max_tokens: u32) {
        let body = format!(r#"{{"model":"stub","max_tokens":{max_tokens},"stream":true}}"#);
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all(format!("{head}{body}").as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.strip_suffix("\r\n").unwrap_or(&line).to_owned()
    }

    /// Status and headers.
    fn head(&mut self) -> Vec<String> {
        let mut head = Vec::new();
        loop {
            match self.line() {
                end if end.is_empty() => return head,
                line => head.push(line.to_ascii_lowercase()),
            }
        }
    }

    /// The events of a chunked reply, each with the time that it was seen at.
    fn events(&mut self) -> Vec<(i64, String)> {
        assert!(self.head().contains(&"transfer-encoding: chunked".to_owned()));
        let mut events = Vec::new();
        loop {
            let length = usize::from_str_radix(&self.line(), 16).unwrap();
            let mut chunk = vec![0; length + 2];
            self.0.read_exact(&mut chunk).unwrap();
            assert!(chunk.ends_with(b"\r\n"));
            if length == 0 {
                return events;
            }
            let text = String::from_utf8(chunk[..length].to_vec()).unwrap();
            let data = text.strip_prefix("data: ").and_then(|t| t.strip_suffix("\n\n")).unwrap();
            events.push((HostClock.now(), data.to_owned()));
        }
    }
}

/// What our own parser reads in the events: characters of each, and the tokens of `usage`.
fn read(events: &[(i64, String)]) -> (Vec<i64>, Option<u64>) {
    let (last, rest) = events.split_last().unwrap();
    assert_eq!(last.1, "[DONE]");
    let mut tokens = Vec::new();
    let mut usage = None;
    for (at, data) in rest {
        let json: serde_json::Value = serde_json::from_str(data).unwrap();
        usage = json["usage"]["completion_tokens"].as_u64().or(usage);
        let content = json["choices"][0]["delta"]["content"].as_str().unwrap_or("");
        if !content.is_empty() {
            tokens.push(*at);
        }
    }
    (tokens, usage)
}

#[test]
fn a_burst_is_a_valid_stream_of_as_many_tokens_as_were_asked_for() {
    let stub = Running::start(Mode::Burst, 128, KEEP_BYTES);
    let mut client = stub.client();
    for (id, asked, given) in [("a", 128, 128), ("b", 3, 3), ("c", 1, 1), ("d", 4096, 128)] {
        client.ask(id, asked);
        let (tokens, usage) = read(&client.events());
        assert_eq!((tokens.len() as u64, usage), (given, Some(given)), "{id}");
    }
    let truth = stub.end();
    let seen: Vec<_> =
        truth.served.iter().map(|s| (s.id.as_str(), s.tokens(), s.writes.len(), s.whole)).collect();
    assert_eq!(seen, [("a", 128, 1, true), ("b", 3, 1, true), ("c", 1, 1, true), ("d", 128, 1, true)]);
}

#[test]
fn what_a_paced_stub_knows_frames_what_its_clients_saw() {
    const TTFT: i64 = 20_000_000;
    const ITL: i64 = 2_000_000;
    let stub = Running::start(Mode::Paced { ttft_ns: TTFT, itl_ns: ITL, spread: true }, 16, KEEP_BYTES);
    let (clients, mut seen) = (8, std::collections::BTreeMap::new());
    let threads: Vec<_> = (0..clients)
        .map(|n| {
            let mut client = stub.client();
            std::thread::spawn(move || {
                let one = |i| {
                    let id = format!("{n}-{i}");
                    let sent = HostClock.now();
                    client.ask(&id, 16);
                    (id, sent, read(&client.events()).0)
                };
                (0..3).map(one).collect::<Vec<_>>()
            })
        })
        .collect();
    for (id, sent, tokens) in threads.into_iter().flat_map(|t| t.join().unwrap()) {
        seen.insert(id, (sent, tokens));
    }
    let truth = stub.end();
    assert_eq!((truth.served.len(), truth.lost), (clients * 3, 0));
    for served in truth.served {
        let (sent, tokens) = &seen[&served.id];
        assert!(*sent <= served.read_ns, "read before it was sent");
        assert_eq!((served.tokens(), served.writes.len(), tokens.len(), served.whole), (16, 16, 16, true));
        let first = served.first_write_ns().unwrap() - served.read_ns;
        assert!(first >= TTFT, "a token is never early: {first}");
        let mut at = served.read_ns;
        for (i, ((gap, _), seen)) in served.writes.iter().zip(tokens).enumerate() {
            at += *gap as i64;
            assert!(at <= *seen, "token {i} was seen before it was written");
            assert!(at >= served.read_ns + TTFT + i as i64 * ITL, "token {i} was written before it was due");
        }
        assert_eq!(at, served.last_write_ns());
    }
}

#[test]
fn a_plain_reply_has_its_length_and_anything_else_gets_the_models() {
    let stub = Running::start(Mode::Plain, 16, KEEP_BYTES);
    let mut client = stub.client();
    let body = |client: &mut Client| -> serde_json::Value {
        let head = client.head();
        let length = head.iter().find_map(|l| l.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        client.0.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body).unwrap()
    };
    client.ask("a", 5);
    let reply = body(&mut client);
    assert_eq!(reply["choices"][0]["message"]["content"], " token token token token token");
    assert_eq!(reply["usage"]["completion_tokens"], 5);
    client.0.get_mut().write_all(b"GET /v1/models HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    assert_eq!(body(&mut client)["data"][0]["id"], "stub");
    assert_eq!(stub.end().served.len(), 1, "a question for models is no request of a load");
}

#[test]
fn requests_sent_at_once_and_in_pieces_are_answered_in_turn() {
    let stub = Running::start(Mode::Paced { ttft_ns: 1_000_000, itl_ns: 0, spread: false }, 4, KEEP_BYTES);
    let mut client = stub.client();
    client.ask("a", 4);
    client.ask("b", 2);
    let (a, b) = (read(&client.events()).0.len(), read(&client.events()).0.len());
    assert_eq!((a, b), (4, 2));
    for byte in b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}" {
        client.0.get_mut().write_all(&[*byte]).unwrap();
    }
    assert_eq!(read(&client.events()).0.len(), 4);
    assert_eq!(stub.end().served.len(), 3);
}

#[test]
fn hostile_clients_are_cut_off_and_others_served_on() {
    let stub = Running::start(Mode::Burst, 2, KEEP_BYTES);
    let mut endless = stub.client();
    // It may be cut off before it has said everything.
    let _cut = endless.0.get_mut().write_all(&vec![b'a'; 1 << 20]);
    let mut rest = Vec::new();
    let _reset = endless.0.read_to_end(&mut rest);
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 413"));
    // Gone in the middle of its reply.
    stub.client().ask("gone", 2);
    let mut client = stub.client();
    client.ask("a", 2);
    assert_eq!(read(&client.events()).0.len(), 2);
    assert!(stub.end().served.iter().any(|s| s.id == "a" && s.whole));
}

#[test]
fn a_client_that_does_not_read_gets_the_rest_when_it_does() {
    let stub = Running::start(Mode::Burst, 60_000, KEEP_BYTES);
    let mut slow = stub.client();
    slow.ask("slow", 60_000);
    let mut other = stub.client();
    other.ask("other", 1);
    assert_eq!(read(&other.events()).0.len(), 1, "one that does not read holds nobody up");
    assert_eq!(read(&slow.events()).0.len(), 60_000);
    drop(stub);
}

#[test]
fn truth_that_does_not_fit_is_counted() {
    let stub = Running::start(Mode::Burst, 2, 1_000);
    let mut client = stub.client();
    for i in 0..50 {
        client.ask(&i.to_string(), 2);
        client.events();
    }
    let truth = stub.end();
    assert!(truth.lost > 0 && truth.served.len() as u64 + truth.lost == 50, "{truth:?}");
}
