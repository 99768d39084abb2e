//! `tailcliff plan`, `preflight`, `completions`: what comes before a run.

use std::io::Write;

use clap_complete::{generate, shells};
use serde_json::json;

use super::{EXIT_BROKEN, EXIT_OK, EXIT_OUTPUT, EXIT_TARGET, EXIT_USAGE, config, fail, print};
use crate::args::start::{CompletionsArgs, PlanArgs, PreflightArgs, Shell};
use crate::config::{Config, ConfigError, with_plan_file};
use crate::explain::explain;
use crate::help;
use crate::k8s::plan_file::as_yaml;
use crate::knee::duration;
use crate::local::preflight_within;
use crate::report::text::{json_ms, printable};
use tailcliff_proto::v1::PreflightDone;

/// The plan as a file that `--plan` takes, or what it will do.
pub(super) fn plan(args: PlanArgs) -> i32 {
    let is_explained = args.explain;
    let result = if is_explained { explained(args) } else { written(args) };
    match result {
        Ok(text) => {
            print(text.trim_end());
            EXIT_OK
        }
        Err(error) => fail(&error.to_string(), EXIT_USAGE),
    }
}

fn explained(args: PlanArgs) -> Result<String, ConfigError> {
    let mut sweep = with_plan_file(args.sweep)?;
    // A run needs a price for its goodput only; what the run itself costs is known without one.
    let without_slo = sweep.slo.goodput.is_empty();
    let price = if without_slo { sweep.slo.gpu_price_per_hour.take() } else { sweep.slo.gpu_price_per_hour };
    let config = config(sweep)?;
    let dir = match &config.output_dir {
        Some(dir) => dir.display().to_string(),
        None => format!("runs/UTC-{}", config.name),
    };
    let explained = explain(&config.plan, dir, price);
    Ok(if args.json { format!("{:#}", explained.json()) } else { explained.text() })
}

fn written(args: PlanArgs) -> Result<String, ConfigError> {
    let sweep = with_plan_file(args.sweep)?;
    // It is printed only when it can be carried out.
    config(sweep.clone())?;
    as_yaml(&sweep)
}

/// One real request; what is wrong is told with what to try.
pub(super) async fn preflight(args: &PreflightArgs) -> i32 {
    let (mut config, is_named) = match target(args) {
        Ok(both) => both,
        Err(error) => return fail(&error.to_string(), EXIT_USAGE),
    };
    let mut done = preflight_within(&config.target, &config.workload, args.timeout.0).await;
    if !is_named && let [only] = done.models.as_slice() {
        only.clone_into(&mut config.plan.model);
        only.clone_into(&mut config.target.model);
        done = preflight_within(&config.target, &config.workload, args.timeout.0).await;
    }
    if !is_named && config.target.model.is_empty() && done.models.len() > 1 {
        let models: Vec<String> = done.models.iter().map(|model| printable(model)).collect();
        return fail(
            &format!("which model? give --model with one that the server has: {}", models.join(", ")),
            EXIT_USAGE,
        );
    }
    tell(args, &config, &done)
}

/// The target, and whether it names a model.
fn target(args: &PreflightArgs) -> Result<(Config, bool), ConfigError> {
    let mut sweep = with_plan_file(args.sweep())?;
    let is_named = sweep.model.as_ref().is_some_and(|model| !model.is_empty());
    if !is_named {
        // A sweep has a model; a first request may find it out.
        sweep.model = Some("unknown".to_owned());
    }
    let mut config = config(sweep)?;
    if !is_named {
        config.target.model.clear();
        config.plan.model.clear();
    }
    Ok((config, is_named))
}

fn tell(args: &PreflightArgs, config: &Config, done: &PreflightDone) -> i32 {
    let url = format!("{}{}", config.plan.base_url, config.plan.path);
    if args.json {
        let json = json!({
            "ok": done.ok,
            "url": url,
            "model": Some(&config.plan.model).filter(|model| !model.is_empty()),
            "latency_ms": done.ok.then(|| json_ms(Some(done.latency_ns as f64))),
            "answer": done.ok.then_some(&done.answer),
            "server": Some(&done.server_header).filter(|header| !header.is_empty()),
            "models": done.models,
            "error_kind": Some(&done.error_kind).filter(|kind| !kind.is_empty()),
            "error": Some(&done.error).filter(|error| !error.is_empty()),
        });
        print(&format!("{json:#}"));
    }
    if !done.ok {
        return fail(&printable(&done.error), EXIT_TARGET);
    }
    if !args.json {
        let latency = duration(done.latency_ns.max(0).unsigned_abs());
        let model = if config.plan.model.is_empty() {
            "the server's own model".to_owned()
        } else {
            config.plan.model.clone()
        };
        print(&format!(
            "ok: {url} answered {:?} in {latency} ({})",
            printable(&done.answer),
            printable(&model)
        ));
        if done.closes_after_reply {
            print(
                "note: it closes each connection after a reply without saying so: every request will make a new one",
            );
        }
    }
    EXIT_OK
}

/// The script for a shell.
pub(super) fn completions(args: &CompletionsArgs) -> i32 {
    let (mut command, mut script) = (help::command(), Vec::new());
    match args.shell {
        Shell::Bash => generate(shells::Bash, &mut command, "tailcliff", &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut command, "tailcliff", &mut script),
        Shell::Fish => generate(shells::Fish, &mut command, "tailcliff", &mut script),
    }
    match std::io::stdout().write_all(&script) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => EXIT_OK,
        Err(error) => fail(&format!("failed to write the completions: {error}"), EXIT_OUTPUT),
        Ok(()) if script.is_empty() => EXIT_BROKEN,
        Ok(()) => EXIT_OK,
    }
}
