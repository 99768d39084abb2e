//! Baseline, grid and overload through the whole system, held against the server's truth log.

use std::collections::{BTreeMap, BTreeSet};

use e2e::csv::Table;
use e2e::truth_check::read_truth;
use model_sim::{Outcome, TruthRecord};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::scene::{PACED, Scene, count, levels};

/// Two prompts by two answers; four requests each.
const GRID: [&str; 8] =
    ["--experiment", "grid", "--prompt-chars", "100,400", "--max-tokens", "4,8", "--num-prompts", "4"];
/// A server with room for two, and for four who wait: 40 tokens take it 0.2 s.
const SMALL: [&str; 6] = ["--max-num-seqs", "2", "--max-queue", "4", "--step-base-ms", "5"];

fn requests(scene: &Scene) -> Table {
    Table::read(&scene.run_dir().join("requests.csv")).unwrap()
}

fn truth(scene: &Scene) -> BTreeMap<String, TruthRecord> {
    read_truth(&scene.truth_log()).unwrap().by_id
}

fn picture(scene: &Scene, name: &str) -> String {
    std::fs::read_to_string(scene.run_dir().join(name)).unwrap()
}

#[test]
fn a_baseline_is_sequential_and_its_figures_are_the_requests_own() {
    let mut scene = Scene::new(&PACED);
    let run = scene.run_dir();
    let (code, said) = scene.tailcliff(&[
        "baseline",
        "--url",
        scene.url(),
        "--model",
        "sim",
        "--ignore-eos",
        "--num-prompts",
        "8",
        "--output-len",
        "6",
        "--output-dir",
        run.to_str().unwrap(),
    ]);
    assert_eq!(code, 0, "{said}");
    scene.end_server();
    let mut served: Vec<TruthRecord> = truth(&scene).into_values().collect();
    served.sort_by_key(|record| record.arrived_ns);
    assert_eq!(served.len(), 8);
    let overlap = served.windows(2).filter(|pair| pair[1].arrived_ns < pair[0].ended_ns).count();
    assert_eq!(overlap, 0, "two were in flight at once");
    let summary = scene.summary();
    assert_eq!(summary["run"]["experiment"], "baseline");
    let table = requests(&scene);
    let e2e = table.column("e2el_ms").unwrap();
    let mut all: Vec<f64> = table.rows.iter().map(|row| row[e2e].parse().unwrap()).collect();
    all.sort_by(f64::total_cmp);
    let told = |key: &str| summary["baseline"]["e2el_ms"][key].as_f64().unwrap();
    assert_eq!((told("n"), told("min"), told("p50"), told("max")), (8.0, all[0], all[3], all[7]));
    assert!((told("mean") - all.iter().sum::<f64>() / 8.0).abs() < 1e-6);
    assert!(picture(&scene, "baseline.svg").contains("8 requests, one after another"));
}

#[test]
fn cells_of_a_grid_have_the_characters_and_the_tokens_asked_for_over_many_agents() {
    let mut scene = Scene::new(&PACED);
    scene.coordinate(&[&GRID[..], &["--concurrency", "2", "--agents", "2"]].concat());
    scene.agent("a");
    scene.agent("b");
    scene.complete();
    let (summary, served, table) = (scene.summary(), truth(&scene), requests(&scene));
    let column = |name: &str| table.column(name).unwrap();
    let (id, level, chars, asked) =
        (column("request_id"), column("level"), column("input_len"), column("asked_tokens"));
    let number = |row: &[String], at: usize| row[at].parse::<u64>().unwrap();
    let mut around = BTreeSet::new();
    for row in &table.rows {
        let (truth, cell) = (&served[&row[id]], &levels(&summary)[number(row, level) as usize]["cell"]);
        assert_eq!(cell["prompt_chars"], number(row, chars));
        assert_eq!(cell["max_tokens"], number(row, asked));
        assert_eq!((truth.max_tokens, truth.output_tokens), (number(row, asked), number(row, asked)));
        around.insert(truth.body_bytes - number(row, chars));
    }
    assert_eq!(table.rows.len(), 16);
    assert_eq!(around.len(), 1, "bodies differ in more than their prompts: {around:?}");
    let agents: BTreeSet<&String> = table.rows.iter().map(|row| &row[column("agent")]).collect();
    assert_eq!(agents.len(), 2);
    let grid = &summary["grid"];
    assert_eq!((&grid["prompt_chars"], &grid["max_tokens"]), (&json!([100, 400]), &json!([4, 8])));
    // At 5 ms a token, four more take 20 ms more, whatever the prompt.
    for row in grid["p50_e2el_ms"].as_array().unwrap() {
        assert!(row[1].as_f64().unwrap() > row[0].as_f64().unwrap() + 10.0, "{grid}");
    }
    assert!(summary["knee"]["words"].as_str().unwrap().contains("not judged"));
    assert!(picture(&scene, "grid.svg").contains("400 characters × 8 tokens"));
}

#[test]
fn a_grid_goes_on_where_its_coordinator_died() {
    let mut scene = Scene::new(&["--timing", "paced", "--paced-ttft-ms", "150", "--paced-itl-ms", "20"]);
    scene.coordinate(&[&GRID[..], &["--agents", "1"]].concat());
    scene.agent("a");
    // The preflight, a whole cell, and some of the second.
    scene.under_way(6);
    scene.coordinator().kill();
    scene.resume(&[]);
    scene.complete();
    let summary = scene.summary();
    let cells = summary["grid"]["cells"].as_array().unwrap();
    assert!(cells.iter().all(|cell| count(cell, "completed") == 4 && cell["voided"].is_null()), "{summary}");
    let first: Vec<&Value> =
        levels(&summary).iter().filter(|l| l["cell"] == levels(&summary)[0]["cell"]).collect();
    assert_eq!((first.len(), &first[0]["voided"]), (1, &Value::Null), "a whole cell is not driven again");
    assert!(
        levels(&summary).iter().any(|level| !level["voided"].is_null()),
        "nothing was cut: the test shows nothing"
    );
}

#[test]
fn an_interrupted_grid_keeps_its_whole_cells() {
    let mut scene = Scene::new(&["--timing", "paced", "--paced-ttft-ms", "150", "--paced-itl-ms", "20"]);
    scene.coordinate(&[&GRID[..], &["--agents", "1"]].concat());
    scene.agent("a");
    scene.under_way(6);
    kill(Pid::from_raw(scene.coordinator().pid().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(scene.wait(), 130);
    scene.end_server();
    let summary = scene.summary();
    let cells = summary["grid"]["cells"].as_array().unwrap();
    assert_eq!((cells.len(), count(&cells[0], "completed"), &cells[0]["voided"]), (4, 4, &Value::Null));
    assert!(cells[0]["p95_e2el_ms"].as_f64().is_some());
    assert_eq!((&cells[3]["level"], &cells[3]["p95_e2el_ms"]), (&Value::Null, &Value::Null), "{summary}");
    assert!(picture(&scene, "grid.svg").contains("not driven"));
}

/// The server fails every second request; the preflight is its first. So cells of one request each fail in turn.
#[test]
fn a_cell_without_a_completed_request_is_named_and_no_success() {
    let mut scene = Scene::new(&[&PACED[..], &["--fault", "status:code=500,every=2"]].concat());
    let run = scene.run_dir();
    let grid = ["--prompt-chars", "100,400", "--max-tokens", "4", "--num-prompts", "1"];
    let all = [
        "grid",
        "--url",
        scene.url(),
        "--model",
        "sim",
        "--ignore-eos",
        "--output-dir",
        run.to_str().unwrap(),
    ];
    let (code, said) = scene.tailcliff(&[&all[..], &grid].concat());
    assert_eq!(code, 8, "{said}");
    assert!(said.contains("no request completed at 100 characters × 4 tokens"), "{said}");
    scene.end_server();
    let cells = &scene.summary()["grid"]["cells"];
    assert_eq!((&cells[0]["p50_e2el_ms"], count(&cells[0], "not_completed")), (&Value::Null, 1));
    assert!(cells[1]["p50_e2el_ms"].as_f64().is_some());
}

fn overload(scene: &mut Scene, more: &[&str]) {
    let args = ["--experiment", "overload", "--output-len", "40", "--agents", "1"];
    scene.coordinate(&[&args[..], more].concat());
    scene.agent("a");
}

/// Every seventh request stalls in mid-answer, so that what runs out of time is the server's to tell exactly: those who
/// only wait for a place wait 0.6 s at most, and nothing ends near its timeout.
#[test]
fn an_overload_counts_what_failed_as_the_server_does_and_the_server_recovers() {
    let mut scene = Scene::new(&[&SMALL[..], &["--fault", "stall:token=5,every=7"]].concat());
    let load = ["--concurrency", "2,12", "--num-prompts", "40", "--timeouts", "1200ms"];
    overload(&mut scene, &[&load[..], &["--request-timeout", "3s", "--recovery-wait", "5s"]].concat());
    scene.complete();
    let (summary, accounts) = (scene.summary(), scene.accounts());
    assert_eq!(accounts.differences(), [""; 0]);
    assert_eq!(accounts.unseen().count(), 0);
    let roles: Vec<&str> = levels(&summary).iter().map(|level| level["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["baseline", "overload", "overload", "recovery"]);
    let overload = &summary["overload"];
    let told = |words: &str| -> u64 {
        let all = overload["failures"].as_array().unwrap().iter();
        all.filter(|f| f["class"].as_str().unwrap().starts_with(words)).map(|f| count(f, "count")).sum()
    };
    let served = |is: fn(&TruthRecord) -> bool| truth(&scene).values().filter(|t| is(t)).count() as u64;
    let (refused, gone) = (served(|t| t.status == Some(503)), served(|t| t.outcome == Outcome::ClientGone));
    println!("{refused} refused, {gone} given up: {overload}");
    assert!(refused > 0 && gone > 0, "the server was not overloaded: the test shows nothing");
    assert_eq!(told("HTTP 503"), refused);
    let elsewhere: u64 = [0, 3].iter().map(|&i| count(&levels(&summary)[i], "failed")).sum();
    assert_eq!(told("timeout in mid-answer") + elsewhere, gone);
    assert_eq!(told(""), refused + gone - elsewhere, "there is no other kind");
    each_phase_has_its_own_timeout(&scene);
    assert_eq!(
        (&overload["recovered"], &overload["recoveries"][0]["recovered"]),
        (&json!(true), &json!(true))
    );
    let after = |key: &str| overload["recoveries"][0][key].as_f64().unwrap();
    assert!(
        after("after_s") > after("first_probe_after_s") && after("first_probe_after_s") > 0.0,
        "{overload}"
    );
    assert!(picture(&scene, "overload.svg").contains("the server recovered"));
}

fn each_phase_has_its_own_timeout(scene: &Scene) {
    let table = requests(scene);
    let column = |name: &str| table.column(name).unwrap();
    let (kind, level, issued, done) =
        (column("error_kind"), column("level"), column("issued_s"), column("done_s"));
    let late = |row: &&Vec<String>| row[kind] == "timeout";
    for row in table.rows.iter().filter(late) {
        let at = |column: usize| row[column].parse::<f64>().unwrap();
        let (took, timeout) = (at(done) - at(issued), if row[level] == "0" { 3.0 } else { 1.2 });
        assert!(
            (timeout..timeout + 1.5).contains(&took),
            "{took} s within {timeout} s in level {}",
            row[level]
        );
    }
}

#[test]
fn a_server_that_dies_under_overload_has_not_recovered() {
    let mut scene = Scene::new(&SMALL);
    overload(
        &mut scene,
        &["--timeouts", "5s", "--concurrency", "2", "--num-prompts", "60", "--recovery-wait", "1500ms"],
    );
    // The preflight, the twelve of the baseline, and some of the overload.
    scene.under_way(18);
    scene.server.kill();
    assert_eq!(scene.wait(), 0, "that is a finding, and no failure of the run");
    let overload = &scene.summary()["overload"];
    assert_eq!(overload["recovered"], false, "{overload}");
    let recovery = &overload["recoveries"][0];
    assert_eq!((count(recovery, "good"), &recovery["after_s"]), (0, &Value::Null));
    assert!(count(recovery, "probes") > 3, "{recovery}");
    assert!(overload["words"].as_str().unwrap().contains("connection refused"), "{overload}");
}
