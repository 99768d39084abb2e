//! What a reader must know of where the prompts came from.

use tailcliff_proto::v1;

use crate::plan::{FileFacts, Plan};
use crate::stored::RunData;

use super::tally;

/// In words; nothing when there is nothing to beware of.
pub(super) fn warnings(data: &RunData) -> Vec<String> {
    let plan = &data.header.plan;
    let mut all = Vec::new();
    let Some(file) = plan.file() else { return all };
    let name = &file.name;
    if file.broken_lines > 0 {
        let example = file.left_out_examples.first().map_or(String::new(), |text| format!(" ({text})"));
        all.push(format!("broken lines of {name} left out: {}{example}", file.broken_lines));
    }
    if file.has_times && !replays_times(plan) {
        all.push(format!(
            "the times in {name} were not replayed: --concurrency and --request-rate have their own"
        ));
    }
    all.extend(repeats(data, file));
    all
}

fn replays_times(plan: &Plan) -> bool {
    !plan.replay_speed.is_empty()
}

/// Servers keep the beginnings of prompts that they have seen.
fn repeats(data: &RunData, file: &FileFacts) -> Option<String> {
    let begins = |record: &&v1::RequestRecord| record.entry.is_some() && record.turn.unwrap_or(0) == 0;
    let batches = tally::agents(data).into_iter().flat_map(|(_, node)| node.each_batch());
    let begun = batches.map(|batch| batch.records.iter().filter(begins).count() as u64).sum::<u64>();
    let (entries, name) = (file.entries, &file.name);
    (begun > entries).then(|| {
        format!(
            "{begun} requests or sessions drew from the {entries} entries of {name}: most were sent more than once, \
             and a server with a prefix cache answers repeats faster"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::testrun;
    use crate::plan::DatasetFacts;

    fn run(file: Option<FileFacts>) -> RunData {
        let mut data = testrun::run(5, 1, &[1]);
        data.header.plan.dataset = Some(DatasetFacts { name: "jsonl".to_owned(), file });
        for node in data.nodes.values_mut() {
            for (record, at) in node.batches.iter_mut().flat_map(|b| &mut b.records).zip(0..) {
                record.entry = Some(at % 3);
            }
        }
        data
    }

    #[test]
    fn what_to_beware_of_is_said() {
        let file = FileFacts { name: "trace.jsonl".to_owned(), entries: 1_000_000, ..FileFacts::default() };
        assert!(warnings(&run(Some(file.clone()))).is_empty());
        let left_out_examples = vec!["line 3: not JSON".to_owned()];
        let odd = FileFacts { entries: 3, broken_lines: 2, has_times: true, left_out_examples, ..file };
        let said = warnings(&run(Some(odd))).join("\n");
        for part in
            ["broken lines of trace.jsonl left out: 2", "line 3: not JSON", "not replayed", "3 entries"]
        {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}
