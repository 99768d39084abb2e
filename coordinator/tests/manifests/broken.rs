//! Each assertion is one that fails: a good set of objects, broken in one place.

use serde_json::{Value, json};

use crate::assertions::problems;
use crate::{documents, render};

const COORDINATOR: &str = "Job/t-coordinator";
const AGENT: &str = "Job/t-agent";
const PROBE: &str = "DaemonSet/t-gpu-probe";

/// Object, place in it, what is put there (null takes it away), and what is said of it.
type Break = (&'static str, &'static str, Value, &'static str);

fn breaks() -> Vec<Break> {
    vec![
        // Each of the first three passes a strict schema check.
        (AGENT, "/spec/completionMode", json!("Sometimes"), "completionMode"),
        (AGENT, "/spec/template/spec/restartPolicy", json!("Always"), "restartPolicy"),
        (PROBE, "/spec/selector/matchLabels/tailcliff.dev~1run", json!("u"), "does not select its own pods"),
        (AGENT, "/spec/completions", Value::Null, "how many completions"),
        (AGENT, "/spec/completions", json!(5), "waits for Some(4)"),
        (AGENT, "/spec/parallelism", json!(3), "waits for Some(4)"),
        (AGENT, "/spec/template/spec/restartPolicy", json!("OnFailure"), "backoffLimitPerIndex"),
        (COORDINATOR, "/spec/podReplacementPolicy", json!("TerminatingOrFailed"), "podFailurePolicy"),
        (COORDINATOR, "/spec/podFailurePolicy/rules/0/action", json!("Fail"), "action"),
        (
            COORDINATOR,
            "/spec/podFailurePolicy/rules/1/onExitCodes/containerName",
            json!("c"),
            "container \"c\"",
        ),
        (COORDINATOR, "/spec/podFailurePolicy/rules/1/onExitCodes/values", json!([0, 2]), "without 0"),
        (
            AGENT,
            "/spec/podFailurePolicy",
            json!({"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [143]}}]}),
            "a drain of one pod",
        ),
        (
            AGENT,
            "/spec/podFailurePolicy",
            json!({"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}),
            "would stay empty",
        ),
        (COORDINATOR, "/spec/template/spec/containers/0/args/12", json!("15s"), "place of a lost one"),
        (PROBE, "/spec/template/spec/restartPolicy", json!("Never"), "restartPolicy"),
        ("Service/t-coordinator", "/spec/ports/1/targetPort", json!("clocks"), "no port of its pods"),
        ("Service/t-coordinator", "/spec/ports/0/port", json!(7200), "where no Service listens"),
        ("Service/t-coordinator", "/spec/selector/tailcliff.dev~1run", json!("u"), "selects no pod"),
        ("Service/t-coordinator", "/metadata/name", json!("t-c"), "where no Service listens"),
        (AGENT, "/spec/template/spec/containers/0/args/0", json!("--coordinate"), "refuses its arguments"),
        (COORDINATOR, "/spec/template/spec/containers/0/args/0", json!("run"), "refuses its arguments"),
        (
            COORDINATOR,
            "/spec/template/spec/containers/0/args/2",
            json!("/plan/p.yaml"),
            "not in its ConfigMap",
        ),
        (COORDINATOR, "/spec/template/spec/containers/0/args/4", json!("0.0.0.0:80"), "its ports are"),
        (
            COORDINATOR,
            "/spec/template/spec/containers/0/env/0/name",
            json!("AGENT"),
            "variable that is not set",
        ),
        (COORDINATOR, "/spec/template/spec/containers/0/env/0/value", json!("many"), "refuses its arguments"),
        (
            COORDINATOR,
            "/spec/template/spec/containers/0/env/2/valueFrom/secretKeyRef/name",
            json!("x"),
            "Secret \"x\"",
        ),
        (
            COORDINATOR,
            "/spec/template/spec/containers/0/env/2",
            json!({"name": "API_KEY", "value": "k"}),
            "in the open",
        ),
        (
            COORDINATOR,
            "/spec/template/spec/containers/0/volumeMounts/1/readOnly",
            json!(true),
            "no writable volume",
        ),
        (COORDINATOR, "/spec/template/spec/containers/0/volumeMounts/0/name", json!("plans"), "no volume"),
        (COORDINATOR, "/spec/template/spec/volumes/2/name", json!("temp"), "mounted nowhere"),
        (COORDINATOR, "/spec/template/spec/volumes/0/configMap/name", json!("p"), "ConfigMap \"p\""),
        (AGENT, "/spec/template/spec/containers/0/args/2", json!("--tls-dirs"), "refuses its arguments"),
        (AGENT, "/spec/template/spec/containers/0/args/3", json!("/certs"), "is on no volume"),
        (
            AGENT,
            "/spec/template/spec/containers/0/args",
            json!(["--coordinator", "t-coordinator:7100"]),
            "without TLS",
        ),
        (AGENT, "/spec/template/spec/volumes/2/secret/secretName", json!("gone"), "Secret \"gone\""),
        (COORDINATOR, "/metadata/annotations", Value::Null, "neither made nor named"),
        ("ConfigMap/t-plan", "/data/plan.yaml", json!("url: h:1\nmodel: m\nconcurency: [1]\n"), "concurency"),
        ("ConfigMap/t-plan", "/data/plan.yaml", json!("url: h:1\n"), "--model"),
        ("ConfigMap/t-plan", "/data/more", json!("x".repeat(2 << 20)), "1 MiB"),
        ("ConfigMap/t-plan", "/metadata/labels/tailcliff.dev~1run", json!("u"), "left behind"),
        (PROBE, "/spec/template/spec/containers/0/command/0", json!("gpu-probe"), "not in the image"),
        (AGENT, "/spec/template/metadata/labels/tailcliff.dev~1run", json!("u"), "its pods lack the label"),
        (
            AGENT,
            "/spec/template/spec/topologySpreadConstraints/0/labelSelector/matchLabels/app.kubernetes.io~1component",
            json!("x"),
            "spread by labels",
        ),
        (AGENT, "/spec/template/spec/securityContext/runAsNonRoot", json!(false), "may run as root"),
        (AGENT, "/spec/template/spec/automountServiceAccountToken", Value::Null, "token of the cluster"),
        (
            AGENT,
            "/spec/template/spec/containers/0/securityContext/readOnlyRootFilesystem",
            json!(false),
            "more than it has to",
        ),
        (AGENT, "/spec/template/spec/containers/0/resources/limits/cpu", json!("9"), "not guaranteed"),
        ("NetworkPolicy/t-agent", "/spec/egress/0/ports", json!([]), "from names"),
        (
            "NetworkPolicy/t-agent",
            "/spec/egress/1/ports/0/port",
            json!(80),
            "keeps its pods from the coordinator",
        ),
        (
            "NetworkPolicy/t-coordinator",
            "/spec/ingress/0/from",
            json!([]),
            "keeps agents from the coordinator",
        ),
        (
            "NetworkPolicy/t-agent",
            "/spec/podSelector/matchLabels/tailcliff.dev~1run",
            json!("u"),
            "about no pod",
        ),
        ("PodDisruptionBudget/t", "/spec/minAvailable", json!("50%"), "has no scale"),
        ("PodDisruptionBudget/t", "/spec/minAvailable", json!(4), "not all agents"),
        (PROBE, "/kind", json!("Deployment"), "nobody checks"),
        (COORDINATOR, "/metadata/name", json!("t-agent"), "there are two"),
        (COORDINATOR, "/spec/template/spec/containers/0/env/1/value", json!("0"), "not waited for"),
    ]
}

#[test]
fn each_broken_place_is_named() {
    let flags = "--url h:1 --model m --run-id t --agents 4 --probes 1 --api-key-secret key";
    let whole = documents(&render(flags).unwrap());
    assert_eq!(problems(&whole), [""; 0]);
    for (title, place, value, says) in breaks() {
        let mut objects = whole.clone();
        let (kind, name) = title.split_once('/').unwrap();
        let object = objects.iter_mut().find(|o| o["kind"] == kind && o["metadata"]["name"] == name).unwrap();
        let (parent, key) = place.rsplit_once('/').unwrap();
        put(object.pointer_mut(parent).unwrap(), &key.replace("~1", "/"), value);
        let found = problems(&objects);
        assert!(found.iter().any(|line| line.contains(says)), "{title}{place}: {says} in {found:#?}");
    }
}

fn put(parent: &mut Value, key: &str, value: Value) {
    match (parent, value) {
        (Value::Object(fields), Value::Null) => drop(fields.remove(key)),
        (Value::Array(items), value) => items[key.parse::<usize>().unwrap()] = value,
        (parent, value) => parent[key] = value,
    }
}
