//! One HTTP/1.1 connection of our own, with stamps taken where bytes cross the socket.
//!
//! The hyper connection is polled inside the request's own future and not by a task beside it: a read, its parsing and
//! the stamp's use then happen in one poll, with no wake-up between them. hyper reads on only when the body frame before
//! has been taken, so that the latest read's stamp, when a frame comes out, is that of the read that brought it. That
//! stamp is nearer to the truth than one taken when the frame is handled, by the time that hyper's framing takes: 1–2 µs,
//! measured with 64 streams in a debug build. What both share is the wait until a ready socket's turn comes.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::rt::{Read, ReadBufCursor, Write};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tailcliff_proto::clock::{HostClock, RawNs};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::target::Target;

/// One read takes at most this much; a token's chunk has a few hundred bytes.
const READ_BYTES: usize = 16 * 1024;
/// A reply's head beyond this is refused.
const MAX_HEAD: usize = 64 * 1024;

/// A connection that serves one request at a time.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Gone once it has ended: hyper's connection must not be polled again.
    wire: Option<http1::Connection<Wire, Full<Bytes>>>,
    socket: Arc<Socket>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("failed to resolve {0}: {1}")]
    Resolve(String, io::Error),
    #[error("failed to connect to {0}: {1}")]
    Connect(String, io::Error),
    #[error("failed to connect to {0}: no answer within {1:?}")]
    Timeout(String, Duration),
    #[error("failed to begin HTTP: {0}")]
    Http(#[from] hyper::Error),
}

impl Connection {
    /// Connects within the target's connect timeout, to the first of its addresses that answers.
    pub(crate) async fn open(target: &Target) -> Result<Connection, ConnectError> {
        let limit = target.connect_timeout();
        let overdue = |_| ConnectError::Timeout(target.authority(), limit);
        let stream = timeout(limit, connect(target)).await.map_err(overdue)??;
        let socket = Arc::new(Socket::new(stream));
        let wire = Wire { socket: Arc::clone(&socket), buffer: vec![0; READ_BYTES].into_boxed_slice() };
        let (sender, wire) = http1::Builder::new().max_header_size(MAX_HEAD).handshake(wire).await?;
        Ok(Connection { sender, wire: Some(wire), socket })
    }

    /// Forgets the stamps of the request before.
    pub(crate) fn begin(&self) {
        self.socket.begin();
    }

    /// Can take the next request: nothing is pending, and neither hyper nor the kernel knows of its end. The server may
    /// still be closing it at this moment.
    pub(crate) async fn is_reusable(&mut self) -> bool {
        // Asked first, so that an end that the kernel knows of is never taken for a free connection.
        let alive = self.socket.is_silent();
        alive && drive(&mut self.wire, self.sender.ready()).await.is_ok() && self.wire.is_some()
    }

    /// Sends a request and waits for the reply's head.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.socket.begin();
        let reply = self.sender.send_request(request);
        drive(&mut self.wire, reply).await
    }

    /// The next piece of the reply's body.
    pub(crate) async fn frame(&mut self, body: &mut Incoming) -> Option<hyper::Result<Frame<Bytes>>> {
        drive(&mut self.wire, body.frame()).await
    }

    /// When the latest read came back, ns RAW; the time of asking if there was none.
    pub(crate) fn read_at(&self) -> RawNs {
        stamp(&self.socket.read_at).unwrap_or_else(|| HostClock.now())
    }

    /// When the socket was given the last bytes of this request, ns RAW; `None` while it has not taken them.
    pub(crate) fn sent_at(&self) -> Option<RawNs> {
        stamp(&self.socket.sent_at)
    }

    /// The server has sent something since the request began.
    pub(crate) fn heard_back(&self) -> bool {
        self.socket.read_bytes.load(Relaxed) > 0
    }

    /// The server ends the connection within this time, with nothing being asked of it.
    pub(crate) async fn closes_within(&self, limit: Duration) -> bool {
        let peeked = timeout(limit, self.socket.stream.peek(&mut [0])).await;
        matches!(peeked, Ok(Ok(0) | Err(_)))
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("open", &self.wire.is_some()).finish_non_exhaustive()
    }
}

async fn connect(target: &Target) -> Result<TcpStream, ConnectError> {
    let addresses = addresses(target).await?;
    // One that does not answer leaves the others their time.
    let each = target.connect_timeout() / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for &address in addresses {
        match connect_to(address, each).await {
            Ok(stream) => return Ok(stream),
            Err(e) => failure = e,
        }
    }
    Err(ConnectError::Connect(target.authority(), failure))
}

async fn connect_to(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let overdue = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
    let stream = timeout(limit, TcpStream::connect(address)).await.map_err(overdue)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The target's addresses, asked for once: a load test measures one server, not its name service.
pub(crate) async fn addresses(target: &Target) -> Result<&Vec<SocketAddr>, ConnectError> {
    target.addresses.get_or_try_init(|| resolve(target)).await
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, ConnectError> {
    let found = lookup_host((target.host(), target.port())).await;
    found.map(Iterator::collect).map_err(|e| ConnectError::Resolve(target.authority(), e))
}

/// Polls `work` with the connection that it waits on, in one task.
async fn drive<F: Future>(wire: &mut Option<http1::Connection<Wire, Full<Bytes>>>, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(output) = work.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        // How the connection ended reaches `work` by itself.
        if wire.as_mut().is_some_and(|w| Pin::new(w).poll(cx).is_ready()) {
            *wire = None;
        }
        work.as_mut().poll(cx)
    })
    .await
}

/// The socket and the stamps of the request that is on it; 0 is "not yet".
struct Socket {
    stream: TcpStream,
    read_at: AtomicI64,
    read_bytes: AtomicU64,
    /// The latest write, which becomes `sent_at` when hyper has nothing more to write.
    written_at: AtomicI64,
    sent_at: AtomicI64,
}

impl Socket {
    fn new(stream: TcpStream) -> Socket {
        Socket {
            stream,
            read_at: AtomicI64::new(0),
            read_bytes: AtomicU64::new(0),
            written_at: AtomicI64::new(0),
            sent_at: AtomicI64::new(0),
        }
    }

    fn begin(&self) {
        self.read_bytes.store(0, Relaxed);
        [&self.read_at, &self.written_at, &self.sent_at].into_iter().for_each(|s| s.store(0, Relaxed));
    }

    fn has_read(&self, bytes: usize) {
        self.read_at.store(HostClock.now(), Relaxed);
        self.read_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// No end and no unasked-for bytes have come. Asks the kernel itself: the runtime learns of them only when it next
    /// turns.
    fn is_silent(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.stream.as_raw_fd(), &mut [0], flags) == Err(Errno::EAGAIN)
    }
}

fn stamp(cell: &AtomicI64) -> Option<RawNs> {
    Some(cell.load(Relaxed)).filter(|&at| at != 0)
}

/// The socket as hyper uses it.
struct Wire {
    socket: Arc<Socket>,
    buffer: Box<[u8]>,
}

impl Wire {
    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.stream.poll_write_ready(cx))?;
            // Before the call: on a loopback the server can have read the request before the call returns, and an effect
            // must not be dated before its cause.
            let at = HostClock.now();
            match write(&self.socket.stream) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.socket.written_at.store(at, Relaxed);
                    return Poll::Ready(result);
                }
            }
        }
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let room = out.remaining().min(this.buffer.len());
        loop {
            ready!(this.socket.stream.poll_read_ready(cx))?;
            match this.socket.stream.try_read(&mut this.buffer[..room]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
                Ok(bytes) => {
                    this.socket.has_read(bytes);
                    out.put_slice(&this.buffer[..bytes]);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write_vectored(parts))
    }

    /// hyper flushes when its own buffer is empty: then the latest write was the request's last.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(at) = stamp(&self.socket.written_at) {
            self.socket.sent_at.store(at, Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    /// Dropping the socket closes it, and nothing of ours is left to be written by then.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
