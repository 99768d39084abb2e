//! A server, a coordinator and nodes as separate OS processes, in one place.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::accounts::Accounts;
use e2e::roles::{ROLE, Role};
use e2e::truth_check::{self, TruthError};
use serde_json::Value;
use tailcliff::stored::RunData;

use crate::network::Network;

/// The binary that plays every role.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_demo"))
}

pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) server: Role,
    pub(crate) nodes: Vec<Role>,
    coordinator: Option<Role>,
    /// Of the server and of the coordinator.
    url: String,
    address: String,
    /// Secrets that coordinator and nodes go by, besides certificates.
    secrets: Option<Secrets>,
    /// What all are within; goes last.
    network: Option<Network>,
}

/// What no file, output or command line may show.
#[derive(Clone, Copy)]
pub(crate) struct Secrets {
    pub(crate) token: &'static str,
    pub(crate) api_key: &'static str,
}

impl Scene {
    pub(crate) fn new(server_args: &[&str]) -> Self {
        Self::within(None, server_args)
    }

    /// With the server, the coordinator and the nodes on the near side of a network of their own.
    pub(crate) fn within(network: Option<Network>, server_args: &[&str]) -> Self {
        Self::set(network, server_args, &[])
    }

    /// With a server that is given these variables.
    pub(crate) fn with_server_env(server_args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::set(None, server_args, env)
    }

    fn set(network: Option<Network>, server_args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let truth = dir.path().join("truth.jsonl");
        let listen = format!("{}:0", host(network.as_ref()));
        let mut args = vec!["--listen", &listen, "--truth-log", truth.to_str().unwrap()];
        args.extend(server_args);
        let mut command = command(network.as_ref());
        command.envs(env.iter().copied());
        let server = Role::start_with(command, "model-sim", &args).unwrap();
        let url = server.line("listening on ").unwrap();
        let (nodes, address) = (Vec::new(), String::new());
        Self { dir, server, nodes, coordinator: None, url, address, secrets: None, network }
    }

    /// With certificates of its own and, where `secrets` are given, a token and a key.
    pub(crate) fn secured(mut self, secrets: Option<Secrets>) -> Self {
        let out = self.certs();
        let args = ["certs", "--out", out.to_str().unwrap(), "--host", host(self.network.as_ref())];
        assert!(Role::start_with(self.command(), "tailcliff", &args).unwrap().wait().unwrap().success());
        self.secrets = secrets;
        self
    }

    fn certs(&self) -> PathBuf {
        self.dir.path().join("certs")
    }

    /// The flag with the files of one end, in a scene that is secured.
    fn tls(&self, end: &str) -> Vec<String> {
        let dir = self.certs().join(end);
        if dir.exists() { vec!["--tls-dir".to_owned(), dir.display().to_string()] } else { Vec::new() }
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Where the server listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What the coordinator is told instead: the server stands behind something else.
    pub(crate) fn behind(&mut self, url: String) {
        self.url = url;
    }

    pub(crate) fn network(&self) -> &Network {
        self.network.as_ref().unwrap()
    }

    /// Starts the coordinator on a port that it chooses and announces.
    pub(crate) fn coordinate(&mut self, args: &[&str]) {
        self.coordinate_by(self.command(), args);
    }

    /// The same, started by `command`.
    pub(crate) fn coordinate_by(&mut self, mut command: Command, args: &[&str]) {
        let (run, listen) = (self.run_dir(), format!("{}:0", host(self.network.as_ref())));
        let mut all =
            vec!["coordinate", "--listen", &listen, "--url", &self.url, "--model", "sim", "--ignore-eos"];
        // A network of its own has nobody else on it.
        all.extend(self.network.as_ref().map(|_| "--allow-unauthenticated"));
        all.extend(["--output-dir", run.to_str().unwrap()]);
        all.extend(args);
        let tls = self.tls("coordinator");
        all.extend(tls.iter().map(String::as_str));
        command.envs(self.secrets.map(|secrets| ("OPENAI_API_KEY", secrets.api_key)));
        let coordinator = Role::start_heard(command, "tailcliff", &all).unwrap();
        let announced = coordinator.announced("listening on ").unwrap();
        self.address = announced.split(',').next().unwrap().to_owned();
        self.coordinator = Some(coordinator);
    }

    /// Another coordinator goes on with the run, at the address of the first.
    pub(crate) fn resume(&mut self, args: &[&str]) {
        let run = self.run_dir();
        let mut all = vec!["coordinate", "--resume", run.to_str().unwrap()];
        all.extend(args);
        let coordinator = Role::start_heard(self.command(), "tailcliff", &all).unwrap();
        let announced = coordinator.announced("listening on ").unwrap();
        assert_eq!(announced.split(',').next().unwrap(), self.address, "nodes dial the first one's address");
        self.coordinator = Some(coordinator);
    }

    /// Runs the command to its end: its exit code and what it says to a person.
    pub(crate) fn tailcliff(&self, args: &[&str]) -> (i32, String) {
        let mut command = self.command();
        let output = command.env(ROLE, "tailcliff").args(args).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// An agent with a place of its own, told as an indexed job tells it.
    pub(crate) fn indexed(&mut self, index: u32) {
        let mut command = self.command();
        command.env("JOB_COMPLETION_INDEX", index.to_string());
        let args = ["--coordinator", &self.address, "--shards", "1"];
        self.nodes.push(Role::start_with(command, "agent", &args).unwrap());
    }

    pub(crate) fn agent(&mut self, name: &str) {
        self.agent_by(self.command(), name);
    }

    /// An agent that `command` starts.
    pub(crate) fn agent_by(&mut self, command: Command, name: &str) {
        let address = self.address.clone();
        self.agent_at(command, &address, name, &[]);
    }

    /// The same, which finds the coordinator at an address of its own.
    pub(crate) fn agent_at(&mut self, command: Command, address: &str, name: &str, more: &[&str]) {
        let mut args = vec!["--coordinator", address, "--name", name, "--shards", "1"];
        args.extend(more);
        // A network of its own has nobody else on it.
        args.extend(self.network.as_ref().map(|_| "--allow-unauthenticated"));
        let tls = self.tls("node");
        args.extend(tls.iter().map(String::as_str));
        self.nodes.push(Role::start_with(command, "agent", &args).unwrap());
    }

    /// Where the coordinator listens for control.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A probe that reads a simulated GPU.
    pub(crate) fn probe(&mut self) {
        let nvml = nvml_sim::library_path().unwrap();
        self.probe_by(&["--nvml-path", nvml.to_str().unwrap()]);
    }

    /// A probe that is told this.
    pub(crate) fn probe_by(&mut self, more: &[&str]) {
        self.probe_named("probe", more);
    }

    /// The same under a name of its own.
    pub(crate) fn probe_named(&mut self, name: &str, more: &[&str]) {
        let mut args = vec!["--coordinator", &self.address, "--name", name];
        args.extend(more);
        args.extend(self.network.as_ref().map(|_| "--allow-unauthenticated"));
        let tls = self.tls("node");
        args.extend(tls.iter().map(String::as_str));
        self.nodes.push(Role::start_with(self.command(), "gpu-probe", &args).unwrap());
    }

    fn command(&self) -> Command {
        let mut command = command(self.network.as_ref());
        command.envs(self.secrets.map(|secrets| ("TAILCLIFF_TOKEN", secrets.token)));
        command
    }

    pub(crate) fn coordinator(&mut self) -> &mut Role {
        self.coordinator.as_mut().unwrap()
    }

    /// Exit code of the coordinator.
    pub(crate) fn wait(&mut self) -> i32 {
        self.coordinator().wait().unwrap().code().unwrap()
    }

    /// Waits for the end of a run that carries out its plan: every node ends with it, and then the server.
    pub(crate) fn complete(&mut self) {
        assert_eq!(self.wait(), 0);
        for node in &mut self.nodes {
            assert!(node.wait().unwrap().success(), "nodes end with the run");
        }
        self.end_server();
    }

    /// Ends the server, which writes the rest of its truth log.
    pub(crate) fn end_server(&mut self) {
        self.server.end().unwrap();
    }

    pub(crate) fn summary(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.run_dir().join("summary.json")).unwrap()).unwrap()
    }

    /// What the run stored.
    pub(crate) fn stored(&self) -> RunData {
        tailcliff::load::load(&self.run_dir()).unwrap()
    }

    pub(crate) fn truth_log(&self) -> PathBuf {
        self.dir.path().join("truth.jsonl")
    }

    /// The run's accounts beside the server's, which has ended: otherwise its log is not whole.
    pub(crate) fn accounts(&self) -> Accounts {
        Accounts::read(&self.run_dir(), &self.truth_log()).unwrap()
    }

    /// The run's timeline against the server's, which has ended.
    pub(crate) fn truth_error(&self) -> TruthError {
        let started = self.stored().header.started_ref_ns;
        truth_check::compare(&self.run_dir(), &self.truth_log(), started).unwrap()
    }

    /// Requests that the server has logged so far; the log is a second late.
    pub(crate) fn logged(&self) -> usize {
        std::fs::read_to_string(self.truth_log()).unwrap_or_default().lines().count()
    }

    /// Waits until the server has logged this many requests.
    pub(crate) fn under_way(&self, requests: usize) {
        for _ in 0..600 {
            if self.logged() >= requests {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the load never got under way");
    }
}

fn host(network: Option<&Network>) -> &'static str {
    if network.is_some() { Network::NEAR } else { "127.0.0.1" }
}

fn command(network: Option<&Network>) -> Command {
    network.map_or_else(|| Command::new(binary()), |network| network.near(binary()))
}

pub(crate) fn levels(summary: &Value) -> &[Value] {
    summary["levels"].as_array().unwrap()
}

pub(crate) fn count(level: &Value, key: &str) -> u64 {
    level[key].as_u64().unwrap_or_else(|| panic!("{key} in {level}"))
}

/// Token times that a client can be held to on a busy machine: 65 ms for 10 tokens.
pub(crate) const PACED: [&str; 6] = ["--timing", "paced", "--paced-ttft-ms", "20", "--paced-itl-ms", "5"];
/// Two levels of 30 requests with 10 tokens.
pub(crate) const SHORT: [&str; 6] = ["--concurrency", "3,6", "--num-prompts", "30", "--output-len", "10"];
