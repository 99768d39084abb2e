//! Takes spans in OTLP: over gRPC, and over HTTP/1.1 and HTTP/2 as protobuf and JSON, on one port. An exporter is a peer like
//! any other: what it may take of time, memory and connections is bounded, and what it sends is counted.
//!
//! What a span costs: its attributes are looked at where they lie, and what is kept of it is copied once. With vLLM's
//! thirteen attributes, in exports of 100, that is 16 µs of this thread a span in an unoptimised build, where 200 µs would be a
//! fiftieth of a core at 100 spans a second; the test named after that measures it.

mod body;
mod json;
mod keep;
mod protobuf;
mod receive;
mod reply;
mod span;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Sink;
use receive::Receiver;
pub(super) use span::cut;

/// Connections at a time: a server's processes have one each.
const MOST_CONNECTIONS: usize = 64;
/// Calls at a time on one connection; an exporter has one.
const MOST_CALLS: u32 = 8;
/// Head of a request, bytes.
const HEAD_BYTES: usize = 16 << 10;
/// What a connection may send before it is read, of one call and of all.
const CALL_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
/// A connection without an export for so long is closed, so that none is held for nothing; exporters dial again. A request's
/// head may take no longer.
const IDLE: Duration = Duration::from_secs(60);
/// The same until its first one begins: whoever dials and says nothing soon leaves the place to others.
const FIRST: Duration = Duration::from_secs(5);
/// For a peer to answer a ping.
const PONG: Duration = Duration::from_secs(10);
/// For replies that are under way when a connection is closed.
const GRACE: Duration = Duration::from_millis(500);
/// Spans wait so long for others, to be handed on with them.
const TOGETHER: Duration = Duration::from_millis(200);
/// Rest after a failed accept, such as for want of descriptors.
const REST: Duration = Duration::from_millis(100);

/// Listens on HOST:PORT.
///
/// # Errors
/// With the address in words.
pub(super) fn bind(address: &str) -> io::Result<TcpListener> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("failed to listen for OTLP on {address}: {error}"))
    };
    let listener = TcpListener::bind(address).map_err(named)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Until `shutdown`; what came by then is handed on.
pub(super) async fn serve(listener: Option<TcpListener>, sink: Sink, shutdown: CancellationToken) {
    let Some(listener) = listener else { return };
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return sink.tell(format!("failed to listen for OTLP, so there are no spans: {error}")),
    };
    let receiver = Arc::new(Receiver::new(sink));
    let (mut connections, mut beat) = (JoinSet::new(), interval(TOGETHER));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                // One too many is closed at once.
                Ok(_) if connections.len() >= MOST_CONNECTIONS => receiver.keep().turned_away(),
                Ok((stream, peer)) => {
                    drop(connections.spawn(converse(stream, peer, receiver.clone(), shutdown.clone())));
                }
                Err(_) => sleep(REST).await,
            },
            Some(_ended) = connections.join_next() => {}
            _ = beat.tick() => receiver.keep().hand_on(),
            () = shutdown.cancelled() => break,
        }
    }
    while connections.join_next().await.is_some() {}
    receiver.keep().hand_on();
}

async fn converse(stream: TcpStream, peer: SocketAddr, receiver: Arc<Receiver>, shutdown: CancellationToken) {
    let from_elsewhere = is_elsewhere(peer, stream.local_addr().ok());
    let mut ends = Instant::now() + FIRST;
    // When it was heard last.
    let heard = Mutex::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let receiver = receiver.clone();
        async move { Ok::<_, Infallible>(receiver.answer(request, from_elsewhere).await) }
    });
    // Replies are small, and an exporter waits for each.
    let _slower = stream.set_nodelay(true);
    let server = server();
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
    loop {
        tokio::select! {
            ended = &mut connection => {
                if ended.is_err_and(|why| is_nonsense(&*why)) {
                    receiver.keep().malformed();
                }
                return;
            }
            () = sleep_until(ends) => {
                let heard = *heard.lock().unwrap_or_else(PoisonError::into_inner);
                ends = heard.map_or(ends, |heard| heard + IDLE);
                if ends <= Instant::now() {
                    break;
                }
            }
            () = shutdown.cancelled() => break,
        }
    }
    connection.as_mut().graceful_shutdown();
    let _cut = timeout(GRACE, connection).await;
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(HEAD_BYTES);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(IDLE / 4)
        .keep_alive_timeout(PONG)
        .max_concurrent_streams(MOST_CALLS)
        .max_header_list_size(HEAD_BYTES as u32)
        .initial_stream_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    server
}

/// What the peer said was no HTTP at all.
fn is_nonsense(why: &(dyn std::error::Error + 'static)) -> bool {
    why.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse)
}

/// An exporter on this host reaches us from a loopback address or from our own.
fn is_elsewhere(peer: SocketAddr, local: Option<SocketAddr>) -> bool {
    let peer = peer.ip().to_canonical();
    !peer.is_loopback() && local.is_none_or(|local| local.ip().to_canonical() != peer)
}
