//! Hosts of their own: network namespaces around a bridge, each but the middle one with a clock of its own too, seen by
//! nobody else on the machine. They live as long as the processes that hold them, which end with this one however it ends,
//! so that nothing is ever left behind.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use e2e::roles::Role;

pub(crate) struct Network {
    near: Namespace,
    far: Vec<Namespace>,
}

struct Namespace {
    holder: Role,
    /// It has a time namespace too.
    has_time: bool,
}

impl Network {
    /// Address of the host in the middle.
    pub(crate) const NEAR: &str = "10.199.0.1";

    /// A host in the middle with the machine's own clock, and around it one for each of `ahead_s`, whose clocks are that many
    /// seconds ahead.
    pub(crate) fn star(ahead_s: &[u32]) -> Self {
        let near = Namespace::hold(None);
        near.ip(&["link", "set", "lo", "up"]);
        near.ip(&["link", "add", "star", "type", "bridge"]);
        near.set_up("star", Self::NEAR);
        let far = ahead_s.iter().enumerate().map(|(i, &ahead)| near.cable(i, ahead)).collect();
        Self { near, far }
    }

    /// Runs a program on the host in the middle.
    pub(crate) fn near(&self, program: &Path) -> Command {
        self.near.enter(program)
    }

    /// Runs a program on one of the hosts around it.
    pub(crate) fn far(&self, host: usize, program: &Path) -> Command {
        self.far[host].enter(program)
    }
}

impl Namespace {
    fn hold(ahead_s: Option<u32>) -> Self {
        let mut command = Command::new("unshare");
        command.arg("--net");
        if let Some(ahead) = ahead_s.map(|s| s.to_string()) {
            command.args(["--time", "--fork", "--kill-child", "--monotonic", &ahead, "--boottime", &ahead]);
        }
        // Ends when its standard input does, with this process.
        command.args(["sh", "-c", "echo ready; exec cat"]);
        let holder = Role::start_command(command).unwrap();
        holder.line("ready").expect("failed to make a namespace");
        Self { holder, has_time: ahead_s.is_some() }
    }

    /// A host at the end of a cable to this one's bridge.
    fn cable(&self, number: usize, ahead_s: u32) -> Self {
        let far = Self::hold(Some(ahead_s));
        let (there, port) = (far.holder.pid().to_string(), format!("port{number}"));
        self.ip(&["link", "add", &port, "type", "veth", "peer", "name", "cable", "netns", &there]);
        self.ip(&["link", "set", &port, "master", "star", "up"]);
        far.ip(&["link", "set", "lo", "up"]);
        far.set_up("cable", &format!("10.199.0.{}", number + 2));
        far
    }

    fn enter(&self, program: impl AsRef<OsStr>) -> Command {
        let of = format!("/proc/{}/ns", self.holder.pid());
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={of}/net"));
        if self.has_time {
            // The holder itself made it, and its child is the first within.
            command.arg(format!("--time={of}/time_for_children"));
        }
        command.arg(program);
        command
    }

    fn set_up(&self, device: &str, address: &str) {
        self.ip(&["address", "add", &format!("{address}/24"), "dev", device]);
        self.ip(&["link", "set", device, "up"]);
    }

    fn ip(&self, args: &[&str]) {
        let done = self.enter("ip").args(args).output().unwrap();
        assert!(done.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}
