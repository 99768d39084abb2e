//! The watch as a picture: four panels over one time axis, a line a GPU, written as SVG by hand.

use std::fmt::Write;

use super::reading::{Power, Reading};
use super::{Checked, Report};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 84.0;
const PANEL: f64 = 120.0;
const GAP: f64 = 40.0;
/// Points of a line; more cannot be told apart in a picture this wide.
const MOST_POINTS: usize = 2_000;
/// Okabe and Ito's colours, which the colour-blind tell apart.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999"];

struct Panel {
    title: String,
    /// Top of its scale, when the data does not say.
    top: Option<f64>,
    /// Whole lines, then dashed ones.
    lines: Vec<Line>,
}

struct Line {
    gpu: u32,
    dashed: bool,
    value: fn(&Reading) -> Option<f64>,
}

/// The picture.
pub(crate) fn svg(report: &Report) -> String {
    let end = report.readings.iter().map(|r| r.t_s).fold(0.0, f64::max).max(1e-3);
    let panels = panels(report);
    let height = TOP + panels.len() as f64 * (PANEL + GAP) + 30.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    header(&mut out, report);
    for (i, panel) in panels.iter().enumerate() {
        draw(&mut out, panel, TOP + i as f64 * (PANEL + GAP), end, &report.readings, i + 1 == panels.len());
    }
    out.push_str("</svg>\n");
    out
}

fn text(out: &mut String, (x, y): (f64, f64), attributes: &str, words: &str) {
    let escaped = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // What XML cannot hold at all, a hostile card name might.
    let clean: String = escaped.chars().filter(|c| !c.is_control()).collect();
    let _infallible = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{clean}</text>");
}

fn header(out: &mut String, report: &Report) {
    text(out, (LEFT, 24.0), "font-size=\"16\" font-weight=\"bold\"", &title(&report.gpus));
    let driver = report.gpus.first().map_or("", |checked| checked.card.driver.as_str());
    let mark = if report.is_simulated() { "; SIMULATED: no GPU was read" } else { "" };
    text(out, (LEFT, 42.0), "fill=\"#555\"", &format!("driver {driver}{mark}"));
    if report.gpus.len() > 1 {
        for (i, checked) in report.gpus.iter().take(COLOURS.len()).enumerate() {
            let at = (WIDTH - RIGHT - 60.0 * (report.gpus.len().min(COLOURS.len()) - i) as f64 + 10.0, 42.0);
            text(
                out,
                at,
                &format!("fill=\"{}\"", colour(checked.card.index)),
                &format!("— GPU {}", checked.card.index),
            );
        }
    }
}

/// What the cards are called, each name once.
fn title(gpus: &[Checked]) -> String {
    let mut names: Vec<&str> = gpus.iter().map(|checked| checked.card.name.as_str()).collect();
    names.dedup();
    let times = if gpus.len() > names.len() { format!("{} × ", gpus.len()) } else { String::new() };
    format!("{times}{}", names.join(", "))
}

fn colour(gpu: u32) -> &'static str {
    COLOURS[gpu as usize % COLOURS.len()]
}

fn panels(report: &Report) -> Vec<Panel> {
    let gpus = || report.gpus.iter().map(|checked| checked.card.index);
    let total = report.readings.iter().filter_map(|r| r.memory_total_bytes).max();
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let lines = |value: fn(&Reading) -> Option<f64>| {
        gpus().map(|gpu| Line { gpu, dashed: false, value }).collect::<Vec<_>>()
    };
    let mut utilisation = lines(|r| r.gpu_util_pct.map(f64::from));
    let memory = lines(|r| r.mem_util_pct.map(f64::from));
    utilisation.extend(memory.into_iter().map(|line| Line { dashed: true, ..line }));
    let kind = report.readings.iter().find_map(|r| r.power_kind).map_or("", |kind| match kind {
        Power::Instant => ", instant",
        Power::Average => ", the card's own average",
    });
    let top = total.map(gib);
    let of_top = top.map_or(String::new(), |top| format!(", of {top:.1}"));
    vec![
        Panel {
            title: format!("VRAM in use (GiB{of_top})"),
            top,
            lines: lines(|r| r.memory_used_bytes.map(|b| b as f64 / f64::from(1 << 30))),
        },
        Panel {
            title: "Utilisation (%): GPU, and its memory dashed".to_owned(),
            top: Some(100.0),
            lines: utilisation,
        },
        Panel {
            title: format!("Power (W{kind})"),
            top: None,
            lines: lines(|r| r.power_mw.map(|mw| f64::from(mw) / 1e3)),
        },
        Panel {
            title: "Temperature (°C)".to_owned(),
            top: None,
            lines: lines(|r| r.temperature_c.map(f64::from)),
        },
    ]
}

fn draw(out: &mut String, panel: &Panel, top: f64, end: f64, readings: &[Reading], is_last: bool) {
    let values = panel.lines.iter().flat_map(|line| readings.iter().filter_map(|r| (line.value)(r)));
    let most = values.fold(panel.top.unwrap_or(0.0), f64::max);
    let step = step(most.max(1e-9), 4.0);
    let scale = (most / step - 1e-9).ceil().max(1.0) * step;
    let x = |t: f64| LEFT + t / end * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| top + PANEL - value / scale * PANEL;
    text(out, (LEFT, top - 8.0), "font-weight=\"bold\"", &panel.title);
    for i in 0..=(scale / step).round() as u32 {
        let value = f64::from(i) * step;
        let at = y(value);
        let _infallible = writeln!(out, "<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#ddd\"/>", WIDTH - RIGHT);
        text(out, (LEFT - 8.0, at + 4.0), "text-anchor=\"end\" fill=\"#555\"", &short(value));
    }
    time_axis(out, top + PANEL, end, &x, is_last);
    for line in &panel.lines {
        let points = readings.iter().filter(|r| r.gpu == line.gpu).map(|r| (r.t_s, (line.value)(r)));
        let path = path(points, &x, &y);
        let dash = if line.dashed { " stroke-dasharray=\"4 3\"" } else { "" };
        let _infallible = writeln!(
            out,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"{dash}/>",
            colour(line.gpu)
        );
    }
}

fn time_axis(out: &mut String, bottom: f64, end: f64, x: &dyn Fn(f64) -> f64, is_last: bool) {
    let step = step(end, 10.0);
    let mut i = 0.0;
    while i * step <= end * 1.000_001 {
        let at = x(i * step);
        let _infallible = writeln!(out, "<path d=\"M{at:.1} {bottom:.1}v4\" stroke=\"#888\"/>");
        if is_last {
            text(out, (at, bottom + 18.0), "text-anchor=\"middle\" fill=\"#555\"", &short(i * step));
        }
        i += 1.0;
    }
    if is_last {
        text(out, ((LEFT + WIDTH - RIGHT) / 2.0, bottom + 36.0), "text-anchor=\"middle\"", "time (s)");
    }
}

/// A line that breaks where there is no value. Between two points that are drawn, those in the middle are left out.
fn path(
    points: impl Iterator<Item = (f64, Option<f64>)>,
    x: &dyn Fn(f64) -> f64,
    y: &dyn Fn(f64) -> f64,
) -> String {
    let points: Vec<_> = points.collect();
    let every = points.len().div_ceil(MOST_POINTS).max(1);
    let (mut path, mut pen_down) = (String::new(), false);
    for &(t, value) in points.iter().step_by(every) {
        if let Some(value) = value {
            let command = if pen_down { 'L' } else { 'M' };
            let _infallible = write!(path, "{command}{:.1} {:.1}", x(t), y(value));
        }
        pen_down = value.is_some();
    }
    path
}

/// 1, 2 or 5 times a power of ten: the least that makes at most `most` steps.
fn step(span: f64, most: f64) -> f64 {
    let least = span / most;
    let ten = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .iter()
        .map(|m| m * ten)
        .find(|step| *step >= least * 0.999_999)
        .unwrap_or(ten * 10.0)
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::card::Card;
    use super::super::copy::Copied;
    use super::*;

    #[test]
    fn steps_are_round_and_few() {
        assert_eq!([80.0, 100.0, 300.0, 9.9].map(|span| step(span, 4.0)), [20.0, 50.0, 100.0, 5.0]);
        assert_eq!([0.1, 20.0, 2.5].map(short), ["0.1", "20", "2.5"]);
    }

    #[test]
    fn a_missing_value_breaks_the_line_and_is_not_drawn_as_0() {
        let points = [(0.0, Some(1.0)), (1.0, None), (2.0, Some(3.0)), (3.0, Some(4.0))];
        let same: &dyn Fn(f64) -> f64 = &|v| v;
        assert_eq!(path(points.into_iter(), same, same), "M0.0 1.0M2.0 3.0L3.0 4.0");
    }

    #[test]
    fn names_cannot_break_out_of_the_picture_and_simulated_is_said() {
        let card = Card { name: "<b>&\u{1}".to_owned(), simulated: true, ..Card::default() };
        let gpus = vec![Checked { card, copied: Copied::Skipped(String::new()) }];
        let readings = vec![Reading { temperature_c: Some(40), ..Reading::default() }];
        let picture = svg(&Report { gpus, readings, ..Report::default() });
        assert!(picture.contains("&lt;b&gt;&amp;<") && picture.contains("SIMULATED"), "{picture}");
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
        assert!(!svg(&Report::default()).contains("NaN"));
    }
}
