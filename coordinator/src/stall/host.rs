//! What the server's host did during a stall: CPU of the server's processes, and time in which something waited for disks. It
//! decides no verdict, and says more of one.

use tailcliff_proto::v1::{self, NodeKind};

use crate::merge::tally::of_kind;
use crate::merge::timeline::Timeline;
use crate::stored::RunData;

use super::gaps::Gap;
use super::place;

/// Samples that are kept at most: 6 days at 200 ms.
const MOST: usize = 1 << 22;
/// A sample from further away than this says nothing of a stall, ns.
const NEAR_NS: i64 = 1_000_000_000;

/// The server's host over a stall.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostView {
    /// Cores that the server's processes used on average.
    pub server_cores: Option<f64>,
    /// Share of the time in which some task waited for disks.
    pub io_share: Option<f64>,
}

/// (when, CPU ns of the server's processes, µs of waiting for disks) by time.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    samples: Vec<(i64, Option<i64>, Option<u64>)>,
}

impl Hosts {
    /// Of the first probe that tells of the server's processes, or else of the first.
    pub(super) fn read(data: &RunData, timeline: &Timeline, gaps: &[Gap]) -> Self {
        if gaps.is_empty() {
            return Self::default();
        }
        let of_probe = |(of, node): (u64, &crate::stored::Node)| {
            let mut samples = Vec::new();
            for batch in node.each_batch_with_host_samples() {
                let kept = |s: &v1::HostSample| {
                    Some((place(timeline, of, s.raw_ns)?.ns, s.server_cpu_ns, s.io_some_us))
                };
                samples
                    .extend(batch.host_samples.iter().filter_map(kept).take(MOST - samples.len().min(MOST)));
            }
            samples.sort_unstable();
            samples
        };
        let mut all: Vec<_> = of_kind(data, NodeKind::GpuProbe).into_iter().map(of_probe).collect();
        let telling = all.iter().position(|samples| samples.iter().any(|s| s.1.is_some())).unwrap_or(0);
        Self { samples: if all.is_empty() { Vec::new() } else { all.swap_remove(telling) } }
    }

    /// From the last sample before it to the first after it.
    pub(super) fn view(&self, gap: &Gap) -> HostView {
        let next = self.samples.partition_point(|s| s.0 < gap.to_ns);
        let last = self.samples.partition_point(|s| s.0 <= gap.from_ns);
        let before = last.checked_sub(1).and_then(|i| self.samples.get(i));
        let (Some(a), Some(b)) = (before, self.samples.get(next)) else { return HostView::default() };
        if a.0 < gap.from_ns - NEAR_NS || b.0 > gap.to_ns + NEAR_NS || b.0 <= a.0 {
            return HostView::default();
        }
        let wall = (b.0 - a.0) as f64;
        // A counter that fell is another process's.
        let cpu = a.1.zip(b.1).and_then(|(a, b)| b.checked_sub(a)).filter(|ns| *ns >= 0);
        let io = a.2.zip(b.2).and_then(|(a, b)| b.checked_sub(a));
        HostView {
            server_cores: cpu.map(|ns| ns as f64 / wall),
            io_share: io.map(|us| (us as f64 * 1e3 / wall).min(1.0)),
        }
    }
}
