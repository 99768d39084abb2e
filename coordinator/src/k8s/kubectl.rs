//! The user's own kubectl: their context, their rights and their way of signing in. Every call has an end, and nothing
//! that a process list shows is a secret.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// A call takes no longer, or it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// The one line of its complaint that a person sees.
const LONGEST_COMPLAINT: usize = 600;

/// How kubectl is called.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// The program.
    pub program: PathBuf,
    /// Context, when not the current one.
    pub context: Option<String>,
    /// Namespace, when not the context's.
    pub namespace: Option<String>,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum KubectlError {
    /// It cannot be started.
    #[error("failed to run {program}: {reason}; install kubectl, or name yours with --kubectl")]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// It ran too long.
    #[error("failed to {what}: kubectl gave no answer within {PATIENCE:?}; is the cluster reachable?")]
    Silent {
        /// What was asked.
        what: String,
    },
    /// It said no.
    #[error("failed to {what}: {complaint}")]
    Refused {
        /// What was asked.
        what: String,
        /// In its words.
        complaint: String,
    },
}

impl KubectlError {
    /// It said that the thing is not there, which is not the same as having no right to see it.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { complaint, .. } if complaint.contains("(NotFound)"))
    }
}

impl Kubectl {
    /// The command line for a person to repeat.
    pub fn line(&self, args: &[&str]) -> String {
        let mut words = vec!["kubectl".to_owned()];
        words.extend(self.flags());
        words.extend(args.iter().map(ToString::to_string));
        words.join(" ")
    }

    fn flags(&self) -> Vec<String> {
        let flag =
            |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("--{name}={value}"));
        flag("context", &self.context).into_iter().chain(flag("namespace", &self.namespace)).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // A group of its own: Ctrl-C reaches us alone, and we end it, or let it delete what there is.
        command.args(self.flags()).args(args).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts one that goes on until it is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, args: &[&str]) -> Result<Child, KubectlError> {
        self.command(args).spawn().map_err(|reason| self.cannot_start(reason))
    }

    fn cannot_start(&self, reason: std::io::Error) -> KubectlError {
        KubectlError::Start { program: self.program.clone(), reason }
    }

    /// Calls it, with `input` on its standard input; what it prints.
    ///
    /// # Errors
    /// See [`KubectlError`].
    pub async fn call(&self, what: &str, args: &[&str], input: Option<&str>) -> Result<String, KubectlError> {
        let output = self.output(what, args, input).await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let complaint = complaint(&output);
        Err(KubectlError::Refused { what: what.to_owned(), complaint })
    }

    async fn output(&self, what: &str, args: &[&str], input: Option<&str>) -> Result<Output, KubectlError> {
        let mut command = self.command(args);
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().map_err(|reason| self.cannot_start(reason))?;
        let stdin = child.stdin.take();
        let feed = async {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // It says itself why it reads no further.
                let _closed = stdin.write_all(input.as_bytes()).await;
            }
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let ended = tokio::time::timeout(PATIENCE, both).await;
        let silent = |_| KubectlError::Silent { what: what.to_owned() };
        ended.map_err(silent)?.map_err(|reason| self.cannot_start(reason))
    }

    /// Calls it for JSON.
    ///
    /// # Errors
    /// See [`KubectlError`].
    pub async fn json(&self, what: &str, args: &[&str]) -> Result<Value, KubectlError> {
        let text = self.call(what, args, None).await?;
        let no_json =
            |e: serde_json::Error| KubectlError::Refused { what: what.to_owned(), complaint: e.to_string() };
        serde_json::from_str(&text).map_err(no_json)
    }

    /// Whether the user may do so; `None` when the cluster does not say.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn may(&self, verb: &str, what: &[&str]) -> Result<bool, KubectlError> {
        let args = [&["auth", "can-i", verb], what].concat();
        let asked = format!("ask the cluster whether you may {verb} {}", what.join(" "));
        let output = self.output(&asked, &args, None).await?;
        match String::from_utf8_lossy(&output.stdout).trim() {
            text if text.ends_with("yes") && output.status.success() => Ok(true),
            text if text.split_whitespace().next() == Some("no") => Ok(false),
            _ => Err(KubectlError::Refused { what: asked, complaint: complaint(&output) }),
        }
    }
}

/// The last line that it said, which is the one that tells.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let said = lines.iter().rev().take(3).rev().copied().collect::<Vec<_>>().join("; ");
    let said: String = said.chars().filter(|c| !c.is_control()).take(LONGEST_COMPLAINT).collect();
    if said.is_empty() { format!("kubectl ended with {}", output.status) } else { said }
}
