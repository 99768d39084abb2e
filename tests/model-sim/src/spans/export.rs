//! The exporter: a thread that sends what waits every so often, when a batch is full, and one last time at the end.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use super::message::{Export, Garbage, KeyValue, Resource, ResourceSpans, Scope, ScopeSpans, Value};
use super::queue::{Queue, Waiting};
use super::send::{Failed, Way};
use super::{Endpoint, SpanCounts};

/// Longest wait between two tries of an endpoint that does not answer; the first is a sixteenth of it.
const LONGEST_BACKOFF: Duration = Duration::from_secs(4);
/// How long the last export may take once the server has ended.
const FAREWELL: Duration = Duration::from_secs(3);

/// The exporter of a server.
#[derive(Debug)]
pub(crate) struct Exporter {
    queue: Queue,
    thread: JoinHandle<io::Result<()>>,
}

impl Exporter {
    /// Starts exporting to `endpoint` every `delay`.
    pub(crate) fn start(endpoint: Endpoint, delay: Duration) -> io::Result<Self> {
        let queue = Queue::default();
        let waiting = queue.clone();
        let thread = std::thread::Builder::new().name("spans".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(&waiting, &endpoint, delay))
        })?;
        Ok(Self { queue, thread })
    }

    /// Where spans go.
    pub(crate) fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// Exports the rest, and says what became of all.
    pub(crate) fn finish(self) -> io::Result<SpanCounts> {
        self.queue.close();
        self.thread.join().map_err(|_| io::Error::other("the exporter's thread panicked"))??;
        Ok(self.queue.counts())
    }
}

async fn run(queue: &Queue, endpoint: &Endpoint, delay: Duration) -> io::Result<()> {
    let bad = || io::Error::other("failed to dial the OTLP endpoint: it is no address");
    let mut sender = Sender {
        queue,
        way: Way::to(endpoint).ok_or_else(bad)?,
        resource: resource(),
        held: Vec::new(),
        farewell: false,
    };
    while !queue.closed() {
        wait(queue, delay).await;
        sender.drain().await;
    }
    sender.farewell = true;
    let _late = tokio::time::timeout(FAREWELL, sender.drain()).await;
    let held = sender.held.len() as u64;
    let rest =
        std::iter::repeat_with(|| queue.take().len() as u64).take_while(|taken| *taken > 0).sum::<u64>();
    queue.count(|counts| counts.dropped += held + rest);
    Ok(())
}

/// Until the next export is due.
async fn wait(queue: &Queue, delay: Duration) {
    let full = async {
        while !queue.ripe() {
            queue.changed().await;
        }
    };
    let _due = tokio::time::timeout(delay, full).await;
}

/// Waits before another try, but not for longer than the server is there.
async fn pause(queue: &Queue, backoff: Duration) {
    let closed = async {
        while !queue.closed() {
            queue.changed().await;
        }
    };
    let _due = tokio::time::timeout(backoff, closed).await;
}

struct Sender<'a> {
    queue: &'a Queue,
    way: Way,
    resource: Resource,
    /// Taken from the queue, and not yet taken by the endpoint.
    held: Vec<Waiting>,
    /// The server has ended.
    farewell: bool,
}

impl Sender<'_> {
    /// Exports all that waits, batch by batch, for as long as that takes; the end of the server breaks it off.
    async fn drain(&mut self) {
        loop {
            if self.held.is_empty() {
                self.held = self.queue.take();
            }
            if self.held.is_empty() {
                return;
            }
            self.garbage().await;
            if !self.batch().await {
                return;
            }
        }
    }

    /// What is no export goes first; nobody minds what became of it.
    async fn garbage(&mut self) {
        for at in 0..self.held.len() {
            if std::mem::take(&mut self.held[at].after_garbage) {
                self.queue.count(|counts| counts.garbage += 1);
                let _refused = self.way.send(&Garbage { number: at as u64 }).await;
            }
        }
    }

    /// Whether the endpoint dealt with it.
    async fn batch(&mut self) -> bool {
        let export = self.export();
        let mut backoff = LONGEST_BACKOFF / 16;
        loop {
            match self.way.send(&export).await {
                Ok(rejected) => {
                    let sent = self.held.len() as u64;
                    let rejected = rejected.min(sent);
                    self.queue.count(|counts| {
                        counts.exported += sent - rejected;
                        counts.rejected += rejected;
                    });
                    break;
                }
                Err(Failed::Refused) => {
                    self.queue.count(|counts| counts.rejected += self.held.len() as u64);
                    break;
                }
                Err(Failed::Unreached) => self.queue.count(|counts| counts.retries += 1),
            }
            if self.farewell {
                // It has an end of its own.
                tokio::time::sleep(backoff).await;
            } else {
                pause(self.queue, backoff).await;
                if self.queue.closed() {
                    return false;
                }
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
        self.held.clear();
        true
    }

    fn export(&self) -> Export {
        let spans = self.held.iter().map(|waiting| waiting.span.clone()).collect();
        let scope = Scope { name: "model-sim".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        Export { resource_spans: vec![ResourceSpans { resource: Some(self.resource.clone()), scope_spans }] }
    }
}

/// Who exports: it says that it is simulated.
fn resource() -> Resource {
    let instance = format!("{:032x}", fastrand::u128(..));
    let named = [("service.name", "model-sim"), ("service.version", env!("CARGO_PKG_VERSION"))];
    let attributes = named.into_iter().chain([("service.instance.id", instance.as_str())]);
    let text = |(key, value): (&str, &str)| KeyValue::new(key, Value::String(value.to_owned()));
    Resource { attributes: attributes.map(text).collect() }
}
