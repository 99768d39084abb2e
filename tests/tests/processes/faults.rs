//! Faults on the way between an agent and its coordinator, and of what both write to: for each, what a person is told,
//! and that released = completed + failed + incomplete + unreported all the same.

mod disk;
mod link;
mod pause;

use std::path::Path;

use e2e::forward::{Forwarder, Way};
use e2e::roles::Role;

use crate::scene::{Scene, binary};

/// Short requests and many of them: what one agent measures in a few seconds is more than the least outbox holds.
const SERVER: [&str; 6] = ["--timing", "paced", "--paced-ttft-ms", "15", "--paced-itl-ms", "5"];
/// A level of it, that waits for an agent to come back.
const LEVEL: [&str; 6] = ["--duration", "7s", "--output-len", "2", "--rejoin-wait", "40s"];

/// A run whose agent "far" has a forwarder before the coordinator, and little memory.
struct Far {
    scene: Scene,
    forwarder: Forwarder,
}

impl Far {
    /// With another agent, "near".
    fn and_near(spool: &Path) -> Self {
        Self::start(std::process::Command::new(binary()), "12", spool, &["near"])
    }

    /// With streams enough that even a busy machine fills its memory within a lease.
    fn alone(far: std::process::Command, spool: &Path) -> Self {
        Self::start(far, "36", spool, &[])
    }

    fn start(far: std::process::Command, streams: &str, spool: &Path, others: &[&str]) -> Self {
        let mut scene = Scene::new(&SERVER);
        let agents = (1 + others.len()).to_string();
        scene.coordinate(&[&LEVEL[..], &["--concurrency", streams, "--agents", &agents]].concat());
        let to = scene.address().parse().unwrap();
        let (up, down) = (Way::default(), Way::default());
        let forwarder = Forwarder::start([127, 0, 0, 2].into(), to, up, down).unwrap();
        let address = forwarder.address().to_string();
        let memory = ["--outbox-mib", "1", "--spool-dir", spool.to_str().unwrap()];
        scene.agent_at(far, &address, "far", &memory);
        others.iter().for_each(|name| scene.agent(name));
        scene.under_way(200);
        Self { scene, forwarder }
    }

    fn coordinator(&mut self) -> &Role {
        self.scene.coordinator()
    }
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}
