//! The sink machines write their effects to.

use alloc::vec::{self, Vec};

/// Effects in the order in which they were decided. Owned by the driver and reused from input to input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effects<E> {
    list: Vec<E>,
}

impl<E> Default for Effects<E> {
    fn default() -> Self {
        Self { list: Vec::new() }
    }
}

impl<E> Effects<E> {
    /// An empty sink.
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds one effect.
    pub fn push(&mut self, effect: E) {
        self.list.push(effect);
    }
    /// Whether nothing was decided.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
    /// How many effects wait.
    pub fn len(&self) -> usize {
        self.list.len()
    }
    /// Takes all effects, in order, and keeps the buffer.
    pub fn drain(&mut self) -> vec::Drain<'_, E> {
        self.list.drain(..)
    }
    /// Moves a child's effects here, each wrapped: how a parent machine passes on what its parts decided.
    pub fn absorb<C>(&mut self, child: &mut Effects<C>, wrap: impl FnMut(C) -> E) {
        self.list.extend(child.drain().map(wrap));
    }
    /// What waits, without taking it.
    pub fn as_slice(&self) -> &[E] {
        &self.list
    }
}

impl<E> Extend<E> for Effects<E> {
    fn extend<I: IntoIterator<Item = E>>(&mut self, effects: I) {
        self.list.extend(effects);
    }
}

impl<E> IntoIterator for Effects<E> {
    type Item = E;
    type IntoIter = vec::IntoIter<E>;
    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}
