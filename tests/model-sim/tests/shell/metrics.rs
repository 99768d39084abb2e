//! `/metrics` beside a real server's, and what it counts.

use std::collections::{BTreeMap, BTreeSet};

use model_sim::{Config, MetricsFault, Params, Timing};

use crate::client::*;

/// From a real server; see the README beside it.
const RECORDED: &str = include_str!("../fixtures/vllm-0.32-metrics.txt");

type Labels = Vec<(String, String)>;

/// A page of metrics, as any reader of Prometheus's text form sees it.
struct Page {
    /// HELP and TYPE of each.
    heads: BTreeMap<String, String>,
    /// Each series: name, labels in order, value.
    samples: Vec<(String, Labels, f64)>,
}

impl Page {
    fn read(text: &str) -> Self {
        let (mut heads, mut samples) = (BTreeMap::new(), Vec::new());
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# ") {
                let (what, rest) = head.split_once(' ').unwrap();
                let (name, text) = rest.split_once(' ').unwrap();
                heads.insert(format!("{name} {what}"), text.to_owned());
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap();
            let pair = |pair: &str| {
                let (key, value) = pair.split_once("=\"").unwrap();
                (key.to_owned(), value.to_owned())
            };
            let labels = labels.trim_end_matches('"').split("\",").map(pair).collect();
            samples.push((name.to_owned(), labels, value.parse().unwrap()));
        }
        Self { heads, samples }
    }

    fn of(server: &Server) -> Self {
        let answer = server.connect().get("/metrics");
        assert_eq!(answer.status, 200);
        assert!(header(&answer.head, "content-type").unwrap().starts_with("text/plain"));
        Self::read(&answer.body)
    }

    /// All series of each name, by their labels without the values that are a server's own.
    fn shape(&self) -> BTreeSet<(String, Vec<String>)> {
        let fixed = ["le", "engine", "finished_reason"];
        let label = |(key, value): &(String, String)| {
            if fixed.contains(&key.as_str()) { format!("{key}={value}") } else { key.clone() }
        };
        let shape =
            |(name, labels, _): &(String, Labels, f64)| (name.clone(), labels.iter().map(label).collect());
        self.samples.iter().map(shape).collect()
    }

    /// The one sample of a name with this label, if one is given.
    fn value(&self, name: &str, label: Option<(&str, &str)>) -> f64 {
        let has = |labels: &[(String, String)]| {
            label.is_none_or(|(key, value)| {
                labels.iter().any(|(k, v)| (k.as_str(), v.as_str()) == (key, value))
            })
        };
        let name = format!("vllm:{name}");
        let found: Vec<f64> =
            self.samples.iter().filter(|(n, l, _)| *n == name && has(l)).map(|(.., value)| *value).collect();
        assert_eq!(found.len(), 1, "{name} {label:?}");
        found[0]
    }
}

fn engine(params: Params) -> Config {
    Config { timing: Timing::Engine(params), ..quick() }
}

#[test]
fn every_metric_is_as_a_real_server_writes_it() {
    let server = Server::start(engine(Params::default()));
    server.connect().post(CHAT, &chat(""));
    let (ours, theirs) = (Page::of(&server), Page::read(RECORDED));
    assert_eq!(ours.heads, theirs.heads, "names, types and helps");
    assert_eq!(ours.shape(), theirs.shape(), "labels and buckets");
}

#[test]
fn what_it_counts_is_what_the_truth_log_says() {
    let server = Server::start(engine(Params { step_base_ns: 2 * MS, ..Params::default() }));
    let mut client = server.connect();
    for _ in 0..4 {
        client.post(CHAT, &chat(""));
    }
    client.post(CHAT, &chat(r#","sim_fault":{"kind":"drop","token":2}"#));
    let page = Page::of(&server);
    let records = server.stop().records;
    assert_eq!(page.value("request_success_total", Some(("finished_reason", "length"))), 4.0);
    assert_eq!(page.value("request_success_total", Some(("finished_reason", "abort"))), 1.0);
    assert_eq!(page.value("prompt_tokens_total", None), 15.0);
    assert_eq!(
        page.value("generation_tokens_total", None),
        4.0 * 5.0 + 3.0,
        "the dropped one got to its third"
    );
    assert_eq!(page.value("inter_token_latency_seconds_count", None), 4.0 * 4.0 + 2.0);
    assert_eq!(
        [page.value("num_requests_running", None), page.value("num_requests_waiting", None)],
        [0.0, 0.0]
    );
    let whole = &records[..4];
    let sum = |of: fn(&model_sim::TruthRecord) -> i64| whole.iter().map(of).sum::<i64>() as f64 / 1e9;
    let decode = sum(|r| r.last_token_ns.unwrap() - r.first_token_ns.unwrap());
    let near = |name: &str, seconds: f64| {
        let (sum, count) =
            (page.value(&format!("{name}_sum"), None), page.value(&format!("{name}_count"), None));
        assert!((sum - seconds).abs() < 1e-7 && count == 4.0, "{name}: {sum} s of {count}, truly {seconds}");
    };
    near("request_decode_time_seconds", decode);
    near("request_time_per_output_token_seconds", decode / 4.0);
    near("request_prefill_time_seconds", sum(|r| r.first_token_ns.unwrap() - r.dequeued_ns.unwrap()));
    near("request_queue_time_seconds", sum(|r| r.dequeued_ns.unwrap() - r.enqueued_ns.unwrap()));
    near("e2e_request_latency_seconds", sum(|r| r.last_out_ns.unwrap() - r.arrived_ns));
    assert_eq!(page.value("time_to_first_token_seconds_count", None), 5.0);
}

#[test]
fn a_queue_a_batch_and_a_cache_show_while_they_are_there() {
    let params = Params { step_base_ns: 100 * MS, max_num_seqs: 1, kv_tokens: 16, ..Params::default() };
    let server = Server::start(engine(params));
    let mut clients: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(post(CHAT, &chat(""), ""));
        client.head();
    }
    let page = Page::of(&server);
    assert_eq!(
        [page.value("num_requests_running", None), page.value("num_requests_waiting", None)],
        [1.0, 2.0]
    );
    assert_eq!(page.value("kv_cache_usage_perc", None), 0.5, "3 and 5 tokens of 16");
    let paced = Server::start(quick());
    assert!(!Page::of(&paced).heads.keys().any(|head| head.contains("kv_cache")), "there is no cache");
}

#[test]
fn whoever_is_put_out_of_the_batch_is_counted() {
    let server = Server::start(Config {
        faults: vec!["preempt:token=2,ms=20".parse().unwrap()],
        ..engine(Params::default())
    });
    server.connect().post(CHAT, &chat(""));
    assert_eq!(Page::of(&server).value("num_preemptions_total", None), 1.0);
}

#[test]
fn it_says_that_it_is_simulated() {
    let server = Server::start(quick());
    let version = server.connect().get("/version").json();
    assert!(version["version"].as_str().unwrap().starts_with("model-sim "), "{version}");
    let models = server.connect().get("/v1/models").json();
    assert_eq!(
        (&models["data"][0]["owned_by"], &models["data"][0]["max_model_len"]),
        (&"model-sim".into(), &32_768.into())
    );
}

#[test]
fn the_page_can_be_slow_and_can_be_gone() {
    let faulty = |fault: MetricsFault| {
        let mut config = quick();
        config.inside.metrics_fault = Some(fault);
        Server::start(config)
    };
    let server = faulty("slow_ms=300".parse().unwrap());
    let asked_ns = model_sim::clock::raw_ns();
    Page::of(&server);
    assert!(model_sim::clock::raw_ns() - asked_ns >= 300 * MS);
    let server = faulty("gone_at_ms=0".parse().unwrap());
    let mut client = server.connect();
    client.send("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(client.is_closed());
    assert_eq!(server.connect().post(CHAT, &chat("")).status, 200, "and only that page");
}
