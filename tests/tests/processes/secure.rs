//! A whole run with certificates on every connection, a join token, and a server that asks for a key.

use std::path::Path;

use e2e::roles::Role;

use crate::clock;
use crate::scene::{PACED, SHORT, Scene, Secrets};

const SECRETS: Secrets = Secrets { token: "a-token-that-nobody-guesses", api_key: "sk-do-not-keep-me" };

#[test]
fn a_run_over_tls_is_whole_and_shows_no_secret() {
    let args = [&PACED[..], &["--api-key-env", "TAILCLIFF_TEST_KEY"]].concat();
    let mut scene =
        Scene::with_server_env(&args, &[("TAILCLIFF_TEST_KEY", SECRETS.api_key)]).secured(Some(SECRETS));
    scene.coordinate(&[&SHORT[..], &["--agents", "3", "--probes", "1"]].concat());
    for name in ["a", "b", "c"] {
        scene.agent(name);
    }
    scene.probe();
    scene.under_way(10);
    let pids = scene.nodes.iter().map(Role::pid).collect::<Vec<_>>();
    for pid in pids.into_iter().chain([scene.coordinator().pid()]) {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        shows_no_secret(&line, "a command line");
    }
    scene.complete();
    clock::whole(&scene);
    let heard = std::iter::from_fn(|| scene.coordinator().announced("").ok()).collect::<Vec<_>>().join("\n");
    assert!(heard.contains("joined"), "it was heard: {heard}");
    shows_no_secret(heard.as_bytes(), "standard error");
    let files = files_below(&scene.run_dir());
    assert!(files.len() > 3, "{files:?}");
    for file in files {
        shows_no_secret(&std::fs::read(&file).unwrap(), &file.display().to_string());
    }
}

fn shows_no_secret(bytes: &[u8], place: &str) {
    for secret in [SECRETS.token, SECRETS.api_key] {
        assert!(memchr::memmem::find(bytes, secret.as_bytes()).is_none(), "{place} shows a secret");
    }
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
