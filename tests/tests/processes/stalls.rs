//! Stalls of known cause, and what tailcliff says of them. The seeds here are held out: nothing was tuned on them. At
//! length: `cargo run --release --bin stalls -- --runs 20`.

use e2e::stalls::{Card, H100, Kind, Known, Matrix, Plan, Row, Truth, Verdict, play};

use crate::scene::binary;

/// Plays a plan and reads what is said of it, and what is true.
fn played(plan: &Plan, card: &Card) -> (Vec<Row>, Known) {
    let dir = tempfile::tempdir().unwrap();
    let ran = play(binary(), dir.path(), plan, card).unwrap();
    (Row::read(&ran.run_dir).unwrap(), Known::read(&ran).unwrap())
}

fn h100() -> Card {
    Card::Follows(H100.to_owned())
}

#[test]
fn every_cause_gets_its_verdict() {
    let plan = Plan::random(1_001, &Kind::ALL, 1);
    println!("{plan:?}");
    let (rows, known) = played(&plan, &h100());
    let mut matrix = Matrix::default();
    matrix.add("seed 1001", &rows, &known);
    println!("{matrix}");
    assert_eq!(matrix.confident_wrong, 0, "{matrix}");
    assert!(matrix.right() >= 0.95 && matrix.cant_tell() <= 0.1, "{matrix}");
    assert!(matrix.missed.is_empty(), "{matrix}");
}

const CAUSES_OF_724_MS: [Kind; 5] =
    [Kind::IdlePause, Kind::ExtraCompute, Kind::Preempt, Kind::Hold, Kind::Stop];

/// The length is that of an undisturbed machine, which one of a few attempts must find; verdict and energy must always hold.
#[test]
fn a_stall_of_724_ms_has_its_length_its_energy_and_its_verdict_whatever_its_cause() {
    let attempts = [1_002, 1_102, 1_202];
    let met = attempts.iter().any(|seed| {
        let plan = Plan::random(*seed, &CAUSES_OF_724_MS, 1).all_of(724);
        let (rows, known) = played(&plan, &h100());
        // All are looked at, also when one is off.
        let near = CAUSES_OF_724_MS.map(|kind| is_724_ms(kind, &rows, &known));
        near.iter().all(|near| *near)
    });
    assert!(met, "no attempt had all lengths");
}

/// Whether the rows of a cause have its true length, to 2 ms; their verdicts and energies must be right.
fn is_724_ms(kind: Kind, rows: &[Row], known: &Known) -> bool {
    let of = |row| Some((row, known.of(row).filter(|truth| truth.kind == Some(kind) && !truth.disturbed)?));
    let mine: Vec<(&Row, Truth)> = rows.iter().filter(|row| row.kind == "gap").filter_map(of).collect();
    for (row, truth) in &mine {
        assert_eq!(row.verdict, kind.verdict(), "{}", row.cells.join(","));
        let (low, high) = row.energy_j.expect("its energy was read");
        assert!((low..=high).contains(&truth.energy_j), "{low} to {high} J, truly {} J", truth.energy_j);
    }
    let mut off: Vec<f64> = mine.iter().map(|(row, truth)| (row.gap_ms - truth.true_ms).abs()).collect();
    off.sort_by(f64::total_cmp);
    let Some((row, truth)) = mine.first() else { return false };
    println!(
        "{}: {:.1} ms, off by {off:.1?} ms, {} at {:.2}, {:.0?} J, truly {:.0} J",
        kind.name(),
        row.gap_ms,
        row.verdict.as_str(),
        row.confidence,
        row.energy_j,
        truth.energy_j
    );
    // A client that may go on, and a proxy that lets go, serve one stream after the other: the first one's end is known.
    let judged = if kind.is_servers() { off[off.len() / 2] } else { off[0] };
    judged <= 2.0
}

/// A short run in which only the GPU tells idle from busy.
fn needs_the_gpu(seed: u64, times: usize) -> Plan {
    Plan::random(seed, &[Kind::IdlePause, Kind::ExtraCompute], times)
}

fn falls_back(name: &str, plan: &Plan, card: &Card) -> (Vec<Row>, Known) {
    let (rows, known) = played(plan, card);
    let mut matrix = Matrix::default();
    matrix.add(name, &rows, &known);
    println!("{name}\n{matrix}");
    assert!(matrix.rows() > 4 && matrix.confident_wrong == 0, "{name}: {matrix}");
    (rows, known)
}

/// Verdicts on gaps of the injection with this number that the machine did not add to.
fn verdicts(rows: &[Row], known: &Known, injection: usize) -> Vec<Verdict> {
    let its = |truth: Truth| truth.injection == Some(injection) && !truth.disturbed;
    let is_its = |row: &&Row| known.of(row).is_some_and(its);
    rows.iter().filter(|row| row.kind == "gap").filter(is_its).map(|row| row.verdict).collect()
}

#[test]
fn a_gpu_that_has_no_part_in_it_or_is_not_there_leaves_it_untold() {
    for (name, seed, card) in [("another host's GPU", 1_003, Card::Other), ("no GPU", 1_004, Card::None)] {
        let (rows, known) = falls_back(name, &needs_the_gpu(seed, 1), &card);
        for injection in 0..2 {
            let verdicts = verdicts(&rows, &known, injection);
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::CantTell), "{name}: {verdicts:?}");
        }
    }
}

#[test]
fn a_gpu_that_is_lost_or_whose_probe_starts_again_explains_what_it_saw() {
    let mut plan = Plan { probe_dies_before: Some(1), ..needs_the_gpu(1_006, 2) };
    // It is some seconds until the place of the first one is free.
    plan.injections[1].rest_ms = 6_000;
    let (rows, known) = falls_back("probe starts again", &plan, &h100());
    [0, 2, 3].iter().for_each(|injection| tells(&rows, &known, *injection));

    let plan = needs_the_gpu(1_005, 2);
    // The run's rest and its start take 3 s or some more, and the lead-in 1.5 s: the first injection is over by then, and the
    // last is to come.
    let two: u64 = plan.injections[..2].iter().map(|one| one.ms + one.rest_ms).sum();
    let lost_ms = plan.idle_ms + 4_500 + two;
    let (rows, known) = falls_back("lost", &plan, &Card::Follows(format!("{H100}lost 0 {lost_ms}ms")));
    tells(&rows, &known, 0);
    let last = verdicts(&rows, &known, 3);
    assert!(last.iter().all(|verdict| *verdict == Verdict::CantTell), "after the loss: {last:?}");
}

/// Most rows of an injection are right.
fn tells(rows: &[Row], known: &Known, injection: usize) {
    let (verdicts, right) = (verdicts(rows, known, injection), known.injected()[injection].kind.verdict());
    let count = verdicts.iter().filter(|verdict| **verdict == right).count();
    assert!(!verdicts.is_empty() && 2 * count > verdicts.len(), "{right:?}: {verdicts:?}");
}
