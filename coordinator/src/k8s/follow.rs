//! What pods and Jobs say of a run: which of them stand still and why, in words that say what to do, and when the
//! coordinator is there or has ended. Pure: from the JSON of `kubectl get` to what follows from it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::manifests::{AGENT, COORDINATOR, PART_LABEL};

/// How the run's pods stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Its container runs.
    pub coordinator_runs: bool,
    /// There is a pod of it at all.
    pub coordinator_is_there: bool,
    /// Its Job is over: exit code when a container told one, and why in words.
    pub ended: Option<(Option<i32>, String)>,
    /// Agents whose container runs.
    pub agents_running: u32,
    /// Why pods stand still, each kind once.
    pub troubles: BTreeMap<(String, String), Trouble>,
}

/// Why pods of a part stand still.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trouble {
    /// How many pods.
    pub pods: u32,
    /// In the cluster's words, of one of them.
    pub message: String,
    /// It does not heal by itself.
    pub lasts: bool,
    /// What to do.
    pub hint: &'static str,
}

impl Trouble {
    /// For a person.
    pub fn line(&self, part: &str, reason: &str) -> String {
        let pods = if self.pods == 1 { "pod" } else { "pods" };
        let message = if self.message.is_empty() { String::new() } else { format!(": {}", self.message) };
        let hint = if self.hint.is_empty() { String::new() } else { format!("; {}", self.hint) };
        format!("{} {part} {pods}: {reason}{message}{hint}", self.pods)
    }
}

const IMAGE: &str =
    "is --image pushed where the nodes can pull it, and does its registry ask for --image-pull-secret?";
const CONFIG: &str = "make what it names, in the namespace of the run";
const UNSCHEDULABLE: &str =
    "no node has room or fits --node-selector and --server-label; agents ask for --agent-cpu";
const CRASH: &str = "`kubectl logs` of the pod says why";

/// Reads a list of Jobs and pods.
pub fn look(list: &Value, ignore_probes: bool) -> Look {
    let mut look = Look::default();
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    for item in items {
        let part = item["metadata"]["labels"][PART_LABEL].as_str().unwrap_or_default();
        match item["kind"].as_str() {
            Some("Pod") if part == COORDINATOR || part == AGENT || !ignore_probes => {
                pod(item, part, &mut look)
            }
            Some("Job") => job(item, &mut look),
            _ => {}
        }
    }
    if let Some((code, _)) = &mut look.ended {
        *code = items.iter().filter_map(exit_code).next_back();
    }
    look
}

fn pod(pod: &Value, part: &str, look: &mut Look) {
    let status = &pod["status"];
    let containers = status["containerStatuses"].as_array().map_or(&[][..], Vec::as_slice);
    let runs = containers.iter().any(|container| container["state"]["running"].is_object());
    if part == COORDINATOR {
        look.coordinator_is_there = true;
        look.coordinator_runs |= runs;
    } else if part == AGENT {
        look.agents_running += u32::from(runs);
    }
    let conditions = status["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let unscheduled = |c: &&Value| c["type"] == "PodScheduled" && c["status"] == "False";
    if let Some(condition) = conditions.iter().find(unscheduled) {
        look.add(part, "cannot be scheduled", &condition["message"], false, UNSCHEDULABLE);
    }
    for container in containers {
        let waiting = &container["state"]["waiting"];
        let reason = waiting["reason"].as_str().unwrap_or_default();
        match reason {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                look.add(part, "the image cannot be had", &waiting["message"], true, IMAGE);
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                look.add(part, reason, &waiting["message"], true, CONFIG);
            }
            "CrashLoopBackOff" => look.add(part, reason, &waiting["message"], true, CRASH),
            _ => {}
        }
        let ended = &container["state"]["terminated"];
        if part == AGENT && ended["exitCode"].as_i64().is_some_and(|code| code != 0) {
            let why =
                format!("ended with {}, {}", ended["exitCode"], ended["reason"].as_str().unwrap_or("Error"));
            look.add(
                part,
                &why,
                &Value::Null,
                false,
                "another takes the place; `kubectl logs` of the pod says why",
            );
        }
    }
}

impl Look {
    fn add(&mut self, part: &str, reason: &str, message: &Value, lasts: bool, hint: &'static str) {
        let trouble = self.troubles.entry((part.to_owned(), reason.to_owned())).or_default();
        trouble.pods += 1;
        (trouble.lasts, trouble.hint) = (lasts, hint);
        if trouble.message.is_empty() {
            let text = message.as_str().unwrap_or_default();
            trouble.message = text.chars().filter(|c| !c.is_control()).take(400).collect();
        }
    }

    /// Events of Jobs whose pods are refused: by a quota, or by the namespace's policy.
    pub fn add_refusals(&mut self, events: &Value, run_id: &str) {
        for event in events["items"].as_array().into_iter().flatten() {
            let of = event["involvedObject"]["name"].as_str().unwrap_or_default();
            let Some(part) = of.strip_prefix(run_id).and_then(|rest| rest.strip_prefix('-')) else {
                continue;
            };
            let hint = "the namespace's quota or policy says no";
            self.add(part, "no pod can be made", &event["message"], true, hint);
        }
    }
}

/// A Job that is over. Of the agents' only a failure tells: they end with the run.
fn job(job: &Value, look: &mut Look) {
    let name = job["metadata"]["name"].as_str().unwrap_or_default();
    let conditions = job["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let is = |kind: &str| conditions.iter().find(|c| c["type"] == kind && c["status"] == "True");
    let said = |condition: &Value| condition["message"].as_str().unwrap_or_default().to_owned();
    if name.ends_with(&format!("-{COORDINATOR}")) {
        look.ended = is("Failed").or_else(|| is("Complete")).map(|condition| (None, said(condition)));
    } else if let Some(condition) = is("Failed") {
        look.add(AGENT, "their Job failed", &condition["message"], true, CRASH);
    }
}

fn exit_code(item: &Value) -> Option<i32> {
    if item["kind"] != "Pod" || item["metadata"]["labels"][PART_LABEL] != COORDINATOR {
        return None;
    }
    let code = item["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64()?;
    i32::try_from(code).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(part: &str, status: Value) -> Value {
        json!({ "kind": "Pod", "metadata": { "labels": { PART_LABEL: part } }, "status": status })
    }

    fn waiting(part: &str, reason: &str, message: &str) -> Value {
        pod(
            part,
            json!({ "containerStatuses": [{ "state": { "waiting": { "reason": reason, "message": message } } }] }),
        )
    }

    fn lines(items: Value) -> Vec<String> {
        let look = look(&json!({ "items": items }), false);
        look.troubles.iter().map(|((part, reason), trouble)| trouble.line(part, reason)).collect()
    }

    #[test]
    fn each_way_of_standing_still_says_what_to_do() {
        for (item, says) in [
            (waiting(AGENT, "ImagePullBackOff", "Back-off pulling image \"x\""), "--image-pull-secret"),
            (
                waiting(COORDINATOR, "CreateContainerConfigError", "secret \"k\" not found"),
                "secret \"k\" not found",
            ),
            (waiting("gpu-probe", "CrashLoopBackOff", ""), "kubectl logs"),
            (
                pod(
                    AGENT,
                    json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/3 nodes" }] }),
                ),
                "0/3 nodes; no node has room",
            ),
            (
                pod(
                    AGENT,
                    json!({ "containerStatuses": [{ "state": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } }] }),
                ),
                "ended with 137, OOMKilled",
            ),
        ] {
            let said = lines(json!([item]));
            assert!(said.len() == 1 && said[0].contains(says), "{says}: {said:?}");
        }
        assert_eq!(lines(json!([waiting(AGENT, "ContainerCreating", "")])), [""; 0]);
    }

    #[test]
    fn many_pods_with_one_trouble_are_one_line() {
        let pods: Vec<_> = (0..64).map(|_| waiting(AGENT, "ErrImagePull", "not found")).collect();
        let said = lines(json!(pods));
        assert!(said.len() == 1 && said[0].starts_with("64 agent pods"), "{said:?}");
    }

    #[test]
    fn the_coordinator_is_over_when_its_job_is_and_its_last_pod_has_the_code() {
        let ended = |code: i32| {
            pod(
                COORDINATOR,
                json!({ "containerStatuses": [{ "state": { "terminated": { "exitCode": code } } }] }),
            )
        };
        let job = json!({ "kind": "Job", "metadata": { "name": "t-coordinator" },
            "status": { "conditions": [{ "type": "Failed", "status": "True", "message": "exit code 4" }] } });
        assert_eq!(look(&json!({ "items": [ended(137)] }), false).ended, None, "another may follow");
        let over = look(&json!({ "items": [ended(137), ended(4), job] }), false);
        assert_eq!(over.ended, Some((Some(4), "exit code 4".to_owned())));
        assert_eq!(look(&json!({}), false), Look::default());
    }
}
