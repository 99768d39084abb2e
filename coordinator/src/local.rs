//! Nodes embedded in this process, each on a thread of its own, over the same gRPC connections as any other node's: an agent
//! and a gpu-probe for a one-machine run, or a probe that watches the server for a coordinator. The only file that knows those two libraries.

use std::io;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

pub use tailcliff_agent::calibration;
pub use tailcliff_agent::failure::ErrorKind;
pub use tailcliff_agent::plain_reqwest;
pub use tailcliff_agent::preflight::REQUEST_ID as PREFLIGHT_ID;
pub use tailcliff_agent::single::{Answer, Single};
pub use tailcliff_agent::stub::{Args as StubArgs, Served, Truth, serve as serve_stub};
pub use tailcliff_gpu_probe::config::{Inside, InsideArgs, Server, ServerArgs, exposed};
pub use tailcliff_gpu_probe::host::processes_of;
pub use tailcliff_gpu_probe::record::{Recorded, Recording};
use tailcliff_proto::link::Route;
use tailcliff_proto::v1::{self, NodeKind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What the embedded nodes are told.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// GPU sampling interval, ns.
    pub gpu_interval_ns: i64,
    /// NVML library, where the loader does not find it.
    pub nvml_path: Option<PathBuf>,
    /// Whose processes that probe samples.
    pub server: Option<Server>,
    /// What that server tells of itself, and where.
    pub inside: Inside,
    /// With an agent.
    pub with_agent: bool,
    /// With a probe, and what it is for.
    pub probe: Option<Probe>,
    /// Threads that make load; `None` for the cores less one.
    pub shards: Option<u32>,
}

/// What an embedded probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// This host, its GPUs, and what the server tells.
    Whole,
    /// What the server tells alone: it is elsewhere, and what this host does is not its doing.
    Watch,
}

/// Name of a probe that only watches the server.
pub const WATCH: &str = "watch";

/// Starts what is to be embedded; a node that ends in an error says so through `failures`.
///
/// # Errors
/// When a thread cannot be made.
pub fn start(
    coordinator: &Route,
    embedded: &Embedded,
    failures: &mpsc::Sender<(NodeKind, String)>,
    shutdown: &CancellationToken,
) -> io::Result<Vec<JoinHandle<()>>> {
    let agent = tailcliff_agent::config::Config {
        shards: embedded.shards.unwrap_or_else(shards),
        ..tailcliff_agent::config::Config::new(coordinator.clone())
    };
    let probe = tailcliff_gpu_probe::config::Config {
        interval: Duration::from_nanos(embedded.gpu_interval_ns.unsigned_abs()),
        nvml_path: embedded.nvml_path.clone(),
        server: embedded.server,
        inside: embedded.inside.clone(),
        ..tailcliff_gpu_probe::config::Config::new(coordinator.clone())
    };
    let probe = match embedded.probe {
        Some(Probe::Watch) => {
            tailcliff_gpu_probe::config::Config { hardware: false, name: WATCH.to_owned(), ..probe }
        }
        Some(Probe::Whole) | None => probe,
    };
    let (of_agent, of_probe) = (shutdown.clone(), shutdown.clone());
    let agent = async move { tailcliff_agent::run(agent, of_agent).await.map_err(|e| e.to_string()) };
    let probe = async move { tailcliff_gpu_probe::run(probe, of_probe).await.map_err(|e| e.to_string()) };
    let mut threads = Vec::new();
    if embedded.with_agent {
        threads.push(thread(NodeKind::Agent, failures, agent)?);
    }
    if embedded.probe.is_some() {
        threads.push(thread(NodeKind::GpuProbe, failures, probe)?);
    }
    Ok(threads)
}

/// One real request from this process, of at most so many ns; beforehand a server that is still loading is waited for.
pub async fn preflight_within(
    target: &v1::Target,
    workload: &v1::Workload,
    limit_ns: i64,
) -> v1::PreflightDone {
    let limit = Duration::from_nanos(limit_ns.unsigned_abs());
    tailcliff_agent::preflight::preflight_within(target, workload, limit).await
}

/// Samples host and GPUs into this process's memory.
///
/// # Errors
/// When the thread cannot be made.
pub fn record(
    server: Option<Server>,
    nvml_path: Option<PathBuf>,
    gpu_interval_ns: i64,
) -> io::Result<Recording> {
    Recording::start(&tailcliff_gpu_probe::config::Config {
        interval: Duration::from_nanos(gpu_interval_ns.unsigned_abs()),
        nvml_path,
        server,
        // Nobody is dialled.
        ..tailcliff_gpu_probe::config::Config::new(String::new())
    })
}

/// Cores less one, which the coordinator and the clock need.
pub fn shards() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(1).max(1) as u32)
}

fn thread(
    kind: NodeKind,
    failures: &mpsc::Sender<(NodeKind, String)>,
    node: impl Future<Output = Result<(), String>> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let failures = failures.clone();
    let name = if kind == NodeKind::Agent { "agent" } else { "gpu-probe" };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let ended = runtime.block_on(node);
        // A driver that hangs, or a name's address that never comes, is not waited for.
        runtime.shutdown_background();
        if let Err(error) = ended {
            let _over = failures.blocking_send((kind, format!("the embedded {name} ended: {error}")));
        }
    })
}
