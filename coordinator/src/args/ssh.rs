//! Flags of nodes that `coordinate` starts over ssh.

use clap::Args;

const HEADING: &str = "Nodes over ssh";

/// Which nodes, and how.
#[derive(Clone, Debug, Default, Args)]
pub struct SshArgs {
    /// Hosts on which an agent is started by your own ssh, and ended with the run
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', help_heading = HEADING)]
    pub ssh: Vec<String>,
    /// Hosts on which a GPU probe is started so
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', help_heading = HEADING)]
    pub ssh_probe: Vec<String>,
    /// Address by which these hosts reach the coordinator [default: that of --listen]
    #[arg(long, value_name = "HOST:PORT", help_heading = HEADING)]
    pub ssh_dial: Option<String>,
    /// The ssh to use, with its flags: "ssh -i key -p 2222"
    #[arg(long, value_name = "COMMAND", default_value = "ssh", help_heading = HEADING)]
    pub ssh_command: String,
    /// Folder of tailcliff-agent and tailcliff-gpu-probe on these hosts [default: their PATH]
    #[arg(long, value_name = "DIR", help_heading = HEADING)]
    pub remote_path: Option<String>,
    /// A further argument of each node, repeatable: --ssh-node-arg=--tls-dir --ssh-node-arg=/etc/tailcliff
    #[arg(long, value_name = "ARG", allow_hyphen_values = true, help_heading = HEADING)]
    pub ssh_node_arg: Vec<String>,
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
}
