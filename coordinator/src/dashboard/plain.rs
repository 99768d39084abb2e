//! A view as plain text: for what is not a terminal, and for the scrollback when the screen is left.

use ratatui_core::text::Line;

use super::lines;
use super::model::View;

/// Threads shown: the file has the sums, a person looks at the worst.
const THREADS: usize = 4;

/// One block, lines without trailing space.
pub fn block(view: &View, width: usize) -> String {
    let mut all: Vec<Line<'static>> = lines::header(view, width);
    all.extend(lines::stages(view, width));
    all.extend(lines::verdict(view, width));
    all.extend(lines::load(view, width));
    all.extend(lines::lag(view, width, THREADS));
    all.extend(lines::honesty(view));
    let text = |line: &Line<'_>| line.to_string().trim_end().to_owned();
    all.iter().map(text).collect::<Vec<_>>().join("\n")
}
