//! Clock domains: processes that share a boot and a time namespace share a raw clock, whatever they call themselves. A
//! domain has one track, fitted to the exchanges of all its nodes together. So an agent and a probe on one host have no
//! error between them, and a process restarted on its host goes on with the track that its predecessor had.

use std::collections::BTreeMap;

use super::Exchange;
use super::track::{Track, TrackKind};
use crate::stored::{Incarnation, Node, RunData};

/// Boot id and inode of the time namespace.
type Identity = (String, u64);

/// The clock domains of a run, each with its track.
#[derive(Debug, Default)]
pub struct Domains {
    of: BTreeMap<Incarnation, usize>,
    tracks: Vec<Track>,
}

/// Sorts a run's nodes into domains. Those of the coordinator's own get its clock, with no error, as long as their
/// exchanges allow an offset of 0; others share a track as long as their exchanges are feasible together. Cloned machines
/// may share a boot id without sharing a clock: they fail one test or the other, and each gets a track of its own.
pub fn resolve(data: &RunData) -> Domains {
    let mut domains = Domains::default();
    let mut remote: BTreeMap<Identity, Vec<(Incarnation, &Node)>> = BTreeMap::new();
    let mut here = Vec::new();
    for (&of, node) in &data.nodes {
        match identity(node) {
            Some(same) if same == data.header.clock_domain && allows_zero(node) => here.push((of, node)),
            Some(other) => remote.entry(other).or_default().push((of, node)),
            // It never said whose clock it reads.
            None => domains.add(&[(of, node)], Track::fit(&node.exchanges, &node.snapshots)),
        }
    }
    if !here.is_empty() {
        let exchanges = here.iter().map(|(_, node)| node.exchanges.len()).sum();
        domains.add(&here, Track::same_clock(exchanges));
    }
    for nodes in remote.into_values() {
        domains.add_remote(&nodes);
    }
    domains
}

/// `None` without a snapshot, or when its snapshots disagree, which no honest process's do.
fn identity(node: &Node) -> Option<Identity> {
    let of = |s: &tailcliff_proto::v1::ClockSnapshot| (s.boot_id.clone(), s.timens_inode);
    let first = of(node.snapshots.first()?);
    (!first.0.is_empty() && node.snapshots.iter().all(|s| of(s) == first)).then_some(first)
}

fn allows_zero(node: &Node) -> bool {
    node.exchanges.iter().filter(|e| e.is_possible()).all(|e| e.t2 <= e.t3 && e.t1 >= e.t0)
}

impl Domains {
    /// The track by which a node's stamps are placed.
    pub fn track(&self, of: Incarnation) -> Option<&Track> {
        self.tracks.get(self.number(of)?)
    }

    /// Which domain a node is in, counted from 0: equal for nodes that read one clock.
    pub fn number(&self, of: Incarnation) -> Option<usize> {
        self.of.get(&of).copied()
    }

    /// How far stamps of two nodes may be apart from the truth, (median, worst) in ns: nothing within one domain, else
    /// both bounds together; `None` when either is unaligned.
    pub fn pair_bound_ns(&self, a: Incarnation, b: Incarnation) -> Option<(i64, i64)> {
        let (one, other) = (self.track(a)?, self.track(b)?);
        if one.kind() != TrackKind::Unaligned && self.number(a) == self.number(b) {
            return Some((0, 0));
        }
        let median = one.median_bound_ns()?.saturating_add(other.median_bound_ns()?);
        Some((median, one.worst_bound_ns()?.saturating_add(other.worst_bound_ns()?)))
    }

    fn add(&mut self, nodes: &[(Incarnation, &Node)], track: Track) {
        self.of.extend(nodes.iter().map(|(of, _)| (*of, self.tracks.len())));
        self.tracks.push(track);
    }

    fn add_remote(&mut self, nodes: &[(Incarnation, &Node)]) {
        // With nobody to share it, its own track is the pooled one.
        if let [(_, node)] = nodes {
            return self.add(nodes, Track::fit(&node.exchanges, &node.snapshots));
        }
        let each = || nodes.iter().map(|(_, node)| Track::fit(&node.exchanges, &node.snapshots));
        let together = pooled(nodes);
        // A step or a suspend is one break in every track that saw it. Two clocks under one name break the pooled track
        // wherever their exchanges alternate.
        let most = each().map(|track| track.breaks().len()).max().unwrap_or(0);
        if together.kind() == TrackKind::Fitted && together.breaks().len() <= most {
            return self.add(nodes, together);
        }
        for (node, track) in nodes.iter().zip(each()) {
            self.add(&[*node], track);
        }
    }
}

fn pooled(nodes: &[(Incarnation, &Node)]) -> Track {
    let exchanges: Vec<Exchange> = nodes.iter().flat_map(|(_, node)| &node.exchanges).copied().collect();
    let mut snapshots: Vec<_> = nodes.iter().flat_map(|(_, node)| node.snapshots.iter().cloned()).collect();
    snapshots.sort_by_key(|s| s.raw_ns);
    Track::fit(&exchanges, &snapshots)
}

#[cfg(test)]
mod tests {
    use tailcliff_proto::v1;

    use super::super::simulate::{Path, Truth, exchanges};
    use super::*;

    const S: i64 = 1_000_000_000;

    fn node(boot: &str, exchanges: Vec<Exchange>) -> Node {
        let snapshot = |e: &Exchange| v1::ClockSnapshot {
            boot_id: boot.to_owned(),
            timens_inode: 7,
            raw_ns: e.t1,
            ..Default::default()
        };
        Node { snapshots: exchanges.iter().step_by(8).map(snapshot).collect(), exchanges, ..Node::default() }
    }

    fn run(nodes: Vec<Node>) -> RunData {
        let mut data = RunData { nodes: (1..).zip(nodes).collect(), ..RunData::default() };
        data.header.clock_domain = ("coordinator".to_owned(), 7);
        data
    }

    fn part(made: &[Exchange], from: i64, to: i64) -> Vec<Exchange> {
        made.iter().filter(|e| (from * S..to * S).contains(&e.t0)).copied().collect()
    }

    fn covers(domains: &Domains, of: Incarnation, truth: &Truth, from: i64, to: i64) -> i64 {
        let moments = (from * S..to * S).step_by(91_000_001);
        let bound = |t: i64| {
            let at = domains.track(of).unwrap().to_ref(t + truth.at(t).round() as i64).unwrap();
            assert!((at.ns - t).abs() <= at.bound_ns, "{t}: {at:?}");
            at.bound_ns
        };
        moments.map(bound).max().unwrap()
    }

    #[test]
    fn nodes_on_one_host_share_a_track_and_have_no_error_between_them() {
        let mut rng = fastrand::Rng::with_seed(2);
        let (truth, elsewhere) = (Truth::random(&mut rng), Truth::random(&mut rng));
        let mut make = |truth, path| exchanges(truth, path, 40, &mut rng);
        let (near, far) = (make(&truth, Path::Idle), make(&truth, Path::Congested));
        let data = run(vec![
            node("h", near),
            node("h", far.clone()),
            node("other", make(&elsewhere, Path::Idle)),
            Node { exchanges: far.clone(), ..Node::default() },
        ]);
        let domains = resolve(&data);
        assert_eq!(domains.number(1), domains.number(2));
        assert_eq!(domains.pair_bound_ns(1, 2), Some((0, 0)));
        assert!(domains.pair_bound_ns(1, 3).unwrap().0 > 0, "another boot is another clock");
        assert_ne!(domains.number(2), domains.number(4), "a node without a snapshot shares with nobody");
        // The one on the bad path gains what the other knows.
        let alone = Track::fit(&far, &[]).median_bound_ns().unwrap();
        assert!(domains.track(2).unwrap().median_bound_ns().unwrap() * 2 < alone);
        for of in [1, 2] {
            covers(&domains, of, &truth, 2, 40);
        }
    }

    #[test]
    fn a_process_restarted_on_its_host_keeps_the_track() {
        let mut rng = fastrand::Rng::with_seed(3);
        let truth = Truth::random(&mut rng);
        let made = exchanges(&truth, Path::Idle, 60, &mut rng);
        let (before, after) = (part(&made, 0, 30), part(&made, 36, 61));
        let domains = resolve(&run(vec![node("h", before), node("h", after.clone())]));
        assert_eq!(domains.number(1), domains.number(2));
        assert!(domains.track(2).unwrap().breaks().is_empty());
        // What happened while neither was there is placed too, by both sides.
        let gap = covers(&domains, 2, &truth, 31, 36);
        let alone = Track::fit(&after, &[]);
        let far = alone.to_ref(31 * S + truth.at(31 * S).round() as i64).unwrap().bound_ns;
        assert!(gap < far, "±{gap} in the gap, ±{far} from one side");
    }

    #[test]
    fn a_restart_over_a_suspend_breaks_or_parts_but_stays_covered() {
        let mut rng = fastrand::Rng::with_seed(5);
        let truth = Truth { step: Some((33 * S, -4e9)), ..Truth::random(&mut rng) };
        let made = exchanges(&truth, Path::Idle, 60, &mut rng);
        let domains = resolve(&run(vec![node("h", part(&made, 0, 30)), node("h", part(&made, 36, 61))]));
        covers(&domains, 1, &truth, 2, 29);
        covers(&domains, 2, &truth, 38, 60);
    }

    #[test]
    fn cloned_machines_with_one_name_and_two_clocks_are_told_apart() {
        let mut rng = fastrand::Rng::with_seed(4);
        let (one, other) = (Truth::random(&mut rng), Truth::random(&mut rng));
        let mut make = |truth| exchanges(truth, Path::Idle, 40, &mut rng);
        let domains = resolve(&run(vec![node("h", make(&one)), node("h", make(&other))]));
        assert_ne!(domains.number(1), domains.number(2));
        covers(&domains, 1, &one, 2, 40);
        covers(&domains, 2, &other, 2, 40);
    }

    #[test]
    fn the_coordinators_own_clock_has_no_error_and_its_clone_has_its_own() {
        let mut rng = fastrand::Rng::with_seed(6);
        let same = Truth { offset: 0.0, drift: 0.0, wander: [(0.0, 1e9, 0.0); 2], step: None };
        let clone = Truth::random(&mut rng);
        let mut make = |truth| exchanges(truth, Path::Idle, 20, &mut rng);
        let domains =
            resolve(&run(vec![node("coordinator", make(&same)), node("coordinator", make(&clone))]));
        assert_eq!(domains.track(1).unwrap().kind(), TrackKind::SameClock);
        assert_eq!(domains.track(2).unwrap().kind(), TrackKind::Fitted);
        covers(&domains, 2, &clone, 2, 20);
    }
}
