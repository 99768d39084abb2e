//! The fault rows of security: each with what the agent is told and what the coordinator's person is told.

use std::process::Command;
use std::time::Duration;

use tailcliff_agent::config::Config;
use tailcliff_proto::link::{Route, dial, join};
use tailcliff_proto::secret::Secret;
use tailcliff_proto::v1::bulk_client::BulkClient;
use tailcliff_proto::v1::clock_client::ClockClient;
use tailcliff_proto::{PROTOCOL, v1};
use tokio_util::sync::CancellationToken;

use crate::scene::{Agent, Authority, Coordinator, FAR, TOKEN, certs, of, soon, tailcliff, text, tls};

#[tokio::test]
async fn a_fleet_with_certificates_and_a_token_is_let_in() {
    let (certs, mut command) = (certs(), Command::new(env!("CARGO_BIN_EXE_tailcliff")));
    command.env("TAILCLIFF_TOKEN", TOKEN);
    let coordinator = Coordinator::start_with(command, &["--tls-dir", text(&of(&certs, "coordinator"))]);
    coordinator.heard.says(&["need a certificate", "token"]).await;
    let token = certs.path().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let mut link = tls(&of(&certs, "node"));
    link.token_file = Some(token);
    let agent = Agent::start(&coordinator.address, link);
    agent.is_told(&["joined the run"]).await;
    coordinator.heard.says(&["joined"]).await;
}

#[tokio::test]
async fn a_wrong_token_and_none_are_refused_on_every_connection() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff"));
    command.env("TAILCLIFF_TOKEN", TOKEN);
    let mut coordinator = Coordinator::start_with(command, &[]);
    let address = &coordinator.address;
    for (token, ours, theirs) in [
        (None, "asks for a token", "came without a token"),
        (Some("another-token-than-the-one"), "token is another one", "its token is not"),
    ] {
        let stop = CancellationToken::new();
        let route = Route::new(address.clone()).with_token(token.map(|t| Secret::new(t.to_owned())));
        let config = Config::new(route.clone());
        let why = Agent::with(config).gives_up().await;
        assert!(why.contains(ours) && why.contains("--token-file"), "{why}");
        coordinator.heard.says(&["turned away 127.0.0.1", theirs]).await;
        let link = dial(route.clone(), &stop).await.unwrap();
        let refused = BulkClient::new(link).ship(tokio_stream::pending()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        // The clock's port is not told to strangers: it is found by a friend.
        let friend = Route::new(address.clone()).with_token(Some(Secret::new(TOKEN.to_owned())));
        let hello = v1::Hello { protocol: PROTOCOL, node_kind: 1, incarnation: 7, ..Default::default() };
        let joined = join(dial(friend.clone(), &stop).await.unwrap(), hello).await.unwrap();
        let clock = dial(route.clock(&joined.welcome), &stop).await.unwrap();
        let refused = ClockClient::new(clock).exchange(tokio_stream::pending()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    }
    assert!(coordinator.is_alive());
    assert!(!coordinator.heard.lines().concat().contains(TOKEN));
}

/// One that is out of date is refused at its own end, at the start; these run out after it.
#[tokio::test]
async fn an_expired_certificate_is_told_at_both_ends() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new("one"));
    let end = |name: &str, until| ca.end(&dir.path().join(name), "127.0.0.1", until, &ca);
    let [good, node] = ["coordinator", "node"].map(|name| end(name, FAR));
    let until = soon(6);
    let [short, short_node] = ["short", "short-node"].map(|name| end(name, until));
    let (coordinator, fading) =
        (Coordinator::start(&["--tls-dir", text(&good)]), Coordinator::start(&["--tls-dir", text(&short)]));
    let route = tls(&short_node).route(coordinator.address.clone()).unwrap();
    while soon(0) < until + 2 {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let agent = Agent::with(Config { shards: 1, ..Config::new(route) });
    agent.is_told(&["this node's certificate has expired", "tailcliff certs"]).await;
    coordinator.heard.says(&["turned away", "its certificate has expired", "tailcliff certs"]).await;
    let agent = Agent::start(&fading.address, tls(&node));
    agent.is_told(&["the coordinator's certificate has expired", "tailcliff certs"]).await;
    fading.heard.says(&["turned away", "this coordinator's certificate has expired"]).await;
}

#[tokio::test]
async fn another_ca_is_told_at_both_ends() {
    let (one, other) = (certs(), certs());
    let coordinator = Coordinator::start(&["--tls-dir", text(&of(&one, "coordinator"))]);
    let agent = Agent::start(&coordinator.address, tls(&of(&other, "node")));
    agent.is_told(&["the coordinator's certificate was not signed by the CA", "same CA"]).await;
    coordinator.heard.says(&["turned away", "does not trust the CA of this coordinator's certificate"]).await;
    // The other way round: a node that takes the coordinator's, with a certificate of its own making.
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let end = |name: &str, by: &Authority, trusts| by.end(&dir.path().join(name), "127.0.0.1", FAR, trusts);
    let coordinator = Coordinator::start(&["--tls-dir", text(&end("coordinator", &ours, &ours))]);
    let agent = Agent::start(&coordinator.address, tls(&end("node", &theirs, &ours)));
    agent.is_told(&["the coordinator does not trust the CA of this node's certificate"]).await;
    coordinator.heard.says(&["turned away", "its certificate was not signed by the CA"]).await;
}

#[tokio::test]
async fn another_name_is_told_at_both_ends() {
    let certs = certs();
    let coordinator = Coordinator::start(&["--tls-dir", text(&of(&certs, "coordinator"))]);
    let agent = Agent::start(&format!("localhost:{}", coordinator.port()), tls(&of(&certs, "node")));
    agent.is_told(&["is not for \"localhost\" but for", "127.0.0.1", "--host"]).await;
    coordinator.heard.says(&["turned away", "turned this coordinator's certificate down"]).await;
    // A node's certificate makes no coordinator.
    let posing = Coordinator::start(&["--tls-dir", text(&of(&certs, "node"))]);
    let agent = Agent::start(&posing.address, tls(&of(&certs, "node")));
    agent.is_told(&["the coordinator's certificate", "is not"]).await;
    assert!(!posing.heard.lines().concat().contains("joined"));
}

#[tokio::test]
async fn plaintext_to_tls_and_tls_to_plaintext_are_told_at_both_ends() {
    let certs = certs();
    let mut secure = Coordinator::start(&["--tls-dir", text(&of(&certs, "coordinator"))]);
    let why = Agent::start(&secure.address, Default::default()).gives_up().await;
    assert!(why.contains("asks for TLS") && why.contains("--tls-dir"), "{why}");
    secure.heard.says(&["turned away", "does not speak TLS", "--tls-dir"]).await;
    let fetch = ["fetch", "--coordinator", &secure.address, "--output-dir", "fetched"];
    let (code, why) = tailcliff(certs.path(), &fetch);
    assert!(code == 9 && why.contains("asks for TLS: give --tls-dir"), "{why}");
    let mut open = Coordinator::start(&[]);
    let agent = Agent::start(&open.address, tls(&of(&certs, "node")));
    agent.is_told(&["answers without TLS", "--tls-dir"]).await;
    open.heard.says(&["turned away", "speaks TLS, and this coordinator does not"]).await;
    assert!(secure.is_alive() && open.is_alive());
}

#[tokio::test]
async fn one_without_a_client_certificate_is_turned_away() {
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};
    let certs = certs();
    let coordinator = Coordinator::start(&["--tls-dir", text(&of(&certs, "coordinator"))]);
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(of(&certs, "node").join("ca.crt")).unwrap();
    roots.add(ca).unwrap();
    let provider = std::sync::Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = tokio::net::TcpStream::connect(&coordinator.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = connector.connect(name, tcp).await.unwrap();
    let read = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 9]).await;
    assert!(read.is_err(), "{read:?}");
    coordinator.heard.says(&["turned away", "showed no client certificate", "--tls-dir"]).await;
}
