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
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Interceptor;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

/// Connections at a time on one port: three nodes' worth of a thousand and more.
const CONNECTIONS: usize = 4096;
/// Of them, those that have made no call yet that was accepted: nodes make theirs within a round trip or two.
pub const UNKNOWN: usize = 256;
/// Longest that one may take to say what it speaks, and to secure its connection.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Longest that it may then take to make such a call.
const FIRST_CALL: Duration = Duration::from_secs(10);
/// How often it is looked whether the rest of a first word has come.
const GLANCE: Duration = Duration::from_millis(20);
/// How long one that is turned away may take to read why.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Reasons and addresses that are counted apart.
const STRANGERS: usize = 256;
/// First byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;
/// What a client of HTTP/2 says first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
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
        Route::new(address).with_tls(self.tls.as_ref().map(Tls::to_self)).with_token(self.token.clone())
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

impl Guard {
    /// Why a call is not accepted, as we and as the caller are told.
    fn objection(&self, request: &Request<()>) -> Option<(&'static str, &'static str)> {
        let token = self.token.as_ref()?;
        let shown = request.metadata().get("authorization").map(|value| value.as_encoded_bytes());
        match shown.and_then(|value| value.strip_prefix(b"Bearer ")) {
            Some(shown) if token.is(shown) => None,
            Some(_) => Some(("its token is not this coordinator's", "its token is another one")),
            None => Some(("it came without a token", "it asks for a token")),
        }
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let caller = request.extensions().get::<Caller>();
        let Some((ours, theirs)) = self.objection(&request) else {
            caller.into_iter().for_each(Caller::accept);
            return Ok(request);
        };
        if let Some(caller) = caller {
            self.strangers.turned_away(caller.peer, ours);
        }
        Err(Status::unauthenticated(format!(
            "{theirs}: give this node the coordinator's TAILCLIFF_TOKEN or --token-file"
        )))
    }
}

/// What a call knows of its connection.
#[derive(Clone, Debug)]
pub struct Caller {
    peer: SocketAddr,
    /// A place among the unknown, until a call was accepted.
    unknown: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Caller {
    fn accept(&self) {
        drop(self.unknown.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn is_known(&self) -> bool {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).is_none()
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
                    porter.show_in(guest, Caller { peer, unknown: Arc::new(Mutex::new(Some(permit))) }).await;
                } else {
                    porter.strangers.turned_away(peer, "it did not say who it is within 5 s");
                }
            });
        }
    }

    /// The connection, secured as asked; `None` when it was turned away.
    async fn admit(&self, mut stream: TcpStream, peer: SocketAddr) -> Option<Box<dyn Io>> {
        stream.set_nodelay(true).ok()?;
        // One that leaves without a word, such as a probe of the port, is not worth one.
        match (&self.tls, first_word(&stream).await?) {
            (None, FirstWord::Http2) => Some(Box::new(stream)),
            (None, FirstWord::Other) => {
                self.strangers.turned_away(peer, "it speaks no gRPC");
                None
            }
            (Some(tls), FirstWord::Tls) => match tls.accept(stream).await {
                Ok(stream) => Some(Box::new(stream)),
                Err(error) => {
                    self.strangers.turned_away(peer, &trouble::of_listener(&error));
                    None
                }
            },
            (Some(_), FirstWord::Http2 | FirstWord::Other) => {
                self.strangers.turned_away(peer, "it does not speak TLS: start it with --tls-dir");
                say_last(&mut stream, &[&SETTINGS[..], &GO_AWAY].concat()).await;
                None
            }
            (None, FirstWord::Tls) => {
                let why =
                    "it speaks TLS, and this coordinator does not: give --tls-dir to both or to neither";
                self.strangers.turned_away(peer, why);
                say_last(&mut stream, &SETTINGS).await;
                None
            }
        }
    }

    async fn show_in(&self, io: Option<Box<dyn Io>>, caller: Caller) {
        let Some(io) = io else { return };
        match self.slots.clone().try_acquire_owned() {
            Ok(slot) => {
                let standing = Standing::Unknown(Box::pin(tokio::time::sleep(FIRST_CALL)));
                let guest = Guest { io, caller, standing, strangers: self.strangers.clone(), _slot: slot };
                // Nobody listens any more at the end of a run.
                let _over = self.out.send(Ok(guest)).await;
            }
            Err(_) => self
                .strangers
                .turned_away(caller.peer, "this coordinator has all the connections that it can hold"),
        }
    }
}

/// What a connection speaks, by its first bytes.
enum FirstWord {
    Tls,
    Http2,
    Other,
}

/// Waits for as much as it takes to know, and leaves it unread; `None` when the other end is gone.
async fn first_word(stream: &TcpStream) -> Option<FirstWord> {
    let mut first = [0; PREFACE.len()];
    loop {
        let n = stream.peek(&mut first).await.ok().filter(|&n| n > 0)?;
        match &first[..n] {
            [TLS_HANDSHAKE, ..] => return Some(FirstWord::Tls),
            said if said == PREFACE => return Some(FirstWord::Http2),
            said if !PREFACE.starts_with(said) => return Some(FirstWord::Other),
            // What is there stays readable: asked at once, it would be seen over and over.
            _ => tokio::time::sleep(GLANCE).await,
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

/// A connection that was let in; holds one of the places. It ends when no call of it is accepted in time: HTTP/2 itself
/// would wait for one as long as the other end likes.
pub struct Guest {
    io: Box<dyn Io>,
    caller: Caller,
    standing: Standing,
    strangers: Strangers,
    _slot: OwnedSemaphorePermit,
}

enum Standing {
    Unknown(Pin<Box<Sleep>>),
    Known,
    Overdue,
}

impl Guest {
    /// May it still be here?
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Standing::Unknown(patience) = &mut self.standing {
            if self.caller.is_known() {
                self.standing = Standing::Known;
            } else if patience.as_mut().poll(cx).is_ready() {
                self.strangers.turned_away(self.caller.peer, "it made no call that was accepted within 10 s");
                self.standing = Standing::Overdue;
            }
        }
        let is_overdue = matches!(self.standing, Standing::Overdue);
        if is_overdue { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Guest({})", self.caller.peer)
    }
}

impl Connected for Guest {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, to)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
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
        self.check(cx)?;
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

    #[test]
    fn one_stays_among_the_unknown_until_a_call_of_it_is_accepted() {
        let unknown = Arc::new(Semaphore::new(1));
        let permit = unknown.clone().try_acquire_owned().unwrap();
        let caller =
            Caller { peer: "10.0.0.1:7".parse().unwrap(), unknown: Arc::new(Mutex::new(Some(permit))) };
        let token = Some(Secret::new("0123456789abcdef".to_owned()));
        let mut guard = Door { tls: None, token }.guard(&Strangers::new(mpsc::channel(1).0));
        let mut call = |token: &str| {
            let mut request = Request::new(());
            request.extensions_mut().insert(caller.clone());
            request.metadata_mut().insert("authorization", token.parse().unwrap());
            (guard.call(request).is_ok(), caller.is_known(), unknown.available_permits())
        };
        assert_eq!(call("Bearer hunter2"), (false, false, 0));
        assert_eq!(call("Bearer 0123456789abcdef"), (true, true, 1));
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
            stream.write_all(PREFACE).await.unwrap();
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
