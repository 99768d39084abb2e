//! `--metrics-listen` while a run goes on: what a scrape reads is Prometheus' text format, strictly, and ends up as
//! summary.json has it; and no peer of it, however it behaves, holds up the run.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tailcliff_proto::clock::HostClock;

fn tailcliff(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff"));
    command.args(args).current_dir(dir).env("XDG_STATE_HOME", dir);
    command
}

/// Killed when a test ends early.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// A line of a child with this beginning; what follows it.
fn line_of(out: &mut impl BufRead, beginning: &str) -> String {
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        if let Some(rest) = line.trim().strip_prefix(beginning) {
            return rest.to_owned();
        }
        line.clear();
    }
    panic!("no line begins with {beginning:?}")
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    // A peer that is turned away reads nothing, or a reset.
    let _reset = stream.read_to_string(&mut reply);
    reply
}

/// Values by series.
type Samples = BTreeMap<Series, f64>;
/// Name and labels.
type Series = (String, BTreeMap<String, String>);

fn scrape(address: &str) -> Samples {
    let reply = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no whole reply: {reply:?}"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    parsed(body)
}

/// The text format 0.0.4, with nothing forgiven.
fn parsed(body: &str) -> Samples {
    assert!(body.ends_with('\n'));
    let (mut kinds, mut helped, mut all) = (BTreeMap::new(), BTreeSet::new(), Samples::new());
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').unwrap();
            assert!(helped.insert(name.to_owned()) && !words.is_empty(), "{line}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(helped.contains(name) && ["gauge", "counter", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            continue;
        }
        let (name, labels, value) = sample(line);
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
            let family = name.strip_suffix(end)?;
            (kinds.get(family).map(String::as_str) == Some("histogram")).then(|| family.to_owned())
        });
        let family = family.unwrap_or_else(|| name.clone());
        let kind = kinds.get(&family).unwrap_or_else(|| panic!("no TYPE before {line}"));
        assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        assert!(all.insert((name, labels), value).is_none(), "twice: {line}");
    }
    check_histograms(&all);
    all
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() };
    let (name, rest) =
        series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest.strip_suffix('}').unwrap()));
    assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{line}");
    let (mut labels, mut rest) = (BTreeMap::new(), rest);
    while !rest.is_empty() {
        let (key, quoted) = rest.split_once("=\"").unwrap();
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next().unwrap() {
                (_, '\\') => match chars.next().unwrap().1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    c => panic!("no such escape as {c:?} in {line}"),
                },
                (at, '"') => break at,
                (_, c) => value.push(c),
            }
        };
        assert!(labels.insert(key.to_owned(), value).is_none(), "{line}");
        rest = &quoted[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    (name.to_owned(), labels, value)
}

/// Buckets grow, and the last is the count.
fn check_histograms(all: &Samples) {
    let mut buckets: BTreeMap<Series, Vec<(f64, f64)>> = BTreeMap::new();
    for ((name, labels), value) in all {
        if let Some(family) = name.strip_suffix("_bucket") {
            let mut rest = labels.clone();
            let le = rest.remove("le").unwrap();
            let le = if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() };
            buckets.entry((family.to_owned(), rest)).or_default().push((le, *value));
        }
    }
    for ((family, labels), mut buckets) in buckets {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{family} {labels:?}: {buckets:?}");
        assert_eq!(buckets.last().unwrap().1, all[&(format!("{family}_count"), labels.clone())], "{family}");
        assert!(all.contains_key(&(format!("{family}_sum"), labels)), "{family}");
    }
}

fn of(samples: &Samples, name: &str, wanted: &[(&str, &str)]) -> Option<f64> {
    let fits = |labels: &BTreeMap<String, String>| {
        wanted.iter().all(|(key, value)| labels.get(*key).map(String::as_str) == Some(value))
    };
    samples.iter().find(|((n, labels), _)| n == name && fits(labels)).map(|(_, value)| *value)
}

#[test]
fn scrapes_during_a_run_are_well_formed_and_settle_on_the_summary_s_counts() {
    let dir = tempfile::tempdir().unwrap();
    let mut stub = Killed(
        tailcliff(dir.path(), &["stub", "--tokens", "8"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let url = line_of(&mut BufReader::new(stub.0.stdout.take().unwrap()), "listening on ");
    let args = ["run", "--url", &url, "--model", "stub", "--concurrency", "1,2,3", "--duration", "3s"];
    let args = [&args[..], &["--metrics-listen", "0", "--output-dir", "run"]].concat();
    let mut run =
        Killed(tailcliff(dir.path(), &args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    let mut said = BufReader::new(run.0.stderr.take().unwrap());
    let address = line_of(&mut said, "metrics on http://");
    let address = address.strip_suffix("/metrics").unwrap().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "a port alone is loopback's: {address}");
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));

    let impolite = impolite(&address);
    let (mut seen, mut last) = (0, Samples::new());
    // Until the last level has begun: those before it are settled then.
    let until = HostClock.now() + 60_000_000_000;
    while of(&last, "tailcliff_level", &[]) != Some(2.0) {
        assert!(HostClock.now() < until, "the last level never began: {last:?}");
        std::thread::sleep(Duration::from_millis(300));
        last = scrape(&address);
        seen += 1;
    }
    assert!(seen > 5, "a run was watched");
    assert_eq!(of(&last, "tailcliff_levels_planned", &[]), Some(3.0));
    assert_eq!(of(&last, "tailcliff_nodes_connected", &[("kind", "agent")]), Some(1.0));
    assert!(of(&last, "tailcliff_clock_bound_seconds", &[]).is_some_and(|s| s > 0.0 && s < 1.0));
    drop(impolite);
    assert!(run.0.wait().unwrap().success());

    let summary: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("run/summary.json")).unwrap()).unwrap();
    for level in [0_usize, 1] {
        let (figures, name) = (&summary["levels"][level], level.to_string());
        let told = |metric: &str, outcome: &str| {
            let mut labels = vec![("level", name.as_str())];
            labels.extend((!outcome.is_empty()).then_some(("outcome", outcome)));
            of(&last, metric, &labels).unwrap()
        };
        let counts = &figures["all_phases"];
        for outcome in ["completed", "failed", "incomplete"] {
            assert_eq!(
                Some(told("tailcliff_requests_total", outcome)),
                counts[outcome].as_f64(),
                "{level}: {outcome}"
            );
        }
        let completed = counts["completed"].as_f64().unwrap();
        assert!(completed > 10.0);
        assert_eq!(Some(told("tailcliff_requests_released_total", "")), counts["released"].as_f64());
        assert_eq!(told("tailcliff_e2e_seconds_count", ""), completed, "every window came");
        assert_eq!(told("tailcliff_offered_concurrency", ""), level as f64 + 1.0);
        let mean = told("tailcliff_e2e_seconds_sum", "") / completed * 1e3;
        let exact = figures["mean_e2el_ms"].as_f64().unwrap();
        // Without a warm-up, all but those that ended in the drain are measured.
        assert!((mean - exact).abs() < exact * 0.02, "{mean} ms and {exact} ms");
    }
}

/// Peers that ask wrongly, and more than there are places for that never finish asking; they hold their connections.
fn impolite(address: &str) -> Vec<TcpStream> {
    let first = |request: &str| ask(address, request).lines().next().unwrap_or_default().to_owned();
    assert!(first("GET / HTTP/1.1\r\nhost: x\r\n\r\n").contains(" 404 "));
    assert!(first("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nabcd").contains(" 405 "));
    let long = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    assert!(!first(&long).contains(" 200 "));
    assert!(!first("\x16\x03\x01 not http\r\n\r\n").contains(" 200 "));
    let slow = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metr").unwrap();
        stream
    };
    let mut held: Vec<TcpStream> = (0..40).map(slow).collect();
    // They are given up within seconds, so that a scrape has a place again.
    let since = HostClock.now();
    for stream in &mut held {
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let _closed = stream.read(&mut [0; 512]);
    }
    let took_ns = HostClock.now() - since;
    assert!(took_ns < 12_000_000_000, "{took_ns} ns");
    held
}

#[test]
fn an_address_that_cannot_be_had_is_one_line_and_exit_6() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for address in [taken.as_str(), "no-such-host.invalid:1", "nonsense"] {
        let args = ["run", "--url", "127.0.0.1:9", "--model", "m", "--metrics-listen", address];
        let output = tailcliff(dir.path(), &args).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(6), "{text}");
        assert!(text.lines().last().unwrap().contains("failed to listen on"), "{text}");
    }
    assert!(!dir.path().join("runs").exists());
}
