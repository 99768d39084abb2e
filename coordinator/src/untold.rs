//! Which circumstances of a run nobody told (MISSION A7): what neither the server nor a probe says has to come from the
//! user.

use tailcliff_proto::v1;

use crate::merge::tally::of_kind;
use crate::server_facts;
use crate::stored::RunData;

/// Facts that not every server tells: the metadata key that gives each, and what it is.
const ASKED: [(&str, &str); 5] = [
    ("server", "server stack (vLLM, TGI, llama.cpp, …)"),
    ("server_version", "version of the server stack"),
    ("max_batch", "the server's batch size or slots"),
    ("prompt_label", "kind of prompt: normal or refusal (or by --prompt-label)"),
    ("extra_passes", "moderation, safety routers or anything else that inserts passes (or none)"),
];

/// (metadata key, what it is) of each fact that is unknown.
pub fn untold(data: &RunData) -> Vec<(&'static str, &'static str)> {
    let plan = &data.header.plan;
    let is_labelled = plan.prompt_label.is_some() || plan.file().is_some_and(|file| file.labelled);
    let by_server = server_facts::facts(data);
    let is_told_by_server = |key: &str| {
        by_server.iter().any(|(_, of)| match key {
            "server" => !of.stack.is_empty(),
            "server_version" => !of.version.is_empty(),
            "max_batch" => of.max_batch.is_some(),
            _ => false,
        })
    };
    let told = |key: &str| {
        (key == "prompt_label" && is_labelled)
            || plan.metadata.iter().any(|(k, v)| k == key && !v.is_empty())
            || is_told_by_server(key)
    };
    let gpus = || of_kind(data, v1::NodeKind::GpuProbe).into_iter().flat_map(|(_, n)| &n.hello.gpus);
    let mut facts = Vec::new();
    if gpus().all(|g| g.name.is_empty()) {
        facts.push(("gpu", "GPU model (no probe saw one)"));
    }
    if gpus().all(|g| g.driver.is_empty()) {
        facts.push(("gpu_driver", "GPU driver version (no probe saw one)"));
    }
    facts.extend(ASKED);
    facts.into_iter().filter(|(key, _)| !told(key)).collect()
}
