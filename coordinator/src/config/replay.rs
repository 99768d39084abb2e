//! The replay of a dataset's own times: from its speeds to the levels of an open loop.

use tailcliff_proto::v1;

use crate::args::SweepArgs;
use crate::axis::Rate;
use crate::plan::Plan;

use super::{ConfigError, bad, open};

/// Speeds that make sense.
const SPEEDS: std::ops::RangeInclusive<f64> = 1e-3..=1e4;
/// A dataset whose entries all come at once has no span to take a mean rate over.
const SHORTEST_SPAN_NS: i64 = 1_000_000;

/// Makes a replay of the plan if one is asked for, or if the dataset has times and nothing else says when to send.
pub(super) fn plan(
    args: &SweepArgs,
    plan: &mut Plan,
    workload: &mut v1::Workload,
) -> Result<(), ConfigError> {
    let file = plan.file().filter(|file| file.has_times);
    let is_free = args.concurrency.is_none() && args.request_rate.is_none();
    let speeds = match (&args.replay_speed, file) {
        (Some(_), None) => return Err(bad("--replay-speed", "there is no dataset with times of its own")),
        (Some(_), Some(_)) if !is_free => {
            let reason =
                "a dataset's own times exclude --concurrency and --request-rate: give one of the three";
            return Err(bad("--replay-speed", reason));
        }
        (Some(speeds), Some(_)) => speeds.0.iter().map(|speed| speed.0).collect(),
        (None, Some(_)) if is_free => vec![1.0],
        _ => return Ok(()),
    };
    if let Some(odd) = speeds.iter().find(|speed| !SPEEDS.contains(speed)) {
        let reason = format!("{odd} is not between {} and {}", SPEEDS.start(), SPEEDS.end());
        return Err(bad("--replay-speed", reason));
    }
    let (entries, span_ns) = file.map_or((0, 0), |file| (file.entries, file.span_ns.unwrap_or(0)));
    let mean_per_s = entries as f64 / (span_ns.max(SHORTEST_SPAN_NS) as f64 / 1e9);
    plan.concurrency.clear();
    plan.request_rate = speeds.iter().map(|speed| Rate(rounded(mean_per_s * speed))).collect();
    plan.replay_speed = speeds;
    plan.arrival_pattern = "listed".to_owned();
    if args.num_prompts.is_none() && args.duration.is_none() {
        plan.num_prompts = Some(entries);
    }
    // Each request goes out at its own entry's time.
    if let Some(pick) = &mut workload.pick {
        pick.sequential = true;
    }
    if let Some(file) = plan.dataset.as_mut().and_then(|dataset| dataset.file.as_mut()) {
        file.order = "sequential".to_owned();
    }
    open::check(plan)
}

/// To four digits: a name for the level, where the list itself says when.
fn rounded(rate: f64) -> f64 {
    let unit = 10f64.powf(rate.log10().floor() - 3.0);
    ((rate / unit).round() * unit * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Rates;
    use crate::config::Config;

    fn args(dir: &std::path::Path, change: impl FnOnce(&mut SweepArgs)) -> SweepArgs {
        let path = dir.join("trace.jsonl");
        let line = |ms: u64| {
            format!("{{\"timestamp\":{ms},\"input_length\":20,\"output_length\":4,\"hash_ids\":[1]}}\n")
        };
        std::fs::write(&path, [0, 500, 3_000, 10_000].map(line).concat()).unwrap();
        let mut args = SweepArgs {
            url: Some("h:1".to_owned()),
            model: Some("m".to_owned()),
            dataset_name: Some("mooncake".to_owned()),
            dataset_path: Some(path),
            ..SweepArgs::default()
        };
        change(&mut args);
        args
    }

    #[test]
    fn a_trace_is_replayed_unless_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::from_args(args(dir.path(), |_| {}), None).unwrap();
        let plan = &config.plan;
        assert_eq!((plan.replay_speed.as_slice(), plan.num_prompts), (&[1.0][..], Some(4)));
        assert_eq!((plan.request_rate[0].0, plan.concurrency.len()), (0.4, 0));
        assert!(config.workload.pick.unwrap().sequential);
        let faster = |a: &mut SweepArgs| a.replay_speed = Some("1,2.5".parse::<Rates>().unwrap());
        let plan = Config::from_args(args(dir.path(), faster), None).unwrap().plan;
        assert_eq!(plan.request_rate.iter().map(|rate| rate.0).collect::<Vec<_>>(), [0.4, 1.0]);
        let paced = |a: &mut SweepArgs| a.request_rate = Some("3".parse::<Rates>().unwrap());
        let plan = Config::from_args(args(dir.path(), paced), None).unwrap().plan;
        assert!(plan.replay_speed.is_empty());
    }

    #[test]
    fn what_cannot_be_replayed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |change: &dyn Fn(&mut SweepArgs)| {
            Config::from_args(args(dir.path(), |a| change(a)), None).unwrap_err().to_string()
        };
        let speed = |a: &mut SweepArgs, text: &str| a.replay_speed = Some(text.parse::<Rates>().unwrap());
        let both = refused(&|a| {
            speed(a, "1");
            a.request_rate = Some("3".parse::<Rates>().unwrap());
        });
        assert!(both.contains("one of the three"), "{both}");
        assert!(refused(&|a| speed(a, "inf")).contains("not between"));
        let none = refused(&|a| {
            speed(a, "1");
            (a.dataset_name, a.dataset_path) = (None, None);
        });
        assert!(none.contains("no dataset with times"), "{none}");
    }
}
