//! HTTP/2 on a stream, by hyper: one request at a time, as with HTTP/1.1, so that a level's streams stay what was asked for.
//! Its stamps are those of the socket's latest read when a frame is handed out: frames of one read share it, and a frame
//! whose turn came late may carry the stamp of a read after its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::connection::{Outgoing, Stream};
use crate::failure::{ErrorKind, Failure, chain};
use crate::http1::{Head, MAX_HEAD};
use crate::reply::{DRAIN, Reply};
use crate::socket::Stamps;
use crate::target::{TRACEPARENT, Target};

/// A connection with its driver, which ends with it.
#[derive(Debug)]
pub(crate) struct Http2 {
    sender: SendRequest<Full<Bytes>>,
    stamps: Arc<Stamps>,
    ended: Arc<Ended>,
    driver: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Ended {
    is_over: AtomicBool,
    told: Notify,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Http2 {
    pub(crate) async fn begin(stream: Stream) -> Result<Http2, Failure> {
        let stamps = Arc::clone(stream.socket().stamps());
        let begun = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(MAX_HEAD as u32)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = begun.map_err(|e| {
            Failure::new(ErrorKind::Connect, format!("failed to begin HTTP/2: {}", chain(&e)))
        })?;
        let ended = Arc::<Ended>::default();
        let to = Arc::clone(&ended);
        let driver = tokio::spawn(async move {
            // How it ended reaches the request by itself.
            let _ended = connection.await;
            to.is_over.store(true, Relaxed);
            to.told.notify_waiters();
        });
        Ok(Http2 { sender, stamps, ended, driver })
    }

    pub(crate) async fn is_ready(&mut self) -> bool {
        !self.ended.is_over.load(Relaxed) && self.sender.ready().await.is_ok()
    }

    /// Returns when the connection has ended.
    pub(crate) async fn closed(&self) {
        let told = self.ended.told.notified();
        if !self.ended.is_over.load(Relaxed) {
            told.await;
        }
    }

    pub(crate) async fn exchange(
        &mut self,
        target: &Target,
        request: Outgoing<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<bool, Failure> {
        let request = build(target, request)?;
        let answer = match self.sender.send_request(request).await {
            Ok(answer) => answer,
            Err(e) => return reply.early_end(&chain(&e)),
        };
        let arrival = self.stamps.arrival();
        // The first flush since the request began, and never after the answer; of a long body it is that of its beginning.
        reply.has_sent(self.stamps.sent_at().map(|at| at.min(arrival.at)));
        let text =
            |name| answer.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
        let head = Head {
            status: answer.status().as_u16(),
            content_type: text(CONTENT_TYPE),
            server: text(http::header::SERVER),
            says_close: false,
        };
        reply.head(head, arrival)?;
        let mut body = answer.into_body();
        let mut drained_by = None;
        loop {
            let next = if reply.is_over() {
                // One deadline for all that may follow.
                let drained_by = *drained_by.get_or_insert_with(|| Instant::now() + DRAIN);
                match timeout_at(drained_by, body.frame()).await {
                    Ok(next) => next,
                    // Dropping the body resets its stream; the connection goes on.
                    Err(_) => return Ok(true),
                }
            } else {
                body.frame().await
            };
            let arrival = self.stamps.arrival();
            match next {
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref().filter(|bytes| !bytes.is_empty()) {
                        let taken = reply.body(bytes, arrival);
                        reply.has_handled(arrival);
                        taken?;
                    }
                }
                Some(Err(e)) => return reply.early_end(&chain(&e)),
                None => return reply.end(arrival).map(|()| true),
            }
        }
    }
}

fn build(target: &Target, outgoing: Outgoing<'_>) -> Result<Request<Full<Bytes>>, Failure> {
    let (method, path, body) = match outgoing {
        Outgoing::Post { body, .. } => (Method::POST, target.path().clone(), body.clone()),
        Outgoing::Models => (Method::GET, target.models_path(), Bytes::new()),
    };
    let uri =
        Uri::builder().scheme(target.scheme()).authority(target.authority()).path_and_query(path).build();
    let uri = uri.map_err(|e| Failure::malformed(format!("the target is no URL: {e}")))?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = target.headers().clone();
    // HTTP/2 has `:authority` in its place.
    request.headers_mut().remove(http::header::HOST);
    if let Outgoing::Post { request_id, .. } = outgoing
        && let Ok(id) = HeaderValue::from_str(request_id)
    {
        request.headers_mut().insert("x-request-id", id);
        let trace = target.trace_of(request_id).map(|trace| HeaderValue::from_bytes(&trace.traceparent()));
        if let Some(Ok(trace)) = trace {
            request.headers_mut().insert(TRACEPARENT, trace);
        }
    }
    Ok(request)
}
