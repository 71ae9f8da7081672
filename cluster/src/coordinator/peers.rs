//! What one node knows of the others: who lives as gossip has it, who answers over the bus, and which view they have.

use std::collections::BTreeMap;

use super::times::{CONTACT_FRESH_MS, FORGET_AFTER_MS, QUORUM_FRESH_MS};
use crate::limits::PEERS_MAX;
use crate::view::{Joining, NodeId, View};

/// A node as gossip last spoke of it.
#[derive(Clone, Debug)]
struct Peer {
    joining: Joining,
    alive: bool,
    /// True exactly when this incarnation was a member, left as it had announced, and will not come back.
    ended: bool,
    /// Since when it is alive, or dead, in this incarnation.
    since_ms: u64,
    /// A later incarnation at another address that was heard of while this one lives: a restart elsewhere whose former run is not
    /// known to be dead yet, or a node with somebody else's uid.
    rival: Option<Joining>,
}

/// The last answer of a node over the bus.
#[derive(Clone, Copy, Debug)]
struct Contact {
    incarnation: u64,
    /// When this node sent what was answered.
    at_ms: u64,
    /// The same of the last answer that knew no later view than this node's.
    agreed_ms: Option<u64>,
}

/// All other nodes, by uid.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<u64, Peer>,
    contacts: BTreeMap<u64, Contact>,
    /// Members that do not answer over the bus while a majority does, and since when.
    silent: BTreeMap<NodeId, u64>,
}

/// What became of the news that a node is alive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    Taken,
    /// The uid is in use at another address.
    Rival,
    /// Too many nodes.
    NoRoom,
}

impl Peers {
    pub(super) fn alive(&mut self, now_ms: u64, joining: Joining) -> News {
        let uid = joining.node.uid;
        let room = self.peers.len() < PEERS_MAX;
        let Some(peer) = self.peers.get_mut(&uid) else {
            if !room {
                return News::NoRoom;
            }
            self.peers.insert(
                uid,
                Peer {
                    joining,
                    alive: true,
                    ended: false,
                    since_ms: now_ms,
                    rival: None,
                },
            );
            return News::Taken;
        };
        if joining.node.incarnation < peer.joining.node.incarnation {
            return News::Taken;
        }
        let same = joining.node == peer.joining.node;
        if same && peer.ended {
            return News::Taken;
        }
        if peer.alive && !same && joining.gossip != peer.joining.gossip {
            peer.rival = Some(joining);
            return News::Rival;
        }
        if !peer.alive || !same {
            peer.since_ms = now_ms;
        }
        peer.alive = true;
        peer.ended = false;
        peer.joining = joining;
        News::Taken
    }

    pub(super) fn dead(&mut self, now_ms: u64, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node.uid) else {
            return;
        };
        if peer.rival.as_ref().is_some_and(|rival| rival.node == node) {
            peer.rival = None;
        }
        if peer.joining.node == node && peer.alive {
            peer.since_ms = now_ms;
            match peer.rival.take() {
                Some(rival) => peer.joining = rival,
                None => peer.alive = false,
            }
        }
    }

    /// This incarnation has left, whatever gossip says.
    pub(super) fn ended(&mut self, now_ms: u64, node: NodeId) {
        self.dead(now_ms, node);
        if let Some(peer) = self.peers.get_mut(&node.uid)
            && peer.joining.node == node
        {
            peer.ended = true;
        }
    }

    /// Members of a view that gossip has not spoken of count as dead from now on, until it does.
    pub(super) fn expect(&mut self, now_ms: u64, view: &View, me: NodeId) {
        for member in view
            .members
            .iter()
            .filter(|member| member.node.uid != me.uid)
        {
            let known = self
                .peers
                .get(&member.node.uid)
                .is_some_and(|peer| peer.joining.node.incarnation >= member.node.incarnation);
            if !known {
                let joining = Joining {
                    node: member.node,
                    cores: member.cores,
                    weight: member.weight,
                    gossip: member.gossip,
                    bus: member.bus,
                    reference: member.reference.clone(),
                    protocol: member.protocol,
                };
                self.peers.insert(
                    member.node.uid,
                    Peer {
                        joining,
                        alive: false,
                        ended: false,
                        since_ms: now_ms,
                        rival: None,
                    },
                );
            }
        }
    }

    /// A node has answered what this one sent at `at_ms`; `agrees` when it knows no later view.
    pub(super) fn contact(&mut self, from: NodeId, at_ms: u64, agrees: bool) {
        if self.contacts.len() >= PEERS_MAX && !self.contacts.contains_key(&from.uid) {
            return;
        }
        let new = Contact {
            incarnation: from.incarnation,
            at_ms,
            agreed_ms: None,
        };
        let contact = self.contacts.entry(from.uid).or_insert(new);
        if from.incarnation > contact.incarnation {
            *contact = new;
        }
        if from.incarnation == contact.incarnation {
            contact.at_ms = contact.at_ms.max(at_ms);
            if agrees {
                contact.agreed_ms = contact.agreed_ms.max(Some(at_ms));
            }
        }
    }

    /// Notices which members do not answer over the bus while a majority does.
    pub(super) fn listen(&mut self, now_ms: u64, view: &View, me: NodeId) {
        let connected = self
            .majority_ms(now_ms, view, me)
            .is_some_and(|at_ms| now_ms < at_ms + CONTACT_FRESH_MS);
        let before = std::mem::take(&mut self.silent);
        if !connected {
            return;
        }
        self.silent = view
            .members
            .iter()
            .map(|member| member.node)
            .filter(|&node| node != me && !self.has_fresh_contact(now_ms, node))
            .map(|node| (node, before.get(&node).copied().unwrap_or(now_ms)))
            .collect();
    }

    pub(super) fn silent_since(&self, node: NodeId) -> Option<u64> {
        self.silent.get(&node).copied()
    }

    pub(super) fn knows(&self, uid: u64) -> bool {
        self.peers.contains_key(&uid)
    }

    /// Forgets who is neither alive nor a member.
    pub(super) fn forget(&mut self, now_ms: u64, view: Option<&View>) {
        let member = |uid| view.is_some_and(|view| view.member(uid).is_some());
        self.peers.retain(|&uid, peer| {
            peer.alive || member(uid) || now_ms < peer.since_ms + FORGET_AFTER_MS
        });
        let peers = &self.peers;
        self.contacts.retain(|&uid, contact| {
            peers.contains_key(&uid) || now_ms < contact.at_ms + FORGET_AFTER_MS
        });
    }

    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        self.peers
            .get(&node.uid)
            .is_some_and(|peer| peer.alive && peer.joining.node == node)
    }

    /// Since when this incarnation is dead, or a later one has taken its place.
    pub(super) fn gone_since(&self, node: NodeId) -> Option<u64> {
        let peer = self.peers.get(&node.uid)?;
        let gone = !peer.alive || peer.joining.node.incarnation > node.incarnation;
        gone.then_some(peer.since_ms)
    }

    /// True exactly when what has become of this incarnation is known for sure: it, or a later one, lives and answers. Gossip alone
    /// would do when it is right; in the first seconds of a cut it calls nodes alive that are on the other side.
    pub(super) fn accounts_for(&self, now_ms: u64, node: NodeId) -> bool {
        self.peers.get(&node.uid).is_some_and(|peer| {
            peer.alive
                && peer.joining.node.incarnation >= node.incarnation
                && self
                    .contact_ms(peer.joining.node)
                    .is_some_and(|at_ms| now_ms < at_ms + QUORUM_FRESH_MS)
        })
    }

    /// Living nodes with what they say of themselves, and since when they live, by uid.
    pub(super) fn living(&self) -> impl Iterator<Item = (&Joining, u64)> {
        self.peers
            .values()
            .filter(|peer| peer.alive)
            .map(|peer| (&peer.joining, peer.since_ms))
    }

    /// When this node sent what that incarnation answered last.
    fn contact_ms(&self, node: NodeId) -> Option<u64> {
        self.contacts
            .get(&node.uid)
            .filter(|contact| contact.incarnation == node.incarnation)
            .map(|contact| contact.at_ms)
    }

    /// Since when a node that gossip has called dead since `gone_ms` counts as dead.
    pub(super) fn gone_despite_contact(&self, node: NodeId, gone_ms: u64) -> u64 {
        let contact_ms = self.contact_ms(node).filter(|at_ms| *at_ms > gone_ms);
        contact_ms.map_or(gone_ms, |at_ms| at_ms + QUORUM_FRESH_MS)
    }

    pub(super) fn has_fresh_contact(&self, now_ms: u64, node: NodeId) -> bool {
        self.contact_ms(node)
            .is_some_and(|at_ms| now_ms < at_ms + CONTACT_FRESH_MS)
    }

    /// The last moment at which this node had a majority of the view with it, itself included, none of whom had a later view.
    pub(super) fn majority_ms(&self, now_ms: u64, view: &View, me: NodeId) -> Option<u64> {
        let others_needed = view.members.len() / 2;
        if others_needed == 0 {
            return Some(now_ms);
        }
        let mut contacts: Vec<u64> = view
            .members
            .iter()
            .filter(|member| member.node != me)
            .filter_map(|member| {
                let contact = self.contacts.get(&member.node.uid)?;
                contact
                    .agreed_ms
                    .filter(|_| contact.incarnation == member.node.incarnation)
            })
            .collect();
        contacts.sort_unstable_by(|one, other| other.cmp(one));
        contacts.get(others_needed - 1).copied()
    }
}
