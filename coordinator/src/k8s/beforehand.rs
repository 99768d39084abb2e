//! What a person has to make before rendered objects can start, as commands; and what is worth a word about the rest.

use super::manifests::{COORDINATOR, TLS_SECRETS};
use super::settings::Settings;

/// Commands that make what the objects name and do not hold, in the order in which they are to be given.
pub fn commands(settings: &Settings) -> Vec<String> {
    let args = &settings.args;
    let namespace = args.namespace.as_ref().map_or_else(String::new, |name| format!(" --namespace {name}"));
    let mut all = Vec::new();
    if !args.allow_unauthenticated {
        // Loopback is the near end of a port-forward, through which results are fetched.
        let hosts = format!("{},127.0.0.1", settings.named(COORDINATOR));
        let out = settings.named("tls");
        all.push(format!("tailcliff certs --out {out} --host {hosts}"));
        for (secret, end) in TLS_SECRETS.into_iter().zip(["coordinator", "node"]) {
            let name = settings.named(secret);
            all.push(format!("kubectl create secret generic {name} --from-file={out}/{end}{namespace}"));
        }
    }
    all.extend(settings.api_key.as_ref().map(|(name, key)| {
        format!("kubectl create secret generic {name} --from-file={key}=FILE_WITH_THE_KEY{namespace}")
    }));
    all.extend(args.image_pull_secret.as_ref().map(|name| {
        let login = "--docker-server=REGISTRY --docker-username=USER --docker-password=TOKEN";
        format!("kubectl create secret docker-registry {name} {login}{namespace}")
    }));
    all
}

/// The commands above the objects, as a comment that whoever reads the file sees first.
pub(super) fn comment(settings: &Settings) -> String {
    let lines = commands(settings);
    if lines.is_empty() {
        return String::new();
    }
    let lines: String = lines.iter().map(|line| format!("#   {line}\n")).collect();
    format!("# Before these objects, whose pods do not start without them, once:\n{lines}")
}

/// An image that no node can pull.
pub fn word_of_image(settings: &Settings) -> Option<String> {
    let image = &settings.args.image;
    (!image.contains('/')).then(|| {
        format!(
            "{image} names no registry of yours, so that nodes run it only where it was loaded onto them: push it, and \
             give --image REGISTRY/{image}"
        )
    })
}
