//! The floor: the least that a streaming client can cost. One thread, non-blocking sockets, epoll, no HTTP library: what
//! tailcliff's own client is measured against.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

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
    /// `max_tokens` of each.
    pub max_tokens: usize,
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
        format!(
            r#"{{"model":"{}","max_tokens":{},"stream":true,"stream_options":{{"include_usage":true}},"messages":[{{"role":"user","content":"{number}-{request} asks what the load is when it rises and falls and then rises once again"}}]}}"#,
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
    /// What one read takes: zeroed once, not for every read.
    chunk: Box<[u8]>,
    number: usize,
    /// Requests sent.
    sent: usize,
    current: Record,
    lines: Lines,
}

/// Drives the load to its end.
///
/// # Errors
/// When a connection fails or the server closes one early.
pub fn run(address: SocketAddr, load: &Load) -> io::Result<Vec<Record>> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let start = now();
    let mut connections = Vec::new();
    for number in 0..load.connections {
        let mut connection = Connection::open(address, number)?;
        epoll.add(&connection.stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        connection.send(start, load)?;
        connections.push(connection);
    }
    let mut records = Vec::new();
    let mut events = vec![EpollEvent::empty(); 256];
    while records.len() < load.connections * load.requests_each {
        let ready = epoll.wait(&mut events, EpollTimeout::from(10_000u16))?;
        if ready == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no byte for 10 s"));
        }
        for event in &events[..ready] {
            let i = event.data() as usize;
            if let Some(done) = connections[i].read()? {
                let free = done.done_ns;
                records.push(done);
                connections[i].send(free, load)?;
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
        let (chunk, sent) = (vec![0; 16_384].into_boxed_slice(), 0);
        Ok(Self { stream, chunk, number, sent, current: Record::default(), lines: Lines::default() })
    }

    /// Sends the next request, if one is left; the stream has been free for it since `intended_ns`.
    fn send(&mut self, intended_ns: i64, load: &Load) -> io::Result<()> {
        if self.sent == load.requests_each {
            return Ok(());
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
        self.current = Record { request_id, request, intended_ns, sent_ns: now(), ..Record::default() };
        // A request is far smaller than an empty socket buffer.
        self.stream.write_all(bytes.as_bytes())
    }

    /// Reads what is there; the record when its `[DONE]` has come.
    fn read(&mut self) -> io::Result<Option<Record>> {
        let mut done = false;
        loop {
            match self.stream.read(&mut self.chunk) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the server closed a connection",
                    ));
                }
                Ok(n) => {
                    let at = now();
                    done |= self.lines.take(&self.chunk[..n], at, &mut self.current);
                    // Level-triggered: what is left would be told again, so a read that finds nothing is saved.
                    if n < self.chunk.len() {
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

/// The lines of a stream, over whatever reads they come in.
#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
}

impl Lines {
    /// Notes in `record` what came at `at`; true when the end has come.
    fn take(&mut self, bytes: &[u8], at: i64, record: &mut Record) -> bool {
        self.buffer.extend_from_slice(bytes);
        let mut done = false;
        let mut used = 0;
        while let Some(end) = self.buffer[used..].iter().position(|&b| b == b'\n') {
            let line = &self.buffer[used..used + end];
            used += end + 1;
            if line.starts_with(b"data: [DONE]") {
                record.done_ns = at;
                done = true;
            } else if line.starts_with(b"data: ") && has_content(line) {
                record.arrivals_ns.push(at);
            }
        }
        self.buffer.drain(..used);
        done
    }
}

/// A chunk with a `"content":"…"` that is not empty: all that a floor needs to know of JSON.
fn has_content(line: &[u8]) -> bool {
    const KEY: &[u8] = b"\"content\":\"";
    line.windows(KEY.len()).position(|w| w == KEY).is_some_and(|at| line.get(at + KEY.len()) != Some(&b'"'))
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
