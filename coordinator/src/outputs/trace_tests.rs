//! What trace mode leaves in the files.

use std::collections::BTreeMap;

use super::*;
use crate::merge::testrun;
use crate::trace::tests::{MS, told, usual};
use tailcliff_proto::v1::{self, TraceStage};

fn summary_of(data: &RunData) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), data).unwrap();
    serde_json::from_str(&fs::read_to_string(dir.path().join("summary.json")).unwrap()).unwrap()
}

#[test]
fn the_summary_holds_the_trace_of_each_level_that_has_one() {
    let mut data = testrun::run(21, 2, &[1, 2]);
    let other = [(TraceStage::Connect, 20 * MS), (TraceStage::E2e, 100 * MS)];
    let last = |n, stages: &[(TraceStage, u64)]| v1::Telemetry { is_final: true, ..told(n, stages) };
    data.levels[1].traces = BTreeMap::from([(1, last(30, &usual())), (2, told(10, &other))]);
    let summary = summary_of(&data);
    assert_eq!(summary["levels"][0]["trace"], serde_json::Value::Null, "off");
    let trace = &summary["levels"][1]["trace"];
    assert_eq!((&trace["counts"]["completed"], &trace["agents"]), (&40.into(), &2.into()));
    assert_eq!(trace["agents_with_a_last_word"], 1, "the other died, and what it told last counts");
    let e2e = trace["stages"].as_array().unwrap().last().unwrap();
    assert_eq!((&e2e["stage"], &e2e["n"], &e2e["min_ns"]), (&"e2e".into(), &40.into(), &100_000_000.into()));
    let share = |key: &str| trace["verdict"][key].as_f64().unwrap();
    assert!((share("client") + share("network") + share("server") - 1.0).abs() < 2e-6);
    assert_eq!(share("network"), 0.05);
    assert_eq!(trace["verdict"]["client_parts"]["decode"], serde_json::Value::Null, "not measured");
    assert_eq!(summary_of(&data), summary, "a second merge is the same");
}
