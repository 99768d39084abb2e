//! What is refused before anything is opened or sent: open doors, keys in the clear, files that cannot be used, targets
//! that an agent does not permit.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tailcliff_agent::allow::Allowed;
use tailcliff_agent::config::Config;
use tailcliff_proto::link::args::LinkArgs;

use crate::scene::{Agent, Authority, Coordinator, PAST, TOKEN, certs, of, tailcliff, text};

const KEY: &str = "sk-do-not-send-me";

fn listening_on(address: &'static str) -> Vec<&'static str> {
    vec!["coordinate", "--url", "127.0.0.1:9", "--model", "m", "--listen", address, "--wait", "1s"]
}

#[test]
fn an_open_door_to_a_network_is_opened_only_when_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let (code, text) = tailcliff(dir.path(), &listening_on("0.0.0.0:0"));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("--tls-dir") && text.contains("--allow-unauthenticated"), "{text}");
    // A token alone would travel for all to read.
    let token = dir.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let with_token = [&listening_on("0.0.0.0:0")[..], &["--token-file", token.to_str().unwrap()]].concat();
    assert_eq!(tailcliff(dir.path(), &with_token).0, 2);
    let (code, text) = tailcliff(dir.path(), &[&with_token[..], &["--allow-unauthenticated"]].concat());
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("token travels in the clear"), "{text}");
    let certs = certs();
    let secure = of(&certs, "coordinator");
    let (code, text) =
        tailcliff(dir.path(), &[&listening_on("0.0.0.0:0")[..], &["--tls-dir", text_of(&secure)]].concat());
    assert_eq!(code, 4, "nobody came, but it listened: {text}");
    assert!(!dir.path().join("runs").exists());
}

fn text_of(path: &std::path::Path) -> &str {
    text(path)
}

#[tokio::test]
async fn no_key_goes_to_agents_in_the_clear_over_a_network() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff"));
    command.env("OPENAI_API_KEY", KEY);
    let args = ["--listen", "0.0.0.0:0", "--allow-unauthenticated", "--header", "X-Api-Key: hush-hush"];
    let coordinator = Coordinator::start_with(command, &args);
    coordinator.heard.says(&["not authenticated"]).await;
    coordinator.heard.says(&["not sent the API key, X-Api-Key", "--allow-target"]).await;
    let said = coordinator.heard.lines().concat();
    assert!(!said.contains(KEY) && !said.contains("hush-hush"), "{said}");
}

#[test]
fn a_run_whose_path_or_body_holds_a_key_is_not_sent_to_agents_in_the_clear() {
    let dir = tempfile::tempdir().unwrap();
    let secret = ["--endpoint", "/v1/x?api-version=3&api-key=hush-1", "--extra-body"];
    let secret = [&secret[..], &[r#"{"top_k":1,"deep":[{"access_token":"hush-2"}]}"#]].concat();
    let start = |address, more: &[&str]| {
        tailcliff(dir.path(), &[&listening_on(address)[..], &["--allow-unauthenticated"], more].concat())
    };
    let (code, text) = start("0.0.0.0:0", &secret);
    assert_eq!(code, 2, "{text}");
    for part in ["api-key of --endpoint", "access_token of --extra-body", "--tls-dir"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("hush") && !text.contains("api-version") && !text.contains("top_k"), "{text}");
    assert_eq!(start("0.0.0.0:0", &secret[..2]).0, 2, "the path alone");
    assert_eq!(
        start("0.0.0.0:0", &["--endpoint", "/v1/x?api-version=3"]).0,
        4,
        "nothing secret: nobody came"
    );
    assert_eq!(start("127.0.0.1:0", &secret).0, 4, "it stays on this host: nobody came");
    let certs = certs();
    let coordinator = of(&certs, "coordinator");
    let secure = [&secret[..], &["--tls-dir", text_of(&coordinator)]].concat();
    assert_eq!(start("0.0.0.0:0", &secure).0, 4, "it is encrypted: nobody came");
}

/// A coordinator that goes on with a run asks for a token as the one before did, whoever starts it.
#[tokio::test]
async fn a_run_that_began_with_a_token_is_not_resumed_without_one() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff"));
    command.env("TAILCLIFF_TOKEN", TOKEN);
    let mut begun = Coordinator::start_with(command, &["--output-dir", "run"]);
    begun.heard.says(&["writing to run"]).await;
    // Killed, so that it leaves a run that can be gone on with.
    begun.child.kill().unwrap();
    begun.child.wait().unwrap();
    let dir = begun.dir.path();
    let again = ["coordinate", "--resume", "run", "--listen", "127.0.0.1:0", "--wait", "1s"];
    let resume = |token: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff"));
        command.args(again).current_dir(dir).env_remove("TAILCLIFF_TOKEN");
        let output = command.envs(token.map(|token| ("TAILCLIFF_TOKEN", token))).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = resume(None);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("nodes had to show a token") && text.contains("--token-file"), "{text}");
    assert!(!text.contains("listening"), "{text}");
    let (code, text) = resume(Some(TOKEN));
    assert_eq!(code, 4, "it went on, and nobody came: {text}");
}

#[test]
fn a_node_does_not_send_its_token_in_the_clear_over_a_network() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let link = LinkArgs { token_file: Some(token), ..Default::default() };
    for near in ["127.0.0.1:1", "localhost:1", "[::1]:1"] {
        assert!(link.route(near.to_owned()).is_ok(), "{near}");
    }
    let refused = link.route("10.0.0.1:1".to_owned()).unwrap_err().to_string();
    assert!(refused.contains("without TLS") && refused.contains("10.0.0.1:1"), "{refused}");
    assert!(LinkArgs { allow_unauthenticated: true, ..link }.route("10.0.0.1:1".to_owned()).is_ok());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let (dir, certs) = (tempfile::tempdir().unwrap(), certs());
    let good = of(&certs, "coordinator");
    let with = |tls: &[&str]| tailcliff(dir.path(), &[&listening_on("127.0.0.1:0")[..], tls].concat());
    let (empty, key) = (dir.path().join("empty"), good.join("tls.key"));
    std::fs::write(&empty, "").unwrap();
    let files = |cert, key, ca| with(&["--tls-cert", cert, "--tls-key", key, "--tls-ca", ca]);
    let [cert, key, ca] =
        [&good.join("tls.crt"), &key, &good.join("ca.crt")].map(|path| text(path).to_owned());
    let other = of(&certs, "node").join("tls.key");
    for ((code, said), says) in [
        (with(&["--tls-dir", "not-there"]), "not-there/tls.crt"),
        (files(text(&empty), &key, &ca), "empty"),
        (files(&cert, text(&empty), &ca), "no PEM key"),
        (files(&cert, &key, text(&empty)), "no PEM certificate"),
        (files(&cert, &key, "/dev/zero"), "/dev/zero"),
        (files(&cert, text(&other), &ca), "belong together"),
        (with(&["--tls-cert", &cert]), "--tls-key"),
        (with(&["--token-file", text(&empty)]), "at least 16"),
    ] {
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(says), "{says}: {said}");
    }
    let (code, said) = files(&cert, &key, &ca);
    assert_eq!(code, 4, "good files are taken: {said}");
    let authority = Authority::new("old");
    let expired = authority.end(&dir.path().join("expired"), "127.0.0.1", PAST, &authority);
    let (code, said) = with(&["--tls-dir", text(&expired)]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("has expired") && said.contains("tailcliff certs"), "{said}");
}

#[test]
fn certificates_are_for_this_user_alone_and_never_overwritten() {
    let certs = certs();
    let out = certs.path().join("certs");
    assert!(!out.join("ca.key").exists());
    for end in ["coordinator", "node"] {
        let mode = std::fs::metadata(out.join(end).join("tls.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{end}");
    }
    let make = |args: &[&str]| tailcliff(certs.path(), &[&["certs"], args].concat());
    let (code, said) = make(&["--out", "certs", "--host", "127.0.0.1"]);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("is there already"), "{said}");
    assert_eq!(make(&["--out", "more", "--host", "127.0.0.1", "--keep-ca-key"]).0, 0);
    assert!(certs.path().join("more/ca.key").exists());
    let (code, said) = make(&["--out", "bad", "--host", "10.0.0.1:7100"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("without a port") && !certs.path().join("bad").exists(), "{said}");
}

#[tokio::test]
async fn a_target_that_the_agent_does_not_permit_ends_the_run_with_exit_3() {
    let mut coordinator = Coordinator::start(&["--agents", "1"]);
    let allowed = Allowed(vec!["llm.example".parse().unwrap()]);
    let agent = Agent::with(Config { allowed, shards: 1, ..Config::new(&coordinator.address) });
    assert_eq!(coordinator.ended().await, 3);
    let said = ["does not send load to 127.0.0.1:9", "--allow-target permits llm.example"];
    coordinator.heard.says(&said).await;
    drop(agent);
    assert!(!coordinator.dir.path().join("runs").exists(), "nothing was measured");
}
