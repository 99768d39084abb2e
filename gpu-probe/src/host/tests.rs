//! Over trees that look like /proc, and over this host's own.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;

struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn process(&self, pid: u32, parent: u32, started: u64, cpu: u64) {
        let stat = format!("{pid} (s) S {parent} 1 1 0 -1 0 0 0 5 0 {cpu} 0 0 0 20 0 1 0 {started} 0 3 0");
        self.put(&format!("proc/{pid}/stat"), &stat);
        self.put(&format!("proc/{pid}/io"), "read_bytes: 1000\n");
        self.put(&format!("proc/{pid}/comm"), "server\n");
    }

    fn remove(&self, pid: u32) {
        fs::remove_dir_all(self.0.path().join(format!("proc/{pid}"))).unwrap();
    }

    fn listens(&self, pid: u32, port: u16, inode: u64) {
        let line = format!("0: 0100007F:{port:04X} 00000000:0000 0A 0:0 0:0 0 0 0 {inode} 1");
        self.put("proc/net/tcp", &format!("header\n{line}\n"));
        self.put(&format!("proc/{pid}/fd/x"), "");
        symlink(format!("socket:[{inode}]"), self.0.path().join(format!("proc/{pid}/fd/3"))).unwrap();
    }

    fn source(&self, server: Option<Server>) -> HostSource {
        HostSource::over(self.0.path(), server)
    }
}

#[test]
fn an_empty_host_tells_nothing_and_no_zero() {
    let mut source = Tree::new().source(None);
    let sample = source.sample();
    assert!(sample.raw_ns > 0);
    assert_eq!(sample, v1::HostSample { raw_ns: sample.raw_ns, ..Default::default() });
}

#[test]
fn bytes_over_bridges_are_not_counted_twice() {
    let tree = Tree::new();
    let line = |name: &str, bytes: u64| format!("{name}: {bytes} 0 0 0 0 0 0 0 {bytes} 0\n");
    let text = ["lo", "eth0", "docker0", "eth1"].iter().zip([9, 100, 30, 5]).map(|(n, b)| line(n, b));
    tree.put("proc/net/dev", &text.collect::<String>());
    assert_eq!(tree.source(None).sample().net_rx_bytes, Some(135), "in a container: all but the loopback");
    tree.put("sys/class/net/eth0/device/vendor", "");
    tree.put("sys/class/net/eth1/device/vendor", "");
    let sample = tree.source(None).sample();
    assert_eq!((sample.net_rx_bytes, sample.net_tx_bytes), (Some(105), Some(105)));
}

#[test]
fn a_server_is_summed_over_its_children_and_absent_when_it_is_gone() {
    let tree = Tree::new();
    tree.process(10, 1, 50, 3);
    tree.process(11, 10, 60, 4);
    tree.process(12, 11, 61, 5);
    tree.process(13, 1, 62, 1000);
    let mut source = tree.source(Some(Server::Pid(10)));
    let sample = source.sample();
    assert_eq!(sample.server_cpu_ns, Some(12 * source.ns_per_tick as i64));
    assert_eq!((sample.server_major_faults, sample.server_read_bytes), (Some(15), Some(3000)));
    assert_eq!(sample.server_rss_bytes, Some(9 * source.page_bytes));
    assert_eq!(source.server_pids(), Some(vec![10, 11, 12]));
    assert_eq!(source.troubles(), ["the server is process server 10"]);
    let mut source = tree.source(Some(Server::Pid(99)));
    assert_eq!((source.sample().server_cpu_ns, source.server_pids()), (None, None));
    assert!(source.troubles()[0].contains("99"));
    source.sample();
    assert!(source.troubles().is_empty(), "said once");
}

#[test]
fn a_server_of_ever_so_many_processes_is_sampled_in_part_and_keeps_its_root() {
    let tree = Tree::new();
    // The root has the highest number of all.
    tree.process(1000, 1, 50, 3);
    (300..600).for_each(|pid| tree.process(pid, 1000, 51, 1));
    let mut source = tree.source(Some(Server::Pid(1000)));
    source.sample();
    let pids = source.server_pids().unwrap();
    assert!(pids.len() == 256 && pids.contains(&1000), "{pids:?}");
    assert!(source.troubles()[0].contains("more than 256"));
}

#[test]
fn another_process_with_the_same_number_is_not_the_server() {
    let tree = Tree::new();
    tree.process(10, 1, 50, 3);
    tree.process(11, 10, 51, 4);
    let mut source = tree.source(Some(Server::Pid(10)));
    assert_eq!(source.sample().server_major_faults, Some(10));
    // A child's number, between two looks: what it had stays, and what another one has is not added.
    tree.process(11, 1, 99, 1000);
    let sample = source.sample();
    assert_eq!((sample.server_cpu_ns, sample.server_major_faults), (source.ns(7), Some(10)));
    tree.process(10, 1, 99, 1000);
    assert_eq!((source.sample().server_cpu_ns, source.server_pids()), (None, None));
    assert!(source.troubles()[1].contains("not there"));
}

#[test]
fn what_one_process_does_not_tell_the_sum_does_not_either() {
    let tree = Tree::new();
    tree.process(10, 1, 50, 3);
    tree.process(11, 10, 60, 4);
    fs::remove_file(tree.0.path().join("proc/11/io")).unwrap();
    let sample = tree.source(Some(Server::Pid(10))).sample();
    assert_eq!((sample.server_read_bytes, sample.server_major_faults), (None, Some(10)));
}

#[test]
fn the_port_leads_to_the_process_and_to_the_one_after_it() {
    let tree = Tree::new();
    tree.process(10, 1, 50, 3);
    tree.process(11, 10, 51, 4);
    tree.listens(10, 8000, 777);
    let mut source = tree.source(Some(Server::Port(8000)));
    source.sample();
    assert_eq!(source.server_pids(), Some(vec![10, 11]));
    // A child that came later.
    tree.process(12, 11, 52, 4);
    source.server.as_mut().unwrap().look_next_time();
    source.sample();
    assert_eq!(source.server_pids(), Some(vec![10, 11, 12]));
    // Started anew: another pid, another socket.
    tree.remove(10);
    tree.remove(11);
    tree.remove(12);
    tree.process(20, 1, 90, 7);
    tree.listens(20, 8000, 888);
    fs::write(tree.0.path().join("proc/20/comm"), "vllm").unwrap();
    // A file that is kept open outlives its name here, so that its end is not seen; under /proc it does not.
    source.server.as_mut().unwrap().look_next_time();
    let cpu = source.sample().server_cpu_ns;
    assert_eq!(source.server_pids(), Some(vec![20]));
    assert_eq!(cpu, source.ns(7), "what the one before it took is not its own");
    assert_eq!(source.troubles(), ["the server is process server 10", "the server is process vllm 20"]);
    let mut none = tree.source(Some(Server::Port(8001)));
    none.sample();
    assert!(none.troubles()[0].contains("nobody listens on port 8001"));
}

#[test]
fn a_port_that_leads_nowhere_says_why() {
    let tree = Tree::new();
    tree.process(10, 1, 50, 3);
    tree.listens(10, 8000, 777);
    tree.put("proc/10/comm", "docker-proxy\n");
    let said = |tree: &Tree| {
        let mut source = tree.source(Some(Server::Port(8000)));
        source.sample();
        source.troubles().join("")
    };
    assert!(said(&tree).contains("docker-proxy"), "{}", said(&tree));
    fs::remove_dir_all(tree.0.path().join("proc/10/fd")).unwrap();
    assert!(said(&tree).contains("another user"), "{}", said(&tree));
}

/// A child that ends with the test, however it ends.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn a_real_child_is_seen_working_and_then_gone() {
    // Reads its standard input in a loop, so that it ends by itself when this test does. The work is a child's, which has
    // ended when the word comes.
    let work =
        "while read -r line; do (i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; :); echo done; done";
    let mut child = Command::new("sh");
    child.args(["-c", work]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut held = Held(child.spawn().unwrap());
    let mut source = HostSource::new(Some(Server::Pid(held.0.id())));
    let before = source.sample().server_cpu_ns.unwrap();
    use std::io::{BufRead, BufReader, Write};
    held.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let mut line = String::new();
    BufReader::new(held.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(source.sample().server_cpu_ns.unwrap() > before, "200,000 turns of a shell take ticks");
    held.0.kill().unwrap();
    held.0.wait().unwrap();
    assert_eq!(source.sample().server_cpu_ns, None);
    assert_eq!(source.server_pids(), None);
    assert!(source.troubles().iter().any(|said| said.contains("not there")));
}

#[test]
fn this_host_tells_what_every_linux_does_and_finds_this_test_by_its_port() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut source = HostSource::new(Some(Server::Port(listener.local_addr().unwrap().port())));
    let first = source.sample();
    std::thread::sleep(Duration::from_millis(30));
    let second = source.sample();
    assert!(source.server_pids().unwrap().contains(&std::process::id()));
    assert!(second.raw_ns > first.raw_ns);
    assert!(first.server_rss_bytes.unwrap() > 0 && second.server_cpu_ns >= first.server_cpu_ns);
    for (one, two) in
        [(first.disk_read_bytes, second.disk_read_bytes), (first.major_faults, second.major_faults)]
    {
        assert!(one <= two, "totals rise: {one:?} {two:?}");
    }
}
