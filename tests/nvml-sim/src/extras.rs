//! What a script says of evidence beside levels: errors, slow calls, XIDs, MIG, processes, links, transfers.
//!
//! | statement | meaning |
//! |---|---|
//! | `error energy_field 4 [after 2s] [until 3s]` | the call answers this code (4: no permission) for that time |
//! | `takes energy_field 20ms [after 2s] [until 3s]` | this call sleeps so long, beside what `call_takes` says |
//! | `xid 0 79 2s` | GPU 0 has XID 79 at this time |
//! | `mig 0 2` | GPU 0 is split into two MIG instances: it tells no utilisation and no GPM of its own |
//! | `process 0 4242 1024` | process 4242 runs on GPU 0 with 1024 MiB; `process 0 4242 1024 2s 5s`: between these times |
//! | `transfer 2s 5s rx=12000 tx=50` | PCIe moves so many MiB/s to and from the cards between these times |
//! | `nvlink` | the cards have NVLink, which moves nothing |
//! | `link 5 16` | PCIe generation and width now; the most that these cards can is 5 and 16 |

use crate::board::Code;
use crate::script::{Call, duration, named_call, number};

/// The least and the most that PCIe moves between two times, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Transfer {
    from_ns: i64,
    to_ns: i64,
    rx_mib_s: u32,
    tx_mib_s: u32,
}

/// A process on a GPU between two times, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) gpu: u32,
    pub(crate) pid: u32,
    pub(crate) used_mib: u32,
    from_ns: i64,
    to_ns: i64,
}

/// The statements of this module, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extras {
    errors: Vec<(Call, Code, i64, i64)>,
    takes: Vec<(Call, i64, i64, i64)>,
    xids: Vec<(u32, u64, i64)>,
    mig: Vec<(u32, u32)>,
    processes: Vec<Process>,
    transfers: Vec<Transfer>,
    link: Option<(u32, u32)>,
    pub(crate) nvlink: bool,
}

impl Extras {
    /// Takes a statement in; false when it is none of these.
    pub(crate) fn take(&mut self, words: &[&str]) -> Result<bool, String> {
        let whole = |text: &str| number(text).ok_or_else(|| format!("expected a number, got {text}"));
        match words {
            ["error", call, code, when @ ..] => {
                let (from, to) = between(when)?;
                self.errors.push((named_call(call)?, whole(code)?, from, to));
            }
            ["takes", call, time, when @ ..] => {
                let (from, to) = between(when)?;
                self.takes.push((named_call(call)?, duration(time)?, from, to));
            }
            ["xid", gpu, xid, time] => {
                self.xids.push((whole(gpu)?, u64::from(whole(xid)?), duration(time)?));
            }
            ["mig", gpu, instances] => self.mig.push((whole(gpu)?, whole(instances)?)),
            ["process", gpu, pid, mib, when @ ..] => {
                let (from_ns, to_ns) = match when {
                    [] => (i64::MIN, i64::MAX),
                    [from, to] => (duration(from)?, duration(to)?),
                    _ => return Err("process takes a GPU, a pid, MiB, and maybe two times".to_owned()),
                };
                let (gpu, pid, used_mib) = (whole(gpu)?, whole(pid)?, whole(mib)?);
                self.processes.push(Process { gpu, pid, used_mib, from_ns, to_ns });
            }
            ["transfer", from, to, rates @ ..] => self.transfer(duration(from)?, duration(to)?, rates)?,
            ["nvlink"] => self.nvlink = true,
            ["link", generation, width] => self.link = Some((whole(generation)?, whole(width)?)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn transfer(&mut self, from_ns: i64, to_ns: i64, rates: &[&str]) -> Result<(), String> {
        let mut transfer = Transfer { from_ns, to_ns, rx_mib_s: 0, tx_mib_s: 0 };
        for rate in rates {
            let bad = || format!("expected rx=NUMBER or tx=NUMBER, got {rate}");
            let (name, amount) = rate.split_once('=').ok_or_else(bad)?;
            let to = match name {
                "rx" => &mut transfer.rx_mib_s,
                "tx" => &mut transfer.tx_mib_s,
                _ => return Err(bad()),
            };
            *to = number(amount).ok_or_else(bad)?;
        }
        self.transfers.push(transfer);
        Ok(())
    }

    /// The code that a call answers at a time, when it is an error.
    pub(crate) fn error(&self, call: Call, at_ns: i64) -> Option<Code> {
        let holds = |&&(of, _, from, to): &&(Call, Code, i64, i64)| of == call && (from..to).contains(&at_ns);
        self.errors.iter().find(holds).map(|&(_, code, _, _)| code)
    }

    /// How long a call that is made at a time takes, beside what every call does, ns.
    pub(crate) fn takes_ns(&self, call: Call, at_ns: i64) -> i64 {
        let holds = |&&(of, _, from, to): &&(Call, i64, i64, i64)| of == call && (from..to).contains(&at_ns);
        self.takes.iter().filter(holds).map(|(_, ns, ..)| ns).sum()
    }

    /// XIDs of a GPU in (from, to], ns.
    pub(crate) fn xid(&self, gpu: u32, from_ns: i64, to_ns: i64) -> Option<(i64, u64)> {
        let within = |&&(of, _, at): &&(u32, u64, i64)| of == gpu && at > from_ns && at <= to_ns;
        self.xids.iter().filter(within).map(|&(_, xid, at)| (at, xid)).min()
    }

    /// MIG instances of a GPU; `None` when it is not split.
    pub(crate) fn mig(&self, gpu: u32) -> Option<u32> {
        self.mig.iter().find(|(of, _)| *of == gpu).map(|(_, instances)| *instances)
    }

    /// What runs on a GPU at a time.
    pub(crate) fn processes(&self, gpu: u32, at_ns: i64) -> impl Iterator<Item = Process> {
        let runs = move |p: &Process| p.gpu == gpu && (p.from_ns..p.to_ns).contains(&at_ns);
        self.processes.iter().copied().filter(runs)
    }

    /// What PCIe moves to and from a card at a time, MiB/s.
    pub(crate) fn pcie_mib_s(&self, at_ns: i64) -> (u32, u32) {
        let now = self.transfers.iter().filter(|t| (t.from_ns..t.to_ns).contains(&at_ns));
        now.fold((0, 0), |(rx, tx), t| (rx + t.rx_mib_s, tx + t.tx_mib_s))
    }

    /// PCIe generation and width.
    pub(crate) fn link(&self) -> (u32, u32) {
        self.link.unwrap_or(crate::identity_abi::BEST_LINK)
    }
}

fn between(words: &[&str]) -> Result<(i64, i64), String> {
    match words {
        [] => Ok((i64::MIN, i64::MAX)),
        ["after", from] => Ok((duration(from)?, i64::MAX)),
        ["until", to] => Ok((i64::MIN, duration(to)?)),
        ["after", from, "until", to] => Ok((duration(from)?, duration(to)?)),
        _ => Err("expected nothing, or `after TIME`, or `until TIME`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Script;

    const S: i64 = 1_000_000_000;

    #[test]
    fn errors_and_events_hold_for_their_times() {
        let script: Script =
            "error energy_field 4\nerror gpm_sample 999 after 1s until 2s\nxid 1 79 3s\nmig 0 2\nprocess 0 7 64 1s 2s\ntransfer 1s 2s rx=100 tx=5".parse().unwrap();
        let extras = &script.extras;
        assert_eq!(extras.error(Call::EnergyField, 0), Some(4));
        assert_eq!([S - 1, S, 2 * S].map(|at| extras.error(Call::GpmSample, at)), [None, Some(999), None]);
        assert_eq!([2 * S, 3 * S - 1, 3 * S].map(|at| extras.xid(1, 0, at)), [None, None, Some((3 * S, 79))]);
        assert_eq!(extras.xid(1, 3 * S, 9 * S), None);
        assert_eq!((extras.mig(0), extras.mig(1)), (Some(2), None));
        assert_eq!([0, S, 2 * S].map(|at| extras.processes(0, at).count()), [0, 1, 0]);
        assert_eq!([0, S, 2 * S].map(|at| extras.pcie_mib_s(at)), [(0, 0), (100, 5), (0, 0)]);
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in ["error nothing 4", "error energy x", "takes energy", "process 0 1", "transfer 1s 2s up=4"]
        {
            assert!(bad.parse::<Script>().is_err(), "{bad}");
        }
    }
}
