//! The objects of a run, held to what no schema says; and what stands in `deploy/kubernetes` is what is rendered. No
//! cluster is claimed: what an API server or a kubelet does with them is not tried here.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod assertions;
mod broken;

use std::path::{Path, PathBuf};
use std::process::Command;

use assertions::problems;
use clap::Parser;
use serde::Deserialize;
use serde_json::Value;
use tailcliff::args::Cli;
use tailcliff::args::k8s::K8sCommand;
use tailcliff::k8s;
use tailcliff_proto::link::tls::FILE_NAMES;

/// Of `deploy/kubernetes/base`.
const BASE: &str = "--url http://vllm:8000 --model MODEL --duration 60s --warmup 10s --agents 4 \
                    --api-key-secret tailcliff-api-key --volume 10Gi --server-label app=vllm";

pub(crate) fn documents(yaml: &str) -> Vec<Value> {
    serde_norway::Deserializer::from_str(yaml).map(|one| Value::deserialize(one).unwrap()).collect()
}

pub(crate) fn render(flags: &str) -> Result<String, String> {
    let line = format!("tailcliff k8s render {flags}");
    let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string())?;
    let tailcliff::args::Command::K8s(K8sCommand::Render(args)) = cli.command else { panic!("{line}") };
    k8s::render(&args, None).map(|rendered| rendered.yaml).map_err(|e| e.to_string())
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes")
}

#[test]
fn every_kind_of_run_is_one_that_would_start() {
    for flags in [
        "--url h:1 --model m",
        "--url h:1 --model m --allow-unauthenticated --probes 1",
        "--url h:1 --model m --probes 2 --otlp-port 4317 --probe-arg=--server-metrics=http://h:1/metrics",
        "--url h:1 --model m --probes 1 --otlp-port 4317 --server-label app=vllm -n load",
        "--url h:1 --model m --agents 64 --probes 8 --gpu-runtime-class nvidia -n load",
        "--url https://h/v1 --model m --agents 2 --request-rate 1,2 --duration 30s -vv",
        "--url h:1 --model m --volume 1Gi --storage-class fast --api-key-secret s/k --image-pull-secret pull",
        "--url h:1 --model m --data-claim data --tokenizer /data/tokenizer.json --run-id a-0123456789-0123456789",
        "--url h:1 --model m --max-agents 8 --on-lost-agent keep --level-attempts 2 --rejoin-wait 100500ms",
        "--url h:1 --model m --server-label app=vllm --node-selector pool=load --agent-cpu 4 --deadline 90m",
    ] {
        let yaml = render(flags).unwrap();
        assert_eq!(problems(&documents(&yaml)), [""; 0], "{flags}\n{yaml}");
    }
}

#[test]
fn what_kustomize_starts_from_is_what_is_rendered() {
    let base = render(BASE).unwrap();
    let with_probes = render(&format!("{BASE} --probes 2")).unwrap();
    let of_probes = |document: &&str| document.contains("\n  name: tailcliff-gpu-probe\n");
    let probes = with_probes.split("---\n").filter(of_probes).collect::<Vec<_>>().join("---\n");
    for (file, rendered) in [("base/tailcliff.yaml", base), ("gpu/probe.yaml", probes)] {
        let path = deploy().join(file);
        if std::env::var_os("TAILCLIFF_WRITE_BASE").is_some() {
            std::fs::write(&path, &rendered).unwrap();
        }
        let stands = std::fs::read_to_string(&path).unwrap();
        assert!(
            stands == rendered,
            "{file}: run this with TAILCLIFF_WRITE_BASE=1 and look at the difference"
        );
    }
}

#[test]
fn spans_of_a_server_come_to_the_probe_of_its_node() {
    let flags = "--url h:1 --model m -n load --probes 1 --otlp-port 4317";
    let yaml = render(flags).unwrap();
    assert!(yaml.contains("grpc://tailcliff-gpu-probe.load:4317"), "{yaml}");
    let all = documents(&yaml);
    let of = |kind: &str| {
        let named = |o: &&serde_json::Value| o["metadata"]["name"] == "tailcliff-gpu-probe";
        all.iter().filter(|o| o["kind"] == kind).find(named).unwrap()
    };
    assert_eq!(of("Service")["spec"]["internalTrafficPolicy"], "Local");
    let args = of("DaemonSet")["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(args.contains("\"--otlp-listen\",\"0.0.0.0:4317\""), "{args}");
    assert!(of("NetworkPolicy")["spec"]["ingress"][0]["from"].is_null());
    let labelled = documents(&render(&format!("{flags} --server-label app=vllm")).unwrap());
    let ingress = labelled.iter().filter(|o| o["kind"] == "NetworkPolicy").map(|o| &o["spec"]["ingress"]);
    assert!(ingress.clone().any(|i| i[0]["from"][0]["podSelector"]["matchLabels"]["app"] == "vllm"));
}

/// Run by name where there is a kubectl: it has kustomize in it, and needs no cluster for that.
#[test]
#[ignore = "needs kubectl"]
fn every_overlay_is_one_that_would_start() {
    for overlay in ["base", "kind", "gpu"] {
        let built = Command::new("kubectl").arg("kustomize").arg(deploy().join(overlay)).output().unwrap();
        assert!(built.status.success(), "{overlay}: {}", String::from_utf8_lossy(&built.stderr));
        let objects = documents(std::str::from_utf8(&built.stdout).unwrap());
        assert!(objects.len() >= 8, "{overlay}");
        assert_eq!(problems(&objects), [""; 0], "{overlay}");
    }
}

#[test]
fn what_no_cluster_would_take_is_refused_with_the_flag() {
    for (flags, says) in [
        ("--run-id Loud", "--run-id"),
        ("--otlp-port 4317", "--probes"),
        ("--run-id a-name-that-is-longer-than-a-label-has-room-for", "--run-id"),
        ("--namespace a_b", "--namespace"),
        ("--agent-cpu many", "--agent-cpu"),
        ("--volume 1GiB", "--volume"),
        ("--agent-memory 10", "16Mi"),
        ("--coordinator-memory 15Mi", "--coordinator-memory"),
        ("--agents 3 --max-agents 2", "--max-agents"),
        ("--concurrency 1,2 --duration 60s --warmup 5s --deadline 2m", "more than 130s"),
        ("--server-label vllm", "app=vllm"),
        ("--agents 1 --concurrency 100000 --duration 9s", "--agents"),
        ("--header X-Api-Key:hunter2", "--api-key-secret"),
        ("--extra-body {\"api_key\":\"hunter2\"}", "--extra-body"),
        ("--endpoint /v1/x?api-key=hunter2", "--endpoint"),
        ("--tokenizer /not/there.json", "--tokenizer"),
    ] {
        let error = render(&format!("--url h:1 --model m {flags}")).unwrap_err();
        assert!(error.contains(says) && !error.contains("hunter"), "{flags}: {error}");
    }
}

#[test]
fn a_server_on_loopback_would_be_each_pod_itself() {
    for url in
        ["localhost:8000", "http://127.0.0.1:8000", "https://localhost/v1", "http://[::1]:8000", "0.0.0.0:1"]
    {
        let error = render(&format!("--url {url} --model m")).unwrap_err();
        assert!(error.contains("--url") && error.contains("Service"), "{url}: {error}");
    }
}

#[test]
fn what_has_to_be_made_beforehand_stands_above_the_objects_as_commands() {
    let yaml = render(&format!("{BASE} -n load --image-pull-secret pull")).unwrap();
    let commands: Vec<_> = yaml.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    let needed: Vec<_> = documents(&yaml)
        .iter()
        .filter_map(|object| object["metadata"]["annotations"]["tailcliff.dev/needs"].as_str())
        .flat_map(|all| all.split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert_eq!(needed.len(), 4);
    for secret in needed.iter().map(|name| name.strip_prefix("secret/").unwrap()) {
        let makes =
            |line: &&&str| line.contains(&format!(" {secret} --")) && line.ends_with("--namespace load");
        assert_eq!(commands.iter().filter(makes).count(), 1, "{secret} in {commands:#?}");
    }
    let certs = Cli::try_parse_from(commands[0].split(' ')).unwrap().command;
    let tailcliff::args::Command::Certs(certs) = certs else { panic!("{}", commands[0]) };
    assert_eq!(certs.host, ["tailcliff-coordinator", "127.0.0.1"]);
    assert!(commands[1].contains(&format!("--from-file={}/coordinator ", certs.out.display())));
    let none = render("--url h:1 --model m --allow-unauthenticated").unwrap();
    assert!(none.starts_with("apiVersion"), "{none}");
}

/// Certificates are for their maker's eyes alone, and the user of a unit is made anew at each start.
#[test]
fn units_are_handed_the_certificates_of_a_node() {
    for binary in ["tailcliff-agent", "tailcliff-gpu-probe"] {
        let unit = deploy().join(format!("../systemd/{binary}.service"));
        let unit = std::fs::read_to_string(unit).unwrap();
        assert!(unit.contains("\nDynamicUser=yes\n"));
        for file in FILE_NAMES {
            let line = format!("\nLoadCredential={file}:/etc/tailcliff/tls/{file}\n");
            assert!(unit.contains(&line), "{binary} lacks {line}");
        }
        let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/")).unwrap();
        let words = start.replace("${TAILCLIFF_COORDINATOR}", "h:7100").replace(" $TAILCLIFF_FLAGS", "");
        let words = words.split(' ');
        let link = match binary {
            "tailcliff-agent" => tailcliff_agent::config::Args::try_parse_from(words).unwrap().link,
            _ => tailcliff_gpu_probe::config::Args::try_parse_from(words).unwrap().link,
        };
        assert_eq!(link.tls_dir.unwrap(), Path::new("${CREDENTIALS_DIRECTORY}"));
    }
}

#[test]
fn files_of_a_plan_go_with_it_and_its_secrets_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let dataset = file("d.jsonl", "{\"prompt\": \"hello world\"}\n{\"prompt\": \"and again\"}\n");
    let key = file("key", "sk-hunter2\n");
    let plan = file("p.yaml", &format!("model: m\nwarmup: 1.5s\nread-timeout: 1.5ms\napi-key-file: {key}\n"));
    let flags = format!(
        "--plan {plan} --url h:1 --dataset-name jsonl --dataset-path {dataset} --output-dir /here --request-rate inf"
    );
    let yaml = render(&flags).unwrap();
    let objects = documents(&yaml);
    let data = &objects[0]["data"];
    assert!(data["dataset-path.jsonl"].as_str().unwrap().contains("and again"));
    let plan = data["plan.yaml"].as_str().unwrap();
    for line in ["dataset-path: /plan/dataset-path.jsonl", "warmup: 1500ms", "read-timeout: 1500us", "- inf"]
    {
        assert!(plan.contains(line), "{line} in {plan}");
    }
    assert!(!yaml.contains("hunter") && !yaml.contains("/here"), "{yaml}");
    // The key was given, so the objects need the Secret that holds it.
    assert!(yaml.contains("secret/tailcliff-api-key"), "{yaml}");
    let large = file("large.jsonl", &"{\"prompt\": \"hello\"}\n".repeat(100_000));
    let error =
        render(&format!("--url h:1 --model m --dataset-name jsonl --dataset-path {large}")).unwrap_err();
    assert!(error.contains("--data-claim"), "{error}");
}
