//! What the server's host tells besides its GPUs: disk reads, page cache, faults, network, CPU, pressure, and what the
//! server's own processes took. Files under /proc alone, no root needed; what a host does not tell is absent.

mod file;
mod parse;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{SysconfVar, sysconf};
use nvml_wrapper::Nvml;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;

use crate::nvml::Found;
use crate::nvml::processes::others;
use crate::sampler::HostReader;
use file::ProcFile;
use server::Tracked;

/// How the server's processes are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// By the number of the process that was started; its descendants count with it.
    Pid(u32),
    /// By the TCP port that it listens on, on this host; found again when it was started anew.
    Port(u16),
}

/// The server's processes as they are now, without their descendants.
///
/// # Errors
/// In words, why none is found.
pub fn processes_of(server: Server) -> Result<Vec<u32>, String> {
    Tracked::new(server, Path::new("/proc")).find()
}

/// Reads this host.
#[derive(Debug)]
pub struct HostSource {
    files: Files,
    cards: Cards,
    server: Option<Tracked>,
    troubles: Vec<String>,
    ns_per_tick: u64,
    page_bytes: u64,
}

#[derive(Debug)]
struct Files {
    vmstat: ProcFile,
    meminfo: ProcFile,
    stat: ProcFile,
    net: ProcFile,
    cpu: ProcFile,
    memory: ProcFile,
    io: ProcFile,
}

/// Which network interfaces are hardware: bridges, bonds and tunnels count the same bytes again.
#[derive(Debug)]
struct Cards {
    net: PathBuf,
    known: BTreeMap<String, bool>,
}

impl HostSource {
    /// Over this host; with a server's processes when they are named.
    pub fn new(server: Option<Server>) -> Self {
        Self::over(Path::new("/"), server)
    }

    /// Over a tree that looks like `/`.
    fn over(root: &Path, server: Option<Server>) -> Self {
        let proc = root.join("proc");
        let open = |name: &str| ProcFile::open(&proc.join(name));
        let files = Files {
            vmstat: open("vmstat"),
            meminfo: open("meminfo"),
            stat: open("stat"),
            net: open("net/dev"),
            cpu: open("pressure/cpu"),
            memory: open("pressure/memory"),
            io: open("pressure/io"),
        };
        let system =
            |what, usual| sysconf(what).ok().flatten().and_then(|n| u64::try_from(n).ok()).unwrap_or(usual);
        Self {
            files,
            cards: Cards { net: root.join("sys/class/net"), known: BTreeMap::new() },
            server: server.map(|server| Tracked::new(server, &proc)),
            troubles: Vec::new(),
            ns_per_tick: 1_000_000_000 / system(SysconfVar::CLK_TCK, 100).max(1),
            page_bytes: system(SysconfVar::PAGE_SIZE, 4096),
        }
    }

    /// One reading, stamped as it begins.
    pub fn sample(&mut self) -> v1::HostSample {
        let raw_ns = HostClock.now();
        let mut sample = v1::HostSample { raw_ns, ..Default::default() };
        if let Some(text) = self.files.vmstat.text() {
            (sample.disk_read_bytes, sample.major_faults) = parse::vmstat(text);
        }
        sample.page_cache_bytes = self.files.meminfo.text().and_then(parse::page_cache);
        if let Some((received, sent)) = self.files.net.text().and_then(|text| self.cards.sum(text)) {
            (sample.net_rx_bytes, sample.net_tx_bytes) = (Some(received), Some(sent));
        }
        sample.cpu_some_us = self.files.cpu.text().and_then(|text| parse::pressure(text).0);
        if let Some(text) = self.files.memory.text() {
            (sample.memory_some_us, sample.memory_full_us) = parse::pressure(text);
        }
        if let Some(text) = self.files.io.text() {
            (sample.io_some_us, sample.io_full_us) = parse::pressure(text);
        }
        if let Some((busy, idle)) = self.files.stat.text().and_then(parse::cpu_ticks) {
            (sample.cpu_busy_ns, sample.cpu_idle_ns) = (self.ns(busy), self.ns(idle));
        }
        self.sample_server(raw_ns, &mut sample);
        sample
    }

    fn sample_server(&mut self, raw_ns: i64, sample: &mut v1::HostSample) {
        let Some(server) = &mut self.server else { return };
        let (usage, said) = server.sample(raw_ns);
        self.troubles.extend(said);
        sample.server_cpu_ns = usage.cpu_ticks.and_then(|ticks| self.ns(ticks));
        sample.server_rss_bytes = usage.rss_pages.and_then(|pages| pages.checked_mul(self.page_bytes));
        sample.server_major_faults = usage.major_faults;
        sample.server_read_bytes = usage.read_bytes;
    }

    fn ns(&self, ticks: u64) -> Option<i64> {
        i64::try_from(ticks.checked_mul(self.ns_per_tick)?).ok()
    }

    /// The server's processes, as last found; `None` when none were, or none were asked for.
    pub fn server_pids(&self) -> Option<Vec<u32>> {
        self.server.as_ref().map(Tracked::pids).filter(|pids| !pids.is_empty())
    }

    /// What became known of the server since the last call, in words; once per event.
    pub fn troubles(&mut self) -> Vec<String> {
        std::mem::take(&mut self.troubles)
    }
}

impl Cards {
    /// Bytes received and sent over hardware; over everything but the loopback where none is seen, as in a container.
    fn sum(&mut self, text: &str) -> Option<(u64, u64)> {
        let all = parse::interfaces(text);
        let (mut hardware, mut others) = (None, None);
        for (name, received, sent) in all.into_iter().filter(|(name, ..)| *name != "lo") {
            let sum = if self.is_hardware(name) { &mut hardware } else { &mut others };
            let (before_received, before_sent) = sum.unwrap_or((0u64, 0u64));
            *sum = Some((before_received.checked_add(received)?, before_sent.checked_add(sent)?));
        }
        hardware.or(others)
    }

    fn is_hardware(&mut self, name: &str) -> bool {
        if let Some(&known) = self.known.get(name) {
            return known;
        }
        let is = self.net.join(name).join("device").exists();
        self.known.insert(name.to_owned(), is);
        is
    }
}

/// Reads this host, and who else is on its GPUs, into what the sampling threads found.
pub(crate) fn reader(server: Option<Server>, nvml: Option<Arc<Nvml>>) -> HostReader {
    let mut source = HostSource::new(server);
    Box::new(move |found: &mut Found| {
        let mut sample = source.sample();
        let pids = source.server_pids();
        if let Some(all) = pids.zip(nvml.as_deref()).and_then(|(pids, nvml)| others(nvml, &pids)) {
            sample.other_gpu_processes = Some(all.count);
            sample.other_gpu_memory_bytes = all.memory_bytes;
        }
        found.batch.host_samples.push(sample);
        found.troubles.extend(source.troubles());
    })
}

#[cfg(test)]
mod tests;
