//! A grid: lines of latency over the answer's length, and a heat map of its p95.

use crate::experiment::grid::{Grid, GridCell};
use crate::knee::duration;

use super::canvas::{Canvas, Frame, colour, unit};

const HEIGHT: f64 = 460.0;
const WIDTH: f64 = 1_020.0;

pub(super) fn draw(found: &Grid, run: &str) -> String {
    let known = || found.cells.iter().filter_map(|cell| Some((cell, cell.percentile_ns(95.0)?)));
    let slowest = known().max_by(|a, b| a.1.total_cmp(&b.1));
    let said = slowest.map_or_else(
        || "No cell of the grid has a completed request.".to_owned(),
        |(cell, ns)| {
            let name = format!("{} characters and {} tokens", cell.prompt_chars, cell.max_tokens);
            format!(
                "E2E latency by prompt and answer length. The slowest cell has a p95 of {} at {name}.",
                duration(ns as u64)
            )
        },
    );
    let mut canvas = Canvas::new((WIDTH, HEIGHT), "Latency by prompt and answer length", run, &said);
    let most = slowest.map_or(0.0, |(_, ns)| ns);
    if most > 0.0 {
        lines(&mut canvas, found, most);
        heat(&mut canvas, found, most);
    } else {
        canvas.label((24.0, 90.0), "s", "nothing completed");
    }
    canvas.finish()
}

fn lines(canvas: &mut Canvas, found: &Grid, most: f64) {
    let (scale, unit) = unit(most);
    let ends = |all: &[u32]| {
        (f64::from(all.first().copied().unwrap_or(0)), f64::from(all.last().copied().unwrap_or(0)))
    };
    let frame = Frame {
        left: 70.0,
        top: 110.0,
        width: 380.0,
        height: 270.0,
        x: ends(&found.max_tokens),
        y: (0.0, most / scale * 1.05),
    };
    canvas.scale(&frame, "E2E: p50 whole, p95 dashed", unit);
    let names: Vec<_> = found.max_tokens.iter().map(|&n| (f64::from(n), n.to_string())).collect();
    canvas.names(&frame, &names, "max_tokens");
    for (i, &chars) in found.prompt_chars.iter().enumerate() {
        for (percent, dashed) in [(50.0, false), (95.0, true)] {
            let value = |&tokens: &u32| {
                let ns = found.cell(chars, tokens).and_then(|cell| cell.percentile_ns(percent));
                (f64::from(tokens), ns.map(|ns| ns / scale))
            };
            let points: Vec<_> = found.max_tokens.iter().map(value).collect();
            let means = |at: usize, value: f64| {
                format!(
                    "{chars} characters × {} tokens: p{percent} {}",
                    found.max_tokens[at],
                    duration((value * scale) as u64)
                )
            };
            canvas.series(&frame, &points, (colour(i), dashed), means);
        }
        let x = frame.left + 80.0 + 80.0 * (i % 4) as f64;
        let y = 66.0 + 14.0 * (i / 4) as f64;
        canvas.dot((x, y), colour(i), &format!("{chars} characters"));
        canvas.label((x + 8.0, y + 4.0), "s", &chars.to_string());
    }
    canvas.label((frame.left, 70.0), "s", "characters:");
}

fn heat(canvas: &mut Canvas, found: &Grid, most: f64) {
    let (left, top, width, height) = (560.0, 110.0, 430.0, 270.0);
    canvas.label((left, top - 10.0), "s", "E2E p95; rows: prompt characters, columns: max_tokens");
    let (columns, rows) = (found.max_tokens.len() as f64, found.prompt_chars.len() as f64);
    let (w, h) = (width / columns, height / rows);
    for (row, &chars) in found.prompt_chars.iter().enumerate() {
        let y = top + row as f64 * h;
        canvas.label((left - 8.0, y + h / 2.0 + 4.0), "e s", &chars.to_string());
        for (column, &tokens) in found.max_tokens.iter().enumerate() {
            let Some(cell) = found.cell(chars, tokens) else { continue };
            tile(canvas, cell, (left + column as f64 * w, y), (w, h), most);
        }
    }
    for (column, tokens) in found.max_tokens.iter().enumerate() {
        let x = left + (column as f64 + 0.5) * w;
        canvas.label((x, top + height + 18.0), "m s", &tokens.to_string());
    }
}

/// Its number stands in it: colour alone tells nobody a figure.
fn tile(canvas: &mut Canvas, cell: &GridCell, (x, y): (f64, f64), (w, h): (f64, f64), most: f64) {
    let name = format!("{} characters × {} tokens", cell.prompt_chars, cell.max_tokens);
    let Some(ns) = cell.percentile_ns(95.0) else {
        let why = match (cell.level, &cell.voided) {
            (None, _) => "not driven",
            (Some(_), Some(_)) => "void",
            (Some(_), None) => "none completed",
        };
        canvas.rect((x + 1.0, y + 1.0), (w - 2.0, h - 2.0), "class=\"none\"", &format!("{name}: {why}"));
        canvas.label((x + w / 2.0, y + h / 2.0 + 4.0), "m s", why);
        return;
    };
    let share = (ns / most).clamp(0.0, 1.0);
    // From a light blue to a dark one; the figure on it is dark, then white.
    let mix = |from: f64, to: f64| (from + (to - from) * share) as u8;
    let fill = format!("fill=\"rgb({},{},{})\"", mix(214.0, 8.0), mix(230.0, 48.0), mix(245.0, 107.0));
    let text = duration(ns as u64);
    canvas.rect(
        (x + 1.0, y + 1.0),
        (w - 2.0, h - 2.0),
        &fill,
        &format!("{name}: p95 {text} of {}", cell.completed),
    );
    let ink = if share > 0.5 { "#fff" } else { "#111" };
    let style = format!("m\" style=\"fill:{ink}");
    canvas.label((x + w / 2.0, y + h / 2.0 + 4.0), &style, &text);
}
