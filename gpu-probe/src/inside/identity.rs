//! What the server is: stack and version, its limits and flags, as far as its endpoints and this host tell. Only what is
//! named here leaves this host: what a server tells of itself may hold its keys.

mod facts;
mod flags;
mod process;
mod told;

use std::time::Duration;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::endpoint::{Endpoint, Failure};
use super::{Inside, Sink};
use crate::host::Server;
use facts::Facts;

/// An answer is waited for so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked again: a server that was started anew may be another.
const AGAIN: Duration = Duration::from_secs(30);
/// The same, while nobody answers.
const SOON: Duration = Duration::from_secs(2);
/// What a server that answers again gets until it is asked, which also bounds how often one that comes and goes is.
const SETTLES: Duration = Duration::from_millis(200);
/// How often is looked whether there is a run.
const IDLE: Duration = Duration::from_millis(100);

/// Asks until it is known, and again when the server may have been started anew: now and then, and when `again` says so.
pub(super) async fn look(
    inside: &Inside,
    again: &Notify,
    server: Option<Server>,
    sink: Sink,
    shutdown: CancellationToken,
) {
    let endpoint = inside.metrics.as_deref().map(|url| Endpoint::new(url, PATIENCE)).transpose();
    if server.is_none() && inside.metrics.is_none() {
        return;
    }
    // The scraper has told a person why.
    let (endpoint, why) = match endpoint {
        Ok(endpoint) => (endpoint, None),
        Err(why) => (None, Some(why)),
    };
    let mut waits = false;
    let look = async {
        let mut sent = None;
        loop {
            while !sink.is_on() {
                tokio::time::sleep(IDLE).await;
            }
            let raw_ns = HostClock.now();
            let (facts, answers) = ask(endpoint.as_ref(), why.as_deref(), server).await;
            let is_whole = answers || endpoint.is_none();
            // What a server said while it was there stands when it is gone.
            let is_news = sent.as_ref() != Some(&facts) && (is_whole || sent.is_none());
            if is_news {
                let server_facts = vec![v1::ServerFacts { raw_ns, ..facts.clone() }];
                waits = !sink.takes(v1::Batch { server_facts, ..Default::default() });
                if !waits {
                    sent = Some(facts);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(if is_whole && !waits { AGAIN } else { SOON }) => {}
                () = again.notified() => tokio::time::sleep(SETTLES).await,
            }
        }
    };
    tokio::select! {
        () = look => {}
        () = shutdown.cancelled() => {}
    }
    if waits {
        sink.tell(
            "what is known of the server found no room to be kept: environment.json lacks it".to_owned(),
        );
    }
}

/// What is known now, and whether anybody answered.
async fn ask(
    endpoint: Option<&Endpoint>,
    why: Option<&str>,
    server: Option<Server>,
) -> (v1::ServerFacts, bool) {
    let mut facts = Facts::default();
    let process = tokio::task::spawn_blocking(move || process::find(server)).await;
    let mut answers = false;
    if let Some(endpoint) = endpoint {
        facts.endpoint(&endpoint.shown);
        answers = ask_all(endpoint, &mut facts).await;
    } else {
        facts.unknown("endpoints", why.unwrap_or("no --server-metrics that names where they are"));
    }
    match process.unwrap_or_else(|_| Err("the look for it failed".to_owned())) {
        Ok(process) => process.tell(&mut facts),
        Err(why) => facts.unknown("command", &why),
    }
    (facts.done(), answers)
}

async fn ask_all(endpoint: &Endpoint, facts: &mut Facts) -> bool {
    let metrics = endpoint.metrics().await;
    // Nobody is there: the others would each be waited for.
    if let Err(Failure { status: None, words }) = &metrics {
        facts.unknown("endpoints", words);
        return false;
    }
    // Who owns the models tells more than the names of metrics, which others write too.
    ask_path(endpoint, told::MODELS, facts).await;
    if let Ok(answer) = &metrics {
        facts.server_header(&answer.server);
        told::metrics(&answer.text(), facts);
    }
    for path in told::PATHS {
        if told::is_asked(path.0, facts.stack()) {
            ask_path(endpoint, path, facts).await;
        }
    }
    true
}

async fn ask_path(endpoint: &Endpoint, (path, read): told::Path, facts: &mut Facts) {
    match endpoint.get(path).await {
        Ok(answer) => {
            facts.server_header(&answer.server);
            match serde_json::from_slice(&answer.body) {
                Ok(json) => read(&json, facts),
                Err(_) => facts.unknown(&format!("/{path}"), "its answer is no JSON"),
            }
        }
        // Every server lacks most of the others' paths.
        Err(Failure { status: Some(404 | 405 | 501), .. }) => {}
        Err(failure) => facts.unknown(&format!("/{path}"), &failure.words),
    }
}

#[cfg(test)]
#[path = "identity/tests.rs"]
mod tests;
