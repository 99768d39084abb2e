//! A baseline: how many requests took how long, and the box that they come to, over one axis of time.

use crate::experiment::baseline::Baseline;
use crate::experiment::figures::Figures;
use crate::knee::duration;

use super::canvas::{Canvas, Frame, plain, ticks, unit};

const SIZE: (f64, f64) = (760.0, 440.0);

pub(super) fn draw(found: &Baseline, run: &str) -> String {
    let e2e = &found.e2e_ns;
    let time = |ns: f64| duration(ns.max(0.0) as u64);
    let title = format!("Baseline: {} requests, one after another", e2e.n());
    let said = format!(
        "Histogram and box plot of wall times. Mean {}, p50 {}, p95 {}, from {} to {}.",
        time(e2e.mean),
        time(e2e.at(50.0)),
        time(e2e.at(95.0)),
        time(e2e.min()),
        time(e2e.max())
    );
    let mut canvas = Canvas::new(SIZE, &title, run, &said);
    // A little air at both ends; alike values get some too.
    let air = ((e2e.max() - e2e.min()) * 0.05).max(e2e.max() * 0.005);
    let x = (e2e.min() - air, e2e.max() + air);
    let most = e2e.bins().iter().map(|bin| bin.2).max().unwrap_or(1) as f64;
    let bars = Frame { left: 70.0, top: 90.0, width: 660.0, height: 190.0, x, y: (0.0, most) };
    histogram(&mut canvas, &bars, e2e);
    let boxes = Frame { top: 300.0, height: 70.0, y: (0.0, 1.0), ..bars };
    box_plot(&mut canvas, &boxes, e2e);
    let (scale, unit) = unit(e2e.max());
    let names =
        ticks(x.0 / scale, x.1 / scale).into_iter().map(|v| (v * scale, plain(v))).collect::<Vec<_>>();
    canvas.names(&boxes, &names, &format!("wall time, {unit}"));
    canvas.finish()
}

fn histogram(canvas: &mut Canvas, frame: &Frame, e2e: &Figures) {
    canvas.scale(frame, "requests", "n");
    for (from, to, n) in e2e.bins().into_iter().filter(|bin| bin.2 > 0) {
        let ((left, top), (right, _)) = (frame.at(from, n as f64), frame.at(to, n as f64));
        let width = (right - left - 1.0).max(4.0);
        let means = format!("{n} from {} to {}", duration(from as u64), duration(to as u64));
        canvas.rect((left, top), (width, frame.bottom() - top), "class=\"bar\"", &means);
    }
}

fn box_plot(canvas: &mut Canvas, frame: &Frame, e2e: &Figures) {
    let x = |ns: f64| frame.at(ns, 0.0).0;
    let (low, high) = e2e.whiskers();
    let (top, middle, bottom) = (frame.top + 15.0, frame.top + 35.0, frame.top + 55.0);
    let [q1, median, q3] = [25.0, 50.0, 75.0].map(|percent| x(e2e.at(percent)));
    let (left, right) = (x(low), x(high));
    let ends = format!(
        "M{left:.1} {middle:.1}H{q1:.1}M{q3:.1} {middle:.1}H{right:.1}M{left:.1} {:.1}V{:.1}M{right:.1} {:.1}V{:.1}",
        middle - 8.0,
        middle + 8.0,
        middle - 8.0,
        middle + 8.0
    );
    canvas.stroke(&ends, "class=\"l\"");
    let means = format!(
        "p25 {}, p50 {}, p75 {}",
        duration(e2e.at(25.0) as u64),
        duration(e2e.at(50.0) as u64),
        duration(e2e.at(75.0) as u64)
    );
    canvas.rect((q1, top), ((q3 - q1).max(1.0), bottom - top), "class=\"box\"", &means);
    canvas.stroke(&format!("M{median:.1} {top:.1}V{bottom:.1}"), "class=\"l\"");
    for &value in e2e.values.iter().filter(|v| !(low..=high).contains(*v)) {
        canvas.dot(
            (x(value), middle),
            "#d55e00",
            &format!("outside the whiskers: {}", duration(value as u64)),
        );
    }
}
