//! `tailcliff k8s`.

use std::path::Path;

use chrono::Utc;

use super::{
    EXIT_CLUSTER, EXIT_INTERRUPTED, EXIT_NODES, EXIT_OK, EXIT_USAGE, fail, interrupts, offer, print, tell,
};
use crate::args::k8s::{K8sCommand, K8sRunArgs};
use crate::config::ConfigError;
use crate::k8s::drive::{Cluster, ClusterError};
use crate::k8s::{self, Rendered};

pub(super) async fn main(command: K8sCommand) -> i32 {
    let env_key = std::env::var("OPENAI_API_KEY").ok();
    match command {
        K8sCommand::Render(args) => match k8s::render(&args, env_key) {
            Ok(rendered) => {
                beforehand(&rendered);
                print(rendered.yaml.trim_end());
                EXIT_OK
            }
            Err(error) => fail(&error.to_string(), EXIT_USAGE),
        },
        K8sCommand::Run(args) => match cluster(&args, env_key) {
            Ok(cluster) => {
                k8s::beforehand::word_of_image(&cluster.settings).iter().for_each(|line| tell(line));
                run(&cluster).await
            }
            Err(error) => fail(&error.to_string(), EXIT_USAGE),
        },
    }
}

/// On standard error: it is seen too where the objects go straight to kubectl.
fn beforehand(rendered: &Rendered) {
    rendered.words.iter().for_each(|line| tell(line));
    if !rendered.commands.is_empty() {
        tell("the pods of these objects do not start before you did, once:");
    }
    rendered.commands.iter().for_each(|command| tell(&format!("  {command}")));
}

fn cluster(args: &K8sRunArgs, env_key: Option<String>) -> Result<Cluster, ConfigError> {
    // The time alone may be another's too.
    let salt = fastrand::u32(..) & 0xffff;
    let run_id = Utc::now().format(&format!("tailcliff-%Y%m%d-%H%M%S-{salt:04x}")).to_string();
    let dir = args.objects.sweep.output_dir.clone();
    let mut cluster = k8s::cluster(args, env_key, &run_id, tell)?;
    cluster.dir = dir.unwrap_or_else(|| Path::new("runs").join(&cluster.settings.run_id));
    Ok(cluster)
}

async fn run(cluster: &Cluster) -> i32 {
    let (_, interrupts) = interrupts();
    match cluster.run(interrupts).await {
        Ok(listing) => offer::retell(&listing, &cluster.dir),
        Err(error) => fail(&error.to_string(), code_of(&error)),
    }
}

fn code_of(error: &ClusterError) -> i32 {
    match error {
        ClusterError::Kubectl(_)
        | ClusterError::Forbidden(_)
        | ClusterError::Taken(_)
        | ClusterError::Missing(_)
        | ClusterError::Yaml(_) => EXIT_CLUSTER,
        ClusterError::Pods(_) => EXIT_NODES,
        ClusterError::Ended(Some(code @ 1..), _) => *code,
        ClusterError::Ended(..) => super::EXIT_FETCH,
        ClusterError::Fetch(error) => offer::code_of(error),
        ClusterError::Interrupted(_) => EXIT_INTERRUPTED,
    }
}
