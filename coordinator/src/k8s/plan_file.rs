//! The plan as a ConfigMap holds it: what flags and plan file come to, with the files it names beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_norway::Value;
use tailcliff_proto::secret::is_secret;

use crate::args::SweepArgs;
use crate::config::{Config, ConfigError, bad, with_plan_file};
use crate::redact::{redacted_fact_text, redacted_json, redacted_query};

/// Where the ConfigMap is mounted.
pub const PLAN_DIR: &str = "/plan";
/// Where a claim with data is mounted.
pub const DATA_DIR: &str = "/data";
/// An object holds 1 MiB with all that is around the data.
const MOST_BYTES: usize = 1_000_000;
/// Why a secret is refused.
const IN_A_CONFIG_MAP: &str = "which a ConfigMap would show to whoever may read it: let the server take its key as \
                               Authorization, which --api-key-secret carries";

/// Contents of the ConfigMap, and what they say of the run.
#[derive(Clone, Debug)]
pub struct PlanFile {
    /// Text by file name.
    pub files: BTreeMap<String, String>,
    /// The sweep, validated.
    pub config: Config,
    /// `-v`, as often as typed.
    pub verbose: u8,
}

impl PlanFile {
    /// Of the flags of a sweep; `env_key` is OPENAI_API_KEY.
    ///
    /// # Errors
    /// What makes no sense, a secret, or a file too large.
    pub fn new(sweep: &SweepArgs, env_key: Option<String>) -> Result<Self, ConfigError> {
        let verbose = sweep.verbose;
        let mut sweep = with_plan_file(sweep.clone())?;
        no_secrets(&sweep, IN_A_CONFIG_MAP)?;
        let config = Config::from_args(readable_here(&sweep), env_key)?;
        let mut files = BTreeMap::new();
        for (flag, path) in [
            ("--dataset-path", &mut sweep.dataset_path),
            ("--tokenizer", &mut sweep.tokenizer),
            ("--ca-cert", &mut sweep.ca_cert),
        ] {
            if let Some(local) = path.as_ref().filter(|path| !path.starts_with(DATA_DIR)) {
                *path = Some(put(&mut files, flag, local)?);
            }
        }
        // These are of this host: the key comes by a Secret, and the outputs by the network.
        (sweep.api_key_file, sweep.output_dir) = (None, None);
        files.insert("plan.yaml".to_owned(), text(&sweep)?);
        let bytes: usize = files.values().map(String::len).sum();
        if bytes > MOST_BYTES {
            let why = format!("plan and files come to {bytes} bytes, and a ConfigMap holds {MOST_BYTES}");
            return Err(bad(
                "--dataset-path",
                format!("{why}: put them on a claim and name it with --data-claim"),
            ));
        }
        Ok(Self { files, config, verbose })
    }
}

/// What lies on a claim cannot be checked from here.
fn readable_here(sweep: &SweepArgs) -> SweepArgs {
    let mut here = sweep.clone();
    let on_claim = |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| path.starts_with(DATA_DIR));
    if on_claim(&here.dataset_path) {
        (here.dataset_path, here.dataset_name, here.dataset_order) = (None, None, None);
        (here.dataset_errors, here.dataset_limit, here.multi_turn) = (None, None, None);
        if here.replay_speed.take().is_some() {
            here.concurrency = None;
        }
    }
    if on_claim(&here.tokenizer) {
        here.tokenizer = None;
    }
    here
}

/// Adds a file to the ConfigMap; its path there.
fn put(
    files: &mut BTreeMap<String, String>,
    flag: &'static str,
    local: &Path,
) -> Result<PathBuf, ConfigError> {
    let file = if local.is_dir() { local.join("tokenizer.json") } else { local.to_owned() };
    let fail = |why: String| bad(flag, format!("failed to read {}: {why}", file.display()));
    let size = std::fs::metadata(&file).map_err(|e| fail(e.to_string()))?.len();
    if size > MOST_BYTES as u64 {
        let why = format!("{} has {size} bytes, and a ConfigMap holds {MOST_BYTES}", file.display());
        let try_this =
            format!("put it on a claim, name that with --data-claim, and the file as {DATA_DIR}/…");
        return Err(bad(flag, format!("{why}: {try_this}")));
    }
    let text = std::fs::read_to_string(&file).map_err(|e| fail(e.to_string()))?;
    let extension =
        file.extension().and_then(|e| e.to_str()).filter(|e| e.chars().all(|c| c.is_ascii_alphanumeric()));
    let name = format!("{}.{}", flag.trim_start_matches('-'), extension.unwrap_or("txt"));
    let there = Path::new(PLAN_DIR).join(&name);
    files.insert(name, text);
    Ok(there)
}

/// What is written there is no place for them.
fn no_secrets(sweep: &SweepArgs, why: &str) -> Result<(), ConfigError> {
    let secret = |flag| bad(flag, format!("it holds a secret, {why}"));
    if sweep.header.iter().any(|header| header.split_once(':').is_some_and(|(name, _)| is_secret(name))) {
        return Err(secret("--header"));
    }
    if sweep.endpoint.as_ref().is_some_and(|path| redacted_query(path) != *path) {
        return Err(secret("--endpoint"));
    }
    let body =
        sweep.extra_body.as_deref().and_then(|body| serde_json::from_str::<serde_json::Value>(body).ok());
    if body.is_some_and(|body| redacted_json(body.clone()) != body) {
        return Err(secret("--extra-body"));
    }
    Ok(())
}

/// A sweep as the text of a plan file: what was said, and nothing of what was not.
///
/// # Errors
/// When it holds a secret, which such a file would keep.
pub fn as_yaml(sweep: &SweepArgs) -> Result<String, ConfigError> {
    no_secrets(sweep, "which a file would keep: leave it out here, and give it to the run as a flag")?;
    text(sweep)
}

/// Facts told are no part of what is driven: secrets among them are left out, and nothing is missed.
fn text(sweep: &SweepArgs) -> Result<String, ConfigError> {
    let fail = |e: serde_norway::Error| bad("--plan", e.to_string());
    let metadata = sweep.metadata.iter().map(|fact| redacted_fact_text(fact)).collect();
    let plan = serde_norway::to_value(SweepArgs { metadata, ..sweep.clone() }).map_err(fail)?;
    serde_norway::to_string(&said(plan)).map_err(fail)
}

/// Without what nobody said.
fn said(plan: Value) -> Value {
    let Value::Mapping(fields) = plan else { return plan };
    let empty = |value: &Value| value.is_null() || value.as_sequence().is_some_and(Vec::is_empty);
    Value::Mapping(fields.into_iter().filter(|(_, value)| !empty(value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_keeps_no_secret_that_was_told_as_a_fact() {
        let metadata = ["api_key=hunter2", "server_flags=--api-key hunter2 --dtype fp8"].map(str::to_owned);
        let text = as_yaml(&SweepArgs { metadata: metadata.to_vec(), ..SweepArgs::default() }).unwrap();
        assert!(!text.contains("hunter") && text.contains("--dtype fp8"), "{text}");
    }
}
