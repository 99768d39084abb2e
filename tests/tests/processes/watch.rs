//! A coordinator that watches the server itself, while nodes dial in from elsewhere.

use tailcliff_proto::v1::NodeKind;

use crate::scene::{PACED, SHORT, Scene};

#[test]
fn a_coordinator_that_watches_has_a_probe_of_its_own_that_reads_no_hardware() {
    // With certificates, which it has to show to itself too.
    let mut scene = Scene::new(&PACED).secured(None);
    let metrics = format!("http://{}/metrics", scene.url());
    scene.coordinate(&[&SHORT[..], &["--agents", "1", "--server-metrics", &metrics]].concat());
    scene.agent("a");
    scene.complete();
    let data = scene.stored();
    let kinds: Vec<_> = data.nodes.values().map(|node| (node.hello.node_kind(), &*node.hello.name)).collect();
    assert!(kinds.contains(&(NodeKind::GpuProbe, "watch")) && kinds.len() == 2, "{kinds:?}");
    let watch = data.nodes.values().find(|node| node.hello.node_kind() == NodeKind::GpuProbe).unwrap();
    assert!(watch.hello.gpus.is_empty() && watch.hello.gpu_absent_reason.is_empty());
    assert_eq!(watch.each_batch().map(|batch| batch.host_samples.len()).sum::<usize>(), 0);
    let said = std::fs::read_to_string(scene.run_dir().join("summary.md")).unwrap();
    assert!(!said.contains("found no GPU"), "{said}");
    let requests = std::fs::read_to_string(scene.run_dir().join("requests.csv")).unwrap();
    assert!(requests.lines().next().unwrap().ends_with(",cached_tokens"), "{requests:.2000}");
}
