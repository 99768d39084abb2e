//! The TCP socket of one connection, with stamps taken where bytes cross it.
//!
//! Where the kernel stamps what it receives (`SO_TIMESTAMPING` with `RX_SOFTWARE`), each read tells how long its bytes had
//! lain there: that the client read late is then measured and not guessed. Such a stamp dates the *last* bytes of a read,
//! and is wall clock: it is compared at once with the wall clock's own now, so that only a step within that wait could
//! falsify it. The kernel begins to stamp a moment after the first socket has asked: reads before that have none.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::Timestamping;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, TimestampingFlag, Timestamps, recv, recvmsg, setsockopt,
};
use nix::sys::time::TimeSpec;
use tailcliff_proto::clock::{HostClock, RawNs};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A wait beyond this is a clock that was set and no wait, ns.
const LONGEST_WAIT_NS: i64 = 3_600_000_000_000;

/// When bytes were read, and how long the newest of them had lain in the socket where the kernel told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) at: RawNs,
    pub(crate) waited_ns: Option<u64>,
    /// Number of the read, from the socket's first: TLS and HTTP/2 hand out one read in several pieces.
    pub(crate) read: u64,
}

/// The stamps of the request that is on a socket; 0 is "not yet". Shared with whoever drives the connection.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    read_at: AtomicI64,
    reads: AtomicU64,
    /// Of the latest read: ns waited + 1, 0 for unknown.
    waited: AtomicU64,
    wait_max: AtomicU64,
    /// Sum of known waits, ns, and how many there were.
    wait_sum: AtomicU64,
    waits: AtomicU64,
    /// The latest write, which becomes `sent_at` when there is nothing more to write.
    written_at: AtomicI64,
    sent_at: AtomicI64,
}

impl Stamps {
    /// Forgets the request before.
    pub(crate) fn begin(&self) {
        [&self.read_at, &self.written_at, &self.sent_at].into_iter().for_each(|s| s.store(0, Relaxed));
        [&self.waited, &self.wait_max, &self.wait_sum, &self.waits]
            .into_iter()
            .for_each(|s| s.store(0, Relaxed));
    }

    fn has_read(&self, waited_ns: Option<u64>) {
        self.read_at.store(HostClock.now(), Relaxed);
        add(&self.reads, 1);
        self.waited.store(waited_ns.map_or(0, |ns| ns + 1), Relaxed);
        if let Some(ns) = waited_ns {
            self.wait_max.store(self.wait_max.load(Relaxed).max(ns), Relaxed);
            add(&self.wait_sum, ns);
            add(&self.waits, 1);
        }
    }

    /// The latest read; the time of asking if there was none.
    pub(crate) fn arrival(&self) -> Arrival {
        let waited_ns = self.waited.load(Relaxed).checked_sub(1);
        let at = self.read_at().unwrap_or_else(|| HostClock.now());
        Arrival { at, waited_ns, read: self.reads.load(Relaxed) }
    }

    /// When the latest read came back, ns RAW.
    pub(crate) fn read_at(&self) -> Option<RawNs> {
        stamp(&self.read_at)
    }

    /// When the socket was given the last bytes of this request, ns RAW; `None` while it has not taken them.
    pub(crate) fn sent_at(&self) -> Option<RawNs> {
        stamp(&self.sent_at)
    }

    /// The latest write was the request's last.
    pub(crate) fn has_sent(&self) {
        // HTTP/2 writes on for its own ends, such as the answer to a ping: the first flush is the request's.
        if self.sent_at().is_none() {
            self.sent_at.store(self.written_at.load(Relaxed), Relaxed);
        }
    }

    /// The longest wait of this request's bytes in the socket and the sum of all, ns; `None` where the kernel gave no stamp.
    pub(crate) fn waits(&self) -> Option<(u64, u64)> {
        let known = self.waits.load(Relaxed) > 0;
        known.then(|| (self.wait_max.load(Relaxed), self.wait_sum.load(Relaxed)))
    }
}

/// One writer: a plain load and store, where `fetch_add` would lock the bus.
fn add(to: &AtomicU64, more: u64) {
    to.store(to.load(Relaxed).saturating_add(more), Relaxed);
}

fn stamp(cell: &AtomicI64) -> Option<RawNs> {
    Some(cell.load(Relaxed)).filter(|&at| at != 0)
}

/// A connected socket.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    stamps: Arc<Stamps>,
    /// Room for the kernel's stamp; empty where it gives none.
    control: Vec<u8>,
}

impl Socket {
    /// Connects within `limit`; its stamps go to `stamps`.
    pub(crate) async fn connect(
        address: SocketAddr,
        limit: Duration,
        stamps: Arc<Stamps>,
    ) -> io::Result<Socket> {
        let overdue = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
        let stream = timeout(limit, TcpStream::connect(address)).await.map_err(overdue)??;
        stream.set_nodelay(true)?;
        let flags =
            TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
        let control = match setsockopt(&stream, Timestamping, &flags) {
            Ok(()) => cmsg_space!(Timestamps),
            Err(_) => Vec::new(),
        };
        Ok(Socket { stream, stamps, control })
    }

    pub(crate) fn stamps(&self) -> &Arc<Stamps> {
        &self.stamps
    }

    /// No end and no unasked-for bytes have come. Asks the kernel itself: the runtime learns of them only when it next
    /// turns.
    pub(crate) fn is_silent(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.stream.as_raw_fd(), &mut [0], flags) == Err(Errno::EAGAIN)
    }

    /// The server ends the connection within this time, with nothing being asked of it.
    pub(crate) async fn closes_within(&self, limit: Duration) -> bool {
        let peeked = timeout(limit, self.stream.peek(&mut [0])).await;
        matches!(peeked, Ok(Ok(0) | Err(_)))
    }

    /// Reads what is there; 0 bytes at the connection's end.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.try_recv(into) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn try_recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (fd, room) = (self.stream.as_raw_fd(), into.len());
        let mut got = None;
        let tried = self.stream.try_io(Interest::READABLE, || {
            let (bytes, stamped) = receive(fd, into, &mut self.control)?;
            got = Some(bytes);
            self.stamps.has_read(stamped.and_then(waited_ns));
            // A read that leaves room has emptied the socket (epoll(7), on edges): the runtime need not try again to find out.
            if 0 < bytes && bytes < room { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match got {
            Some(bytes) => Ok(bytes),
            None => tried.map(|()| 0),
        }
    }

    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            // Before the call: on a loopback the server can have read the request before the call returns, and an effect
            // must not be dated before its cause.
            let at = HostClock.now();
            match write(&self.stream) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.stamps.written_at.store(at, Relaxed);
                    return Poll::Ready(result);
                }
            }
        }
    }
}

/// One `recvmsg`: the bytes read and the kernel's stamp of the last of them, ns since the epoch.
fn receive(fd: i32, into: &mut [u8], control: &mut [u8]) -> io::Result<(usize, Option<i64>)> {
    if control.is_empty() {
        return Ok((recv(fd, into, MsgFlags::empty())?, None));
    }
    let mut parts = [IoSliceMut::new(into)];
    let message = recvmsg::<()>(fd, &mut parts, Some(control), MsgFlags::empty())?;
    let stamped = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampsns(stamps) => Some(ns(stamps.system)).filter(|&ns| ns != 0),
        _ => None,
    });
    Ok((message.bytes, stamped))
}

fn ns(time: TimeSpec) -> i64 {
    time.tv_sec().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec())
}

fn waited_ns(stamped: i64) -> Option<u64> {
    let waited = HostClock.realtime() - stamped;
    u64::try_from(waited).ok().filter(|_| waited < LONGEST_WAIT_NS)
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(self.poll_recv(cx, into.initialize_unfilled()))?;
        into.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
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

    /// Flushed when nothing of the request is left to write: the latest write was its last.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stamps.has_sent();
        Poll::Ready(Ok(()))
    }

    /// Dropping the socket closes it, and nothing of ours is left to be written by then.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limit = Duration::from_secs(10);
        let (socket, peer) = tokio::join!(Socket::connect(address, limit, Arc::default()), listener.accept());
        (socket.unwrap(), peer.unwrap().0)
    }

    async fn read(socket: &mut Socket, room: usize) -> (Vec<u8>, Arrival) {
        let mut into = vec![0; room];
        let bytes = poll_fn(|cx| socket.poll_recv(cx, &mut into)).await.unwrap();
        into.truncate(bytes);
        (into, socket.stamps().arrival())
    }

    #[tokio::test]
    async fn a_late_reader_is_told_how_late_it_is() {
        let (mut socket, mut peer) = pair().await;
        assert!(!socket.control.is_empty(), "this kernel stamps what it receives");
        // The kernel begins to stamp when somebody first asks, and not at once (net_enable_timestamp).
        for _ in 0..2_000 {
            peer.write_all(b"first").await.unwrap();
            if read(&mut socket, 100).await.1.waited_ns.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        socket.stamps().begin();
        let mut waits = Vec::new();
        for late_ms in [0, 300, 0] {
            let written = HostClock.now();
            peer.write_all(b"token").await.unwrap();
            // The runtime is blocked, as by work of its own.
            std::thread::sleep(Duration::from_millis(late_ms));
            let (bytes, arrival) = read(&mut socket, 100).await;
            assert_eq!(bytes, b"token");
            let waited = arrival.waited_ns.unwrap();
            assert!(waited >= late_ms * 1_000_000, "{waited}");
            let arrived = arrival.at - waited as i64;
            assert!(written <= arrived && arrived <= arrival.at, "{written} {arrived} {}", arrival.at);
            waits.push(waited);
        }
        assert_eq!(socket.stamps().waits(), Some((waits[1].max(waits[0]).max(waits[2]), waits.iter().sum())));
        socket.stamps().begin();
        assert_eq!((socket.stamps().waits(), socket.stamps().read_at()), (None, None));
    }

    #[tokio::test]
    async fn short_reads_and_full_ones_lose_nothing() {
        let (mut socket, mut peer) = pair().await;
        peer.write_all(b"abcdefgh").await.unwrap();
        let mut seen = Vec::new();
        for room in [3, 3, 2] {
            seen.extend(read(&mut socket, room).await.0);
        }
        peer.write_all(b"ijk").await.unwrap();
        seen.extend(read(&mut socket, 8).await.0);
        peer.write_all(b"l").await.unwrap();
        drop(peer);
        seen.extend(read(&mut socket, 8).await.0);
        assert_eq!(seen, b"abcdefghijkl");
        assert_eq!(read(&mut socket, 8).await.0, b"", "the end is seen behind a short read");
    }
}
