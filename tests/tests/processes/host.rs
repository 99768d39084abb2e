//! What a probe tells of the server's host, without a GPU and while the server works.

use crate::scene::{PACED, SHORT, Scene};

/// A column of the host trace, as written.
fn column(trace: &str, name: &str) -> Vec<String> {
    let mut rows = trace.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    let at = rows.next().unwrap().iter().position(|column| column == name).unwrap();
    rows.map(|row| row[at].clone()).collect()
}

#[test]
fn a_probe_without_a_gpu_tells_of_its_host_and_of_the_server_that_the_port_leads_to() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&[&SHORT[..], &["--agents", "1", "--probes", "1"]].concat());
    scene.agent("a");
    let port = scene.url().rsplit(':').next().unwrap().to_owned();
    scene.probe_by(&["--nvml-path", "/nowhere/libnvidia-ml.so.1", "--server-port", &port]);
    scene.complete();
    let gpu = std::fs::read_to_string(scene.run_dir().join("gpu_trace.csv")).unwrap();
    assert_eq!(gpu.lines().count(), 1, "there is no GPU");
    let trace = std::fs::read_to_string(scene.run_dir().join("host_trace.csv")).unwrap();
    let numbers = |name: &str| -> Vec<f64> {
        column(&trace, name).iter().filter_map(|cell| cell.parse().ok()).collect()
    };
    // A sample each 200 ms from the probe's joining on, over the preflight and two levels: a busy machine may miss some.
    let (t_s, cpu) = (numbers("t_s"), numbers("server_cpu_s"));
    assert!(t_s.len() >= 3 && t_s.is_sorted(), "{trace}");
    assert_eq!(cpu.len(), t_s.len(), "the server was there all along");
    assert!(cpu.is_sorted() && numbers("server_rss_bytes").iter().all(|&rss| rss > 1e6), "{trace}");
    assert!(numbers("page_cache_bytes").len() == t_s.len() && numbers("cpu_busy_s").is_sorted(), "{trace}");
    assert!(column(&trace, "other_gpu_processes").iter().all(String::is_empty), "no NVML, so nobody knows");
}
