//! From what was typed to what is meant: flags and plan file validated into one [`Config`]. Secrets stay out of the
//! [`Plan`], which is stored.

mod auto;
mod control;
mod experiment;
mod open;
mod replay;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tailcliff_proto::{MAX_AGENT_STREAMS, MAX_INPUT_WORDS, v1};

pub(crate) use auto::most_streams;

use crate::args::{Rates, Span, SweepArgs};
use crate::dataset::Corpus;
use crate::plan::{CliffRule, Plan};
use crate::redact::{redacted, redacted_fact, redacted_json, redacted_query};
use crate::slo::{self, SloError};
use crate::workload;

/// Why a plan cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The plan file cannot be read.
    #[error("failed to read plan {path}: {reason}")]
    PlanFile {
        /// The file.
        path: PathBuf,
        /// Why, with the line where there is one.
        reason: String,
    },
    /// A value makes no sense.
    #[error("bad {flag}: {reason}")]
    Bad {
        /// The flag, as typed.
        flag: &'static str,
        /// What is wrong and what to try.
        reason: String,
    },
    /// An SLO that is none.
    #[error(transparent)]
    Slo(#[from] SloError),
}

/// A sweep, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// The stored part.
    pub plan: Plan,
    /// What agents are told of the server; holds the API key.
    pub target: v1::Target,
    /// What agents are told to send.
    pub workload: v1::Workload,
    /// Dataset and tokenizer, when there is one of them.
    pub corpus: Option<Arc<Corpus>>,
    /// Name of the run, safe in a path.
    pub name: String,
    /// Where to write, when the user said.
    pub output_dir: Option<PathBuf>,
}

const MAX_STREAMS: u32 = 1 << 20;
const MAX_LEVELS: usize = 1_000;
/// `-vv`: trace mode; the dashboard comes with one more.
const TRACE_FROM: u8 = 2;

pub(crate) fn bad(flag: &'static str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Bad { flag, reason: reason.into() }
}

impl Config {
    /// Validates flags over their plan file; `env_key` is OPENAI_API_KEY.
    ///
    /// # Errors
    /// The first value that makes no sense, with what to try.
    pub fn from_args(flags: SweepArgs, env_key: Option<String>) -> Result<Self, ConfigError> {
        let args = experiment::with_usual(with_plan_file(flags)?)?;
        let mut plan = plan(&args)?;
        let target = target(&plan, &args, env_key)?;
        let (mut workload, corpus) = workload::of(&args, &mut plan)?;
        replay::plan(&args, &mut plan, &mut workload)?;
        experiment::plan(&args, &mut plan)?;
        let name = args.name.as_deref().unwrap_or(&plan.model);
        let name = name.rsplit('/').next().unwrap_or(name);
        let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        let name: String = name.chars().take(80).map(safe).collect();
        let name = name.trim_start_matches('.').to_owned();
        Ok(Self { plan, target, workload, corpus, name, output_dir: args.output_dir })
    }
}

impl Config {
    /// The highest level fits on the plan's agents.
    ///
    /// # Errors
    /// When it does not, with how many agents it takes.
    pub fn check_agents(&self) -> Result<(), ConfigError> {
        let most = most_streams(&self.plan);
        let (agents, need) = (self.plan.agents, most.div_ceil(MAX_AGENT_STREAMS));
        if need <= agents {
            return Ok(());
        }
        let reason = format!(
            "{most} streams on {agents} agent(s), of which each drives at most {MAX_AGENT_STREAMS}: use `tailcliff \
             coordinate --agents {need}`, best with a host for each"
        );
        Err(bad("--concurrency", reason))
    }
}

/// Flags, over the file that they name if they do.
///
/// # Errors
/// When that cannot be read.
pub(crate) fn with_plan_file(mut flags: SweepArgs) -> Result<SweepArgs, ConfigError> {
    let file = flags.plan.take().as_deref().map(read_plan).transpose()?;
    Ok(flags.over(file.unwrap_or_default()))
}

fn read_plan(path: &Path) -> Result<SweepArgs, ConfigError> {
    let fail = |reason: String| ConfigError::PlanFile { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    serde_norway::from_str(&text).map_err(|e| fail(e.to_string()))
}

fn plan(args: &SweepArgs) -> Result<Plan, ConfigError> {
    let (base_url, prefix) = base_url(args.url.as_deref().unwrap_or_default())?;
    let endpoint_type = args.endpoint_type.clone().unwrap_or_else(|| "chat".to_owned());
    let usual = match endpoint_type.as_str() {
        "chat" => "/v1/chat/completions",
        "completions" => "/v1/completions",
        other => return Err(bad("--endpoint-type", format!("{other:?}: try chat or completions"))),
    };
    let ns = |span: Option<Span>, default_s: i64| span.map_or(default_s * 1_000_000_000, |s| s.0);
    let request_timeout_ns = ns(args.request_timeout, 60);
    let auto = auto::plan(args)?;
    let is_auto = auto.is_some();
    let plan = Plan {
        base_url,
        path: args.endpoint.as_deref().map_or(format!("{prefix}{usual}"), redacted_query),
        endpoint_type,
        model: args.model.clone().unwrap_or_default(),
        streaming: !args.no_streaming.unwrap_or(false),
        concurrency: match (&args.concurrency, &args.request_rate) {
            (Some(levels), _) => levels.0.clone(),
            (None, Some(_)) => Vec::new(),
            (None, None) => vec![1, 2, 4, 8, 16],
        },
        request_rate: args.request_rate.clone().map_or_else(Vec::new, |Rates(rates)| rates),
        arrival_pattern: open::pattern(args)?,
        burstiness: args.burstiness,
        max_concurrency: args.max_concurrency,
        ramp_ns: ns(args.ramp, 0),
        retries: args.retries.unwrap_or(0),
        retry_backoff_ns: args.retry_backoff.map_or(100_000_000, |s| s.0),
        num_prompts: args.num_prompts.or((args.duration.is_none() && !is_auto).then_some(80)),
        duration_ns: args.duration.map(|s| s.0),
        // A ramp is warm-up, so that it asks for one.
        warmup_ns: args.warmup.or(args.ramp).map_or(0, |s| s.0),
        drain_ns: args.drain.map_or(request_timeout_ns, |s| s.0),
        request_timeout_ns,
        read_timeout_ns: args.read_timeout.map(|s| s.0),
        http_version: args.http_version.clone().unwrap_or_else(|| "1.1".to_owned()),
        insecure: args.insecure.unwrap_or(false),
        connect_timeout_ns: ns(args.connect_timeout, 5),
        prompt: args.prompt.clone(),
        input_len: args.input_len.unwrap_or(128),
        output_len: args.output_len.unwrap_or(128),
        ignore_eos: args.ignore_eos.unwrap_or(false),
        temperature: args.temperature,
        seed: args.seed.unwrap_or(0),
        extra_body: args.extra_body.as_deref().map(object).transpose()?.map(redacted_json),
        headers: headers(&args.header)?.into_iter().map(redacted).collect(),
        agents: 1,
        probes: 1,
        gpu_interval_ns: None,
        cliff: cliff(args)?,
        auto,
        slo: slo::plan_of(&args.slo, !args.no_streaming.unwrap_or(false))?,
        trace: args.verbose >= TRACE_FROM,
        control: args.control.plan(),
        metadata: metadata(&args.metadata)?.into_iter().map(redacted_fact).collect(),
        // What is drawn from what follows once the rest makes sense.
        ..Plan::default()
    };
    check(&plan)?;
    Ok(plan)
}

fn check(plan: &Plan) -> Result<(), ConfigError> {
    if plan.model.is_empty() {
        return Err(bad(
            "--model",
            "no model given: name one that the server has; `tailcliff preflight --url …` finds them out",
        ));
    }
    if !plan.path.starts_with('/') {
        return Err(bad("--endpoint", format!("{:?} is not a path: it must start with /", plan.path)));
    }
    open::check(plan)?;
    control::check(plan)?;
    if plan.request_rate.is_empty() && plan.auto.is_none() {
        check_levels(&plan.concurrency)?;
    }
    let most = plan.concurrency.last().copied().unwrap_or(1);
    match (plan.num_prompts, plan.duration_ns) {
        (Some(_), Some(_)) => {
            return Err(bad("--duration", "a level ends by --num-prompts or by --duration: give one"));
        }
        (Some(0), None) => return Err(bad("--num-prompts", "a level of no request measures nothing")),
        (Some(n), None) if plan.request_rate.is_empty() && n < u64::from(most) => {
            let reason = format!("{n} requests cannot keep {most} streams busy: give at least {most}");
            return Err(bad("--num-prompts", reason));
        }
        (None, Some(ns)) if ns < 100_000_000 => {
            return Err(bad("--duration", "a level lasts at least 100ms"));
        }
        _ => {}
    }
    for (flag, ns) in [
        ("--request-timeout", plan.request_timeout_ns),
        ("--connect-timeout", plan.connect_timeout_ns),
        ("--read-timeout", plan.read_timeout_ns.unwrap_or(plan.request_timeout_ns)),
    ] {
        if ns < 1_000_000 {
            return Err(bad(flag, "at least 1ms is needed"));
        }
    }
    if plan.prompt.is_none() && !(1..=MAX_INPUT_WORDS).contains(&plan.input_len) {
        let own = plan.extra_body.as_ref().is_some_and(|b| b.get("messages").or(b.get("prompt")).is_some());
        if !own {
            let reason = format!("{} is not between 1 and {MAX_INPUT_WORDS}", plan.input_len);
            return Err(bad("--input-len", reason));
        }
    }
    if plan.temperature.is_some_and(|t| !(0.0..=100.0).contains(&t)) {
        return Err(bad("--temperature", "a temperature lies between 0 and 100, most often below 2"));
    }
    if plan.output_len == 0 {
        return Err(bad("--output-len", "at least one token must be asked for"));
    }
    Ok(())
}

/// Levels of a ladder: some, each of a stream or more, ascending.
pub(crate) fn check_levels(levels: &[u32]) -> Result<(), ConfigError> {
    if levels.is_empty() || levels.len() > MAX_LEVELS {
        return Err(bad("--concurrency", format!("give 1 to {MAX_LEVELS} levels, such as 1,2,4,8")));
    }
    if levels.contains(&0) {
        return Err(bad("--concurrency", "a level of 0 streams sends nothing: start at 1"));
    }
    if let Some(&level) = levels.iter().find(|&&level| level > MAX_STREAMS) {
        return Err(bad("--concurrency", format!("{level} streams are more than {MAX_STREAMS}")));
    }
    if let Some(pair) = levels.windows(2).find(|pair| pair[0] >= pair[1]) {
        let mut sorted = levels.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let sorted = sorted.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let reason = format!("levels must ascend, but {} comes after {}: try {sorted}", pair[1], pair[0]);
        return Err(bad("--concurrency", reason));
    }
    Ok(())
}

/// `http://authority`, or https, and the path before `/v1`, from what people paste.
fn base_url(url: &str) -> Result<(String, String), ConfigError> {
    let bad_url = |reason: &str| bad("--url", format!("{reason}: try http://127.0.0.1:8000"));
    if url.is_empty() {
        return Err(bad_url("no server given"));
    }
    let (scheme, rest) = match url.split_once("://") {
        None => ("http", url),
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return Err(bad_url("only http and https are spoken")),
    };
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(a, p)| (a, p));
    if authority.contains('@') {
        return Err(bad_url("credentials do not belong in a URL, which is stored"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]%".contains(c);
    let port = authority.rsplit_once(':').filter(|(_, p)| !p.contains(']')).map(|(_, p)| p.parse::<u16>());
    if authority.is_empty()
        || authority.starts_with(':')
        || !authority.chars().all(plain)
        || matches!(port, Some(Err(_)))
    {
        return Err(bad_url(&format!("{url:?} names no host and port")));
    }
    if path.contains(['?', '#', ' ']) {
        return Err(bad_url("a query does not belong here"));
    }
    let path = path.trim_end_matches('/');
    let prefix = path.strip_suffix("v1").filter(|p| p.is_empty() || p.ends_with('/')).unwrap_or(path);
    let prefix = prefix.trim_end_matches('/');
    let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
    Ok((format!("{scheme}://{authority}"), prefix))
}

fn target(plan: &Plan, args: &SweepArgs, env_key: Option<String>) -> Result<v1::Target, ConfigError> {
    let kind =
        if plan.endpoint_type == "chat" { v1::EndpointType::Chat } else { v1::EndpointType::Completions };
    let headers = headers(&args.header)?;
    Ok(v1::Target {
        base_url: plan.base_url.clone(),
        path: args.endpoint.clone().unwrap_or_else(|| plan.path.clone()),
        endpoint_type: kind as i32,
        model: plan.model.clone(),
        streaming: plan.streaming,
        headers: headers.into_iter().map(|(name, value)| v1::Header { name, value }).collect(),
        api_key: api_key(args, env_key)?,
        extra_body_json: args.extra_body.clone().unwrap_or_default(),
        connect_timeout_ns: plan.connect_timeout_ns,
        request_timeout_ns: plan.request_timeout_ns,
        read_timeout_ns: plan.read_timeout_ns.unwrap_or(0),
        http_version: http_version(&plan.http_version)? as i32,
        insecure: plan.insecure,
        ca_pem: ca_pem(args)?,
    })
}

fn http_version(name: &str) -> Result<v1::HttpVersion, ConfigError> {
    match name {
        "1.1" => Ok(v1::HttpVersion::HttpVersion11),
        "2" => Ok(v1::HttpVersion::HttpVersion2),
        other => Err(bad("--http-version", format!("{other:?}: try 1.1 or 2"))),
    }
}

fn ca_pem(args: &SweepArgs) -> Result<String, ConfigError> {
    let Some(path) = &args.ca_cert else { return Ok(String::new()) };
    let fail = |why: String| bad("--ca-cert", format!("failed to read {}: {why}", path.display()));
    let pem = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err(fail("it holds no PEM certificate".to_owned()));
    }
    Ok(pem)
}

fn api_key(args: &SweepArgs, env_key: Option<String>) -> Result<String, ConfigError> {
    let key = match &args.api_key_file {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|e| bad("--api-key-file", format!("failed to read {}: {e}", path.display())))?,
        None => env_key.unwrap_or_default(),
    };
    let key = key.trim().to_owned();
    if let Some(path) = args.api_key_file.as_ref().filter(|_| key.is_empty()) {
        return Err(bad("--api-key-file", format!("{} holds no key", path.display())));
    }
    if key.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(bad("--api-key-file", "the API key holds characters that no header can carry"));
    }
    Ok(key)
}

fn object(json: &str) -> Result<serde_json::Value, ConfigError> {
    match serde_json::from_str(json) {
        Ok(value @ serde_json::Value::Object(_)) => Ok(value),
        Ok(_) => Err(bad("--extra-body", "not a JSON object: try '{\"top_k\": 1}'")),
        // The text itself is not repeated: it may hold a secret.
        Err(e) => Err(bad("--extra-body", format!("not JSON at line {} column {}", e.line(), e.column()))),
    }
}

fn headers(typed: &[String]) -> Result<Vec<(String, String)>, ConfigError> {
    let token = |c: char| c.is_ascii_alphanumeric() || "-_!#$%&'*+.^`|~".contains(c);
    let split = |header: &String| {
        let (name, value) = header.split_once(':')?;
        let (name, value) = (name.trim(), value.trim());
        let fine = !name.is_empty()
            && name.chars().all(token)
            && value.chars().all(|c| c == ' ' || c.is_ascii_graphic());
        fine.then(|| (name.to_owned(), value.to_owned()))
    };
    // The header itself is not repeated in the message: it may hold a secret.
    let wrong = || bad("--header", "not a header: try \"Name: value\"");
    typed.iter().map(|header| split(header).ok_or_else(wrong)).collect()
}

fn cliff(args: &SweepArgs) -> Result<CliffRule, ConfigError> {
    let usual = CliffRule::default();
    let rule = CliffRule {
        metric: args.cliff_metric.clone().unwrap_or(usual.metric),
        percentile: args.cliff_percentile.unwrap_or(usual.percentile),
        multiple: args.cliff_multiple.unwrap_or(usual.multiple),
        gain_share: args.knee_gain_share.unwrap_or(usual.gain_share),
    };
    if !["e2e", "ttft", "itl"].contains(&rule.metric.as_str()) {
        return Err(bad("--cliff-metric", format!("{:?}: try e2e, ttft or itl", rule.metric)));
    }
    if !(rule.percentile > 0.0 && rule.percentile < 100.0) {
        return Err(bad("--cliff-percentile", "a percentile lies between 0 and 100, such as 95"));
    }
    if !(rule.multiple > 1.0 && rule.multiple.is_finite()) {
        return Err(bad("--cliff-multiple", "a cliff is more than 1 × the lowest level, such as 3"));
    }
    if !(rule.gain_share > 0.0 && rule.gain_share < 1.0) {
        return Err(bad("--knee-gain-share", "a share lies between 0 and 1, such as 0.5"));
    }
    Ok(rule)
}

fn metadata(typed: &[String]) -> Result<Vec<(String, String)>, ConfigError> {
    let pair = |fact: &String| fact.split_once('=').map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()));
    let wrong = |fact: &String| bad("--metadata", format!("{fact:?} is not key=value"));
    typed.iter().map(|fact| pair(fact).filter(|(k, _)| !k.is_empty()).ok_or_else(|| wrong(fact))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Levels;

    pub(super) fn args() -> SweepArgs {
        SweepArgs {
            url: Some("127.0.0.1:8000".to_owned()),
            model: Some("m".to_owned()),
            ..SweepArgs::default()
        }
    }

    pub(super) fn refused(change: impl FnOnce(&mut SweepArgs)) -> String {
        let mut args = args();
        change(&mut args);
        Config::from_args(args, None).unwrap_err().to_string()
    }

    #[test]
    fn a_level_beyond_what_its_agents_drive_is_refused_with_how_many_it_takes() {
        let mut config = Config::from_args(
            SweepArgs {
                concurrency: Some(Levels(vec![8, 200_000])),
                duration: Some(Span(1_000_000_000)),
                ..args()
            },
            None,
        )
        .unwrap();
        let error = config.check_agents().unwrap_err().to_string();
        assert!(error.contains("coordinate --agents 4"), "{error}");
        config.plan.agents = 3;
        assert!(config.check_agents().is_err());
        config.plan.agents = 4;
        assert!(config.check_agents().is_ok());
    }

    #[test]
    fn what_people_paste_as_a_url() {
        for (typed, base, path) in [
            ("127.0.0.1:8000", "http://127.0.0.1:8000", "/v1/chat/completions"),
            ("http://host:8000/", "http://host:8000", "/v1/chat/completions"),
            ("http://host:8000/v1", "http://host:8000", "/v1/chat/completions"),
            ("http://host/proxy/v1/", "http://host", "/proxy/v1/chat/completions"),
            ("[::1]:8000", "http://[::1]:8000", "/v1/chat/completions"),
        ] {
            let config =
                Config::from_args(SweepArgs { url: Some(typed.to_owned()), ..args() }, None).unwrap();
            assert_eq!((config.plan.base_url.as_str(), config.plan.path.as_str()), (base, path), "{typed}");
        }
        for typed in
            ["", "https://", "ftp://host", "http://", ":8000", "host:port", "user:pw@host:1", "h:1/?a=b"]
        {
            assert!(refused(|a| a.url = Some(typed.to_owned())).starts_with("bad --url"), "{typed}");
        }
    }

    #[test]
    fn bad_values_are_named_with_what_to_try() {
        let levels = |levels: &[u32]| Some(Levels(levels.to_vec()));
        assert!(refused(|a| a.concurrency = levels(&[0, 1])).contains("start at 1"));
        assert!(refused(|a| a.concurrency = levels(&[8, 4, 8])).contains("try 4,8"));
        assert!(refused(|a| a.num_prompts = Some(3)).contains("cannot keep 16 streams busy"));
        assert!(refused(|a| (a.num_prompts, a.duration) = (Some(100), Some(Span(1)))).contains("give one"));
        assert!(refused(|a| a.model = None).contains("--model"));
        assert!(refused(|a| a.extra_body = Some("[1]".to_owned())).contains("JSON object"));
        assert!(refused(|a| a.cliff_multiple = Some(f64::NAN)).contains("--cliff-multiple"));
        assert!(refused(|a| a.metadata = vec!["gpu".to_owned()]).contains("key=value"));
        let told = ["api_key=hunter2", "server_flags=--api-key hunter2"].map(str::to_owned).to_vec();
        let plan = Config::from_args(SweepArgs { metadata: told, ..args() }, None).unwrap().plan;
        assert!(!serde_json::to_string(&plan).unwrap().contains("hunter"), "{:?}", plan.metadata);
    }

    #[test]
    fn secrets_reach_the_agents_and_nothing_that_is_stored() {
        let mut args = args();
        args.header = vec!["X-Api-Key: hunter2".to_owned(), "X-Team: blue".to_owned()];
        args.endpoint = Some("/v1/chat/completions?api-version=3&api-key=hunter5".to_owned());
        args.extra_body = Some(r#"{"api_key":"hunter6","top_k":7}"#.to_owned());
        let config = Config::from_args(args, Some("sk-hunter3".to_owned())).unwrap();
        let stored = serde_json::to_string(&config.plan).unwrap();
        assert!(!stored.contains("hunter"), "{stored}");
        for kept in ["blue", "api-version=3", "top_k"] {
            assert!(stored.contains(kept), "{kept} in {stored}");
        }
        assert_eq!(config.target.api_key, "sk-hunter3");
        assert_eq!(config.target.headers[0].value, "hunter2");
        assert!(config.target.path.ends_with("api-key=hunter5"));
        assert!(config.target.extra_body_json.contains("hunter6"));
        assert!(!refused(|a| a.header = vec!["sk-hunter4".to_owned()]).contains("hunter"));
        assert!(!refused(|a| a.extra_body = Some("{\"k\": hunter7}".to_owned())).contains("hunter"));
    }

    #[test]
    fn a_plan_file_has_the_flags_names_and_flags_win() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.yaml");
        std::fs::write(&path, "url: host:1\nmodel: file\nconcurrency: [1, 2]\nduration: 5s\nwarmup: 0.5\n")
            .unwrap();
        let flags =
            SweepArgs { plan: Some(path.clone()), model: Some("flag".to_owned()), ..SweepArgs::default() };
        let plan = Config::from_args(flags.clone(), None).unwrap().plan;
        assert_eq!((plan.model.as_str(), plan.concurrency.as_slice()), ("flag", [1, 2].as_slice()));
        assert_eq!(
            (plan.duration_ns, plan.warmup_ns, plan.num_prompts),
            (Some(5_000_000_000), 500_000_000, None)
        );
        for broken in ["url: [", "conurrency: 1", "concurrency: {a: 1}", "duration: soon"] {
            std::fs::write(&path, broken).unwrap();
            let error = Config::from_args(flags.clone(), None).unwrap_err();
            assert!(matches!(error, ConfigError::PlanFile { .. }), "{broken}: {error}");
        }
    }
}
