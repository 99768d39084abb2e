//! As much of HTTP/1.1's server side as is needed, with everything that a peer sends bounded.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Most bytes of a request's head.
pub(crate) const MAX_HEAD: usize = 32 * 1024;
/// Most bytes of a request's body.
pub(crate) const MAX_BODY: usize = 8 * 1024 * 1024;
/// How long a connection may sit idle, or dawdle over one request.
const PATIENCE: Duration = Duration::from_secs(75);

/// A request, fully read.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without its query.
    pub(crate) path: String,
    pub(crate) request_id: Option<String>,
    pub(crate) authorization: Option<String>,
    pub(crate) traceparent: Option<String>,
    /// The client wants the connection closed afterwards.
    pub(crate) close: bool,
    pub(crate) body: Vec<u8>,
    length: usize,
    expects_continue: bool,
}

/// Why no request came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The peer closed, failed or fell silent: nothing to say to it.
    #[error("the connection ended")]
    Closed,
    /// The peer must be told so, then the connection is closed.
    #[error("{1}")]
    Bad(u16, &'static str),
}

/// Reads requests off a connection; bytes beyond one request are kept for the next.
pub(crate) struct Reader<R> {
    io: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(io: R) -> Self {
        Self { io, buffer: Vec::with_capacity(4096) }
    }

    /// The next request's head; then its body by [`Reader::body`].
    pub(crate) async fn head(&mut self) -> Result<Request, ReadError> {
        tokio::time::timeout(PATIENCE, self.read_head()).await.unwrap_or(Err(ReadError::Closed))
    }

    /// Reads the body that `request`'s head announced.
    pub(crate) async fn body(&mut self, request: &mut Request) -> Result<(), ReadError> {
        let length = request.length;
        let read = async {
            while self.buffer.len() < length {
                self.more().await?;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap_or(Err(ReadError::Closed))?;
        request.body = self.buffer.drain(..length).collect();
        Ok(())
    }

    /// Returns when the peer closes its side or fails. Bytes that come meanwhile are kept up to a bound, after which
    /// the connection is left unread. Cancel-safe.
    pub(crate) async fn closed(&mut self) {
        while self.buffer.len() < MAX_HEAD {
            if self.more().await.is_err() {
                return;
            }
        }
        std::future::pending().await
    }

    async fn read_head(&mut self) -> Result<Request, ReadError> {
        let mut searched = 0;
        loop {
            if let Some(end) = find_blank_line(&self.buffer, searched) {
                let request = parse(&self.buffer[..end])?;
                self.buffer.drain(..end + 4);
                return Ok(request);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(ReadError::Bad(431, "the request head is too long"));
            }
            searched = self.buffer.len().saturating_sub(3);
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), ReadError> {
        self.buffer.reserve(8192);
        match self.io.read_buf(&mut self.buffer).await {
            Ok(n) if n > 0 => Ok(()),
            _ => Err(ReadError::Closed),
        }
    }
}

impl Request {
    /// The client waits for a `100 Continue` before it sends the body.
    pub(crate) fn expects_continue(&self) -> bool {
        self.expects_continue
    }
}

fn find_blank_line(bytes: &[u8], from: usize) -> Option<usize> {
    bytes[from..].windows(4).position(|w| w == b"\r\n\r\n").map(|at| from + at)
}

fn parse(head: &[u8]) -> Result<Request, ReadError> {
    let head = std::str::from_utf8(head).map_err(|_| ReadError::Bad(400, "the request head is not text"))?;
    let mut lines = head.split("\r\n");
    let mut request = request_line(lines.next().unwrap_or_default())?;
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(ReadError::Bad(400, "a header has no colon"))?;
        if name.is_empty()
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
        {
            return Err(ReadError::Bad(400, "a header's name is not a token"));
        }
        header(&mut request, &mut length, &name.to_ascii_lowercase(), value.trim())?;
    }
    request.length = length.unwrap_or(0);
    Ok(request)
}

fn request_line(line: &str) -> Result<Request, ReadError> {
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(ReadError::Bad(400, "the request line is malformed"));
    };
    if version != "HTTP/1.1" {
        return Err(ReadError::Bad(505, "only HTTP/1.1 is spoken here"));
    }
    if !method.bytes().all(|b| b.is_ascii_uppercase()) || method.is_empty() || !target.starts_with('/') {
        return Err(ReadError::Bad(400, "the request line is malformed"));
    }
    let path = target.split('?').next().unwrap_or_default();
    Ok(Request { method: method.into(), path: path.into(), ..Request::default() })
}

fn header(
    request: &mut Request,
    length: &mut Option<usize>,
    name: &str,
    value: &str,
) -> Result<(), ReadError> {
    match name {
        "content-length" => {
            let n = content_length(value)?;
            if length.is_some_and(|before| before != n) {
                return Err(ReadError::Bad(400, "two content lengths disagree"));
            }
            *length = Some(n);
        }
        "transfer-encoding" => return Err(ReadError::Bad(411, "send the body with a content length")),
        "x-request-id" => request.request_id = Some(value.chars().take(256).collect()),
        "traceparent" => request.traceparent = Some(value.chars().take(256).collect()),
        "authorization" => request.authorization = Some(value.to_owned()),
        "connection" => request.close |= value.split(',').any(|v| v.trim().eq_ignore_ascii_case("close")),
        "expect" => request.expects_continue = value.eq_ignore_ascii_case("100-continue"),
        _ => {}
    }
    Ok(())
}

fn content_length(value: &str) -> Result<usize, ReadError> {
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ReadError::Bad(400, "the content length is not a number"));
    }
    match value.parse() {
        Ok(n) if n <= MAX_BODY => Ok(n),
        _ => Err(ReadError::Bad(413, "the request body is too long")),
    }
}

/// A whole response with a JSON (or empty) body.
pub(crate) fn response(status: u16, body: &str, close: bool) -> String {
    typed(status, "application/json", body, close)
}

/// A page of metrics.
pub(crate) fn metrics_page(body: &str, close: bool) -> String {
    typed(200, "text/plain; version=1.0.0; charset=utf-8", body, close)
}

fn typed(status: u16, content_type: &str, body: &str, close: bool) -> String {
    let connection = if close { "connection: close\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status} {}\r\nserver: model-sim\r\ncontent-type: {content_type}\r\n{connection}content-length: {}\r\n\r\n{body}",
        reason(status),
        body.len()
    )
}

/// The head of a streamed response; events follow as chunks.
pub(crate) const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nserver: model-sim\r\n\
    content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        411 => "Length Required",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<Request, ReadError> {
        let mut reader = Reader::new(bytes);
        let mut request = reader.head().await?;
        reader.body(&mut request).await?;
        Ok(request)
    }

    async fn status(bytes: &[u8]) -> u16 {
        match read(bytes).await {
            Err(ReadError::Bad(status, _)) => status,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn reads_a_request_however_it_is_cut() {
        use tokio::io::AsyncWriteExt;
        let bytes =
            b"POST /v1/x?y=1 HTTP/1.1\r\nHost: a\r\nX-Request-Id:  r-1 \r\ncontent-length: 5\r\n\r\nhelloGET";
        for cut in 1..bytes.len() {
            let (mut client, server) = tokio::io::duplex(1024);
            let mut reader = Reader::new(server);
            let send = async {
                client.write_all(&bytes[..cut]).await.unwrap();
                tokio::task::yield_now().await;
                client.write_all(&bytes[cut..]).await.unwrap();
            };
            let get = async {
                let mut request = reader.head().await.unwrap();
                reader.body(&mut request).await.unwrap();
                request
            };
            let ((), request) = tokio::join!(send, get);
            assert_eq!((request.path.as_str(), request.request_id.as_deref()), ("/v1/x", Some("r-1")));
            assert_eq!(request.body, b"hello");
        }
    }

    #[tokio::test]
    async fn refuses_hostile_heads() {
        assert_eq!(status(b"garbage\r\n\r\n").await, 400);
        assert_eq!(status(b"\r\n\r\n").await, 400);
        assert_eq!(status(b"GET / HTTP/1.0\r\n\r\n").await, 505);
        assert_eq!(status(b"GET / HTTP/1.1\r\nno colon\r\n\r\n").await, 400);
        assert_eq!(status(b"GET / HTTP/1.1\r\n: x\r\n\r\n").await, 400);
        assert_eq!(status(b"GET / HTTP/1.1\r\ncontent-length : 1\r\n\r\n").await, 400);
        assert_eq!(status(b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n").await, 400);
        assert_eq!(status(b"POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n").await, 400);
        assert_eq!(status(b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n").await, 413);
        assert_eq!(status(b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n").await, 400);
        assert_eq!(status(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").await, 411);
        assert_eq!(status(b"\xff\xfe / HTTP/1.1\r\n\r\n").await, 400);
        assert_eq!(status(&[b'a'; MAX_HEAD + 9000]).await, 431);
    }

    #[tokio::test]
    async fn an_unfinished_request_is_a_closed_connection() {
        assert!(matches!(read(b"GET / HT").await, Err(ReadError::Closed)));
        assert!(matches!(
            read(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc").await,
            Err(ReadError::Closed)
        ));
    }
}
