//! What a reader must know of where the prompts came from.

use crate::plan::{DatasetFacts, Plan};
use crate::stored::RunData;

use super::tally;

/// In words; nothing when there is nothing to beware of.
pub(super) fn warnings(data: &RunData) -> Vec<String> {
    let plan = &data.header.plan;
    let Some(facts) = plan.dataset.as_ref() else { return Vec::new() };
    let Some(file) = &facts.file else { return Vec::new() };
    let mut all = Vec::new();
    if facts.broken_lines > 0 {
        let example = facts.left_out_examples.first().map_or(String::new(), |text| format!(" ({text})"));
        all.push(format!("{} broken lines of {file} were left out{example}", facts.broken_lines));
    }
    if facts.has_times && !replays_times(plan) {
        all.push(format!("the times in {file} were not replayed: a closed loop sends when a stream is free"));
    }
    all.extend(repeats(data, facts, file));
    all
}

/// Only a schedule that takes its arrivals from the dataset does; there is none yet.
fn replays_times(_plan: &Plan) -> bool {
    false
}

/// Servers keep the beginnings of prompts that they have seen.
fn repeats(data: &RunData, facts: &DatasetFacts, file: &str) -> Option<String> {
    let records =
        tally::agents(data).into_iter().flat_map(|(_, node)| &node.batches).flat_map(|b| &b.records);
    let begun =
        records.filter(|record| record.entry.is_some() && record.turn.unwrap_or(0) == 0).count() as u64;
    let entries = facts.entries;
    (begun > entries).then(|| {
        format!(
            "{begun} requests or sessions drew from the {entries} entries of {file}: most were sent more than once, \
             and a server with a prefix cache answers repeats faster"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::testrun;

    fn run(facts: DatasetFacts) -> RunData {
        let mut data = testrun::run(5, 1, &[1]);
        data.header.plan.dataset = Some(facts);
        for node in data.nodes.values_mut() {
            for (record, at) in node.batches.iter_mut().flat_map(|b| &mut b.records).zip(0..) {
                record.entry = Some(at % 3);
            }
        }
        data
    }

    #[test]
    fn what_to_beware_of_is_said() {
        let file = Some("trace.jsonl".to_owned());
        let examples = vec!["line 3: not JSON".to_owned()];
        let facts = DatasetFacts {
            file: file.clone(),
            entries: 3,
            broken_lines: 2,
            has_times: true,
            left_out_examples: examples,
            ..DatasetFacts::default()
        };
        let said = warnings(&run(facts)).join("\n");
        for part in ["2 broken lines of trace.jsonl", "line 3: not JSON", "not replayed", "3 entries"] {
            assert!(said.contains(part), "{part} in {said}");
        }
        let roomy = DatasetFacts { file, entries: 1_000_000, ..DatasetFacts::default() };
        assert!(warnings(&run(roomy)).is_empty());
        assert!(warnings(&run(DatasetFacts::default())).is_empty(), "synthetic");
    }
}
