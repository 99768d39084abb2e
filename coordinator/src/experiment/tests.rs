//! Experiments over levels made up by hand.

use super::overload::Recovery;
use super::single::{Again, Failure, Single};
use super::*;
use crate::levels::Counts;
use crate::stored::Drive;

const MS: i64 = 1_000_000;

/// A request that was sent at `at` ms and took so many.
fn answered(at: i64, ms: i64) -> Single {
    Single {
        times_ns: Some((at * MS, (at + ms) * MS)),
        completed: true,
        e2e_ns: Some(ms * MS),
        ttft_ns: Some(ms * MS / 10),
        output_tokens: Some(10),
        input_len: Some(200),
        ..Single::default()
    }
}

fn failed(at: i64, ms: i64, class: &str, again: Again) -> Single {
    let failure = Failure { class: class.to_owned(), again, detail: format!("{class}, in full") };
    Single { times_ns: Some((at * MS, (at + ms) * MS)), failure: Some(failure), ..Single::default() }
}

fn level(rung: u32, streams: u32, cell: &Cell, singles: Vec<Single>) -> Level {
    let completed = singles.iter().filter(|s| s.completed).count() as u64;
    let measured = Counts { completed, failed: singles.len() as u64 - completed, ..Counts::default() };
    let (load, drive) = (Load::Streams(streams), Drive::first(rung));
    Level { drive, load, cell: Some(cell.clone()), singles, measured, ..Level::default() }
}

fn overload_plan() -> Plan {
    let role = |role: &str, timeout_ns| Cell {
        role: role.to_owned(),
        request_timeout_ns: timeout_ns,
        ..Cell::default()
    };
    let timeout = Some(500 * MS);
    let watched = Cell { duration_ns: Some(30_000 * MS), ..role(RECOVERY, timeout) };
    Plan {
        experiment: "overload".to_owned(),
        concurrency: vec![1, 8, 1],
        cells: vec![role(BASELINE, None), role(OVERLOAD, timeout), watched],
        ..Plan::default()
    }
}

/// Baseline of 100 ms; an overload that ends at 2,000 ms with half of it failed; then these probes.
fn overload(probes: Vec<Single>) -> Overload {
    let plan = overload_plan();
    let usual = (0..12).map(|i| answered(i * 100, 100)).collect();
    let turned_away = (0..6).map(|i| failed(1_400 + i, 1, "HTTP 503", Again::TurnedAway));
    let late = (0..4).map(|_| failed(1_500, 500, "timeout before the first token", Again::WorkTwice));
    let busy = (0..10).map(|i| answered(1_500, 300 + i)).chain(turned_away).chain(late).collect();
    let levels = [
        level(0, 1, &plan.cells[0], usual),
        level(1, 8, &plan.cells[1], busy),
        level(2, 1, &plan.cells[2], probes),
    ];
    Overload::of(&plan, levels.iter())
}

fn recovery(probes: Vec<Single>) -> Recovery {
    overload(probes).recoveries.remove(0)
}

#[test]
fn what_failed_is_counted_by_class() {
    let overload = overload((0..9).map(|i| answered(2_600 + i * 100, 100)).collect());
    let classes: Vec<_> = overload.failures().iter().map(|f| (f.class.clone(), f.count)).collect();
    assert_eq!(classes, [("HTTP 503".to_owned(), 6), ("timeout before the first token".to_owned(), 4)]);
    let rung = &overload.rungs[0];
    assert_eq!((rung.concurrency, rung.timeout_ns, rung.counts.completed), (8, 500 * MS, 10));
    assert_eq!(rung.failures[0].sample, "HTTP 503, in full");
    assert_eq!(rung.e2e_ns.as_ref().unwrap().at(95.0), 309e6);
    assert!(overload.failed_words().contains("10 of 20 requests failed (50 %): 6 × HTTP 503, 4 × timeout"));
    let retries = overload.retry_words();
    assert!(retries.contains("6 were turned away") && retries.contains("4 ran out of time"), "{retries}");
    assert!(retries.contains("2.0 requests"), "{retries}");
    assert_eq!(overload.recovered(), Some(true));
}

#[test]
fn a_recovery_is_when_probes_are_as_good_as_before() {
    // Two that are too slow, then good ones: the third begins at 3,000 and takes 120 ms.
    let slow = [answered(2_600, 200), answered(2_800, 200)];
    let good = (0..5).map(|i| answered(3_000 + i * 120, 120));
    let found = recovery(slow.into_iter().chain(good).collect());
    assert_eq!((found.recovered, found.after_ns), (Some(true), Some(1_120 * MS)));
    assert_eq!((found.probed_after_ns, found.probes, found.good), (Some(600 * MS), 7, 5));
    assert!(found.words.contains("recovered in 1.12 s or less"), "{}", found.words);
}

#[test]
fn one_lucky_probe_is_no_recovery() {
    let down = |at| failed(at, 1, "connection refused", Again::TurnedAway);
    let found =
        recovery(vec![answered(2_600, 100), down(2_700), answered(2_800, 100), down(2_900), down(3_000)]);
    assert_eq!((found.recovered, found.after_ns, found.good), (Some(false), None, 2));
    assert!(found.words.contains("NOT recovered within 30.0 s"), "{}", found.words);
    assert!(found.words.contains("3 failed, such as connection refused"), "{}", found.words);
}

#[test]
fn a_recovery_without_evidence_is_not_judged() {
    assert_eq!(recovery(Vec::new()).recovered, None);
    let unplaced = Single { times_ns: None, ..answered(0, 100) };
    assert_eq!(recovery(vec![unplaced]).recovered, None);
    let plan = overload_plan();
    let none = Overload::of(&plan, std::iter::empty());
    assert_eq!((none.recovered(), none.recoveries.len()), (None, 1));
    assert!(none.words().contains("nothing ended"), "{}", none.words());
    let broken = vec![failed(0, 1, "HTTP 500", Again::Unknown)];
    let without_usual = [level(0, 1, &plan.cells[0], broken)];
    assert!(Overload::of(&plan, without_usual.iter()).words().contains("nothing of the baseline completed"));
}

#[test]
fn a_grid_keeps_every_cell_driven_or_not() {
    let cell =
        |chars, tokens| Cell { prompt_chars: Some(chars), output_len: Some(tokens), ..Cell::default() };
    let cells = vec![cell(200, 32), cell(200, 64), cell(800, 32), cell(800, 64)];
    let plan = Plan { experiment: "grid".to_owned(), concurrency: vec![1; 4], cells, ..Plan::default() };
    let mut cut = level(2, 1, &plan.cells[2], vec![answered(0, 50)]);
    cut.voided = Some("interrupted".to_owned());
    let nothing = vec![failed(0, 1, "HTTP 500", Again::Unknown)];
    let first = (1..=6).map(|i| answered(i, i * 10)).collect();
    let levels = [level(0, 1, &plan.cells[0], first), level(1, 1, &plan.cells[1], nothing), cut];
    let grid = Grid::of(&plan, levels.iter());
    assert_eq!(
        (grid.prompt_chars.as_slice(), grid.max_tokens.as_slice()),
        ([200, 800].as_slice(), [32, 64].as_slice())
    );
    assert_eq!(grid.cell(200, 32).unwrap().percentile_ns(50.0), Some(30e6));
    assert_eq!(grid.cell(200, 32).unwrap().sent_chars, Some((200, 200)));
    assert_eq!((grid.cells[1].percentile_ns(50.0), grid.cells[1].not_completed), (None, 1));
    assert_eq!((grid.cells[2].percentile_ns(50.0), grid.cells[2].level), (None, Some(2)));
    assert_eq!((grid.cells[3].level, grid.cells.len()), (None, 4));
}

#[test]
fn rungs_are_called_by_what_they_differ_in() {
    assert_eq!(
        names(&overload_plan()),
        ["baseline, one at a time", "concurrency 8 at timeout 500 ms", "recovery, one at a time"]
    );
    assert!(names(&Plan { concurrency: vec![1, 2], ..Plan::default() }).is_empty());
}
