//! One connection of our own, which serves one request at a time and never sends one twice. A read, its parsing and the
//! stamp's use happen in one poll of the request's own future, with no task beside it and no wake-up between.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::lookup_host;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::failure::{ErrorKind, Failure, chain};
use crate::http1::{Decoder, Part};
use crate::http2::Http2;
use crate::reply::{DRAIN, Reply};
use crate::socket::{Arrival, Socket, Stamps};
use crate::target::Target;

/// What one read takes at most. One buffer for each thread: a read is parsed before anything else is read.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// A request as it goes out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outgoing<'a> {
    /// A prompt.
    Post { request_id: &'a str, body: &'a Bytes },
    /// The list of models.
    Models,
}

/// A connection in either version of HTTP.
#[derive(Debug)]
pub(crate) enum Connection {
    Http1(Box<Http1>),
    Http2(Box<Http2>),
}

impl Connection {
    /// Connects within the target's connect timeout, TLS and all, to the first of its addresses that answers.
    /// Stamps go to `stamps`.
    pub(crate) async fn open(target: &Target, stamps: &Arc<Stamps>) -> Result<Connection, Failure> {
        let limit = target.connect_timeout();
        let securing = AtomicBool::new(false);
        let overdue = |_| match securing.load(Relaxed) {
            true => {
                let detail =
                    format!("{} took the connection, but does not answer in TLS", target.authority());
                Failure::new(ErrorKind::Tls, detail)
            }
            false => {
                let detail =
                    format!("failed to connect to {}: no answer within {limit:?}", target.authority());
                Failure::new(ErrorKind::ConnectTimeout, detail)
            }
        };
        timeout(limit, open(target, stamps, &securing)).await.map_err(overdue)?
    }

    /// Can take the next request: nothing is pending, and neither HTTP nor the kernel knows of its end. The server may
    /// still be closing it at this moment.
    pub(crate) async fn is_reusable(&mut self) -> bool {
        match self {
            Connection::Http1(connection) => connection.stream.socket().is_silent(),
            Connection::Http2(connection) => connection.is_ready().await,
        }
    }

    /// Sends a request and reads its reply into `reply`; true when the connection can serve again.
    pub(crate) async fn exchange(
        &mut self,
        target: &Target,
        request: Outgoing<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<bool, Failure> {
        match self {
            Connection::Http1(connection) => connection.exchange(target, request, reply).await,
            Connection::Http2(connection) => connection.exchange(target, request, reply).await,
        }
    }

    /// The server ends the connection within this time, with nothing being asked of it.
    pub(crate) async fn closes_within(&self, limit: Duration) -> bool {
        match self {
            Connection::Http1(connection) => connection.stream.socket().closes_within(limit).await,
            Connection::Http2(connection) => timeout(limit, connection.closed()).await.is_ok(),
        }
    }
}

async fn open(target: &Target, stamps: &Arc<Stamps>, securing: &AtomicBool) -> Result<Connection, Failure> {
    let socket = connect(target, stamps).await?;
    let stream = match target.tls() {
        None => Stream::Plain(socket),
        Some(tls) => {
            securing.store(true, Relaxed);
            let secured = tls.connector.connect(tls.name.clone(), socket).await;
            let detail =
                |e: io::Error| format!("failed to set up TLS with {}: {}", target.authority(), chain(&e));
            Stream::Tls(Box::new(secured.map_err(|e| Failure::new(ErrorKind::Tls, detail(e)))?))
        }
    };
    if target.http2() {
        return Ok(Connection::Http2(Box::new(Http2::begin(stream).await?)));
    }
    Ok(Connection::Http1(Box::new(Http1 { stream, decoder: Decoder::new(), head: Vec::new() })))
}

async fn connect(target: &Target, stamps: &Arc<Stamps>) -> Result<Socket, Failure> {
    let addresses = addresses(target).await?;
    // One that does not answer leaves the others their time.
    let each = target.connect_timeout() / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for &address in addresses {
        match Socket::connect(address, each, Arc::clone(stamps)).await {
            Ok(socket) => return Ok(socket),
            Err(e) => failure = e,
        }
    }
    let detail = format!("failed to connect to {}: {failure}", target.authority());
    Err(Failure::new(ErrorKind::of_connect(&failure), detail))
}

/// The target's addresses, asked for once: a load test measures one server, not its name service.
pub(crate) async fn addresses(target: &Target) -> Result<&Vec<std::net::SocketAddr>, Failure> {
    let resolve = || async { lookup_host((target.host(), target.port())).await.map(Iterator::collect) };
    let detail = |e: io::Error| format!("failed to resolve {}: {e}", target.authority());
    target.addresses.get_or_try_init(resolve).await.map_err(|e| Failure::new(ErrorKind::Resolve, detail(e)))
}

/// What HTTP is spoken over.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    pub(crate) fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(secured) => secured.get_ref().0,
        }
    }

    fn inner(&mut self) -> Pin<&mut (dyn AsyncWrite + Send + Unpin)> {
        match self {
            Stream::Plain(socket) => Pin::new(socket),
            Stream::Tls(secured) => Pin::new(secured.as_mut()),
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => socket.poll_recv(cx, into),
            Stream::Tls(secured) => {
                let mut into = ReadBuf::new(into);
                ready!(Pin::new(secured.as_mut()).poll_read(cx, &mut into))?;
                Poll::Ready(Ok(into.filled().len()))
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let bytes = ready!(self.get_mut().poll_recv(cx, into.initialize_unfilled()))?;
        into.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().inner().poll_write(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().inner().poll_write_vectored(cx, parts)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner().poll_shutdown(cx)
    }
}

/// HTTP/1.1 on a stream.
#[derive(Debug)]
pub(crate) struct Http1 {
    stream: Stream,
    decoder: Decoder,
    /// The head of the request, kept for its memory.
    head: Vec<u8>,
}

/// What one read came to.
enum Read {
    More,
    /// The reply is whole; true when the connection can serve again.
    Whole(bool),
    /// The connection ended.
    End,
}

impl Http1 {
    async fn exchange(
        &mut self,
        target: &Target,
        request: Outgoing<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<bool, Failure> {
        let begun = reply.encoding_begins();
        self.decoder.begin();
        self.head.clear();
        let body: &[u8] = match request {
            Outgoing::Post { request_id, body } => {
                target.write_head(&mut self.head, request_id, body.len());
                body
            }
            Outgoing::Models => {
                target.write_models_head(&mut self.head);
                &[]
            }
        };
        reply.encoding_ends(begun);
        // A server that refuses a request half-way answers and closes: its words are worth more than our broken pipe.
        let written = self.write(body).await;
        if written.is_ok() {
            reply.has_sent(self.stream.socket().stamps().sent_at());
            reply.pause().await;
        }
        loop {
            if reply.is_over() {
                return self.drain(reply).await;
            }
            match self.read(reply).await {
                Ok(Read::More) => {}
                Ok(Read::Whole(keep)) => return Ok(keep && written.is_ok()),
                Ok(Read::End) if reply.has_begun() || written.is_ok() => {
                    return reply.early_end("it was closed");
                }
                Err(Failure { kind: ErrorKind::EarlyEnd, detail, .. }) if written.is_ok() => {
                    return reply.early_end(&detail);
                }
                Err(failure) if written.is_ok() || failure.kind != ErrorKind::EarlyEnd => {
                    return Err(failure);
                }
                Ok(Read::End) | Err(_) => {
                    let why = written.map_or_else(|e| e.to_string(), |()| String::new());
                    return reply.early_end(&format!("failed to send the request: {why}"));
                }
            }
        }
    }

    /// Reads on to the end of the reply's framing after its own; true when it came and the connection can serve again.
    async fn drain(&mut self, reply: &mut Reply<'_>) -> Result<bool, Failure> {
        let rest = async {
            loop {
                match self.read(reply).await {
                    Ok(Read::More) => {}
                    Ok(Read::Whole(keep)) => return keep,
                    Ok(Read::End) | Err(_) => return false,
                }
            }
        };
        Ok(timeout(DRAIN, rest).await.unwrap_or(false))
    }

    async fn write(&mut self, body: &[u8]) -> io::Result<()> {
        let (mut done, all) = (0, self.head.len() + body.len());
        while done < all {
            let head = self.head.get(done..).unwrap_or_default();
            let tail = body.get(done.saturating_sub(self.head.len())..).unwrap_or_default();
            let parts = [IoSlice::new(head), IoSlice::new(tail)];
            let stream = &mut self.stream;
            let written = poll_fn(|cx| Pin::new(&mut *stream).poll_write_vectored(cx, &parts)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += written;
        }
        poll_fn(|cx| Pin::new(&mut self.stream).poll_flush(cx)).await
    }

    /// One read, taken in at once.
    async fn read(&mut self, reply: &mut Reply<'_>) -> Result<Read, Failure> {
        poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let bytes = match ready!(self.stream.poll_recv(cx, scratch)) {
                    Ok(0) => return Poll::Ready(self.take_end(reply)),
                    Ok(bytes) => bytes,
                    Err(e) => return Poll::Ready(Err(Failure::new(ErrorKind::EarlyEnd, chain(&e)))),
                };
                let arrival = self.stream.socket().stamps().arrival();
                let taken = self.take(&scratch[..bytes], arrival, reply);
                reply.has_handled(arrival);
                Poll::Ready(taken)
            })
        })
        .await
    }

    fn take(&mut self, bytes: &[u8], arrival: Arrival, reply: &mut Reply<'_>) -> Result<Read, Failure> {
        let mut whole = false;
        let left = self.decoder.feed(bytes, |part| match part {
            Part::Head(head) => reply.head(head, arrival),
            Part::Body(bytes) => reply.body(bytes, arrival),
            Part::End => {
                whole = true;
                reply.end(arrival)
            }
        })?;
        // Bytes that nobody asked for: the next reply would begin with them.
        let keep = left == 0 && self.decoder.keeps_alive();
        Ok(if whole { Read::Whole(keep) } else { Read::More })
    }

    fn take_end(&mut self, reply: &mut Reply<'_>) -> Result<Read, Failure> {
        if self.decoder.ends_here() {
            reply.end(self.stream.socket().stamps().arrival())?;
            return Ok(Read::Whole(false));
        }
        Ok(Read::End)
    }
}
