//! Results fetched from a coordinator whose disk the fetcher cannot read.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};

use e2e::roles::ROLE;

use crate::scene::{PACED, SHORT, Scene, binary};

const SERVE: [&str; 2] = ["--serve-results", "60s"];

fn fetch(address: &str, dir: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.env(ROLE, "tailcliff").args(["fetch", "--coordinator", address, "--output-dir"]).arg(dir);
    command.args(more).output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Passes connections on; of the first few it cuts the answers short.
fn cutting(to: String, cuts: usize, after_bytes: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for (i, near) in listener.incoming().flatten().enumerate() {
            let Ok(far) = TcpStream::connect(&to) else { continue };
            let (up, down) = ((near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near));
            std::thread::spawn(move || pass(up, usize::MAX));
            std::thread::spawn(move || pass(down, if i < cuts { after_bytes } else { usize::MAX }));
        }
    });
    address
}

fn pass((mut from, mut to): (TcpStream, TcpStream), most: usize) {
    let (mut passed, mut bytes) = (0, [0; 1024]);
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        passed += n;
        if passed > most || to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    // Either may be closed already.
    let _gone = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
}

#[test]
fn what_was_fetched_over_a_link_that_breaks_is_what_the_coordinator_wrote() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&[&SHORT[..], &SERVE].concat());
    scene.agent("a");
    scene.coordinator().announced("results wait").unwrap();
    let into = scene.dir.path().join("fetched");
    let output = fetch(&cutting(scene.address().to_owned(), 4, 3_000), &into, &["--wait", "30s"]);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("ttft p95") && table.contains("fetched"), "{table}");
    scene.complete();
    let names = |dir: &Path| {
        let mut all: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        all.sort();
        all
    };
    assert!(names(&into).len() >= 8, "{:?}", names(&into));
    for name in names(&into) {
        let (here, there) = (std::fs::read(into.join(&name)), std::fs::read(scene.run_dir().join(&name)));
        assert!(here.unwrap() == there.unwrap(), "{name:?} differs");
    }
    let again = fetch(scene.address(), &into, &["--wait", "1s"]);
    assert_eq!(again.status.code(), Some(9), "the coordinator has left: {}", words(&again));
}

#[test]
fn a_run_without_its_agents_tells_the_fetcher_so_with_its_exit_code() {
    let mut scene = Scene::new(&[]);
    scene.coordinate(&[&SERVE[..], &["--wait", "200ms"]].concat());
    let into = scene.dir.path().join("fetched");
    let output = fetch(scene.address(), &into, &[]);
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));
    assert!(words(&output).contains("0 of 1 agents"), "{}", words(&output));
    assert!(!into.exists(), "there is nothing to fetch");
    assert_eq!(scene.wait(), 4);
}

#[test]
fn a_coordinator_that_offers_no_results_says_how_it_would() {
    let mut scene = Scene::new(&[]);
    scene.coordinate(&[]);
    let output = fetch(scene.address(), &scene.dir.path().join("fetched"), &["--wait", "5s"]);
    assert_eq!(output.status.code(), Some(9));
    assert!(words(&output).contains("--serve-results"), "{}", words(&output));
}
