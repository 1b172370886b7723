//! The family's maps, with the family named: [`Env`](crate::Env) has those of both, so a method call alone is ambiguous.

use abi::be::Port;
use abi::frag::FragPorts;
use abi::lb::LbService;

use crate::env::FamilyMaps;
use crate::family::Family;

/// [`FamilyMaps::service`].
#[inline(always)]
pub fn service<'a, F: Family, E: FamilyMaps<F>>(env: &'a E, key: &F::LbKey) -> Option<&'a LbService> {
    <E as FamilyMaps<F>>::service(env, key)
}

/// [`FamilyMaps::backend`].
#[inline(always)]
pub fn backend<F: Family, E: FamilyMaps<F>>(env: &E, id: u32) -> Option<&F::Backend> {
    <E as FamilyMaps<F>>::backend(env, id)
}

/// [`FamilyMaps::reverse_nat`].
#[inline(always)]
pub fn reverse_nat<F: Family, E: FamilyMaps<F>>(env: &E, index: Port) -> Option<&F::RevNat> {
    <E as FamilyMaps<F>>::reverse_nat(env, index)
}

/// [`FamilyMaps::connection`].
#[inline(always)]
pub fn connection<'a, F: Family, E: FamilyMaps<F>>(
    env: &'a mut E,
    tcp: bool,
    key: &F::CtKey,
) -> Option<&'a mut F::CtEntry> {
    <E as FamilyMaps<F>>::connection(env, tcp, key)
}

/// [`FamilyMaps::track`].
#[inline(always)]
pub fn track<F: Family, E: FamilyMaps<F>>(env: &mut E, tcp: bool, key: &F::CtKey, entry: &F::CtEntry) -> Option<()> {
    <E as FamilyMaps<F>>::track(env, tcp, key, entry)
}

/// [`FamilyMaps::fragment`].
#[inline(always)]
pub fn fragment<'a, F: Family, E: FamilyMaps<F>>(env: &'a E, key: &F::FragKey) -> Option<&'a FragPorts> {
    <E as FamilyMaps<F>>::fragment(env, key)
}

/// [`FamilyMaps::track_fragment`].
#[inline(always)]
pub fn track_fragment<F: Family, E: FamilyMaps<F>>(env: &mut E, key: &F::FragKey, ports: &FragPorts) -> Option<()> {
    <E as FamilyMaps<F>>::track_fragment(env, key, ports)
}
