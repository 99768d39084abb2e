//! Kubernetes as the engine of a distributed run: the objects of a run, and a run carried out by the user's own kubectl.

mod companions;
pub mod drive;
pub mod follow;
pub mod kubectl;
pub mod manifests;
pub mod plan_file;
pub mod settings;

use std::path::PathBuf;

use drive::Cluster;
use kubectl::Kubectl;
use plan_file::PlanFile;
use serde_json::Value;
use settings::Settings;
use tailcliff_proto::link::tls::Tls;

use crate::args::k8s::{K8sArgs, K8sRunArgs};
use crate::certs;
use crate::config::{ConfigError, bad};

/// No run is longer.
const CERTIFICATE_DAYS: u32 = 8;
/// What `render` calls a run.
const RENDERED: &str = "tailcliff";

/// The objects of a run as YAML. A key that is in the environment here is not printed: the objects name the Secret that
/// has to hold it.
///
/// # Errors
/// The first flag that makes no sense.
pub fn render(args: &K8sArgs, env_key: Option<String>) -> Result<String, ConfigError> {
    manifests::yaml(&objects(args, env_key)?).map_err(|e| bad("--plan", e.to_string()))
}

/// The same as values.
///
/// # Errors
/// The first flag that makes no sense.
pub fn objects(args: &K8sArgs, env_key: Option<String>) -> Result<Vec<Value>, ConfigError> {
    let plan = PlanFile::new(&args.sweep, env_key)?;
    let mut settings = Settings::from_args(args, RENDERED)?;
    if settings.api_key.is_none() && !plan.config.target.api_key.is_empty() {
        settings.api_key = Some((settings.named("api-key"), "api-key".to_owned()));
    }
    check(&plan, args)?;
    Ok(manifests::objects(&settings, &plan))
}

/// The highest level fits on so many agents.
fn check(plan: &PlanFile, args: &K8sArgs) -> Result<(), ConfigError> {
    let mut config = plan.config.clone();
    (config.plan.agents, config.plan.probes) = (args.agents, args.probes);
    config.check_agents()
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
