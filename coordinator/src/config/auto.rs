//! `--concurrency auto` and `--request-rate auto`: a search instead of a list of levels.

use crate::args::{Levels, Rates, Span, SweepArgs};
use crate::plan::{AutoPlan, Plan};

use super::{ConfigError, MAX_STREAMS, bad};

/// Highest load unless told otherwise: more streams than most servers hold, fewer than most hosts do.
const TO_STREAMS: f64 = 512.0;
/// The same in requests per second.
const TO_RATE: f64 = 1_024.0;
/// Width of the intervals, as a share of where knee and cliff are.
const RESOLUTION: f64 = 0.1;
/// Time for all levels, ns.
const BUDGET_NS: i64 = 1_200_000_000_000;

/// The search that was asked for, if one was.
pub(super) fn plan(args: &SweepArgs) -> Result<Option<AutoPlan>, ConfigError> {
    let closed = args.concurrency.as_ref().is_some_and(Levels::is_auto);
    let open = args.request_rate.as_ref().is_some_and(Rates::is_auto);
    if !closed && !open {
        return unused(args).map(|()| None);
    }
    if closed && args.request_rate.is_some() || open && args.concurrency.is_some() {
        return Err(bad(
            "--concurrency",
            "a search goes along one axis: give --concurrency or --request-rate",
        ));
    }
    if args.num_prompts.is_some() {
        let reason = "a search decides how long its levels are, by time: leave it out, or give --duration";
        return Err(bad("--num-prompts", reason));
    }
    let auto = AutoPlan {
        open,
        from: args.search_from.unwrap_or(1.0),
        to: args.search_to.unwrap_or(if open { TO_RATE } else { TO_STREAMS }),
        resolution: args.resolution.unwrap_or(RESOLUTION),
        budget_ns: args.budget.map_or(BUDGET_NS, |Span(ns)| ns),
    };
    check(&auto).map(|()| Some(auto))
}

fn unused(args: &SweepArgs) -> Result<(), ConfigError> {
    let given = [
        ("--search-from", args.search_from.is_some()),
        ("--search-to", args.search_to.is_some()),
        ("--resolution", args.resolution.is_some()),
        ("--budget", args.budget.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => {
            Err(bad(flag, "only a search has it: give --concurrency auto or --request-rate auto"))
        }
        None => Ok(()),
    }
}

fn check(auto: &AutoPlan) -> Result<(), ConfigError> {
    let whole = |x: f64| auto.open || x >= 1.0 && x.fract() == 0.0;
    if !(auto.from >= 0.001 && auto.from.is_finite() && whole(auto.from)) {
        return Err(bad(
            "--search-from",
            "a search begins at 1 stream or more, or at a rate of 0.001 or more",
        ));
    }
    let most = if auto.open { 1e6 } else { f64::from(MAX_STREAMS) };
    if !(auto.to >= 4.0 * auto.from && auto.to <= most && whole(auto.to)) {
        let reason = format!("a search ends at 4 times its beginning at least, and at {most} at most");
        return Err(bad("--search-to", reason));
    }
    if !(0.01..=0.5).contains(&auto.resolution) {
        return Err(bad("--resolution", "a share of the knee between 0.01 and 0.5, such as 0.1"));
    }
    if auto.budget_ns < 10_000_000_000 {
        return Err(bad("--budget", "a search of less than 10s finds nothing: try 20m"));
    }
    Ok(())
}

/// The highest load that the plan may ask for, in streams; 0 in open loop.
pub(crate) fn most_streams(plan: &Plan) -> u32 {
    let searched = plan.auto.as_ref().filter(|auto| !auto.open).map_or(0, |auto| auto.to as u32);
    plan.concurrency.iter().max().copied().unwrap_or(searched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, tests};

    fn args() -> SweepArgs {
        SweepArgs { concurrency: Some("auto".parse().unwrap()), ..tests::args() }
    }

    fn refused(change: impl FnOnce(&mut SweepArgs)) -> String {
        tests::refused(|typed| {
            *typed = args();
            change(typed);
        })
    }

    #[test]
    fn a_search_has_ends_a_resolution_and_a_budget_and_no_levels_of_its_own() {
        let plan = Config::from_args(args(), None).unwrap().plan;
        let auto = plan.auto.clone().unwrap();
        assert_eq!((auto.open, auto.from, auto.to, auto.resolution), (false, 1.0, 512.0, 0.1));
        assert!(plan.levels().is_empty() && plan.num_prompts.is_none() && plan.duration_ns.is_none());
        assert_eq!(most_streams(&plan), 512);
        let open = SweepArgs { concurrency: None, request_rate: Some("auto".parse().unwrap()), ..args() };
        let plan = Config::from_args(open, None).unwrap().plan;
        assert!(plan.auto.as_ref().unwrap().open);
        assert_eq!((most_streams(&plan), plan.arrival_pattern.as_str()), (0, "poisson"));
    }

    #[test]
    fn what_makes_no_sense_in_a_search_is_refused_with_what_to_try() {
        assert!(refused(|a| a.num_prompts = Some(80)).contains("--duration"));
        assert!(refused(|a| a.search_to = Some(2.0)).starts_with("bad --search-to"));
        assert!(refused(|a| a.search_from = Some(1.5)).starts_with("bad --search-from"));
        assert!(refused(|a| a.resolution = Some(f64::NAN)).starts_with("bad --resolution"));
        assert!(refused(|a| a.budget = Some(Span(1))).starts_with("bad --budget"));
        let listed = refused(|a| (a.concurrency, a.budget) = (Some(Levels(vec![1])), Some(Span(1))));
        assert!(listed.contains("--concurrency auto"), "{listed}");
    }

    #[test]
    fn a_plan_file_says_auto_as_the_flag_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.yaml");
        std::fs::write(&path, "url: host:1\nmodel: m\nconcurrency: auto\nsearch-to: 64\nbudget: 5m\n")
            .unwrap();
        let flags = SweepArgs { plan: Some(path), ..SweepArgs::default() };
        let auto = Config::from_args(flags, None).unwrap().plan.auto.unwrap();
        assert_eq!((auto.to, auto.budget_ns), (64.0, 300_000_000_000));
        let written = serde_norway::to_string(&SweepArgs { search_to: Some(64.0), ..args() }).unwrap();
        let read: SweepArgs = serde_norway::from_str(&written).unwrap();
        assert!(read.concurrency.unwrap().is_auto(), "{written}");
    }
}
