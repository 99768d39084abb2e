//! A probe that dies, and one that takes its place.

use crate::scene::{PACED, Scene};

#[test]
fn a_probe_that_is_started_again_joins_again_and_its_samples_are_added() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&[
        "--concurrency",
        "2",
        "--duration",
        "14s",
        "--output-len",
        "10",
        "--agents",
        "1",
        "--probes",
        "1",
    ]);
    scene.agent("a");
    scene.probe();
    scene.under_way(20);
    scene.nodes[1].kill();
    scene.probe();
    assert_eq!(scene.wait(), 0);
    assert!(scene.nodes.last_mut().unwrap().wait().unwrap().success(), "it ends with the run");
    scene.end_server();
    let data = scene.stored();
    let probes: Vec<_> = data.nodes.values().filter(|node| node.hello.name.starts_with("probe")).collect();
    assert_eq!(probes.len(), 2);
    for probe in probes {
        let of = |count: fn(&tailcliff_proto::v1::Batch) -> usize| -> usize {
            probe.each_batch().map(|batch| count(&batch)).sum()
        };
        // Each for seconds: the second one has the place when the lease of the first has lapsed.
        assert!(of(|batch| batch.gpu_samples.len()) > 30, "{}", probe.hello.name);
        assert!(of(|batch| batch.driver_samples.len()) > 0 && of(|batch| batch.gpm_samples.len()) > 0);
        assert!(of(|batch| batch.probe_costs.len()) > 0);
    }
    let gpu = std::fs::read_to_string(scene.run_dir().join("gpu_trace.csv")).unwrap();
    let names = |name: &str| gpu.lines().filter(|line| line.contains(name)).count();
    assert!(gpu.lines().count() > 100 && names("probe") > 100);
}
