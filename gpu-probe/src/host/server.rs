//! The server's own processes: found by pid or by the port that they listen on, with their descendants (an engine often
//! runs in a child of what listens), and found again when the server was started anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tailcliff_proto::clock::HostClock;

use super::Server;
use super::file::ProcFile;
use super::parse::{self, Process};

/// Processes are looked for at least this seldom, ns, …
const LOOK_EVERY_NS: i64 = 1_000_000_000;
/// … and so seldom that looking takes at most one part in this many of a core.
const LOOK_SHARE: i64 = 200;
/// More processes than a server has; the rest are left out, and that is said. Each takes two of the files that this process
/// may have open.
const MOST: usize = 256;

/// What the server's processes took, together, and those of them that have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu_ticks: Option<u64>,
    pub(crate) rss_pages: Option<u64>,
    pub(crate) major_faults: Option<u64>,
    pub(crate) read_bytes: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Tracked {
    server: Server,
    proc: PathBuf,
    /// By pid; the first of each pair is its `stat`, the second its `io`.
    open: BTreeMap<u32, Watched>,
    roots: Vec<(u32, u64)>,
    /// The most that these roots were seen to have taken.
    most: Usage,
    next_look_ns: i64,
    /// Who listened, when nothing was found.
    known: BTreeSet<u64>,
    /// What was last said of it, so that nothing is said twice in a row.
    said: String,
}

#[derive(Debug)]
struct Watched {
    started: u64,
    stat: ProcFile,
    io: ProcFile,
}

impl Tracked {
    pub(crate) fn new(server: Server, proc: &Path) -> Self {
        Self {
            server,
            proc: proc.to_owned(),
            open: BTreeMap::new(),
            roots: Vec::new(),
            most: Usage::default(),
            next_look_ns: i64::MIN,
            known: BTreeSet::new(),
            said: String::new(),
        }
    }

    /// Finds them once: those that the others descend from.
    ///
    /// # Errors
    /// In words, why there are none.
    pub(crate) fn find(mut self) -> Result<Vec<u32>, String> {
        let words = self.look().unwrap_or_default();
        let roots: Vec<u32> = self.roots.iter().map(|(pid, _)| *pid).collect();
        if roots.is_empty() { Err(words) } else { Ok(roots) }
    }

    /// As if the time for it had come.
    #[cfg(test)]
    pub(crate) fn look_next_time(&mut self) {
        self.next_look_ns = i64::MIN;
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.open.keys().copied().collect()
    }

    /// What its processes took so far; all absent while there are none. A line for a person when what is known of the
    /// server has changed.
    pub(crate) fn sample(&mut self, raw_ns: i64) -> (Usage, Option<String>) {
        let mut said = None;
        if raw_ns >= self.next_look_ns || self.has_ended() || self.has_begun() {
            let before = HostClock.now();
            said = self.look();
            let took = HostClock.now() - before;
            self.next_look_ns = raw_ns + LOOK_EVERY_NS.max(took * LOOK_SHARE);
        }
        let mut usage = self.usage();
        usage.hold(&mut self.most);
        (usage, said)
    }

    /// The one process that everything hangs on is gone: its follower is looked for at once, but not at every tick.
    fn has_ended(&mut self) -> bool {
        let Some(&(pid, started)) = self.roots.first() else { return false };
        let now = self.open.get_mut(&pid).and_then(|watched| parse::process(watched.stat.read()?));
        let ended = now.is_none_or(|process| process.started != started);
        if ended {
            self.roots.clear();
        }
        ended
    }

    /// Nothing was found, and now somebody listens whom the last look did not know: looking at one table costs little, so
    /// that a server is found as it comes.
    fn has_begun(&mut self) -> bool {
        let Server::Port(port) = self.server else { return false };
        if !self.roots.is_empty() {
            return false;
        }
        let inodes = self.listeners(port);
        let is_news = !inodes.is_empty() && inodes != self.known;
        self.known = inodes;
        is_news
    }

    fn usage(&mut self) -> Usage {
        let mut sum: Option<Usage> = None;
        for watched in self.open.values_mut() {
            // One that ended since it was found is left out; the rest stands.
            let Some(process) = watched.stat.read().and_then(parse::process) else { continue };
            if process.started != watched.started {
                continue;
            }
            // Of another user's process `io` may not be read: then the sum is not known either.
            let read = watched.io.text().and_then(parse::read_bytes);
            sum = Some(sum.map_or_else(|| Usage::of(&process, read), |sum| sum.plus(&process, read)));
        }
        sum.unwrap_or_default()
    }

    /// Finds the processes anew.
    fn look(&mut self) -> Option<String> {
        let processes = processes(&self.proc);
        let known: Vec<u32> = self.roots.iter().map(|(pid, _)| *pid).collect();
        let found = match self.server {
            // Whose sockets are whose is dear to find out; its children are not.
            _ if !known.is_empty() && self.roots.iter().all(|root| is_same(*root, &processes)) => Ok(known),
            // Once it was seen, another process may have its number.
            Server::Pid(pid) if self.said.is_empty() && processes.contains_key(&pid) => Ok(vec![pid]),
            Server::Pid(pid) => {
                Err(format!("the server's process {pid} is not there: nothing of it is sampled"))
            }
            Server::Port(port) => self.listening(port, &processes),
        };
        let (roots, words) = match found {
            Ok(roots) => {
                let words = self.found(&roots);
                (roots, words)
            }
            Err(words) => (Vec::new(), words),
        };
        let mut tree = descendants(&roots, &processes);
        let words = if tree.len() > MOST {
            format!("{words}; with its children it is more than {MOST}, of which so many are sampled")
        } else {
            words
        };
        tree.truncate(MOST);
        self.open.retain(|pid, watched| tree.contains(pid) && is_same((*pid, watched.started), &processes));
        for pid in tree {
            let Some(process) = processes.get(&pid) else { continue };
            let path = self.proc.join(pid.to_string());
            self.open.entry(pid).or_insert_with(|| Watched {
                started: process.started,
                stat: ProcFile::open(&path.join("stat")),
                io: ProcFile::open(&path.join("io")),
            });
        }
        let roots = roots.iter().filter_map(|pid| Some((*pid, processes.get(pid)?.started))).collect();
        if self.roots != roots {
            (self.roots, self.most) = (roots, Usage::default());
        }
        let news = words != self.said;
        self.said.clone_from(&words);
        news.then_some(words)
    }

    fn found(&self, roots: &[u32]) -> String {
        let names: Vec<String> =
            roots.iter().map(|pid| format!("{} {pid}", name(&self.proc, *pid))).collect();
        format!("the server is process {}", names.join(", "))
    }

    /// The processes that listen on a port; those whose parent does too are found through it.
    fn listening(&self, port: u16, processes: &BTreeMap<u32, Process>) -> Result<Vec<u32>, String> {
        let inodes = self.listeners(port);
        if inodes.is_empty() {
            return Err(format!(
                "nobody listens on port {port} here: a server in a container needs --server-pid instead"
            ));
        }
        let holders: BTreeSet<u32> =
            processes.keys().copied().filter(|&pid| self.holds(pid, &inodes)).collect();
        if holders.is_empty() {
            return Err(format!(
                "port {port} is listened on by another user's process, which cannot be told: run the probe as that user or as root, or name it by --server-pid"
            ));
        }
        if let Some(pid) = holders.iter().find(|&&pid| name(&self.proc, pid) == "docker-proxy") {
            return Err(format!(
                "port {port} belongs to docker-proxy ({pid}), not to the server behind it: name that by --server-pid"
            ));
        }
        let is_root =
            |pid: &u32| !processes.get(pid).is_some_and(|process| holders.contains(&process.parent));
        Ok(holders.iter().copied().filter(is_root).collect())
    }

    /// Sockets that listen on a port, by inode: own entries of this process's network namespace.
    fn listeners(&self, port: u16) -> BTreeSet<u64> {
        let table = |name: &str| {
            let text = fs::read_to_string(self.proc.join("net").join(name)).unwrap_or_default();
            parse::listeners(&text, port)
        };
        table("tcp").into_iter().chain(table("tcp6")).collect()
    }

    fn holds(&self, pid: u32, inodes: &BTreeSet<u64>) -> bool {
        let Ok(links) = fs::read_dir(self.proc.join(pid.to_string()).join("fd")) else { return false };
        let inode = |entry: fs::DirEntry| parse::socket_inode(fs::read_link(entry.path()).ok()?.to_str()?);
        links.filter_map(Result::ok).filter_map(inode).any(|inode| inodes.contains(&inode))
    }
}

impl Usage {
    fn of(process: &Process, read_bytes: Option<u64>) -> Self {
        Self {
            cpu_ticks: Some(process.cpu_ticks),
            rss_pages: Some(process.rss_pages),
            major_faults: Some(process.major_faults),
            read_bytes,
        }
    }

    fn plus(self, process: &Process, read_bytes: Option<u64>) -> Self {
        let sum = |a: Option<u64>, b: Option<u64>| a?.checked_add(b?);
        Self {
            cpu_ticks: sum(self.cpu_ticks, Some(process.cpu_ticks)),
            rss_pages: sum(self.rss_pages, Some(process.rss_pages)),
            major_faults: sum(self.major_faults, Some(process.major_faults)),
            read_bytes: sum(self.read_bytes, read_bytes),
        }
    }

    /// Totals do not fall below the most so far: what a child took is in nobody's until its parent has asked how it ended.
    fn hold(&mut self, most: &mut Self) {
        let hold = |now: &mut Option<u64>, most: &mut Option<u64>| {
            *most = (*now).max(*most);
            *now = now.and(*most);
        };
        hold(&mut self.cpu_ticks, &mut most.cpu_ticks);
        hold(&mut self.major_faults, &mut most.major_faults);
        hold(&mut self.read_bytes, &mut most.read_bytes);
    }
}

/// Every process that can be seen.
fn processes(proc: &Path) -> BTreeMap<u32, Process> {
    let Ok(entries) = fs::read_dir(proc) else { return BTreeMap::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let read = |pid: u32| parse::process(&fs::read(proc.join(pid.to_string()).join("stat")).ok()?);
    pids.filter_map(|pid| Some((pid, read(pid)?))).collect()
}

fn is_same((pid, started): (u32, u64), processes: &BTreeMap<u32, Process>) -> bool {
    processes.get(&pid).is_some_and(|process| process.started == started)
}

fn name(proc: &Path, pid: u32) -> String {
    let name = fs::read(proc.join(pid.to_string()).join("comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim().to_owned()
}

/// `roots` and all whose parents lead to one of them, the nearest first. A circle, which a reused pid can make, ends.
fn descendants(roots: &[u32], processes: &BTreeMap<u32, Process>) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (&pid, process) in processes {
        children.entry(process.parent).or_default().push(pid);
    }
    let (mut all, mut seen) = (roots.to_vec(), roots.iter().copied().collect::<BTreeSet<u32>>());
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let born = children.get(pid).into_iter().flatten().copied();
        let new: Vec<u32> = born.filter(|pid| seen.insert(*pid)).collect();
        all.extend(new);
        next += 1;
    }
    all
}
