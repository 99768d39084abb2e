//! The floor: the least that a streaming client can cost. One thread, non-blocking sockets, epoll, no HTTP library: what
//! tailcliff's own client is measured against.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::time::{ClockId, clock_gettime};

/// What the floor client sends: a streamed chat request, in closed loop.
#[derive(Clone, Debug)]
pub struct Load {
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
#[derive(Clone, Debug)]
pub struct FloorRecord {
    /// Sent as `x-request-id`.
    pub request_id: String,
    /// Before the write.
    pub sent_ns: i64,
    /// Read that held each chunk with content.
    pub arrivals_ns: Vec<i64>,
    /// Read that held `[DONE]`.
    pub done_ns: i64,
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    left: usize,
    current: FloorRecord,
}

/// Drives the load to its end.
///
/// # Errors
/// When a connection fails or the server closes one early.
pub fn run(address: SocketAddr, load: &Load) -> io::Result<Vec<FloorRecord>> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let mut connections = Vec::new();
    for i in 0..load.connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, i as u64))?;
        let current =
            FloorRecord { request_id: String::new(), sent_ns: 0, arrivals_ns: Vec::new(), done_ns: 0 };
        connections.push(Connection { stream, buffer: Vec::new(), left: load.requests_each, current });
    }
    for (i, connection) in connections.iter_mut().enumerate() {
        connection.send(i, load)?;
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
                records.push(done);
                connections[i].send(i, load)?;
            }
        }
    }
    Ok(records)
}

impl Connection {
    fn send(&mut self, number: usize, load: &Load) -> io::Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        let id = format!("floor-{number}-{}", self.left);
        let body = format!(
            r#"{{"model":"{}","messages":[{{"role":"user","content":"{id} what is the load"}}],"max_tokens":{},"stream":true}}"#,
            load.model, load.max_tokens
        );
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: floor\r\ncontent-type: application/json\r\nx-request-id: {id}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.current = FloorRecord { request_id: id, sent_ns: now(), arrivals_ns: Vec::new(), done_ns: 0 };
        // A request is far smaller than an empty socket buffer.
        self.stream.write_all(request.as_bytes())
    }

    /// Reads what is there; the record when its `[DONE]` has come.
    fn read(&mut self) -> io::Result<Option<FloorRecord>> {
        let mut chunk = [0; 16_384];
        let mut done = false;
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the server closed a connection",
                    ));
                }
                Ok(n) => {
                    let at = now();
                    self.buffer.extend_from_slice(&chunk[..n]);
                    done |= self.take_lines(at);
                    // Level-triggered: what is left would be told again, so a read that finds nothing is saved.
                    if n < chunk.len() {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done.then(|| self.current.clone()))
    }

    fn take_lines(&mut self, at: i64) -> bool {
        let mut done = false;
        let mut used = 0;
        while let Some(end) = self.buffer[used..].iter().position(|&b| b == b'\n') {
            let line = &self.buffer[used..used + end];
            used += end + 1;
            if line.starts_with(b"data: [DONE]") {
                self.current.done_ns = at;
                done = true;
            } else if line.starts_with(b"data: ") && has_content(line) {
                self.current.arrivals_ns.push(at);
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

/// CPU time of this process, ns.
///
/// # Errors
/// As the system says.
pub fn cpu_ns() -> io::Result<i64> {
    read_clock(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

fn now() -> i64 {
    read_clock(ClockId::CLOCK_MONOTONIC_RAW).unwrap_or(0)
}

fn read_clock(id: ClockId) -> io::Result<i64> {
    let time = clock_gettime(id)?;
    Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}
