//! `waterfall.csv` beside the truth: what each part of a request must be.

use std::collections::BTreeMap;
use std::path::Path;

use e2e::csv::Table;
use model_sim::TruthRecord;
use tailcliff::stored::RunData;
use tailcliff_proto::v1::{RequestRecord, SpanTally};

/// Parts in order, as the columns are named.
const PARTS: [&str; 12] = [
    "send_lag",
    "connect",
    "write",
    "network_up",
    "front_in",
    "queue",
    "prefill",
    "decode",
    "front_out",
    "network_down",
    "socket_wait",
    "read",
];
/// What the file's rounding and the server's reading of two clocks one after the other may add, ns.
const NOISE_NS: i64 = 5_000;
/// What the durations' own rounding may add, ns: they are of one clock.
const ROUNDING_NS: i64 = 1_000;

/// By what the server tells of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// From the arrival to the end of the span.
    Spans,
    /// From the queue to the last token: the front end is part of the ways.
    Stamps,
}

/// A row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) agent: String,
    pub(crate) server: String,
    pub(crate) bound_ns: i64,
    source: String,
    impossible: String,
    parts_ns: [Option<i64>; PARTS.len()],
}

/// The file, by request id.
pub(crate) struct Waterfall(BTreeMap<String, Row>);

impl Waterfall {
    pub(crate) fn read(run_dir: &Path) -> Self {
        let table = Table::read(&run_dir.join("waterfall.csv")).unwrap();
        let at = |name: &str| table.column(name).unwrap();
        let [id, agent, server, source] = ["request_id", "agent", "server", "source"].map(at);
        let (bound, impossible) = (at("bound_us"), at("impossible"));
        let columns = PARTS.map(|part| at(&format!("{part}_ms")));
        let ns = |cell: &str, unit: f64| {
            (!cell.is_empty()).then(|| (cell.parse::<f64>().unwrap() * unit).round() as i64)
        };
        let row = |row: &Vec<String>| Row {
            agent: row[agent].clone(),
            server: row[server].clone(),
            source: row[source].clone(),
            bound_ns: ns(&row[bound], 1e3).expect("no bound"),
            impossible: row[impossible].clone(),
            parts_ns: columns.map(|column| ns(&row[column], 1e6)),
        };
        let rows: BTreeMap<String, Row> =
            table.rows.iter().map(|cells| (cells[id].clone(), row(cells))).collect();
        assert_eq!(rows.len(), table.rows.len(), "a request has two rows");
        Self(rows)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    pub(crate) fn of(&self, id: &str) -> &Row {
        self.0.get(id).unwrap_or_else(|| panic!("{id} is not joined"))
    }
}

impl Row {
    fn part(&self, name: &str) -> Option<i64> {
        self.parts_ns[PARTS.iter().position(|part| *part == name).unwrap()]
    }

    /// The agent's raw clock is `away_ns` ahead of the server's.
    pub(crate) fn is_true(&self, told: Told, record: &RequestRecord, truth: &TruthRecord, away_ns: i64) {
        let id = &record.request_id;
        let near = |name: &str, said: Option<i64>, true_ns: i64, may: i64| {
            let said = said.unwrap_or_else(|| panic!("{id}: no {name}"));
            assert!(
                (said - true_ns).abs() <= may,
                "{id}: {name} {said} ns, truly {true_ns}, may be {may} off: {self:?}"
            );
        };
        let [enqueued, dequeued, first, last] =
            [truth.enqueued_ns, truth.dequeued_ns, truth.first_token_ns, truth.last_token_ns]
                .map(Option::unwrap);
        near("queue", self.part("queue"), dequeued - enqueued, ROUNDING_NS);
        near("prefill", self.part("prefill"), first - dequeued, ROUNDING_NS);
        near("decode", self.part("decode"), last - first, ROUNDING_NS);
        let (from, to, source) = match told {
            Told::Spans => (truth.arrived_ns, truth.span_ended_ns.unwrap(), "spans"),
            Told::Stamps => (enqueued, last, "stamps"),
        };
        let may = self.bound_ns + NOISE_NS;
        let here = |raw_ns: i64| raw_ns - away_ns;
        near("network_up", self.part("network_up"), from - here(record.sent_raw_ns.unwrap()), may);
        // Where the kernel gave no stamp, the wait in the socket is in the way down.
        let after = ["network_down", "socket_wait", "read"].map(|part| self.part(part).unwrap_or(0));
        near("way down", Some(after.iter().sum()), here(record.done_raw_ns) - to, may);
        let front = ["front_in", "front_out"].map(|part| self.part(part).unwrap_or(0));
        near("front end", Some(front.iter().sum()), (to - from) - (last - enqueued), 2 * may);
        let all: i64 = self.parts_ns.iter().flatten().sum();
        near("sum", Some(all), record.done_raw_ns - record.intended_raw_ns, ROUNDING_NS);
        assert_eq!((self.source.as_str(), self.impossible.as_str()), (source, ""), "{id}");
    }
}

/// All requests as their agents recorded them, and these agents' names.
pub(crate) fn records(data: &RunData) -> Vec<(String, RequestRecord)> {
    let of = |node: &tailcliff::stored::Node| {
        let name = node.hello.name.clone();
        let records = node.each_batch().flat_map(|batch| batch.into_owned().records);
        records.map(|record| (name.clone(), record)).collect::<Vec<_>>()
    };
    data.nodes.values().flat_map(of).collect()
}

/// The records of requests that have a span, in the order in which they ended.
pub(crate) fn in_order(truth_log: &Path) -> Vec<TruthRecord> {
    let text = std::fs::read_to_string(truth_log).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<TruthRecord>(line).unwrap());
    records.filter(|record| record.span_ended_ns.is_some()).collect()
}

/// What the probe counted by the end.
pub(crate) fn last_tally(data: &RunData) -> SpanTally {
    let tallies = data.nodes.values().flat_map(|node| {
        node.each_batch_with_server().flat_map(|batch| batch.into_owned().span_tallies).collect::<Vec<_>>()
    });
    tallies.last().expect("no tally")
}
