//! What the simulated driver keeps or counts by itself: buffers of stamped samples, and performance counters between two
//! moments. All follow from a script's levels and energy.

use crate::script::{Call, Levels, Script};
use crate::sensor::Quantity;

/// Time between two entries of the power buffer, ns; of the utilisation buffers. As an H100 was seen to do.
const POWER_ENTRY_NS: i64 = 20_000_000;
const UTIL_ENTRY_NS: i64 = 200_000_000;
/// Entries that a buffer holds.
const ENTRIES: i64 = 120;
/// Levels between two moments are looked at this often at most.
const LOOKS: i64 = 500;

/// `nvmlSamplingType_t`, of those that are simulated.
pub(crate) fn buffer(kind: u32) -> Option<Call> {
    [Call::PowerSamples, Call::UtilSamples, Call::MemUtilSamples].get(kind as usize).copied()
}

/// Entries of a buffer at a time that end after another time: (when each ends, value: mW or %). Times are ns since the
/// origin.
pub(crate) fn entries(script: &Script, gpu: u32, of: Call, at_ns: i64, after_ns: i64) -> Vec<(i64, u32)> {
    let scripted = script.sensor(Quantity::PowerSamples).map_or(POWER_ENTRY_NS, |sensor| sensor.period_ns);
    let step = if of == Call::PowerSamples { scripted } else { UTIL_ENTRY_NS };
    let last = at_ns.max(0) / step;
    let first = (after_ns.max(0) / step + 1).max(last - ENTRIES + 1).max(1);
    let value = |end: i64| match of {
        Call::PowerSamples => mean_mw(script, gpu, end - step, end),
        Call::UtilSamples => mean(script, gpu, end - step, end, |l| l.util).round() as u32,
        _ => mean(script, gpu, end - step, end, |l| l.mem_util).round() as u32,
    };
    (first..=last).map(|i| (i * step, value(i * step))).collect()
}

fn mean_mw(script: &Script, gpu: u32, from_ns: i64, to_ns: i64) -> u32 {
    let mj = script.energy_mj(gpu, to_ns).saturating_sub(script.energy_mj(gpu, from_ns));
    u32::try_from(u128::from(mj) * 1_000_000_000 / (to_ns - from_ns).max(1).unsigned_abs() as u128)
        .unwrap_or(u32::MAX)
}

fn mean(script: &Script, gpu: u32, from_ns: i64, to_ns: i64, of: impl Fn(Levels) -> u32) -> f64 {
    let length = (to_ns - from_ns).max(1);
    let step = (length / LOOKS).max(1_000_000).min(length);
    let looks = (length / step).max(1);
    let seen = (0..looks).map(|i| f64::from(of(script.levels(gpu, from_ns + i * step + step / 2))));
    seen.sum::<f64>() / looks as f64
}

/// A metric of GPM between two moments; `None` for one that these cards have not.
pub(crate) fn metric(script: &Script, gpu: u32, id: u32, from_ns: i64, to_ns: i64) -> Option<f64> {
    let busy = || mean(script, gpu, from_ns, to_ns, |l| l.util);
    let pcie = |of: fn((u32, u32)) -> u32| {
        let looks = (0..100).map(|i| from_ns + (to_ns - from_ns) * (2 * i + 1) / 200);
        looks.map(|at| f64::from(of(script.extras.pcie_mib_s(at)))).sum::<f64>() / 100.0
    };
    Some(match id {
        1 | 2 => busy(),
        // Half of the warps, and most of the time tensor cores: such is decoding of a small model here.
        3 => busy() / 2.0,
        5 => busy() * 0.6,
        10 => mean(script, gpu, from_ns, to_ns, |l| l.mem_util),
        20 => pcie(|(_, tx)| tx),
        21 => pcie(|(rx, _)| rx),
        60 | 61 if script.extras.nvlink => 0.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;
    const MS: i64 = 1_000_000;

    #[test]
    fn buffers_hold_the_newest_entries_and_their_means_are_true() {
        let script: Script = "phase 1s power_w=100 util=0\nphase 1s power_w=300 util=100".parse().unwrap();
        let power = entries(&script, 0, Call::PowerSamples, S + 45 * MS, S - 30 * MS);
        assert_eq!(
            power,
            [(980 * MS, 100_000), (S, 100_000), (S + 20 * MS, 300_000), (S + 40 * MS, 300_000)]
        );
        assert_eq!(entries(&script, 0, Call::PowerSamples, 20 * S, 0).len(), 120);
        assert_eq!(
            entries(&script, 0, Call::UtilSamples, S + 250 * MS, 900 * MS),
            [(S, 0), (S + 200 * MS, 100)]
        );
    }

    #[test]
    fn metrics_are_means_between_the_two_moments() {
        let script: Script =
            "phase 1s util=0\nphase 1s util=80 mem_util=50\ntransfer 0s 1s rx=1000".parse().unwrap();
        let of = |id| metric(&script, 0, id, S - 100 * MS, S + 100 * MS);
        assert_eq!((of(2), of(10), of(21), of(20)), (Some(40.0), Some(25.0), Some(500.0), Some(0.0)));
        assert_eq!((of(60), of(7)), (None, None));
    }
}
