//! One attempt at one connection: TCP, then TLS, then the first bytes of the other end, so that whatever a peer objects to
//! comes out here and not as a broken stream later.

use std::future::{Ready, ready};
use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::codegen::http::Uri;
use tonic::codegen::{Context, Poll, Service};
use tonic::transport::{Channel, Endpoint};

use super::Route;
use super::trouble::{self, Trouble};

/// Longest that a connection may take, secured and with the first word of the other end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a connection's bytes go through.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connects once.
pub(super) async fn channel(route: &Route, endpoint: &Endpoint) -> Result<Channel, Trouble> {
    let connected = tokio::time::timeout(PATIENCE, stream(route)).await;
    let stream = connected.unwrap_or_else(|_| Err(Trouble::Silent(PATIENCE)))?;
    let once = Once(Some(stream));
    endpoint.connect_with_connector(once).await.map_err(|e| Trouble::Unreachable(trouble::innermost(&e)))
}

async fn stream(route: &Route) -> Result<Box<dyn Io>, Trouble> {
    let unreachable = |e: io::Error| Trouble::Unreachable(e.to_string());
    let tcp = TcpStream::connect(route.address()).await.map_err(unreachable)?;
    // Where nobody listens on a port that this host also dials from, TCP lets a socket meet itself, and keeps the port.
    if tcp.local_addr().and_then(|own| Ok(own == tcp.peer_addr()?)).unwrap_or(false) {
        return Err(Trouble::Unreachable("connection refused".to_owned()));
    }
    // A ping must not wait for the ack of the one before.
    tcp.set_nodelay(true).map_err(unreachable)?;
    let Some(tls) = &route.tls else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(route.host().to_owned())
        .map_err(|_| Trouble::Tls(format!("{:?} is no name that a certificate can have", route.host())))?;
    let failed = |e: io::Error| trouble::of_dialler(&e, route.host());
    let mut stream = TlsConnector::from(tls.client()).connect(name, tcp).await.map_err(failed)?;
    // In TLS 1.3 a client is done before the server has seen its certificate: only a first word says that it was taken.
    // HTTP/2 servers speak unasked.
    match stream.fill_buf().await {
        Ok([]) => Err(Trouble::Tls("the coordinator closed the connection without a word".to_owned())),
        Ok(_) => Ok(Box::new(stream)),
        Err(error) => Err(failed(error)),
    }
}

/// Hands over the one connection that there is: dialling again is our own affair, since we tell how it fares.
struct Once(Option<Box<dyn Io>>);

impl Service<Uri> for Once {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        ready(stream.map(TokioIo::new))
    }
}
