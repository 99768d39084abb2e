//! Flags of `tailcliff k8s`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::fleet::FleetRuleArgs;
use super::{Span, SweepArgs};

/// `tailcliff k8s`.
#[derive(Clone, Debug, Subcommand)]
pub enum K8sCommand {
    /// Print the objects of a run as YAML, for `kubectl apply -f -`, kustomize or a repository.
    Render(Box<K8sArgs>),
    /// Carry out a run: make its objects by your own kubectl, follow, fetch the results, and delete the objects.
    Run(Box<K8sRunArgs>),
}

/// What the objects are to be.
#[derive(Clone, Debug, Args)]
pub struct K8sArgs {
    /// What to sweep; the URL is as seen from pods.
    #[command(flatten)]
    pub sweep: SweepArgs,
    /// Agents, each a pod of an Indexed Job.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub agents: u32,
    /// GPU probes to wait for: nodes that --gpu-node-selector selects, on each of which a DaemonSet puts one.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub probes: u32,
    /// How long the coordinator waits for them, from its own start.
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub wait: Span,
    /// Of agents that come late or are lost.
    #[command(flatten)]
    pub fleet: FleetRuleArgs,
    /// Image that holds the three binaries; deploy/image says how to build it.
    #[arg(long, value_name = "IMAGE", default_value = concat!("tailcliff:", env!("CARGO_PKG_VERSION")))]
    pub image: String,
    /// Secret of the registry, which must exist.
    #[arg(long, value_name = "NAME")]
    pub image_pull_secret: Option<String>,
    /// Namespace, which must exist [default: kubectl's].
    #[arg(long, short, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Name of the run in the cluster: objects are named by it and carry it as a label
    /// [default: tailcliff, and with the time for `run`].
    #[arg(long, value_name = "NAME")]
    pub run_id: Option<String>,
    /// Secret that holds the API key of the server, which must exist; key of its data after a slash [default: api-key].
    #[arg(long, value_name = "NAME[/KEY]")]
    pub api_key_secret: Option<String>,
    /// Go without TLS: whoever reaches a pod's port can join the run, and agents are not sent the API key.
    #[arg(long)]
    pub allow_unauthenticated: bool,
    /// CPU of each agent, requested and at most; whole cores can be its own on nodes with a static CPU policy.
    #[arg(long, value_name = "CPU", default_value = "2")]
    pub agent_cpu: String,
    /// Memory of each agent, requested and at most.
    #[arg(long, value_name = "MEMORY", default_value = "1Gi")]
    pub agent_memory: String,
    /// CPU of the coordinator, requested and at most.
    #[arg(long, value_name = "CPU", default_value = "2")]
    pub coordinator_cpu: String,
    /// Memory of the coordinator, requested and at most.
    #[arg(long, value_name = "MEMORY", default_value = "1Gi")]
    pub coordinator_memory: String,
    /// Nodes that agents and coordinator go to, by a label; repeatable.
    #[arg(long, value_name = "LABEL=VALUE")]
    pub node_selector: Vec<String>,
    /// Label of the server's pods, in any namespace: load is not made on their nodes, and goes to them alone; repeatable.
    #[arg(long, value_name = "LABEL=VALUE")]
    pub server_label: Vec<String>,
    /// Nodes with GPUs, by a label; repeatable.
    #[arg(long, value_name = "LABEL=VALUE", default_value = "nvidia.com/gpu.present=true")]
    pub gpu_node_selector: Vec<String>,
    /// Runtime class of the probes, where GPUs need one: nvidia.
    #[arg(long, value_name = "NAME")]
    pub gpu_runtime_class: Option<String>,
    /// Port on which probes take the server's spans (OTLP), each those of its own node, through a Service.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..))]
    pub otlp_port: Option<u16>,
    /// A further argument of each probe, repeatable: --probe-arg=--server-metrics=http://vllm:8000/metrics
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub probe_arg: Vec<String>,
    /// Keep the run directory on a claim of this size, so that a coordinator that dies goes on where it was.
    #[arg(long, value_name = "SIZE")]
    pub volume: Option<String>,
    /// Storage class of that claim.
    #[arg(long, value_name = "NAME", requires = "volume")]
    pub storage_class: Option<String>,
    /// A claim that holds datasets and tokenizers too large for a ConfigMap; it is mounted at /data.
    #[arg(long, value_name = "NAME")]
    pub data_claim: Option<String>,
    /// Longest that any pod of the run lives.
    #[arg(long, value_name = "TIME", default_value = "6h")]
    pub deadline: Span,
    /// How long the coordinator keeps results for whoever fetches them.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub serve_results: Span,
}

/// `tailcliff k8s run`.
#[derive(Clone, Debug, Args)]
pub struct K8sRunArgs {
    /// The objects.
    #[command(flatten)]
    pub objects: K8sArgs,
    /// Your kubectl.
    #[arg(long, value_name = "FILE", default_value = "kubectl")]
    pub kubectl: PathBuf,
    /// Context of your kubeconfig [default: the current one].
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Leave the objects there.
    #[arg(long)]
    pub keep: bool,
    /// Fetch the outputs alone, without the journal.
    #[arg(long)]
    pub no_journal: bool,
}
