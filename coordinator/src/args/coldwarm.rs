//! Flags of `tailcliff coldwarm`.

use std::path::PathBuf;

use clap::Args;

use super::{Span, SweepArgs, gpu_interval};
use crate::local::ServerArgs;

/// `tailcliff coldwarm`.
#[derive(Clone, Debug, Args)]
pub struct ColdwarmArgs {
    /// The server: http://HOST:PORT, https://HOST:PORT, or HOST:PORT.
    #[arg(long)]
    pub url: String,
    /// Model name to ask for.
    #[arg(long)]
    pub model: String,
    /// Run by `sh -c`: ends the server and starts it anew. One that ends has started it elsewhere (systemctl restart …, docker
    /// restart …, "pkill … ; nohup … &"), and it stays when this is over. One that goes on is the server itself: it is
    /// ended before the next restart and at the end.
    #[arg(long, value_name = "CMD")]
    pub restart_cmd: String,
    /// Path whose 200 says that the server is ready, 503 that it is loading; auto asks /health, then /v1/models.
    #[arg(long, value_name = "PATH|auto", default_value = "auto")]
    pub ready: String,
    /// Longest wait for it.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub ready_timeout: Span,
    /// Times to restart it: does the effect come back?
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub restarts: u32,
    /// Restart it once more for a first request that asks for the whole reply instead of a stream.
    #[arg(long)]
    pub whole_restart: bool,
    /// Warm requests after each first one.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Tokens to ask for.
    #[arg(long, value_name = "TOKENS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// Sampling temperature.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// The prompt of every request.
    #[arg(long, value_name = "TEXT", default_value = PROMPT)]
    pub prompt: String,
    /// Ask the server to go on past the end-of-sequence token.
    #[arg(long)]
    pub ignore_eos: bool,
    /// Kind of endpoint [default: chat].
    #[arg(long, value_name = "KIND", value_parser = ["chat", "completions"])]
    pub endpoint_type: Option<String>,
    /// Path of the endpoint, where it is not the usual one.
    #[arg(long, value_name = "PATH")]
    pub endpoint: Option<String>,
    /// JSON object merged into each request body.
    #[arg(long, value_name = "JSON")]
    pub extra_body: Option<String>,
    /// "Name: value", repeatable.
    #[arg(long, value_name = "HEADER")]
    pub header: Vec<String>,
    /// File that holds the API key; without it OPENAI_API_KEY is used when set.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Longest a request may take; the first one may well take long.
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub request_timeout: Span,
    /// Take any certificate of an https server.
    #[arg(long)]
    pub insecure: bool,
    /// PEM certificates to trust beside the system's.
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// Another variable of the server's environment to record, repeatable; those of CUDA, NCCL, vLLM and their like are
    /// recorded anyway.
    #[arg(long, value_name = "NAME")]
    pub env: Vec<String>,
    /// A fact to record, key=value, repeatable: quantisation=…, server=…, server_version=….
    #[arg(long, value_name = "K=V")]
    pub metadata: Vec<String>,
    /// Whose processes are sampled.
    #[command(flatten)]
    pub server: ServerArgs,
    /// NVML library, where the loader does not find it.
    #[arg(long, value_name = "FILE")]
    pub nvml_path: Option<PathBuf>,
    /// GPU sampling interval.
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = gpu_interval)]
    pub gpu_interval: Span,
    /// Where to write [default: runs/UTC-MODEL-coldwarm].
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
}

/// Short, and an answer is long enough for 64 tokens.
const PROMPT: &str = "Explain in a few sentences why the sky is blue.";

impl ColdwarmArgs {
    /// The same server and requests as a sweep's flags, which are checked in one place.
    pub fn as_sweep(&self) -> SweepArgs {
        SweepArgs {
            url: Some(self.url.clone()),
            model: Some(self.model.clone()),
            endpoint_type: self.endpoint_type.clone(),
            endpoint: self.endpoint.clone(),
            extra_body: self.extra_body.clone(),
            header: self.header.clone(),
            api_key_file: self.api_key_file.clone(),
            request_timeout: Some(self.request_timeout),
            insecure: Some(self.insecure),
            ca_cert: self.ca_cert.clone(),
            prompt: Some(self.prompt.clone()),
            output_len: Some(self.max_tokens),
            temperature: Some(self.temperature),
            ignore_eos: Some(self.ignore_eos),
            metadata: self.metadata.clone(),
            output_dir: self.output_dir.clone(),
            ..SweepArgs::default()
        }
    }
}
