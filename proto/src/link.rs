//! How a node reaches the coordinator: dial with back-off, say hello, and be welcomed or refused.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::secret::Secret;
use crate::v1;
use crate::v1::control_client::ControlClient;
use crate::v1::{coordinator_message, node_message};

pub mod args;
mod connect;
pub mod tls;
pub mod trouble;

pub use connect::Io;
use tls::Tls;
use trouble::Trouble;

/// Largest message either end accepts, bytes.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Failed attempts, about a second together, before a person is told.
const QUIET_ATTEMPTS: u32 = 4;
/// Failed attempts, about a minute, after which a person is told again.
const REMIND_ATTEMPTS: u32 = 16;

/// How a node reaches the coordinator: where, how the connection is secured, and what it shows to be let in.
#[derive(Clone, Debug)]
pub struct Route {
    address: String,
    tls: Option<Tls>,
    token: Option<Secret>,
}

impl Route {
    /// In the clear and without a token, to HOST:PORT.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), tls: None, token: None }
    }

    /// Secured, where TLS is given.
    #[must_use]
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// With a join token, where one is given.
    #[must_use]
    pub fn with_token(self, token: Option<Secret>) -> Self {
        Self { token, ..self }
    }

    /// HOST:PORT.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// HOST, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// It does not leave this host.
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    }

    /// The way to the clock service: same host and same credentials, at the port that the coordinator named.
    #[must_use]
    pub fn clock(&self, welcome: &v1::Welcome) -> Self {
        Self { address: clock_address(&self.address, welcome), ..self.clone() }
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address)
    }
}

impl<T: AsRef<str> + ?Sized> From<&T> for Route {
    fn from(address: &T) -> Self {
        Self::new(address.as_ref())
    }
}

impl From<String> for Route {
    fn from(address: String) -> Self {
        Self::new(address)
    }
}

/// A connection that shows the token with each call.
pub type Link = InterceptedService<Channel, Credentials>;

/// What a call shows to be let in.
#[derive(Clone, Debug)]
pub struct Credentials(Option<tonic::metadata::MetadataValue<tonic::metadata::Ascii>>);

impl Credentials {
    fn of(route: &Route) -> Result<Self, LinkError> {
        let Some(token) = &route.token else { return Ok(Self(None)) };
        let value = format!("Bearer {}", token.expose()).parse();
        let mut value: tonic::metadata::MetadataValue<_> = value.map_err(|_| LinkError::Token)?;
        // Kept from logs, and from the table of headers that HTTP/2 compresses with.
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Why a node has no link to its coordinator.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address is not HOST:PORT.
    #[error("failed to read coordinator address {0:?}: expected HOST:PORT")]
    Address(String),
    /// The token has characters that no header can carry.
    #[error("failed to use the token: it has characters that cannot be sent")]
    Token,
    /// The coordinator takes secured connections alone.
    #[error("the coordinator asks for TLS: give this node --tls-dir with files of the coordinator's CA")]
    NeedsTls,
    /// We were told to stop while dialling.
    #[error("stopped before the coordinator answered")]
    Stopped,
    /// We were told to stop while the run went on.
    #[error("stopped before the run was over")]
    Left,
    /// The run ended, and not everything that was measured had come through.
    #[error("{0} batches of measurements never reached the coordinator's disk: given up")]
    Unshipped(u64),
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
        match status.code() {
            // Nothing that we could say to it would help.
            Code::Unauthenticated => Self::Refused(status.message().to_owned()),
            // How HTTP/2 says that a connection is not secure enough; no service of ours says it for another reason.
            Code::PermissionDenied => Self::NeedsTls,
            code => Self::Broken(format!("{code:?}: {}", status.message())),
        }
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

/// Connects, trying again with a growing, jittered pause until it works or `shutdown` fires.
///
/// # Errors
/// A malformed address or token at once; [`LinkError::Stopped`] on shutdown.
pub async fn dial(route: impl Into<Route>, shutdown: &CancellationToken) -> Result<Link, LinkError> {
    dial_telling(&route.into(), shutdown, |_| {}).await
}

/// The same, and tells a person why it comes to nothing: at once where the two ends disagree, after some attempts where
/// the coordinator may not be there yet, and again now and then.
///
/// # Errors
/// As [`dial`].
pub async fn dial_telling(
    route: &Route,
    shutdown: &CancellationToken,
    tell: impl Fn(&str),
) -> Result<Link, LinkError> {
    let (endpoint, credentials) = (endpoint(&route.address)?, Credentials::of(route)?);
    let mut pause = FIRST_PAUSE;
    let mut failures = Failures::default();
    loop {
        let attempt = tokio::select! {
            attempt = connect::channel(route, &endpoint) => attempt,
            () = shutdown.cancelled() => return Err(LinkError::Stopped),
        };
        match attempt {
            Ok(channel) => return Ok(InterceptedService::new(channel, credentials)),
            Err(trouble) => failures.add(trouble).into_iter().for_each(|why| {
                tell(&format!("cannot reach coordinator {route} yet: {why}"));
            }),
        }
        // Half to all of the pause, so that a thousand nodes do not return in step.
        tokio::select! {
            () = tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            () = shutdown.cancelled() => return Err(LinkError::Stopped),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Which of many failed attempts are worth a word.
#[derive(Default)]
struct Failures {
    attempts: u32,
    told: Option<(u32, Trouble)>,
}

impl Failures {
    fn add(&mut self, trouble: Trouble) -> Option<Trouble> {
        self.attempts += 1;
        let is_patient = matches!(trouble, Trouble::Unreachable(_)) && self.attempts < QUIET_ATTEMPTS;
        let is_known = self.told.as_ref().is_some_and(|(at, told)| {
            // Of an absent coordinator the system has many words, which alternate where a name has several addresses.
            let same = *told == trouble
                || matches!((told, &trouble), (Trouble::Unreachable(_), Trouble::Unreachable(_)));
            same && self.attempts - at < REMIND_ATTEMPTS
        });
        if is_patient || is_known {
            return None;
        }
        self.told = Some((self.attempts, trouble.clone()));
        Some(trouble)
    }
}

fn endpoint(address: &str) -> Result<Endpoint, LinkError> {
    let bad = || LinkError::Address(address.to_owned());
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
        return Err(bad());
    }
    // The scheme is a word in a header here: how the connection is secured is the route's affair.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| bad())?;
    Ok(endpoint.http2_keep_alive_interval(Duration::from_secs(5)).keep_alive_timeout(Duration::from_secs(10)))
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
pub async fn join(channel: Link, hello: v1::Hello) -> Result<ControlLink, LinkError> {
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
