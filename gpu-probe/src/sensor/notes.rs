//! What must be said of a sensor, in words, from what was found of it.

use tailcliff_proto::v1::{SensorReport, Signal};

use super::window::Found;

/// A signal's name as the report has it.
pub fn name(signal: Signal) -> &'static str {
    match signal {
        Signal::Unspecified => "unknown",
        Signal::PowerInstant => "instant power",
        Signal::PowerAverage => "plain power",
        Signal::Energy => "energy counter",
        Signal::GpuUtil => "GPU utilisation",
        Signal::MemUtil => "memory utilisation",
        Signal::SmClock => "SM clock",
        Signal::MemClock => "memory clock",
        Signal::MemUsed => "memory in use",
        Signal::Temperature => "temperature",
        Signal::Throttle => "throttle reasons",
        Signal::PowerSamples => "power sample buffer",
        Signal::GpuUtilSamples => "GPU utilisation buffer",
        Signal::MemUtilSamples => "memory utilisation buffer",
        Signal::Gpm => "GPM",
    }
}

/// Whether a signal's values are averages over a window that power can tell.
pub(crate) fn has_window(signal: Signal) -> bool {
    matches!(signal, Signal::PowerInstant | Signal::PowerAverage | Signal::GpuUtil | Signal::GpuUtilSamples)
}

/// The note on a report: on the window first, then on how well the period is known.
pub(crate) fn note(signal: Signal, report: &SensorReport, found: Option<Found>) -> String {
    let period_ns = report.period_ns.map(|ns| ns as f64);
    let is_polled = !matches!(report.method.as_str(), "driver_stamps" | "pairs");
    let polled_slowly = is_polled && period_ns.is_some_and(|p| p < 1.5 * report.poll_ns as f64);
    let mut parts = Vec::new();
    if has_window(signal) {
        parts.push(on_window(signal, period_ns, found));
    }
    if signal == Signal::Energy {
        parts.extend(period_ns.map(|p| format!("energy over less than {} is not told by it", time(p))));
    }
    if signal == Signal::Gpm {
        parts.push(
            "each value is an average between two samples of ours; documented as valid from 100 ms on"
                .to_owned(),
        );
    }
    match period_ns {
        Some(p) if polled_slowly => {
            parts.push(format!(
                "it changes at nearly every reading: its period may be shorter than {}",
                time(p)
            ));
        }
        None if report.updates == 0 => parts.push("it did not change".to_owned()),
        None => parts.push("it changed too seldom, or at no steady pace, to tell a period".to_owned()),
        Some(_) => {}
    }
    parts.join("; ")
}

fn on_window(signal: Signal, period_ns: Option<f64>, found: Option<Found>) -> String {
    let name = name(signal);
    match found {
        Some(Found::Window(w)) if signal == Signal::PowerInstant => match period_ns {
            Some(p) if w.window_ns < 0.9 * p => {
                format!("instant power covers {} of each {}", with_bar(w.window_ns, w.bar_ns), time(p))
            }
            _ => format!("instant power is an average over {}", with_bar(w.window_ns, w.bar_ns)),
        },
        Some(Found::Window(w)) => {
            let length = with_bar(w.window_ns, w.bar_ns);
            format!("{name} is an average over {length}: it cannot show a stall shorter than that")
        }
        Some(Found::AtMost(most)) => {
            let most = time(most);
            format!("{name} is an average over {most} at most: the finest reference here tells no less")
        }
        Some(Found::Nothing) => {
            format!(
                "its window could not be told: no average of power over a time explains what {name} shows"
            )
        }
        None => format!("its window could not be told: power did not move enough{}", documented(signal)),
    }
}

fn documented(signal: Signal) -> &'static str {
    if signal == Signal::PowerAverage { " (documented as 1 s on GPUs after GA100)" } else { "" }
}

/// `25 ms`, `1.05 s`.
pub(crate) fn time(ns: f64) -> String {
    match ns {
        ns if ns >= 995e6 => format!("{:.2} s", ns / 1e9),
        ns if ns >= 9.95e6 => format!("{:.0} ms", ns / 1e6),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}

pub(crate) fn with_bar(ns: f64, bar: f64) -> String {
    match ns {
        ns if ns >= 995e6 => format!("{:.2} ± {:.2} s", ns / 1e9, (bar / 1e9).max(0.01)),
        ns => format!("{:.0} ± {:.0} ms", ns / 1e6, (bar / 1e6).max(1.0)),
    }
}
