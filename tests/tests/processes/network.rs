//! Two network namespaces with a cable between them, seen by nobody else on the machine. They live as long as the
//! processes that hold them, which end with this one however it ends, so that nothing is ever left behind.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use e2e::roles::Role;

pub(crate) struct Network {
    near: Namespace,
    far: Namespace,
}

struct Namespace {
    holder: Role,
}

impl Network {
    /// Address of the near side.
    pub(crate) const NEAR: &str = "10.199.0.1";
    const FAR: &str = "10.199.0.2";

    /// Lays the cable.
    pub(crate) fn lay() -> Self {
        let (near, far) = (Namespace::hold(), Namespace::hold());
        let there = far.holder.pid().to_string();
        near.ip(&["link", "add", "near", "type", "veth", "peer", "name", "far", "netns", &there]);
        near.set_up("near", Self::NEAR);
        far.set_up("far", Self::FAR);
        Self { near, far }
    }

    /// Runs a program on the near side.
    pub(crate) fn near(&self, program: &Path) -> Command {
        self.near.enter(program)
    }

    /// Runs a program on the far side.
    pub(crate) fn far(&self, program: &Path) -> Command {
        self.far.enter(program)
    }
}

impl Namespace {
    fn hold() -> Self {
        let mut command = Command::new("unshare");
        // Ends when its standard input does, with this process.
        command.args(["--net", "sh", "-c", "echo ready; exec cat"]);
        let holder = Role::start_command(command).unwrap();
        holder.line("ready").expect("failed to make a network namespace");
        Self { holder }
    }

    fn enter(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.pid())).arg(program);
        command
    }

    fn set_up(&self, device: &str, address: &str) {
        self.ip(&["link", "set", "lo", "up"]);
        self.ip(&["address", "add", &format!("{address}/30"), "dev", device]);
        self.ip(&["link", "set", device, "up"]);
    }

    fn ip(&self, args: &[&str]) {
        let done = self.enter("ip").args(args).output().unwrap();
        assert!(done.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}
