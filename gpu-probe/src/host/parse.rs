//! What the kernel's text files say: pure functions that take anything and answer `None` for what is not there, or is not
//! a number.

use std::ops::RangeInclusive;

/// Of /proc/vmstat: reads from block devices, bytes, and major faults, both since boot. `pgpgin` is used and not
/// /proc/diskstats: it is counted once where a read is submitted, so that partitions, device mapper and RAID do not count
/// it again; reads over network file systems are not in it.
pub(crate) fn vmstat(text: &str) -> (Option<u64>, Option<u64>) {
    let named = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse::<u64>().ok()
    };
    // The kernel counts sectors and shows KiB.
    (named("pgpgin").and_then(|kib| kib.checked_mul(1024)), named("pgmajfault"))
}

/// Of /proc/meminfo: the page cache, bytes.
pub(crate) fn page_cache(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Cached:"))?;
    let (number, unit) = line.trim().split_once(' ')?;
    if unit.trim() != "kB" {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// Of a file under /proc/pressure: µs since boot in which some task stood still, and in which all did.
pub(crate) fn pressure(text: &str) -> (Option<u64>, Option<u64>) {
    let total = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        line.split_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
    };
    (total("some"), total("full"))
}

/// Of the first line of /proc/stat: ticks of all CPUs together that were busy and that were idle. Waiting for a disk is
/// idle; what a hypervisor took is busy, since this host could not have it.
pub(crate) fn cpu_ticks(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are within user, old kernels end early.
    let &[user, nice, system, idle, ..] = ticks.as_slice() else { return None };
    let later = |i: usize| ticks.get(i).copied().unwrap_or(0);
    let sum = |all: &[u64]| all.iter().try_fold(0u64, |sum, &ticks| sum.checked_add(ticks));
    Some((sum(&[user, nice, system, later(5), later(6), later(7)])?, sum(&[idle, later(4)])?))
}

/// Of /proc/net/dev: name, bytes received and bytes sent of each interface.
pub(crate) fn interfaces(text: &str) -> Vec<(&str, u64, u64)> {
    text.lines().filter_map(interface).collect()
}

fn interface(line: &str) -> Option<(&str, u64, u64)> {
    let (name, counts) = line.split_once(':')?;
    let mut counts = counts.split_whitespace();
    let received = counts.next()?.parse().ok()?;
    let sent = counts.nth(7)?.parse().ok()?;
    Some((name.trim(), received, sent))
}

/// One process, of /proc/PID/stat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) parent: u32,
    /// Ticks on a CPU, its threads together, in user mode and in the kernel. As of the faults, those of its children that
    /// have ended count with it.
    pub(crate) cpu_ticks: u64,
    pub(crate) major_faults: u64,
    /// In ticks since boot: with the pid, its identity.
    pub(crate) started: u64,
    pub(crate) rss_pages: u64,
}

/// Reads /proc/PID/stat; `None` also of a zombie. The name in it may hold anything, also brackets, spaces and no UTF-8.
pub(crate) fn process(stat: &[u8]) -> Option<Process> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let rest = std::str::from_utf8(&stat[after_name..]).ok()?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    // One that has ended, and that nobody has asked how, takes nothing any more.
    if matches!(words.first(), Some(&("Z" | "X" | "x"))) {
        return None;
    }
    // proc(5) numbers the fields from 1; the state, the third, is the first after the name.
    let field = |number: usize| words.get(number - 3)?.parse::<u64>().ok();
    let sum = |numbers: RangeInclusive<usize>| {
        numbers.map(field).try_fold(0u64, |sum, ticks| sum.checked_add(ticks?))
    };
    Some(Process {
        parent: u32::try_from(field(4)?).ok()?,
        major_faults: sum(12..=13)?,
        cpu_ticks: sum(14..=17)?,
        started: field(22)?,
        rss_pages: field(24)?,
    })
}

/// Of /proc/PID/io: bytes that it had a block device read.
pub(crate) fn read_bytes(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("read_bytes:"))?.trim().parse().ok()
}

/// Inodes of the sockets that listen on a port, of /proc/net/tcp or tcp6.
pub(crate) fn listeners(text: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let inode = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = words.get(1)?.rsplit_once(':')?;
        let mine = u16::from_str_radix(local, 16).ok()? == port && *words.get(3)? == LISTEN;
        let inode = words.get(9)?.parse().ok()?;
        (mine && inode != 0).then_some(inode)
    };
    text.lines().filter_map(inode).collect()
}

/// Of a link under /proc/PID/fd: the inode, if it is a socket.
pub(crate) fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VMSTAT: &str =
        "nr_free_pages 261871\npgpgin 1234\npgpgout 99\npswpin 0\npgfault 6000\npgmajfault 77\n";
    const MEMINFO: &str = "MemTotal:       24631752 kB\nBuffers:   5 kB\nCached:          8123456 kB\nSwapCached:            1 kB\n";
    const PRESSURE: &str = "some avg10=0.00 avg60=0.05 avg300=0.01 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=789\n";
    const STAT: &str = "cpu  10 20 30 400 50 6 7 8 9 1\ncpu0 1 2 3 4\nintr 5 6\n";
    const NET: &str = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo: 500      5    0    0    0     0          0         0  500       5    0    0    0     0       0          0\n  eth0:1000     10    0    0    0     0          0         0     2000       7    0    0    0     0       0          0\n";
    const PROCESS: &[u8] = b"4321 (a (b) c) S 17 4321 4321 0 -1 4194560 900 80 7 6 120 35 11 12 20 0 9 0 5555 100000 2048 18446744073709551615 1";
    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 424242 1 0000000000000000 100 0 0 10 0\n   1: 0100007F:1F40 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 424243 1 0000000000000000 20 4 30 10 -1\n";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 00000000000000000000000000000000:1F40 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 555 1 0000000000000000 100 0 0 10 0\n";

    #[test]
    fn each_file_is_read_as_the_kernel_writes_it() {
        assert_eq!(vmstat(VMSTAT), (Some(1234 * 1024), Some(77)));
        assert_eq!(page_cache(MEMINFO), Some(8_123_456 * 1024));
        assert_eq!(pressure(PRESSURE), (Some(123_456), Some(789)));
        assert_eq!(cpu_ticks(STAT), Some((10 + 20 + 30 + 6 + 7 + 8, 450)));
        assert_eq!(interfaces(NET), [("lo", 500, 500), ("eth0", 1000, 2000)]);
        let process = process(PROCESS).unwrap();
        let expected =
            Process { parent: 17, cpu_ticks: 178, major_faults: 13, started: 5555, rss_pages: 2048 };
        assert_eq!(process, expected);
        assert_eq!(read_bytes("rchar: 9\nread_bytes: 4096\ncancelled_write_bytes: 0\n"), Some(4096));
        assert_eq!(listeners(TCP, 8000), [424_242], "not the connection to it");
        assert_eq!((listeners(TCP6, 8000), listeners(TCP, 8001)), (vec![555], vec![]));
        assert_eq!((socket_inode("socket:[17]"), socket_inode("pipe:[17]")), (Some(17), None));
    }

    #[test]
    fn other_kernels_leave_things_out_and_nothing_becomes_0() {
        assert_eq!(vmstat("pgpgout 3\nworkingset_refault 1\n"), (None, None));
        assert_eq!(vmstat("pgpgin_x 3\npgmajfault many\n"), (None, None));
        assert_eq!(page_cache("Cached: 5 pages\n"), None);
        // Before Linux 5.13 the CPU's pressure had no second line.
        assert_eq!(pressure("some avg10=0.00 total=5\n"), (Some(5), None));
        // Linux 2.4 had four figures.
        assert_eq!(cpu_ticks("cpu  1 2 3 4\n"), Some((6, 4)));
        assert_eq!(
            (cpu_ticks("cpu  1 2 3\n"), cpu_ticks("cpu0 1 2 3 4\n"), cpu_ticks("")),
            (None, None, None)
        );
        assert_eq!(process(b"1 (init) S"), None);
        let zombie = String::from_utf8_lossy(PROCESS).replace(") S ", ") Z ");
        assert_eq!(process(zombie.as_bytes()), None);
        assert_eq!(read_bytes(""), None);
        assert_eq!(cpu_ticks(&format!("cpu {0} {0} 1 1", u64::MAX)), None, "no sum that wraps");
    }

    proptest! {
        #[test]
        fn mangled_text_is_never_a_panic(cut in 0usize..600, at in 0usize..600, byte in any::<u8>()) {
            for text in [VMSTAT, MEMINFO, PRESSURE, STAT, NET, TCP, TCP6] {
                let mut bytes = text.as_bytes().to_vec();
                bytes.truncate(cut);
                if let Some(spot) = bytes.get_mut(at) {
                    *spot = byte;
                }
                let text = String::from_utf8_lossy(&bytes);
                let _all = (vmstat(&text), page_cache(&text), pressure(&text), cpu_ticks(&text));
                let _more = (interfaces(&text), read_bytes(&text), listeners(&text, 8000));
            }
        }

        #[test]
        fn anything_is_a_process_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..150) {
            let _read = process(&bytes);
            if let Some(read) = process(&PROCESS[..cut.min(PROCESS.len())]) {
                // A file cut within the last number that is read is a smaller number, and nothing else is wrong.
                prop_assert_eq!((read.parent, read.cpu_ticks, read.started), (17, 178, 5555));
            }
        }

        #[test]
        fn whatever_its_name_a_process_is_found(name in proptest::collection::vec(any::<u8>(), 0..16)) {
            let mut stat = b"4321 (".to_vec();
            stat.extend(&name);
            stat.extend(&PROCESS[b"4321 (a (b) c".len()..]);
            prop_assert_eq!(process(&stat), process(PROCESS));
        }
    }
}
