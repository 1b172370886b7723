//! After somebody went: connections and translations swept, sockets ended.
//!
//! The kernel's writes say what went ([`bpf::Departures`]). It is gathered here, each thing once and so bounded by what there
//! can be, and handed to the collector, which decides when to sweep, and to whoever ends sockets. A backend that came
//! back meanwhile is spared.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as WallInstant};

use abi::metrics::MetricsKey;
use bpf::Departed;
use bpf::sweep::{Found, Swept, sweep};
use gc::{Collector, Effect, Failed, Input, Sweep};
use lb::Purge;
use loader::Maps;
use machine::Instant;
use metrics::{Metrics, Outcome};
use netlink::sock_diag::Transport;
use runtime::{Closed, Handle, World};
use tokio::sync::Notify;

use crate::scrape::Filled;
use crate::sockets::{self, GoneBackends};
use crate::status::Status;

/// How long departures are gathered before sockets are looked for.
const GATHER: Duration = Duration::from_millis(100);
/// Time between two looks at the programs' counters.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Drop reason of a connection for which no port was found (reference: No mapping for NAT masquerade).
const NO_PORT: u8 = 167;

/// What went since it was last asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Gone {
    backends: GoneBackends,
    addresses: BTreeSet<IpAddr>,
    services: bool,
}

/// Where departures are left.
#[derive(Clone, Debug, Default)]
pub struct Cleanup {
    gone: Arc<Mutex<Gone>>,
    news: Arc<Notify>,
}

impl Cleanup {
    /// Takes a departure in.
    pub fn departed(&self, departed: Departed) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        match departed {
            Departed::Backend(at, protocol) => {
                gone.backends.wholly.insert((at, protocol));
                gone.services = true;
            }
            Departed::Returned(at, protocol) => {
                gone.backends.wholly.remove(&(at, protocol));
                return;
            }
            Departed::Service => gone.services = true,
            Departed::Address(ip) => {
                gone.addresses.insert(ip);
            }
        }
        drop(gone);
        self.news.notify_one();
    }

    /// Takes in what services let go of: the kernel's writes do not tell of a backend that serves another one still.
    pub fn purged(&self, purge: &[Purge]) {
        if purge.is_empty() {
            return;
        }
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.services = true;
        gone.backends.services.extend(purge.iter().filter_map(|one| match one {
            Purge::Backend { service, addr, .. } => Some((SocketAddr::new(addr.ip, addr.port), service.as_u16())),
            Purge::Service { .. } => None,
        }));
        drop(gone);
        self.news.notify_one();
    }

    fn take(&self) -> Gone {
        std::mem::take(&mut self.gone.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Hands departures on.
///
/// # Errors
/// When the collector is gone.
pub async fn departures(
    cleanup: Cleanup,
    collector: Handle<Collector>,
    maps: Arc<Maps>,
    protocols: Vec<Transport>,
    status: Arc<Status>,
) -> Result<(), Closed> {
    let mut last_failure = None;
    loop {
        cleanup.news.notified().await;
        tokio::time::sleep(GATHER).await;
        let gone = cleanup.take();
        if gone.services {
            collector.send(Input::ServiceChanged).await?;
        }
        for ip in gone.addresses {
            collector.send(Input::AddressGone(ip)).await?;
        }
        if gone.backends.is_empty() || protocols.is_empty() {
            continue;
        }
        let (maps, protocols) = (maps.clone(), protocols.clone());
        let count = gone.backends.wholly.len() + gone.backends.services.len();
        let work = tokio::task::spawn_blocking(move || sockets::end(&maps, &gone.backends, &protocols)).await;
        let failure = match work {
            Ok(ended) => {
                tracing::debug!(backends = count, sockets = ended.sockets, "sockets of removed backends ended");
                ended.failure
            }
            Err(why) => Some(why.to_string()),
        };
        // Told once for each kind: a kernel that cannot will not learn it.
        if failure.is_some() && failure != last_failure {
            let why = failure.clone().unwrap_or_default();
            tracing::warn!(why, "sockets of removed backends were not ended");
            status.warning(format!(
                "sockets of removed backends were not ended: {why} (is the kernel built with CONFIG_INET_DIAG_DESTROY?)"
            ));
        }
        last_failure = failure;
    }
}

/// Tells the collector when the programs run out of ports.
///
/// # Errors
/// When the collector is gone.
pub async fn pressure(maps: Arc<Maps>, collector: Handle<Collector>) -> Result<(), Closed> {
    let count = |maps: &Maps| {
        let dirs = [abi::metrics::DIR_EGRESS, abi::metrics::DIR_INGRESS, abi::metrics::DIR_SERVICE];
        let of = |dir| maps.metrics.get(&MetricsKey::new(NO_PORT, dir)).ok().flatten();
        // A map that cannot be read now is read the next time.
        dirs.into_iter().filter_map(of).flatten().fold(0, |sum: u64, value| sum.wrapping_add(value.count))
    };
    let mut last = count(&maps);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = count(&maps);
        if now != last {
            collector.send(Input::NatPressure).await?;
        }
        last = now;
    }
}

/// Carries sweeps out, on threads of their own.
pub struct Sweeper {
    /// The maps.
    pub maps: Arc<Maps>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// How full the maps were that sweeps walk.
    pub filled: Filled,
    /// Ports of this node for source NAT.
    pub ports: u16,
    /// What people are told.
    pub status: Arc<Status>,
    /// Where outcomes go.
    pub collector: Handle<Collector>,
}

impl World<Collector> for Sweeper {
    fn apply(&mut self, now: Instant, effect: Effect, _outcomes: &mut VecDeque<Input>) {
        let Effect::Sweep(op, Sweep { why, addresses }) = effect;
        let now = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let (maps, metrics) = (self.maps.clone(), self.metrics.clone());
        let (filled, ports) = (self.filled.clone(), self.ports);
        let (status, collector) = (self.status.clone(), self.collector.clone());
        let addresses = addresses.into_iter().collect();
        tokio::task::spawn_blocking(move || {
            let began = WallInstant::now();
            let swept = sweep(&maps, now, &addresses);
            let outcome = match swept {
                Ok(swept) => {
                    tracing::debug!(?why, ?swept, took = ?began.elapsed(), "connections swept");
                    report(&metrics, &swept, ports, began.elapsed());
                    filled.publish(&maps, &swept);
                    status.swept(None);
                    Ok(swept.share)
                }
                Err(error) => {
                    tracing::error!(%error, "connections were not swept");
                    metrics.swept("all", "all", Outcome::Fail, (0, 0), began.elapsed());
                    status.swept(Some(error.to_string()));
                    Err(Failed)
                }
            };
            collector.send_blocking(Input::Swept(op, outcome));
        });
    }
}

fn report(metrics: &Metrics, swept: &Swept, ports: u16, took: Duration) {
    let both = |found: &Found| (found.alive, found.removed());
    for (at, family) in ["ipv4", "ipv6"].into_iter().enumerate() {
        metrics.swept(family, "TCP", Outcome::Success, both(&swept.tcp[at]), took);
        metrics.swept(family, "non-TCP", Outcome::Success, both(&swept.any[at]), took);
        metrics.translations_swept(family, both(&swept.nat[at]));
        metrics.busiest_translation(family, f64::from(swept.busiest[at]) / f64::from(ports.max(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_came_back_is_spared_and_everything_is_told_once() {
        let cleanup = Cleanup::default();
        let at = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let ip = IpAddr::from([10, 0, 0, 9]);
        for departed in [
            Departed::Backend(at(1), 17),
            Departed::Backend(at(2), 17),
            Departed::Address(ip),
            Departed::Address(ip),
            Departed::Returned(at(1), 17),
        ] {
            cleanup.departed(departed);
        }
        let wholly = GoneBackends { wholly: [(at(2), 17)].into(), ..GoneBackends::default() };
        assert_eq!(cleanup.take(), Gone { backends: wholly, addresses: [ip].into(), services: true });
        // And one that left one of its services.
        let service = lb::ServiceId::new(7).expect("not 0");
        let addr = lb::L4Addr { ip: at(3).ip(), port: 3, protocol: lb::Transport::Udp };
        let frontend = lb::Frontend { addr, scope: lb::Scope::External };
        let backend = lb::BackendId::new(1).expect("not 0");
        cleanup.purged(&[Purge::Backend { service, frontend, backend, addr }, Purge::Service { service, frontend }]);
        let left = GoneBackends { services: [(at(3), 7)].into(), ..GoneBackends::default() };
        assert_eq!(cleanup.take(), Gone { backends: left, services: true, ..Gone::default() });
        assert_eq!(cleanup.take(), Gone::default());
    }
}
