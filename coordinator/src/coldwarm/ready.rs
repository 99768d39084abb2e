//! Is the server ready, and is it the new one? One that still answers while it ends must not be taken for its follower.

use std::time::Duration;

use reqwest::{Client, StatusCode, redirect};
use serde_json::Value;
use tailcliff_proto::v1;

use crate::local::Single;

/// Between two questions.
pub(super) const EVERY: Duration = Duration::from_millis(50);
/// A question without an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a server that was not seen to go away gets to do so, once the command has ended, ns.
const STALE_NS: i64 = 60_000_000_000;
/// Bytes of a version that are read.
const MOST_BYTES: usize = 64 << 10;

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It serves.
    Ready,
    /// Somebody is there, and loading or unwell.
    NotYet(u16),
    /// Nobody answers.
    Gone,
}

/// What is known since the restart command began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    /// A server answered before.
    pub(super) was_up: bool,
    /// First moment at which it did not any more.
    pub(super) down_ns: Option<i64>,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    Ready,
    /// The server that answers is the one from before.
    NotRestarted,
}

impl Watch {
    /// One answer. `is_another`: the process that listens is not the one from before, where that can be told. `ended_ns`:
    /// when the command ended.
    pub(super) fn on(
        &mut self,
        now_ns: i64,
        seen: Seen,
        is_another: Option<bool>,
        ended_ns: Option<i64>,
    ) -> Step {
        let is_new = !self.was_up || self.down_ns.is_some();
        match (seen, is_new, is_another) {
            (Seen::Ready, true, _) => Step::Ready,
            (Seen::Ready, false, Some(true)) => {
                self.down_ns = Some(now_ns);
                Step::Ready
            }
            (Seen::Ready, false, _) => {
                let is_stale = ended_ns.is_some_and(|ended| now_ns - ended > STALE_NS);
                if is_stale { Step::NotRestarted } else { Step::Wait }
            }
            _ => {
                self.down_ns.get_or_insert(now_ns);
                Step::Wait
            }
        }
    }
}

/// Asks.
#[derive(Debug)]
pub(super) struct Asker {
    client: Client,
    target: v1::Target,
    /// `None`: the usual two.
    path: Option<String>,
    /// For https, which this client does not speak.
    single: Option<Single>,
}

impl Asker {
    /// # Errors
    /// In words, when there is no client to be had.
    pub(super) fn new(
        target: &v1::Target,
        workload: &v1::Workload,
        path: Option<String>,
    ) -> Result<Self, String> {
        let client = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(PATIENCE);
        let is_secure = target.base_url.starts_with("https:");
        Ok(Self {
            client: client.build().map_err(|e| format!("failed to make an HTTP client: {e}"))?,
            target: target.clone(),
            path,
            single: is_secure.then(|| Single::new(target, workload)).transpose()?,
        })
    }

    /// What the server says now.
    pub(super) async fn ask(&self) -> Seen {
        if let Some(single) = &self.single {
            let status = tokio::time::timeout(PATIENCE, single.models()).await.ok().flatten();
            return status.map_or(Seen::Gone, judge);
        }
        let Some(path) = &self.path else {
            return match self.status("/health").await {
                // Not every server has one; every one has a list of models.
                Some(404 | 405) => self.status("/v1/models").await.map_or(Seen::Gone, judge),
                status => status.map_or(Seen::Gone, judge),
            };
        };
        self.status(path).await.map_or(Seen::Gone, judge)
    }

    /// The server's version, where it tells one as vLLM or llama.cpp do.
    pub(super) async fn version(&self) -> Option<String> {
        if self.single.is_some() {
            return None;
        }
        for (path, key) in [("/version", "version"), ("/props", "build_info")] {
            let version = self.json(path).await.and_then(|json| Some(json.get(key)?.as_str()?.to_owned()));
            if version.is_some() {
                return version.map(|v| v.chars().filter(|c| !c.is_control()).take(200).collect());
            }
        }
        None
    }

    async fn json(&self, path: &str) -> Option<Value> {
        let mut response = self.get(path).send().await.ok().filter(|r| r.status() == StatusCode::OK)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.ok()? {
            body.extend_from_slice(&chunk);
            if body.len() > MOST_BYTES {
                return None;
            }
        }
        serde_json::from_slice(&body).ok()
    }

    async fn status(&self, path: &str) -> Option<u16> {
        self.get(path).send().await.ok().map(|response| response.status().as_u16())
    }

    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        let mut get = self.client.get(format!("{}{path}", self.target.base_url));
        if !self.target.api_key.is_empty() {
            get = get.bearer_auth(&self.target.api_key);
        }
        self.target.headers.iter().fold(get, |get, header| get.header(&header.name, &header.value))
    }
}

/// Whoever asks for a key is there; that ours is wrong the first request will tell.
fn judge(status: u16) -> Seen {
    match status {
        200..=299 | 401 | 403 => Seen::Ready,
        other => Seen::NotYet(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn a_server_where_none_was_is_the_new_one() {
        let mut watch = Watch::default();
        assert_eq!(watch.on(1, Seen::Gone, None, None), Step::Wait);
        assert_eq!(watch.on(2, Seen::NotYet(503), None, None), Step::Wait);
        assert_eq!(watch.on(3, Seen::Ready, None, None), Step::Ready);
    }

    #[test]
    fn the_old_one_is_not_taken_for_the_new_one() {
        let mut watch = Watch { was_up: true, down_ns: None };
        assert_eq!(watch.on(S, Seen::Ready, Some(false), None), Step::Wait);
        assert_eq!(watch.on(2 * S, Seen::Ready, None, Some(S)), Step::Wait);
        assert_eq!(watch.on(3 * S, Seen::Gone, None, Some(S)), Step::Wait);
        assert_eq!(watch.on(4 * S, Seen::Ready, None, Some(S)), Step::Ready);
        assert_eq!(watch.down_ns, Some(3 * S));
    }

    #[test]
    fn one_that_was_replaced_between_two_questions_is_known_by_its_process() {
        let mut watch = Watch { was_up: true, down_ns: None };
        assert_eq!(watch.on(S, Seen::Ready, Some(true), Some(S)), Step::Ready);
        assert_eq!(watch.down_ns, Some(S));
    }

    #[test]
    fn a_command_that_restarts_nothing_is_found_out() {
        let mut watch = Watch { was_up: true, down_ns: None };
        assert_eq!(watch.on(S + STALE_NS, Seen::Ready, Some(false), Some(S)), Step::Wait);
        assert_eq!(watch.on(2 * S + STALE_NS, Seen::Ready, Some(false), Some(S)), Step::NotRestarted);
    }

    #[test]
    fn what_statuses_say() {
        let seen = [200, 204, 401, 503, 500, 404].map(judge);
        let not = Seen::NotYet;
        assert_eq!(seen, [Seen::Ready, Seen::Ready, Seen::Ready, not(503), not(500), not(404)]);
    }
}
