//! One figure of both runs over the load, as SVG: lines through the loads, bands for the 95 % intervals.

use std::fmt::Write;

use super::{Comparison, Estimate, Metric};

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 34.0;
/// An interval that reaches beyond so many times the largest figure is cut off there.
const CUT: f64 = 1.6;

/// Draws it; `None` where neither run has it at any load.
pub(super) fn draw(of: &Comparison, metric: &Metric) -> Option<String> {
    let at = of.rows.first()?.findings.iter().position(|f| f.metric.name == metric.name)?;
    let sides: [Vec<Option<Estimate>>; 2] = [
        of.rows.iter().map(|row| row.findings[at].a).collect(),
        of.rows.iter().map(|row| row.findings[at].b).collect(),
    ];
    let known = || sides.iter().flatten().flatten();
    let highest = known().map(|e| e.value).fold(0.0, f64::max);
    let top = known().map(|e| e.high.min(highest * CUT)).fold(0.0, f64::max);
    if known().next().is_none() || top <= 0.0 {
        return None;
    }
    let frame = Frame { top, loads: of.rows.len() };
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0} over load\"><text x=\"{LEFT}\" y=\"16\" class=\"t\">{0}</text>",
        metric.name
    );
    frame.axes(&mut svg, metric, &of.rows.iter().map(|row| row.place.name()).collect::<Vec<_>>());
    for (class, side) in ["a", "b"].into_iter().zip(&sides) {
        frame.series(&mut svg, class, side, metric);
    }
    svg.push_str("</svg>");
    Some(svg)
}

struct Frame {
    top: f64,
    loads: usize,
}

impl Frame {
    /// Loads stand evenly: sweeps double.
    fn x(&self, i: usize) -> f64 {
        let room = WIDTH - LEFT - RIGHT;
        if self.loads < 2 {
            LEFT + room / 2.0
        } else {
            LEFT + 12.0 + (room - 24.0) * i as f64 / (self.loads - 1) as f64
        }
    }

    fn y(&self, value: f64) -> f64 {
        let room = HEIGHT - TOP - BOTTOM;
        HEIGHT - BOTTOM - room * (value / self.top).clamp(0.0, 1.0)
    }

    fn axes(&self, svg: &mut String, metric: &Metric, loads: &[String]) {
        for part in 0..=4 {
            let value = self.top * f64::from(part) / 4.0;
            let (y, words) = (self.y(value), metric.words(value));
            let end = WIDTH - RIGHT;
            let _fits = write!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\" class=\"g\"/><text x=\"{:.0}\" y=\"{:.1}\" class=\"y\">{words}</text>",
                LEFT - 6.0,
                y + 4.0
            );
        }
        // As many names as have room.
        let every = loads.len().div_ceil(10).max(1);
        for (i, load) in loads.iter().enumerate().step_by(every) {
            let _fits = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.0}\" class=\"x\">{load}</text>",
                self.x(i),
                HEIGHT - 14.0
            );
        }
    }

    fn series(&self, svg: &mut String, class: &str, side: &[Option<Estimate>], metric: &Metric) {
        let points: Vec<(usize, Estimate)> =
            side.iter().enumerate().filter_map(|(i, e)| Some((i, (*e)?))).collect();
        // A load without the figure breaks line and band.
        for run in points.chunk_by(|a, b| a.0 + 1 == b.0) {
            let high = run.iter().map(|(i, e)| format!("{:.1},{:.1}", self.x(*i), self.y(e.high)));
            let low = run.iter().rev().map(|(i, e)| format!("{:.1},{:.1}", self.x(*i), self.y(e.low)));
            let band: Vec<String> = high.chain(low).collect();
            let line: Vec<String> =
                run.iter().map(|(i, e)| format!("{:.1},{:.1}", self.x(*i), self.y(e.value))).collect();
            let _fits = write!(
                svg,
                "<polygon points=\"{}\" class=\"band {class}\"/><polyline points=\"{}\" class=\"line {class}\"/>",
                band.join(" "),
                line.join(" ")
            );
        }
        for (i, e) in points {
            let (x, low, high) = (self.x(i), self.y(e.low), self.y(e.high));
            let words = [e.value, e.low, e.high].map(|value| metric.words(value));
            let _fits = write!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\" class=\"bar {class}\"/><circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"3.5\" class=\"dot {class}\"><title>{}: {} ({} to {})</title></circle>",
                self.y(e.value),
                class.to_uppercase(),
                words[0],
                words[1],
                words[2]
            );
        }
    }
}
