//! Knees of known cause, in virtual time: worlds drawn from a seed, each driven up a ladder of levels, handed to the product
//! as the journal of a run would be, and diagnosed. Everything is SIMULATED.
//!
//! Bypassed: sockets, agents, probes and the journal's file. From the records on it is the product's own way: its merge,
//! its histograms, certificates, stalls, knee and diagnosis.

mod confusion;
mod draw;
mod record;

use model_sim::world_level;
use tailcliff::diagnose::{self, Cause, Diagnosed, Seen, ServerSeen};
use tailcliff::merge::{Merged, merge};

pub use confusion::{Confusion, Row};
pub use draw::{Kind, Scene, Signals, TRAINING_SEEDS};

/// What a scene came to.
#[derive(Debug)]
pub struct Played {
    /// The product's own merge of it.
    pub merged: Merged,
    /// What it says of the knee.
    pub diagnosed: Diagnosed,
}

/// Drives a scene through all its levels.
///
/// # Errors
/// Parameters that make no sense.
pub fn play(scene: &Scene) -> anyhow::Result<Played> {
    let mut levels = Vec::new();
    for (i, &clients) in scene.ladder.iter().enumerate() {
        levels.push((
            clients,
            world_level(&scene.world, clients, scene.until_ns(), scene.seed ^ (i as u64) << 40)?,
        ));
    }
    let data = record::run_data(scene, &levels);
    let merged = merge(&data);
    let diagnosed = if scene.signals.server {
        let mut seen = diagnose::see(&data, &merged);
        for (level, (_, truth)) in seen.iter_mut().zip(&levels) {
            tell(level, truth, scene.warmup_ns);
        }
        diagnose::judge(&merged, &seen)
    } else {
        merged.diagnosed.clone()
    };
    Ok(Played { merged, diagnosed })
}

/// What a server that tells of itself would say, from the truth of the world.
fn tell(level: &mut Seen, truth: &model_sim::WorldLevel, warmup_ns: i64) {
    let tokens = || truth.requests.iter().filter(|r| r.sent_ns >= warmup_ns).flat_map(|r| &r.tokens);
    let count = tokens().count() as f64;
    // What the client adds on its side is no delivery.
    let late: f64 = tokens().map(|t| (t.arrived_ns - t.emitted_ns) as f64).sum();
    // The time that delivery adds to an answer is that of its last token.
    let last =
        || truth.requests.iter().filter(|r| r.sent_ns >= warmup_ns && r.done).filter_map(|r| r.tokens.last());
    let of_last =
        last().map(|t| (t.arrived_ns - t.emitted_ns) as f64).sum::<f64>() / last().count().max(1) as f64;
    level.server = Some(ServerSeen {
        preemptions: Some(truth.preemptions as f64),
        delivery_ns: (count > 0.0).then_some(of_last.max(late / count)),
        // One virtual clock stamps both.
        delivery_bound_ns: Some(0.0),
        ..ServerSeen::default()
    });
}

/// Whether a diagnosis is right: the cause itself where it can be told, and where it cannot `unknown` that names all that
/// are left, and not more than these.
pub fn is_right(scene: &Scene, diagnosed: &Diagnosed) -> bool {
    let Some(diagnosis) = &diagnosed.diagnosis else { return false };
    match scene.tellable() {
        Ok(cause) => diagnosis.cause == cause,
        Err(left) => {
            let mut named = diagnosis.candidates.clone();
            named.sort_unstable();
            // A GPU that waits may show it, and need not.
            let shown = scene.kind == Kind::WideLink && diagnosis.cause == Cause::Network;
            shown || diagnosis.cause == Cause::Unknown && named == left
        }
    }
}
