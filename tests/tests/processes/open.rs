//! Open loop through the whole system: however many agents there are, the load is the one stated.

use std::collections::BTreeMap;

use e2e::csv::Table;
use serde_json::Value;

use crate::scene::{PACED, Scene, count, levels};

/// Two levels of Poisson arrivals.
const LOAD: [&str; 10] = [
    "--request-rate",
    "30,60",
    "--num-prompts",
    "60",
    "--warmup",
    "500ms",
    "--seed",
    "7",
    "--output-len",
    "6",
];

/// Of each arrival, by level and number: its intended send since the level's start on its agent's own clock, ns.
type Arrivals = BTreeMap<(u32, u64), i64>;

fn run(agents: &[&str]) -> (Scene, Arrivals) {
    let mut scene = Scene::new(&PACED);
    let number = agents.len().to_string();
    scene.coordinate(&[&LOAD[..], &["--agents", &number]].concat());
    agents.iter().for_each(|name| scene.agent(name));
    scene.complete();
    let arrivals = arrivals(&scene);
    (scene, arrivals)
}

/// Exact: the moment that an agent was given for the start is the same on its clock as those of its requests.
fn arrivals(scene: &Scene) -> Arrivals {
    let stored = scene.stored();
    let mut all = Arrivals::new();
    for (of, node) in &stored.nodes {
        for record in node.batches.iter().flat_map(|batch| &batch.records) {
            let log = stored.levels.iter().find(|log| log.drive.level == record.level).unwrap();
            let started = &log.started[of];
            assert!(!started.was_late, "the machine is too busy for this test");
            let at = record.intended_raw_ns - started.asked_raw_ns;
            let twice = all.insert((record.level, record.request), at);
            assert!(twice.is_none(), "{record:?} is there twice");
        }
    }
    all
}

/// Each request lies on the common timeline where its arrival says, but for the error of its agent's
/// start, which was told on a clock that some pings had set.
fn assert_aligned(scene: &Scene, arrivals: &Arrivals) {
    let table = Table::read(&scene.run_dir().join("requests.csv")).unwrap();
    let [level, request, t_s] = ["level", "request", "t_s"].map(|name| table.column(name).unwrap());
    let stored = scene.stored();
    for row in &table.rows {
        let key = (row[level].parse().unwrap(), row[request].parse().unwrap());
        let log = stored.levels.iter().find(|log| log.drive.level == key.0).unwrap();
        let start = log.start_ref_ns - stored.header.started_ref_ns;
        // Nine decimals, so that the digits are ns.
        let at = row[t_s].replace('.', "").parse::<i64>().unwrap() - start;
        assert!((at - arrivals[&key]).abs() < 1_000_000, "{key:?}: {at} and not {} ns", arrivals[&key]);
    }
}

fn assert_sound(scene: &Scene) {
    assert_eq!(scene.accounts().differences(), [""; 0]);
    for level in levels(&scene.summary()) {
        assert_eq!((count(level, "released"), count(level, "completed")), (60, 60));
        assert_eq!((&level["concurrency"], count(level, "held_back_requests")), (&Value::Null, 0));
        let (asked, offered) = (level["request_rate"].as_f64(), level["request_rate_offered"].as_f64());
        // Sixty Poisson arrivals: within four standard deviations.
        let ratio = offered.unwrap() / asked.unwrap();
        assert!((0.5..2.1).contains(&ratio), "{level}");
    }
}

/// The union over two agents is the sequence that one agent sends, to the ns.
#[test]
fn two_agents_send_what_one_would() {
    let (alone, one) = run(&["a"]);
    let (shared, two) = run(&["a", "b"]);
    assert_sound(&alone);
    assert_sound(&shared);
    assert_eq!(one, two);
    assert_aligned(&alone, &one);
    assert_aligned(&shared, &two);
    let stored = shared.stored();
    let sent = stored.nodes.values().map(|n| n.batches.iter().map(|b| b.records.len()).sum::<usize>());
    let sent: Vec<usize> = sent.filter(|n| *n > 0).collect();
    assert!(sent.len() == 2 && sent[0].abs_diff(sent[1]) <= 2, "they take turns: {sent:?}");
}
