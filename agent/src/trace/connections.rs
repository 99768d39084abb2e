//! How many TCP connections to the target are established, as the kernel's own table has them: no cost on the request
//! path. The table is of the network namespace, so processes that share it see each other's connections too.

use std::os::unix::fs::MetadataExt;

/// As /proc prints it.
const ESTABLISHED: &str = "01";

/// Connections to `port`; `None` where there is no table.
pub(crate) fn established(port: u16) -> Option<u32> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"].map(|path| std::fs::read_to_string(path).ok());
    if tables.iter().all(Option::is_none) {
        return None;
    }
    Some(tables.into_iter().flatten().map(|table| count(&table, port)).sum())
}

/// Names the network namespace, so that two agents in one are not counted twice.
pub(crate) fn scope() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let inode = std::fs::metadata("/proc/self/ns/net").map_or(0, |meta| meta.ino());
    format!("{}/{inode}", boot.trim())
}

fn count(table: &str, port: u16) -> u32 {
    let suffix = format!(":{port:04X}");
    let is_ours = |line: &&str| {
        let mut words = line.split_ascii_whitespace().skip(2);
        words.next().is_some_and(|remote| remote.ends_with(&suffix)) && words.next() == Some(ESTABLISHED)
    };
    table.lines().skip(1).filter(is_ours).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_established_ones_to_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
             1: 0100007F:1F90 0100007F:C350 01 00000000:00000000\n\
             2: 0100007F:C350 0100007F:1F90 01 00000000:00000000\n\
             3: 0100007F:C351 0100007F:1F90 06 00000000:00000000\n\
             4: 0100007F:C352 0100007F:1F91 01 00000000:00000000\n";
        assert_eq!(
            count(table, 8080),
            1,
            "the listener, the server's end, TIME_WAIT and another port do not"
        );
    }

    #[test]
    fn a_connection_of_this_process_is_seen() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        assert_eq!(established(port), Some(0));
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(established(port), Some(1));
        assert!(scope().len() > 10);
    }
}
