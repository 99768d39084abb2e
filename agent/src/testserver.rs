//! Hand-written HTTP servers for tests: what each says, and when, is spelt out byte by byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tailcliff_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server on loopback; it ends with the test's runtime.
pub(crate) struct Server {
    pub(crate) port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

/// One accepted connection.
pub(crate) struct Conn {
    stream: TcpStream,
    /// Which one it is, from 0.
    pub(crate) number: usize,
    requests: Arc<AtomicUsize>,
}

/// A request as it came.
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Server {
    /// Runs `handle` on each connection, which ends when it returns.
    pub(crate) async fn start<F, Fut>(handle: F) -> Server
    where
        F: Fn(Conn) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let server = Server { port, connections: Arc::clone(&connections), requests: Arc::clone(&requests) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let number = connections.fetch_add(1, SeqCst);
                tokio::spawn(handle(Conn { stream, number, requests: Arc::clone(&requests) }));
            }
        });
        server
    }

    /// A server that gives every request the same bytes, then closes or goes on.
    pub(crate) async fn always(reply: impl Into<Vec<u8>>, close: bool) -> Server {
        let reply: Arc<Vec<u8>> = Arc::new(reply.into());
        Server::start(move |mut conn| {
            let reply = Arc::clone(&reply);
            async move {
                while conn.ask().await.is_some() {
                    conn.say(reply.as_slice()).await;
                    if close {
                        break;
                    }
                }
            }
        })
        .await
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Whole requests read so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }

    /// A chat target on this server, with the key `sk-test-secret`.
    pub(crate) fn target(&self) -> v1::Target {
        v1::Target {
            base_url: format!("http://127.0.0.1:{}", self.port),
            endpoint_type: v1::EndpointType::Chat as i32,
            model: "m".to_owned(),
            streaming: true,
            api_key: "sk-test-secret".to_owned(),
            connect_timeout_ns: 20_000_000_000,
            request_timeout_ns: 60_000_000_000,
            ..Default::default()
        }
    }
}

impl Conn {
    /// Reads the next request; `None` when the client is gone.
    pub(crate) async fn ask(&mut self) -> Option<Asked> {
        let mut bytes = Vec::new();
        let head_len = loop {
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if self.stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let mut body = bytes.split_off(head_len);
        let head = String::from_utf8(bytes).unwrap();
        let length =
            head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        while body.len() < length.unwrap_or(0) {
            if self.stream.read_buf(&mut body).await.ok()? == 0 {
                return None;
            }
        }
        self.requests.fetch_add(1, SeqCst);
        Some(Asked { head, body })
    }

    /// Writes bytes in one go; a client that is gone is no matter.
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// The same; false when the client is gone.
    pub(crate) async fn try_say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Waits until the client closes; true unless it said more.
    pub(crate) async fn until_gone(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 64]).await, Ok(0) | Err(_))
    }

    /// Ends the connection with RST in place of FIN.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

/// A reply with a length.
pub(crate) fn reply(status: &str, media: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: {media}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The head of a streamed reply.
pub(crate) const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nserver: hand\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
/// The end of a chunked body.
pub(crate) const LAST_CHUNK: &str = "0\r\n\r\n";

/// Bytes as one HTTP chunk.
pub(crate) fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// One event that brings text.
pub(crate) fn token(text: &str) -> String {
    let json =
        serde_json::json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]});
    chunk(&format!("data: {json}\n\n"))
}

/// The event that says why the text ended.
pub(crate) fn finish() -> String {
    chunk("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n")
}

/// `[DONE]`.
pub(crate) fn done() -> String {
    chunk("data: [DONE]\n\n")
}

/// A whole streamed reply of these tokens.
pub(crate) fn stream(tokens: &[&str]) -> String {
    let tokens: String = tokens.iter().map(|t| token(t)).collect();
    format!("{STREAM_HEAD}{tokens}{}{}{LAST_CHUNK}", finish(), done())
}
