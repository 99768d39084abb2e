//! The objects of a run. This is the one source of them: `deploy/kubernetes/base` is what this prints for a sample plan,
//! and kustomize lays clusters' differences over that.

pub(super) mod spans;

use serde_json::{Map, Value, json};
use tailcliff_proto::link::tls::FILE_NAMES;

use super::plan_file::{DATA_DIR, PLAN_DIR, PlanFile};
use super::settings::{Labels, Settings};
use crate::args::fleet::FleetRuleArgs;
use crate::args::server::host_and_port;

/// Port of control, bulk and results; the clock has the next one.
pub const PORT: u16 = 7100;
/// Label that all objects of a run carry.
pub const RUN_LABEL: &str = "tailcliff.dev/run";
/// Label of a pod's part in it.
pub const PART_LABEL: &str = "app.kubernetes.io/component";
/// What must be there beforehand, on the objects that need it.
pub const NEEDS: &str = "tailcliff.dev/needs";
/// Name of the container of each part's pods, the part's own.
pub const COORDINATOR: &str = "coordinator";
/// See [`COORDINATOR`].
pub const AGENT: &str = "agent";
/// See [`COORDINATOR`].
pub const PROBE: &str = "gpu-probe";
/// User and group in the image.
const USER: u32 = 65_532;
/// Failures of one agent's place before the run goes on without it.
const AGENT_RETRIES: u32 = 6;
/// A finished run that nobody deleted goes by itself, s.
const KEPT_S: u32 = 86_400;
/// A node that is lost is given up after this, s, instead of the usual 300: another agent takes the place.
const NODE_PATIENCE_S: u32 = 30;
/// Until another pod has taken the place of one that was lost, s: its node is given up, and another pulls the image.
const REJOIN_S: i64 = 180;
/// Exit codes by which the coordinator says how a run went: it would say so again.
const VERDICTS: [i32; 8] = [2, 3, 4, 5, 6, 7, 8, 130];

/// Where an agent keeps what the link does not take.
const SPOOL_DIR: &str = "/spool";
/// Where an end's certificate is mounted.
const TLS_DIR: &str = "/tls";
/// Name of the Secret with the coordinator's certificate, and of the nodes'.
pub const TLS_SECRETS: [&str; 2] = ["coordinator-tls", "node-tls"];

/// All objects, in the order in which they are made.
pub fn objects(settings: &Settings, plan: &PlanFile) -> Vec<Value> {
    let mut all = vec![plan_map(settings, plan)];
    all.extend(settings.args.volume.as_ref().map(|size| claim(settings, size)));
    all.push(service(settings));
    all.extend(network_policies(settings, plan));
    all.push(disruption_budget(settings));
    all.push(coordinator_job(settings, plan));
    all.push(agents_job(settings));
    if settings.args.probes > 0 {
        all.push(probes(settings));
        all.extend(spans::service(settings));
    }
    all
}

/// As one stream of documents.
///
/// # Errors
/// None that these objects can cause.
pub fn yaml(objects: &[Value]) -> Result<String, serde_norway::Error> {
    let documents: Result<Vec<_>, _> = objects.iter().map(serde_norway::to_string).collect();
    Ok(documents?.join("---\n"))
}

/// The API key as a Secret, never printed and never in argv.
pub fn api_key_secret(settings: &Settings, (name, key): &(String, String), value: &str) -> Value {
    let mut secret = object(settings, "v1", "Secret", name);
    secret["immutable"] = json!(true);
    secret["stringData"] = json!({ key: value });
    secret
}

/// An end's certificate as a Secret.
pub fn tls_secret(settings: &Settings, what: &str, pems: &[String; 3]) -> Value {
    let mut secret = object(settings, "v1", "Secret", &settings.named(what));
    secret["type"] = json!("kubernetes.io/tls");
    secret["immutable"] = json!(true);
    let files: Map<String, Value> =
        FILE_NAMES.into_iter().zip(pems).map(|(name, pem)| (name.to_owned(), json!(pem))).collect();
    secret["stringData"] = Value::Object(files);
    secret
}

fn object(settings: &Settings, version: &str, kind: &str, name: &str) -> Value {
    let mut metadata = json!({ "name": name, "labels": labels(settings, None) });
    if let Some(namespace) = &settings.args.namespace {
        metadata["namespace"] = json!(namespace);
    }
    json!({ "apiVersion": version, "kind": kind, "metadata": metadata })
}

fn labels(settings: &Settings, part: Option<&str>) -> Value {
    let mut labels = json!({ "app.kubernetes.io/name": "tailcliff", RUN_LABEL: settings.run_id });
    if let Some(part) = part {
        labels[PART_LABEL] = json!(part);
    }
    labels
}

fn selector(settings: &Settings, part: &str) -> Value {
    json!({ "matchLabels": labels(settings, Some(part)) })
}

fn plan_map(settings: &Settings, plan: &PlanFile) -> Value {
    let mut map = object(settings, "v1", "ConfigMap", &settings.named("plan"));
    map["immutable"] = json!(true);
    map["data"] = json!(plan.files);
    map
}

fn claim(settings: &Settings, size: &str) -> Value {
    let mut claim = object(settings, "v1", "PersistentVolumeClaim", &settings.named("runs"));
    claim["spec"] = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": size } },
    });
    if let Some(class) = &settings.args.storage_class {
        claim["spec"]["storageClassName"] = json!(class);
    }
    claim
}

/// Headless: agents dial the pod itself, and no proxy sits in the clock's way. Agents may dial before it is ready.
fn service(settings: &Settings) -> Value {
    let mut service = object(settings, "v1", "Service", &settings.named(COORDINATOR));
    let port =
        |name: &str, port: u16| json!({ "name": name, "port": port, "targetPort": name, "protocol": "TCP" });
    service["spec"] = json!({
        "clusterIP": "None",
        "publishNotReadyAddresses": true,
        "selector": labels(settings, Some(COORDINATOR)),
        "ports": [port("control", PORT), port("clock", PORT + 1)],
    });
    service
}

/// Ports by number: not every network plugin knows those of other pods by name. Nothing reaches the coordinator but nodes of this run, and nodes reach the coordinator, names, and agents the server.
fn network_policies(settings: &Settings, plan: &PlanFile) -> Vec<Value> {
    let ports = json!([PORT, PORT + 1].map(|port| json!({ "port": port, "protocol": "TCP" })));
    let from = |part| json!({ "podSelector": selector(settings, part) });
    let ingress = json!([{ "from": [from(AGENT), from(PROBE)], "ports": ports }]);
    let to_coordinator = json!({ "to": [from(COORDINATOR)], "ports": ports });
    let names = json!({ "ports": [{ "port": 53, "protocol": "UDP" }, { "port": 53, "protocol": "TCP" }] });
    let to_server = to_server(settings, &plan.config.plan.base_url);
    let mut all = vec![
        network_policy(settings, COORDINATOR, &ingress, &json!([])),
        network_policy(settings, AGENT, &json!([]), &json!([&names, &to_coordinator, &to_server])),
    ];
    if settings.args.probes > 0 {
        let mut egress = vec![names, to_coordinator];
        if !settings.args.probe_arg.is_empty() {
            // What it is told to scrape.
            egress.push(to_server);
        }
        all.push(network_policy(settings, PROBE, &spans::ingress(settings), &json!(egress)));
    }
    all
}

fn network_policy(settings: &Settings, part: &str, ingress: &Value, egress: &Value) -> Value {
    let mut policy = object(settings, "networking.k8s.io/v1", "NetworkPolicy", &settings.named(part));
    policy["spec"] = json!({
        "podSelector": selector(settings, part),
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    });
    policy
}

/// A policy cannot name a host. It sees the port of a pod and not of the service before it: with the server's labels its
/// pods are meant by these alone, and without them whoever has the URL's port.
fn to_server(settings: &Settings, base_url: &str) -> Value {
    if !settings.server.is_empty() {
        return json!({ "to": [{ "namespaceSelector": {}, "podSelector": { "matchLabels": settings.server } }] });
    }
    let port = host_and_port(base_url).map_or(80, |(_, port)| port);
    json!({ "ports": [{ "port": port, "protocol": "TCP" }] })
}

/// A drain waits: each pod of a run is needed. What is broken anyway may go.
fn disruption_budget(settings: &Settings) -> Value {
    let mut budget = object(settings, "policy/v1", "PodDisruptionBudget", &settings.run_id);
    let mut parts = json!({ "matchLabels": labels(settings, None) });
    parts["matchExpressions"] =
        json!([{ "key": PART_LABEL, "operator": "In", "values": [COORDINATOR, AGENT] }]);
    // A Job has no scale for a percentage to be of.
    budget["spec"] = json!({
        "minAvailable": settings.args.agents + 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": parts,
    });
    budget
}

fn coordinator_job(settings: &Settings, plan: &PlanFile) -> Value {
    let durable = settings.args.volume.is_some();
    let mut job = object(settings, "batch/v1", "Job", &settings.named(COORDINATOR));
    needs(&mut job["metadata"], settings);
    job["spec"] = json!({
        // Without a claim a second coordinator would know nothing of the first's levels.
        "backoffLimit": if durable { 3 } else { 0 },
        "activeDeadlineSeconds": deadline_s(settings),
        "ttlSecondsAfterFinished": KEPT_S,
        "podReplacementPolicy": "Failed",
        // The first rule that fits counts: a coordinator that a drain ends says that it was interrupted.
        "podFailurePolicy": { "rules": [
            {
                "action": if durable { "Ignore" } else { "FailJob" },
                "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }],
            },
            {
                "action": "FailJob",
                "onExitCodes": { "containerName": COORDINATOR, "operator": "In", "values": VERDICTS },
            },
        ] },
        "template": coordinator_pod(settings, plan),
    });
    job
}

fn coordinator_pod(settings: &Settings, plan: &PlanFile) -> Value {
    let mut pod = pod(settings, COORDINATOR);
    let runs = match settings.args.volume {
        Some(_) => {
            json!({ "name": "runs", "persistentVolumeClaim": { "claimName": settings.named("runs") } })
        }
        None => json!({ "name": "runs", "emptyDir": {} }),
    };
    let mut volumes = vec![
        json!({ "name": "plan", "configMap": { "name": settings.named("plan") } }),
        runs,
        json!({ "name": "tmp", "emptyDir": {} }),
    ];
    let mut mounts = vec![
        json!({ "name": "plan", "mountPath": PLAN_DIR, "readOnly": true }),
        json!({ "name": "runs", "mountPath": "/runs" }),
        json!({ "name": "tmp", "mountPath": "/tmp" }),
    ];
    if !settings.args.allow_unauthenticated {
        let (volume, mount) = tls(settings, TLS_SECRETS[0]);
        volumes.push(volume);
        mounts.push(mount);
    }
    if let Some(claim) = &settings.args.data_claim {
        volumes.push(
            json!({ "name": "data", "persistentVolumeClaim": { "claimName": claim, "readOnly": true } }),
        );
        mounts.push(json!({ "name": "data", "mountPath": DATA_DIR, "readOnly": true }));
    }
    let spec = &mut pod["spec"];
    // Time to write the outputs.
    spec["terminationGracePeriodSeconds"] = json!(120);
    spec["volumes"] = json!(volumes);
    let mut container = container(settings, COORDINATOR, "tailcliff");
    container["args"] = json!(coordinate(settings, plan));
    container["env"] = json!(coordinator_env(settings));
    container["ports"] = json!([
        { "name": "control", "containerPort": PORT, "protocol": "TCP" },
        { "name": "clock", "containerPort": PORT + 1, "protocol": "TCP" },
    ]);
    container["workingDir"] = json!("/runs");
    container["resources"] = resources(&settings.args.coordinator_cpu, &settings.args.coordinator_memory);
    container["volumeMounts"] = json!(mounts);
    spec["containers"] = json!([container]);
    pod
}

/// Its numbers of nodes are variables, which an overlay can patch by name.
fn coordinate(settings: &Settings, plan: &PlanFile) -> Vec<String> {
    let seconds = |ns: i64| format!("{}s", ns / 1_000_000_000);
    let (wait, serve) = (seconds(settings.args.wait.0), seconds(settings.args.serve_results.0));
    let listen = format!("0.0.0.0:{PORT}");
    let mut args = vec!["coordinate", "--plan", "/plan/plan.yaml", "--listen", &listen];
    args.extend(["--agents", "$(AGENTS)", "--probes", "$(PROBES)", "--wait", &wait]);
    let fleet = fleet(&settings.args.fleet);
    args.extend(fleet.iter().map(String::as_str));
    args.extend(link(settings));
    args.extend(["--output-dir", "/runs/run", "--serve-results", &serve]);
    if settings.args.volume.is_some() {
        args.push("--resume-if-present");
    }
    args.extend(std::iter::repeat_n("-v", plan.verbose.into()));
    args.into_iter().map(str::to_owned).collect()
}

/// Said even where nobody said it: on hosts that come back by themselves the usual wait is far shorter.
fn fleet(fleet: &FleetRuleArgs) -> Vec<String> {
    let rejoin_ns = fleet.rejoin_wait.map_or(REJOIN_S * 1_000_000_000, |span| span.0);
    let mut args = vec!["--rejoin-wait".to_owned(), format!("{}ms", rejoin_ns / 1_000_000)];
    if rejoin_ns % 1_000_000_000 == 0 {
        args[1] = format!("{}s", rejoin_ns / 1_000_000_000);
    }
    for (flag, value) in [
        ("--max-agents", fleet.max_agents.map(|n| n.to_string())),
        ("--on-lost-agent", fleet.on_lost_agent.clone()),
        ("--level-attempts", fleet.level_attempts.map(|n| n.to_string())),
    ] {
        args.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
    }
    args
}

fn coordinator_env(settings: &Settings) -> Vec<Value> {
    let count = |name: &str, n: u32| json!({ "name": name, "value": n.to_string() });
    let mut env = vec![count("AGENTS", settings.args.agents), count("PROBES", settings.args.probes)];
    env.extend(settings.api_key.as_ref().map(|(name, key)| {
        json!({ "name": "OPENAI_API_KEY", "valueFrom": { "secretKeyRef": { "name": name, "key": key } } })
    }));
    env
}

/// Indexed, so that a pod that is replaced comes back with the place of the one before; the agent takes the place from
/// `JOB_COMPLETION_INDEX`.
fn agents_job(settings: &Settings) -> Value {
    let agents = settings.args.agents;
    let mut job = object(settings, "batch/v1", "Job", &settings.named(AGENT));
    job["spec"] = json!({
        "completionMode": "Indexed",
        "completions": agents,
        "parallelism": agents,
        // Each place has its own count: one bad node does not end the others. A pod that a drain ends counts there too, and
        // another takes its place: an agent that is told to stop exits with 143, which is no success. A podFailurePolicy
        // that ignored drains would have to go with podReplacementPolicy Failed, and the place of a pod on a node that is
        // gone, which never reports its end, would then stay empty.
        "backoffLimitPerIndex": AGENT_RETRIES,
        "activeDeadlineSeconds": deadline_s(settings),
        "ttlSecondsAfterFinished": KEPT_S,
        "template": agent_pod(settings),
    });
    job
}

fn agent_pod(settings: &Settings) -> Value {
    let mut pod = pod(settings, AGENT);
    let spec = &mut pod["spec"];
    spec["terminationGracePeriodSeconds"] = json!(30);
    spec["topologySpreadConstraints"] = json!([{
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": selector(settings, AGENT),
    }]);
    spec["tolerations"] = json!(["not-ready", "unreachable"].map(|what| json!({
        "key": format!("node.kubernetes.io/{what}"),
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": NODE_PATIENCE_S,
    })));
    spec["volumes"] = json!([{ "name": "tmp", "emptyDir": {} }, { "name": "spool", "emptyDir": {} }]);
    let mut container = container(settings, AGENT, "tailcliff-agent");
    // For what the link does not take; the root is read-only.
    let spool = ["--spool-dir", SPOOL_DIR].map(str::to_owned);
    container["args"] = json!([node_args(settings), spool.to_vec()].concat());
    container["resources"] = resources(&settings.args.agent_cpu, &settings.args.agent_memory);
    container["volumeMounts"] = json!([
        { "name": "tmp", "mountPath": "/tmp" },
        { "name": "spool", "mountPath": SPOOL_DIR },
    ]);
    spec["containers"] = json!([container]);
    with_tls(spec, settings);
    pod
}

/// One on each node with a GPU. It asks for no GPU, which it would take from the server: the runtime shows it all of them.
fn probes(settings: &Settings) -> Value {
    let mut set = object(settings, "apps/v1", "DaemonSet", &settings.named(PROBE));
    let mut pod = pod(settings, PROBE);
    let spec = &mut pod["spec"];
    // A DaemonSet knows no other; a probe whose run is over comes back, is told so, and goes with the set.
    spec["restartPolicy"] = json!("Always");
    spec["nodeSelector"] = json!(settings.gpu_nodes);
    spec["tolerations"] = json!([{ "key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule" }]);
    if let Some(class) = &settings.args.gpu_runtime_class {
        spec["runtimeClassName"] = json!(class);
    }
    // It belongs where the server is.
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("affinity");
    }
    let mut container = container(settings, PROBE, "tailcliff-gpu-probe");
    let name = ["--name", "$(NODE_NAME)"].map(str::to_owned);
    let spans = spans::args(settings);
    container["args"] =
        json!([node_args(settings), name.to_vec(), spans, settings.args.probe_arg.clone()].concat());
    if let Some(ports) = spans::ports(settings) {
        container["ports"] = ports;
    }
    container["env"] = json!([
        { "name": "NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
        { "name": "NVIDIA_VISIBLE_DEVICES", "value": "all" },
        { "name": "NVIDIA_DRIVER_CAPABILITIES", "value": "utility" },
    ]);
    container["resources"] = resources("200m", "256Mi");
    spec["containers"] = json!([container]);
    with_tls(spec, settings);
    set["spec"] = json!({ "selector": selector(settings, PROBE), "template": pod });
    set
}

fn node_args(settings: &Settings) -> Vec<String> {
    let address = format!("{}:{PORT}", settings.named(COORDINATOR));
    ["--coordinator", &address].into_iter().chain(link(settings)).map(str::to_owned).collect()
}

/// How an end is secured.
fn link(settings: &Settings) -> Vec<&'static str> {
    if settings.args.allow_unauthenticated {
        vec!["--allow-unauthenticated"]
    } else {
        vec!["--tls-dir", TLS_DIR]
    }
}

/// Volume and mount of an end's certificate; the group that can read it is the pod's.
fn tls(settings: &Settings, secret: &str) -> (Value, Value) {
    let secret = json!({ "secretName": settings.named(secret), "defaultMode": 0o440 });
    (
        json!({ "name": "tls", "secret": secret }),
        json!({ "name": "tls", "mountPath": TLS_DIR, "readOnly": true }),
    )
}

/// Adds a node's certificate to its pod.
fn with_tls(spec: &mut Value, settings: &Settings) {
    if settings.args.allow_unauthenticated {
        return;
    }
    let (volume, mount) = tls(settings, TLS_SECRETS[1]);
    for (list, item) in [("/volumes", volume), ("/containers/0/volumeMounts", mount)] {
        let (parent, key) = list.rsplit_once('/').unwrap_or_default();
        let Some(parent) = spec.pointer_mut(parent) else { continue };
        match parent[key].as_array_mut() {
            Some(items) => items.push(item),
            None => parent[key] = json!([item]),
        }
    }
}

/// What all pods have in common: no rights, no token, not on the server's nodes, not moved about.
fn pod(settings: &Settings, part: &str) -> Value {
    let mut spec = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    });
    if let Some(name) = &settings.args.image_pull_secret {
        spec["imagePullSecrets"] = json!([{ "name": name }]);
    }
    if !settings.nodes.is_empty() {
        spec["nodeSelector"] = json!(settings.nodes);
    }
    if !settings.server.is_empty() {
        spec["affinity"] = away_from(&settings.server);
    }
    let annotations = json!({
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    });
    json!({ "metadata": { "labels": labels(settings, Some(part)), "annotations": annotations }, "spec": spec })
}

fn away_from(server: &Labels) -> Value {
    json!({ "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [{
        "topologyKey": "kubernetes.io/hostname",
        "namespaceSelector": {},
        "labelSelector": { "matchLabels": server },
    }] } })
}

fn container(settings: &Settings, name: &str, binary: &str) -> Value {
    json!({
        "name": name,
        "image": settings.args.image,
        "command": [binary],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
    })
}

/// The same requested as at most: a guaranteed pod is not squeezed by its neighbours, and its latencies are the server's.
fn resources(cpu: &str, memory: &str) -> Value {
    let both = json!({ "cpu": cpu, "memory": memory });
    json!({ "requests": both, "limits": both })
}

fn deadline_s(settings: &Settings) -> i64 {
    settings.args.deadline.0 / 1_000_000_000
}

fn needs(metadata: &mut Value, settings: &Settings) {
    let mut needs = Vec::new();
    if !settings.args.allow_unauthenticated {
        needs.extend(TLS_SECRETS.map(|name| format!("secret/{}", settings.named(name))));
    }
    needs.extend(settings.api_key.as_ref().map(|(name, _)| format!("secret/{name}")));
    needs.extend(settings.args.data_claim.as_ref().map(|name| format!("persistentvolumeclaim/{name}")));
    needs.extend(settings.args.image_pull_secret.as_ref().map(|name| format!("secret/{name}")));
    if !needs.is_empty() {
        let mut annotations = Map::new();
        annotations.insert(NEEDS.to_owned(), json!(needs.join(",")));
        metadata["annotations"] = Value::Object(annotations);
    }
}
