//! Kubernetes as the engine of a distributed run: the objects of a run, and a run carried out by the user's own kubectl.

pub mod beforehand;
mod companions;
pub mod drive;
pub mod follow;
pub mod kubectl;
pub mod manifests;
pub mod plan_file;
pub mod settings;

use std::net::IpAddr;
use std::path::PathBuf;

use drive::Cluster;
use kubectl::Kubectl;
use plan_file::PlanFile;
use serde_json::Value;
use settings::Settings;
use tailcliff_proto::link::Route;
use tailcliff_proto::link::tls::Tls;

use crate::args::k8s::{K8sArgs, K8sRunArgs};
use crate::args::server::host_and_port;
use crate::certs;
use crate::config::{ConfigError, bad};
use crate::plan::Plan;

/// No run is longer.
const CERTIFICATE_DAYS: u32 = 8;
/// What `render` calls a run.
const RENDERED: &str = "tailcliff";

/// The objects of a run as YAML. A key that is in the environment here is not printed: the objects name the Secret that
/// has to hold it.
///
/// # Errors
/// The first flag that makes no sense.
pub fn render(args: &K8sArgs, env_key: Option<String>) -> Result<Rendered, ConfigError> {
    let plan = PlanFile::new(&args.sweep, env_key)?;
    let mut settings = Settings::from_args(args, RENDERED)?;
    if settings.api_key.is_none() && !plan.config.target.api_key.is_empty() {
        settings.api_key = Some((settings.named("api-key"), "api-key".to_owned()));
    }
    check(&plan, args)?;
    let objects = manifests::objects(&settings, &plan);
    let text = manifests::yaml(&objects).map_err(|e| bad("--plan", e.to_string()))?;
    let yaml = beforehand::comment(&settings) + &manifests::spans::comment(&settings) + &text;
    let (commands, words) = (beforehand::commands(&settings), beforehand::word_of_image(&settings));
    Ok(Rendered { objects, yaml, commands, words })
}

/// Objects, and what a person who applies them has to know.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The objects.
    pub objects: Vec<Value>,
    /// As text.
    pub yaml: String,
    /// What has to be done beforehand.
    pub commands: Vec<String>,
    /// What may be wrong.
    pub words: Option<String>,
}

/// The highest level fits on so many agents, all levels into the life of a pod, and the server is none of them.
fn check(plan: &PlanFile, args: &K8sArgs) -> Result<(), ConfigError> {
    if !args.fleet.fits(args.agents) {
        return Err(bad("--max-agents", "fewer than --agents"));
    }
    if args.otlp_port.is_some() && args.probes == 0 {
        return Err(bad(
            "--otlp-port",
            "nobody listens there without a probe: give --probes, one for each node",
        ));
    }
    check_url(&plan.config.plan.base_url)?;
    check_deadline(&plan.config.plan, args.deadline.0)?;
    let mut config = plan.config.clone();
    (config.plan.agents, config.plan.probes) = (args.agents, args.probes);
    config.check_agents()
}

/// In a pod loopback is that pod.
fn check_url(base_url: &str) -> Result<(), ConfigError> {
    let Some((host, port)) = host_and_port(base_url) else {
        return Err(bad("--url", format!("the port of {base_url} is no number")));
    };
    let route = Route::new(format!("{host}:{port}"));
    let nowhere = route.host().parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    if nowhere || route.is_loopback() || route.host().ends_with(".localhost") {
        let why = format!("{base_url} would be each agent's own pod");
        return Err(bad("--url", format!("{why}: name the server's Service, such as http://vllm:8000")));
    }
    Ok(())
}

/// Levels of a number of requests last as long as the server makes them, and only their warm-up is known.
fn check_deadline(plan: &Plan, deadline_ns: i64) -> Result<(), ConfigError> {
    let level = |load| plan.warmup_of(load).saturating_add(plan.duration_ns.unwrap_or(0));
    let searched_ns = plan.auto.as_ref().map_or(0, |auto| auto.budget_ns);
    let least_ns = plan.levels().into_iter().map(level).fold(searched_ns, i64::saturating_add);
    if deadline_ns > least_ns {
        return Ok(());
    }
    let least_s = least_ns.unsigned_abs().div_ceil(1_000_000_000);
    let why = format!("the levels alone take {least_s}s, and pods would be ended before that");
    Err(bad(
        "--deadline",
        format!("{why}: give more than {least_s}s, with room for --wait and --serve-results"),
    ))
}

/// A run by the user's own kubectl, not begun yet. A key that is in the environment or a file here goes to the cluster as
/// a Secret of the run.
///
/// # Errors
/// The first flag that makes no sense.
pub fn cluster(
    args: &K8sRunArgs,
    env_key: Option<String>,
    run_id: &str,
    tell: fn(&str),
) -> Result<Cluster, ConfigError> {
    let objects = &args.objects;
    let plan = PlanFile::new(&objects.sweep, env_key)?;
    let mut settings = Settings::from_args(objects, run_id)?;
    check(&plan, objects)?;
    let mut secrets = Vec::new();
    let key = &plan.config.target.api_key;
    if settings.api_key.is_none() && !key.is_empty() {
        let named = (settings.named("api-key"), "api-key".to_owned());
        secrets.push(manifests::api_key_secret(&settings, &named, key));
        settings.api_key = Some(named);
    }
    let tls = if objects.allow_unauthenticated { None } else { Some(certificates(&settings, &mut secrets)?) };
    let kubectl = Kubectl {
        program: args.kubectl.clone(),
        context: args.context.clone(),
        namespace: objects.namespace.clone(),
    };
    let (with_journal, keep) = (!args.no_journal, args.keep);
    Ok(Cluster { kubectl, settings, plan, secrets, tls, dir: PathBuf::new(), with_journal, keep, tell })
}

/// Throw-away certificates of this run alone, for its pods and for us: the results come through a port-forward, whose near
/// end is loopback.
fn certificates(settings: &Settings, secrets: &mut Vec<Value>) -> Result<Tls, ConfigError> {
    let fail = |why: String| bad("--run-id", why);
    let hosts = [settings.named(manifests::COORDINATOR), "127.0.0.1".to_owned()];
    let signed = certs::sign(&hosts, CERTIFICATE_DAYS).map_err(|e| fail(e.to_string()))?;
    for ((_, pems), name) in signed.ends.iter().zip(manifests::TLS_SECRETS) {
        secrets.push(manifests::tls_secret(settings, name, pems));
    }
    Tls::of_pem(&signed.ends[1].1).map_err(|e| fail(e.to_string()))
}
