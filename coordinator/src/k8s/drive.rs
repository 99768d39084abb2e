//! A run in a cluster from its first object to its last: makes them, follows, fetches the results through a port-forward
//! that is renewed when it dies, and deletes what was made, however it ends.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::link::Route;
use tailcliff_proto::link::tls::Tls;
use tailcliff_proto::v1::Listing;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::companions;
use super::follow::{Look, look};
use super::kubectl::{Kubectl, KubectlError};
use super::manifests::{self, COORDINATOR, RUN_LABEL};
use super::plan_file::PlanFile;
use super::settings::Settings;
use crate::results::fetch::{Fetch, FetchError};

/// Between two looks at the pods.
const LOOK: Duration = Duration::from_secs(2);
/// What does not heal by itself is given this long, for a Secret that is made a moment later.
const GRACE: Duration = Duration::from_secs(30);
/// For the coordinator's pod to be there at all, beyond what its agents are given.
const START: Duration = Duration::from_secs(60);
/// Looks in a row that may fail: an API server is away for a moment.
const BLIND: u32 = 15;
/// Kinds that a run is made of; the claim is deleted on its own.
const KINDS: &str = "jobs,daemonsets,services,configmaps,secrets,networkpolicies,poddisruptionbudgets";

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// kubectl, or the cluster through it.
    #[error(transparent)]
    Kubectl(#[from] KubectlError),
    /// The user may not do what a run needs.
    #[error("you may not {0} in this namespace: name another with --namespace, or ask for the right")]
    Forbidden(String),
    /// A run of this name is there.
    #[error("a run {0} is there already: name another with --run-id, or delete that one")]
    Taken(String),
    /// Something that must be there beforehand is not.
    #[error("{0} is not there: make it before the run")]
    Missing(String),
    /// Pods do not come.
    #[error("the run's pods did not start: {0}")]
    Pods(String),
    /// The coordinator ended without handing anything out.
    #[error("the coordinator ended before its results were fetched: {1}")]
    Ended(Option<i32>, String),
    /// The results cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The objects cannot be written.
    #[error("failed to write the objects: {0}")]
    Yaml(#[from] serde_norway::Error),
    /// Ctrl-C.
    #[error("interrupted; {0}")]
    Interrupted(&'static str),
}

/// A run that is to be.
#[derive(Debug)]
pub struct Cluster {
    /// The user's.
    pub kubectl: Kubectl,
    /// The objects.
    pub settings: Settings,
    /// What they carry out.
    pub plan: PlanFile,
    /// Secrets that go by standard input.
    pub secrets: Vec<Value>,
    /// By which we fetch.
    pub tls: Option<Tls>,
    /// Where results go.
    pub dir: PathBuf,
    /// With the journal.
    pub with_journal: bool,
    /// Leave all there.
    pub keep: bool,
    /// Where lines for a person go.
    pub tell: fn(&str),
}

impl Cluster {
    /// Carries it out; what it came to.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn run(&self, mut interrupts: mpsc::Receiver<String>) -> Result<Listing, ClusterError> {
        tokio::select! {
            checked = self.check() => checked?,
            _ = interrupts.recv() => return Err(ClusterError::Interrupted("nothing was made")),
        }
        let result = self.within(&mut interrupts).await;
        self.clean_up(&result).await;
        result
    }

    /// What can be known to fail is said before anything is made.
    async fn check(&self) -> Result<(), ClusterError> {
        for (verb, what) in [
            ("create", &["jobs.batch"][..]),
            ("create", &["networkpolicies.networking.k8s.io"]),
            ("delete", &["jobs.batch"]),
            ("get", &["pods"]),
            ("create", &["pods", "--subresource=portforward"]),
        ] {
            if !self.kubectl.may(verb, what).await? {
                return Err(ClusterError::Forbidden(format!("{verb} {}", what.join(" "))));
            }
        }
        let there = ["get", "jobs", "-l", &self.label(), "-o", "name"];
        if !self.kubectl.call("look for a run of this name", &there, None).await?.trim().is_empty() {
            return Err(ClusterError::Taken(self.settings.run_id.clone()));
        }
        for (kind, name) in self.needed() {
            let asked = self.kubectl.call("look for it", &["get", kind, name, "-o", "name"], None).await;
            // Who may not look may still use it.
            if asked.is_err_and(|error| error.is_not_found()) {
                return Err(ClusterError::Missing(format!("{kind} {name}")));
            }
        }
        Ok(())
    }

    fn needed(&self) -> Vec<(&'static str, &str)> {
        let made = |name: &&str| !self.secrets.iter().any(|secret| secret["metadata"]["name"] == **name);
        let (settings, args) = (&self.settings, &self.settings.args);
        let secrets = settings.api_key.iter().map(|(name, _)| name).chain(&args.image_pull_secret);
        let secrets = secrets.map(String::as_str).filter(made).map(|name| ("secret", name));
        secrets.chain(args.data_claim.iter().map(|name| ("persistentvolumeclaim", name.as_str()))).collect()
    }

    fn label(&self) -> String {
        format!("{RUN_LABEL}={}", self.settings.run_id)
    }

    /// From the first object to the last file.
    async fn within(&self, interrupts: &mut mpsc::Receiver<String>) -> Result<Listing, ClusterError> {
        let objects = [&self.secrets[..], &manifests::objects(&self.settings, &self.plan)].concat();
        let yaml = manifests::yaml(&objects)?;
        // Not `apply`: what another made is not changed.
        self.kubectl.call("make the run's objects", &["create", "-f", "-"], Some(&yaml)).await?;
        let args = &self.settings.args;
        (self.tell)(&format!(
            "made run {} with {} agents and {} probes",
            self.settings.run_id, args.agents, args.probes
        ));
        self.started(interrupts).await?;
        let (leave, port) = (CancellationToken::new(), companions::free_port().map_err(KubectlError::from)?);
        let _leave = leave.clone().drop_guard();
        let forward = companions::forward(&self.kubectl, &self.settings, port, self.tell);
        let logs = companions::logs(&self.kubectl, &self.settings, self.tell);
        let fetch = Fetch {
            route: Route::new(format!("127.0.0.1:{port}")).with_tls(self.tls.clone()),
            dir: self.dir.clone(),
            patience: Duration::from_nanos(args.deadline.0.unsigned_abs()),
            most_bytes: u64::MAX,
            with_journal: self.with_journal,
        };
        tokio::select! {
            result = fetch.all(&leave, &|_| {}) => Ok(result?),
            ended = self.ended() => Err(ended),
            lost = forward => Err(lost.into()),
            never = logs => match never {},
            () = self.stop(&fetch, interrupts) => Err(ClusterError::Interrupted("its results were left behind")),
        }
    }

    /// Ctrl-C ends the run and not the wait for what it measured; the second ends that too.
    async fn stop(&self, fetch: &Fetch, interrupts: &mut mpsc::Receiver<String>) {
        if interrupts.recv().await.is_some() {
            (self.tell)("stopping the run; what was measured is fetched. Ctrl-C again leaves it behind");
            let forever = CancellationToken::new();
            let again = tokio::select! {
                stopped = fetch.stop(&forever) => stopped.err(),
                _ = interrupts.recv() => return,
            };
            if let Some(error) = again {
                (self.tell)(&error.to_string());
                return;
            }
        }
        let _second = interrupts.recv().await;
    }

    /// Until the coordinator runs.
    async fn started(&self, interrupts: &mut mpsc::Receiver<String>) -> Result<(), ClusterError> {
        let mut watch = Watch::new(self);
        loop {
            let look = tokio::select! {
                look = watch.look() => look?,
                _ = interrupts.recv() => return Err(ClusterError::Interrupted("nothing was measured")),
            };
            if let Some(why) = watch.judge(&look) {
                return Err(why);
            }
            if look.coordinator_runs {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = interrupts.recv() => return Err(ClusterError::Interrupted("nothing was measured")),
            }
        }
    }

    /// When there is nothing more to come.
    async fn ended(&self) -> ClusterError {
        let mut watch = Watch::new(self);
        watch.coordinator_came = true;
        loop {
            tokio::time::sleep(LOOK).await;
            match watch.look().await {
                Ok(look) => {
                    if let Some(why) = watch.judge(&look) {
                        return why;
                    }
                }
                Err(error) => return error,
            }
        }
    }

    /// Deletes what was made. What could not be fetched is left where it is, and how to get at it is said.
    async fn clean_up(&self, result: &Result<Listing, ClusterError>) {
        let label = self.label();
        let claim = self.settings.args.volume.is_some();
        let kinds = if claim { format!("{KINDS},persistentvolumeclaims") } else { KINDS.to_owned() };
        let all = ["delete", &kinds, "-l", &label];
        let line = self.kubectl.line(&all);
        if self.keep {
            return (self.tell)(&format!("kept; delete with: {line}"));
        }
        if let Err(ClusterError::Fetch(
            FetchError::Unreachable { .. } | FetchError::Write { .. } | FetchError::Refused(_),
        )) = result
        {
            let at = format!("service/{}", self.settings.named(COORDINATOR));
            let forward = self.kubectl.line(&["port-forward", &at, "7100"]);
            return (self.tell)(&format!(
                "the results wait in the cluster: {forward}; tailcliff fetch --coordinator 127.0.0.1:7100; then {line}"
            ));
        }
        let measured = matches!(result, Err(ClusterError::Ended(..) | ClusterError::Kubectl(_)));
        let kinds = if measured { KINDS } else { &kinds };
        if measured && claim {
            (self.tell)(&format!("the run's directory is kept on claim {}", self.settings.named("runs")));
        }
        let args = ["delete", kinds, "-l", &label, "--ignore-not-found", "--wait=false"];
        match self.kubectl.call("delete the run's objects", &args, None).await {
            Ok(_) => (self.tell)("deleted the run's objects"),
            Err(error) => (self.tell)(&format!("{error}; they are left there: {line}")),
        }
    }
}

/// Looks at the pods again and again, and says what is new.
struct Watch<'a> {
    of: &'a Cluster,
    since_ns: i64,
    /// Since when pods stand still that will not move by themselves.
    lasting_ns: Option<i64>,
    said: Vec<(String, String)>,
    coordinator_came: bool,
    blind: u32,
}

impl<'a> Watch<'a> {
    fn new(of: &'a Cluster) -> Self {
        let since_ns = HostClock.now();
        Self { of, since_ns, lasting_ns: None, said: Vec::new(), coordinator_came: false, blind: 0 }
    }

    async fn look(&mut self) -> Result<Look, ClusterError> {
        let label = self.of.label();
        let args = ["get", "jobs,pods", "-l", &label, "-o", "json"];
        let list = match self.of.kubectl.json("look at the run's pods", &args).await {
            Ok(list) => list,
            Err(error) if self.blind >= BLIND => return Err(error.into()),
            Err(_) => {
                self.blind += 1;
                // As it was: nothing is known to be otherwise.
                return Ok(Look { coordinator_is_there: true, ..Look::default() });
            }
        };
        self.blind = 0;
        let mut look = look(&list, self.coordinator_came);
        if !look.coordinator_is_there && look.ended.is_none() {
            let args = ["get", "events", "--field-selector", "reason=FailedCreate", "-o", "json"];
            // Without the right to see events there is just less to say.
            if let Ok(events) = self.of.kubectl.json("look at events", &args).await {
                look.add_refusals(&events, &self.of.settings.run_id);
            }
        }
        Ok(look)
    }

    /// Says what is new; why it makes no sense to wait on, if so.
    fn judge(&mut self, look: &Look) -> Option<ClusterError> {
        for ((part, reason), trouble) in &look.troubles {
            let key = (part.clone(), reason.clone());
            if !self.said.contains(&key) {
                (self.of.tell)(&trouble.line(part, reason));
                self.said.push(key);
            }
        }
        if let Some((code, why)) = &look.ended {
            return Some(ClusterError::Ended(*code, why.clone()));
        }
        let now = HostClock.now();
        let all = || {
            look.troubles
                .iter()
                .map(|((part, reason), t)| t.line(part, reason))
                .collect::<Vec<_>>()
                .join("; ")
        };
        let wait_ns = self.of.settings.args.wait.0;
        let lasts = !self.coordinator_came && look.troubles.values().any(|trouble| trouble.lasts);
        let since = *self.lasting_ns.get_or_insert(now);
        if !lasts {
            self.lasting_ns = None;
        } else if now - since >= wait_ns.min(nanos(GRACE)) {
            return Some(ClusterError::Pods(all()));
        }
        let late = now - self.since_ns > wait_ns.saturating_add(nanos(START).min(wait_ns));
        if !self.coordinator_came && !look.coordinator_runs && late {
            let why =
                if look.troubles.is_empty() { "no pod of the coordinator runs".to_owned() } else { all() };
            return Some(ClusterError::Pods(format!("{why}; raise --wait if they need longer")));
        }
        None
    }
}

fn nanos(of: Duration) -> i64 {
    i64::try_from(of.as_nanos()).unwrap_or(i64::MAX)
}
