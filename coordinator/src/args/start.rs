//! Flags of what comes before a run: its plan, a first request, and a shell's completions.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Span, SweepArgs};

/// `tailcliff plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// What to sweep.
    #[command(flatten)]
    pub sweep: SweepArgs,
    /// Say what will happen, before it does: levels, requests, time, tokens, cost, files.
    #[arg(long)]
    pub explain: bool,
    /// The explanation as JSON.
    #[arg(long, requires = "explain")]
    pub json: bool,
}

/// `tailcliff preflight`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  tailcliff preflight --url http://127.0.0.1:8000
  tailcliff preflight --plan deploy/plans/sweep.yaml && tailcliff run --plan deploy/plans/sweep.yaml
It exits with 0 when the server can be used, and with 3 when it cannot. One that says that it is still loading is waited
for, up to a minute.")]
pub struct PreflightArgs {
    /// The server: http://HOST:PORT, https://HOST:PORT, or HOST:PORT.
    #[arg(long)]
    pub url: Option<String>,
    /// Model name to ask for [default: the server's, if it has one only].
    #[arg(long)]
    pub model: Option<String>,
    /// YAML file of a sweep: server, model and headers are taken from it.
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Longest that the request may take.
    #[arg(long, value_name = "TIME", default_value = "20s")]
    pub timeout: Span,
    /// Kind of endpoint [default: chat].
    #[arg(long, value_name = "KIND", value_parser = ["chat", "completions"])]
    pub endpoint_type: Option<String>,
    /// Path of the endpoint, where it is not the usual one.
    #[arg(long, value_name = "PATH")]
    pub endpoint: Option<String>,
    /// Ask for a whole reply instead of a stream.
    #[arg(long)]
    pub no_streaming: bool,
    /// File that holds the API key; without it OPENAI_API_KEY is used when set.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// "Name: value", repeatable.
    #[arg(long, value_name = "HEADER")]
    pub header: Vec<String>,
    /// JSON object merged into the request's body.
    #[arg(long, value_name = "JSON")]
    pub extra_body: Option<String>,
    /// HTTP version [default: 1.1].
    #[arg(long, value_name = "VERSION", value_parser = ["1.1", "2"])]
    pub http_version: Option<String>,
    /// Take any certificate of an https server.
    #[arg(long)]
    pub insecure: bool,
    /// PEM certificates to trust beside the system's.
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// The result as JSON.
    #[arg(long)]
    pub json: bool,
}

impl PreflightArgs {
    /// The same as flags of a sweep.
    pub fn sweep(&self) -> SweepArgs {
        SweepArgs {
            plan: self.plan.clone(),
            url: self.url.clone(),
            model: self.model.clone(),
            endpoint_type: self.endpoint_type.clone(),
            endpoint: self.endpoint.clone(),
            no_streaming: self.no_streaming.then_some(true),
            api_key_file: self.api_key_file.clone(),
            header: self.header.clone(),
            extra_body: self.extra_body.clone(),
            http_version: self.http_version.clone(),
            insecure: self.insecure.then_some(true),
            ca_cert: self.ca_cert.clone(),
            ..SweepArgs::default()
        }
    }
}

/// Shells that completions are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

/// `tailcliff completions`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  eval \"$(tailcliff completions bash)\"                                   # in ~/.bashrc
  tailcliff completions zsh > ~/.zfunc/_tailcliff                          # a directory of $fpath
  tailcliff completions fish > ~/.config/fish/completions/tailcliff.fish")]
pub struct CompletionsArgs {
    /// Shell.
    #[arg(value_enum)]
    pub shell: Shell,
}
