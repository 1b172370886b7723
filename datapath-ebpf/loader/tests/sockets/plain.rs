//! What people do with sockets.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use abi::{
    endpoint::{ENDPOINT_HOST, EndpointInfo, EndpointKey},
    event::{NOTIFY_TRACE_SOCK, TraceSockRecord, xlate},
    lb::SERVICE_NODE_PORT,
    write::MapWrite,
};
use zerocopy::FromBytes;

use crate::{
    frontends::Frontend,
    world::{Node, PATIENCE, Servers, addresses, backend_ip, cookie, frontend_ip, node_ip},
};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Pods and the host reach services over TCP, in their own family and by mapped addresses; a megabyte arrives whole; the peer is
/// the frontend; without the programs nobody would answer there.
#[test]
fn tcp_reaches_services_and_carries_a_megabyte() {
    let Some(node) = Node::new() else { return };
    for (v6, id) in [(false, 1), (true, 2)] {
        let (frontend, target) = (SocketAddr::new(frontend_ip(1, v6), 80), SocketAddr::new(backend_ip(1, v6), 9000));
        node.put(&Frontend::new(frontend, TCP, id, &[target]).writes());
    }
    for namespace in [&node.host, &node.pod] {
        let refused = namespace.enter(|| TcpStream::connect((frontend_ip(1, false), 80)).expect_err("no program"));
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    node.attach();
    let mapped: SocketAddr = "[::ffff:10.78.0.1]:80".parse().expect("a literal");
    let plain = [false, true].map(|v6| SocketAddr::new(frontend_ip(1, v6), 80));
    for namespace in [&node.host, &node.pod] {
        for to in [plain[0], plain[1], mapped] {
            namespace.enter(|| {
                let listener = TcpListener::bind((backend_ip(1, to == plain[1]), 9000)).expect("a port");
                let body: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
                let sent = body.clone();
                let client = thread::spawn(move || {
                    let mut stream = TcpStream::connect(to).expect("the service answers");
                    assert_eq!(stream.peer_addr().expect("connected"), to);
                    stream.write_all(&sent).expect("it listens");
                    stream.shutdown(std::net::Shutdown::Write).expect("connected");
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).expect("an answer");
                    answer
                });
                let (mut stream, _) = listener.accept().expect("a connection");
                let mut got = Vec::new();
                stream.read_to_end(&mut got).expect("all of it");
                assert!(got == body, "{} of {} bytes", got.len(), body.len());
                stream.write_all(b"thanks").expect("the client waits");
                drop(stream);
                assert_eq!(client.join().expect("the client does not panic"), "thanks");
            });
        }
    }
}

/// A resolver asks a name server behind a service: unconnected and connected, both families, mapped addresses.
#[test]
fn a_resolver_hears_from_the_address_it_asked() {
    let Some(node) = Node::new() else { return };
    for (v6, id) in [(false, 1), (true, 2)] {
        let frontend = SocketAddr::new(frontend_ip(2, v6), 53);
        let backends = [1, 2, 3].map(|n| SocketAddr::new(backend_ip(n, v6), 7001));
        node.put(&Frontend::new(frontend, UDP, id, &backends).writes());
    }
    node.attach();
    for namespace in [&node.host, &node.pod] {
        namespace.enter(|| {
            let servers = Servers::start(&addresses());
            for socket in &servers.udp {
                let socket = socket.try_clone().expect("a descriptor");
                // A name server: answers each question, and ends with the test.
                socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
            }
            thread::scope(|scope| {
                for server in servers.udp.iter().filter(|s| s.local_addr().expect("bound").port() == 7001) {
                    scope.spawn(move || {
                        let mut question = [0; 512];
                        while let Ok((len, from)) = server.recv_from(&mut question) {
                            if &question[..len] == b"end" {
                                break;
                            }
                            let answer = [b"answer to ", &question[..len]].concat();
                            server.send_to(&answer, from).expect("the way back");
                        }
                    });
                }
                for (own, to) in [
                    ("0.0.0.0:0", SocketAddr::new(frontend_ip(2, false), 53)),
                    ("[::]:0", SocketAddr::new(frontend_ip(2, true), 53)),
                    ("[::]:0", "[::ffff:10.78.0.2]:53".parse().expect("a literal")),
                ] {
                    for n in 0..20 {
                        let client = UdpSocket::bind(own).expect("a port");
                        client.set_read_timeout(Some(PATIENCE)).expect("a socket");
                        let question = format!("question {n}");
                        if n % 2 == 0 {
                            client.send_to(question.as_bytes(), to).expect("the service is there");
                        } else {
                            client.connect(to).expect("the service is there");
                            assert_eq!(client.peer_addr().expect("connected"), to);
                            client.send(question.as_bytes()).expect("the service is there");
                        }
                        let mut answer = [0; 512];
                        let (len, from) = client.recv_from(&mut answer).expect("an answer");
                        assert_eq!(from, to);
                        assert_eq!(&answer[..len], format!("answer to {question}").as_bytes());
                    }
                }
                let end = UdpSocket::bind("[::]:0").expect("a port");
                for server in servers.udp.iter().map(|s| s.local_addr().expect("bound")).filter(|a| a.port() == 7001) {
                    let to = match server {
                        SocketAddr::V4(to) => SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port()),
                        v6 => v6,
                    };
                    end.send_to(b"end", to).expect("loopback");
                }
            });
        });
    }
}

/// A service without backends refuses at once, in every way it can be asked.
#[test]
fn a_service_without_backends_refuses_with_no_route_to_host() {
    let Some(node) = Node::new() else { return };
    for (v6, id) in [(false, 1), (true, 2)] {
        node.put(&Frontend::new(SocketAddr::new(frontend_ip(3, v6), 80), 0, id, &[]).writes());
    }
    node.attach();
    node.pod.enter(|| {
        for (own, to) in [
            ("0.0.0.0:0", SocketAddr::new(frontend_ip(3, false), 80)),
            ("[::]:0", SocketAddr::new(frontend_ip(3, true), 80)),
            ("[::]:0", "[::ffff:10.78.0.3]:80".parse().expect("a literal")),
        ] {
            let refused = |result: std::io::Result<()>| {
                assert_eq!(result.expect_err("nobody is there").raw_os_error(), Some(libc::EHOSTUNREACH), "{to}");
            };
            refused(TcpStream::connect(to).map(drop));
            let udp = UdpSocket::bind(own).expect("a port");
            refused(udp.send_to(b"x", to).map(drop));
            refused(udp.connect(to));
        }
    });
}

/// Node ports are reached by the node's address and by loopback, and cannot be bound by the host, but by pods.
#[test]
fn node_ports_are_reached_and_protected() {
    let Some(node) = Node::new() else { return };
    let info = EndpointInfo { flags: ENDPOINT_HOST, ..EndpointInfo::default() };
    for (v6, id, any) in [(false, 1, "0.0.0.0:30080"), (true, 2, "[::]:30080")] {
        let mut port =
            Frontend::new(any.parse().expect("a literal"), TCP, id, &[SocketAddr::new(backend_ip(1, v6), 7001)]);
        port.flags.0 = SERVICE_NODE_PORT;
        node.put(&port.writes());
        node.put(&[MapWrite::Lxc(EndpointKey::new(node_ip(v6)), Some(info))]);
    }
    node.attach();
    node.host.enter(|| {
        let servers: Vec<TcpListener> =
            [false, true].iter().map(|v6| TcpListener::bind((backend_ip(1, *v6), 7001)).expect("a port")).collect();
        for (v6, loopback) in [(false, "127.0.0.1:30080"), (true, "[::1]:30080")] {
            for to in [SocketAddr::new(node_ip(v6), 30_080), loopback.parse().expect("a literal")] {
                let stream = TcpStream::connect(to).expect("the node port answers");
                assert_eq!(stream.peer_addr().expect("connected"), to);
                servers[usize::from(v6)].accept().expect("it came here");
            }
        }
        for at in ["0.0.0.0:30080", "127.0.0.1:30080", "[::]:30080", "[::1]:30080", "10.78.0.200:30080"] {
            let taken = TcpListener::bind(at).expect_err("it is a node port");
            assert_eq!(taken.kind(), ErrorKind::PermissionDenied, "{at}");
        }
        drop(TcpListener::bind("0.0.0.0:30081").expect("nobody has it"));
        drop(UdpSocket::bind("0.0.0.0:30080").expect("nobody has it"));
    });
    node.pod.enter(|| drop(TcpListener::bind("0.0.0.0:30080").expect("pods have their own")));
}

/// The kernel's events say which socket in which control group was sent where.
#[test]
fn translated_calls_are_told() {
    let Some(node) = Node::new() else { return };
    let (frontend, target) = (SocketAddr::new(frontend_ip(1, true), 80), SocketAddr::new(backend_ip(1, true), 7001));
    node.put(&Frontend::new(frontend, UDP, 1, &[target]).writes());
    node.attach();
    let socket = node.pod.enter(|| {
        let socket = UdpSocket::bind("[::]:0").expect("a port");
        for _ in 0..3 {
            socket.send_to(b"x", frontend).expect("loopback");
        }
        cookie(&socket)
    });
    use std::os::unix::fs::MetadataExt;
    let group = std::fs::metadata(node.cgroup.path()).expect("it is there").ino();
    let mut told = Vec::new();
    let mut events = node.datapath.events().expect("the ring is there");
    events.drain(100, |record| {
        let record = TraceSockRecord::read_from_bytes(record).expect("nothing else reports here");
        assert_eq!((record.notify.kind, record.notify.flags, record.notify.l4_proto), (NOTIFY_TRACE_SOCK, 1, 2));
        assert_eq!((record.notify.cookie(), record.notify.cgroup()), (socket, group));
        let to = SocketAddr::new(std::net::Ipv6Addr::from(record.notify.dst_ip).into(), record.notify.dst_port);
        told.push((record.notify.xlate_point, to));
    });
    assert_eq!(told, [(xlate::PRE_FORWARD, frontend), (xlate::POST_FORWARD, target)]);
}
