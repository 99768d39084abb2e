//! Plays a plan: server, a forwarder before it, coordinator, probe and two agents as separate processes on loopback, and
//! the stalls at their times.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tailcliff_proto::clock::HostClock;

use crate::forward::{Forwarder, Which};
use crate::roles::Role;
use crate::stalls::plan::{Injection, Kind, LEAD_IN_MS, Plan};
use crate::stalls::truth::Injected;

/// Sequences in the server's batch at most.
const SLOTS: usize = 16;
/// Tokens of a prompt of the requests that make a queue.
const QUEUE_PROMPT: &str = "one of many";
/// All that was done on purpose, in a played folder.
const INJECTED: &str = "injected.json";
/// How long the load may take to begin.
const PATIENCE_NS: i64 = 60_000_000_000;

/// How the sensors of an H100 (driver 580) see it, as measured on one. Its buffer of power holds a sample each 20 ms.
pub const H100: &str = "\
sensor power_instant period=100ms window=25ms phase=13ms
sensor power_average period=100ms window=1s phase=13ms
sensor energy period=100ms phase=29ms
sensor util period=200ms
sensor power_samples period=20ms
";

/// Which GPU the probe reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Card {
    /// One under the server, with statements beside those that have it follow.
    Follows(String),
    /// One of another host, which is idle whatever the server does.
    Other,
    /// None.
    None,
}

/// A run that was played, in a folder of its own.
#[derive(Debug)]
pub struct Ran {
    /// The coordinator's outputs.
    pub run_dir: PathBuf,
    /// Truth of each request.
    pub truth_log: PathBuf,
    /// What the GPU truly showed.
    pub gpu_log: PathBuf,
    /// What was done on purpose, in order.
    pub injected: Vec<Injected>,
}

/// Plays a plan with copies of `binary`, in `dir`.
///
/// # Errors
/// When a process cannot be made, fails, or says nothing.
pub fn play(binary: &Path, dir: &Path, plan: &Plan, card: &Card) -> io::Result<Ran> {
    let mut stage = Stage::set(binary, dir, plan)?;
    stage.coordinate(plan)?;
    stage.probe(card)?;
    std::thread::sleep(Duration::from_millis(plan.idle_ms));
    stage.agents()?;
    stage.under_way()?;
    let mut injected = stage.inject_all(plan)?;
    stage.end()?;
    injected.extend(Injected::read_causes(&dir.join("causes.jsonl"))?);
    injected.sort_by_key(|one| one.from_ns);
    std::fs::write(dir.join(INJECTED), serde_json::to_vec(&injected)?)?;
    Ran::load(dir)
}

impl Ran {
    /// What was played in `dir`.
    ///
    /// # Errors
    /// When nothing was.
    pub fn load(dir: &Path) -> io::Result<Self> {
        let file = |name: &str| dir.join(name);
        Ok(Self {
            run_dir: file("run"),
            truth_log: file("truth.jsonl"),
            gpu_log: file("gpu.log"),
            injected: serde_json::from_slice(&std::fs::read(file(INJECTED))?)?,
        })
    }

    /// Has its stalls judged again by this build, as `stalls.csv`.
    ///
    /// # Errors
    /// When that fails.
    pub fn judge_again(&self, binary: &Path) -> io::Result<()> {
        let csv = self.run_dir.join("stalls.csv");
        let args = ["stalls", text(&self.run_dir)?, "--csv", text(&csv)?];
        let status = Role::start(binary, "tailcliff", &args)?.wait()?;
        let failed = || io::Error::other(format!("tailcliff stalls ended with {status}"));
        status.success().then_some(()).ok_or_else(failed)
    }
}

struct Stage<'a> {
    binary: &'a Path,
    dir: &'a Path,
    server: Role,
    server_at: SocketAddr,
    forwarder: Forwarder,
    coordinator: Option<Role>,
    coordinator_at: String,
    probe: Option<Role>,
    agents: Vec<Role>,
    crowd: Vec<std::thread::JoinHandle<()>>,
    /// When the load was seen to begin.
    began_ns: i64,
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::other("the folder has an odd name"))
}

impl<'a> Stage<'a> {
    fn set(binary: &'a Path, dir: &'a Path, plan: &Plan) -> io::Result<Self> {
        let files = ["truth.jsonl", "causes.jsonl", "gpu.log"].map(|name| dir.join(name));
        let (step, slots) = (plan.step_base_ms.to_string(), SLOTS.to_string());
        let mut args = vec!["--listen", "127.0.0.1:0", "--step-base-ms", &step, "--max-num-seqs", &slots];
        for (flag, file) in ["--truth-log", "--cause-log", "--gpu-log"].into_iter().zip(&files) {
            args.extend([flag, text(file)?]);
        }
        let server = Role::start(binary, "model-sim", &args)?;
        let server_at: SocketAddr = server.line("listening on ")?.parse().map_err(io::Error::other)?;
        Ok(Self {
            binary,
            dir,
            server,
            server_at,
            forwarder: Forwarder::start_without_clock([127, 0, 0, 2].into(), server_at)?,
            coordinator: None,
            coordinator_at: String::new(),
            probe: None,
            agents: Vec::new(),
            crowd: Vec::new(),
            began_ns: 0,
        })
    }

    fn coordinate(&mut self, plan: &Plan) -> io::Result<()> {
        let run = self.dir.join("run");
        let url = self.forwarder.address().to_string();
        let (streams, output) = (plan.concurrency.to_string(), plan.output_len.to_string());
        let duration = format!("{}ms", plan.duration_ms());
        let mut args = vec!["coordinate", "--listen", "127.0.0.1:0", "--url", &url, "--model", "sim"];
        args.extend(["--ignore-eos", "--input-len", "32", "--output-len", &output, "--agents", "2"]);
        args.extend(["--probes", "1", "--concurrency", &streams, "--duration", &duration]);
        // Replies of many lengths, or all streams would end in step and a stall would meet few of them.
        args.extend(["--random-range-ratio", "0.5", "--drain", "8s", "--output-dir", text(&run)?]);
        let block = plan.block_ms.map(|ms| format!("{ms}ms"));
        args.extend(block.iter().flat_map(|ms| ["--control-block", ms]));
        let coordinator = Role::start_heard(Command::new(self.binary), "tailcliff", &args)?;
        let announced = coordinator.announced("listening on ")?;
        self.coordinator_at = announced.split(',').next().unwrap_or_default().to_owned();
        self.coordinator = Some(coordinator);
        Ok(())
    }

    fn probe(&mut self, card: &Card) -> io::Result<()> {
        // One origin for all processes that read the card: its energy counter outlives them.
        let origin = format!("origin_raw_ns {}\n", HostClock.now());
        let follows = crate::follow_script(&self.dir.join("gpu.log")) + &origin;
        let script = match card {
            Card::Follows(more) => format!("{follows}{more}\n"),
            Card::Other => "phase 1s power_w=75 util=0 mem_util=0 sm_mhz=1980 throttle=0\nonce\n".to_owned(),
            Card::None => "init_error 9\n".to_owned(),
        };
        std::fs::write(self.dir.join("gpu.script"), script)?;
        self.start_probe()
    }

    fn start_probe(&mut self) -> io::Result<()> {
        let mut command = Command::new(self.binary);
        command.env(nvml_sim::SCRIPT_VARIABLE, self.dir.join("gpu.script"));
        let missing = || io::Error::other("failed to find the simulated NVML that was built with this");
        let nvml = nvml_sim::library_path().ok_or_else(missing)?;
        let args = ["--coordinator", &self.coordinator_at, "--name", "probe", "--nvml-path", text(&nvml)?];
        self.probe = Some(Role::start_with(command, "gpu-probe", &args)?);
        Ok(())
    }

    fn agents(&mut self) -> io::Result<()> {
        for name in ["one", "two"] {
            let args = ["--coordinator", &self.coordinator_at, "--name", name, "--shards", "1"];
            self.agents.push(Role::start(self.binary, "agent", &args)?);
        }
        Ok(())
    }

    /// Waits until the GPU has worked for half a second: a preflight is shorter.
    fn under_way(&mut self) -> io::Result<()> {
        let deadline = HostClock.now() + PATIENCE_NS;
        while HostClock.now() < deadline {
            let log = std::fs::read_to_string(self.dir.join("gpu.log"))?;
            let read = |line: &str| {
                let mut words = line.split(' ').map(str::parse::<i64>);
                Some((words.next()?.ok()?, words.next()?.ok()?))
            };
            // Each change of its power is a line: its work began with the first after the last that is idle.
            let back = log.lines().rev().filter_map(read).take_while(|(_, watts)| *watts > 300);
            let busy = back.last().map(|(since, _)| since);
            if let Some(since) = busy.filter(|since| HostClock.now() - since > 500_000_000) {
                self.began_ns = since;
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(io::Error::other("the load never began"))
    }

    /// Carries out the plan; gives what no log of the server tells.
    fn inject_all(&mut self, plan: &Plan) -> io::Result<Vec<Injected>> {
        let mut done = Vec::new();
        sleep_until(self.began_ns + ms_ns(LEAD_IN_MS));
        for (i, injection) in plan.injections.iter().enumerate() {
            if plan.block_ms.is_some() && i == plan.before_block() {
                done.extend(self.pass_block(plan));
            }
            if plan.probe_dies_before == Some(i) {
                self.probe = None;
                self.start_probe()?;
            }
            self.inject(injection, plan, &mut done)?;
            std::thread::sleep(Duration::from_millis(injection.rest_ms));
        }
        if plan.block_ms.is_some() && plan.before_block() == plan.injections.len() {
            done.extend(self.pass_block(plan));
        }
        Ok(done)
    }

    /// The agents' block comes by itself, in the middle of the load.
    fn pass_block(&self, plan: &Plan) -> Option<Injected> {
        let middle = self.began_ns + ms_ns(plan.duration_ms() / 2);
        sleep_until(middle + ms_ns(plan.after_middle_ms()));
        let until = middle + ms_ns(plan.block_ms?);
        Some(Injected { kind: Kind::Block, from_ns: middle, to_ns: until, requests: Vec::new() })
    }

    fn inject(&mut self, one: &Injection, plan: &Plan, done: &mut Vec<Injected>) -> io::Result<()> {
        let time = Duration::from_millis(one.ms);
        let Injection { kind, ms, nth, factor, bits, .. } = *one;
        let name = kind.name();
        match kind {
            Kind::IdlePause | Kind::ExtraCompute | Kind::Preempt => {
                self.post(&format!(r#"{{"kind":"{name}","ms":{ms},"nth":{nth}}}"#))?;
            }
            Kind::Throttle => {
                self.post(&format!(r#"{{"kind":"throttle","ms":{ms},"factor":{factor},"bits":{bits}}}"#))?
            }
            Kind::Queue => done.push(self.crowd(plan, ms)),
            Kind::Hold | Kind::Delay => {
                let held = match kind {
                    Kind::Hold => self.forwarder.hold(one.which, time),
                    _ => self.forwarder.delay_one_piece(Which::One(nth), time),
                };
                let one = held.first().map(|held| (held.from_ns, held.to_ns));
                let (from_ns, to_ns) = one.ok_or_else(|| io::Error::other("no connection streams"))?;
                done.push(Injected { kind, from_ns, to_ns, requests: Vec::new() });
            }
            Kind::Stop => {
                let pid = self.agents[nth % self.agents.len()].pid().cast_signed();
                let from_ns = HostClock.now();
                kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
                std::thread::sleep(time);
                kill(Pid::from_raw(pid), Signal::SIGCONT)?;
                done.push(Injected { kind, from_ns, to_ns: HostClock.now(), requests: Vec::new() });
                return Ok(());
            }
            Kind::Block => {}
        }
        std::thread::sleep(time);
        Ok(())
    }

    /// One of the engine's own faults, from now on.
    fn post(&self, body: &str) -> io::Result<()> {
        let said = ask(self.server_at, "/sim/fault", body)?;
        let refused = || io::Error::other(format!("the server refused {body}: {said}"));
        said.starts_with("HTTP/1.1 200").then_some(()).ok_or_else(refused)
    }

    /// As many requests of others as fill the batch, each about `ms` long.
    fn crowd(&mut self, plan: &Plan, ms: u64) -> Injected {
        let from_ns = HostClock.now();
        let step_ms = plan.step_base_ms + 0.1 * SLOTS as f64;
        let tokens = (ms as f64 / step_ms) as u64;
        let body =
            format!(r#"{{"prompt":"{QUEUE_PROMPT}","max_tokens":{tokens},"ignore_eos":true,"stream":true}}"#);
        for _ in 0..SLOTS {
            let (to, body) = (self.server_at, body.clone());
            // What the server says to them is of no interest.
            self.crowd.push(std::thread::spawn(move || drop(ask(to, "/v1/completions", &body))));
        }
        Injected { kind: Kind::Queue, from_ns, to_ns: from_ns + 2 * ms_ns(ms), requests: Vec::new() }
    }

    fn end(&mut self) -> io::Result<()> {
        self.crowd.drain(..).for_each(|one| drop(one.join()));
        let failed = |what: &str| io::Error::other(format!("{what} ended with a failure"));
        let coordinator = self.coordinator.as_mut().ok_or_else(|| failed("the coordinator"))?;
        if !coordinator.wait()?.success() {
            return Err(failed("the coordinator"));
        }
        for node in self.agents.iter_mut().chain(self.probe.as_mut()) {
            if !node.wait()?.success() {
                return Err(failed("a node"));
            }
        }
        self.server.end()
    }
}

fn ms_ns(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX / 1_000_000) * 1_000_000
}

fn sleep_until(raw_ns: i64) {
    let ahead = (raw_ns - HostClock.now()).max(0);
    std::thread::sleep(Duration::from_nanos(ahead.unsigned_abs()));
}

/// Posts JSON over a connection of its own; the whole answer.
fn ask(to: SocketAddr, path: &str, body: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes())?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

/// What the GPU truly drew, from its log.
#[derive(Debug)]
pub struct TrueEnergy(Vec<(i64, f64)>);

impl TrueEnergy {
    /// Reads the log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(gpu_log: &Path) -> io::Result<Self> {
        let mut log = String::new();
        File::open(gpu_log)?.read_to_string(&mut log)?;
        let line = |line: &str| {
            let mut words = line.split(' ');
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        Ok(Self(log.lines().filter_map(line).collect()))
    }

    /// J over [from, to], raw ns.
    pub fn joules(&self, from: i64, to: i64) -> f64 {
        let ends = self.0.iter().skip(1).map(|(at, _)| *at).chain([i64::MAX]);
        let part = |((at, watts), end): (&(i64, f64), i64)| {
            let overlap = (end.min(to) - (*at).max(from)).max(0);
            watts * overlap as f64 / 1e9
        };
        self.0.iter().zip(ends).map(part).sum()
    }
}
