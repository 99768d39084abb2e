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

/// The longest row of each cause, with its truth.
fn longest<'a>(rows: &'a [Row], known: &Known, kind: Kind) -> Vec<(&'a Row, Truth)> {
    let of = |row: &'a Row| Some((row, known.of(row).filter(|truth| truth.kind == Some(kind))?));
    rows.iter().filter(|row| row.kind == "gap").filter_map(of).collect()
}

#[test]
fn a_stall_of_724_ms_has_its_length_its_energy_and_its_verdict_whatever_its_cause() {
    let kinds = [Kind::IdlePause, Kind::ExtraCompute, Kind::Preempt, Kind::Hold, Kind::Stop];
    let plan = Plan::random(1_002, &kinds, 1).all_of(724);
    let (rows, known) = played(&plan, &h100());
    for kind in kinds {
        let mine = longest(&rows, &known, kind);
        assert!(!mine.is_empty(), "no row of {}", kind.name());
        let mut off: Vec<f64> = mine.iter().map(|(row, truth)| (row.gap_ms - truth.true_ms).abs()).collect();
        off.sort_by(f64::total_cmp);
        let (median, worst) = (off[off.len() / 2], off[off.len() - 1]);
        let (row, truth) = mine[0];
        let energy = row.energy_j;
        println!(
            "{}: {:.1} ms, off by {median:.2} ms (worst {worst:.2} of {}), {} at {:.2}, {energy:.0?} J, truly {:.0} J",
            kind.name(),
            row.gap_ms,
            off.len(),
            row.verdict.name(),
            row.confidence,
            truth.energy_j
        );
        // A process that may go on has to get its turn; and the worst of many is that of a busy machine.
        let most = if kind == Kind::Stop { 15.0 } else { 2.0 };
        assert!(median <= most && worst <= 40.0, "{}: {off:.1?}", kind.name());
        for (row, truth) in mine {
            assert_eq!(row.verdict, kind.verdict(), "{}", row.cells.join(","));
            let (low, high) = row.energy_j.expect("its energy was read");
            assert!((low..=high).contains(&truth.energy_j), "{low} to {high} J, truly {} J", truth.energy_j);
        }
    }
}

/// A short run in which only the GPU tells idle from busy.
fn needs_the_gpu(seed: u64) -> Plan {
    Plan::random(seed, &[Kind::IdlePause, Kind::ExtraCompute], 2)
}

fn falls_back(name: &str, plan: &Plan, card: &Card) -> (Vec<Row>, Known) {
    let (rows, known) = played(plan, card);
    let mut matrix = Matrix::default();
    matrix.add(name, &rows, &known);
    println!("{name}\n{matrix}");
    assert!(matrix.rows() > 0 && matrix.confident_wrong == 0, "{name}: {matrix}");
    (rows, known)
}

/// Verdicts on gaps of the injection with this number.
fn verdicts(rows: &[Row], known: &Known, injection: usize) -> Vec<Verdict> {
    let is_its = |row: &&Row| known.of(row).is_some_and(|truth| truth.injection == Some(injection));
    rows.iter().filter(|row| row.kind == "gap").filter(is_its).map(|row| row.verdict).collect()
}

#[test]
fn a_gpu_that_has_no_part_in_it_or_is_not_there_leaves_it_untold() {
    let check = |name: &str, seed: u64, card: &Card| {
        let (rows, known) = falls_back(name, &needs_the_gpu(seed), card);
        for injection in 0..4 {
            let verdicts = verdicts(&rows, &known, injection);
            assert!(!verdicts.is_empty(), "{name}");
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::CantTell), "{name}: {verdicts:?}");
        }
    };
    std::thread::scope(|threads| {
        threads.spawn(|| check("another host's GPU", 1_003, &Card::Other));
        threads.spawn(|| check("no GPU", 1_004, &Card::None));
    });
}

#[test]
fn a_gpu_that_is_lost_or_whose_probe_starts_again_explains_what_it_saw() {
    std::thread::scope(|threads| {
        threads.spawn(lost_in_the_middle);
        threads.spawn(|| {
            let plan = Plan { probe_dies_before: Some(2), ..needs_the_gpu(1_006) };
            let (rows, known) = falls_back("probe starts again", &plan, &h100());
            tells(&rows, &known, 0);
        });
    });
}

fn lost_in_the_middle() {
    let plan = needs_the_gpu(1_005);
    // Idle, lead-in and two injections are over by then, and the others are to come.
    let two: u64 = plan.injections[..2].iter().map(|one| one.ms + one.rest_ms).sum();
    let lost_ms = plan.idle_ms + 2_500 + two;
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
