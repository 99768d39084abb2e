//! What is rendered for a cluster, started without one: the command lines and the environment of each pod's container, as a
//! kubelet would expand them. And `tailcliff k8s run` from end to end, with a stand-in for kubectl. Neither claims a
//! cluster.

use std::path::Path;
use std::process::Command;

use clap::Parser;
use e2e::accounts::Accounts;
use e2e::roles::{ROLE, Role};
use serde_json::Value;
use tailcliff::args::certs::CertsArgs;
use tailcliff::args::k8s::K8sCommand;
use tailcliff::args::{Cli, Command as Job};

use crate::network::Network;
use crate::scene::{PACED, Scene, binary, levels};

const AGENTS: usize = 4;

fn rendered(url: &str) -> Vec<Value> {
    let line = format!(
        "tailcliff k8s render --url {url} --model sim --ignore-eos --agents {AGENTS} --concurrency 8 --num-prompts 80 \
         --output-len 10"
    );
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    let Job::K8s(K8sCommand::Render(args)) = cli.command else { panic!("{line}") };
    tailcliff::k8s::render(&args, None).unwrap().objects
}

fn container<'a>(objects: &'a [Value], name: &str) -> &'a Value {
    let containers = objects.iter().filter_map(|object| object.pointer("/spec/template/spec/containers/0"));
    containers.into_iter().find(|container| container["name"] == name).unwrap()
}

/// A container's arguments, with what it mounts found under `dir` and the Service at its address.
fn words(container: &Value, dir: &Path, certificate: &str, service: &str) -> Vec<String> {
    let args = container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    let word = |word: &str| {
        let mut word = word.replace("tailcliff-coordinator:7100", service);
        for variable in container["env"].as_array().into_iter().flatten() {
            let (name, value) = (variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
            word = word.replace(&format!("$({name})"), value);
        }
        match word.as_str() {
            "/tls" => dir.join("certs").join(certificate).display().to_string(),
            path if path.starts_with('/') => format!("{}{path}", dir.display()),
            other => other.to_owned(),
        }
    };
    args.map(word).collect()
}

fn start(command: Command, role: &str, words: &[String]) -> Role {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Role::start_heard(command, role, &words).unwrap()
}

/// Each pod is a host of its own, with its place from the variable that an Indexed Job sets.
#[test]
#[ignore = "needs root"]
fn the_pods_of_a_rendered_indexed_job_carry_out_its_run() {
    let network = Network::star(&[100_000, 0, 5, 7]);
    let dir = tempfile::tempdir().unwrap();
    let truth = dir.path().join("truth.jsonl");
    let listen = format!("{}:0", Network::NEAR);
    let args = [&["--listen", &listen, "--truth-log", truth.to_str().unwrap()], &PACED[..]].concat();
    let mut server = Role::start_with(network.near(binary()), "model-sim", &args).unwrap();
    let url = server.line("listening on ").unwrap();
    let objects = rendered(&url);
    for (name, text) in objects[0]["data"].as_object().unwrap() {
        std::fs::create_dir_all(dir.path().join("plan")).unwrap();
        std::fs::write(dir.path().join("plan").join(name), text.as_str().unwrap()).unwrap();
    }
    let (certs, host) = (dir.path().join("certs"), vec![Network::NEAR.to_owned()]);
    tailcliff::certs::make(&CertsArgs { out: certs, host, days: 1, keep_ca_key: false }).unwrap();
    let service = format!("{}:7100", Network::NEAR);
    let coordinate = words(container(&objects, "coordinator"), dir.path(), "coordinator", &service);
    let mut coordinator = start(network.near(binary()), "tailcliff", &coordinate);
    let agent = words(container(&objects, "agent"), dir.path(), "node", &service);
    let mut agents: Vec<_> = (0..AGENTS)
        .map(|index| {
            let mut command = network.far(index, binary());
            command.env("JOB_COMPLETION_INDEX", index.to_string());
            // Each pod has a volume of its own.
            let own = |word: &String| {
                if word.ends_with("/spool") { format!("{word}-{index}") } else { word.clone() }
            };
            start(command, "agent", &agent.iter().map(own).collect::<Vec<_>>())
        })
        .collect();
    let mut fetch = network.near(binary());
    fetch.env(ROLE, "tailcliff").args(["fetch", "--coordinator", &service, "--wait", "60s", "--tls-dir"]);
    fetch.arg(dir.path().join("certs/node")).arg("--output-dir").arg(dir.path().join("fetched"));
    let fetched = fetch.output().unwrap();
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    assert!(coordinator.wait().unwrap().success());
    agents
        .iter_mut()
        .for_each(|agent| assert!(agent.wait().unwrap().success(), "pods complete with the run"));
    server.end().unwrap();
    let stored = tailcliff::load::load(&dir.path().join("fetched")).unwrap();
    let mut names: Vec<_> = stored.nodes.values().map(|node| node.hello.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["agent-0", "agent-1", "agent-2", "agent-3"]);
    let accounts = Accounts::read(&dir.path().join("fetched"), &truth).unwrap();
    assert_eq!(accounts.differences(), [""; 0]);
}

/// In place of the pods: what the stand-in starts where a port-forward would lead to them. It finds plan and certificates
/// in the objects that it was given.
const PODS: &str = r#"
text() {
    awk -v name="  name: $1" -v key="  $2: |" '
        /^---/ { within = 0 } $0 == name { within = 1 }
        on && !/^    / { on = 0 } on { sub(/^    /, ""); print } within && $0 == key { on = 1 }' "$STAGE/created.yaml"
}
# Names are the cluster's to resolve.
text t-plan plan.yaml | sed 's/vllm:/127.0.0.1:/' >"$STAGE/plan.yaml"
for end in coordinator node; do
    mkdir -p "$STAGE/of-$end"
    for file in tls.crt tls.key ca.crt; do text "t-$end-tls" "$file" >"$STAGE/of-$end/$file"; done
done
for index in 0 1; do
    TAILCLIFF_ROLE=agent JOB_COMPLETION_INDEX=$index timeout 60 "$DEMO" --coordinator "127.0.0.1:$1" \
        --tls-dir "$STAGE/of-node" --shards 1 </dev/null >/dev/null 2>"$STAGE/agent-$index" &
done
exec env TAILCLIFF_ROLE=tailcliff "$DEMO" coordinate --plan "$STAGE/plan.yaml" --listen "127.0.0.1:$1" --agents 2 \
    --wait 30s --tls-dir "$STAGE/of-coordinator" --serve-results 60s --output-dir "$STAGE/run" 2>"$STAGE/said"
"#;

#[test]
fn a_run_by_kubectl_brings_its_results_here() {
    let mut scene = Scene::new(&PACED);
    let (stage, into) = (scene.dir.path().to_owned(), scene.dir.path().join("here"));
    std::fs::write(stage.join("coordinator"), PODS).unwrap();
    let runs = r#"{"items":[{"kind":"Pod","metadata":{"labels":{"app.kubernetes.io/component":"coordinator"}},
        "status":{"containerStatuses":[{"state":{"running":{}}}]}}]}"#;
    std::fs::write(stage.join("pods"), runs).unwrap();
    let kubectl = Path::new(env!("CARGO_MANIFEST_DIR")).join("../coordinator/tests/k8s/kubectl");
    let mut command = Command::new(binary());
    command.env(ROLE, "tailcliff").env("DEMO", binary()).env("STAGE", &stage).env_remove("OPENAI_API_KEY");
    command.args([
        "k8s",
        "run",
        "--run-id",
        "t",
        "--deadline",
        "90s",
        "--agents",
        "2",
        "--model",
        "sim",
        "--ignore-eos",
        "--url",
    ]);
    command.arg(scene.url().replace("127.0.0.1:", "vllm:")).args([
        "--concurrency",
        "4",
        "--num-prompts",
        "24",
        "--output-len",
        "10",
    ]);
    command.arg("--kubectl").arg(kubectl).arg("--output-dir").arg(&into);
    let output = command.output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        std::fs::read_to_string(stage.join("said")).unwrap_or_default()
    );
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("deleted the run's objects"), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("ttft p95"), "{said}");
    scene.end_server();
    let summary: Value = serde_json::from_slice(&std::fs::read(into.join("summary.json")).unwrap()).unwrap();
    assert_eq!(levels(&summary)[0]["completed"], 24);
    let accounts = Accounts::read(&into, &stage.join("truth.jsonl")).unwrap();
    assert_eq!(accounts.differences(), [""; 0]);
}
