//! Who may join, and as what: each node has a place of its own, which another process may take once it is gone.

use std::collections::HashSet;

use tailcliff_proto::v1::{self, NodeKind};
use tailcliff_proto::{BUILD, PROTOCOL};

use super::{Fleet, Peer, label};
use crate::stored::Incarnation;

impl Fleet {
    /// Refuses a node that may not join.
    pub(super) fn admit(&self, hello: &v1::Hello) -> Result<(), v1::Refused> {
        let refused = |reason: String, retry: bool| v1::Refused {
            protocol: PROTOCOL,
            build: BUILD.to_owned(),
            reason,
            retry,
        };
        let never = |reason: &str| Err(refused(reason.to_owned(), false));
        if hello.protocol != PROTOCOL {
            return never(&format!(
                "it speaks protocol {} (build {}), this coordinator speaks {PROTOCOL} (build {BUILD}); \
                 use one release on both",
                hello.protocol,
                label(&hello.build)
            ));
        }
        let kind = hello.node_kind();
        if kind == NodeKind::Unspecified {
            return never("it is neither agent nor gpu-probe");
        }
        let of = hello.incarnation;
        if of == 0 {
            return never("its incarnation is 0");
        }
        if self.peers.get(&of).or_else(|| self.lost.get(&of)).is_some_and(|peer| peer.kind != kind) {
            return never("its incarnation is another node's");
        }
        if self.peers.contains_key(&of) {
            return Ok(());
        }
        // One that comes back at the end still has what it measured.
        if self.run.is_ending() && !self.lost.contains_key(&of) {
            return never("the run is over");
        }
        let places = self.places_of(kind);
        match hello.index.filter(|_| kind == NodeKind::Agent) {
            Some(index) if index >= places => {
                never(&format!("its index is {index}, and the run has places 0 to {}", i64::from(places) - 1))
            }
            Some(index) => match self.at(kind, index).filter(|(_, peer)| peer.connection.is_some()) {
                // Of a host that died nothing is heard, not even that it is gone: its lease tells.
                Some((_, peer)) => Err(refused(format!("{} has its place {index}", peer.name), true)),
                None => Ok(()),
            },
            None if self.free_place(kind).is_some() => Ok(()),
            None => {
                let kinds = if kind == NodeKind::Agent { "agents" } else { "gpu-probes" };
                Err(refused(format!("the run has its {places} {kinds}"), places > 0))
            }
        }
    }

    /// The place of a node that is admitted: its own, the one it asks for, or the first that is free.
    pub(super) fn place_of(&self, hello: &v1::Hello) -> u32 {
        let kind = hello.node_kind();
        let free = |index: &u32| self.at(kind, *index).is_none();
        let own = self.peers.get(&hello.incarnation).map(|peer| peer.index);
        let before = self.lost.get(&hello.incarnation).map(|peer| peer.index);
        let asked = hello.index.filter(|_| kind == NodeKind::Agent);
        own.or(asked).or(before.filter(free)).or_else(|| self.free_place(kind)).unwrap_or_default()
    }

    /// Who had the place and has left it to this node.
    pub(super) fn replaced(&self, by: Incarnation, kind: NodeKind, index: u32) -> Option<Incarnation> {
        self.at(kind, index).map(|(of, _)| of).filter(|of| *of != by)
    }

    /// The name of a node in every output: two nodes of one name are told apart by a number.
    pub(super) fn name_for(&self, hello: &v1::Hello) -> String {
        let of = hello.incarnation;
        if let Some(known) = self.peers.get(&of).or_else(|| self.lost.get(&of)) {
            return known.name.clone();
        }
        let asked = label(&hello.name);
        let taken: HashSet<&str> =
            self.peers.values().chain(self.lost.values()).map(|peer| peer.name.as_str()).collect();
        let is_free = |name: &String| !taken.contains(name.as_str());
        let numbered = (2u32..).map(|n| format!("{asked}-{n}"));
        std::iter::once(asked.clone()).chain(numbered).find(is_free).unwrap_or_default()
    }

    fn free_place(&self, kind: NodeKind) -> Option<u32> {
        let taken: HashSet<u32> = self.peers.values().filter(|p| p.kind == kind).map(|p| p.index).collect();
        (0..self.places_of(kind)).find(|index| !taken.contains(index))
    }

    fn places_of(&self, kind: NodeKind) -> u32 {
        if kind == NodeKind::Agent { self.places.0 } else { self.places.1 }
    }

    fn at(&self, kind: NodeKind, index: u32) -> Option<(Incarnation, &Peer)> {
        let at = |(_, peer): &(&Incarnation, &Peer)| peer.kind == kind && peer.index == index;
        self.peers.iter().find(at).map(|(&of, peer)| (of, peer))
    }
}
