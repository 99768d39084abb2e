//! Blocks fit every terminal, and say what is missing.

use super::*;
use crate::experiment::overload::{Failures, Recovery};
use crate::experiment::single::Again;
use crate::levels::Counts;

fn ms(values: &[f64]) -> Figures {
    Figures::of(values.iter().map(|v| v * 1e6)).unwrap()
}

fn widest_line(text: &str) -> usize {
    text.lines().map(|l| l.chars().count()).max().unwrap_or(0)
}

#[test]
fn a_baseline_fits_and_keeps_its_p50_to_the_last() {
    let e2e_ns = ms(&(0..12).map(|i| 600.0 + f64::from(i * i)).collect::<Vec<_>>());
    let found = Baseline {
        ttft_ns: Some(ms(&[50.0; 12])),
        tokens_per_s: Figures::of([150.0; 12]),
        e2e_ns,
        not_completed: 1,
        ..Baseline::default()
    };
    for width in [40, 60, 80, 120] {
        let text = baseline(&found, width);
        assert!(widest_line(&text) <= width, "{width}:\n{text}");
        assert!(
            text.contains("p50") && text.contains("█") && text.contains("1 more did not complete"),
            "{text}"
        );
    }
    let wide = baseline(&found, 100);
    for words in
        ["mean", "p99", "min", "max", "spread", "TTFT", "tokens/s", "p95 and p99 are the slowest one"]
    {
        assert!(wide.contains(words), "{words} in {wide}");
    }
    assert!(baseline(&found, 40).contains("no room here for"));
}

#[test]
fn a_grid_breaks_into_as_many_blocks_as_it_takes() {
    let tokens = [32, 64, 128, 256, 512, 1_024];
    let cell = |prompt_chars: u32, max_tokens: u32| GridCell {
        prompt_chars,
        max_tokens,
        level: Some(0),
        completed: 6,
        not_completed: u64::from(max_tokens == 1_024),
        e2e_ns: Some(ms(&[f64::from(max_tokens) * 10.0])),
        ..GridCell::default()
    };
    let mut cells: Vec<_> = [200, 2_000].iter().flat_map(|&c| tokens.map(|t| cell(c, t))).collect();
    cells[0].level = None;
    cells[1].voided = Some("cut".to_owned());
    cells[2].e2e_ns = None;
    let found = Grid { prompt_chars: vec![200, 2_000], max_tokens: tokens.to_vec(), cells };
    for width in [40, 80, 200] {
        let text = grid(&found, width);
        assert!(widest_line(&text) <= width, "{width}:\n{text}");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in
            ["–", "void", "none", "10.2 s!", "did not complete", "2 of 12 cells", "p95 is the slowest"]
        {
            assert!(text.contains(words), "{words} in {text}");
        }
    }
}

#[test]
fn an_overload_says_what_failed_and_whether_it_recovered() {
    let failures = vec![Failures {
        class: "HTTP 503".to_owned(),
        count: 38,
        again: Again::TurnedAway,
        sample: "503 \u{1b}[2J queue is full".to_owned(),
    }];
    let rung = Rung {
        concurrency: 32,
        timeout_ns: 5_000_000_000,
        counts: Counts { completed: 22, failed: 38, ..Counts::default() },
        e2e_ns: Some(ms(&[4_900.0])),
        failures,
        ..Rung::default()
    };
    let recovery = Recovery { words: "recovered in 1.2 s or less".to_owned(), ..Recovery::default() };
    let found = Overload { rungs: vec![rung], recoveries: vec![recovery], baseline: None };
    for width in [40, 80, 200] {
        let text = overload(&found, width);
        assert!(widest_line(&text) <= width, "{width}:\n{text}");
        assert!(
            text.contains("38 × HTTP 503") && text.contains("63.3") && text.contains("recovered in"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
