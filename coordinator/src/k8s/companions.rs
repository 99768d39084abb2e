//! Two calls of kubectl that accompany a run, each started again when it ends before the run does: the coordinator's log,
//! and the port-forward that results come through. Both go on until they are dropped.

use std::convert::Infallible;
use std::time::Duration;

use tailcliff_proto::clock::HostClock;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::kubectl::{Kubectl, KubectlError};
use super::manifests::{COORDINATOR, PORT};
use super::settings::Settings;
use crate::cli::WAITING;

/// Before it is started again.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest line that is shown.
const LONGEST_LINE: u64 = 16 << 10;
/// Where a port is looked for.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
const TRIES: u32 = 50;
/// One that lives so long has worked, ns.
const LIVED_NS: i64 = 10_000_000_000;
/// Those that did not, in a row: there is no way to the coordinator.
const STILLBORN: u32 = 30;
/// Deaths of the port-forward that are told.
const TOLD: u32 = 3;

/// A port of this host that is free now: the same one is used whenever the port-forward is started again. It is below
/// those that the system gives to whoever dials: a client that dials a port of its own range while nobody listens there
/// can be connected with itself, and then holds the port.
pub(super) fn free_port() -> std::io::Result<u16> {
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let found = (0..TRIES).map(|_| fastrand::u16(PORTS)).find(free);
    found.map_or_else(|| Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()), Ok)
}

impl From<std::io::Error> for KubectlError {
    fn from(error: std::io::Error) -> Self {
        Self::Refused { what: "find a free port on loopback".to_owned(), complaint: error.to_string() }
    }
}

/// Keeps `port` on loopback connected with the coordinator, until that fails again and again.
pub(super) async fn forward(
    kubectl: &Kubectl,
    settings: &Settings,
    port: u16,
    tell: fn(&str),
) -> KubectlError {
    let service = format!("service/{}", settings.named(COORDINATOR));
    let ports = format!("{port}:{PORT}");
    let (mut deaths, mut at_once) = (0, 0);
    loop {
        let started_ns = HostClock.now();
        let args = ["port-forward", "--address=127.0.0.1", &service, &ports];
        let said = match kubectl.start(&args) {
            Ok(mut child) => {
                let (out, err) = (child.stdout.take(), child.stderr.take());
                let mut last = String::new();
                // It says a line for each connection, which nobody needs; a full pipe would hold it up.
                tokio::join!(lines(out, |_| {}), lines(err, |line| last = line.to_owned()));
                let _ended = child.wait().await;
                last
            }
            Err(error) => error.to_string(),
        };
        deaths += 1;
        at_once = if HostClock.now() - started_ns < LIVED_NS { at_once + 1 } else { 0 };
        if at_once >= STILLBORN {
            return KubectlError::Refused { what: "reach the coordinator".to_owned(), complaint: said };
        }
        if deaths <= TOLD {
            tell(&format!("the port-forward ended ({said}); starting it again"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Passes on what the coordinator says, until its figures: they come with the files.
pub(super) async fn logs(kubectl: &Kubectl, settings: &Settings, tell: fn(&str)) -> Infallible {
    let job = format!("job/{}", settings.named(COORDINATOR));
    let mut tail = "--tail=-1";
    let mut over = false;
    loop {
        // One that was shown is not shown again.
        let args = ["logs", "--follow", &job, "--container", COORDINATOR, tail];
        if let Ok(mut child) = kubectl.start(&args) {
            let (out, err) = (child.stdout.take(), child.stderr.take());
            let show = |line: &str| {
                over |= line.starts_with(WAITING);
                if !over {
                    tell(line);
                }
            };
            tokio::join!(lines(out, show), lines(err, |_| {}));
            let _ended = child.wait().await;
        }
        tail = "--tail=0";
        tokio::time::sleep(PAUSE).await;
    }
}

/// Each line until the end, without what a terminal would obey.
async fn lines(from: Option<impl AsyncRead + Unpin>, mut take: impl FnMut(&str)) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        let mut bounded = tokio::io::AsyncReadExt::take(&mut from, LONGEST_LINE);
        match bounded.read_until(b'\n', &mut line).await {
            Ok(1..) => {
                let text = String::from_utf8_lossy(&line);
                take(&text.chars().filter(|c| !c.is_control()).collect::<String>());
            }
            _ => return,
        }
    }
}
