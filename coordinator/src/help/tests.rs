use super::*;

fn lines(text: &str) -> (usize, usize) {
    (text.lines().count(), text.lines().map(|line| line.chars().count()).max().unwrap_or(0))
}

fn of(name: &str) -> clap::Command {
    command().find_subcommand(name).unwrap().clone().term_width(80)
}

/// Clap finds flags of one name twice only when it is asked to, or in a debug build when the command is used.
#[test]
fn no_command_has_two_flags_of_one_name() {
    command().debug_assert();
}

#[test]
fn the_whole_fits_a_screen_with_examples_and_names_every_command() {
    let help = command().term_width(80).render_help().to_string();
    let (rows, columns) = lines(&help);
    assert!(rows <= 23 && columns <= 80, "{rows} × {columns}:\n{help}");
    let listed: Vec<&str> = help
        .lines()
        .filter_map(|line| line.split_once(": "))
        .flat_map(|(_, names)| names.split_whitespace())
        .collect();
    for command in command().get_subcommands().filter(|command| !command.is_hide_set()) {
        assert!(listed.contains(&command.get_name()), "{} in\n{help}", command.get_name());
    }
    assert!(!listed.contains(&"stub"), "{help}");
    // Nothing is promised that is not there.
    for line in help.lines().filter_map(|line| line.trim().strip_prefix("tailcliff ")) {
        let typed: Vec<&str> = line.split("  ").next().unwrap().split_whitespace().collect();
        let parsed = command().try_get_matches_from(std::iter::once("tailcliff").chain(typed));
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
}

#[test]
fn short_help_of_a_run_fits_a_screen_with_the_flags_that_matter_first() {
    for name in ["run", "plan", "coordinate"] {
        let help = of(name).render_help().to_string();
        let (rows, columns) = lines(&help);
        assert!(rows <= 24 && columns <= 80, "{name}: {rows} × {columns}:\n{help}");
        let at = |flag: &str| help.find(flag).unwrap_or_else(|| panic!("{flag} in\n{help}"));
        let flags =
            ["Most used:", "--url", "--model", "--concurrency", "--duration", "--output-dir", "Examples:"];
        assert!(flags.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{help}");
    }
}

#[test]
fn every_flag_is_under_a_heading_and_the_table_names_flags_that_there_are() {
    let run = of("run");
    let known = |id: &str| {
        ["run", "coordinate", "plan"]
            .iter()
            .any(|name| of(name).get_arguments().any(|arg| arg.get_id() == id))
    };
    for (heading, ids) in FLAGS {
        for id in ids {
            assert!(known(id), "{id} under {heading}");
        }
    }
    for arg in run.get_arguments() {
        assert!(arg.get_help_heading().is_some(), "{}", arg.get_id());
    }
    let help = run.clone().render_long_help().to_string();
    for flag in ["--temperature", "--retries", "--gpu-interval", "--control-pause", "Load:", "Judgement:"] {
        assert!(help.contains(flag), "{flag} in\n{help}");
    }
}

fn refusal(args: &[&str]) -> String {
    let typed = || args.iter().copied();
    let error = command().try_get_matches_from(std::iter::once("tailcliff").chain(typed())).unwrap_err();
    with_hint(error, typed().next()).render().to_string()
}

#[test]
fn what_was_mistyped_is_met_with_what_was_meant() {
    for (args, says) in [
        (&["rnu"][..], "'run'"),
        (&["calibrat"], "'calibrate'"),
        (&["prefligth"], "'preflight'"),
        (&["run", "--modle", "m"], "'--model'"),
        (&["run", "--conc", "4"], "'--concurrency'"),
        (&["--url", "h:1"], "'tailcliff run --url …'"),
        (&["run", "--concurrency", "one"], "try 1,2,4,8"),
        (&["completions", "csh"], "bash, zsh, fish"),
        (&["kv", "--kv-heads", "8"], "--head-dim"),
        (&["weights", "--params", "lots"], "70B"),
    ] {
        let told = refusal(args);
        assert!(told.contains(says), "{args:?}: {told}");
    }
}
