//! The command line as a newcomer meets it: help that fits a screen, examples first, flags by what they are for, and
//! hints where something was mistyped.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Subcommand};

use crate::args::{Cli, Command};

/// Commands by what they are for; one that is in none of these is shown with the last.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "Measure",
        &["preflight", "plan", "run", "baseline", "sweep", "grid", "overload", "coldwarm", "calibrate"],
    ),
    ("Distribute", &["coordinate", "fetch", "k8s", "certs"]),
    ("Read again", &["compare", "merge", "stalls"]),
    ("Reckon", &["kv", "weights", "cost"]),
    ("Else", &["completions", "help"]),
];

const EXAMPLES: &str = "\
Finds the p95 cliff of an LLM inference server; every number has its error bar.

Usage: tailcliff <COMMAND>     (`tailcliff help COMMAND` tells its flags)

  tailcliff preflight --url localhost:8000                 can it be used?
  tailcliff plan --explain --url localhost:8000 --model M  what a run would do
  tailcliff run --url localhost:8000 --model M             find knee and cliff
  tailcliff kv --config config.json --seq-len 8192         reckon a KV cache
";

/// Flags of a sweep by what they are for; the first are what a newcomer needs. One that is in none of these comes last.
const FLAGS: [(&str, &[&str]); 10] = [
    ("Most used", &["url", "model", "concurrency", "duration", "output_dir", "plan", "verbose"]),
    (
        "Load",
        &[
            "request_rate",
            "arrival_pattern",
            "burstiness",
            "replay_speed",
            "max_concurrency",
            "ramp",
            "num_prompts",
            "warmup",
            "drain",
            "retries",
            "retry_backoff",
            "seed",
        ],
    ),
    (
        "Prompts and answers",
        &[
            "input_len",
            "output_len",
            "prompt",
            "dataset_name",
            "dataset_path",
            "dataset_order",
            "dataset_errors",
            "dataset_limit",
            "multi_turn",
            "random_range_ratio",
            "shared_prefix_len",
            "num_prefixes",
            "num_turns",
            "turn_delay",
            "tokenizer",
            "prompt_label",
        ],
    ),
    (
        "Sampling, sent when given",
        &[
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "frequency_penalty",
            "presence_penalty",
            "repetition_penalty",
            "stop",
            "ignore_eos",
            "extra_body",
        ],
    ),
    (
        "Server and connection",
        &[
            "endpoint_type",
            "endpoint",
            "no_streaming",
            "api_key_file",
            "header",
            "http_version",
            "insecure",
            "ca_cert",
            "connect_timeout",
            "request_timeout",
            "read_timeout",
        ],
    ),
    (
        "Judgement",
        &["cliff_metric", "cliff_percentile", "cliff_multiple", "knee_gain_share", "goodput", "slo_share"],
    ),
    ("This host", &["shards", "gpu_interval", "nvml_path", "server_pid", "server_port"]),
    (
        "The server's inside view",
        &[
            "server_metrics",
            "server_metrics_interval",
            "server_metric",
            "otlp_listen",
            "otlp_drain",
            "server_stamps",
        ],
    ),
    ("Record and display", &["metadata", "name", "explain", "gpu_price_per_hour", "json"]),
    ("Nodes", &["listen", "agents", "probes", "wait", "serve_results"]),
];
/// Flags that `-h` shows: the first six.
const SHORT: usize = 6;
/// Heading of the rest.
const REST: &str = "More";

/// The command line, dressed.
pub fn command() -> clap::Command {
    let command =
        Cli::command().override_help(top(&Command::augment_subcommands(clap::Command::new("tailcliff"))));
    let sweeps: Vec<String> =
        command.get_subcommands().filter(|c| is_sweep(c)).map(|c| c.get_name().to_owned()).collect();
    sweeps.into_iter().fold(command, |command, name| command.mut_subcommand(name, by_use))
}

/// Parses, or says what is wrong and exits.
pub fn parse() -> Cli {
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| with_hint(error, std::env::args().nth(1).as_deref()).exit())
}

/// What clap does not think of: letters that changed places, and a flag before the command.
fn with_hint(mut error: clap::Error, first: Option<&str>) -> clap::Error {
    let typed = first.unwrap_or_default();
    let has = |error: &clap::Error, kind| error.get(kind).is_some();
    match error.kind() {
        ErrorKind::InvalidSubcommand if !has(&error, ContextKind::SuggestedSubcommand) => {
            let command = command();
            let alike =
                command.get_subcommands().map(clap::Command::get_name).find(|name| same_letters(name, typed));
            if let Some(name) = alike {
                error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![name.to_owned()]));
            }
        }
        ErrorKind::UnknownArgument if typed.starts_with('-') && !has(&error, ContextKind::Suggested) => {
            let tip = StyledStr::from(format!("a command comes first, as in 'tailcliff run {typed} …'"));
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
        }
        _ => {}
    }
    error
}

fn same_letters(a: &str, b: &str) -> bool {
    let sorted = |text: &str| {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    sorted(a) == sorted(b)
}

/// Help of the whole: examples, then every command under what it is for.
fn top(commands: &clap::Command) -> StyledStr {
    let shown = |name: &&str| commands.get_subcommands().any(|c| c.get_name() == *name && !c.is_hide_set());
    let is_grouped = |name: &str| GROUPS.iter().any(|(_, all)| all.contains(&name));
    let others = commands.get_subcommands().filter(|c| !c.is_hide_set()).map(clap::Command::get_name);
    let others: Vec<&str> = others.filter(|name| !is_grouped(name)).collect();
    let mut out = format!("{EXAMPLES}\n");
    for (group, names) in GROUPS {
        let mut names: Vec<&str> =
            names.iter().copied().filter(|name| shown(name) || *name == "help").collect();
        if group == "Else" {
            names.splice(0..0, others.iter().copied());
        }
        out.push_str(&format!("{:<12}{}\n", format!("{group}:"), names.join(" ")));
    }
    out.push_str("\nOptions:    -h, --help; -V, --version\n");
    StyledStr::from(out)
}

/// A command with the flags of a sweep.
fn is_sweep(command: &clap::Command) -> bool {
    ["url", "concurrency", "duration"].iter().all(|id| command.get_arguments().any(|arg| arg.get_id() == *id))
}

/// Flags under headings; `-h` shows the most used alone, `--help` all.
fn by_use(command: clap::Command) -> clap::Command {
    let name = command.get_name().to_owned();
    let help = Arg::new("help").short('h').long("help").action(ArgAction::Help).help_heading(REST);
    let help = help.help("The most used flags with -h, all with --help");
    let command = command.mut_args(|arg| {
        let (heading, order) = place(&arg);
        let arg = arg.hide_short_help(order.is_none_or(|order| order >= SHORT));
        let arg = if let Some(order) = order { arg.display_order(order) } else { arg };
        if let Some(heading) = heading { arg.help_heading(heading) } else { arg }
    });
    command.disable_help_flag(true).arg(help).after_help(examples(&name))
}

/// The heading that a flag gets, unless it has one of its own; and its place in the whole table.
fn place(arg: &Arg) -> (Option<&'static str>, Option<usize>) {
    let all = FLAGS.iter().flat_map(|(heading, ids)| ids.iter().map(move |id| (*heading, *id)));
    let found = all.enumerate().find(|(_, (_, id))| arg.get_id() == *id);
    let rest = arg.get_help_heading().is_none().then_some(REST);
    (found.map(|(_, (heading, _))| heading).or(rest), found.map(|(order, _)| order))
}

fn examples(name: &str) -> String {
    let to = "--url localhost:8000 --model M";
    let lines = match name {
        "run" => [
            format!("tailcliff run {to} --concurrency 1,2,4,8,16 --duration 60s"),
            format!("tailcliff run {to} --request-rate 1,2,4 --duration 2m"),
        ],
        "plan" => [
            format!("tailcliff plan --explain {to}"),
            format!("tailcliff plan {to} --duration 60s > plan.yaml"),
        ],
        "coordinate" => [
            format!("tailcliff coordinate {to} --agents 3"),
            format!("tailcliff coordinate {to} --ssh host-a,host-b"),
        ],
        _ => [format!("tailcliff {name} {to}"), format!("tailcliff {name} {to} --duration 60s")],
    };
    format!("Examples:\n  {}", lines.join("\n  "))
}

#[cfg(test)]
mod tests;
