//! Where the server's spans come to in a cluster: a Service before the probes that hands each server's on to the probe of its
//! own node, whose wall clock is the one that they are stamped by.

use serde_json::{Value, json};

use super::{PROBE, labels, object};
use crate::k8s::settings::Settings;

/// What the probe listens on; others' pods have to reach it.
pub(super) fn args(settings: &Settings) -> Vec<String> {
    let listen = settings.args.otlp_port.map(|port| ["--otlp-listen".to_owned(), format!("0.0.0.0:{port}")]);
    listen.into_iter().flatten().collect()
}

/// Of the probe's container.
pub(super) fn ports(settings: &Settings) -> Option<Value> {
    let port = settings.args.otlp_port?;
    Some(json!([{ "name": "otlp", "containerPort": port, "protocol": "TCP" }]))
}

/// Who reaches a probe: where the server's labels are known its pods, else whoever knows the port.
pub(super) fn ingress(settings: &Settings) -> Value {
    let Some(port) = settings.args.otlp_port else { return json!([]) };
    let mut rule = json!({ "ports": [{ "port": port, "protocol": "TCP" }] });
    if !settings.server.is_empty() {
        rule["from"] =
            json!([{ "namespaceSelector": {}, "podSelector": { "matchLabels": settings.server } }]);
    }
    json!([rule])
}

/// The Service, if spans are taken.
pub(super) fn service(settings: &Settings) -> Option<Value> {
    let port = settings.args.otlp_port?;
    let mut service = object(settings, "v1", "Service", &settings.named(PROBE));
    service["spec"] = json!({
        "internalTrafficPolicy": "Local",
        "selector": labels(settings, Some(PROBE)),
        "ports": [{ "name": "otlp", "port": port, "targetPort": "otlp", "protocol": "TCP" }],
    });
    Some(service)
}

/// How a server is pointed at it, for whoever reads the objects.
pub(in crate::k8s) fn comment(settings: &Settings) -> String {
    let Some(port) = settings.args.otlp_port else { return String::new() };
    let namespace = settings.args.namespace.as_ref().map_or_else(String::new, |name| format!(".{name}"));
    let service = settings.named(PROBE);
    format!(
        "# The server's spans go to the probe on its node: vLLM with --otlp-traces-endpoint \
         grpc://{service}{namespace}:{port}\n# and OTEL_EXPORTER_OTLP_TRACES_INSECURE=true.\n"
    )
}
