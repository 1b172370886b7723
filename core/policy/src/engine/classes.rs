//! Classes: peers with the same answers to all terms in use.
//!
//! Invariant: every peer is in exactly one class; a class exists while it has a peer, except class 0, whose answers are
//! all "no" and which always exists: it is the class of whoever nothing is known of.

use super::{prefixes::PrefixId, terms::TermId};
use crate::delta::ClassId;
use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};
use roaring::RoaringBitmap;
use types::NumericIdentity;

/// What has a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// An identity whose address is not known.
    Identity(NumericIdentity),
    /// The addresses of a prefix that are in no longer one.
    Prefix(PrefixId),
}

/// Peers, as bitmaps of their numbers: thousands change class at once at the cost of the bits.
#[derive(Debug, Clone, Default)]
pub(crate) struct PeerSet {
    identities: RoaringBitmap,
    prefixes: RoaringBitmap,
}

impl PeerSet {
    pub(crate) fn insert(&mut self, peer: Peer) {
        match peer {
            Peer::Identity(id) => self.identities.insert(id.as_u32()),
            Peer::Prefix(id) => self.prefixes.insert(id.as_u32()),
        };
    }

    pub(crate) fn remove(&mut self, peer: Peer) {
        match peer {
            Peer::Identity(id) => self.identities.remove(id.as_u32()),
            Peer::Prefix(id) => self.prefixes.remove(id.as_u32()),
        };
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.identities |= &other.identities;
        self.prefixes |= &other.prefixes;
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.identities -= &other.identities;
        self.prefixes -= &other.prefixes;
    }

    pub(crate) fn identities(&self) -> impl Iterator<Item = NumericIdentity> + '_ {
        self.identities.iter().map(NumericIdentity::new)
    }

    pub(crate) fn prefixes(&self) -> impl Iterator<Item = PrefixId> + '_ {
        self.prefixes.iter().map(PrefixId::from_u32)
    }

    pub(crate) fn len(&self) -> u64 {
        self.identities.len() + self.prefixes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.prefixes.is_empty()
    }
}

#[derive(Debug, Clone, Default)]
struct Class {
    answers: Arc<[TermId]>,
    peers: PeerSet,
}

/// All classes.
#[derive(Debug, Clone)]
pub(crate) struct Classes {
    slots: Vec<Option<Class>>,
    free: BTreeSet<u32>,
    ids: BTreeMap<Arc<[TermId]>, ClassId>,
    of_term: Vec<RoaringBitmap>,
}

impl Default for Classes {
    fn default() -> Self {
        let none: Arc<[TermId]> = Arc::from([]);
        Self {
            slots: alloc::vec![Some(Class { answers: none.clone(), peers: PeerSet::default() })],
            free: BTreeSet::new(),
            ids: BTreeMap::from([(none, ClassId::UNKNOWN)]),
            of_term: Vec::new(),
        }
    }
}

impl Classes {
    /// The class of these answers (sorted), if there is one.
    pub(crate) fn find(&self, answers: &[TermId]) -> Option<ClassId> {
        self.ids.get(answers).copied()
    }

    /// Makes the class of these answers. The caller has made sure there is none.
    pub(crate) fn create(&mut self, answers: Arc<[TermId]>) -> ClassId {
        let number = self.free.pop_first().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 classes fit in memory")
        });
        let id = ClassId(number);
        self.index(id, &answers);
        self.ids.insert(answers.clone(), id);
        self.slots[number as usize] = Some(Class { answers, peers: PeerSet::default() });
        id
    }

    /// Gives a class other answers. The caller has made sure no other class has them.
    pub(crate) fn rekey(&mut self, id: ClassId, answers: Arc<[TermId]>) {
        self.unindex(id);
        self.index(id, &answers);
        self.ids.insert(answers.clone(), id);
        self.class_mut(id).answers = answers;
    }

    /// Drops a class without peers.
    pub(crate) fn remove(&mut self, id: ClassId) {
        debug_assert!(id != ClassId::UNKNOWN, "class 0 stays");
        debug_assert!(self.class(id).peers.is_empty(), "a class with peers stays");
        self.unindex(id);
        self.slots[id.0 as usize] = None;
        self.free.insert(id.0);
    }

    /// Takes terms that go out of use from the answers of a class that is left by its peers.
    pub(crate) fn strip(&mut self, id: ClassId, dead: &BTreeSet<TermId>) {
        self.unindex(id);
        let class = self.class_mut(id);
        class.answers = class.answers.iter().filter(|t| !dead.contains(t)).copied().collect();
    }

    fn index(&mut self, id: ClassId, answers: &[TermId]) {
        for term in answers {
            if self.of_term.len() <= term.slot() {
                self.of_term.resize_with(term.slot() + 1, RoaringBitmap::new);
            }
            self.of_term[term.slot()].insert(id.as_u32());
        }
    }

    fn unindex(&mut self, id: ClassId) {
        let answers = self.class(id).answers.clone();
        for term in answers.iter() {
            self.of_term[term.slot()].remove(id.as_u32());
        }
        if self.ids.get(&answers) == Some(&id) {
            self.ids.remove(&answers);
        }
    }

    fn class(&self, id: ClassId) -> &Class {
        self.slots[id.0 as usize].as_ref().expect("a class id is only held while the class exists")
    }

    fn class_mut(&mut self, id: ClassId) -> &mut Class {
        self.slots[id.0 as usize].as_mut().expect("a class id is only held while the class exists")
    }

    pub(crate) fn answers(&self, id: ClassId) -> &Arc<[TermId]> {
        &self.class(id).answers
    }

    pub(crate) fn peers(&self, id: ClassId) -> &PeerSet {
        &self.class(id).peers
    }

    pub(crate) fn exists(&self, id: ClassId) -> bool {
        self.slots.get(id.0 as usize).is_some_and(Option::is_some)
    }

    pub(crate) fn join(&mut self, id: ClassId, peer: Peer) {
        self.class_mut(id).peers.insert(peer);
    }

    pub(crate) fn leave(&mut self, id: ClassId, peer: Peer) {
        self.class_mut(id).peers.remove(peer);
    }

    /// Moves peers from one class to another.
    pub(crate) fn transfer(&mut self, peers: &PeerSet, from: Option<ClassId>, to: ClassId) {
        if let Some(from) = from {
            self.class_mut(from).peers.subtract(peers);
        }
        self.class_mut(to).peers.add(peers);
    }

    pub(crate) fn is_deserted(&self, id: ClassId) -> bool {
        id != ClassId::UNKNOWN && self.class(id).peers.is_empty()
    }

    /// The classes that answer this term with yes.
    pub(crate) fn of_term(&self, term: TermId) -> impl Iterator<Item = ClassId> + '_ {
        self.of_term.get(term.slot()).into_iter().flatten().map(ClassId::from_u32)
    }

    /// Every class.
    pub(crate) fn all(&self) -> impl Iterator<Item = ClassId> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, c)| c.is_some())
            .map(|(i, _)| ClassId(u32::try_from(i).expect("fewer than 2^32 classes fit in memory")))
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
