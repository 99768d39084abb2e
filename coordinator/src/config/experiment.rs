//! The flags of experiments: their defaults, which go together, and the rungs that they come to.

use tailcliff_proto::MAX_INPUT_WORDS;

use crate::args::experiment::{EXPERIMENTS, ExperimentArgs};
use crate::args::{Levels, Span, Spans, SweepArgs};
use crate::experiment::{BASELINE, OVERLOAD, RECOVERY};
use crate::plan::{Cell, Plan};

use super::{ConfigError, MAX_LEVELS, bad};

/// Requests of the phase before an overload.
const BASELINE_REQUESTS: u64 = 12;
/// A grid larger than this is a mistyped one.
const MOST_CELLS: usize = MAX_LEVELS;

/// The name of the experiment; a sweep unless told otherwise.
fn name(args: &SweepArgs) -> Result<&str, ConfigError> {
    let name = args.experiment.experiment.as_deref().unwrap_or("sweep");
    // A plan file is not checked by the parser of flags.
    match EXPERIMENTS.contains(&name) {
        true => Ok(name),
        false => Err(bad("--experiment", format!("{name:?}: try {}", EXPERIMENTS.join(", ")))),
    }
}

/// These flags, with the experiment's own defaults where they leave something open.
///
/// # Errors
/// An unknown experiment, or flags that are of another one.
pub(super) fn with_usual(mut args: SweepArgs) -> Result<SweepArgs, ConfigError> {
    let name = name(&args)?.to_owned();
    fit(&args, &name)?;
    let usual = |requests: u64| (args.duration.is_none()).then_some(requests);
    let (requests, streams) = match name.as_str() {
        "baseline" => (usual(12), vec![1]),
        "grid" => (usual(6), vec![1]),
        "overload" => (usual(60), vec![4, 8, 16, 32]),
        _ => return Ok(args),
    };
    args.num_prompts = args.num_prompts.or(requests);
    args.concurrency.get_or_insert(Levels(streams));
    if name == "baseline" {
        args.output_len.get_or_insert(96);
        args.temperature.get_or_insert(0.2);
    }
    Ok(args)
}

/// Refuses what says nothing of this experiment.
fn fit(args: &SweepArgs, name: &str) -> Result<(), ConfigError> {
    let ExperimentArgs { prompt_chars, max_tokens, timeouts, recovery_wait, .. } = &args.experiment;
    let of = [
        ("--prompt-chars", prompt_chars.is_some(), "grid"),
        ("--max-tokens", max_tokens.is_some(), "grid"),
        ("--timeouts", timeouts.is_some(), "overload"),
        ("--recovery-wait", recovery_wait.is_some(), "overload"),
    ];
    if let Some((flag, _, owner)) = of.into_iter().find(|(_, given, owner)| *given && *owner != name) {
        let one = if flag == "--max-tokens" { "; elsewhere --output-len says it" } else { "" };
        return Err(bad(flag, format!("it is of --experiment {owner}, and this is a {name}{one}")));
    }
    if name == "sweep" {
        return Ok(());
    }
    if args.request_rate.is_some() || args.replay_speed.is_some() {
        let reason = format!("{name} goes in closed loop: --concurrency is its axis; a sweep takes rates");
        return Err(bad("--request-rate", reason));
    }
    let alone = ["baseline", "grid"].contains(&name);
    if alone && args.concurrency.as_ref().is_some_and(|Levels(levels)| levels.len() != 1) {
        return Err(bad("--concurrency", format!("{name} goes at one concurrency, 1 unless told otherwise")));
    }
    if name == "baseline" && args.concurrency.as_ref().is_some_and(|Levels(levels)| levels != &[1]) {
        return Err(bad("--concurrency", "a baseline is sequential: more streams are a sweep's"));
    }
    if name == "overload" && args.control.control_pause.is_some() {
        return Err(bad(
            "--control-pause",
            "under a short timeout a pause of our own fails requests: leave it out",
        ));
    }
    if name == "overload" && args.duration.is_some() {
        return Err(bad("--duration", "the rungs of an overload go by --num-prompts"));
    }
    if name == "grid" { fit_grid(args) } else { Ok(()) }
}

/// A grid makes its own prompts, of its own lengths.
fn fit_grid(args: &SweepArgs) -> Result<(), ConfigError> {
    let given = [
        ("--prompt", args.prompt.is_some()),
        ("--input-len", args.input_len.is_some()),
        ("--dataset-name", args.dataset_name.as_deref().is_some_and(|name| name != "random")),
        ("--dataset-path", args.dataset_path.is_some()),
        ("--random-range-ratio", args.random_range_ratio.is_some_and(|ratio| ratio > 0.0)),
        ("--shared-prefix-len", args.shared_prefix_len.is_some_and(|n| n > 0)),
        ("--num-turns", args.num_turns.is_some_and(|n| n > 1)),
    ];
    if let Some((flag, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
        return Err(bad(flag, "a grid makes prompts of its own: give their lengths with --prompt-chars"));
    }
    match args.output_len {
        Some(_) => Err(bad("--output-len", "the answers of a grid are an axis: give --max-tokens")),
        None => Ok(()),
    }
}

/// Completes a plan that makes sense as a sweep with the rungs of its experiment.
///
/// # Errors
/// Axes that make no sense.
pub(super) fn plan(args: &SweepArgs, plan: &mut Plan) -> Result<(), ConfigError> {
    let name = name(args)?;
    if name == "sweep" {
        return Ok(());
    }
    if plan.auto.is_some() || plan.concurrency.is_empty() {
        return Err(bad("--concurrency", format!("a search is of a sweep, and this is a {name}")));
    }
    let rungs = match name {
        "grid" => grid(args, plan)?,
        "overload" => overload(args, plan)?,
        _ => plan.concurrency.iter().map(|&streams| (streams, Cell::default())).collect(),
    };
    if rungs.len() > MOST_CELLS {
        return Err(bad("--experiment", format!("{} rungs are more than {MOST_CELLS}", rungs.len())));
    }
    plan.experiment = name.to_owned();
    (plan.concurrency, plan.cells) = rungs.into_iter().unzip();
    Ok(())
}

/// Prompt by prompt, each with every length of answer.
fn grid(args: &SweepArgs, plan: &mut Plan) -> Result<Vec<(u32, Cell)>, ConfigError> {
    let axis =
        |levels: &Option<Levels>, usual: &[u32]| levels.as_ref().map_or(usual.to_vec(), |l| l.0.clone());
    let prompts = axis(&args.experiment.prompt_chars, &[200, 800, 2_000]);
    let answers = axis(&args.experiment.max_tokens, &[32, 64, 128, 256]);
    check_axis("--prompt-chars", &prompts)?;
    check_axis("--max-tokens", &answers)?;
    if plan
        .extra_body
        .as_ref()
        .is_some_and(|body| ["messages", "prompt", "max_tokens"].iter().any(|k| body.get(k).is_some()))
    {
        return Err(bad(
            "--extra-body",
            "prompts and max_tokens are the axes of a grid: leave them out of it",
        ));
    }
    plan.input_len_unit = "characters".to_owned();
    let streams = plan.concurrency[0];
    let cell = |&chars: &u32, &tokens: &u32| Cell {
        prompt_chars: Some(chars),
        output_len: Some(tokens),
        ..Cell::default()
    };
    let row = |chars: &u32| answers.iter().map(|tokens| (streams, cell(chars, tokens))).collect::<Vec<_>>();
    Ok(prompts.iter().flat_map(row).collect())
}

fn check_axis(flag: &'static str, axis: &[u32]) -> Result<(), ConfigError> {
    if axis.is_empty() || axis.contains(&0) || axis.iter().any(|&n| n > MAX_INPUT_WORDS) {
        return Err(bad(flag, format!("lengths lie between 1 and {MAX_INPUT_WORDS}")));
    }
    match axis.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => Err(bad(flag, format!("lengths must ascend, but {} comes after {}", pair[1], pair[0]))),
        None => Ok(()),
    }
}

/// What is usual first; then for each timeout its rungs, and the server watched afterwards.
fn overload(args: &SweepArgs, plan: &Plan) -> Result<Vec<(u32, Cell)>, ConfigError> {
    let usual = || vec![Span(5_000_000_000)];
    let timeouts = args.experiment.timeouts.as_ref().map_or_else(usual, |Spans(all)| all.clone());
    if timeouts.is_empty() || timeouts.iter().any(|Span(ns)| *ns < 1_000_000) {
        return Err(bad("--timeouts", "at least 1ms is needed"));
    }
    if timeouts.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err(bad("--timeouts", "timeouts must ascend, such as 2s,5s"));
    }
    let Span(wait_ns) = args.experiment.recovery_wait.unwrap_or(Span(30_000_000_000));
    if wait_ns < 100_000_000 {
        return Err(bad("--recovery-wait", "a recovery is watched for at least 100ms"));
    }
    let role = |role: &str| Cell { role: role.to_owned(), ..Cell::default() };
    let mut rungs = vec![(1, Cell { num_prompts: Some(BASELINE_REQUESTS), ..role(BASELINE) })];
    for Span(ns) in timeouts {
        let timed = |name: &str| Cell { request_timeout_ns: Some(ns), ..role(name) };
        rungs.extend(plan.concurrency.iter().map(|&streams| (streams, timed(OVERLOAD))));
        rungs.push((1, Cell { duration_ns: Some(wait_ns), ..timed(RECOVERY) }));
    }
    Ok(rungs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::axis::Load;
    use crate::config::Config;

    fn args(name: &str, change: impl FnOnce(&mut SweepArgs)) -> SweepArgs {
        let mut args =
            SweepArgs { url: Some("h:1".to_owned()), model: Some("m".to_owned()), ..SweepArgs::default() };
        args.experiment.experiment = Some(name.to_owned());
        change(&mut args);
        args
    }

    fn of(name: &str, change: impl FnOnce(&mut SweepArgs)) -> Plan {
        Config::from_args(args(name, change), None).unwrap().plan
    }

    fn refused(name: &str, change: impl FnOnce(&mut SweepArgs)) -> String {
        Config::from_args(args(name, change), None).unwrap_err().to_string()
    }

    #[test]
    fn the_documents_defaults_are_ours() {
        let baseline = of("baseline", |_| {});
        assert_eq!(
            (baseline.num_prompts, baseline.output_len, baseline.temperature),
            (Some(12), 96, Some(0.2))
        );
        assert_eq!(baseline.levels(), [Load::Streams(1)]);
        let sweep = of("sweep", |_| {});
        assert_eq!(
            sweep,
            Config::from_args(
                SweepArgs { experiment: ExperimentArgs::default(), ..args("sweep", |_| {}) },
                None
            )
            .unwrap()
            .plan
        );
        assert_eq!(
            (sweep.concurrency.as_slice(), sweep.num_prompts),
            ([1, 2, 4, 8, 16].as_slice(), Some(80))
        );
        let grid = of("grid", |_| {});
        let cells: Vec<_> =
            grid.cells.iter().map(|c| (c.prompt_chars.unwrap(), c.output_len.unwrap())).collect();
        assert_eq!((cells.len(), cells[0], cells[5], cells[11]), (12, (200, 32), (800, 64), (2_000, 256)));
        assert_eq!((grid.levels().len(), grid.num_prompts), (12, Some(6)));
        let overload = of("overload", |_| {});
        let roles: Vec<&str> = overload.cells.iter().map(|cell| cell.role.as_str()).collect();
        assert_eq!(roles, ["baseline", "overload", "overload", "overload", "overload", "recovery"]);
        assert_eq!(overload.concurrency, [1, 4, 8, 16, 32, 1]);
        assert_eq!((overload.stop_of(0), overload.stop_of(1)), ((Some(12), None), (Some(60), None)));
        assert_eq!(overload.stop_of(5), (None, Some(30_000_000_000)));
        assert_eq!(overload.cells[1].request_timeout_ns, Some(5_000_000_000));
    }

    #[test]
    fn each_timeout_has_its_rungs_and_its_recovery() {
        let plan = of("overload", |a| {
            a.experiment.timeouts = Some("2s,5s".parse().unwrap());
            a.concurrency = Some(Levels(vec![4, 8]));
        });
        assert_eq!(plan.concurrency, [1, 4, 8, 1, 4, 8, 1]);
        let seconds = |cell: &Cell| cell.request_timeout_ns.map(|ns| ns / 1_000_000_000);
        assert_eq!(plan.cells.iter().map(seconds).collect::<Vec<_>>()[1..], [2, 2, 2, 5, 5, 5].map(Some));
    }

    #[test]
    fn flags_of_another_experiment_are_told() {
        let chars = |a: &mut SweepArgs| a.experiment.prompt_chars = Some(Levels(vec![1]));
        assert!(refused("sweep", chars).contains("of --experiment grid"));
        assert!(refused("overload", chars).contains("of --experiment grid"));
        assert!(refused("nothing", |_| {}).contains("try sweep, baseline, grid, overload"));
        assert!(refused("grid", |a| a.input_len = Some(9)).contains("--prompt-chars"));
        assert!(refused("grid", |a| a.output_len = Some(9)).contains("--max-tokens"));
        assert!(refused("grid", |a| a.experiment.max_tokens = Some(Levels(vec![9, 9]))).contains("ascend"));
        assert!(refused("grid", |a| a.experiment.max_tokens = Some(Levels(vec![0]))).contains("between 1"));
        assert!(refused("baseline", |a| a.concurrency = Some(Levels(vec![2]))).contains("sequential"));
        assert!(refused("baseline", |a| a.request_rate = Some("2".parse().unwrap())).contains("closed loop"));
        assert!(
            refused("overload", |a| a.experiment.timeouts = Some("5s,2s".parse().unwrap()))
                .contains("ascend")
        );
        assert!(refused("overload", |a| a.num_prompts = Some(9)).contains("cannot keep 32 streams busy"));
        assert!(refused("overload", |a| a.duration = Some(Span(1_000_000_000))).contains("--num-prompts"));
    }

    #[test]
    fn a_plan_file_takes_an_experiment_with_the_flags_names() {
        let yaml = "experiment: overload\ntimeouts: [2s, 5]\nrecovery-wait: 3s\nconcurrency: 4,8\n";
        let read: SweepArgs = serde_norway::from_str(yaml).unwrap();
        let again: SweepArgs = serde_norway::from_str(&serde_norway::to_string(&read).unwrap()).unwrap();
        assert_eq!(again.experiment.timeouts, Some(Spans(vec![Span(2_000_000_000), Span(5_000_000_000)])));
        assert_eq!(again.experiment.recovery_wait, Some(Span(3_000_000_000)));
        assert!(serde_norway::from_str::<SweepArgs>("experimnt: grid").is_err());
        assert!(serde_norway::from_str::<SweepArgs>("timeouts: soon").is_err());
    }
}
