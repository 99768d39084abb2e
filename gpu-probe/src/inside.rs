//! The server's inside view: what a model server tells of itself. Its metrics are scraped, its spans received, its file of
//! stamps read, and it is asked what it is; all of it goes to the outbox as it was said. On a thread and a runtime of its
//! own, so that an exporter that floods or an endpoint that hangs is no part of the session's time.

mod endpoint;
mod identity;
mod otlp;
mod scrape;
mod stamps;
mod tally;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
mod wall;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use tailcliff_proto::outbox::{Outbox, other_readings};
use tailcliff_proto::v1;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::sampler::Switch;
use tally::Tally;

/// What is to be known of the server.
#[derive(Clone, Debug, Default)]
pub struct Inside {
    /// URL of its metrics; `None` for none.
    pub metrics: Option<String>,
    /// How often they are scraped, at least 100 ms.
    pub every: Duration,
    /// Metrics kept by name, beside those that are known.
    pub named: Vec<String>,
    /// Where OTLP is taken, as gRPC and HTTP alike: HOST:PORT; `None` for nowhere.
    pub otlp: Option<String>,
    /// How long after a run's end spans are still taken: an exporter sends them in batches.
    pub drain: Duration,
    /// File of stamps that the server writes.
    pub stamps: Option<PathBuf>,
}

impl Inside {
    /// Spans or stamps may still be under way when the run is over.
    pub(crate) fn drains(&self) -> bool {
        self.otlp.is_some() || self.stamps.is_some()
    }

    fn is_nothing(&self) -> bool {
        self.metrics.is_none() && !self.drains()
    }
}

/// Where what was found goes.
#[derive(Clone)]
pub(crate) struct Sink {
    outbox: Outbox,
    switch: Arc<Switch>,
    troubles: mpsc::Sender<String>,
    tally: Tally,
}

impl Sink {
    pub(crate) fn new(outbox: Outbox, switch: Arc<Switch>, troubles: mpsc::Sender<String>) -> Self {
        Self { outbox, switch, troubles, tally: Tally::default() }
    }

    /// There is a run to look for.
    fn is_on(&self) -> bool {
        self.switch.on.load(Relaxed)
    }

    /// An export came while there is none: counted where there had been one.
    fn unheard(&self) {
        if self.switch.lapsed.load(Relaxed) {
            self.switch.unheard_exports.fetch_add(1, Relaxed);
        }
    }

    /// What there is no room for is counted; how many readings those were is given back.
    fn push(&self, batch: v1::Batch) -> u64 {
        let Err(batch) = self.outbox.push(batch) else { return 0 };
        let lost = other_readings(&batch) as u64;
        self.switch.dropped_samples.fetch_add(lost, Relaxed);
        lost
    }

    /// The same for what is kept by its owner until there is room: true when there was.
    fn takes(&self, batch: v1::Batch) -> bool {
        self.outbox.push(batch).is_ok()
    }

    /// Tells a person.
    fn tell(&self, trouble: String) {
        // A full channel has troubles enough in it.
        let _full = self.troubles.try_send(trouble);
    }
}

/// Begins to look as `config` says, until `shutdown`; `None` when there is nothing to look at.
///
/// # Errors
/// When the address for OTLP cannot be listened on, or the thread cannot be made.
pub(crate) fn start(
    config: &Config,
    sink: Sink,
    shutdown: CancellationToken,
) -> io::Result<Option<JoinHandle<()>>> {
    let inside = config.inside.clone();
    let server = config.server;
    if inside.is_nothing() && server.is_none() {
        return Ok(None);
    }
    let listener = inside.otlp.as_deref().map(otlp::bind).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let look = async move {
        let (of_scrape, of_stamps, of_otlp, of_wall, of_tally) =
            (sink.clone(), sink.clone(), sink.clone(), sink.clone(), sink.clone());
        // A server that answers again may be another.
        let again = Notify::new();
        let traces = async {
            tokio::join!(
                stamps::tail(&inside, of_stamps, shutdown.clone()),
                otlp::serve(listener, of_otlp, shutdown.clone()),
            );
        };
        tokio::join!(
            identity::look(&inside, &again, server, sink, shutdown.clone()),
            scrape::run(&inside, &again, of_scrape, shutdown.clone()),
            tally::told_beside(traces, &of_tally),
            wall::read(&inside, of_wall, shutdown.clone()),
        );
    };
    let thread = std::thread::Builder::new().name("inside".to_owned());
    Ok(Some(thread.spawn(move || {
        runtime.block_on(look);
        // What it waits for on threads of its own, such as a name's address, may never come.
        runtime.shutdown_background();
    })?))
}
