//! A server for tests that says what it is told to say, however badly.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tailcliff_proto::outbox::Outbox;
use tailcliff_proto::v1;
use tokio::sync::mpsc;

use super::Sink;
use crate::sampler::Switch;

/// What a path is answered with.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Says(u16, String),
    /// Whatever these bytes are.
    Raw(Vec<u8>),
    /// After so long.
    Slow(Duration, String),
    /// Without end, as fast as it is taken.
    Endless,
    /// The connection is closed at once.
    Hangs,
}

pub(super) fn ok(body: &str) -> Reply {
    Reply::Says(200, body.to_owned())
}

type Answers = dyn Fn(&str) -> Reply + Send + Sync;

struct Inner {
    answers: Mutex<Arc<Answers>>,
    stop: AtomicBool,
    connections: AtomicUsize,
    asked: Mutex<Vec<String>>,
}

pub(super) struct TestServer {
    pub(super) address: SocketAddr,
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    pub(super) fn new(answers: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0", answers)
    }

    pub(super) fn at(address: &str, answers: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            answers: Mutex::new(Arc::new(answers)),
            stop: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            asked: Mutex::new(Vec::new()),
        });
        let shared = inner.clone();
        let thread = std::thread::spawn(move || {
            let mut all = Vec::new();
            for stream in listener.incoming() {
                if shared.stop.load(Relaxed) {
                    break;
                }
                shared.connections.fetch_add(1, Relaxed);
                let shared = shared.clone();
                all.push(std::thread::spawn(move || shared.serve(stream.unwrap()).unwrap_or_default()));
            }
            all.into_iter().for_each(|thread| thread.join().unwrap());
        });
        Self { address, inner, thread: Some(thread) }
    }

    pub(super) fn metrics(&self) -> String {
        format!("http://{}/metrics", self.address)
    }

    pub(super) fn answers(&self, answers: impl Fn(&str) -> Reply + Send + Sync + 'static) {
        *self.inner.answers.lock().unwrap() = Arc::new(answers);
    }

    pub(super) fn connections(&self) -> usize {
        self.inner.connections.load(Relaxed)
    }

    /// How often a path was asked for.
    pub(super) fn asked(&self, path: &str) -> usize {
        self.inner.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }
}

impl Inner {
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(Duration::from_millis(20))).ok()?;
        while let Some(path) = self.request(&mut stream) {
            self.asked.lock().unwrap().push(path.clone());
            let answers = self.answers.lock().unwrap().clone();
            match answers(&path) {
                Reply::Says(status, body) => whole(&mut stream, status, &body)?,
                Reply::Raw(bytes) => return stream.write_all(&bytes).ok(),
                Reply::Slow(wait, body) => {
                    // In short naps, so that the test's end is not waited for.
                    for _ in 0..wait.as_millis() / 10 {
                        std::thread::sleep(Duration::from_millis(10));
                        if self.stop.load(Relaxed) {
                            return None;
                        }
                    }
                    whole(&mut stream, 200, &body)?;
                }
                Reply::Endless => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
                    while !self.stop.load(Relaxed) {
                        stream.write_all(&[b'#'; 65_536]).ok()?;
                    }
                }
                Reply::Hangs => return None,
            }
        }
        None
    }

    fn request(&self, stream: &mut TcpStream) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                Ok(_) => return None,
                Err(_) if self.stop.load(Relaxed) => return None,
                Err(_) => {}
            }
        }
        Some(String::from_utf8(head).ok()?.split(' ').nth(1)?.to_owned())
    }
}

fn whole(stream: &mut TcpStream, status: u16, body: &str) -> Option<()> {
    let more = if status == 302 { "Location: /elsewhere\r\n" } else { "" };
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nServer: test\r\n{more}Content-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).ok()
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.inner.stop.store(true, Relaxed);
        let _wakes = TcpStream::connect(self.address);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// Where a test looks for what was found.
pub(super) struct Found {
    outbox: Outbox,
    pub(super) switch: Arc<Switch>,
    troubles: mpsc::Receiver<String>,
    seen: u64,
}

impl Found {
    pub(super) fn new() -> (Sink, Self) {
        Self::within(4 << 20)
    }

    /// With room for so many bytes.
    pub(super) fn within(bytes: usize) -> (Sink, Self) {
        let (outbox, switch) = (Outbox::new(1, bytes), Arc::new(Switch::default()));
        switch.on.store(true, Relaxed);
        let (say, troubles) = mpsc::channel(64);
        let sink = Sink::new(outbox.clone(), switch.clone(), say);
        (sink, Self { outbox, switch, troubles, seen: 0 })
    }

    pub(super) fn batches(&mut self) -> Vec<v1::Batch> {
        let next = || {
            let batch = self.outbox.next_after(self.seen)?;
            self.seen = batch.seq;
            Some(batch)
        };
        std::iter::from_fn(next).collect()
    }

    pub(super) fn told(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.troubles.try_recv().ok()).collect()
    }
}
