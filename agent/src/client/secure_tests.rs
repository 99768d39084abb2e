//! The client over TLS and HTTP/2, against rustls and hyper as servers.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tailcliff_proto::v1::Outcome;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::tests::{attempt, ended, send, traceparent};
use super::*;
use crate::testserver::{STREAM_HEAD, Server, stream, token};

/// A certificate for `localhost`, as PEM, and what a server needs of it.
fn certificate(alpn: &[u8]) -> (String, TlsAcceptor) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    (cert.pem(), TlsAcceptor::from(Arc::new(config)))
}

/// Ends TLS before a plain server; returns the port and the certificate.
async fn in_front_of(server: &Server) -> (u16, String) {
    let (pem, acceptor) = certificate(b"http/1.1");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, behind) = (listener.local_addr().unwrap().port(), server.port);
    tokio::spawn(async move {
        while let Ok((outer, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outer) = acceptor.accept(outer).await else { return };
                let mut inner = TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    (port, pem)
}

fn client(target: &v1::Target) -> Client {
    Client::new(Arc::new(Target::parse(target).unwrap()), false)
}

#[tokio::test]
async fn a_secured_server_is_as_good_as_a_plain_one() {
    let server = Server::always(stream(&["a", "bc"]), false).await;
    let (port, ca_pem) = in_front_of(&server).await;
    let base_url = format!("https://localhost:{port}");
    let target = v1::Target { base_url, ca_pem, ..server.target() };
    let mut client = client(&target);
    for reused in [false, true, true] {
        let record = send(&mut client).await;
        assert_eq!((ended(&record), record.reused_connection), ((Outcome::Completed, ""), reused));
        assert_eq!((record.content_chunks, record.text_len), (2, 3));
    }
    assert_eq!((server.connections(), server.requests()), (1, 3));
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_a_failure_of_tls() {
    let server = Server::always(stream(&["a"]), false).await;
    let (port, ca_pem) = in_front_of(&server).await;
    let base_url = format!("https://127.0.0.1:{port}");
    let other_name = v1::Target { base_url: base_url.clone(), ca_pem, ..server.target() };
    let record = send(&mut client(&other_name)).await;
    assert_eq!(ended(&record), (Outcome::Failed, "tls"), "{record:?}");
    let unknown = v1::Target { ca_pem: certificate(b"h2").0, ..other_name.clone() };
    let record = send(&mut client(&unknown)).await;
    assert_eq!(ended(&record), (Outcome::Failed, "tls"));
    assert!(record.error_detail.contains("certificate") && record.sent_raw_ns.is_none(), "{record:?}");
    assert_eq!(server.requests(), 0, "nothing was sent to one that is not trusted");
    let insecure = v1::Target { insecure: true, ca_pem: String::new(), ..other_name.clone() };
    assert_eq!(ended(&send(&mut client(&insecure)).await), (Outcome::Completed, ""));
    let version = v1::Target { http_version: v1::HttpVersion::HttpVersion2 as i32, ..insecure };
    assert_eq!(ended(&send(&mut client(&version)).await), (Outcome::Failed, "tls"), "no common protocol");
    let plain = Server::start(|mut conn| async move {
        conn.say("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        conn.until_gone().await;
    })
    .await;
    let plain_port = v1::Target { base_url: format!("https://localhost:{}", plain.port), ..other_name };
    assert_eq!(ended(&send(&mut client(&plain_port)).await), (Outcome::Failed, "tls"), "it speaks no TLS");
    let pem = v1::Target { ca_pem: "not PEM".to_owned(), base_url, ..server.target() };
    assert!(Target::parse(&pem).unwrap_err().to_string().contains("PEM"));
}

/// One connection of HTTP/2: each request is answered by a stream of two chunks; one for `/reset` breaks off.
async fn serve_http2(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static) {
    let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
        assert_eq!(request.headers()["x-request-id"], "run-1-2-3");
        assert_eq!(request.headers()["traceparent"], traceparent());
        let body: String = [STREAM_HEAD, &stream_body()].concat();
        let body = body.split_once("\r\n\r\n").unwrap().1.to_owned();
        let pieces = vec![
            Ok(Frame::data(Bytes::from(body[..20].to_owned()))),
            match request.uri().path() {
                "/reset" => Err(std::io::Error::other("lost")),
                _ => Ok(Frame::data(Bytes::from(body[20..].to_owned()))),
            },
        ];
        let body = StreamBody::new(tokio_stream::iter(pieces));
        Ok::<_, Infallible>(
            Response::builder().header("content-type", "text/event-stream").body(body).unwrap(),
        )
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ended = served.serve_connection(TokioIo::new(stream), service).await;
}

fn stream_body() -> String {
    let event = |json: &str| format!("data: {json}\n\n");
    let [a, b] =
        ["a", "bc"].map(|text| event(&format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#)));
    format!("{a}{b}{}", event("[DONE]"))
}

async fn http2_server(acceptor: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match acceptor.clone() {
                None => drop(tokio::spawn(serve_http2(stream))),
                Some(acceptor) => drop(tokio::spawn(async move {
                    serve_http2(acceptor.accept(stream).await.unwrap()).await;
                })),
            }
        }
    });
    port
}

fn http2_target(base_url: String) -> v1::Target {
    v1::Target {
        base_url,
        endpoint_type: v1::EndpointType::Chat as i32,
        streaming: true,
        http_version: v1::HttpVersion::HttpVersion2 as i32,
        ..Default::default()
    }
}

#[tokio::test]
async fn http2_works_over_tls_and_in_the_clear() {
    let (ca_pem, acceptor) = certificate(b"h2");
    let secured = http2_server(Some(acceptor)).await;
    let plain = http2_server(None).await;
    for target in [
        v1::Target { ca_pem, ..http2_target(format!("https://localhost:{secured}")) },
        http2_target(format!("http://localhost:{plain}")),
    ] {
        let mut client = client(&target);
        for reused in [false, true] {
            let record = send(&mut client).await;
            assert_eq!(
                (ended(&record), record.reused_connection),
                ((Outcome::Completed, ""), reused),
                "{record:?}"
            );
            assert_eq!((record.content_chunks, record.text_len, record.http_status), (2, 3, Some(200)));
            assert!(record.sent_raw_ns.is_some() && record.socket_wait_max_ns.is_some());
        }
        let broken = v1::Target { path: "/reset".to_owned(), ..target.clone() };
        let mut client = self::client(&broken);
        assert_eq!(ended(&send(&mut client).await), (Outcome::Failed, "early_end"));
        let record = client.request(attempt(), &Cancel::new()).await;
        assert_eq!(ended(&record), (Outcome::Failed, "early_end"), "and the next one fares no better");
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_is_a_read_timeout() {
    let server = Server::start(|mut conn| async move {
        conn.ask().await;
        for number in 0..12 {
            let head = if number == 0 { STREAM_HEAD } else { "" };
            conn.say(format!("{head}{}", token("a"))).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        conn.until_gone().await;
    })
    .await;
    let target = v1::Target { read_timeout_ns: 700_000_000, ..server.target() };
    let record = send(&mut client(&target)).await;
    assert_eq!((ended(&record), record.content_chunks), ((Outcome::Failed, "read_timeout"), 12));
    let silence = record.done_raw_ns - record.last_token_raw_ns.unwrap();
    assert!(silence >= 700_000_000, "{silence}");
}
