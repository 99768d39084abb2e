//! `tailcliff coldwarm`: its exit code and what it prints.

use super::{
    EXIT_BROKEN, EXIT_INTERRUPTED, EXIT_OK, EXIT_OUTPUT, EXIT_TARGET, EXIT_USAGE, command, fail, interrupts,
    print, tell,
};
use crate::args::coldwarm::ColdwarmArgs;
use crate::coldwarm::{self, ColdwarmError, Ending, FILES, Job};

pub(super) async fn main(args: ColdwarmArgs) -> i32 {
    let command = without_restart(command());
    let job = match Job::from_args(args, std::env::var("OPENAI_API_KEY").ok(), command) {
        Ok(job) => job,
        Err(error) => return fail(&error.to_string(), EXIT_USAGE),
    };
    let (_, interrupts) = interrupts();
    match coldwarm::run(&job, interrupts, &tell).await {
        Ok((report, ending)) => {
            print(&summary(&report));
            print(&format!("report: {}", job.output_dir.join(FILES[0]).display()));
            match ending {
                Ending::Complete => EXIT_OK,
                Ending::Interrupted => fail("interrupted; what was measured is kept", EXIT_INTERRUPTED),
                Ending::Trouble(why) => fail(&why, EXIT_TARGET),
            }
        }
        Err(error) => {
            let code = match &error {
                ColdwarmError::Target(_) => EXIT_BROKEN,
                ColdwarmError::Folder { .. } | ColdwarmError::Output(_) => EXIT_OUTPUT,
            };
            fail(&error.to_string(), code)
        }
    }
}

/// The restart command is shown by itself, where its secrets are left out.
fn without_restart(words: Vec<String>) -> Vec<String> {
    const FLAG: &str = "--restart-cmd";
    let mut is_value = false;
    let one = |word: String| match (std::mem::replace(&mut is_value, word == FLAG), word.split_once('=')) {
        (true, _) => {
            is_value = false;
            BELOW.to_owned()
        }
        (false, Some((FLAG, _))) => format!("{FLAG}={BELOW}"),
        _ => word,
    };
    words.into_iter().map(one).collect()
}

/// Stands for it.
const BELOW: &str = "(below)";

/// The lines that answer the question; the rest is in the file.
fn summary(report: &coldwarm::Report) -> String {
    let text = coldwarm::markdown(report);
    let simulated = if report.is_simulated() { "SIMULATED GPU\n" } else { "" };
    let section = text.split("## Interpretation\n").nth(1).unwrap_or_default();
    let lines = section.lines().filter(|line| line.starts_with("- ")).map(|line| line.replace("**", ""));
    format!("{simulated}{}", lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::without_restart;

    fn shown(words: &[&str]) -> String {
        without_restart(words.iter().map(|word| (*word).to_owned()).collect()).join(" ")
    }

    #[test]
    fn only_the_restart_command_is_shown_elsewhere() {
        let words = ["tailcliff", "coldwarm", "--restart-cmd", "m", "--model", "m", "--url", "m:80"];
        assert_eq!(shown(&words), "tailcliff coldwarm --restart-cmd (below) --model m --url m:80");
        assert_eq!(
            shown(&["--restart-cmd=K=x run", "--metadata", "K=x"]),
            "--restart-cmd=(below) --metadata K=x"
        );
        assert_eq!(shown(&["--restart-cmd", "--restart-cmd", "m"]), "--restart-cmd (below) m");
    }
}
