//! Services at sockets with a real agent: pods and host reach them, restarts and changes break nothing, and who is connected
//! to a backend that went hears of it.
//!
//! The test's own process stands for the node's: it moves into a control group of its own, to which the agent attaches.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::models::{Service, StatusResponse};
use serde_json::{Value, json};

use crate::support::{Net, Node, Pod, skip};
use crate::traffic::{ANSWER_WITHIN, Seen, Speaker, die_meanwhile, exchange, flap, put_service, under_traffic};

/// Agents killed while services change.
const DEATHS: u16 = 6;
/// Services that change.
const SERVICES: u16 = 1000;

/// A control group with this process in it.
struct Cgroup {
    path: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Cgroup {
    fn enter() -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let root = match loader::check_sock_lb(None) {
            Ok(root) => root,
            Err(why) => {
                skip(&why.to_string());
                return None;
            }
        };
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("cilium-test-agent-{}-{number}", std::process::id()));
        if let Err(why) = fs::create_dir(&path).and_then(|()| move_to(&path)) {
            let _gone = fs::remove_dir(&path);
            skip(&format!("no control group can be made at {}: {why}", path.display()));
            return None;
        }
        Some(Self { path, _alone: alone })
    }
}

fn move_to(group: &Path) -> std::io::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let parent = self.path.parent().unwrap();
        move_to(parent).unwrap();
        // Agents that other tests started meanwhile are in it too; one that ends just now needs no move.
        for _ in 0..50 {
            for pid in fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default().lines() {
                let _ended = fs::write(parent.join("cgroup.procs"), pid);
            }
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} is still in use and stays", self.path.display());
    }
}

/// A node that translates services at the sockets of this process, two pods that serve and one that asks.
pub struct World {
    pub node: Node,
    pub client: Pod,
    web: [Pod; 2],
    cgroup: Cgroup,
}

impl World {
    pub fn new(extra: &[&str]) -> Option<Self> {
        let cgroup = Cgroup::enter()?;
        let root = format!("--cgroup-root={}", cgroup.path.display());
        let mut options = vec!["--bpf-lb-sock", &root, "--bpf-sock-rev-map-max=16384"];
        options.extend(extra);
        let node = Node::new(&options)?;
        let web = ["web1", "web2"].map(|name| node.pod(name, &["k8s:app=web"]));
        let client = node.pod("client", &["k8s:app=client"]);
        web.iter().for_each(|pod| pod.echo(80));
        Some(Self { node, client, web, cgroup })
    }

    /// Puts a service in place; an agent that is not there is asked again until it is.
    pub fn serve(&self, id: u16, protocol: &str, backends: &[SocketAddr]) {
        let body = service(id, protocol, backends);
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            match self.node.client.call::<Value, Value>("PUT", &format!("/service/{id}"), &[], Some(&body)) {
                Ok(_) => return,
                Err(why) => assert!(Instant::now() < until, "service {id}: {why}\n{}", self.node.log()),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The control group the agent translates in.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup.path
    }

    /// The namespaces of the client and of the host, each with whom it speaks to.
    fn clients(&self, to: &[SocketAddr]) -> Vec<Speaker> {
        [&self.client.net, self.node.net()].map(|net| Speaker::new(net, to)).into()
    }

    pub fn backends(&self) -> [SocketAddr; 2] {
        [0, 1].map(|n: usize| SocketAddr::new(self.web[n].ipv4, 80))
    }
}

/// Where clients of a service go.
pub fn vip(id: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + u32::from(id))), 80)
}

fn service(id: u16, protocol: &str, backends: &[SocketAddr]) -> Value {
    let backends: Vec<Value> = backends
        .iter()
        .map(|at| json!({ "ip": at.ip().to_string(), "port": at.port(), "protocol": protocol }))
        .collect();
    json!({
        "id": id,
        "frontend-address": { "ip": vip(id).ip().to_string(), "port": vip(id).port(), "protocol": protocol },
        "backend-addresses": backends,
    })
}

#[test]
fn pods_and_the_host_reach_services_and_the_agent_says_how() {
    let Some(world) = World::new(&[]) else { return };
    world.serve(1, "TCP", &world.backends());
    for net in [&world.client.net, world.node.net()] {
        net.within(|| {
            let mut stream = TcpStream::connect_timeout(&vip(1), ANSWER_WITHIN).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), vip(1));
            exchange(&mut stream).unwrap();
        });
    }
    world.serve(2, "TCP", &[]);
    let refused = world.client.net.within(|| TcpStream::connect_timeout(&vip(2), ANSWER_WITHIN).unwrap_err());
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EHOSTUNREACH));
    let status: StatusResponse = world.node.client.get("/healthz").unwrap();
    assert!(status.kube_proxy_replacement.unwrap().features.unwrap().socket_lb.enabled);
}

/// A resolver that is connected to a name server behind a service hears that it is gone, asks again, and gets another; who is
/// connected to the name server's own address is left alone.
#[test]
fn sockets_of_a_removed_backend_end_and_others_do_not() {
    let Some(world) = World::new(&[]) else { return };
    let at = |n: usize| SocketAddr::new(world.web[n].ipv4, 53);
    let servers = [0, 1].map(|n: usize| world.web[n].net.within(|| UdpSocket::bind(("0.0.0.0", 53)).unwrap()));
    world.serve(3, "UDP", &[at(0)]);
    let clients: Vec<(UdpSocket, bool)> = [&world.client.net, world.node.net()]
        .into_iter()
        .flat_map(|net| {
            net.within(|| {
                [vip(3), at(0)].map(|to| {
                    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                    socket.connect(SocketAddr::new(to.ip(), if to == vip(3) { 80 } else { 53 })).unwrap();
                    socket.send(b"question").unwrap();
                    (socket, to == vip(3))
                })
            })
        })
        .collect();
    servers[0].set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    for _ in &clients {
        servers[0].recv_from(&mut [0; 16]).expect("the question arrives");
    }
    world.serve(3, "UDP", &[at(1)]);
    world.node.eventually("the sockets end", || clients[0].0.peer_addr().is_err() && clients[2].0.peer_addr().is_err());
    for (socket, through_service) in &clients {
        assert_eq!(socket.peer_addr().is_err(), *through_service);
    }
    let told = clients[0].0.take_error().unwrap().expect("whoever owns it is told");
    assert_eq!(told.raw_os_error(), Some(nix::libc::ECONNABORTED));
    clients[0].0.connect(vip(3)).unwrap();
    clients[0].0.send(b"again").unwrap();
    servers[1].set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    servers[1].recv_from(&mut [0; 16]).expect("the other one is asked");
}

/// A name server leaves one of two services. Whose socket came to it through that one hears of it and finds another; whose came
/// through the other service, or by its own address, stays.
#[test]
fn sockets_end_of_the_service_that_a_backend_left() {
    let Some(world) = World::new(&[]) else { return };
    let at = |n: usize| SocketAddr::new(world.web[n].ipv4, 53);
    let servers = [0, 1].map(|n: usize| world.web[n].net.within(|| UdpSocket::bind(("0.0.0.0", 53)).unwrap()));
    [3, 4].into_iter().for_each(|id| world.serve(id, "UDP", &[at(0)]));
    let connected = |net: &Net, to: SocketAddr| {
        net.within(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(to).unwrap();
            socket.send(b"question").unwrap();
            socket
        })
    };
    let nets = [&world.client.net, world.node.net()];
    let [left, stays, itself] = [vip(3), vip(4), at(0)].map(|to| nets.map(|net| connected(net, to)));
    servers[0].set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    for _ in 0..6 {
        servers[0].recv_from(&mut [0; 16]).expect("the question arrives");
    }
    world.serve(3, "UDP", &[at(1)]);
    world.node.eventually("the sockets end", || left.iter().all(|socket| socket.peer_addr().is_err()));
    for socket in stays.iter().chain(&itself) {
        assert!(socket.peer_addr().is_ok(), "nothing changed for this one");
        socket.send(b"more").unwrap();
        servers[0].recv_from(&mut [0; 16]).expect("it arrives");
    }
    let told = left[0].take_error().unwrap().expect("whoever owns it is told");
    assert_eq!(told.raw_os_error(), Some(nix::libc::ECONNABORTED));
    left[0].connect(vip(3)).unwrap();
    left[0].send(b"again").unwrap();
    servers[1].set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    servers[1].recv_from(&mut [0; 16]).expect("the other one is asked");
}

/// Agents die at random points of an update of a thousand services.
#[test]
fn an_update_of_a_thousand_services_survives_its_agents_under_traffic() {
    let Some(mut world) = World::new(&["--bpf-lb-map-max=8192"]) else { return };
    let [one, other] = world.backends();
    for id in [1, 2, SERVICES] {
        world.serve(id, "TCP", &[one, other]);
    }
    let seen = Seen::default();
    let clients = world.clients(&[vip(1), vip(2), vip(SERVICES)]);
    let client = world.node.client.clone();
    let node = &mut world.node;
    let updated = AtomicU64::new(0);
    let faults = under_traffic(&clients, &seen, || {
        std::thread::scope(|scope| {
            let updates = scope.spawn(|| {
                for id in 2..=SERVICES {
                    let first = if id % 2 == 0 { [one, other] } else { [other, one] };
                    let body = service(id, "TCP", &first[..1 + usize::from(id % 3 == 0)]);
                    put_service(&client, id, &body);
                    updated.fetch_add(1, Ordering::Relaxed);
                }
            });
            die_meanwhile(node, DEATHS, 1000, |death| {
                let share = u64::from(death) * u64::from(SERVICES) / u64::from(DEATHS + 2);
                updated.load(Ordering::Relaxed) < share && !updates.is_finished()
            });
            updates.join().unwrap();
        });
        node.wait_ready();
    });
    assert_eq!(faults, Vec::<String>::new(), "{}", world.node.log());
    let numbers = (seen.exchanges.load(Ordering::Relaxed), seen.connections.load(Ordering::Relaxed));
    assert!(numbers.0 > 100 && numbers.1 > 100, "this proves little: {numbers:?}");
    // All of them are there, each with what was asked for last.
    let services: Vec<Value> = client.get("/service").unwrap();
    assert_eq!(services.len(), usize::from(SERVICES));
    world.client.net.within(|| {
        for id in (1..=SERVICES).step_by(97) {
            exchange(&mut TcpStream::connect_timeout(&vip(id), ANSWER_WITHIN).unwrap()).unwrap();
        }
    });
}

/// A backend comes and goes a hundred times a second.
#[test]
fn a_backend_that_flaps_disturbs_nobody_but_its_own() {
    let Some(world) = World::new(&[]) else { return };
    let [steady, flapping] = world.backends();
    world.serve(1, "TCP", &[steady]);
    world.serve(2, "TCP", &[steady, flapping]);
    let seen = Seen::default();
    let began = Instant::now();
    let faults = under_traffic(&world.clients(&[vip(1), vip(2)]), &seen, || {
        flap(|change| {
            let backends = if change % 2 == 0 { &[steady][..] } else { &[steady, flapping] };
            world.serve(2, "TCP", backends);
        });
    });
    assert_eq!(faults, Vec::<String>::new(), "{}", world.node.log());
    let numbers = (seen.exchanges.load(Ordering::Relaxed), seen.connections.load(Ordering::Relaxed));
    assert!(numbers.0 > 50 && numbers.1 > 50, "this proves little: {numbers:?}");
    let service: Service = world.node.client.get("/service/2").unwrap();
    assert_eq!(service.spec.backend_addresses.len(), 2, "the last change counts");
    // Sweeps rest for ten seconds, however much changes.
    let sweeps = world.node.log().matches("connections swept").count() as u64;
    assert!(sweeps <= 2 + began.elapsed().as_secs() / 10, "{sweeps} sweeps in {:?}", began.elapsed());
}

/// Many more connections than the maps have room for: what was established goes on, what is new is made, and nothing is
/// dropped for lack of room.
#[test]
fn maps_that_are_too_small_forget_and_go_on() {
    let small = ["--bpf-ct-global-tcp-max=128", "--bpf-ct-global-any-max=128", "--bpf-sock-rev-map-max=64"];
    let Some(world) = World::new(&small) else { return };
    world.serve(1, "TCP", &world.backends());
    let nets = [&world.client.net, world.node.net()];
    let mut first: Vec<TcpStream> =
        nets.iter().map(|net| net.within(|| TcpStream::connect_timeout(&vip(1), ANSWER_WITHIN).unwrap())).collect();
    let mut open = Vec::new();
    for n in 0..400 {
        let mut stream = nets[n % 2].within(|| TcpStream::connect_timeout(&vip(1), ANSWER_WITHIN).unwrap());
        exchange(&mut stream).unwrap();
        open.push(stream);
    }
    for stream in first.iter_mut().chain(&mut open) {
        exchange(stream).unwrap();
    }
    drop(open);
    for stream in &mut first {
        exchange(stream).unwrap();
    }
    let maps = loader::Maps::open_pinned(
        &loader::maps_directory(&world.node.dir.path().join("bpf")),
        loader::Access::ReadOnly,
    )
    .unwrap();
    let drops: Vec<_> = maps.metrics.sums().unwrap().into_iter().filter(|(key, _)| key.reason == 155).collect();
    assert_eq!(drops, []);
}
