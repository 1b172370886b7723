//! A node with pods, taken down when it is dropped.

use std::fs;
use std::io::{Read, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use api::client::{Client, ClientError};
use api::models::{AddressPair, Endpoint, EndpointChangeRequest, EndpointState, IPAMResponse, StatusResponse};
use netlink::Namespace;

const AGENT: &str = env!("CARGO_BIN_EXE_cilium-agent");
/// How long an agent may take to answer, on a machine that does much else.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Says why a test does not run; in CI it must run.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI must run this: {why}");
    let _shown = writeln!(std::io::stderr(), "skipped: {why}");
}

/// The object file: `CILIUM_BPF_OBJECT`, or where `cargo xtask bpf` puts it.
fn object() -> Option<PathBuf> {
    let built = || {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
        target.join("bpf/cilium.o")
    };
    let path = std::env::var_os("CILIUM_BPF_OBJECT").map_or_else(built, PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    skip(&format!("no programs at {}: run `cargo xtask bpf`", path.display()));
    None
}

/// Runs a command that must succeed.
pub fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A named network namespace, deleted when it is dropped.
#[derive(Debug)]
pub struct Net {
    name: String,
    pub handle: Namespace,
}

impl Net {
    fn new(prefix: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        let handle = Namespace::open(Path::new("/run/netns").join(&name)).unwrap();
        let net = Self { name, handle };
        net.ip(&["link", "set", "lo", "up"]);
        net
    }
    pub fn ip(&self, args: &[&str]) -> String {
        run("ip", &[&["-n", &self.name], args].concat())
    }
    /// A command that will run in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program);
        command
    }
    /// Runs `work` in it.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.handle.run(work).unwrap()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _gone = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    pub net: Net,
    pub name: String,
    pub ipv4: IpAddr,
    pub ipv6: Option<IpAddr>,
    pub endpoint: Endpoint,
}

/// A node with its agent.
#[derive(Debug)]
pub struct Node {
    pub dir: tempfile::TempDir,
    net: Net,
    object: PathBuf,
    extra: Vec<String>,
    agent: Option<Child>,
    pub client: Client,
}

impl Node {
    /// A node whose agent is ready; `None`, said aloud, where that is not possible.
    pub fn new(extra: &[&str]) -> Option<Self> {
        let mut node = Self::without_agent(extra)?;
        node.start();
        node.wait_ready();
        Some(node)
    }

    /// A node on which no agent runs yet.
    pub fn without_agent(extra: &[&str]) -> Option<Self> {
        if let Err(why) = loader::check_kernel() {
            skip(&why.to_string());
            return None;
        }
        if Command::new("ip").arg("-V").output().is_err() {
            skip("iproute2 is not installed");
            return None;
        }
        let object = object()?;
        let dir = tempfile::tempdir().unwrap();
        for folder in ["policies", "bpf"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let client = Client::new(dir.path().join("run/cilium.sock"), Duration::from_secs(40));
        let extra = extra.iter().map(|arg| (*arg).to_owned()).collect();
        Some(Self { net: Net::new("cil-node"), dir, object, extra, agent: None, client })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// The command of the agent in the node's namespace.
    pub fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.net.name)).arg(AGENT);
        for (option, value) in [
            ("state-dir", self.path("run")),
            ("lib-dir", self.path("lib")),
            ("bpf-root", self.path("bpf")),
            ("bpf-object", self.object.to_str().unwrap().to_owned()),
            ("static-cnp-path", self.path("policies")),
            ("node-name", "node".into()),
            ("ipv4-range", "10.77.0.0/24".into()),
            ("ipv6-range", "fd00:77::/64".into()),
            ("bpf-ct-global-tcp-max", "4096".into()),
            ("bpf-ct-global-any-max", "4096".into()),
            ("bpf-ipcache-map-max", "4096".into()),
            ("bpf-policy-map-max", "4096".into()),
            ("bpf-lb-map-max", "1024".into()),
            ("identity-change-grace-period", "200ms".into()),
        ] {
            command.arg(format!("--{option}={value}"));
        }
        command.args(&self.extra);
        command
    }

    /// One option more for agents that start from now on.
    pub fn add(&mut self, option: String) {
        self.extra.push(option);
    }

    /// Runs `work` in the node's namespace.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.net.within(work)
    }

    /// Starts the agent and does not wait for it.
    pub fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let agent = self.command().arg("--debug").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.agent = Some(agent.unwrap());
    }

    /// Waits until the agent answers and says that all is well.
    pub fn wait_ready(&mut self) {
        let until = Instant::now() + READY_WITHIN;
        while !self.is_ready() {
            let ended = self.agent.as_mut().and_then(|agent| agent.try_wait().unwrap());
            assert_eq!(ended, None, "the agent ended:\n{}", self.log());
            assert!(Instant::now() < until, "the agent is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A namespace behind a network device of the node, `ext0`.
    pub fn outside(&self) -> Net {
        let net = Net::new("cil-out");
        self.net.ip(&["link", "add", "ext0", "type", "veth", "peer", "name", "eth0", "netns", &net.name]);
        for (at, device, last) in [(&self.net, "ext0", 1), (&net, "eth0", 2)] {
            at.ip(&["link", "set", device, "up"]);
            at.ip(&["addr", "add", &format!("192.0.2.{last}/24"), "dev", device]);
            at.ip(&["-6", "addr", "add", &format!("2001:db8::{last}/64"), "dev", device, "nodad"]);
        }
        net
    }

    /// The node's namespace.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Whether the agent answers and has restored everything.
    pub fn is_ready(&self) -> bool {
        let status = self.client.get::<StatusResponse>("/healthz").ok().and_then(|status| status.cilium);
        status.is_some_and(|own| own.msg != "restoring what an earlier agent left")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Kills the agent with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// Asks the agent to end, and returns its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut agent = self.agent.take().expect("an agent runs");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        agent.wait().unwrap().code()
    }

    /// Runs a second agent beside this one until it ends by itself; returns what it said.
    pub fn run_to_its_end(&self, change: impl FnOnce(&mut Command)) -> String {
        let mut command = self.command();
        change(&mut command);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(!child.wait().unwrap().success(), "it should have refused: {said}");
        said
    }

    /// Gives a pod addresses, a device and an endpoint.
    pub fn pod(&self, name: &str, labels: &[&str]) -> Pod {
        self.try_pod(name, labels).unwrap_or_else(|why| panic!("{why}\n{}", self.log()))
    }

    pub fn try_pod(&self, name: &str, labels: &[&str]) -> Result<Pod, ClientError> {
        let lent: IPAMResponse = self.client.call(
            "POST",
            &format!("/ipam?owner=default%2F{name}"),
            &[("expiration", "true")],
            None::<&()>,
        )?;
        let (net, device) = self.device(name, &lent);
        let change = self.change(name, &device, &net, &lent.address, labels);
        let path = format!("/endpoint/cni-attachment-id:{name}:eth0");
        let endpoint: Endpoint = self.client.call("PUT", &path, &[], Some(&change))?;
        let (ipv4, ipv6) = (&lent.address.ipv4, &lent.address.ipv6);
        Ok(Pod { net, name: name.into(), ipv4: ipv4.parse().unwrap(), ipv6: ipv6.parse().ok(), endpoint })
    }

    fn device(&self, name: &str, lent: &IPAMResponse) -> (Net, String) {
        let net = Net::new("cil-pod");
        let device = format!("lxc{name}");
        self.net.ip(&["link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns", &net.name]);
        self.net.ip(&["link", "set", &device, "up"]);
        net.ip(&["link", "set", "eth0", "up"]);
        for (ip, family) in [(&lent.ipv4, "-4"), (&lent.ipv6, "-6")] {
            let Some(given) = ip else { continue };
            let gateway = given.gateway.as_str();
            let length = if family == "-4" { "32" } else { "128" };
            let mut add = vec![family, "addr", "add"];
            let address = format!("{}/{length}", given.ip);
            add.extend([address.as_str(), "dev", "eth0"]);
            if family == "-6" {
                add.push("nodad");
            }
            net.ip(&add);
            net.ip(&[family, "route", "add", gateway, "dev", "eth0"]);
            net.ip(&[family, "route", "add", "default", "via", gateway, "dev", "eth0"]);
        }
        (net, device)
    }

    fn change(
        &self,
        name: &str,
        device: &str,
        net: &Net,
        address: &AddressPair,
        labels: &[&str],
    ) -> EndpointChangeRequest {
        let link = |net: &Net, device: &str| net.within(|| netlink::Netlink::open().unwrap().existing(device).unwrap());
        let (host, pod) = (link(&self.net, device), link(net, "eth0"));
        EndpointChangeRequest {
            container_id: name.into(),
            container_interface_name: "eth0".into(),
            interface_name: device.into(),
            interface_index: host.index.into(),
            mac: pod.mac.unwrap().to_string(),
            host_mac: host.mac.unwrap().to_string(),
            addressing: address.clone(),
            k8s_pod_name: name.into(),
            k8s_namespace: "default".into(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            state: EndpointState::WaitingForIdentity,
            sync_build_endpoint: true,
            ..EndpointChangeRequest::default()
        }
    }

    /// Writes a policy file the way an editor does.
    pub fn policy(&self, name: &str, text: &str) {
        let policies = self.dir.path().join("policies");
        fs::write(policies.join(".new"), text).unwrap();
        fs::rename(policies.join(".new"), policies.join(name)).unwrap();
    }

    /// The endpoint of a pod, as the agent shows it.
    pub fn endpoint(&self, pod: &Pod) -> Result<Endpoint, ClientError> {
        self.client.get(&format!("/endpoint/container-id:{}", pod.name))
    }

    /// Tries until it holds.
    pub fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < until, "not in time: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let bpf = self.dir.path().join("bpf");
        // Detach the programs, then the file system they are pinned in.
        let _gone = loader::remove_all(&bpf);
        let _gone = nix::mount::umount2(&bpf, nix::mount::MntFlags::MNT_DETACH);
    }
}

impl Pod {
    /// Listens on a port and answers each connection with its first byte, until the test ends.
    pub fn echo(&self, port: u16) {
        let listener = self.net.within(|| std::net::TcpListener::bind(("::", port)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    use std::io::Write;
                    let mut byte = [0; 16];
                    while let Ok(read @ 1..) = stream.read(&mut byte) {
                        if stream.write_all(&byte[..read]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }

    /// Whether a connection can be made within a second.
    pub fn reaches(&self, to: impl Into<SocketAddr>) -> bool {
        let to = to.into();
        self.net.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok())
    }
}
