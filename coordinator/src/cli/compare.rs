//! `tailcliff compare` and `tailcliff slo`: stored runs judged again; they stay as they are.

use std::path::Path;

use serde_json::{Value, json};

use super::{EXIT_OK, EXIT_OUTPUT, EXIT_USAGE, EXIT_WORSE, fail, print};
use crate::args::compare::{CompareArgs, JudgeArgs};
use crate::compare::{self, Comparison, Side, Verdict};
use crate::display::terminal_width;
use crate::load;
use crate::merge::{Merged, merge};
use crate::plan::SloPlan;
use crate::report::environment;
use crate::slo;
use crate::stored::RunData;

/// Why it came to nothing: the words, and the exit code.
type Refusal = (String, i32);

/// Compares two runs.
pub(super) fn main(args: &CompareArgs) -> i32 {
    done(compared(args))
}

/// Judges one run by an SLO.
pub(super) fn judge(args: &JudgeArgs) -> i32 {
    done(judged(args))
}

fn done(result: Result<i32, Refusal>) -> i32 {
    result.unwrap_or_else(|(words, code)| fail(&words, code))
}

fn compared(args: &CompareArgs) -> Result<i32, Refusal> {
    let rule = args.rule().map_err(usage)?;
    let [a, b] = [&args.a, &args.b].map(|dir| side(dir, args));
    let (a, b) = (a?, b?);
    if let Some(gate) = rule.gates.iter().find(|gate| ["goodput", "slo_share"].contains(&gate.as_str()))
        && a.plan.slo.as_ref().or(b.plan.slo.as_ref()).is_none()
    {
        return Err(usage(format!("{gate} needs an SLO: give --goodput, such as ttft:500 tpot:50")));
    }
    let fit = compare::fit(&a, &b);
    if !args.force && !fit.refusals.is_empty() {
        let why = fit.refusals.join("; ");
        return Err(usage(format!("these runs do not compare: {why}. Run both alike, or give --force")));
    }
    let of = compare::compare(&a, &b, &rule);
    if let Some(path) = &args.html {
        std::fs::write(path, compare::html(&of))
            .map_err(|error| (format!("failed to write {}: {error}", path.display()), EXIT_OUTPUT))?;
    }
    print(told(&of, args).trim_end());
    match of.verdict {
        Verdict::Worse => Ok(EXIT_WORSE),
        Verdict::Better | Verdict::Same => Ok(EXIT_OK),
        // A gate that saw nothing must not let everything pass.
        Verdict::Unknown if !of.owed.is_empty() => {
            let why = of.owed.join("; ");
            Err(usage(format!(
                "B cannot pass: {why}. See why it did not come through, and drive those loads again"
            )))
        }
        Verdict::Unknown => Err(usage(
            "nothing that decides could be judged: drive the same loads longer, or choose another --metric"
                .to_owned(),
        )),
    }
}

fn told(of: &Comparison, args: &CompareArgs) -> String {
    match (args.json, args.markdown) {
        (true, _) => pretty(&compare::json(of)),
        (_, true) => compare::markdown(of),
        _ => compare::render(of, args.all, terminal_width()),
    }
}

fn usage(words: String) -> Refusal {
    (words, EXIT_USAGE)
}

fn side(dir: &Path, args: &CompareArgs) -> Result<Side, Refusal> {
    let (data, merged) = read(dir, |data| {
        slo::plan_of(&args.slo, data.header.plan.streaming).map_err(|error| usage(error.to_string()))
    })?;
    Ok(Side::of(&merged, environment::environment(&data)))
}

/// A run, by another SLO if there is one.
fn read(
    dir: &Path,
    slo: impl FnOnce(&RunData) -> Result<Option<SloPlan>, Refusal>,
) -> Result<(RunData, Merged), Refusal> {
    let unreadable = |words: String| (format!("{}: {words}", dir.display()), EXIT_OUTPUT);
    let mut data = load::open(dir).map_err(|error| unreadable(error.to_string()))?;
    if let Some(slo) = slo(&data)? {
        data.header.plan.slo = Some(slo);
    }
    let merged = merge(&data);
    match data.trouble() {
        Some(error) => Err(unreadable(format!("failed to read the journal again: {error}"))),
        None => Ok((data, merged)),
    }
}

fn judged(args: &JudgeArgs) -> Result<i32, Refusal> {
    let (_, merged) = read(&args.run_dir, |data| {
        let of_flags =
            slo::plan_of(&args.slo, data.header.plan.streaming).map_err(|error| usage(error.to_string()))?;
        match of_flags.or_else(|| data.header.plan.slo.clone()) {
            None => Err(usage(
                "this run has no SLO of its own: give --goodput, such as ttft:500 tpot:50".to_owned(),
            )),
            slo => Ok(slo),
        }
    })?;
    let text = if args.json {
        let levels: Vec<Value> = merged.levels.iter().map(slo::report::judged_level).collect();
        pretty(&json!({ "slo": slo::report::summary(merged.slo.as_ref()), "levels": levels }))
    } else {
        slo::report::table(&merged, terminal_width())
    };
    print(text.trim_end());
    Ok(EXIT_OK)
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
