//! Answers scrapes, on a thread of its own. A peer gets one reply a connection, and bounded time and memory for it; those
//! over the bound are turned away, so that whoever floods it takes a core's time at most and nothing of the run.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use super::figures::Figures;
use super::text;

/// Connections at a time.
const MOST: usize = 16;
/// For the head of a request …
const HEAD: Duration = Duration::from_secs(3);
/// … and for all of a connection.
const WHOLE: Duration = Duration::from_secs(10);
/// The head's bytes; hyper's least.
const HEAD_BYTES: usize = 8_192;
/// Rest after a failed accept, such as for want of descriptors.
const REST: Duration = Duration::from_millis(100);

type Newest = watch::Receiver<Arc<Figures>>;

/// Answers until the sender of `newest` is gone.
pub(super) fn start(listener: TcpListener, newest: Newest) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let answer = move || runtime.block_on(accept(listener, newest));
    std::thread::Builder::new().name("metrics".to_owned()).spawn(answer)?;
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, newest: Newest) {
    let places = Arc::new(Semaphore::new(MOST));
    let mut watched = newest.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = watched.changed() => match changed {
                Ok(()) => continue,
                // The run is over, and its owner gone.
                Err(_) => return,
            },
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(REST).await;
            continue;
        };
        // One too many is closed at once.
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let newest = newest.clone();
        tokio::spawn(async move {
            let _late = tokio::time::timeout(WHOLE, converse(stream, newest)).await;
            drop(place);
        });
    }
}

async fn converse(stream: TcpStream, newest: Newest) {
    let service = service_fn(move |request: Request<Incoming>| {
        let reply = reply(request.method(), request.uri().path(), &newest);
        async move { Ok::<_, Infallible>(reply) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false).max_buf_size(HEAD_BYTES);
    // What a peer does wrong is its own trouble.
    let _broken = server.serve_connection(TokioIo::new(stream), service).await;
}

fn reply(method: &Method, path: &str, newest: &Newest) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (method, path) {
        (&Method::GET, "/metrics") => {
            let figures = newest.borrow().clone();
            (StatusCode::OK, text::CONTENT_TYPE, text::render(&figures))
        }
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "text/plain", "metrics are at /metrics\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET /metrics\n".to_owned()),
    };
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    }
    reply
}
