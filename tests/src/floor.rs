//! The floor: the least that a streaming client can cost. One thread, non-blocking sockets, epoll, no HTTP library: what
//! tailcliff's own client is measured against.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use memchr::{memmem, memrchr};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::time::{ClockId, clock_gettime};

/// What a bare client sends: streamed chat requests, in closed loop.
#[derive(Clone, Debug)]
pub struct Load {
    /// What request ids begin with; `None` sends no ids, so that a truth log's readers pass over the requests.
    pub name: Option<&'static str>,
    /// Model name.
    pub model: String,
    /// Connections, each with one request in flight.
    pub connections: usize,
    /// Requests on each.
    pub requests_each: usize,
    /// No request is begun later than this after the start, ns.
    pub duration_ns: Option<i64>,
    /// `max_tokens` of each.
    pub max_tokens: usize,
    /// Whether the bodies ask for streams.
    pub streaming: bool,
}

/// One request, stamps in ns of `CLOCK_MONOTONIC_RAW`.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Sent as `x-request-id`.
    pub request_id: String,
    /// Number within its stream, from 0.
    pub request: usize,
    /// When the stream was free for it: the start, before connecting, or the end of the request before.
    pub intended_ns: i64,
    /// Before the write.
    pub sent_ns: i64,
    /// Read that held each chunk with content.
    pub arrivals_ns: Vec<i64>,
    /// Read that held `[DONE]`.
    pub done_ns: i64,
}

impl Load {
    /// The body of a request: the fields that tailcliff's own have, and a prompt of as many words as `--input-len 16`.
    pub fn body(&self, number: usize, request: usize) -> String {
        let stream = match self.streaming {
            true => r#""stream":true,"stream_options":{"include_usage":true}"#,
            false => r#""stream":false"#,
        };
        format!(
            r#"{{"model":"{}","max_tokens":{},{stream},"messages":[{{"role":"user","content":"{number}-{request} asks what the load is when it rises and falls and then rises once again"}}]}}"#,
            self.model, self.max_tokens
        )
    }

    /// The `x-request-id` of a request, if any; `number` is its stream, `request` counts within it.
    pub(crate) fn request_id(&self, number: usize, request: usize) -> Option<String> {
        self.name.map(|name| format!("{name}-{number}-{request}"))
    }
}

struct Connection {
    stream: TcpStream,
    number: usize,
    /// Requests sent.
    sent: usize,
    current: Record,
    scan: Scan,
}

/// Drives the load to its end.
///
/// # Errors
/// When a connection fails or the server closes one early.
pub fn run(address: SocketAddr, load: &Load) -> io::Result<Vec<Record>> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let start = now();
    // One for all: zeroed once, and no memory of a stream's own.
    let mut chunk = vec![0; READ_BYTES].into_boxed_slice();
    let mut connections = Vec::new();
    for number in 0..load.connections {
        let mut connection = Connection::open(address, number)?;
        epoll.add(&connection.stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        connection.send(start, start, load)?;
        connections.push(connection);
    }
    let (mut records, mut open) = (Vec::new(), load.connections);
    let mut events = vec![EpollEvent::empty(); 256];
    while open > 0 {
        let ready = epoll.wait(&mut events, EpollTimeout::from(10_000u16))?;
        if ready == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no byte for 10 s"));
        }
        for event in &events[..ready] {
            let connection = &mut connections[event.data() as usize];
            if let Some(done) = connection.read(&mut chunk)? {
                let free = done.done_ns;
                records.push(done);
                if !connection.send(free, start, load)? {
                    open -= 1;
                }
            }
        }
    }
    Ok(records)
}

impl Connection {
    fn open(address: SocketAddr, number: usize) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, number, sent: 0, current: Record::default(), scan: Scan::default() })
    }

    /// Sends the next request, if one is left; the stream has been free for it since `intended_ns`.
    fn send(&mut self, intended_ns: i64, start_ns: i64, load: &Load) -> io::Result<bool> {
        let is_over = load.duration_ns.is_some_and(|ns| intended_ns - start_ns > ns);
        if is_over || self.sent == load.requests_each {
            return Ok(false);
        }
        let request = self.sent;
        self.sent += 1;
        let (body, id) = (load.body(self.number, request), load.request_id(self.number, request));
        let id_header = id.as_ref().map(|id| format!("x-request-id: {id}\r\n")).unwrap_or_default();
        let bytes = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: floor\r\ncontent-type: application/json\r\n{id_header}\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let request_id = id.unwrap_or_default();
        self.scan = Scan::new(load.streaming);
        self.current = Record { request_id, request, intended_ns, sent_ns: now(), ..Record::default() };
        // A request is far smaller than an empty socket buffer.
        self.stream.write_all(bytes.as_bytes())?;
        Ok(true)
    }

    /// Reads what is there; the record when its end has come.
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<Option<Record>> {
        let mut done = false;
        loop {
            match self.stream.read(chunk) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the server closed a connection",
                    ));
                }
                Ok(n) => {
                    let at = now();
                    done |= self.scan.take(&chunk[..n], at, &mut self.current);
                    // Level-triggered: what is left would be told again, so a read that finds nothing is saved.
                    if n < chunk.len() {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done.then(|| std::mem::take(&mut self.current)))
    }
}

/// What one read takes.
const READ_BYTES: usize = 64 << 10;
/// Before the text of each token, `"` behind it for a chunk without any: all that a floor needs to know of JSON.
const KEY: &[u8] = b"\"content\":\"";
const DONE: &[u8] = b"data: [DONE]";

/// Looks for tokens and for the end in what comes, over whatever reads it comes in.
#[derive(Debug, Default)]
struct Scan {
    streaming: bool,
    /// A line whose end has not come.
    tail: Vec<u8>,
    /// Bytes of a reply that is not streamed that are yet to come; `None` before its head.
    left: Option<usize>,
}

impl Scan {
    fn new(streaming: bool) -> Scan {
        Scan { streaming, ..Scan::default() }
    }

    /// Notes in `record` what came at `at`; true when the end has come.
    fn take(&mut self, bytes: &[u8], at: i64, record: &mut Record) -> bool {
        let done = if self.streaming { self.take_stream(bytes, at, record) } else { self.take_plain(bytes) };
        if done {
            record.done_ns = at;
        }
        done
    }

    /// Whole lines are searched, however many there are; the beginning of one waits for its end.
    fn take_stream(&mut self, bytes: &[u8], at: i64, record: &mut Record) -> bool {
        if self.tail.is_empty() {
            let end = lines_end(bytes);
            self.tail.extend_from_slice(&bytes[end..]);
            return search(&bytes[..end], at, record);
        }
        self.tail.extend_from_slice(bytes);
        let end = lines_end(&self.tail);
        let done = search(&self.tail[..end], at, record);
        self.tail.drain(..end);
        done
    }

    fn take_plain(&mut self, bytes: &[u8]) -> bool {
        let mut bytes = bytes;
        let left = match self.left {
            Some(left) => left,
            None => {
                let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return false };
                let digits = memmem::find(&bytes[..end], b"ontent-length: ").map(|i| &bytes[i + 15..end]);
                let digits =
                    digits.unwrap_or_default().split(|b| !b.is_ascii_digit()).next().unwrap_or_default();
                bytes = &bytes[end + 4..];
                std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok()).unwrap_or(0)
            }
        };
        let left = left.saturating_sub(bytes.len());
        self.left = Some(left);
        left == 0
    }
}

fn lines_end(bytes: &[u8]) -> usize {
    memrchr(b'\n', bytes).map_or(0, |at| at + 1)
}

/// Tokens, and whether the end is there.
fn search(lines: &[u8], at: i64, record: &mut Record) -> bool {
    for hit in memmem::find_iter(lines, KEY) {
        if lines.get(hit + KEY.len()) != Some(&b'"') {
            record.arrivals_ns.push(at);
        }
    }
    // It is the last thing: no need to look for it in all of a burst.
    memmem::find(&lines[lines.len().saturating_sub(64)..], DONE).is_some()
}

/// CPU time of the calling thread, ns: all that a client of one thread takes.
///
/// # Errors
/// As the system says.
pub fn cpu_ns() -> io::Result<i64> {
    read_clock(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// The stamp of a client that shares no code with tailcliff: ns of `CLOCK_MONOTONIC_RAW`.
pub(crate) fn now() -> i64 {
    read_clock(ClockId::CLOCK_MONOTONIC_RAW).unwrap_or(0)
}

fn read_clock(id: ClockId) -> io::Result<i64> {
    let time = clock_gettime(id)?;
    Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}
