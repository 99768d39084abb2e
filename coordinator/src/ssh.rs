//! Nodes on other hosts, started by the user's own ssh: their keys, their jump hosts, their names. A node ends with the run
//! by itself; where the coordinator dies, its end of the pipe does, and a line of shell at the other end ends the node.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::args::ssh::SshArgs;

/// For a node to end by itself, and then for ssh to be gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest line of ssh that is shown.
const LONGEST_LINE: usize = 400;
/// Hosts that are named when all failed.
const NAMED: usize = 10;
/// How the words begin that say so.
pub const ALL_FAILED: &str = "every node over ssh ended before the run began";

/// Why nothing is started.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The other hosts could not dial it.
    #[error(
        "bad --ssh: {0} is not an address that other hosts can dial: name one with --ssh-dial, or --listen on one"
    )]
    Undialable(String),
    /// What would be taken for a flag of ssh.
    #[error("bad --ssh: {0:?} is no host")]
    Host(String),
    /// There is no such program.
    #[error("failed to run {program}: {reason}; name your ssh with --ssh-command")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        reason: std::io::Error,
    },
}

/// Nodes that were started; those that are left are ended when dropped.
#[derive(Debug, Default)]
pub struct Nodes {
    holds: Vec<ChildStdin>,
    watched: Vec<JoinHandle<()>>,
    /// We end them: how they end is no news.
    over: Arc<AtomicBool>,
}

/// Nodes that ended with an error, as they do.
#[derive(Debug)]
pub struct Failures {
    inbox: mpsc::Receiver<String>,
    of: usize,
    said: Vec<String>,
}

impl Failures {
    /// Of nobody.
    pub fn none() -> Self {
        Self::of(0).1
    }

    fn of(nodes: usize) -> (mpsc::Sender<String>, Self) {
        let (out, inbox) = mpsc::channel(nodes.max(1));
        (out, Self { inbox, of: nodes, said: Vec::new() })
    }

    /// Once all have failed, which hosts, and how; `None` when not all will. It may be dropped and called again.
    pub async fn all(&mut self) -> Option<String> {
        while let Some(line) = self.inbox.recv().await {
            self.said.push(line);
            if self.said.len() == self.of {
                return Some(self.words());
            }
        }
        None
    }

    fn words(&self) -> String {
        let mut named = self.said.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
        if self.of > NAMED {
            named += &format!("; and {} more", self.of - NAMED);
        }
        format!("{ALL_FAILED}: {named}")
    }
}

/// Starts a node on each host, to dial the coordinator at `listen` unless told otherwise. Those whose failure leaves the
/// run without load are followed: the agents, or the probes where no agent is started.
///
/// # Errors
/// When a host or the address makes no sense, or ssh cannot be run. A host that fails is told of when it does.
pub fn start(args: &SshArgs, listen: &str, tell: fn(&str)) -> Result<(Nodes, Failures), SshError> {
    let mut nodes = Nodes::default();
    if args.is_empty() {
        return Ok((nodes, Failures::none()));
    }
    let (failed, failures) = Failures::of(args.counts().0.unwrap_or(args.counts().1) as usize);
    let dial = dialled(args, listen)?;
    let agents = args.ssh.iter().enumerate().map(|(i, host)| (host, "tailcliff-agent", Some(i)));
    let probes = args.ssh_probe.iter().map(|host| (host, "tailcliff-gpu-probe", None));
    for (host, binary, index) in agents.chain(probes) {
        let line = remote(args, binary, &dial, index);
        let mut child = ssh(args, host, &line)?;
        nodes.holds.extend(child.stdin.take());
        let failed = Some(failed.clone()).filter(|_| index.is_some() || args.ssh.is_empty());
        let watch = Watch { host: host.clone(), over: nodes.over.clone(), failed, tell };
        nodes.watched.push(tokio::spawn(watch.until_the_end(child)));
    }
    Ok((nodes, failures))
}

fn dialled(args: &SshArgs, listen: &str) -> Result<String, SshError> {
    if let Some(dial) = &args.ssh_dial {
        return Ok(dial.clone());
    }
    let address: Option<SocketAddr> = listen.parse().ok();
    match address {
        Some(a) if a.ip().is_unspecified() || a.port() == 0 => Err(SshError::Undialable(listen.to_owned())),
        _ => Ok(listen.to_owned()),
    }
}

/// What the other host's shell runs: the node, until it ends or our end of the pipe does.
fn remote(args: &SshArgs, binary: &str, dial: &str, index: Option<usize>) -> String {
    let program = args.remote_path.as_ref().map_or(binary.to_owned(), |dir| format!("{dir}/{binary}"));
    let index = index.map(|index| ["--index".to_owned(), index.to_string()]);
    let words = [program, "--coordinator".to_owned(), dial.to_owned()].into_iter();
    let of_probe = if index.is_none() { &args.ssh_probe_arg[..] } else { &[] };
    let words = words.chain(index.into_iter().flatten());
    let words = words.chain(args.ssh_node_arg.iter().chain(of_probe).cloned());
    let node = words.map(|word| quoted(&word)).collect::<Vec<_>>().join(" ");
    format!(
        "exec 3<&0; {node} </dev/null & p=$!; {{ cat <&3 >/dev/null; kill $p; }} 2>/dev/null & w=$!; \
         wait $p; c=$?; kill $w 2>/dev/null; exit $c"
    )
}

/// For a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn ssh(args: &SshArgs, host: &str, line: &str) -> Result<Child, SshError> {
    if host.is_empty() || host.starts_with('-') || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(SshError::Host(host.to_owned()));
    }
    let mut words = args.ssh_command.split_whitespace();
    let program = words.next().unwrap_or("ssh").to_owned();
    let mut command = Command::new(&program);
    // It may ask for nothing: the terminal is the run's.
    command.args(words).args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-T", "--", host, line]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    command.spawn().map_err(|reason| SshError::Start { program, reason })
}

/// Of one node.
struct Watch {
    host: String,
    over: Arc<AtomicBool>,
    failed: Option<mpsc::Sender<String>>,
    tell: fn(&str),
}

impl Watch {
    /// Passes on what ssh and the node say, by their host; how it ended, where that was no good end.
    async fn until_the_end(self, mut child: Child) {
        let mut lines = child.stderr.take().map(|err| BufReader::new(err).split(b'\n'));
        let mut last = String::new();
        while let Some(lines) = &mut lines {
            let Ok(Some(line)) = lines.next_segment().await else { break };
            let text = String::from_utf8_lossy(&line);
            last = text.chars().filter(|c| !c.is_control()).take(LONGEST_LINE).collect();
            (self.tell)(&format!("{}: {last}", self.host));
        }
        let ended = child.wait().await;
        // Told to stop, it says so by its exit code.
        if !self.over.load(Ordering::Relaxed) && !ended.as_ref().is_ok_and(ExitStatus::success) {
            self.fail(ended.map_or_else(|e| e.to_string(), |status| status.to_string()), &last);
        }
    }

    fn fail(self, status: String, last: &str) {
        let Self { host, failed, tell, .. } = self;
        tell(&format!("{host}: its node ended with {status}"));
        let words = if last.is_empty() { String::new() } else { format!(" ({last})") };
        // There is room for all; nobody listens once the run has begun.
        let _over = failed.map(|failed| failed.try_send(format!("{host} with {status}{words}")));
    }
}

impl Nodes {
    /// Waits a moment for nodes that end with the run; the others are ended.
    pub async fn end(mut self) {
        let mut watched = std::mem::take(&mut self.watched);
        if !within(&mut watched).await {
            self.over.store(true, Ordering::Relaxed);
            self.holds.clear();
            within(&mut watched).await;
        }
        watched.iter().for_each(JoinHandle::abort);
    }
}

/// True when all ended.
async fn within(watched: &mut Vec<JoinHandle<()>>) -> bool {
    let all = async {
        for one in watched.iter_mut().filter(|one| !one.is_finished()) {
            let _ended = one.await;
        }
    };
    let ended = tokio::time::timeout(PATIENCE, all).await.is_ok();
    watched.retain(|one| !one.is_finished());
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_shell_sees_words_as_they_are() {
        let args = SshArgs { ssh_node_arg: vec!["it's; rm -rf /".to_owned()], ..SshArgs::default() };
        let line = remote(&args, "tailcliff-agent", "h:1", Some(3));
        assert!(line.contains(r"'--index' '3' 'it'\''s; rm -rf /' </dev/null &"), "{line}");
        let args = SshArgs { ssh_probe_arg: vec!["--otlp-listen".to_owned()], ..args };
        let line = remote(&args, "tailcliff-gpu-probe", "h:1", None);
        assert!(line.contains("rm -rf /' '--otlp-listen' </dev/null &"), "{line}");
        assert!(!remote(&args, "tailcliff-agent", "h:1", Some(0)).contains("otlp"));
    }

    #[tokio::test]
    async fn only_when_every_node_failed_is_nobody_left() {
        let (out, mut failures) = Failures::of(2);
        out.try_send("a".to_owned()).unwrap();
        let none = tokio::time::timeout(Duration::from_millis(20), failures.all()).await;
        assert!(none.is_err(), "the other may come");
        out.try_send("b".to_owned()).unwrap();
        assert!(failures.all().await.unwrap().ends_with("a; b"));
        assert_eq!(Failures::none().all().await, None);
        let (out, mut failures) = Failures::of(2);
        out.try_send("a".to_owned()).unwrap();
        drop(out);
        assert_eq!(failures.all().await, None, "the other ended well");
    }

    #[test]
    fn an_address_of_everywhere_is_none_to_dial() {
        let args = |dial: Option<&str>| SshArgs { ssh_dial: dial.map(str::to_owned), ..SshArgs::default() };
        assert!(dialled(&args(None), "0.0.0.0:7100").is_err() && dialled(&args(None), "10.0.0.1:0").is_err());
        assert_eq!(dialled(&args(None), "10.0.0.1:7100").unwrap(), "10.0.0.1:7100");
        assert_eq!(dialled(&args(Some("h:1")), "0.0.0.0:7100").unwrap(), "h:1");
    }
}
