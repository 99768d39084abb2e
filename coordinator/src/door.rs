//! Who is let in: connections are secured and counted here before any of their bytes reaches gRPC, calls must show the
//! token, and whoever is turned away is told why where that can be, and so is the person who runs the coordinator.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tailcliff_proto::link::tls::Tls;
use tailcliff_proto::link::trouble;
use tailcliff_proto::link::{Io, Route};
use tailcliff_proto::secret::Secret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Interceptor;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::{Request, Status};

/// Connections at a time on one port: three nodes' worth of a thousand and more.
const CONNECTIONS: usize = 4096;
/// Of them, those that have not shown yet who they are.
const UNKNOWN: usize = 512;
/// Longest that one may take to do so.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long one that is turned away may take to read why.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Reasons and addresses that are counted apart.
const STRANGERS: usize = 256;
/// First byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;
/// An empty HTTP/2 SETTINGS frame: what every HTTP/2 server says first, and no TLS record.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// A GOAWAY frame that says INADEQUATE_SECURITY.
const GO_AWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12];

/// What a caller needs to be let in.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// Certificates on both sides; `None` in the clear.
    pub tls: Option<Tls>,
    /// Shown with each call; `None` for none.
    pub token: Option<Secret>,
}

/// It would be open to a network.
#[derive(Debug, thiserror::Error)]
#[error(
    "refusing to listen on {0} without TLS: whoever reaches it could join and read everything; give --tls-dir (see \
     `tailcliff certs`), listen on 127.0.0.1, or say --allow-unauthenticated"
)]
pub struct OpenDoor(SocketAddr);

impl Door {
    /// What is said over connections to `address` stays between the two ends.
    pub fn is_private(&self, address: SocketAddr) -> bool {
        self.tls.is_some() || address.ip().is_loopback()
    }

    /// Whether it may be opened at `address`.
    ///
    /// # Errors
    /// Beyond loopback without TLS.
    pub fn permit(&self, address: SocketAddr) -> Result<(), OpenDoor> {
        if self.is_private(address) { Ok(()) } else { Err(OpenDoor(address)) }
    }

    /// For the nodes of this process alone: with a token that nobody else knows.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn of_this_process() -> io::Result<Self> {
        Ok(Self { tls: None, token: Some(Secret::random()?) })
    }

    /// The way in for a node of this process.
    pub fn route(&self, address: String) -> Route {
        Route::new(address).with_tls(self.tls.clone()).with_token(self.token.clone())
    }

    /// What a person is told of it, if there is something to tell.
    pub fn words(&self, address: SocketAddr) -> Option<&'static str> {
        match (&self.tls, &self.token) {
            (Some(_), Some(_)) => Some("nodes need a certificate of this coordinator's CA, and its token"),
            (Some(_), None) => Some("nodes need a certificate of this coordinator's CA"),
            (None, _) if address.ip().is_loopback() => None,
            (None, Some(_)) => Some(
                "without TLS the token travels in the clear: let only your own hosts reach this port and the next",
            ),
            (None, None) => {
                Some("nodes are not authenticated: let only your own hosts reach this port and the next")
            }
        }
    }

    /// Who calls without the token is turned away.
    pub fn guard(&self, strangers: &Strangers) -> Guard {
        Guard { token: self.token.clone(), strangers: strangers.clone() }
    }

    /// Connections of `listener` that were let in; for as long as they are asked for.
    pub fn guests(&self, listener: TcpListener, strangers: Strangers) -> ReceiverStream<io::Result<Guest>> {
        let (out, guests) = mpsc::channel(16);
        let tls = self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.server()));
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        tokio::spawn(Porter { tls, slots, strangers, out }.receive(listener));
        ReceiverStream::new(guests)
    }
}

/// Checks the token of each call.
#[derive(Clone, Debug)]
pub struct Guard {
    token: Option<Secret>,
    strangers: Strangers,
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(token) = &self.token else { return Ok(request) };
        let shown = request.metadata().get("authorization").map(|value| value.as_encoded_bytes());
        let (ours, theirs) = match shown.and_then(|value| value.strip_prefix(b"Bearer ")) {
            Some(shown) if token.is(shown) => return Ok(request),
            Some(_) => ("its token is not this coordinator's", "its token is another one"),
            None => ("it came without a token", "it asks for a token"),
        };
        if let Some(peer) = request.remote_addr() {
            self.strangers.turned_away(peer, ours);
        }
        Err(Status::unauthenticated(format!(
            "{theirs}: give this node the coordinator's TAILCLIFF_TOKEN or --token-file"
        )))
    }
}

/// Tells a person who was turned away, without letting whoever knocks fill the screen.
#[derive(Clone, Debug)]
pub struct Strangers {
    out: mpsc::Sender<String>,
    counts: Arc<Mutex<HashMap<(IpAddr, String), u64>>>,
}

impl Strangers {
    /// Lines go to `out`; those that find it full are left out.
    pub fn new(out: mpsc::Sender<String>) -> Self {
        Self { out, counts: Arc::default() }
    }

    /// Tells of the first, the tenth, the hundredth time.
    fn turned_away(&self, peer: SocketAddr, why: &str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (peer.ip(), why.to_owned());
        if counts.len() >= STRANGERS && !counts.contains_key(&key) {
            return;
        }
        let count = counts.entry(key).or_default();
        *count += 1;
        if 10_u64.pow(count.ilog10()) == *count {
            let times = if *count > 1 { format!(" ({count} times so far)") } else { String::new() };
            // A screen that does not take it has more pressing things.
            let _full = self.out.try_send(format!("turned away {}: {why}{times}", peer.ip()));
        }
    }
}

/// Takes connections in.
struct Porter {
    tls: Option<TlsAcceptor>,
    slots: Arc<Semaphore>,
    strangers: Strangers,
    out: mpsc::Sender<io::Result<Guest>>,
}

impl Porter {
    async fn receive(self, listener: TcpListener) {
        let porter = Arc::new(self);
        let unknown = Arc::new(Semaphore::new(UNKNOWN));
        loop {
            // Those that are over the limit wait in the kernel's queue, for as long as one of the others may take.
            let Ok(permit) = unknown.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = porter.out.closed() => return,
            };
            let Ok((stream, peer)) = accepted else {
                // No descriptor left, or a connection that was gone at once: others may fare better.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let porter = porter.clone();
            tokio::spawn(async move {
                if let Ok(guest) = tokio::time::timeout(HANDSHAKE, porter.admit(stream, peer)).await {
                    drop(permit);
                    porter.show_in(guest, peer).await;
                } else {
                    porter.strangers.turned_away(peer, "it did not say who it is within 5 s");
                }
            });
        }
    }

    /// The connection, secured as asked; `None` when it was turned away.
    async fn admit(&self, mut stream: TcpStream, peer: SocketAddr) -> Option<Box<dyn Io>> {
        stream.set_nodelay(true).ok()?;
        let mut first = [0];
        // One that leaves without a word, such as a probe of the port, is not worth one.
        let is_tls =
            stream.peek(&mut first).await.ok().filter(|&n| n > 0).map(|_| first[0] == TLS_HANDSHAKE)?;
        match (&self.tls, is_tls) {
            (None, false) => Some(Box::new(stream)),
            (Some(tls), true) => match tls.accept(stream).await {
                Ok(stream) => Some(Box::new(stream)),
                Err(error) => {
                    self.strangers.turned_away(peer, &trouble::of_listener(&error));
                    None
                }
            },
            (Some(_), false) => {
                self.strangers.turned_away(peer, "it does not speak TLS: start it with --tls-dir");
                say_last(&mut stream, &[&SETTINGS[..], &GO_AWAY].concat()).await;
                None
            }
            (None, true) => {
                let why =
                    "it speaks TLS, and this coordinator does not: give --tls-dir to both or to neither";
                self.strangers.turned_away(peer, why);
                say_last(&mut stream, &SETTINGS).await;
                None
            }
        }
    }

    async fn show_in(&self, io: Option<Box<dyn Io>>, peer: SocketAddr) {
        let Some(io) = io else { return };
        match self.slots.clone().try_acquire_owned() {
            // Nobody listens any more at the end of a run.
            Ok(slot) => drop(self.out.send(Ok(Guest { io, peer, _slot: slot })).await),
            Err(_) => {
                self.strangers.turned_away(peer, "this coordinator has all the connections that it can hold")
            }
        }
    }
}

/// Says why and takes in what else comes: closed with unread bytes, a connection takes its last words with it.
async fn say_last(stream: &mut TcpStream, words: &[u8]) {
    let farewell = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _late = tokio::time::timeout(LAST_WORD, farewell).await;
}

/// A connection that was let in; holds one of the places.
pub struct Guest {
    io: Box<dyn Io>,
    peer: SocketAddr,
    _slot: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Guest({})", self.peer)
    }
}

impl Connected for Guest {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: None, remote_addr: Some(self.peer) }
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, to)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        all: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_private_without_tls() {
        let door = Door::default();
        for (address, private) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("0.0.0.0:1", false),
            ("10.0.0.1:1", false),
            ("[::]:1", false),
        ] {
            assert_eq!(door.permit(address.parse().unwrap()).is_ok(), private, "{address}");
        }
    }

    #[test]
    fn whoever_knocks_again_and_again_is_told_of_ever_more_seldom() {
        let (out, mut lines) = mpsc::channel(1024);
        let strangers = Strangers::new(out);
        for _ in 0..1000 {
            strangers.turned_away("10.0.0.1:7".parse().unwrap(), "no");
        }
        for host in 0..60_000_u16 {
            strangers.turned_away((std::net::Ipv4Addr::from(u32::from(host)), 7).into(), "no");
        }
        let told = std::iter::from_fn(|| lines.try_recv().ok()).collect::<Vec<_>>();
        assert_eq!(told.iter().filter(|line| line.contains("10.0.0.1:")).count(), 4, "1, 10, 100 and 1,000");
        assert_eq!(told.len(), 4 + STRANGERS - 1);
    }

    #[tokio::test]
    async fn a_full_house_turns_away_until_somebody_leaves() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ((out, mut guests), (tell, mut lines)) = (mpsc::channel(16), mpsc::channel(16));
        let porter =
            Porter { tls: None, slots: Arc::new(Semaphore::new(1)), strangers: Strangers::new(tell), out };
        tokio::spawn(porter.receive(listener));
        let knock = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"P").await.unwrap();
            stream
        };
        let _first = knock().await;
        let guest = guests.recv().await.unwrap().unwrap();
        let mut second = knock().await;
        assert!(lines.recv().await.unwrap().contains("all the connections"));
        assert!(!matches!(second.read(&mut [0]).await, Ok(1..)), "it was closed");
        drop(guest);
        let _third = knock().await;
        assert!(guests.recv().await.is_some());
    }
}
