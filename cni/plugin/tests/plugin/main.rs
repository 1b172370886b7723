//! The plugin against a stand-in for the agent, with real network namespaces where there is root.

mod stand_in;

use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use netlink::{Namespace, Netlink};
use serde_json::{Value, json};
use stand_in::{Mode, StandIn};

/// Runs `work` on a thread in a network namespace of its own, which plays the host. Says why when it cannot.
fn on_a_host(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let inside = move || {
            if let Err(error) = new_namespace() {
                assert!(std::env::var_os("CI").is_none(), "needs root in CI: {error}");
                let _shown =
                    writeln!(std::io::stderr(), "skipped: cannot make a network namespace ({error}); run as root");
                return;
            }
            work();
        };
        scope.spawn(inside).join().expect("the test's own thread");
    });
}

fn new_namespace() -> std::io::Result<()> {
    // SAFETY: unshare takes no pointers; it moves this thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A container: a network namespace with a path.
struct Pod {
    file: File,
}

impl Pod {
    fn new() -> Self {
        let made = std::thread::spawn(|| {
            new_namespace().expect("as root");
            File::open("/proc/thread-self/ns/net").expect("procfs")
        });
        Self { file: made.join().expect("the pod's thread") }
    }
    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }
    fn addresses(&self, ifname: &str) -> Option<Vec<IpAddr>> {
        let look = || {
            let mut inside = Netlink::open().expect("netlink");
            let link = inside.link(ifname).expect("netlink")?;
            Some(inside.addresses(link.index).expect("netlink").into_iter().map(|(addr, _)| addr).collect())
        };
        Namespace::open(self.path()).expect("the pod").run(look).expect("root")
    }
}

const CONF: &str = r#"{"cniVersion":"1.1.0","name":"cilium","type":"cilium-cni"}"#;

struct Caller<'a> {
    agent: &'a StandIn,
    container: &'a str,
    netns: String,
}

impl Caller<'_> {
    fn call(&self, command: &str, conf: &str) -> Result<Value, Value> {
        let socket = self.agent.socket().display().to_string();
        let run_dir = self.agent.dir().display().to_string();
        let answer = cilium_cni::run(
            &|name| {
                Some(match name {
                    "CNI_COMMAND" => command,
                    "CNI_CONTAINERID" => self.container,
                    "CNI_NETNS" => &self.netns,
                    "CNI_IFNAME" => "eth0",
                    "CNI_ARGS" => "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web",
                    "CILIUM_SOCK" => &socket,
                    "CILIUM_RUN_DIR" => &run_dir,
                    "CILIUM_CNI_PATIENCE" => "1",
                    _ => return None,
                })
            },
            || Ok(conf.as_bytes().to_vec()),
        );
        let value = match answer.stdout.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).expect("the plugin prints JSON"),
        };
        if answer.success { Ok(value) } else { Err(value) }
    }
    fn ok(&self, command: &str, conf: &str) -> Value {
        self.call(command, conf).unwrap_or_else(|e| panic!("{command}: {e}"))
    }
    fn refused(&self, command: &str, conf: &str) -> Value {
        self.call(command, conf).expect_err(command)
    }
}

fn host_links() -> Vec<String> {
    let links = Netlink::open().expect("netlink").links().expect("netlink");
    links.into_iter().map(|l| l.name).filter(|n| n.starts_with("lxc")).collect()
}

fn caller<'a>(agent: &'a StandIn, pod: &Pod, container: &'a str) -> Caller<'a> {
    Caller { agent, container, netns: pod.path() }
}

#[test]
fn a_container_is_connected_checked_and_disconnected() {
    on_a_host(|| {
        let (agent, pod) = (StandIn::start(Mode::Works), Pod::new());
        let caller = caller(&agent, &pod, "c1");
        let conf = r#"{"cniVersion":"1.1.0","name":"n","type":"cilium-cni","args":{"cilium":{"labels":["app=web"]}}}"#;
        let result = caller.ok("ADD", conf);
        assert_eq!(result["ips"][0]["address"], "fd00::10/128", "IPv6 comes first");
        assert_eq!(result["ips"][1]["address"], "10.0.0.10/32");
        assert_eq!(result["routes"][3], json!({"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1450}));
        let here = pod.addresses("eth0").expect("an interface");
        for addr in ["fd00::10", "10.0.0.10"] {
            assert!(here.contains(&addr.parse().expect("address")), "{addr} in {here:?}");
        }
        let asked = agent.last_put();
        assert_eq!(asked["k8s-pod-name"], "web");
        assert_eq!(asked["labels"], json!(["app=web"]));
        assert_eq!(asked["sync-build-endpoint"], true);
        assert_eq!(host_links(), [result["interfaces"][0]["name"].as_str().expect("a name")]);

        let with_result = json!({"cniVersion":"1.1.0","name":"n","type":"cilium-cni","prevResult":result}).to_string();
        caller.ok("CHECK", &with_result);
        caller.ok("DEL", CONF);
        assert_eq!((host_links().len(), agent.endpoints(), pod.addresses("eth0")), (0, 0, None));
        assert_eq!(caller.refused("CHECK", &with_result)["code"], 100);
        caller.ok("DEL", CONF);
    });
}

#[test]
fn a_repeated_add_gets_the_same_answer_and_leaks_nothing() {
    on_a_host(|| {
        let (agent, pod) = (StandIn::start(Mode::Works), Pod::new());
        let caller = caller(&agent, &pod, "c1");
        let first = caller.ok("ADD", CONF);
        assert_eq!(caller.ok("ADD", CONF), first);
        assert_eq!((agent.endpoints(), agent.lent(), host_links().len()), (1, 2, 1));
        // What is left of a container whose interface was lost is replaced as a whole.
        Namespace::open(pod.path())
            .expect("the pod")
            .run(|| Netlink::open().expect("netlink").delete_link("eth0").expect("netlink"))
            .expect("root");
        let second = caller.ok("ADD", CONF);
        assert_ne!(second["ips"], first["ips"]);
        assert_eq!((agent.endpoints(), agent.lent(), host_links().len()), (1, 2, 1));
    });
}

#[test]
fn adds_at_once_for_one_container_agree() {
    on_a_host(|| {
        let (agent, pod) = (StandIn::start(Mode::Works), Pod::new());
        let caller = caller(&agent, &pod, "c1");
        let results: Vec<Value> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..4).map(|_| scope.spawn(|| caller.ok("ADD", CONF))).collect();
            calls.into_iter().map(|call| call.join().expect("a call")).collect()
        });
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:?}");
        assert_eq!((agent.endpoints(), agent.lent(), host_links().len()), (1, 2, 1));
    });
}

#[test]
fn a_failed_add_leaves_nothing_behind() {
    on_a_host(|| {
        for (mode, code) in [
            (Mode::RefusesEndpoints, 999),
            (Mode::BreaksOffAfterCreating, 11),
            (Mode::GivesNoAddress, 999),
            (Mode::GivesNonsense, 999),
            (Mode::Exhausted, 11),
        ] {
            let (agent, pod) = (StandIn::start(mode), Pod::new());
            let error = caller(&agent, &pod, "c1").refused("ADD", CONF);
            assert_eq!(error["code"], code, "{mode:?}: {error}");
            let left = (agent.endpoints(), agent.lent(), host_links().len(), pod.addresses("eth0"));
            assert_eq!(left, (0, 0, 0, None), "{mode:?}: {error}");
        }
    });
}

#[test]
fn a_namespace_that_vanished_is_named_and_costs_nothing() {
    on_a_host(|| {
        let agent = StandIn::start(Mode::Works);
        let mut caller = Caller { agent: &agent, container: "c1", netns: "/var/run/netns/there-is-none".into() };
        let error = caller.refused("ADD", CONF);
        assert!(error["msg"].as_str().is_some_and(|m| m.contains("there-is-none")), "{error}");
        assert_eq!((agent.lent(), host_links().len()), (0, 0));
        caller.netns = "/etc/passwd".into();
        let error = caller.refused("ADD", CONF);
        assert!(error["msg"].as_str().is_some_and(|m| m.contains("no network namespace")), "{error}");
        caller.ok("DEL", CONF);
    });
}

#[test]
fn without_an_agent_del_is_queued_and_the_rest_says_try_again() {
    on_a_host(|| {
        let pod = Pod::new();
        let agent = StandIn::start(Mode::Works);
        let add = caller(&agent, &pod, "c1");
        add.ok("ADD", CONF);
        let away = agent.away();
        let caller = caller(&away, &pod, "c1");
        assert_eq!(caller.refused("ADD", CONF)["code"], 11);
        assert_eq!(caller.refused("STATUS", CONF)["code"], 50);
        caller.ok("DEL", CONF);
        caller.ok("DEL", CONF);
        assert_eq!(pod.addresses("eth0"), None, "the interface goes although the agent is away");
        let queue = away.dir().join("deleteQueue");
        let name = netconf::delete_queue_file_name(br#"{"container-id":"c1"}"#);
        let mut names: Vec<String> = std::fs::read_dir(&queue)
            .expect("the queue")
            .map(|e| e.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        assert_eq!(names, [name.clone(), "lockfile".to_owned()], "twice the same is one request");
        assert_eq!(std::fs::read_to_string(queue.join(name)).expect("the request"), r#"{"container-id":"c1"}"#);
    });
}

#[test]
fn a_full_delete_queue_is_an_error_for_the_runtime() {
    let away = StandIn::absent();
    let queue = away.dir().join("deleteQueue");
    std::fs::create_dir_all(&queue).expect("temp dir");
    for n in 0..netconf::DELETE_QUEUE_FILES_MAX {
        std::fs::write(queue.join(format!("{n:x}.delete")), "{}").expect("temp dir");
    }
    let error = Caller { agent: &away, container: "c1", netns: String::new() }.refused("DEL", CONF);
    assert_eq!(error["code"], 11);
    assert!(error["msg"].as_str().is_some_and(|m| m.contains("full (256 requests)")), "{error}");
}

#[test]
fn a_queue_the_agent_reads_is_waited_for() {
    let away = StandIn::absent();
    let queue = away.dir().join("deleteQueue");
    std::fs::create_dir_all(&queue).expect("temp dir");
    let lock = File::create(queue.join(netconf::DELETE_QUEUE_LOCK)).expect("temp dir");
    // SAFETY: the descriptor is open; flock takes no pointers.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0);
    let caller = Caller { agent: &away, container: "c1", netns: String::new() };
    std::thread::scope(|scope| {
        let del = scope.spawn(|| caller.ok("DEL", CONF));
        let agent = away.comes_back();
        // The plugin now waits for the lock; the agent is done reading and lets go.
        drop(lock);
        del.join().expect("DEL");
        let files = std::fs::read_dir(&queue).expect("the queue").count();
        assert_eq!(files, 1, "an agent that came meanwhile is told directly: only the lock is there");
        assert!(agent.asked().iter().any(|line| line.starts_with("DELETE /v1/endpoint")), "{:?}", agent.asked());
    });
}

#[test]
fn gc_removes_what_the_runtime_no_longer_knows() {
    on_a_host(|| {
        let (agent, one, two) = (StandIn::start(Mode::Works), Pod::new(), Pod::new());
        caller(&agent, &one, "c1").ok("ADD", CONF);
        let second = caller(&agent, &two, "c2");
        second.ok("ADD", CONF);
        assert_eq!(second.refused("GC", CONF)["code"], 7, "without a list everything would go");
        let conf = r#"{"cniVersion":"1.1.0","name":"n","type":"cilium-cni","cni.dev/valid-attachments":[{"containerID":"c2","ifname":"eth0"}]}"#;
        second.ok("GC", conf);
        assert_eq!((agent.endpoints(), host_links().len()), (1, 1));
        assert!(two.addresses("eth0").is_some() && one.addresses("eth0").is_none());
    });
}

#[test]
fn verbs_are_refused_before_their_version() {
    let agent = StandIn::absent();
    let caller = Caller { agent: &agent, container: "c1", netns: "/x".into() };
    for (command, version) in [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0")] {
        let error = caller.refused(command, &format!(r#"{{"cniVersion":"{version}"}}"#));
        assert_eq!((&error["code"], &error["cniVersion"]), (&json!(1), &json!(version)), "{error}");
    }
    assert_eq!(caller.ok("VERSION", "")["cniVersion"], "1.1.0");
    let agent = StandIn::start(Mode::Works);
    let caller = Caller { agent: &agent, container: "c1", netns: "/x".into() };
    assert_eq!(caller.refused("ADD", r#"{"cniVersion":"1.0.0","chaining-mode":"flannel"}"#)["code"], 7);
    assert_eq!(agent.asked(), Vec::<String>::new(), "what cannot work is refused before the agent is asked");
}
