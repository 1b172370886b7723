//! The family's maps, with the family named (see [`crate::maps`]).

use abi::be::Port;
use abi::lb::LbAffinity;

use super::env::NodeportMaps;
use super::family::Balanced;
use super::snat::Wish;

/// [`NodeportMaps::snat`].
#[inline(always)]
pub fn snat<'a, F: Balanced, E: NodeportMaps<F>>(env: &'a mut E, key: &F::SnatKey) -> Option<&'a F::SnatEntry> {
    <E as NodeportMaps<F>>::snat(env, key)
}

/// [`NodeportMaps::snat_new`].
#[inline(always)]
pub fn snat_new<F: Balanced, E: NodeportMaps<F>>(env: &mut E, key: &F::SnatKey, entry: &F::SnatEntry) -> Option<()> {
    <E as NodeportMaps<F>>::snat_new(env, key, entry)
}

/// [`NodeportMaps::snat_forget`].
#[inline(always)]
pub fn snat_forget<F: Balanced, E: NodeportMaps<F>>(env: &mut E, key: &F::SnatKey) {
    <E as NodeportMaps<F>>::snat_forget(env, key);
}

/// [`NodeportMaps::maglev`].
#[inline(always)]
pub fn maglev<F: Balanced, E: NodeportMaps<F>>(env: &E, index: Port, slot: u32) -> Option<u32> {
    <E as NodeportMaps<F>>::maglev(env, index, slot)
}

/// [`NodeportMaps::affinity`].
#[inline(always)]
pub fn affinity<'a, F: Balanced, E: NodeportMaps<F>>(
    env: &'a mut E,
    key: &F::AffinityKey,
) -> Option<&'a mut LbAffinity> {
    <E as NodeportMaps<F>>::affinity(env, key)
}

/// [`NodeportMaps::keep`].
#[inline(always)]
pub fn keep<F: Balanced, E: NodeportMaps<F>>(env: &mut E, key: &F::AffinityKey, affinity: &LbAffinity) -> Option<()> {
    <E as NodeportMaps<F>>::keep(env, key, affinity)
}

/// [`NodeportMaps::in_source_range`].
#[inline(always)]
pub fn in_source_range<F: Balanced, E: NodeportMaps<F>>(env: &E, key: &F::SourceRange) -> bool {
    <E as NodeportMaps<F>>::in_source_range(env, key)
}

/// [`NodeportMaps::allocate`].
#[inline(always)]
pub fn allocate<F: Balanced, E: NodeportMaps<F>>(env: &mut E, wish: &Wish<F>) -> u16 {
    <E as NodeportMaps<F>>::allocate(env, wish)
}

/// [`NodeportMaps::is_excluded`].
#[inline(always)]
pub fn is_excluded<F: Balanced, E: NodeportMaps<F>>(env: &E, dst: &F::Addr) -> bool {
    <E as NodeportMaps<F>>::is_excluded(env, &F::exclusion(dst))
}
