//! Two servers behind one URL, each with a probe of its own: the join names who answered.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use e2e::roles::Role;
use e2e::truth_check::read_truth;

use super::told::Waterfall;
use super::{ENGINE, free_port, joined, probe};
use crate::scene::{SHORT, Scene, binary};

/// Gives each connection to the next server in turn, until this process ends.
fn in_turn(servers: [SocketAddr; 2]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (near, server) in listener.incoming().zip(servers.iter().cycle()) {
            if let (Ok(near), Ok(far)) = (near, TcpStream::connect(server)) {
                let _either_end_may_be_gone = pipe(near, far);
            }
        }
    });
    address
}

fn pipe(near: TcpStream, far: TcpStream) -> io::Result<()> {
    let ways = [(near.try_clone()?, far.try_clone()?), (far, near)];
    for (mut from, mut to) in ways {
        from.set_nodelay(true)?;
        std::thread::spawn(move || {
            let _cut = io::copy(&mut from, &mut to);
            let _gone = to.shutdown(std::net::Shutdown::Write);
        });
    }
    Ok(())
}

#[test]
fn with_two_servers_behind_one_url_the_join_names_which_answered() {
    let dir = tempfile::tempdir().unwrap();
    let ports = [free_port(), free_port()];
    let endpoints = ports.map(|port| format!("grpc://127.0.0.1:{port}"));
    let mut scene = Scene::new(&[&ENGINE[..], &["--otlp-endpoint", &endpoints[0]]].concat());
    let log = dir.path().join("truth.jsonl");
    let other =
        ["--listen", "127.0.0.1:0", "--truth-log", log.to_str().unwrap(), "--otlp-endpoint", &endpoints[1]];
    let mut other = Role::start(binary(), "model-sim", &[&other[..], &ENGINE].concat()).unwrap();
    let urls = [scene.url().to_owned(), other.line("listening on ").unwrap()];
    scene.behind(in_turn(urls.clone().map(|url| url.parse().unwrap())).to_string());
    scene.coordinate(&[&SHORT[..], &["--agents", "2", "--probes", "2"]].concat());
    ["a", "b"].into_iter().for_each(|name| scene.agent(name));
    for ((name, port), url) in ["north", "south"].into_iter().zip(ports).zip(&urls) {
        let flags = [
            "--otlp-listen",
            &format!("127.0.0.1:{port}"),
            "--server-metrics",
            &format!("http://{url}/metrics"),
        ];
        probe(&mut scene, name, &flags.map(str::to_owned));
    }
    scene.complete();
    other.end().unwrap();
    assert_eq!(joined(&scene.summary()), (60, 0));
    let rows = Waterfall::read(&scene.run_dir());
    let served = [scene.truth_log(), log].map(|log| read_truth(&log).unwrap().by_id);
    assert_eq!(served.iter().map(|by| by.len()).sum::<usize>(), 60);
    for (probe, by) in ["north", "south"].into_iter().zip(&served) {
        assert!(by.len() > 5, "{probe} answered {} requests", by.len());
        for id in by.keys() {
            assert!(rows.of(id).server.contains(probe), "{probe} answered {id}: {:?}", rows.of(id));
        }
    }
}
