//! What no schema says of a set of objects, and an API server, a kubelet or our own binaries would: each line it returns
//! is a reason why the set would not work.

use std::collections::BTreeMap;

use clap::Parser;
use serde_json::Value;
use tailcliff::args::{Cli, Command, SweepArgs};
use tailcliff::config::Config;
use tailcliff_proto::link::args::LinkArgs;

pub(crate) const RUN: &str = "tailcliff.dev/run";
const NEEDS: &str = "tailcliff.dev/needs";
const PART: &str = "app.kubernetes.io/component";
/// Exit code of an agent at SIGTERM.
const TOLD_TO_STOP: i64 = 143;
/// A lost node is noticed after 40 s and given up 30 s later; another pod is started then.
const REPLACED_NS: i64 = 90_000_000_000;

/// Everything that is wrong with a set of objects.
pub(crate) fn problems(objects: &[Value]) -> Vec<String> {
    let set = Set { objects };
    let mut wrong = set.names();
    for object in objects {
        let at = title(object);
        let found = match text(object, "/kind") {
            "Job" => [job(object), set.pod(object)].concat(),
            "DaemonSet" => [daemon_set(object), set.pod(object)].concat(),
            "Service" => set.service(object),
            "NetworkPolicy" => set.policy(object),
            "PodDisruptionBudget" => set.budget(object),
            "ConfigMap" => config_map(object),
            "PersistentVolumeClaim" => Vec::new(),
            other => vec![format!("{other:?} is a kind that nobody checks")],
        };
        wrong.extend(found.into_iter().map(|what| format!("{at}: {what}")));
    }
    wrong.extend(set.counts());
    wrong
}

fn title(object: &Value) -> String {
    format!("{}/{}", text(object, "/kind"), text(object, "/metadata/name"))
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_one_of(value: &Value, pointer: &str, allowed: &[&str]) -> Option<String> {
    let said = text(value, pointer);
    (!allowed.contains(&said)).then(|| format!("{pointer} is {said:?}, and must be one of {allowed:?}"))
}

/// Every pair of `wanted` is in `labels`, and there is at least one.
fn selects(wanted: Option<&Value>, labels: Option<&Value>) -> bool {
    let wanted = wanted.and_then(Value::as_object);
    wanted.is_some_and(|w| !w.is_empty() && w.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v)))
}

fn job(job: &Value) -> Vec<String> {
    let spec = &job["spec"];
    let mut wrong: Vec<String> = [
        is_one_of(spec, "/completionMode", &["", "NonIndexed", "Indexed"]),
        is_one_of(spec, "/template/spec/restartPolicy", &["Never", "OnFailure"]),
        is_one_of(spec, "/podReplacementPolicy", &["", "Failed", "TerminatingOrFailed"]),
    ]
    .into_iter()
    .flatten()
    .collect();
    let never = text(spec, "/template/spec/restartPolicy") == "Never";
    let indexed = text(spec, "/completionMode") == "Indexed";
    if indexed && spec["completions"].as_u64().is_none() {
        wrong.push("an Indexed Job says how many completions".to_owned());
    }
    let said = |field: &str| spec.get(field).is_some();
    if said("backoffLimitPerIndex") && !(indexed && never) {
        wrong.push("backoffLimitPerIndex is for an Indexed Job whose restartPolicy is Never".to_owned());
    }
    if said("podFailurePolicy") && !(never && text(spec, "/podReplacementPolicy") != "TerminatingOrFailed") {
        wrong.push("podFailurePolicy is for restartPolicy Never and podReplacementPolicy Failed".to_owned());
    }
    wrong.extend(list(spec, "/podFailurePolicy/rules").iter().flat_map(|rule| failure_rule(rule, spec)));
    if indexed && list(spec, "/podFailurePolicy/rules").iter().any(ends_at_a_drain) {
        wrong.push("a drain of one pod would end the places of others".to_owned());
    }
    if indexed && spec.get("podFailurePolicy").is_some() {
        wrong.push("with a podFailurePolicy the place of a pod on a dead node would stay empty".to_owned());
    }
    wrong
}

fn failure_rule(rule: &Value, spec: &Value) -> Vec<String> {
    let mut wrong: Vec<String> =
        is_one_of(rule, "/action", &["FailJob", "Ignore", "Count", "FailIndex"]).into_iter().collect();
    let Some(codes) = rule.get("onExitCodes") else { return wrong };
    let of = text(codes, "/containerName");
    if !list(spec, "/template/spec/containers").iter().any(|container| text(container, "/name") == of) {
        wrong.push(format!("podFailurePolicy is about a container {of:?} that is not there"));
    }
    let values: Vec<_> = list(codes, "/values").iter().filter_map(Value::as_i64).collect();
    if !values.is_sorted_by(|a, b| a < b) || (text(codes, "/operator") == "In" && values.contains(&0)) {
        wrong.push(format!("exit codes {values:?} must ascend, each once, without 0"));
    }
    wrong
}

/// By the exit code of an agent that is told to stop, or by the word of whoever told it.
fn ends_at_a_drain(rule: &Value) -> bool {
    let ends = ["FailJob", "FailIndex"].contains(&text(rule, "/action"));
    let codes = list(rule, "/onExitCodes/values").iter().filter_map(Value::as_i64);
    let named = codes.into_iter().any(|code| code == TOLD_TO_STOP);
    let by_code = named == (text(rule, "/onExitCodes/operator") == "In") && rule.get("onExitCodes").is_some();
    let conditions = list(rule, "/onPodConditions");
    ends && (by_code || conditions.iter().any(|c| text(c, "/type") == "DisruptionTarget"))
}

fn daemon_set(set: &Value) -> Vec<String> {
    let mut wrong: Vec<_> =
        is_one_of(set, "/spec/template/spec/restartPolicy", &["", "Always"]).into_iter().collect();
    if !selects(set.pointer("/spec/selector/matchLabels"), set.pointer("/spec/template/metadata/labels")) {
        wrong.push("its selector does not select its own pods".to_owned());
    }
    wrong
}

fn config_map(map: &Value) -> Vec<String> {
    let bytes = map["data"].to_string().len();
    if bytes > 1 << 20 { vec![format!("{bytes} bytes, and 1 MiB is the most")] } else { Vec::new() }
}

struct Set<'a> {
    objects: &'a [Value],
}

impl<'a> Set<'a> {
    fn of(&self, kind: &str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| text(object, "/kind") == kind)
    }

    fn find(&self, kind: &str, name: &str) -> Option<&'a Value> {
        self.of(kind).find(|object| text(object, "/metadata/name") == name)
    }

    fn templates(&self) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter_map(|object| object.pointer("/spec/template"))
    }

    fn names(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (i, object) in self.objects.iter().enumerate() {
            let (at, name) = (title(object), text(object, "/metadata/name"));
            if self.objects[..i].iter().any(|other| title(other) == at) {
                wrong.push(format!("{at}: there are two"));
            }
            // A Job's pods have its name, an index and a suffix, and a label of it.
            let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if name.is_empty() || name.len() > 52 || !name.chars().all(fine) {
                wrong.push(format!("{at}: no name for an object whose pods are named by it"));
            }
            if object["metadata"]["labels"][RUN] != self.objects[0]["metadata"]["labels"][RUN] {
                wrong.push(format!("{at}: it would be left behind: it lacks the label {RUN} of the others"));
            }
        }
        wrong
    }

    /// What a Job or a DaemonSet would start.
    fn pod(&self, owner: &Value) -> Vec<String> {
        let template = &owner["spec"]["template"];
        let spec = &template["spec"];
        let mut wrong = locked_down(spec);
        if template["metadata"]["labels"][RUN] != owner["metadata"]["labels"][RUN] {
            wrong.push(format!("its pods lack the label {RUN}"));
        }
        let policies = self.of("NetworkPolicy");
        let labels = template.pointer("/metadata/labels");
        if !policies
            .map(|policy| policy.pointer("/spec/podSelector/matchLabels"))
            .any(|of| selects(of, labels))
        {
            wrong.push("no NetworkPolicy is about its pods".to_owned());
        }
        for spread in list(spec, "/topologySpreadConstraints") {
            if !selects(spread.pointer("/labelSelector/matchLabels"), labels) {
                wrong.push("it is spread by labels that its pods lack".to_owned());
            }
        }
        wrong.extend(self.volumes(spec));
        for container in list(spec, "/containers") {
            wrong.extend(guaranteed(container));
            wrong.extend(self.env(container));
            wrong.extend(self.command_line(spec, container));
        }
        wrong
    }

    fn volumes(&self, spec: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        let volumes = list(spec, "/volumes");
        let mounts: Vec<_> =
            list(spec, "/containers").iter().flat_map(|c| list(c, "/volumeMounts")).collect();
        for mount in &mounts {
            let name = text(mount, "/name");
            if !volumes.iter().any(|volume| text(volume, "/name") == name) {
                wrong.push(format!("it mounts {name:?}, which is no volume"));
            }
        }
        for volume in volumes {
            let name = text(volume, "/name");
            if !mounts.iter().any(|mount| text(mount, "/name") == name) {
                wrong.push(format!("volume {name:?} is mounted nowhere"));
            }
            for (kind, pointer) in [
                ("ConfigMap", "/configMap/name"),
                ("Secret", "/secret/secretName"),
                ("PersistentVolumeClaim", "/persistentVolumeClaim/claimName"),
            ] {
                wrong.extend(self.unresolved(kind, text(volume, pointer)));
            }
        }
        wrong
    }

    /// A reference to what is neither made nor said to be needed.
    fn unresolved(&self, kind: &str, name: &str) -> Option<String> {
        let needed = format!("{}/{name}", kind.to_lowercase());
        let said = self.objects.iter().any(|o| {
            o["metadata"]["annotations"][NEEDS]
                .as_str()
                .is_some_and(|all| all.split(',').any(|one| one == needed))
        });
        let there = name.is_empty() || said || self.find(kind, name).is_some();
        (!there).then(|| format!("it needs {kind} {name:?}, which is neither made nor named in {NEEDS}"))
    }

    fn env(&self, container: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        for variable in list(container, "/env") {
            let name = text(variable, "/name");
            for (kind, from) in [("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")] {
                let Some(of) = variable.pointer(&format!("/valueFrom/{from}")) else { continue };
                wrong.extend(self.unresolved(kind, text(of, "/name")));
                let object = self.find(kind, text(of, "/name"));
                let (data, key) = (object.and_then(|o| o.get("data")), text(of, "/key"));
                if object.is_some() && data.and_then(|data| data.get(key)).is_none() {
                    wrong.push(format!("{name} is the key {key:?} of a {kind} without it"));
                }
            }
            if tailcliff_proto::secret::is_secret(name) && variable.get("value").is_some() {
                wrong.push(format!("{name} holds its secret in the open"));
            }
        }
        wrong
    }

    /// Its binary takes the arguments, and what they name is there.
    fn command_line(&self, spec: &Value, container: &Value) -> Vec<String> {
        let words = match words(container) {
            Ok(words) => words,
            Err(wrong) => return vec![wrong],
        };
        let refused = |error: clap::Error| vec![format!("its binary refuses its arguments: {error}")];
        match words.first().map(String::as_str) {
            Some("tailcliff") => match Cli::try_parse_from(&words) {
                Ok(Cli { command: Command::Coordinate(args) }) => self.coordinator(spec, container, *args),
                Ok(_) => vec!["it does not coordinate".to_owned()],
                Err(error) => refused(error),
            },
            Some("tailcliff-agent") => match tailcliff_agent::config::Args::try_parse_from(&words) {
                Ok(args) => [self.dials(&args.coordinator), secured(container, &args.link)].concat(),
                Err(error) => refused(error),
            },
            Some("tailcliff-gpu-probe") => match tailcliff_gpu_probe::config::Args::try_parse_from(&words) {
                Ok(args) => [self.dials(&args.coordinator), secured(container, &args.link)].concat(),
                Err(error) => refused(error),
            },
            other => vec![format!("{other:?} is not in the image")],
        }
    }

    fn coordinator(
        &self,
        spec: &Value,
        container: &Value,
        args: tailcliff::args::CoordinateArgs,
    ) -> Vec<String> {
        let mut wrong = secured(container, &args.link);
        let ports: Vec<_> =
            list(container, "/ports").iter().filter_map(|p| p["containerPort"].as_u64()).collect();
        let port: u64 = args
            .listen
            .as_ref()
            .and_then(|listen| listen.rsplit_once(':'))
            .and_then(|(_, port)| port.parse().ok())
            .unwrap_or_default();
        if ports != [port, port + 1] {
            wrong.push(format!("it listens on {port} and the next, and its ports are {ports:?}"));
        }
        if args.fleet.rules.rule().rejoin_wait_ns < REPLACED_NS {
            wrong.push("no pod takes the place of a lost one so fast".to_owned());
        }
        let dir = args.sweep.output_dir.clone().unwrap_or_default();
        let writable = list(container, "/volumeMounts")
            .iter()
            .any(|mount| mount["readOnly"] != true && dir.starts_with(text(mount, "/mountPath")));
        if !writable {
            wrong.push(format!("it writes to {}, which is on no writable volume", dir.display()));
        }
        match self.mounted(spec, container, &args.sweep) {
            Ok(mut sweep) => {
                wrong.extend(off_the_claim(container, &mut sweep));
                wrong.extend(Config::from_args(sweep, None).err().map(|e| e.to_string()));
            }
            Err(why) => wrong.push(why),
        }
        wrong
    }

    /// The sweep of the plan that the container would see.
    fn mounted(&self, spec: &Value, container: &Value, sweep: &SweepArgs) -> Result<SweepArgs, String> {
        let path = sweep.plan.clone().ok_or("it has no plan")?;
        for mount in list(container, "/volumeMounts") {
            let Ok(file) = path.strip_prefix(text(mount, "/mountPath")) else { continue };
            let volume = list(spec, "/volumes").iter().find(|volume| volume["name"] == mount["name"]);
            let map = volume.map_or("", |volume| text(volume, "/configMap/name"));
            let data = self.find("ConfigMap", map).and_then(|map| map["data"].get(file.to_str()?)?.as_str());
            let plan = data.ok_or_else(|| format!("the plan {} is not in its ConfigMap", path.display()))?;
            return serde_norway::from_str(plan).map_err(|e| format!("the plan {}: {e}", path.display()));
        }
        Err(format!("the plan {} is on no volume", path.display()))
    }

    /// HOST:PORT is a Service here, with that port.
    fn dials(&self, address: &str) -> Vec<String> {
        let (host, port) = address.rsplit_once(':').unwrap_or_default();
        let service = self.find("Service", host.split('.').next().unwrap_or_default());
        let has = |service: &Value| {
            list(service, "/spec/ports").iter().any(|p| p["port"].as_u64() == port.parse().ok())
        };
        match service {
            Some(service) if has(service) => Vec::new(),
            _ => vec![format!("it dials {address}, where no Service listens")],
        }
    }

    fn service(&self, service: &Value) -> Vec<String> {
        let selector = service.pointer("/spec/selector");
        let pods: Vec<_> =
            self.templates().filter(|pod| selects(selector, pod.pointer("/metadata/labels"))).collect();
        if pods.is_empty() {
            return vec!["its selector selects no pod".to_owned()];
        }
        let ports =
            || pods.iter().flat_map(|pod| list(pod, "/spec/containers")).flat_map(|c| list(c, "/ports"));
        let missing = |port: &&Value| {
            let target = if port["targetPort"].is_null() { &port["port"] } else { &port["targetPort"] };
            !ports().any(|there| there["name"] == *target || there["containerPort"] == *target)
        };
        let missing = list(service, "/spec/ports").iter().filter(missing);
        missing.map(|port| format!("targetPort {} is no port of its pods", port["targetPort"])).collect()
    }

    fn policy(&self, policy: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        let of = policy.pointer("/spec/podSelector/matchLabels");
        if !self.templates().any(|pod| selects(of, pod.pointer("/metadata/labels"))) {
            wrong.push("it is about no pod".to_owned());
        }
        let of = |part: &str| policy["spec"]["podSelector"]["matchLabels"][PART] == part;
        let services = self.of("Service").filter(|s| s["spec"]["selector"][PART] == "coordinator");
        let ports: Vec<_> = services.flat_map(|s| list(s, "/spec/ports")).map(|p| &p["port"]).collect();
        let open = |rules: &str, peers: &str, part: &str| {
            list(policy, &format!("/spec/{rules}")).iter().any(|rule| {
                let to = list(rule, peers);
                let peer = to.iter().any(|p| p["podSelector"]["matchLabels"][PART] == part);
                let open: Vec<_> = list(rule, "/ports").iter().map(|p| &p["port"]).collect();
                peer && ports.iter().all(|port| open.contains(port))
            })
        };
        let spans = self.of("Service").filter(|s| s["spec"]["selector"][PART] == "gpu-probe");
        for port in spans.flat_map(|s| list(s, "/spec/ports")).map(|p| &p["port"]).filter(|_| of("gpu-probe"))
        {
            let lets_in = |rule: &Value| list(rule, "/ports").iter().any(|p| p["port"] == *port);
            if !list(policy, "/spec/ingress").iter().any(lets_in) {
                wrong.push("it keeps spans from its pods".to_owned());
            }
        }
        if of("coordinator") && !open("ingress", "/from", "agent") {
            wrong.push("it keeps agents from the coordinator".to_owned());
        }
        if !of("coordinator") && !open("egress", "/to", "coordinator") {
            wrong.push("it keeps its pods from the coordinator".to_owned());
        }
        let names =
            |rule: &Value| list(rule, "/ports").iter().any(|p| p["port"] == 53 && p["protocol"] == "UDP");
        if !of("coordinator") && !list(policy, "/spec/egress").iter().any(names) {
            wrong.push("it keeps its pods from names".to_owned());
        }
        wrong
    }

    fn budget(&self, budget: &Value) -> Vec<String> {
        let of = budget.pointer("/spec/selector/matchLabels");
        let selected = self.templates().any(|pod| selects(of, pod.pointer("/metadata/labels")));
        let mut wrong: Vec<_> = (!selected).then(|| "it is about no pod".to_owned()).into_iter().collect();
        if !budget["spec"]["minAvailable"].is_u64() {
            wrong.push("a Job has no scale: minAvailable must be a number".to_owned());
        }
        wrong
    }

    /// Numbers of nodes that must be the same everywhere.
    fn counts(&self) -> Vec<String> {
        let mut env = BTreeMap::new();
        for template in self.templates() {
            for variable in list(template, "/spec/containers").iter().flat_map(|c| list(c, "/env")) {
                env.insert(text(variable, "/name"), text(variable, "/value"));
            }
        }
        let count = |name: &str| env.get(name).and_then(|n| n.parse::<u64>().ok());
        let mut wrong = Vec::new();
        for job in self.of("Job").filter(|job| text(job, "/spec/completionMode") == "Indexed") {
            let (completions, parallelism) =
                (job["spec"]["completions"].as_u64(), job["spec"]["parallelism"].as_u64());
            if completions != count("AGENTS") || parallelism != completions {
                wrong.push(format!("{}: the coordinator waits for {:?} agents", title(job), count("AGENTS")));
            }
        }
        for budget in self.of("PodDisruptionBudget") {
            if budget["spec"]["minAvailable"].as_u64() != count("AGENTS").map(|n| n + 1) {
                wrong.push(format!("{}: not all agents and the coordinator", title(budget)));
            }
        }
        if (count("PROBES") > Some(0)) != (self.of("DaemonSet").count() == 1) {
            wrong.push("probes are waited for and not made, or made and not waited for".to_owned());
        }
        wrong
    }
}

/// Its certificate is mounted where it looks for it, or it was told to do without.
fn secured(container: &Value, link: &LinkArgs) -> Vec<String> {
    let mounts = || list(container, "/volumeMounts").iter().map(|mount| text(mount, "/mountPath"));
    let wrong = match &link.tls_dir {
        Some(dir) if mounts().any(|path| dir == path) => None,
        Some(dir) => Some(format!("its certificate {} is on no volume", dir.display())),
        None if link.allow_unauthenticated => None,
        None => Some("it would refuse to go without TLS".to_owned()),
    };
    wrong.into_iter().collect()
}

/// A tokenizer on a claim cannot be read here; that the claim is mounted can be seen.
fn off_the_claim(container: &Value, sweep: &mut SweepArgs) -> Option<String> {
    let path = sweep.tokenizer.take_if(|path| path.starts_with("/data"))?;
    let mounted = list(container, "/volumeMounts").iter().any(|mount| text(mount, "/mountPath") == "/data");
    (!mounted).then(|| format!("the tokenizer {} is on no volume", path.display()))
}

/// Command and arguments as a kubelet would expand them.
fn words(container: &Value) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    for word in list(container, "/command").iter().chain(list(container, "/args")) {
        let mut word = word.as_str().ok_or("an argument that is no string")?.to_owned();
        for variable in list(container, "/env") {
            let value = variable.get("value").and_then(Value::as_str).unwrap_or("from-a-field");
            word = word.replace(&format!("$({})", text(variable, "/name")), value);
        }
        if word.contains("$(") {
            return Err(format!("{word:?} names a variable that is not set"));
        }
        words.push(word);
    }
    Ok(words)
}

fn locked_down(spec: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let pod = &spec["securityContext"];
    if pod["runAsNonRoot"] != true || pod["seccompProfile"]["type"] != "RuntimeDefault" {
        wrong.push("its pods may run as root, or without seccomp".to_owned());
    }
    if spec["automountServiceAccountToken"] != false {
        wrong.push("its pods are given a token of the cluster".to_owned());
    }
    for container in list(spec, "/containers") {
        let context = &container["securityContext"];
        if context["readOnlyRootFilesystem"] != true
            || context["allowPrivilegeEscalation"] != false
            || context["capabilities"]["drop"] != serde_json::json!(["ALL"])
        {
            wrong.push(format!("container {} may do more than it has to", container["name"]));
        }
    }
    wrong
}

fn guaranteed(container: &Value) -> Option<String> {
    let (requests, limits) = (&container["resources"]["requests"], &container["resources"]["limits"]);
    let whole = ["cpu", "memory"].iter().all(|what| requests[what].is_string());
    (!whole || requests != limits)
        .then(|| format!("container {} is not guaranteed its share", container["name"]))
}
