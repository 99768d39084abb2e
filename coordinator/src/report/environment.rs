//! `environment.json`: under what circumstances the run was made, and which of them nobody told us (MISSION A7).

use serde_json::{Value, json};
use tailcliff_proto::v1;

use crate::merge::tally;
use crate::plan::Plan;
use crate::redact::{redacted, redacted_fact};
use crate::server_facts;
use crate::stored::{Node, RunData};
use crate::untold::untold;

use super::sensors;

/// The whole document.
pub fn environment(data: &RunData) -> Value {
    let header = &data.header;
    let plan = &header.plan;
    json!({
        "run": header.name,
        "started_utc": header.started_utc,
        "ended_utc": data.end.as_ref().map(|end| &end.ended_utc),
        "tailcliff_version": header.tailcliff_version,
        "command": header.command,
        "target": { "base_url": plan.base_url, "path": plan.path, "model": plan.model },
        "server": server(data),
        "plan": plan_of(plan),
        "dataset": plan.dataset,
        "tokenizer": plan.tokenizer,
        "input_len_unit": Some(&plan.input_len_unit).filter(|unit| !unit.is_empty()),
        "metadata": metadata(plan).into_iter().map(|(k, v)| (k, json!(v))).collect::<serde_json::Map<_, _>>(),
        "clock_domain": { "boot_id": header.clock_domain.0, "time_namespace": header.clock_domain.1 },
        "agents": nodes(data, v1::NodeKind::Agent),
        "probes": nodes(data, v1::NodeKind::GpuProbe),
        "missing": missing(data),
    })
}

/// A journal holds none of the values left out here; one that another wrote might.
fn plan_of(plan: &Plan) -> Value {
    let headers = plan.headers.iter().cloned().map(redacted).collect();
    serde_json::to_value(Plan { headers, metadata: metadata(plan), ..plan.clone() }).unwrap_or_default()
}

fn metadata(plan: &Plan) -> Vec<(String, String)> {
    plan.metadata.iter().cloned().map(redacted_fact).collect()
}

/// What the first preflight that worked saw, and what servers told the probes.
fn server(data: &RunData) -> Value {
    let preflights = tally::agents(data).into_iter().filter_map(|(_, node)| node.preflight.as_ref());
    let seen = preflights.into_iter().find(|p| p.ok);
    json!({
        "header": seen.map(|p| &p.server_header).filter(|h| !h.is_empty()),
        "models": seen.map(|p| &p.models),
        "preflight_latency_ms": seen.map(|p| p.latency_ns as f64 / 1e6),
        "closes_after_reply": seen.map(|p| p.closes_after_reply),
        "told": server_facts::facts(data).iter().map(server_facts::to_json).collect::<Vec<_>>(),
    })
}

fn nodes(data: &RunData, kind: v1::NodeKind) -> Value {
    tally::of_kind(data, kind).into_iter().map(|(_, node)| describe(node)).collect()
}

fn describe(node: &Node) -> Value {
    let host = node.hello.host.clone().unwrap_or_default();
    // A fact that could not be read is empty or 0 on the wire.
    let text = |s: &String| Some(s.clone()).filter(|s| !s.is_empty());
    json!({
        "name": node.hello.name,
        "build": node.hello.build,
        "hostname": text(&host.hostname),
        "os": text(&host.os),
        "kernel": text(&host.kernel),
        "cpu_model": text(&host.cpu_model),
        "cores": Some(host.cores).filter(|n| *n > 0),
        "memory_bytes": Some(host.memory_bytes).filter(|n| *n > 0),
        "shards": Some(host.shards).filter(|n| *n > 0),
        "fd_limit": Some(host.fd_limit).filter(|n| *n > 0),
        "gpus": node.hello.gpus.iter().map(gpu).collect::<Vec<_>>(),
        "gpu_absent_reason": text(&node.hello.gpu_absent_reason),
        "sensors": (node.hello.node_kind() == v1::NodeKind::GpuProbe).then(|| sensors::sensors(node)),
        "fd_limit_hard": Some(host.fd_limit_hard).filter(|n| *n > 0),
        "local_ports": Some(host.local_ports).filter(|n| *n > 0),
        "calibration": (node.hello.node_kind() == v1::NodeKind::Agent).then(|| calibration(&host)),
        "clock": node.snapshots.first().map(clock),
    })
}

/// Bytes of a calibration that are believed.
const MAX_CALIBRATION: usize = 64 << 10;

/// What `tailcliff calibrate` found on an agent's host.
pub fn calibration(host: &v1::HostFacts) -> Value {
    let json = &host.calibration_json;
    if json.is_empty() {
        return json!("none: run `tailcliff calibrate` on this host");
    }
    let known = (json.len() <= MAX_CALIBRATION).then(|| serde_json::from_str(json).ok()).flatten();
    known
        .filter(Value::is_object)
        .unwrap_or_else(|| json!("unreadable: run `tailcliff calibrate` on this host"))
}

fn gpu(gpu: &v1::GpuFacts) -> Value {
    json!({
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "driver": gpu.driver,
        "memory_bytes": gpu.memory_bytes,
        "simulated": gpu.simulated,
        "notes": gpu.notes,
    })
}

fn clock(snapshot: &v1::ClockSnapshot) -> Value {
    json!({
        "boot_id": snapshot.boot_id,
        "time_namespace": snapshot.timens_inode,
        "clocksource": snapshot.clocksource,
        "ntp_synced": snapshot.ntp_synced,
        "ntp_max_error_ns": snapshot.ntp_max_error_ns,
    })
}

/// What is unknown, and the flag that tells it.
fn missing(data: &RunData) -> Vec<Value> {
    let ask = |(key, what)| json!({ "fact": what, "give": format!("--metadata {key}=…") });
    untold(data).into_iter().map(ask).collect()
}
