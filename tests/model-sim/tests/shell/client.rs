//! A server on loopback in a thread of its own, and the barest client: blocking sockets and string searches.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use model_sim::{Config, Timing, Truth, TruthRecord};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub(crate) const MS: i64 = 1_000_000;

/// Tokens 2 ms after arrival, then every millisecond.
pub(crate) fn quick() -> Config {
    Config { timing: Timing::Paced { ttft_ns: 2 * MS, itl_ns: MS }, keep_truth: 1000, ..Config::default() }
}

/// The quick server with these `--fault` flags.
pub(crate) fn faulty(flags: &[&str]) -> Config {
    Config { faults: flags.iter().map(|f| f.parse().unwrap()).collect(), ..quick() }
}

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    shutdown: CancellationToken,
    thread: JoinHandle<Truth>,
}

impl Server {
    pub(crate) fn start(config: Config) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                model_sim::serve(listener, config, stop).await.unwrap()
            })
        });
        Self { addr, shutdown, thread }
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Client { stream, buffer: Vec::new() }
    }

    pub(crate) fn stop(self) -> Truth {
        self.shutdown.cancel();
        self.thread.join().unwrap()
    }

    /// Stops, and gives the one record there must be.
    pub(crate) fn stop_one(self) -> TruthRecord {
        let mut records = self.stop().records;
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    }
}

/// An answer: its status, its head in lower case, and its body without HTTP's chunk framing.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    /// The connection ended before the body did.
    pub(crate) cut: bool,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The payloads of a stream's events.
    pub(crate) fn events(&self) -> Vec<&str> {
        self.body.split("\n\n").filter_map(|e| e.strip_prefix("data: ")).collect()
    }

    /// What a stream said, its text and its reasoning.
    pub(crate) fn content(&self) -> (Vec<String>, Vec<String>) {
        let (mut text, mut reasoning) = (Vec::new(), Vec::new());
        for event in self.events().iter().filter_map(|e| serde_json::from_str::<Value>(e).ok()) {
            let choice = &event["choices"][0];
            let said =
                choice["delta"]["content"].as_str().or(choice["text"].as_str()).filter(|s| !s.is_empty());
            text.extend(said.map(str::to_owned));
            reasoning.extend(choice["delta"]["reasoning_content"].as_str().map(str::to_owned));
        }
        (text, reasoning)
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn post(&mut self, path: &str, body: &str) -> Answer {
        self.send(post(path, body, ""));
        self.answer()
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
        self.answer()
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Answer {
        let head = self.until(b"\r\n\r\n").expect("no answer").to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let (body, cut) = match header(&head, "content-length") {
            Some(length) => self.sized(length.parse().unwrap()),
            None => self.chunks(),
        };
        Answer { status, head, body, cut }
    }

    /// The server has closed the connection, and nothing is left on it.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.more()
    }

    pub(crate) fn head(&mut self) -> String {
        self.until(b"\r\n\r\n").expect("no head")
    }

    fn sized(&mut self, length: usize) -> (String, bool) {
        while self.buffer.len() < length {
            if !self.more() {
                return (self.take(self.buffer.len()), true);
            }
        }
        (self.take(length), false)
    }

    pub(crate) fn chunks(&mut self) -> (String, bool) {
        let mut body = String::new();
        loop {
            let Some(size) = self.until(b"\r\n") else { return (body, true) };
            let size = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
            let (chunk, cut) = self.sized(size + 2);
            body.push_str(chunk.trim_end_matches("\r\n"));
            if size == 0 || cut {
                return (body, cut);
            }
        }
    }

    fn until(&mut self, mark: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|w| w == mark) {
                return Some(self.take(at + mark.len()));
            }
            if !self.more() {
                return None;
            }
        }
    }

    fn take(&mut self, length: usize) -> String {
        String::from_utf8(self.buffer.drain(..length).collect()).unwrap()
    }

    /// Reads once; false at the end. A silence of 5 s fails the test.
    fn more(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(n) => {
                self.buffer.extend_from_slice(&bytes[..n]);
                n > 0
            }
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(e) => panic!("{e}"),
        }
    }
}

pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
}

pub(crate) fn post(path: &str, body: &str, headers: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nx-request-id: r1\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

/// The body of a streamed chat request for five tokens, with `more` fields.
pub(crate) fn chat(more: &str) -> String {
    format!(
        r#"{{"model":"sim","messages":[{{"role":"user","content":"one two three"}}],"max_tokens":5,"stream":true{more}}}"#
    )
}

pub(crate) const CHAT: &str = "/v1/chat/completions";
