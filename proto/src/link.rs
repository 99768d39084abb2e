//! How a node reaches the coordinator: dial with back-off, say hello, and be welcomed or refused.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::v1;
use crate::v1::control_client::ControlClient;
use crate::v1::{coordinator_message, node_message};

/// Largest message either end accepts, bytes.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Failed attempts, about a second together, before a person is told.
const QUIET_ATTEMPTS: u32 = 4;

/// Why a node has no link to its coordinator.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address is not HOST:PORT.
    #[error("failed to read coordinator address {0:?}: expected HOST:PORT")]
    Address(String),
    /// We were told to stop while dialling.
    #[error("stopped before the coordinator answered")]
    Stopped,
    /// The coordinator speaks another protocol, or refuses for another reason.
    #[error("refused by the coordinator: {0}")]
    Refused(String),
    /// The coordinator has no place now, but may have one in a moment.
    #[error("refused by the coordinator for now: {0}")]
    Full(String),
    /// The stream broke.
    #[error("failed to talk to the coordinator: {0}")]
    Broken(String),
}

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> Self {
        Self::Broken(format!("{:?}: {}", status.code(), status.message()))
    }
}

/// A joined control session.
#[derive(Debug)]
pub struct ControlLink {
    /// Messages to the coordinator; bounded.
    pub out: mpsc::Sender<v1::NodeMessage>,
    /// Messages from the coordinator.
    pub inbound: tonic::Streaming<v1::CoordinatorMessage>,
    /// Its answer to our hello.
    pub welcome: v1::Welcome,
}

/// Connects to HOST:PORT, trying again with a growing, jittered pause until it works or `shutdown` fires.
///
/// # Errors
/// A malformed address at once; [`LinkError::Stopped`] on shutdown.
pub async fn dial(address: &str, shutdown: &CancellationToken) -> Result<Channel, LinkError> {
    dial_telling(address, shutdown, |_| {}).await
}

/// The same, and tells a person once why the first attempts came to nothing.
///
/// # Errors
/// As [`dial`].
pub async fn dial_telling(
    address: &str,
    shutdown: &CancellationToken,
    tell: impl Fn(&str),
) -> Result<Channel, LinkError> {
    let endpoint = endpoint(address)?;
    let mut pause = FIRST_PAUSE;
    let mut attempts = 0;
    loop {
        let attempt = tokio::select! {
            attempt = endpoint.connect() => attempt,
            () = shutdown.cancelled() => return Err(LinkError::Stopped),
        };
        let error = match attempt {
            Ok(channel) => return Ok(channel),
            Err(error) => error,
        };
        attempts += 1;
        // Nodes are often started a moment before their coordinator.
        if attempts == QUIET_ATTEMPTS {
            let why = cause(&error);
            tell(&format!(
                "cannot reach coordinator {address} yet: {why}; is it running, is the port right?"
            ));
        }
        // Half to all of the pause, so that a thousand nodes do not return in step.
        tokio::select! {
            () = tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            () = shutdown.cancelled() => return Err(LinkError::Stopped),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The innermost cause: tonic's own words are "transport error".
fn cause(error: &tonic::transport::Error) -> String {
    let first: &dyn std::error::Error = error;
    let causes = std::iter::successors(Some(first), |e| e.source());
    causes.last().map_or_else(String::new, ToString::to_string)
}

fn endpoint(address: &str) -> Result<Endpoint, LinkError> {
    let bad = || LinkError::Address(address.to_owned());
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
        return Err(bad());
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| bad())?;
    Ok(endpoint
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10)))
}

/// Where the clock service answers: the host that was dialled, at the port that the coordinator named.
pub fn clock_address(coordinator: &str, welcome: &v1::Welcome) -> String {
    match (coordinator.rsplit_once(':'), welcome.clock_port) {
        (Some((host, _)), port) if port != 0 => format!("{host}:{port}"),
        _ => coordinator.to_owned(),
    }
}

/// Says hello over a channel and waits for the answer.
///
/// # Errors
/// [`LinkError::Refused`] carries the coordinator's reason; anything else is a broken stream.
pub async fn join(channel: Channel, hello: v1::Hello) -> Result<ControlLink, LinkError> {
    let (out, messages) = mpsc::channel(256);
    let first = v1::NodeMessage { kind: Some(node_message::Kind::Hello(hello)) };
    out.send(first).await.map_err(|_| LinkError::Broken("no stream".to_owned()))?;
    let mut client = ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut inbound = client.session(ReceiverStream::new(messages)).await?.into_inner();
    let answer = inbound.message().await?.and_then(|m| m.kind);
    match answer {
        Some(coordinator_message::Kind::Welcome(welcome)) => Ok(ControlLink { out, inbound, welcome }),
        Some(coordinator_message::Kind::Refused(refused)) if refused.retry => {
            Err(LinkError::Full(refused.reason))
        }
        Some(coordinator_message::Kind::Refused(refused)) => Err(LinkError::Refused(refused.reason)),
        other => Err(LinkError::Broken(format!("expected a welcome, got {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::endpoint;

    #[test]
    fn addresses_are_host_and_port_only() {
        assert!(endpoint("127.0.0.1:9000").is_ok());
        assert!(endpoint("[::1]:9000").is_ok());
        for bad in ["", "localhost", "localhost:", ":9000", "http://localhost:9000", "localhost:99999"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
