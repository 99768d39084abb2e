//! An overload: how many failed, and how long the others took, over concurrency; a line for each timeout.

use crate::experiment::overload::{Overload, Rung};
use crate::knee::duration;

use super::canvas::{Canvas, Frame, colour, unit};

const SIZE: (f64, f64) = (960.0, 440.0);

/// One panel: where, what, and in which unit.
struct Panel {
    frame: Frame,
    value: fn(&Rung) -> Option<f64>,
    /// What values are divided by.
    scale: f64,
    unit: &'static str,
}

/// The picture's two axes: what is drawn over which, ascending.
struct Axes {
    streams: Vec<u32>,
    timeouts_ns: Vec<i64>,
}

pub(super) fn draw(found: &Overload, run: &str) -> String {
    let said = format!("{}.", found.words());
    let mut canvas = Canvas::new(SIZE, "Overload: what a short timeout fails", run, &said);
    let axes = Axes {
        streams: ascending(found.rungs.iter().map(|rung| rung.concurrency)),
        timeouts_ns: ascending(found.rungs.iter().map(|rung| rung.timeout_ns)),
    };
    if axes.streams.is_empty() {
        canvas.label((24.0, 90.0), "s", "no rung was driven");
        return canvas.finish();
    }
    let most = found.rungs.iter().filter_map(p95_ns).fold(0.0, f64::max);
    let (scale, unit) = unit(most);
    // Evenly spaced, since rungs double.
    let x = (0.0, (axes.streams.len() - 1) as f64);
    let left = Frame { left: 70.0, top: 110.0, width: 370.0, height: 250.0, x, y: (0.0, 100.0) };
    let right = Frame { left: 560.0, y: (0.0, (most / scale * 1.05).max(1e-9)), ..left };
    canvas.scale(&left, "failed, of those that ended", "%");
    canvas.scale(&right, "E2E p95 of whole answers", unit);
    lines(&mut canvas, found, &axes, &Panel { frame: left, value: failed_pct, scale: 1.0, unit: "%" });
    lines(&mut canvas, found, &axes, &Panel { frame: right, value: p95_ns, scale, unit });
    for (i, ns) in axes.timeouts_ns.iter().enumerate() {
        let (x, name) = (70.0 + 130.0 * i as f64, duration(ns.max(&0).unsigned_abs()));
        canvas.dot((x + 4.0, 68.0), colour(i), &name);
        canvas.label((x + 12.0, 72.0), "s", &format!("timeout {name}"));
    }
    canvas.label((70.0, 425.0), "s", recovery_words(found));
    canvas.finish()
}

fn failed_pct(rung: &Rung) -> Option<f64> {
    rung.counts.error_rate().map(|rate| rate * 100.0)
}

fn p95_ns(rung: &Rung) -> Option<f64> {
    rung.e2e_ns.as_ref().map(|figures| figures.at(95.0))
}

fn ascending<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = values.collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// A line for each timeout, and the names of the rungs under them.
fn lines(canvas: &mut Canvas, found: &Overload, axes: &Axes, panel: &Panel) {
    for (i, &timeout_ns) in axes.timeouts_ns.iter().enumerate() {
        let name = duration(timeout_ns.max(0).unsigned_abs());
        let counted =
            || found.rungs.iter().filter(|rung| rung.voided.is_none() && rung.timeout_ns == timeout_ns);
        let value = |streams: u32| {
            let rung = counted().find(|rung| rung.concurrency == streams);
            rung.and_then(panel.value).map(|value| value / panel.scale)
        };
        let points: Vec<_> = axes.streams.iter().enumerate().map(|(at, &n)| (at as f64, value(n))).collect();
        let means = |at: usize, value: f64| {
            format!("timeout {name}, concurrency {}: {value:.1} {}", axes.streams[at], panel.unit)
        };
        canvas.series(&panel.frame, &points, (colour(i), i >= 6), means);
    }
    let names: Vec<_> = axes.streams.iter().enumerate().map(|(i, n)| (i as f64, n.to_string())).collect();
    canvas.names(&panel.frame, &names, "concurrency");
}

fn recovery_words(found: &Overload) -> &'static str {
    match found.recovered() {
        Some(true) => "the server recovered",
        Some(false) => "the server did NOT recover in the time it was watched",
        None => "recovery not judged",
    }
}
