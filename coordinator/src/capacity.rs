//! Can this coordinator hold so many nodes? Asked before it waits for them: what would fail for certain is refused, with
//! what to raise.

use tailcliff_agent::host_check::raise_descriptors;

use crate::door::UNKNOWN;

/// Connections of a node: control, clock, bulk.
const CONNECTIONS: u64 = 3;
/// File descriptors that are no node's: listeners, runtimes, the journal, the outputs, and on each of the two ports as many
/// strangers as may be there at a time, so that none of them takes a node's.
const SLACK: u64 = 128 + 2 * UNKNOWN as u64;

/// Raises the limit of open files as far as this process may, and judges a fleet by it.
///
/// # Errors
/// In words, when the fleet cannot fit.
pub fn check(nodes: u64) -> Result<(), String> {
    let limit = raise_descriptors().map_or(u64::MAX, |(_, limit)| limit);
    judge(nodes, limit)
}

fn judge(nodes: u64, limit: u64) -> Result<(), String> {
    let need = nodes.saturating_mul(CONNECTIONS).saturating_add(SLACK);
    if need <= limit {
        return Ok(());
    }
    let most = limit.saturating_sub(SLACK) / CONNECTIONS;
    Err(format!(
        "{nodes} nodes need {need} file descriptors, the limit is {limit}, enough for {most} nodes: try `ulimit -Hn {need}` \
         as root, LimitNOFILE= of a systemd unit, or fewer agents with more streams each"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_that_cannot_fit_is_refused_with_what_to_raise() {
        assert_eq!(judge(1_000, 3_640), Ok(()));
        let error = judge(1_000, 3_639).unwrap_err();
        for part in ["1000 nodes need 3640", "the limit is 3639", "enough for 999 nodes", "ulimit -Hn 3640"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert!(judge(u64::MAX, 1 << 20).is_err());
    }
}
