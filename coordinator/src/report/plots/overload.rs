//! An overload: how many failed, and how long the others took, over concurrency; a line for each timeout.

use crate::experiment::overload::{Overload, Rung};
use crate::knee::duration;

use super::canvas::{Canvas, Frame, colour, unit};

const SIZE: (f64, f64) = (960.0, 440.0);

pub(super) fn draw(found: &Overload, run: &str) -> String {
    let mut canvas =
        Canvas::new(SIZE, "Overload: what a short timeout fails", run, &format!("{}.", found.words()));
    let mut streams: Vec<u32> = found.rungs.iter().map(|rung| rung.concurrency).collect();
    streams.sort_unstable();
    streams.dedup();
    if streams.is_empty() {
        canvas.label((24.0, 90.0), "s", "no rung was driven");
        return canvas.finish();
    }
    let mut timeouts: Vec<i64> = found.rungs.iter().map(|rung| rung.timeout_ns).collect();
    timeouts.sort_unstable();
    timeouts.dedup();
    let p95 = |rung: &Rung| rung.e2e_ns.as_ref().map(|figures| figures.at(95.0));
    let most = found.rungs.iter().filter_map(p95).fold(0.0, f64::max);
    let (scale, unit) = unit(most);
    // Evenly spaced, since rungs double.
    let x = (0.0, (streams.len() - 1) as f64);
    let left = Frame { left: 70.0, top: 110.0, width: 370.0, height: 250.0, x, y: (0.0, 100.0) };
    let right = Frame { left: 560.0, y: (0.0, (most / scale * 1.05).max(1e-9)), ..left };
    canvas.scale(&left, "failed, of those that ended", "%");
    canvas.scale(&right, "E2E p95 of whole answers", unit);
    let names: Vec<_> = streams.iter().enumerate().map(|(i, n)| (i as f64, n.to_string())).collect();
    for (i, &timeout_ns) in timeouts.iter().enumerate() {
        let failed = |rung: &Rung| rung.counts.error_rate().map(|rate| rate * 100.0);
        let lines: [(&Frame, &dyn Fn(&Rung) -> Option<f64>, &str); 2] =
            [(&left, &failed, "%"), (&right, &|rung| p95(rung).map(|ns| ns / scale), unit)];
        let name = duration(timeout_ns.max(0).unsigned_abs());
        for (frame, value, unit) in lines {
            let of = |streams: &u32| {
                let is_it = |rung: &&Rung| rung.concurrency == *streams && rung.timeout_ns == timeout_ns;
                found.rungs.iter().filter(|rung| rung.voided.is_none()).find(is_it).and_then(value)
            };
            let points: Vec<_> = streams.iter().enumerate().map(|(at, n)| (at as f64, of(n))).collect();
            let means = |at: usize, value: f64| {
                format!("timeout {name}, concurrency {}: {value:.1} {unit}", streams[at])
            };
            canvas.series(frame, &points, (colour(i), i >= 6), means);
        }
        let at = 70.0 + 130.0 * i as f64;
        canvas.dot((at + 4.0, 68.0), colour(i), &name);
        canvas.label((at + 12.0, 72.0), "s", &format!("timeout {name}"));
    }
    for frame in [&left, &right] {
        canvas.names(frame, &names, "concurrency");
    }
    let recovery = found.recoveries.iter().map(|r| r.recovered).collect::<Vec<_>>();
    let words = match found.recovered() {
        Some(true) => "the server recovered",
        Some(false) => "the server did NOT recover in the time it was watched",
        None if recovery.is_empty() => "no recovery was watched",
        None => "recovery not judged",
    };
    canvas.label((70.0, 425.0), "s", words);
    canvas.finish()
}
