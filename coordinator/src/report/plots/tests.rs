//! Pictures hold what they were given, and nothing that a browser could trip over.

use super::*;
use crate::experiment::baseline::Baseline;
use crate::experiment::figures::Figures;
use crate::experiment::grid::{Grid, GridCell};
use crate::experiment::overload::{Overload, Rung};
use crate::levels::Counts;

fn ms(values: &[f64]) -> Figures {
    Figures::of(values.iter().map(|v| v * 1e6)).unwrap()
}

/// Every tag that opens also closes, and no number is none.
fn is_whole(svg: &str) {
    for tag in ["svg", "title", "desc", "text", "rect", "style", "circle"] {
        let closed = svg.matches(&format!("</{tag}>")).count();
        let open = svg.matches(&format!("<{tag} ")).count() + svg.matches(&format!("<{tag}>")).count();
        let alone = svg.lines().filter(|l| l.starts_with(&format!("<{tag} ")) && l.ends_with("/>")).count();
        assert_eq!(open, closed + alone, "{tag} in {svg}");
    }
    for wrong in ["NaN", "inf", "\u{1b}"] {
        assert!(!svg.contains(wrong), "{wrong} in {svg}");
    }
    assert!(
        svg.contains("prefers-color-scheme:dark") && svg.contains("role=\"img\"") && svg.contains("<desc")
    );
}

#[test]
fn a_baseline_has_its_bars_and_its_box() {
    let found = Baseline { e2e_ns: ms(&[100.0, 101.0, 102.0, 103.0, 104.0, 300.0]), ..Baseline::default() };
    let svg = baseline::draw(&found, "<m> & \u{1b}[2J");
    is_whole(&svg);
    assert!(svg.contains("&lt;m&gt; &amp;") && svg.contains("outside the whiskers: 300 ms"), "{svg}");
    let bars = svg.matches("class=\"bar\"").count();
    assert_eq!(bars, found.e2e_ns.bins().iter().filter(|bin| bin.2 > 0).count());
    is_whole(&baseline::draw(&Baseline { e2e_ns: ms(&[5.0]), ..Baseline::default() }, "one request"));
    is_whole(&baseline::draw(&Baseline { e2e_ns: ms(&[0.0]), ..Baseline::default() }, "none at all"));
}

#[test]
fn a_grid_has_a_tile_for_every_cell() {
    let cell =
        |prompt_chars, max_tokens, level| GridCell { prompt_chars, max_tokens, level, ..GridCell::default() };
    let measured = GridCell { e2e_ns: Some(ms(&[40.0, 50.0])), completed: 2, ..cell(200, 32, Some(0)) };
    let void = GridCell { voided: Some("cut".to_owned()), ..cell(800, 32, Some(2)) };
    let cells = vec![measured, cell(200, 64, Some(1)), void, cell(800, 64, None)];
    let found = Grid { prompt_chars: vec![200, 800], max_tokens: vec![32, 64], cells };
    let svg = grid::draw(&found, "m");
    is_whole(&svg);
    for words in ["50.0 ms", "none completed", "void", "not driven"] {
        assert!(svg.contains(words), "{words} in {svg}");
    }
    is_whole(&grid::draw(&Grid::default(), "m"));
}

#[test]
fn an_overload_has_a_line_for_every_timeout() {
    let rung = |concurrency, timeout_ns, completed, failed| Rung {
        concurrency,
        timeout_ns,
        counts: Counts { completed, failed, ..Counts::default() },
        e2e_ns: (completed > 0).then(|| ms(&[100.0])),
        ..Rung::default()
    };
    let rungs = vec![
        rung(4, 1_000_000, 3, 1),
        rung(8, 1_000_000, 0, 4),
        rung(4, 2_000_000, 4, 0),
        rung(8, 2_000_000, 2, 2),
    ];
    let svg = overload::draw(&Overload { rungs, ..Overload::default() }, "m");
    is_whole(&svg);
    assert!(svg.contains("concurrency 8: 100.0 %") && svg.contains("timeout 2.00 ms"), "{svg}");
    is_whole(&overload::draw(&Overload::default(), "m"));
}
