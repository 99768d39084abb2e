//! Garbage, frames that are too large, and connections that take their time: none costs more than its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tailcliff_proto::link::args::LinkArgs;
use tailcliff_proto::link::{LinkError, Route, dial, join};
use tailcliff_proto::v1::node_message::Kind;
use tailcliff_proto::{PROTOCOL, v1};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::scene::{Agent, Coordinator, PATIENCE, TOKEN, certs, of, text, tls};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn hello() -> v1::Hello {
    v1::Hello { protocol: PROTOCOL, node_kind: 1, incarnation: 7, ..Default::default() }
}

/// Both ports of a coordinator.
async fn ports(coordinator: &Coordinator, route: Route) -> [String; 2] {
    let link = join(dial(route.clone(), &CancellationToken::new()).await.unwrap(), hello()).await.unwrap();
    [coordinator.address.clone(), route.clock(&link.welcome).address().to_owned()]
}

/// Sends, and reads until the other end closes; true when it does.
fn closes(address: &str, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // It may close before all is written.
    let _cut = stream.write_all(bytes);
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// A frame that says that it has so many bytes.
fn frame(length: u32, kind: u8, stream: u32) -> Vec<u8> {
    [&length.to_be_bytes()[1..], &[kind, 0], &stream.to_be_bytes()].concat()
}

#[tokio::test]
async fn garbage_and_oversized_frames_end_their_own_connection_alone() {
    let certs = certs();
    let (plain, secure) =
        (Coordinator::start(&[]), Coordinator::start(&["--tls-dir", text(&of(&certs, "coordinator"))]));
    let noise: Vec<u8> = (0..100_000).map(|_| fastrand::u8(..)).collect();
    // A data frame of 16 MiB where 16 KiB are allowed; headers without an end; a TLS record that is too long.
    let data = [PREFACE, &frame(0, 4, 0), &frame(0xff_ffff, 0, 1), &[0; 50_000]].concat();
    let headers =
        [PREFACE, &frame(0, 4, 0), &frame(16_384, 1, 1), &[0; 16_384], &frame(16_384, 9, 1)].concat();
    let record = [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 66_000]].concat();
    for (mut coordinator, link) in [(plain, Default::default()), (secure, tls(&of(&certs, "node")))] {
        let route = link.route(coordinator.address.clone()).unwrap();
        for address in ports(&coordinator, route).await {
            for bytes in [&noise, &data, &headers, &record] {
                let (address, bytes) = (address.clone(), bytes.clone());
                assert!(tokio::task::spawn_blocking(move || closes(&address, &bytes)).await.unwrap());
            }
        }
        assert!(coordinator.is_alive());
        Agent::start(&coordinator.address, link).is_told(&["joined"]).await;
    }
}

/// gRPC says a message's length first: one over the limit is refused by it. And each port has its own services alone.
#[tokio::test]
async fn a_message_larger_than_any_is_refused_by_its_length() {
    let mut coordinator = Coordinator::start(&[]);
    let route = Route::new(coordinator.address.clone());
    let name = "x".repeat(3 << 20);
    let big = v1::Hello { name, ..hello() };
    let refused = join(dial(route.clone(), &CancellationToken::new()).await.unwrap(), big).await.unwrap_err();
    assert!(refused.to_string().contains("OutOfRange"), "{refused}");
    let [_, clock] = ports(&coordinator, route).await;
    let link = dial(clock, &CancellationToken::new()).await.unwrap();
    let mut client = v1::bulk_client::BulkClient::new(link);
    let refused = client.ship(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented, "the clock's port has the clock alone");
    assert!(coordinator.is_alive());
}

#[tokio::test]
async fn connections_that_never_say_who_they_are_end_after_five_seconds_and_hold_up_nobody() {
    let certs = certs();
    let mut coordinator = Coordinator::start(&["--tls-dir", text(&of(&certs, "coordinator"))]);
    let mut slow: Vec<_> = (0..200).map(|_| TcpStream::connect(&coordinator.address).unwrap()).collect();
    // Half of them begin a handshake, byte by byte.
    slow.iter_mut().skip(100).for_each(|stream| stream.write_all(&[0x16, 3]).unwrap());
    let agent = Agent::start(&coordinator.address, tls(&of(&certs, "node")));
    tokio::time::timeout(PATIENCE, agent.is_told(&["joined"])).await.unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        slow.iter_mut().all(|stream| {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            !matches!(stream.read(&mut [0; 64]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        })
    });
    assert!(ended.await.unwrap(), "each was closed");
    coordinator.heard.says(&["turned away 127.0.0.1", "did not say who it is", "(100 times so far)"]).await;
    assert!(coordinator.is_alive());
}

/// Whoever speaks, but makes no call that is accepted, goes after a while; whoever made one stays.
#[tokio::test]
async fn connections_without_an_accepted_call_end_after_ten_seconds() {
    let certs = certs();
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let open = Coordinator::start(&["--token-file", text(&token)]);
    let link = LinkArgs { token_file: Some(token), ..Default::default() };
    let known = dial(link.route(open.address.clone()).unwrap(), &CancellationToken::new()).await.unwrap();
    let mut known = join(known, hello()).await.unwrap();
    let [control, clock] =
        [open.address.clone(), Route::new(&*open.address).clock(&known.welcome).to_string()];
    let out = known.out.clone();
    let _beats = tokio::spawn(async move {
        let beat = || v1::NodeMessage { kind: Some(Kind::Heartbeat(Default::default())) };
        while out.send(beat()).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let settled = [PREFACE, &frame(0, 4, 0)].concat();
    let closing: Vec<_> = [&control, &clock]
        .iter()
        .flat_map(|address| {
            [&b"x"[..], b"PRI * HTTP", PREFACE, &settled].map(|said| ((*address).clone(), said.to_vec()))
        })
        .map(|(address, said)| tokio::task::spawn_blocking(move || closes(&address, &said)))
        .collect();
    // One calls all the time, and never shows the token.
    let tokenless = dial(&control, &CancellationToken::new()).await.unwrap();
    let refused = async {
        while join(tokenless.clone(), hello()).await.is_err_and(|e| matches!(e, LinkError::Refused(_))) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    for closed in closing {
        assert!(closed.await.unwrap());
    }
    open.heard.says(&["turned away", "no call that was accepted within 10 s"]).await;
    while let Ok(message) = tokio::time::timeout(Duration::from_millis(1), known.inbound.message()).await {
        assert!(message.unwrap().is_some(), "whoever was accepted stays");
    }
    let secure = Coordinator::start(&["--tls-dir", text(&of(&certs, "coordinator"))]);
    let route = tls(&of(&certs, "node")).route(secure.address.clone()).unwrap();
    let _idle = dial(route, &CancellationToken::new()).await.unwrap();
    secure.heard.says(&["turned away", "no call that was accepted within 10 s"]).await;
}

#[tokio::test]
async fn one_connection_has_a_few_streams_and_small_headers() {
    let mut coordinator = Coordinator::start(&[]);
    let link = dial(&coordinator.address, &CancellationToken::new()).await.unwrap();
    let mut client = v1::bulk_client::BulkClient::new(link);
    // What is sent ends with its sender: until then a stream is open, whatever became of the answer.
    let ship = async |mut client: v1::bulk_client::BulkClient<_>| {
        let (out, batches) = tokio::sync::mpsc::channel(1);
        (client.ship(ReceiverStream::new(batches)).await, out)
    };
    let mut open = Vec::new();
    for _ in 0..16 {
        let (answer, out) = ship(client.clone()).await;
        open.push((answer.unwrap(), out));
    }
    assert!(
        tokio::time::timeout(Duration::from_millis(500), ship(client.clone())).await.is_err(),
        "it waits"
    );
    open.pop();
    let (answer, _) = tokio::time::timeout(PATIENCE, ship(client.clone())).await.unwrap();
    assert!(answer.is_ok());
    open.clear();
    let mut request = tonic::Request::new(tokio_stream::pending());
    request.metadata_mut().insert("x-large", "x".repeat(40_000).parse().unwrap());
    let refused = client.ship(request).await.unwrap().into_inner().message().await.unwrap_err();
    assert!(refused.message().contains("431"), "{refused}");
    assert!(coordinator.is_alive());
}
