//! Against a server that is slow, gone, huge, or says something else.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::inside::test_server::{Found, Reply, TestServer, ok};

const VLLM: &str = include_str!("../../../testdata/metrics/vllm-0.32-metrics.txt");
const LLAMA: &str = include_str!("../../../testdata/metrics/llama-cpp-metrics.txt");
const SLOTS: &str =
    r#"[{"n_ctx":100,"is_processing":true,"n_prompt_tokens":50},{"n_ctx":100,"is_processing":false}]"#;
/// Of a test that waits for something to happen: ten times what a busy machine needs.
const FOREVER: Duration = Duration::from_secs(60);

struct Scene {
    found: Found,
    samples: Vec<v1::ServerSample>,
    told: Vec<String>,
}

impl Scene {
    fn collect(&mut self) {
        self.samples.extend(self.found.batches().into_iter().flat_map(|batch| batch.server_samples));
        self.told.extend(self.found.told());
    }

    /// Until it is so.
    async fn until(&mut self, is: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.collect();
            }
        };
        assert!(tokio::time::timeout(FOREVER, wait).await.is_ok());
    }

    fn good(&self) -> usize {
        self.samples.iter().filter(|sample| sample.failed.is_empty()).count()
    }

    fn bad(&self) -> usize {
        self.samples.len() - self.good()
    }
}

/// Scrapes `url` every 100 ms while `script` looks on.
fn scraping<F: Future<Output = Scene>>(
    url: String,
    named: &[&str],
    script: impl FnOnce(Scene) -> F,
) -> Scene {
    let (sink, found) = Found::new();
    let named = named.iter().map(|name| (*name).to_owned()).collect();
    let inside = Inside { metrics: Some(url), every: FASTEST, named, ..Inside::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (shutdown, again) = (CancellationToken::new(), Notify::new());
    runtime.block_on(async {
        let scene = Scene { found, samples: Vec::new(), told: Vec::new() };
        let watch = async {
            let scene = script(scene).await;
            shutdown.cancel();
            scene
        };
        tokio::join!(run(&inside, &again, sink, shutdown.clone()), watch).1
    })
}

fn of_metrics(text: &'static str) -> impl Fn(&str) -> Reply {
    move |path| if path == "/metrics" { ok(text) } else { Reply::Says(404, String::new()) }
}

#[test]
fn metrics_are_scraped_over_one_connection_and_stamped() {
    let server = TestServer::new(of_metrics(VLLM));
    let before = HostClock.now();
    let scene = scraping(server.metrics(), &[], async |mut scene: Scene| {
        scene.until(|scene| scene.samples.len() >= 4).await;
        scene
    });
    let after = HostClock.now();
    assert_eq!((scene.bad(), server.connections()), (0, 1), "{:?}", scene.told);
    for sample in &scene.samples {
        assert!(sample.raw_ns >= before && sample.took_ns > 0 && sample.raw_ns + sample.took_ns <= after);
        assert_eq!((sample.output_tokens, sample.histograms.len()), (Some(870.0), 7));
        assert_eq!(sample.endpoint, server.metrics());
    }
    // Deadlines are absolute: a scrape is not sooner after the last than a late one allows.
    let span = scene.samples[3].raw_ns - scene.samples[0].raw_ns;
    assert!(span > 200_000_000, "{span}");
    assert!(scene.told.is_empty(), "{:?}", scene.told);
}

#[test]
fn nothing_is_scraped_without_a_run() {
    let server = TestServer::new(of_metrics(VLLM));
    let scene = scraping(server.metrics(), &[], async |mut scene: Scene| {
        scene.until(|scene| scene.good() >= 1).await;
        scene.found.switch.on.store(false, Relaxed);
        // One may be under way.
        tokio::time::sleep(Duration::from_millis(300)).await;
        scene.collect();
        let asked = server.asked("/metrics");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(server.asked("/metrics"), asked);
        scene.found.switch.on.store(true, Relaxed);
        let had = scene.samples.len();
        scene.until(|scene| scene.samples.len() > had).await;
        scene
    });
    assert_eq!(scene.bad(), 0);
}

#[test]
fn an_endpoint_that_goes_is_a_sample_that_says_so_and_told_once() {
    let server = TestServer::new(of_metrics(VLLM));
    let scene = scraping(server.metrics(), &[], async |mut scene: Scene| {
        scene.until(|scene| scene.good() >= 2).await;
        server.answers(|_| Reply::Hangs);
        scene.until(|scene| scene.bad() >= 3).await;
        server.answers(|_| Reply::Says(503, String::new()));
        scene.until(|scene| scene.samples.iter().any(|sample| sample.failed == "HTTP 503")).await;
        server.answers(of_metrics(VLLM));
        let had = scene.good();
        scene.until(|scene| scene.good() >= had + 2).await;
        scene
    });
    assert_eq!(scene.told.len(), 2, "{:?}", scene.told);
    assert!(scene.told[0].contains("not told any more") && scene.told[1].contains("told again"));
    assert!(scene.samples.iter().all(|sample| sample.failed.is_empty() || sample.running.is_none()));
}

#[test]
fn nobody_there_is_told_and_looked_for_again() {
    let server = TestServer::new(of_metrics(VLLM));
    let (address, url) = (server.address.to_string(), server.metrics());
    drop(server);
    let scene = scraping(url, &[], async |mut scene: Scene| {
        scene.until(|scene| scene.bad() >= 2).await;
        let _server = TestServer::at(&address, of_metrics(VLLM));
        scene.until(|scene| scene.good() >= 1).await;
        scene
    });
    assert!(scene.samples[0].failed.contains("failed to connect"), "{}", scene.samples[0].failed);
    assert!(scene.told[0].contains("are not told: failed to connect"), "{:?}", scene.told);
}

#[test]
fn a_slow_endpoint_is_not_waited_for_longer_than_it_may_take() {
    let server = TestServer::new(|_| Reply::Slow(Duration::from_secs(30), VLLM.to_owned()));
    let scene = scraping(server.metrics(), &[], async |mut scene: Scene| {
        scene.until(|scene| scene.bad() >= 2).await;
        scene
    });
    assert!(scene.samples[0].failed.contains("in time"), "{}", scene.samples[0].failed);
    assert!(scene.samples[0].took_ns >= 1_000_000_000);
    // Ten deadlines were missed, and are not made up for.
    assert!(scene.samples[1].raw_ns - scene.samples[0].raw_ns >= 1_000_000_000);
    // A third may just have begun.
    assert!(server.asked("/metrics") <= 3);
}

#[test]
fn deadlines_that_a_slow_answer_missed_are_not_made_up_for() {
    let nth = AtomicUsize::new(0);
    let server = TestServer::new(move |_| match nth.fetch_add(1, Relaxed) {
        1 => Reply::Slow(Duration::from_millis(600), VLLM.to_owned()),
        _ => ok(VLLM),
    });
    let scene = scraping(server.metrics(), &[], async |mut scene: Scene| {
        scene.until(|scene| scene.samples.len() >= 12).await;
        scene
    });
    let slow = &scene.samples[1];
    let from = slow.raw_ns + slow.took_ns;
    assert!(slow.took_ns >= 550_000_000, "{}", slow.took_ns);
    let soon = scene.samples[2..].iter().filter(|sample| sample.raw_ns - from < 350_000_000).count();
    // The deadlines of that time, and one that was late; five more were missed before.
    assert!(soon <= 5, "{soon}");
}

#[test]
fn an_endpoint_without_end_is_left() {
    let server = TestServer::new(|_| Reply::Endless);
    let scene = scraping(server.metrics(), &[], async |mut scene: Scene| {
        scene.until(|scene| scene.bad() >= 1).await;
        scene
    });
    let failed = &scene.samples[0].failed;
    assert!(failed.contains("longer than 8 MiB") || failed.contains("in time"), "{failed}");
}

#[test]
fn what_is_no_metrics_is_not_taken_for_them() {
    let replies: [(Reply, &str); 6] = [
        (ok("<html>\n<body>\nhello 1\n</body>\n</html>\n"), "no metrics"),
        (ok(""), "no metrics"),
        (ok("\u{0}\u{1}{}"), "no metrics"),
        (Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na".to_vec()), "broke"),
        (Reply::Raw(b"\xff\xfe\r\n\r\n".to_vec()), "broke"),
        (Reply::Says(302, String::new()), "leads elsewhere"),
    ];
    for (reply, why) in replies {
        let server = TestServer::new(move |path| if path == "/metrics" { reply.clone() } else { ok(VLLM) });
        let scene = scraping(server.metrics(), &[], async |mut scene: Scene| {
            scene.until(|scene| scene.bad() >= 1).await;
            scene
        });
        assert!(scene.samples[0].failed.contains(why), "{why}: {}", scene.samples[0].failed);
        assert_eq!((scene.good(), server.asked("/elsewhere")), (0, 0));
    }
}

#[test]
fn an_endpoint_that_never_had_metrics_is_looked_at_seldom() {
    let server = TestServer::new(|_| Reply::Says(404, String::new()));
    let scene = scraping(server.metrics(), &[], async |mut scene: Scene| {
        scene.until(|scene| scene.bad() >= 1).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        scene.collect();
        scene
    });
    assert_eq!((scene.samples.len(), server.asked("/metrics")), (1, 1));
    assert!(scene.told[0].contains("HTTP 404") && scene.told[0].contains("none asks for none"));
}

#[test]
fn llama_cpps_slots_are_read_beside_its_metrics() {
    let server = TestServer::new(|path| if path == "/metrics" { ok(LLAMA) } else { ok(SLOTS) });
    let scene = scraping(server.metrics(), &[], async |mut scene: Scene| {
        scene.until(|scene| scene.samples.len() >= 3).await;
        scene
    });
    assert_eq!((scene.samples[0].running, scene.samples[0].kv_usage), (Some(4.0), None));
    assert_eq!((scene.samples[1].running, scene.samples[1].kv_usage), (Some(4.0), Some(0.25)));
}

#[test]
fn slots_that_are_off_are_asked_for_once() {
    let server =
        TestServer::new(|path| if path == "/metrics" { ok(LLAMA) } else { Reply::Says(501, String::new()) });
    let scene = scraping(server.metrics(), &[], async |mut scene: Scene| {
        scene.until(|scene| scene.samples.len() >= 4).await;
        scene
    });
    assert_eq!((scene.bad(), server.asked("/slots")), (0, 1));
    let server = TestServer::new(|path| if path == "/metrics" { ok(VLLM) } else { ok(SLOTS) });
    let scene = scraping(server.metrics(), &[], async |mut scene: Scene| {
        scene.until(|scene| scene.samples.len() >= 3).await;
        scene
    });
    assert_eq!((scene.bad(), server.asked("/slots")), (0, 0));
}

#[test]
fn names_that_are_not_there_are_told_once() {
    let server = TestServer::new(of_metrics(VLLM));
    let named = ["vllm:request_inference_time_seconds_sum", "vllm:request_inference_time_seconds"];
    let scene = scraping(server.metrics(), &named, async |mut scene: Scene| {
        scene.until(|scene| scene.samples.len() >= 3).await;
        scene
    });
    assert_eq!(scene.samples[2].named.len(), 1);
    assert_eq!(scene.told.len(), 1);
    assert!(scene.told[0].contains("no metric vllm:request_inference_time_seconds:"), "{:?}", scene.told);
}

#[test]
fn a_url_that_cannot_be_asked_is_told() {
    let scene = scraping("https://me:hunter2@h/metrics".to_owned(), &[], async |mut scene: Scene| {
        scene.until(|scene| !scene.told.is_empty()).await;
        scene
    });
    assert!(scene.told[0].contains("https") && !scene.told[0].contains("hunter2"), "{:?}", scene.told);
}
