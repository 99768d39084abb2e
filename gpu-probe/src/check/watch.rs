//! Looks at every GPU again and again, on absolute deadlines, and shows what it sees.

use std::io;
use std::time::Duration;

use nvml_wrapper::Nvml;
use tailcliff_proto::clock::HostClock;
use tokio_util::sync::CancellationToken;

use super::reading::{self, Power, Reading};
use super::screen::Screen;
use super::text;
use crate::sampler::{next_deadline, sleep_until};

/// Longest wait before an interrupt is heeded, ns.
const SLICE_NS: i64 = 100_000_000;
/// Readings that are kept at most; the watch ends there.
const MOST_READINGS: usize = 1_000_000;

/// How long, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) interval: Duration,
    pub(crate) length: Duration,
}

/// Watches the GPUs of these indices; what was seen when it is interrupted, or when nobody reads and nothing is kept.
///
/// # Errors
/// When it cannot be shown.
pub(crate) fn watch(
    nvml: &Nvml,
    gpus: &[u32],
    pace: Pace,
    screen: &mut Screen<'_>,
    is_kept: bool,
    stop: &CancellationToken,
) -> io::Result<Vec<Reading>> {
    let interval = i64::try_from(pace.interval.as_nanos()).unwrap_or(i64::MAX).max(1);
    let length = i64::try_from(pace.length.as_nanos()).unwrap_or(i64::MAX);
    let mut all = Vec::new();
    if length == 0 || gpus.is_empty() {
        return Ok(all);
    }
    screen.say(&[String::new()])?;
    if !screen.is_terminal() {
        screen.say(&[text::heading()])?;
    }
    let (start, start_raw) = (HostClock.monotonic(), HostClock.now());
    let mut due = start;
    while due.saturating_sub(start) < length && all.len() < MOST_READINGS && !stop.is_cancelled() {
        let devices = gpus.iter().filter_map(|&gpu| Some((gpu, nvml.device_by_index(gpu).ok()?)));
        let t_s = || (HostClock.now() - start_raw) as f64 / 1e9;
        let now: Vec<Reading> = devices.map(|(gpu, device)| reading::read(&device, gpu, t_s())).collect();
        let rows = now.iter().map(text::row);
        if screen.is_terminal() {
            screen.show(&std::iter::once(text::heading()).chain(rows).collect::<Vec<_>>())?;
        } else {
            screen.say(&rows.collect::<Vec<_>>())?;
        }
        all.extend(now);
        if screen.is_closed() && !is_kept {
            break;
        }
        due = next_deadline(due, HostClock.monotonic(), interval);
        while HostClock.monotonic() < due && !stop.is_cancelled() {
            sleep_until(due.min(HostClock.monotonic() + SLICE_NS));
        }
    }
    Ok(all)
}

/// The readings as CSV.
pub(crate) fn csv(readings: &[Reading]) -> String {
    let mut out =
        "t_s,gpu,mem_used_bytes,mem_total_bytes,gpu_util_pct,mem_util_pct,power_w,power_kind,temperature_c\n"
            .to_owned();
    for r in readings {
        let cells = [
            format!("{:.6}", r.t_s),
            r.gpu.to_string(),
            cell(r.memory_used_bytes),
            cell(r.memory_total_bytes),
            cell(r.gpu_util_pct),
            cell(r.mem_util_pct),
            cell(r.power_mw.map(|mw| format!("{}.{:03}", mw / 1000, mw % 1000))),
            cell(r.power_kind.map(Power::word)),
            cell(r.temperature_c),
        ];
        out.push_str(&cells.join(","));
        out.push('\n');
    }
    out
}

fn cell<T: ToString>(value: Option<T>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_told_is_an_empty_cell() {
        let reading = Reading {
            t_s: 0.25,
            gpu: 1,
            power_mw: Some(75_040),
            power_kind: Some(Power::Average),
            ..Reading::default()
        };
        assert_eq!(csv(&[reading]).lines().nth(1), Some("0.250000,1,,,,,75.040,average,"));
    }
}
