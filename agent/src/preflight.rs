//! One real request before any load: is the server there, does it know the model, does it take the key, does it answer
//! in a form that we read? What is wrong is told in one line that says what to try.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;

use crate::body::Bodies;
use crate::cancel::Cancel;
use crate::client::{Attempt, Client};
use crate::corpus::Corpus;
use crate::target::Target;
use crate::timeline::e2e_ns;

/// `x-request-id` of the requests that preflight sends; no level counts them.
pub const REQUEST_ID: &str = "tailcliff-preflight";

/// How long the server may still close a connection on which a reply has ended for it to count as unannounced.
const CLOSE_WATCH: Duration = Duration::from_millis(100);
/// Models that are passed on, and of these the ones that an error names.
const MAX_MODELS: usize = 256;
const MAX_NAMED: usize = 8;

/// How long things may take; tests are less patient.
#[derive(Clone, Copy)]
struct Limits {
    /// The real request.
    request: Duration,
    /// A server that says that it is still loading.
    loading: Duration,
    /// Between two questions to it.
    pause: Duration,
}

/// A request timeout beyond this says that the server is slow, ns; the coordinator waits two minutes in all.
const USUAL: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(100);

const LIMITS: Limits = Limits {
    request: Duration::from_secs(20),
    loading: Duration::from_secs(60),
    pause: Duration::from_millis(500),
};

/// Asks the server for its models (where it has such a list) and for one short answer with the target's own headers
/// and extra body. Takes up to 60 s while the server says 503, then up to 20 s for the answer. A model that a
/// non-empty list lacks is `not_found`, although llama.cpp would answer in another's place: figures under a wrong
/// name are worse than a stop.
pub async fn preflight(
    target: &v1::Target,
    workload: &v1::Workload,
    corpus: Option<Arc<Corpus>>,
) -> v1::PreflightDone {
    within(target, workload, corpus, Limits { request: patience(target), ..LIMITS }).await
}

/// The same with a limit of its own on the request, and none of the load's data.
pub async fn preflight_within(
    target: &v1::Target,
    workload: &v1::Workload,
    limit: Duration,
) -> v1::PreflightDone {
    within(target, workload, None, Limits { request: limit, ..LIMITS }).await
}

/// Up to 20 s, unless requests are given less time, or much more than usual: then the first one may take it too.
fn patience(target: &v1::Target) -> Duration {
    let asked = Duration::from_nanos(u64::try_from(target.request_timeout_ns).unwrap_or(0));
    match asked {
        Duration::ZERO => LIMITS.request,
        long if long > USUAL => long.min(LONGEST),
        usual => usual.min(LIMITS.request),
    }
}

async fn within(
    target: &v1::Target,
    workload: &v1::Workload,
    corpus: Option<Arc<Corpus>>,
    limits: Limits,
) -> v1::PreflightDone {
    // The workload itself is checked too, though the request is a shorter one.
    let parsed = Target::parse(target).map_err(|e| e.to_string());
    let parsed = parsed.and_then(|t| Bodies::new(&t, workload, corpus).map(|_| t).map_err(|e| e.to_string()));
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return failed("rejected", error, Vec::new()),
    };
    let deadline = HostClock.now().saturating_add(limits.loading.as_nanos() as i64);
    loop {
        let done = once(&parsed, target, workload, limits).await;
        let loading = done.error_kind == LOADING;
        if !loading || HostClock.now() >= deadline {
            return v1::PreflightDone {
                error_kind: done.error_kind.replace(LOADING, "server_error"),
                ..done
            };
        }
        tokio::time::sleep(limits.pause).await;
    }
}

/// Stands for `server_error` while it may still pass.
const LOADING: &str = "loading";

async fn once(
    parsed: &Target,
    target: &v1::Target,
    workload: &v1::Workload,
    limits: Limits,
) -> v1::PreflightDone {
    let models = match list_models(target, limits.request).await {
        Models::Loading => return failed(LOADING, still_loading(limits), Vec::new()),
        Models::Named(models) => models,
        Models::Unknown => Vec::new(),
    };
    if !models.is_empty() && !has_model(&models, parsed.model()) {
        return failed("not_found", parsed.redact(&no_such_model(parsed.model(), &models)), capped(models));
    }
    let done = match ask(target, workload, limits).await {
        Ok((record, seen, closes)) => judge(parsed, &record, seen, closes),
        Err(error) => failed("rejected", error, Vec::new()),
    };
    v1::PreflightDone { models: capped(models), ..done }
}

fn no_such_model(wanted: &str, models: &[String]) -> String {
    let named = models[..models.len().min(MAX_NAMED)].join(", ");
    let more = models.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("the server has no model {wanted:?}: check --model; it has {named}{more}")
}

fn capped(mut models: Vec<String>) -> Vec<String> {
    models.truncate(MAX_MODELS);
    models
}

/// What the answer said.
#[derive(Debug)]
struct Seen {
    text: String,
    server: String,
}

/// One answer through the very client that will make the load.
async fn ask(
    target: &v1::Target,
    workload: &v1::Workload,
    limits: Limits,
) -> Result<(v1::RequestRecord, Seen, bool), String> {
    let target = Target::parse(&v1::Target {
        request_timeout_ns: limits.request.as_nanos() as i64,
        extra_body_json: without_lengths(&target.extra_body_json),
        ..target.clone()
    });
    let target = target.map_err(|e| e.to_string())?;
    let question = v1::Workload {
        prompt: "Reply with only: OK".to_owned(),
        max_tokens: 4,
        ignore_eos: false,
        // The question is asked as it is, whatever the load draws from.
        synthetic: None,
        pick: None,
        ..workload.clone()
    };
    let bodies = Bodies::new(&target, &question, None).map_err(|e| e.to_string())?;
    let mut client = Client::new(Arc::new(target), false);
    client.keep_text();
    let record = client.request(attempt(bodies.body(0, 0, 0)), &Cancel::new()).await;
    let seen = Seen { text: client.take_text().answer, server: client.seen().server.clone() };
    let closes = !client.seen().said_close && client.closes_within(CLOSE_WATCH).await;
    Ok((record, seen, closes))
}

fn attempt(body: Bytes) -> Attempt {
    Attempt {
        control_pause: None,
        level: 0,
        stream: 0,
        request: 0,
        phase: v1::Phase::Warmup,
        intended_raw_ns: HostClock.now(),
        request_id: REQUEST_ID.to_owned(),
        body,
    }
}

/// The extra body without what would fight with an answer of four tokens. Not JSON: as it is, for the parser to refuse.
fn without_lengths(json: &str) -> String {
    let Ok(mut map) = serde_json::from_str::<Map<String, Value>>(json) else { return json.to_owned() };
    map.retain(|key, _| !["min_tokens", "max_tokens", "max_completion_tokens"].contains(&key.as_str()));
    Value::Object(map).to_string()
}

fn judge(target: &Target, record: &v1::RequestRecord, seen: Seen, closes: bool) -> v1::PreflightDone {
    let done = match record.outcome() {
        v1::Outcome::Completed => v1::PreflightDone { ok: true, ..Default::default() },
        _ => explain(target, record),
    };
    v1::PreflightDone {
        latency_ns: e2e_ns(record).and_then(|ns| i64::try_from(ns).ok()).unwrap_or(0),
        answer: target.redact(seen.text.trim()),
        server_header: target.redact(&seen.server),
        closes_after_reply: done.ok && closes,
        ..done
    }
}

/// What went wrong with the request, and what to try.
fn explain(target: &Target, record: &v1::RequestRecord) -> v1::PreflightDone {
    let (kind, hint) = match (record.error_kind.as_str(), record.http_status.unwrap_or(0)) {
        ("http_status", 401 | 403) => {
            ("unauthorized", "set OPENAI_API_KEY or --api-key-file to a key that the server takes")
        }
        ("http_status", 404) => ("not_found", "check --url, --model, --endpoint and --endpoint-type"),
        ("http_status", 503) if record.error_detail.to_ascii_lowercase().contains("loading") => {
            (LOADING, "wait until the server is ready")
        }
        ("http_status", 300..=399) => ("rejected", "redirects are not followed: give the final --url"),
        ("http_status", 400..=499) => ("rejected", "check --model, --endpoint-type and --extra-body"),
        ("http_status" | "error_event", _) => ("server_error", "see the server's log"),
        ("resolve", _) => {
            ("unreachable", "check the host's name in --url: this machine knows no address of it")
        }
        ("connect_timeout", _) => (
            "unreachable",
            "is the server running, is its port open to this machine, or does a firewall drop what it gets? check --url",
        ),
        ("connect_refused" | "connect_reset" | "connect", _) => {
            ("unreachable", "is the server running, and is --url right as seen from this machine?")
        }
        ("client_limit", _) => {
            ("unreachable", "this host has no file descriptor or port left: raise its limits")
        }
        ("tls", _) => (
            "unreachable",
            "is it http:// after all? give --ca-cert for a certificate of your own, --insecure to check none, --http-version 2 for a server of HTTP/2 alone",
        ),
        ("timeout" | "read_timeout", _) => (
            "timeout",
            "is the server overloaded or still loading? see its log; a --request-timeout over 60s waits longer, and so does `tailcliff preflight --timeout 60s`",
        ),
        _ => ("bad_reply", "is this an OpenAI-compatible server, and is --endpoint-type right?"),
    };
    let url = format!("{}://{}{}", target.scheme(), target.authority(), target.path().path());
    let error = format!("no usable answer from {url}: {}; {hint}", record.error_detail);
    failed(kind, error, Vec::new())
}

fn failed(kind: &str, error: String, models: Vec<String>) -> v1::PreflightDone {
    v1::PreflightDone { error_kind: kind.to_owned(), error, models, ..Default::default() }
}

fn still_loading(limits: Limits) -> String {
    format!("the server still said 503 after {:?}; wait until its model is loaded", limits.loading)
}

/// What is known of the server's models.
enum Models {
    Named(Vec<String>),
    /// No such list here, or none that we can read: the real request will tell.
    Unknown,
    Loading,
}

/// Asked through a client of its own, untimed: a server's oddities with a GET are none of the load's.
async fn list_models(target: &v1::Target, limit: Duration) -> Models {
    let Ok(target) = Target::parse(target) else { return Models::Unknown };
    let mut client = Client::new(Arc::new(target), true);
    match tokio::time::timeout(limit, client.models()).await {
        Ok(Ok((503, _))) => Models::Loading,
        Ok(Ok((200..=299, Some(list)))) => parse_models(&list),
        _ => Models::Unknown,
    }
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

fn parse_models(body: &[u8]) -> Models {
    match serde_json::from_slice::<ModelList>(body) {
        Ok(list) => Models::Named(list.data.into_iter().map(|m| m.id).collect()),
        Err(_) => Models::Unknown,
    }
}

/// Ollama knows `name:latest` as `name`. A target without a model takes what the server has.
fn has_model(models: &[String], wanted: &str) -> bool {
    wanted.is_empty() || models.iter().any(|m| m == wanted || m.strip_suffix(":latest") == Some(wanted))
}

#[cfg(test)]
mod tests;
