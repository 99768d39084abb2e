//! A coordinator as a process, an agent in this one, and certificates of every kind, made for the test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tailcliff_agent::AgentError;
use tailcliff_agent::config::Config;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::link::args::LinkArgs;
use tailcliff_proto::link::tls::FILE_NAMES;
use tokio_util::sync::CancellationToken;

pub(crate) const TOKEN: &str = "a-token-that-nobody-guesses";
/// Longest that anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the command to its end: exit code and standard error.
pub(crate) fn tailcliff(dir: &Path, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff"));
    let output = command.args(args).current_dir(dir).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// `tailcliff certs` for 127.0.0.1, in a directory of its own.
pub(crate) fn certs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (code, text) = tailcliff(dir.path(), &["certs", "--out", "certs", "--host", "127.0.0.1"]);
    assert_eq!(code, 0, "{text}");
    dir
}

pub(crate) fn of(certs: &tempfile::TempDir, end: &str) -> PathBuf {
    certs.path().join("certs").join(end)
}

/// Ends of certificates, s since 1970: in 2096, and in 2001.
pub(crate) const FAR: u64 = 4_000_000_000;
pub(crate) const PAST: u64 = 1_000_000_000;

/// A moment from now, s since 1970.
pub(crate) fn soon(s: u64) -> u64 {
    HostClock.snapshot().realtime_ns as u64 / 1_000_000_000 + s
}

/// A CA of one's own.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    /// Files of one end, for `host` and until so many seconds after 1970, that trust the CA `trusts`.
    pub(crate) fn end(&self, dir: &Path, host: &str, until: u64, trusts: &Authority) -> PathBuf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(until);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        std::fs::create_dir(dir).unwrap();
        let files = FILE_NAMES.into_iter().zip([cert.pem(), key.serialize_pem(), trusts.pem.clone()]);
        files.into_iter().for_each(|(name, pem)| std::fs::write(dir.join(name), pem).unwrap());
        dir.to_owned()
    }
}

/// What a process or an agent said so far.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    /// Waits for a line with all of these words.
    pub(crate) async fn says(&self, words: &[&str]) -> String {
        for _ in 0..600 {
            let found = self.lines().into_iter().find(|line| words.iter().all(|word| line.contains(word)));
            if let Some(line) = found {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no line with {words:?} in {:#?}", self.lines());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

pub(crate) struct Coordinator {
    pub(crate) child: Child,
    pub(crate) address: String,
    pub(crate) heard: Heard,
    pub(crate) dir: tempfile::TempDir,
}

impl Coordinator {
    /// One that waits for two agents, of which none comes from here more than once.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(Command::new(env!("CARGO_BIN_EXE_tailcliff")), args)
    }

    pub(crate) fn start_with(mut command: Command, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        command.args(["coordinate", "--url", "127.0.0.1:9", "--model", "m", "--wait", "60s"]);
        if !args.contains(&"--agents") {
            command.args(["--agents", "2"]);
        }
        if !args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let mut child = command.args(args).current_dir(dir.path()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let heard = Heard::default();
        let announced = lines.by_ref().find(|line| {
            heard.0.lock().unwrap().push(line.clone());
            line.contains("listening on ")
        });
        let announced = announced.unwrap_or_else(|| panic!("{:?}", heard.lines()));
        let address = announced.split([' ', ',']).find(|word| word.contains(':')).unwrap().to_owned();
        let into = heard.clone();
        std::thread::spawn(move || lines.for_each(|line| into.0.lock().unwrap().push(line)));
        Self { child, address, heard, dir }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its exit code, once it has ended.
    pub(crate) async fn ended(&mut self) -> i32 {
        for _ in 0..600 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it goes on: {:#?}", self.heard.lines());
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// What all agents of this process were told; lines name the coordinator, of which each test has its own.
static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// An agent in this process.
pub(crate) struct Agent {
    task: tokio::task::JoinHandle<Result<(), AgentError>>,
    address: String,
    _stop: tokio_util::sync::DropGuard,
}

impl Agent {
    pub(crate) fn start(address: &str, link: LinkArgs) -> Self {
        Self::with(Config { shards: 1, ..Config::new(link.route(address.to_owned()).unwrap()) })
    }

    pub(crate) fn with(config: Config) -> Self {
        let stop = CancellationToken::new();
        let address = config.coordinator.address().to_owned();
        let config = Config { tell: |line| TOLD.lock().unwrap().push(line.to_owned()), ..config };
        let task = tokio::spawn(tailcliff_agent::run(config, stop.clone()));
        Self { task, address, _stop: stop.drop_guard() }
    }

    /// Waits until it is told something with all of these words, and has not given up then.
    pub(crate) async fn is_told(&self, words: &[&str]) {
        for _ in 0..600 {
            let found = TOLD
                .lock()
                .unwrap()
                .iter()
                .any(|line| line.contains(&self.address) && words.iter().all(|word| line.contains(word)));
            if found {
                assert!(!self.task.is_finished());
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it was not told {words:?} but {:#?}", TOLD.lock().unwrap());
    }

    /// Why it gave up.
    pub(crate) async fn gives_up(self) -> String {
        let ended = tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
        ended.unwrap_err().to_string()
    }
}

pub(crate) fn tls(dir: &Path) -> LinkArgs {
    LinkArgs { tls_dir: Some(dir.to_owned()), ..Default::default() }
}

/// As a flag takes it.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
