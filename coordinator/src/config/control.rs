//! Deliberate faults of the client: what each may be.

use tailcliff_proto::controls::MAX_CONTROL_NS;

use crate::plan::{ControlPlan, Plan};

use super::{ConfigError, bad};

/// Checks what a plan says of controls.
pub(super) fn check(plan: &Plan) -> Result<(), ConfigError> {
    let Some(control) = &plan.control else { return Ok(()) };
    if control.pause_ns.is_none() && control.block_ns.is_none() {
        return Err(bad("--control-every", "it says which requests --control-pause pauses: give that too"));
    }
    control.pause_ns.map_or(Ok(()), |ns| check_pause(plan, control, ns))?;
    control.block_ns.map_or(Ok(()), |ns| check_block(plan, ns))
}

fn check_pause(plan: &Plan, control: &ControlPlan, ns: i64) -> Result<(), ConfigError> {
    let flag = "--control-pause";
    check_length(flag, ns, "724ms")?;
    if control.every == 0 {
        return Err(bad("--control-every", "one request in none cannot be: 1 pauses each, 20 one in twenty"));
    }
    if plan.http_version != "1.1" {
        let reason = "over HTTP/2 a connection is read whether a request looks at its reply or not: use --http-version 1.1";
        return Err(bad(flag, reason));
    }
    let patience = [
        ("--request-timeout", plan.request_timeout_ns),
        ("--read-timeout", plan.read_timeout_ns.unwrap_or(plan.request_timeout_ns)),
    ];
    match patience.into_iter().find(|(_, limit)| *limit <= ns) {
        Some((limit, _)) => {
            Err(bad(flag, format!("a pause as long as the {limit} makes each such request fail")))
        }
        None => Ok(()),
    }
}

fn check_block(plan: &Plan, ns: i64) -> Result<(), ConfigError> {
    let flag = "--control-block";
    check_length(flag, ns, "500ms")?;
    match plan.duration_ns {
        None => Err(bad(
            flag,
            "the middle of a level by --num-prompts is not known beforehand: give a --duration",
        )),
        Some(window) if window / 2 < ns => Err(bad(
            flag,
            "it begins in the middle of the window and must end within: give a --duration twice as long",
        )),
        Some(_) => Ok(()),
    }
}

fn check_length(flag: &'static str, ns: i64, such_as: &str) -> Result<(), ConfigError> {
    if !(1..=MAX_CONTROL_NS).contains(&ns) {
        let most = MAX_CONTROL_NS / 1_000_000_000;
        return Err(bad(flag, format!("it lies above 0 and is at most {most}s, such as {such_as}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::{Cli, Command, SweepArgs};
    use crate::config::Config;
    use crate::plan::ControlPlan;

    fn plan(typed: &str) -> Result<Option<ControlPlan>, String> {
        let always = ["tailcliff", "run", "--url", "127.0.0.1:1", "--model", "m"];
        let cli = Cli::try_parse_from(always.into_iter().chain(typed.split_whitespace()));
        let Command::Run(run) = cli.map_err(|e| e.to_string())?.command else { unreachable!() };
        Config::from_args(run.sweep, None).map(|config| config.plan.control).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_say_what_the_client_does_to_itself() {
        assert_eq!(plan(""), Ok(None));
        let pause = ControlPlan { pause_ns: Some(724_000_000), every: 20, block_ns: None };
        assert_eq!(plan("--control-pause"), Ok(Some(pause.clone())));
        assert_eq!(plan("--control-pause --duration 5s"), Ok(Some(pause.clone())));
        let other = ControlPlan { pause_ns: Some(60_000_000_000), every: 3, ..pause };
        assert_eq!(plan("--control-pause 1m --control-every 3 --request-timeout 2m"), Ok(Some(other)));
        let block = ControlPlan { pause_ns: None, every: 20, block_ns: Some(500_000_000) };
        assert_eq!(plan("--control-block --duration 1s"), Ok(Some(block)));
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_try() {
        for (typed, flag, says) in [
            ("--control-pause 0", "--control-pause", "above 0"),
            ("--control-pause 61s --request-timeout 5m", "--control-pause", "at most 60s"),
            ("--control-pause 2s --request-timeout 2s", "--control-pause", "--request-timeout"),
            ("--control-pause 2s --read-timeout 1s", "--control-pause", "--read-timeout"),
            ("--control-pause --http-version 2", "--control-pause", "--http-version 1.1"),
            ("--control-pause --control-every 0", "--control-every", "20"),
            ("--control-every 5", "--control-every", "--control-pause"),
            ("--control-block", "--control-block", "--duration"),
            ("--control-block 3s --duration 5s", "--control-block", "twice"),
            ("--control-block 2m --duration 1h", "--control-block", "60s"),
        ] {
            let error = plan(typed).unwrap_err();
            assert!(error.starts_with(&format!("bad {flag}:")) && error.contains(says), "{typed}: {error}");
        }
    }

    #[test]
    fn a_plan_file_has_the_same_names_and_is_written_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.yaml");
        let text = "url: host:1\nmodel: m\ncontrol-pause: 0.5\ncontrol-every: 7\n";
        std::fs::write(&path, text).unwrap();
        let flags = SweepArgs { plan: Some(path.clone()), ..SweepArgs::default() };
        let expected = ControlPlan { pause_ns: Some(500_000_000), every: 7, block_ns: None };
        assert_eq!(Config::from_args(flags.clone(), None).unwrap().plan.control, Some(expected));
        let read: SweepArgs = serde_norway::from_str(text).unwrap();
        let written = serde_norway::to_string(&read).unwrap();
        assert!(
            written.contains("\ncontrol-pause: 500ms\n") && written.contains("\ncontrol-every: 7\n"),
            "{written}"
        );
        std::fs::write(&path, "url: host:1\nmodel: m\ncontrol-puase: 1\n").unwrap();
        let error = Config::from_args(flags, None).unwrap_err().to_string();
        assert!(error.contains("control-puase"), "{error}");
    }

    #[test]
    fn a_journal_without_controls_says_nothing_of_them_and_one_of_before_is_read() {
        let mut plan = crate::plan::Plan::default();
        assert!(!serde_json::to_string(&plan).unwrap().contains("control"));
        plan.control = Some(ControlPlan { pause_ns: Some(1), every: 2, block_ns: None });
        let stored = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<crate::plan::Plan>(&stored).unwrap(), plan);
    }
}
