//! Requests one by one, of one fixed body, through the very client that makes the load: for whoever wants a record of each
//! and no level. Every request has a connection of its own, so that a server that was restarted in between is no fault.

use std::sync::Arc;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;

use crate::body::Bodies;
use crate::cancel::Cancel;
use crate::client::{Attempt, Client};
use crate::target::Target;

/// Where to and what.
#[derive(Debug)]
pub struct Single {
    target: Arc<Target>,
    workload: v1::Workload,
}

/// What came of a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Stamps and counts; a failure is one too.
    pub record: v1::RequestRecord,
    /// What the server calls itself in its reply's head; empty where it does not.
    pub server: String,
}

impl Single {
    /// For a target and a workload with a fixed prompt.
    ///
    /// # Errors
    /// In words, when one of them makes no sense.
    pub fn new(target: &v1::Target, workload: &v1::Workload) -> Result<Self, String> {
        let target = Target::parse(target).map_err(|e| e.to_string())?;
        let _makes_sense = Bodies::new(&target, workload, None).map_err(|e| e.to_string())?;
        Ok(Self { target: Arc::new(target), workload: workload.clone() })
    }

    /// Sends the request now and reads the reply to its end. Another `prompt` replaces the workload's. Dropping it gives
    /// the request up.
    ///
    /// # Errors
    /// In words, when the prompt cannot be sent.
    pub async fn ask(&self, request_id: &str, prompt: Option<&str>) -> Result<Answer, String> {
        let mut workload = self.workload.clone();
        if let Some(prompt) = prompt {
            prompt.clone_into(&mut workload.prompt);
        }
        let bodies = Bodies::new(&self.target, &workload, None).map_err(|e| e.to_string())?;
        let body = bodies.body(0, 0, 0);
        let mut client = Client::new(Arc::clone(&self.target), true);
        let attempt = Attempt {
            level: 0,
            stream: 0,
            request: 0,
            phase: v1::Phase::Measured,
            intended_raw_ns: HostClock.now(),
            request_id: request_id.to_owned(),
            body,
            control_pause: None,
        };
        let record = client.request(attempt, &Cancel::new()).await;
        let server = self.target.redact(&client.seen().server);
        Ok(Answer { record, server })
    }

    /// The status with which the server answers when it is asked for its models; `None` when it does not answer.
    pub async fn models(&self) -> Option<u16> {
        let mut client = Client::new(Arc::clone(&self.target), true);
        client.models().await.ok().map(|(status, _)| status)
    }
}

#[cfg(test)]
mod tests {
    use tailcliff_proto::v1::Outcome;

    use super::*;
    use crate::testserver::{Server, stream};

    fn workload(prompt: &str) -> v1::Workload {
        v1::Workload { prompt: prompt.to_owned(), max_tokens: 4, ..Default::default() }
    }

    #[tokio::test]
    async fn a_request_is_a_record_whatever_comes() {
        let reply = stream(&["a"]);
        let server = Server::always(reply, true).await;
        let single = Single::new(&server.target(), &workload("hi")).unwrap();
        for prompt in [None, Some("other")] {
            let answer = single.ask("one", prompt).await.unwrap();
            assert_eq!(answer.record.outcome(), Outcome::Completed, "{:?}", answer.record);
            assert_eq!((&*answer.record.request_id, answer.record.reused_connection), ("one", false));
            assert!(answer.record.first_token_raw_ns.is_some());
        }
        let gone = v1::Target { base_url: "http://127.0.0.1:1".to_owned(), ..server.target() };
        let single = Single::new(&gone, &workload("hi")).unwrap();
        assert_eq!(single.ask("one", None).await.unwrap().record.outcome(), Outcome::Failed);
        assert_eq!(single.models().await, None);
        assert!(Single::new(&server.target(), &workload("")).is_err());
    }
}
