//! The flags of open loop, ramps and retries: which go together, and what each may be.

use crate::args::SweepArgs;
use crate::axis::Rate;
use crate::plan::Plan;

use super::{ConfigError, MAX_LEVELS, MAX_STREAMS, bad};

/// Fastest arrivals that may be asked for, requests per second.
const MAX_RATE_PER_S: f64 = 1e6;
/// Shapes of gamma gaps: outside of these nearly all gaps are 0, or all the same.
const SHAPES: std::ops::RangeInclusive<f64> = 0.01..=10_000.0;
/// Beyond this a retry hides a server that is down.
const MAX_RETRIES: u32 = 20;

/// The law of arrivals, from the flags that name it and the shape.
pub(super) fn pattern(args: &SweepArgs) -> Result<String, ConfigError> {
    if args.request_rate.is_none() {
        return without_rate(args);
    }
    if args.concurrency.is_some() {
        let reason = "a level is of streams (--concurrency, closed loop) or of arrivals (--request-rate, open loop): \
                      give one; --max-concurrency bounds what an open loop has in flight";
        return Err(bad("--request-rate", reason));
    }
    let shaped = args.burstiness.is_some_and(|shape| shape != 1.0);
    match args.arrival_pattern.as_deref() {
        None if shaped => Ok("gamma".to_owned()),
        None => Ok("poisson".to_owned()),
        Some(law @ ("constant" | "poisson")) if shaped => {
            Err(bad("--burstiness", format!("{law} arrivals have none: use --arrival-pattern gamma")))
        }
        Some(law @ ("constant" | "poisson" | "gamma")) => Ok(law.to_owned()),
        Some(other) => Err(bad("--arrival-pattern", format!("{other:?}: try constant, poisson or gamma"))),
    }
}

/// Closed loop: flags that say nothing of it were meant for another plan.
fn without_rate(args: &SweepArgs) -> Result<String, ConfigError> {
    let given = [
        ("--arrival-pattern", args.arrival_pattern.is_some()),
        ("--burstiness", args.burstiness.is_some()),
        ("--max-concurrency", args.max_concurrency.is_some()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(bad(flag, "it is of open loop: give a --request-rate too")),
        None => Ok(String::new()),
    }
}

/// Checks what a plan says of open loop, ramps and retries.
pub(super) fn check(plan: &Plan) -> Result<(), ConfigError> {
    check_rates(&plan.request_rate)?;
    if plan.num_prompts.is_none() && plan.request_rate.iter().any(|rate| rate.0.is_infinite()) {
        return Err(bad("--request-rate", "inf sends all requests at once: say how many with --num-prompts"));
    }
    if let Some(shape) = plan.burstiness.filter(|shape| !SHAPES.contains(shape)) {
        let reason = format!("{shape} is not between {} and {}: 1 is Poisson", SHAPES.start(), SHAPES.end());
        return Err(bad("--burstiness", reason));
    }
    if plan.max_concurrency.is_some_and(|bound| !(1..=MAX_STREAMS).contains(&bound)) {
        return Err(bad("--max-concurrency", format!("a bound lies between 1 and {MAX_STREAMS}")));
    }
    if plan.ramp_ns > plan.warmup_ns {
        let (ramp_s, warmup_s) = (plan.ramp_ns as f64 / 1e9, plan.warmup_ns as f64 / 1e9);
        let reason = format!(
            "a ramp of {ramp_s} s does not fit into a warm-up of {warmup_s} s: figures of a load that still rises are \
             of no level; leave --warmup out, or make it {ramp_s}s or longer"
        );
        return Err(bad("--ramp", reason));
    }
    if plan.retries > MAX_RETRIES {
        return Err(bad("--retries", format!("{} are more than {MAX_RETRIES}", plan.retries)));
    }
    Ok(())
}

fn check_rates(rates: &[Rate]) -> Result<(), ConfigError> {
    if rates.len() > MAX_LEVELS {
        return Err(bad("--request-rate", format!("give 1 to {MAX_LEVELS} levels, such as 1,2,4,inf")));
    }
    if let Some(rate) = rates.iter().find(|rate| rate.0.is_finite() && rate.0 > MAX_RATE_PER_S) {
        return Err(bad("--request-rate", format!("{rate} req/s are more than {MAX_RATE_PER_S}")));
    }
    if let Some(pair) = rates.windows(2).find(|pair| pair[0] >= pair[1]) {
        let mut sorted = rates.to_vec();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        sorted.dedup();
        let sorted = sorted.iter().map(Rate::to_string).collect::<Vec<_>>().join(",");
        let reason = format!("levels must ascend, but {} comes after {}: try {sorted}", pair[1], pair[0]);
        return Err(bad("--request-rate", reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Levels, Rates, Span};
    use crate::config::Config;

    fn args(change: impl FnOnce(&mut SweepArgs)) -> SweepArgs {
        let mut args = SweepArgs {
            url: Some("h:1".to_owned()),
            model: Some("m".to_owned()),
            request_rate: Some("1,2.5".parse::<Rates>().unwrap()),
            ..SweepArgs::default()
        };
        change(&mut args);
        args
    }

    fn plan(change: impl FnOnce(&mut SweepArgs)) -> Plan {
        Config::from_args(args(change), None).unwrap().plan
    }

    fn refused(change: impl FnOnce(&mut SweepArgs)) -> String {
        Config::from_args(args(change), None).unwrap_err().to_string()
    }

    #[test]
    fn an_open_loop_is_poisson_unless_told_otherwise() {
        let usual = plan(|_| {});
        assert_eq!((usual.concurrency.len(), usual.request_rate.len()), (0, 2));
        assert_eq!((usual.arrival_pattern.as_str(), usual.num_prompts), ("poisson", Some(80)));
        assert_eq!(plan(|a| a.burstiness = Some(1.0)).arrival_pattern, "poisson");
        assert_eq!(plan(|a| a.burstiness = Some(0.5)).arrival_pattern, "gamma");
        assert_eq!(plan(|a| a.arrival_pattern = Some("constant".to_owned())).arrival_pattern, "constant");
        assert_eq!((usual.retries, usual.ramp_ns), (0, 0));
    }

    #[test]
    fn a_ramp_asks_for_its_warmup() {
        let ramped = plan(|a| a.ramp = Some(Span(5)));
        assert_eq!((ramped.ramp_ns, ramped.warmup_ns), (5, 5));
        assert_eq!(plan(|a| (a.ramp, a.warmup) = (Some(Span(5)), Some(Span(9)))).warmup_ns, 9);
        assert!(
            refused(|a| (a.ramp, a.warmup) = (Some(Span(5)), Some(Span(4)))).contains("leave --warmup out")
        );
    }

    #[test]
    fn flags_that_do_not_go_together_are_told() {
        assert!(refused(|a| a.concurrency = Some(Levels(vec![1]))).contains("--max-concurrency bounds"));
        assert!(refused(|a| a.request_rate = Some("4,2".parse().unwrap())).contains("try 2,4"));
        let inf = |a: &mut SweepArgs| a.request_rate = Some("1,inf".parse().unwrap());
        assert!(plan(inf).levels()[1].is_at_once());
        assert!(refused(|a| (inf(a), a.duration = Some(Span(1_000_000_000))).0).contains("--num-prompts"));
        assert!(refused(|a| a.burstiness = Some(0.0)).contains("--burstiness"));
        assert!(refused(|a| a.max_concurrency = Some(0)).contains("--max-concurrency"));
        assert!(refused(|a| a.retries = Some(21)).contains("--retries"));
        let constant = |a: &mut SweepArgs| a.arrival_pattern = Some("constant".to_owned());
        assert!(refused(|a| (constant(a), a.burstiness = Some(2.0)).0).contains("gamma"));
        let closed = refused(|a| (a.request_rate, a.max_concurrency) = (None, Some(3)));
        assert!(closed.contains("give a --request-rate"), "{closed}");
    }

    #[test]
    fn one_kind_of_load_on_the_command_line_replaces_the_files() {
        let file = args(|a| a.burstiness = Some(0.5));
        let flags = SweepArgs { concurrency: Some(Levels(vec![3])), ..SweepArgs::default() };
        let plan = Config::from_args(flags.over(file), None).unwrap().plan;
        assert_eq!((plan.concurrency, plan.request_rate.len(), plan.burstiness), (vec![3], 0, None));
        let closed = SweepArgs { concurrency: Some(Levels(vec![3])), request_rate: None, ..args(|_| {}) };
        let plan = Config::from_args(args(|_| {}).over(closed), None).unwrap().plan;
        assert_eq!((plan.concurrency.len(), plan.request_rate.len()), (0, 2));
    }

    #[test]
    fn a_plan_file_takes_rates_as_numbers_and_words() {
        for yaml in ["request-rate: [1, 2.5, inf]", "request-rate: 1,2.5,inf", "request-rate: [1, 2.5, .inf]"]
        {
            let read: SweepArgs = serde_norway::from_str(yaml).unwrap();
            let Rates(rates) = read.request_rate.unwrap();
            assert_eq!(rates.iter().map(|r| r.0).collect::<Vec<_>>(), [1.0, 2.5, f64::INFINITY], "{yaml}");
        }
        assert!(serde_norway::from_str::<SweepArgs>("request-rate: fast").is_err());
    }
}
