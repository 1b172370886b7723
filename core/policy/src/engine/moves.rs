//! Peers whose answers changed, and their way from class to class.
//!
//! Why it is done by sets: one rule may tell thousands of peers apart from the rest. Peers that were in one class and
//! gained the same terms are one set; classes, answers and what must be written are found once for the set, and only
//! the writes themselves are made peer by peer.
//!
//! The largest part of a class that splits keeps the class's number, and with it what the maps hold of its peers.
//! Class 0 cannot be given another meaning: who leaves it is always written.

use super::{
    Engine,
    classes::{Peer, PeerSet},
    commit::Txn,
    prefixes::PrefixId,
    terms::TermId,
};
use crate::delta::{ClassId, PolicyId, Write};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};
use types::NumericIdentity;

/// Peers whose answers may have changed.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Their answers are to be found anew.
    pub(super) anew: BTreeSet<Peer>,
    /// Identities, and label terms they began to answer with yes. They and their prefixes keep their other answers.
    pub(super) gained: Vec<(NumericIdentity, TermId)>,
}

impl Dirty {
    pub(super) fn anew(peers: impl IntoIterator<Item = Peer>) -> Self {
        Self { anew: peers.into_iter().collect(), gained: Vec::new() }
    }
}

/// Peers that were in one class and gained the same terms.
#[derive(Default)]
struct Cell {
    /// The label answers of the identities among them, once there is one.
    labels: Option<Arc<[TermId]>>,
    peers: PeerSet,
}

/// Peers by the class they are in and the answers they give now.
type Moves = BTreeMap<(Option<ClassId>, Arc<[TermId]>), PeerSet>;

impl Engine {
    /// Puts peers into the classes of their answers. With `may_rekey`, only new terms made answers change, so a class
    /// may keep its number and mean other answers. Policies in `skip` get their entries of fresh classes later.
    pub(super) fn move_peers(&mut self, mut dirty: Dirty, may_rekey: bool, skip: &[PolicyId], txn: &mut Txn) {
        let mut moves = Moves::new();
        self.collect_gained(&mut dirty, &mut moves);
        for peer in &dirty.anew {
            let answers = self.answers_of(peer);
            let now = self.class_of_peer(peer);
            if now.is_some_and(|c| **self.classes.answers(c) == *answers) && !self.identity_moved(peer) {
                continue;
            }
            moves.entry((now, answers.into())).or_default().insert(*peer);
        }
        if may_rekey {
            self.rekey_majorities(&mut moves);
        }
        let mut fresh = Vec::new();
        let mut placed: Vec<(Option<ClassId>, ClassId, PeerSet)> = Vec::with_capacity(moves.len());
        for ((now, answers), peers) in moves {
            let target = self.classes.find(&answers).unwrap_or_else(|| {
                let id = self.classes.create(answers);
                fresh.push(id);
                id
            });
            txn.visible |= now.is_some_and(|class| class != target);
            placed.push((now, target, peers));
        }
        let policies: Vec<PolicyId> = self.policies.by_id.keys().copied().filter(|p| !skip.contains(p)).collect();
        for class in fresh {
            for policy in &policies {
                self.refresh(*policy, class, txn);
            }
        }
        self.relocate(placed, txn);
    }

    /// Sorts identities that gained terms, and their prefixes, by the class they were in and what they gained.
    fn collect_gained(&mut self, dirty: &mut Dirty, moves: &mut Moves) {
        dirty.gained.sort_unstable();
        let terms: Vec<TermId> = dirty.gained.iter().map(|(_, term)| *term).collect();
        let mut cells: BTreeMap<(ClassId, &[TermId]), Cell> = BTreeMap::new();
        let mut at = 0;
        for run in dirty.gained.chunk_by(|a, b| a.0 == b.0) {
            let (id, gained) = (run[0].0, &terms[at..at + run.len()]);
            at += run.len();
            let Some(state) = self.facts.identities.get_mut(&id) else { continue };
            // Identities of one class have the same label answers.
            let cell = cells.entry((state.class, gained)).or_default();
            state.answers = cell.labels.get_or_insert_with(|| union(&state.answers, gained)).clone();
            if !dirty.anew.contains(&Peer::Identity(id)) {
                cell.peers.insert(Peer::Identity(id));
            }
            for prefix in self.facts.prefixes.list(state.prefixes) {
                let peer = Peer::Prefix(prefix);
                match self.facts.prefixes.state(prefix).class {
                    Some(class) if !dirty.anew.contains(&peer) => {
                        cells.entry((class, gained)).or_default().peers.insert(peer);
                    }
                    _ => drop(dirty.anew.insert(peer)),
                }
            }
        }
        for ((class, gained), Cell { peers, .. }) in cells {
            if !peers.is_empty() {
                let answers = union(self.classes.answers(class), gained);
                moves.entry((Some(class), answers)).or_default().add(&peers);
            }
        }
    }

    /// Gives a class the answers of the largest part of it, where no other class has them. What stays as it was then
    /// moves in its place.
    fn rekey_majorities(&mut self, moves: &mut Moves) {
        let mut leaving: BTreeMap<ClassId, (u64, u64, Arc<[TermId]>)> = BTreeMap::new();
        for ((now, answers), peers) in &*moves {
            let Some(class) = now else { continue };
            let (all, most, winner) = leaving.entry(*class).or_insert_with(|| (0, 0, answers.clone()));
            *all += peers.len();
            if peers.len() > *most {
                (*most, *winner) = (peers.len(), answers.clone());
            }
        }
        for (class, (all, most, answers)) in leaving {
            let stay = self.classes.peers(class).len() - all;
            if class == ClassId::UNKNOWN || stay >= most || self.classes.find(&answers).is_some() {
                continue;
            }
            if stay > 0 {
                let mut rest = self.classes.peers(class).clone();
                let (none, next) = (Arc::<[TermId]>::from([]), ClassId(class.0.saturating_add(1)));
                let parts = moves.range((Some(class), none.clone())..(Some(next), none));
                parts.for_each(|(_, peers)| rest.subtract(peers));
                moves.insert((Some(class), self.classes.answers(class).clone()), rest);
            }
            self.classes.rekey(class, answers);
        }
    }

    /// Moves sets of peers from class to class: identities, then prefixes, longer ones first, since a new prefix must not
    /// show before the exceptions inside it do.
    pub(super) fn relocate(&mut self, placed: Vec<(Option<ClassId>, ClassId, PeerSet)>, txn: &mut Txn) {
        let mut prefixes: Vec<(u8, PrefixId, ClassId)> = Vec::new();
        for (now, target, peers) in placed {
            prefixes.extend(peers.prefixes().map(|id| {
                let bits = self.facts.prefixes.state(id).cidr.bits();
                (u8::MAX - bits, id, target)
            }));
            if now == Some(target) {
                continue;
            }
            self.classes.transfer(&peers, now, target);
            txn.left.extend(now);
            for id in peers.identities() {
                if let Some(state) = self.facts.identities.get_mut(&id) {
                    state.class = target;
                    txn.delta.writes.push(Write::PutIdentity(id, target));
                }
            }
        }
        prefixes.sort_by_key(|(order, ..)| *order);
        txn.delta.writes.reserve(prefixes.len());
        for (_, id, target) in prefixes {
            let state = self.facts.prefixes.state_mut(id);
            txn.visible |= state.class.is_none();
            if state.class != Some(target) || state.shown != state.identity {
                (state.class, state.shown) = (Some(target), state.identity);
                txn.delta.writes.push(Write::PutPrefix(state.cidr, state.identity, target));
            }
        }
    }

    /// True if the ipcache shows another identity for the prefix than the one it has.
    fn identity_moved(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Identity(_) => false,
            Peer::Prefix(prefix) => {
                let state = self.facts.prefixes.state(*prefix);
                state.shown != state.identity
            }
        }
    }

    fn class_of_peer(&self, peer: &Peer) -> Option<ClassId> {
        match peer {
            Peer::Identity(id) => self.facts.identities.get(id).map(|s| s.class),
            Peer::Prefix(prefix) => self.facts.prefixes.state(*prefix).class,
        }
    }

    fn answers_of(&self, peer: &Peer) -> Vec<TermId> {
        match peer {
            Peer::Identity(id) => self.facts.identity_answers(&self.terms, *id),
            Peer::Prefix(prefix) => self.facts.prefix_answers(&self.terms, *prefix, |l| self.is_outside(l)),
        }
    }
}

/// Both sorted lists in one.
fn union(a: &[TermId], b: &[TermId]) -> Arc<[TermId]> {
    let mut all = [a, b].concat();
    all.sort_unstable();
    all.dedup();
    all.into()
}
