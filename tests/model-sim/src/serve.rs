//! The server: what its connections share, and accepting them until it is told to stop.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{ApiError, Ask};
use crate::clock;
use crate::config::Config;
use crate::connection::Connection;
use crate::engine::BadParams;
use crate::fault::{Fault, Faults};
use crate::http::Request;
use crate::inside::MetricsFault;
use crate::metrics::Metrics;
use crate::tell::Teller;
use crate::timer::Timer;
use crate::tokens::Mill;
use crate::truth::{Truth, TruthSender, TruthWriter};

/// Connections open at once; further ones wait in the kernel's accept queue.
const MAX_CONNECTIONS: usize = 16_384;

/// Why a server could not start, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The engine's parameters make no sense.
    #[error(transparent)]
    Params(#[from] BadParams),
    /// A log could not be created or written.
    #[error("failed to write the truth log, or one beside it")]
    Truth(#[source] io::Error),
    /// The kernel's timer could not be created or armed.
    #[error("failed to use a timer")]
    Timer(#[source] io::Error),
}

/// Serves on `listener` until `shutdown` is cancelled: open connections are then closed, whatever they are doing, and
/// their requests logged as aborted. Runs well on a current-thread runtime.
///
/// # Errors
/// Parameters outside their ranges; a truth log or timer that fails.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    shutdown: CancellationToken,
) -> Result<Truth, ServeError> {
    let mill = Mill::new(&config)?;
    let timer = Timer::new().map_err(ServeError::Timer)?;
    let (truth, writer) = Teller::start(&config)
        .and_then(|teller| TruthWriter::start(config.truth_log.as_deref(), config.keep_truth, teller))
        .map_err(ServeError::Truth)?;
    let stop = shutdown.child_token();
    // Should this future be dropped, its connections end too.
    let _stop_on_drop = stop.clone().drop_guard();
    let rng = Mutex::new(fastrand::Rng::with_seed(config.seed));
    let started_ns = clock::raw_ns();
    let metrics = Arc::new(Metrics::new(&config.model));
    let server = Arc::new(Server {
        config,
        mill,
        timer,
        truth,
        metrics,
        started_ns,
        rng,
        requests: AtomicU64::new(0),
        had_first: AtomicBool::new(false),
    });
    server.schedule_causes();
    let ended = server.run(listener, &stop).await;
    drop(server);
    let truth = tokio::task::spawn_blocking(|| writer.finish()).await;
    ended?;
    truth.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(ServeError::Truth)
}

/// What the connections of a server share.
pub(crate) struct Server {
    pub(crate) config: Config,
    pub(crate) mill: Mill,
    pub(crate) timer: Timer,
    pub(crate) truth: TruthSender,
    pub(crate) metrics: Arc<Metrics>,
    started_ns: i64,
    rng: Mutex<fastrand::Rng>,
    requests: AtomicU64,
    had_first: AtomicBool,
}

impl Server {
    /// When a request that arrived then is taken: after the front end's work, and the first one after what is made ready
    /// only now.
    pub(crate) async fn taken(&self, arrived_ns: i64) -> i64 {
        let front_ns = self.config.inside.front_end_ns.0;
        let taken_ns = self.made_ready(arrived_ns).await + front_ns;
        if front_ns > 0 {
            self.timer.sleep_until(taken_ns).await;
        }
        taken_ns
    }

    async fn made_ready(&self, arrived_ns: i64) -> i64 {
        let penalty_ns = self.config.first_penalty_ns;
        if penalty_ns == 0 || self.loading() || self.had_first.swap(true, Ordering::Relaxed) {
            return arrived_ns;
        }
        self.timer.sleep_until(arrived_ns + penalty_ns).await;
        arrived_ns + penalty_ns
    }

    async fn run(
        self: &Arc<Self>,
        listener: TcpListener,
        stop: &CancellationToken,
    ) -> Result<(), ServeError> {
        let tasks = TaskTracker::new();
        let ended = tokio::select! {
            () = stop.cancelled() => Ok(()),
            failed = self.timer.drive() => failed.map_err(ServeError::Timer),
            () = self.drive() => Ok(()),
            () = self.accept(listener, &tasks, stop) => Ok(()),
        };
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        ended
    }

    async fn drive(&self) {
        match &self.mill {
            Mill::Engine(live) => live.drive(&self.timer).await,
            Mill::Paced { .. } => std::future::pending().await,
        }
    }

    async fn accept(self: &Arc<Self>, listener: TcpListener, tasks: &TaskTracker, stop: &CancellationToken) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut accepted = 0;
        while let Ok(slot) = slots.clone().acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, most likely: try again when some may be free.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let connection = Connection { id: accepted, accepted_ns: clock::raw_ns(), server: self.clone() };
            accepted += 1;
            let stop = stop.clone();
            tasks.spawn(async move {
                stop.run_until_cancelled(connection.run(stream)).await;
                drop(slot);
            });
        }
    }

    /// The faults of the next request: its own, then those of the rules that hit it.
    pub(crate) fn faults(&self, own: Vec<Fault>) -> Faults {
        let count = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let hits = self.config.faults.iter().filter(|rule| rule.hits(count, &mut rng));
        let hits: Vec<Fault> = hits.map(|rule| rule.fault.clone()).collect();
        Faults(own.into_iter().chain(hits).collect())
    }

    /// What takes hold at a time of its own.
    fn schedule_causes(&self) {
        let Mill::Engine(live) = &self.mill else { return };
        for rule in &self.config.faults {
            if let (Some(ms), Some((_, cause))) = (rule.at_ms, rule.fault.cause()) {
                live.schedule(self.started_ns + ms as i64 * 1_000_000, 0, cause);
            }
        }
    }

    /// `POST /sim/fault`: a fault of the engine as a whole takes hold now; `nth` says of which request in the batch, where
    /// it is about one.
    pub(crate) fn inject(&self, body: &[u8]) -> Result<(), ApiError> {
        let bad = |why: String| ApiError::bad_request(format!("failed to read the fault: {why}"), None);
        let mut body: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(body).map_err(|e| bad(e.to_string()))?;
        let nth = body.remove("nth").and_then(|nth| nth.as_u64()).unwrap_or(0);
        let fault: Fault = serde_json::from_value(body.into()).map_err(|e| bad(e.to_string()))?;
        let (Mill::Engine(live), Some((_, cause))) = (&self.mill, fault.cause()) else {
            return Err(bad("it is none of the engine as a whole, or there is no engine".into()));
        };
        live.schedule(clock::raw_ns(), usize::try_from(nth).unwrap_or(0), cause);
        Ok(())
    }

    /// The page of metrics, however long it takes; `None`: there is no such page any more.
    pub(crate) async fn metrics_page(&self) -> Option<String> {
        match self.config.inside.metrics_fault {
            Some(MetricsFault::GoneAt(ns)) if self.age_ns() >= ns => return None,
            Some(MetricsFault::Slow(ns)) => self.timer.sleep_until(clock::raw_ns() + ns).await,
            _ => {}
        }
        Some(self.metrics.page(self.mill.load(clock::raw_ns())))
    }

    pub(crate) fn loading(&self) -> bool {
        let loading = |fault: &Fault| matches!(fault, Fault::Loading { .. });
        let rules = self.config.faults.iter().map(|rule| rule.fault.clone()).filter(loading);
        Faults(rules.collect()).status(self.age_ns()).is_some()
    }

    pub(crate) fn age_ns(&self) -> i64 {
        clock::raw_ns() - self.started_ns
    }

    /// How many tokens the reply gets, and why it ends there.
    pub(crate) fn length(&self, ask: &Ask) -> (u64, &'static str) {
        let Some(mean) = self.config.eos_mean_tokens.filter(|_| !ask.ignore_eos) else {
            return (ask.max_tokens, "length");
        };
        let longest = mean.max(1).saturating_mul(2) - 1;
        let drawn = self.rng.lock().unwrap_or_else(PoisonError::into_inner).u64(1..=longest);
        if drawn < ask.max_tokens { (drawn, "stop") } else { (ask.max_tokens, "length") }
    }

    pub(crate) fn authorised(&self, request: &Request) -> bool {
        let given = request.authorization.as_deref().and_then(|a| a.strip_prefix("Bearer "));
        self.config.api_key.as_deref().is_none_or(|key| given == Some(key))
    }
}
