//! Faults of the engine as a whole: what the streams see, and what the two logs say of it.

use model_sim::{CauseRecord, Config, Params, Timing};

use crate::client::*;

/// The logs of one server, in a folder that goes with them.
struct Logs(std::path::PathBuf);

impl Logs {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("model-sim-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn config(&self, faults: &[&str]) -> Config {
        Config {
            timing: Timing::Engine(Params { step_base_ns: 5 * MS, ..Params::default() }),
            gpu_log: Some(self.0.join("gpu")),
            cause_log: Some(self.0.join("causes")),
            ..faulty(faults)
        }
    }

    fn causes(&self) -> Vec<CauseRecord> {
        let text = std::fs::read_to_string(self.0.join("causes")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Stamp and power at each change.
    fn power(&self) -> Vec<(i64, i64)> {
        let text = std::fs::read_to_string(self.0.join("gpu")).unwrap();
        let line = |line: &str| {
            let numbers: Vec<i64> = line.split(' ').map(|n| n.parse().unwrap()).collect();
            assert_eq!(numbers.len(), 6);
            (numbers[0], numbers[1])
        };
        text.lines().map(line).collect()
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn extra_work_is_a_gap_in_the_stream_and_shows_in_both_logs() {
    let logs = Logs::new("extra");
    let server = Server::start(logs.config(&["extra_compute:token=2,ms=700"]));
    assert_eq!(server.connect().post(CHAT, &chat("")).content().0.len(), 5);
    let record = server.stop_one();
    let gaps: Vec<i64> = record.emissions.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps[1] >= 500 * MS, "the stall lies before token 2: {gaps:?}");
    let causes = logs.causes();
    assert_eq!((causes.len(), causes[0].kind.as_str()), (1, "extra_compute"));
    let (from, to) = (causes[0].from_ns, causes[0].to_ns);
    assert_eq!(to - from, 700 * MS);
    assert!(record.arrived_ns < from && to < record.emissions[2], "the next token comes after it");
    let power = logs.power();
    assert!(power.is_sorted(), "{power:?}");
    let watts: Vec<i64> = power.iter().map(|(_, watts)| *watts).collect();
    assert_eq!(watts, [75, 306, 650, 306, 75]);
    assert_eq!((power[2].0, power[3].0), (from, to), "on the same clock");
}

#[test]
fn a_fault_can_be_posted_and_nonsense_is_refused() {
    let logs = Logs::new("posted");
    let server = Server::start(logs.config(&[]));
    let post = |body: &str| server.connect().post("/sim/fault", body).status;
    assert_eq!(post(r#"{"kind":"idle_pause","ms":300,"nth":5}"#), 200);
    for bad in [
        "{",
        r#"{"kind":"pause","token":1,"ms":3}"#,
        r#"{"kind":"idle_pause"}"#,
        r#"{"kind":"throttle","ms":1,"factor":1}"#,
    ] {
        assert_eq!(post(bad), 400, "{bad}");
    }
    server.connect().post(CHAT, &chat(""));
    let record = server.stop_one();
    assert!(record.emissions[0] - record.arrived_ns >= 300 * MS, "it waits for the first step");
    assert_eq!(logs.causes().len(), 1);
    assert_eq!(
        Server::start(quick()).connect().post("/sim/fault", r#"{"kind":"idle_pause","ms":3}"#).status,
        400
    );
}
