//! A small chart of braille dots: one line over the rungs of the sweep, evenly spaced, since sweeps double.

use std::fmt::Display;

/// Rows of a chart's plot.
const ROWS: usize = 6;
/// Dots of a braille cell.
const WIDE: usize = 2;
const HIGH: usize = 4;

/// Bit of a dot in its braille cell, by row and column.
const BITS: [[u32; WIDE]; HIGH] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

/// Draws `points` (label of the rung, value from 0 up) under a title, `width` columns wide. A rung without a value
/// breaks the line. Empty when there is nothing to draw.
pub fn draw(title: &str, points: &[(impl Display, Option<f64>)], top_label: &str, width: usize) -> String {
    let top = points.iter().filter_map(|(_, v)| *v).fold(0.0, f64::max);
    let margin = top_label.chars().count().max(1) + 2;
    if points.len() < 2 || top <= 0.0 || width < margin + 2 * points.len() {
        return String::new();
    }
    let columns = width - margin;
    let mut canvas = Canvas::new(columns);
    let place = |i: usize, value: f64| {
        let x = i * (columns * WIDE - 1) / (points.len() - 1);
        let y = ((1.0 - value / top) * (ROWS * HIGH - 1) as f64).round() as usize;
        (x, y)
    };
    for (i, pair) in points.windows(2).enumerate() {
        let dots = [(i, pair[0].1), (i + 1, pair[1].1)].map(|(i, v)| v.map(|v| place(i, v)));
        match dots {
            [Some(from), Some(to)] => canvas.line(from, to),
            [one, other] => one.into_iter().chain(other).for_each(|dot| canvas.dot(dot)),
        }
    }
    let mut out = format!("{title}\n");
    for (row, cells) in canvas.rows().enumerate() {
        let label = if row == 0 {
            top_label
        } else if row == ROWS - 1 {
            "0"
        } else {
            ""
        };
        out.push_str(&format!("{label:>label_width$} │{cells}\n", label_width = margin - 2));
    }
    out.push_str(&axis(points, margin, columns));
    out
}

/// The rungs' names under their places; one that would touch its neighbour is left out.
fn axis(points: &[(impl Display, Option<f64>)], margin: usize, columns: usize) -> String {
    let mut line = " ".repeat(margin);
    for (i, (label, _)) in points.iter().enumerate() {
        let label = label.to_string();
        let centre = margin + i * (columns - 1) / (points.len() - 1);
        let at = centre.saturating_sub(label.len() / 2).min(margin + columns - label.len());
        let length = line.chars().count();
        if i == 0 || at > length || (at == length && line.ends_with(' ')) {
            line.push_str(&" ".repeat(at.saturating_sub(length)));
            line.push_str(&label);
        }
    }
    line.push('\n');
    line
}

struct Canvas {
    columns: usize,
    cells: Vec<u32>,
}

impl Canvas {
    fn new(columns: usize) -> Self {
        Self { columns, cells: vec![0; columns * ROWS] }
    }

    fn dot(&mut self, (x, y): (usize, usize)) {
        let cell = y / HIGH * self.columns + x / WIDE;
        if let Some(cell) = self.cells.get_mut(cell) {
            *cell |= BITS[y % HIGH][x % WIDE];
        }
    }

    /// As many dots as the longer side needs to have no hole.
    fn line(&mut self, from: (usize, usize), to: (usize, usize)) {
        let steps = from.0.abs_diff(to.0).max(from.1.abs_diff(to.1)).max(1);
        let between = |a: usize, b: usize, i: usize| {
            (a as f64 + (b as f64 - a as f64) * i as f64 / steps as f64).round() as usize
        };
        for i in 0..=steps {
            self.dot((between(from.0, to.0, i), between(from.1, to.1, i)));
        }
    }

    fn rows(&self) -> impl Iterator<Item = String> {
        // A space where there is no dot: some fonts draw the empty cell as a box.
        let glyph = |&bits: &u32| char::from_u32(0x2800 + bits).filter(|_| bits > 0).unwrap_or(' ');
        let text = move |row: &[u32]| row.iter().map(glyph).collect::<String>().trim_end().to_owned();
        self.cells.chunks(self.columns).map(text)
    }
}

#[cfg(test)]
mod tests {
    use super::draw;

    #[test]
    fn a_rising_line_goes_from_bottom_left_to_top_right() {
        let chart = draw("x", &[(1, Some(0.0)), (2, Some(4.0))], "4", 23);
        let rows: Vec<&str> = chart.lines().collect();
        assert_eq!(rows.len(), 1 + 6 + 1);
        assert!(rows[1].starts_with("4 │") && rows[6].starts_with("0 │"));
        assert_eq!(rows[1].chars().count(), 23, "the last dot is at the right edge: {chart}");
        assert_ne!(rows[6].chars().nth(3), Some(' '), "{chart}");
        assert_eq!(rows[7], format!("   1{}2", " ".repeat(18)));
        assert!(rows.iter().all(|r| r.chars().count() <= 23));
    }

    #[test]
    fn nothing_to_draw_is_nothing() {
        assert_eq!(draw("x", &[(1, Some(1.0))], "1", 40), "");
        assert_eq!(draw("x", &[(1, None), (2, None)], "1", 40), "");
        assert_eq!(draw("x", &[(1, Some(1.0)), (2, Some(1.0))], "1", 5), "");
        assert!(!draw("x", &[(1, Some(1.0)), (2, None), (4, Some(2.0))], "2", 40).is_empty());
    }
}
