//! What model servers told of themselves in a run: by probe, the last that each endpoint said. `inside` judges what they
//! measured; here is what they are.

use serde_json::{Map, Value, json};
use tailcliff_proto::secret::redacted_words;
use tailcliff_proto::v1::{NodeKind, ServerFact, ServerFacts};

use crate::merge::tally::of_kind;
use crate::stored::RunData;

/// Endpoints of one probe that are kept; a probe has one.
const MOST: usize = 16;

/// (probe, facts), in the order of joining.
pub fn facts(data: &RunData) -> Vec<(String, ServerFacts)> {
    let mut all = Vec::new();
    for (_, node) in of_kind(data, NodeKind::GpuProbe) {
        let mut told: Vec<ServerFacts> = Vec::new();
        for facts in node.each_batch_with_server().flat_map(|batch| batch.server_facts.clone()) {
            match told.iter().position(|known| known.endpoint == facts.endpoint) {
                // Batches come in order, but a node that dialled again may send an older one after a newer.
                Some(at) if told[at].raw_ns > facts.raw_ns => {}
                Some(at) => told[at] = facts,
                None if told.len() < MOST => told.push(facts),
                None => {}
            }
        }
        all.extend(told.into_iter().map(|facts| (node.hello.name.clone(), facts)));
    }
    all
}

/// As `environment.json` has them; what is not known is null.
pub fn to_json((probe, facts): &(String, ServerFacts)) -> Value {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    // The probe left secrets out; a journal may be another's.
    let command = Some(redacted_words(&facts.command)).filter(|words| !words.is_empty());
    let other = |of: &ServerFact| (of.name.clone(), json!({ "value": of.value, "source": of.source }));
    json!({
        "probe": probe,
        "endpoint": text(&facts.endpoint),
        "stack": text(&facts.stack),
        "version": text(&facts.version),
        "models": Some(&facts.models).filter(|models| !models.is_empty()),
        "max_model_len": facts.max_model_len,
        "max_batch": facts.max_batch,
        "kv_tokens": facts.kv_tokens,
        "prefix_caching": facts.prefix_caching,
        "spec_decoding": text(&facts.spec_decoding),
        "pid": facts.pid,
        "command": command,
        "others": facts.others.iter().map(other).collect::<Map<_, _>>(),
        "sources": facts.sources,
    })
}

#[cfg(test)]
mod tests {
    use tailcliff_proto::v1;

    use super::*;
    use crate::merge::testrun;
    use crate::report::environment::environment;
    use crate::untold::untold;

    fn told(endpoint: &str, raw_ns: i64, version: &str) -> ServerFacts {
        ServerFacts {
            raw_ns,
            endpoint: endpoint.to_owned(),
            version: version.to_owned(),
            ..Default::default()
        }
    }

    fn run(facts: Vec<ServerFacts>) -> RunData {
        let mut data = testrun::run(5, 1, &[1]);
        let probe = testrun::add_probe(&mut data);
        for facts in facts {
            testrun::push(&mut data, probe, v1::Batch { server_facts: vec![facts], ..Default::default() });
        }
        data
    }

    #[test]
    fn of_each_endpoint_the_last_word_counts() {
        let data = run(vec![told("a", 1, "1"), told("b", 2, "2"), told("a", 4, "4"), told("a", 3, "3")]);
        let all = facts(&data);
        let versions: Vec<_> =
            all.iter().map(|(_, of)| (of.endpoint.as_str(), of.version.as_str())).collect();
        assert_eq!(versions, [("a", "4"), ("b", "2")]);
        let names: Vec<_> = all.iter().map(|(probe, _)| probe.as_str()).collect();
        assert_eq!(names, ["probe", "probe"]);
    }

    #[test]
    fn what_a_server_tells_is_in_the_environment_and_not_missing_any_more() {
        let keys = |data: &RunData| untold(data).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        let silent = run(Vec::new());
        for key in ["server", "server_version", "max_batch"] {
            assert!(keys(&silent).contains(&key), "{key}");
        }
        let facts = ServerFacts {
            stack: "vllm".to_owned(),
            max_batch: Some(64),
            pid: Some(7),
            command: ["vllm", "serve", "--api-key", "hunter2"].map(str::to_owned).to_vec(),
            others: vec![v1::ServerFact {
                name: "block_size".to_owned(),
                value: "16".to_owned(),
                source: "metrics".to_owned(),
            }],
            ..told("http://h/metrics", 1, "0.32.0")
        };
        let told = run(vec![facts]);
        for key in ["server", "server_version", "max_batch"] {
            assert!(!keys(&told).contains(&key), "{key}");
        }
        assert!(keys(&told).contains(&"extra_passes"), "which no server tells");
        let environment = environment(&told);
        let server = &environment["server"]["told"][0];
        assert_eq!((&server["stack"], &server["version"]), (&json!("vllm"), &json!("0.32.0")));
        assert_eq!((&server["max_batch"], &server["kv_tokens"]), (&json!(64), &Value::Null));
        assert_eq!(server["others"]["block_size"]["value"], "16");
        assert!(
            !environment.to_string().contains("hunter")
                && !environment["missing"].to_string().contains("max_batch")
        );
    }
}
