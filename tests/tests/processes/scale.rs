//! Fifty agents on one coordinator: real connections and the real protocol, SIMULATED measurements whose truth is known.

use e2e::light::fleet::{Size, measure};

use crate::scene::binary;

#[test]
fn fifty_agents_join_start_and_end_together_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let size =
        Size { agents: 50, streams: 4, latency_ms: 300, tokens: 8, seconds: 2, processes: 2, levels: 2 };
    let measured = measure(binary(), &dir.path().join("run"), &size).unwrap();
    assert_eq!(measured.differences(), [""; 0]);
    let truth = &measured.truth;
    assert_eq!(truth.agents, 50);
    // 100 and 200 streams, a request in 0.3 s each, for 2 s.
    assert!((1_600..2_400).contains(&truth.measured), "{}", truth.measured);
    // Every agent's clock is its own, hours away: a start is common only as far as it was told, and to within its bound.
    assert_eq!(truth.beyond_bound, 0, "off by {} ns at most", truth.worst_start_error_ns);
    let nodes = measured.summary["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 50);
    for node in nodes {
        assert_eq!(node["clock"]["track"], "fitted", "{node}");
        assert!(node["clock"]["breaks_s"].as_array().unwrap().is_empty(), "{node}");
    }
}
