//! A node with two network devices: a client behind one, another node with a backend behind the other, pods of its own.
//!
//! ```text
//! client ─ eth0 ──── ext0 ─ node ─ ext1 ──── eth0 ─ other node ─ pod
//!        └ eth1 ──────────────────────────── eth1 ┘              (answers of backends that go to the client directly)
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::{
    config::{NodeConfig, Runtime},
    write::MapWrite,
};
use lb::{
    Algorithm, Attributes, Backend, L4Addr, Planned, ServiceId, ServiceSpec, ServiceType, Services, Transport, maglev,
};
use loader::Maps;

use crate::{
    host::{self, Host, Setup},
    net::{Namespace, like_a_wire},
    support::{self, netns::forward},
};

/// Where the hook is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Tc,
    XdpNative,
    XdpGeneric,
}

impl At {
    pub const ALL: [Self; 3] = [Self::Tc, Self::XdpGeneric, Self::XdpNative];
}

/// Addresses by family.
#[derive(Clone, Copy)]
pub struct Addr(pub Ipv4Addr, pub Ipv6Addr);

impl Addr {
    pub fn of(self, v6: bool) -> IpAddr {
        if v6 { self.1.into() } else { self.0.into() }
    }
}

const fn v6(net: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(net, 0, 0, 0, 0, 0, 0, host)
}

pub const NODE: Addr = Addr(Ipv4Addr::new(192, 168, 50, 1), v6(0xfd50, 1));
pub const CLIENT: Addr = Addr(Ipv4Addr::new(192, 168, 50, 2), v6(0xfd50, 2));
pub const NODE_TO_OTHER: Addr = Addr(Ipv4Addr::new(192, 168, 60, 1), v6(0xfd60, 1));
pub const OTHER: Addr = Addr(Ipv4Addr::new(192, 168, 60, 2), v6(0xfd60, 2));
const OTHER_TO_CLIENT: Addr = Addr(Ipv4Addr::new(192, 168, 70, 1), v6(0xfd70, 1));
const CLIENT_TO_OTHER: Addr = Addr(Ipv4Addr::new(192, 168, 70, 2), v6(0xfd70, 2));
/// A pod of the other node: an address on its loopback device, unless the other node has a datapath of its own.
pub const REMOTE: Addr = remote(7);
const ROUTER: Addr = Addr(Ipv4Addr::new(10, 9, 0, 254), v6(0xfd09, 0xfe));
const OTHER_ROUTER: Addr = Addr(Ipv4Addr::new(10, 8, 0, 254), v6(0xfd08, 0xfe));

/// An address that somebody leads to the node: a load balancer's or an external one.
pub const LED_HERE: Addr = Addr(Ipv4Addr::new(203, 0, 113, 9), v6(0xfd99, 9));

/// Address of pod `n` of this node.
pub const fn pod(n: u8) -> Addr {
    Addr(Ipv4Addr::new(10, 9, 0, n), v6(0xfd09, n as u16))
}

/// Address of pod `n` of the other node.
pub const fn remote(n: u8) -> Addr {
    Addr(Ipv4Addr::new(10, 8, 0, n), v6(0xfd08, n as u16))
}

/// In this order: programs and pins go before what they are attached to.
pub struct Node {
    pub host: Host,
    /// The datapath of the other node.
    pub remote: Option<Host>,
    pub client: Namespace,
    pub other: Namespace,
    services: Services,
    at: At,
}

impl Node {
    /// A node in a namespace of its own (the calling thread moves there), or `None`, said aloud.
    pub fn new(at: At, change: impl FnOnce(&mut NodeConfig)) -> Option<Self> {
        Self::sized(at, change, &[])
    }

    /// The same, with maps of these sizes.
    pub fn sized(at: At, change: impl FnOnce(&mut NodeConfig), sizes: &[(&str, u32)]) -> Option<Self> {
        if let Err(why) = loader::check_kernel() {
            support::skip(&why.to_string());
            return None;
        }
        // SAFETY: unshare(2) takes no pointers; only the calling thread moves.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", std::io::Error::last_os_error());
        support::ip(&["link", "set", "lo", "up"]);
        forward();
        let client = neighbour("client", "ext0", NODE, CLIENT);
        let other = neighbour("other", "ext1", NODE_TO_OTHER, OTHER);
        direct_way(&client, &other);
        for v6 in [false, true] {
            let (family, net) = if v6 { ("-6", "fd08::/64") } else { ("-4", "10.8.0.0/24") };
            other.add_address(REMOTE.of(v6), "lo");
            support::ip(&[family, "route", "add", net, "via", &OTHER.of(v6).to_string()]);
        }
        let mut config = host::config(ROUTER, NODE_TO_OTHER);
        change(&mut config);
        let addresses = [ROUTER, NODE, NODE_TO_OTHER];
        let host = Host::open(None, &Setup { at, devices: &["ext0", "ext1"], addresses: &addresses, config, sizes })?;
        Some(Self { host, remote: None, client, other, services: services(Algorithm::Random), at })
    }

    /// Gives the other node a datapath of its own, and [`REMOTE`] as a pod.
    pub fn with_other_node(mut self, change: impl FnOnce(&mut NodeConfig)) -> Self {
        self.other.enter(|| {
            forward();
            for v6 in [false, true] {
                let (family, bits) = if v6 { ("-6", 128) } else { ("-4", 32) };
                support::ip(&[family, "addr", "del", &format!("{}/{bits}", REMOTE.of(v6)), "dev", "lo"]);
            }
        });
        let mut config = host::config(OTHER_ROUTER, OTHER);
        change(&mut config);
        let addresses = [OTHER_ROUTER, OTHER, OTHER_TO_CLIENT];
        let setup = Setup { at: self.at, devices: &["eth0", "eth1"], addresses: &addresses, config, sizes: &[] };
        let mut remote = Host::open(Some(&self.other), &setup).expect("as the first one");
        remote.add_pod(REMOTE);
        self.remote = Some(remote);
        self
    }

    /// Chooses backends by Maglev tables.
    pub fn with_maglev(mut self) -> Self {
        let (size, seed) = (maglev::TableSize::default(), maglev::Seed::default());
        self.services = services(Algorithm::Maglev { size, seed });
        self
    }

    /// Lets services choose their mode.
    pub fn by_service(&mut self) {
        let config = lb::Config { forwarding_by_service: true, ..self.services.config().clone() };
        self.services = Services::new(config);
    }

    pub fn maps(&self) -> &Maps {
        self.host.maps()
    }

    /// Makes pod `n`.
    pub fn add_pod(&mut self, n: u8) {
        self.host.add_pod(pod(n));
    }

    /// Puts a service in place, as the agent does; what is known of its connections is checked anew.
    pub fn put(&mut self, spec: ServiceSpec) -> ServiceId {
        let planned = self.services.put(spec).expect("valid");
        let id = planned.id;
        self.write(&planned);
        id
    }

    fn write(&self, planned: &Planned) {
        for one in &planned.writes {
            let table = |id| {
                let recipe = planned.tables.iter().find(|(known, _)| known.as_u64() == id);
                recipe.expect("core says what is in it").1.table()
            };
            match one {
                MapWrite::Maglev4(index, Some(named)) => {
                    self.maps().lb4_maglev.insert(*index, &table(named.id)).expect("room");
                }
                MapWrite::Maglev6(index, Some(named)) => {
                    self.maps().lb6_maglev.insert(*index, &table(named.id)).expect("room");
                }
                other => support::write(self.maps(), other),
            }
        }
        let revision = self.maps().runtime(Runtime::LbRevision).expect("it is there");
        self.maps().set_runtime(Runtime::LbRevision, revision + 1).expect("it is there");
    }

    /// A node port on [`NODE`], both families and transports, with the given backends, all at port 8080.
    pub fn service(&mut self, port: u16, backends: &[Addr], change: impl Fn(&mut ServiceSpec)) {
        self.service_at(NODE, port, backends, |spec| {
            spec.attributes.kind = ServiceType::NodePort;
            change(spec);
        });
    }

    /// The same at an address of any kind.
    pub fn service_at(&mut self, at: Addr, port: u16, backends: &[Addr], change: impl Fn(&mut ServiceSpec)) {
        for v6 in [false, true] {
            for protocol in [Transport::Tcp, Transport::Udp] {
                let backend = |addr: &Addr| Backend::new(L4Addr { ip: addr.of(v6), port: 8080, protocol });
                let mut spec = ServiceSpec {
                    attributes: Attributes { kind: ServiceType::LoadBalancer, ..Attributes::default() },
                    ..ServiceSpec::new(L4Addr { ip: at.of(v6), port, protocol }, backends.iter().map(backend).collect())
                };
                change(&mut spec);
                self.put(spec);
            }
        }
    }

    /// The frontend of a service.
    pub fn frontend(port: u16, v6: bool) -> SocketAddr {
        SocketAddr::new(NODE.of(v6), port)
    }
}

fn services(algorithm: Algorithm) -> Services {
    let node = lb::Node { name: "node".into(), ..lb::Node::default() };
    Services::new(lb::Config { node, algorithm, ..lb::Config::default() })
}

/// A namespace behind a device of this one.
fn neighbour(name: &str, device: &str, here: Addr, there: Addr) -> Namespace {
    let netns = Namespace::new(name);
    support::ip(&["link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", &netns.name]);
    support::ip(&["link", "set", device, "up"]);
    netns.ip(&["link", "set", "lo", "up"]);
    netns.ip(&["link", "set", "eth0", "up"]);
    for (v6, family, bits) in [(false, "-4", 24), (true, "-6", 64)] {
        support::ip(&[family, "addr", "add", &format!("{}/{bits}", here.of(v6)), "dev", device, "nodad"]);
        netns.ip(&[family, "addr", "add", &format!("{}/{bits}", there.of(v6)), "dev", "eth0", "nodad"]);
        netns.ip(&[family, "route", "add", "default", "via", &here.of(v6).to_string()]);
    }
    netns.enter(|| like_a_wire("eth0"));
    like_a_wire(device);
    netns
}

/// The way from the other node to the client past this one. The client's own way out stays.
fn direct_way(client: &Namespace, other: &Namespace) {
    client.ip(&["link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", &other.name]);
    for (netns, own) in [(client, CLIENT_TO_OTHER), (other, OTHER_TO_CLIENT)] {
        netns.enter(|| std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").expect("we are root in it"));
        netns.ip(&["link", "set", "eth1", "up"]);
        for (v6, family, bits) in [(false, "-4", 24), (true, "-6", 64)] {
            netns.ip(&[family, "addr", "add", &format!("{}/{bits}", own.of(v6)), "dev", "eth1", "nodad"]);
        }
        netns.enter(|| like_a_wire("eth1"));
    }
    for (v6, family, bits) in [(false, "-4", 32), (true, "-6", 128)] {
        let client = format!("{}/{bits}", CLIENT.of(v6));
        other.ip(&[family, "route", "add", &client, "via", &CLIENT_TO_OTHER.of(v6).to_string()]);
    }
}
