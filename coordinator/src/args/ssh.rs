//! Flags of nodes that `coordinate` starts over ssh.

use clap::{ArgGroup, Args};

const HEADING: &str = "Nodes over ssh";
/// Flags that say on which hosts; the others are about these.
const HOSTS: &str = "ssh_hosts";

/// Which nodes, and how.
#[derive(Clone, Debug, Default, Args)]
#[command(group = ArgGroup::new(HOSTS).args(["ssh", "ssh_probe"]).multiple(true))]
pub struct SshArgs {
    /// Hosts on which an agent is started by your own ssh, and ended with the run
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', help_heading = HEADING)]
    pub ssh: Vec<String>,
    /// Hosts on which a GPU probe is started so
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', help_heading = HEADING)]
    pub ssh_probe: Vec<String>,
    /// Address by which these hosts reach the coordinator [default: that of --listen]
    #[arg(long, value_name = "HOST:PORT", requires = HOSTS, help_heading = HEADING)]
    pub ssh_dial: Option<String>,
    /// The ssh to use, with its flags: "ssh -i key -p 2222"
    #[arg(long, value_name = "COMMAND", default_value = "ssh", requires = HOSTS, help_heading = HEADING)]
    pub ssh_command: String,
    /// Folder of tailcliff-agent and tailcliff-gpu-probe on these hosts [default: their PATH]
    #[arg(long, value_name = "DIR", requires = HOSTS, help_heading = HEADING)]
    pub remote_path: Option<String>,
    /// A further argument of each node, repeatable: --ssh-node-arg=--tls-dir --ssh-node-arg=/etc/tailcliff
    #[arg(long, value_name = "ARG", allow_hyphen_values = true, requires = HOSTS, help_heading = HEADING)]
    pub ssh_node_arg: Vec<String>,
    /// A further argument of each probe, repeatable: --ssh-probe-arg=--otlp-listen --ssh-probe-arg=127.0.0.1:4317
    #[arg(long, value_name = "ARG", allow_hyphen_values = true, requires = "ssh_probe", help_heading = HEADING)]
    pub ssh_probe_arg: Vec<String>,
}

impl SshArgs {
    /// Nobody is started.
    pub fn is_empty(&self) -> bool {
        self.ssh.is_empty() && self.ssh_probe.is_empty()
    }

    /// Agents, where some are started, and probes.
    pub fn counts(&self) -> (Option<u32>, u32) {
        (Some(self.ssh.len() as u32).filter(|&n| n > 0), self.ssh_probe.len() as u32)
    }

    /// A node that is started and not waited for would be turned away.
    ///
    /// # Errors
    /// The flag that asks for fewer than are started, and why.
    pub fn fit(&self, agents: u32, probes: u32) -> Result<(), String> {
        let (of_agents, of_probes) = (self.counts().0.unwrap_or(0), self.counts().1);
        let too_few =
            [("--agents", agents, "--ssh", of_agents), ("--probes", probes, "--ssh-probe", of_probes)];
        match too_few.into_iter().find(|(_, asked, _, started)| asked < started) {
            Some((flag, asked, by, started)) => Err(format!(
                "bad {flag}: {asked} is fewer than the {started} hosts of {by}: leave it out, or name fewer hosts"
            )),
            None => Ok(()),
        }
    }
}
