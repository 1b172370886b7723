//! The lab's handle on everything that runs: agent, pods, command lines.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netlink::Namespace;
use serde_json::{Value, json};

use super::place::Place;
use super::pod::Pod;
use super::report::breathe;
use super::{Programs, namespace, outside};

/// How long an agent may take to be well.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// One of the nodes.
#[derive(Debug)]
pub(super) struct Site {
    namespace: &'static str,
    /// Folder of what its agent keeps, in the lab's.
    folder: &'static str,
    devices: &'static str,
    addresses: [&'static str; 2],
    pods: [&'static str; 2],
}

/// The node.
const NODE: Site =
    Site { namespace: "node", folder: "", devices: "eth0,eth1", addresses: outside::NODE, pods: outside::PODS };
/// The other node.
pub(super) const FAR: Site =
    Site { namespace: "far", folder: "far", devices: "eth0,eth1", addresses: outside::FAR, pods: outside::FAR_PODS };

/// A lab that runs.
pub(super) struct Lab {
    pub(super) place: Place,
    programs: Programs,
    keep: bool,
    pub(super) restarts: u32,
    agent: Option<Child>,
    servers: Vec<Child>,
    pub(super) namespaces: BTreeMap<String, Namespace>,
    pub(super) pods: Vec<Pod>,
    /// The pod of the other node, once it is there.
    pub(super) far: Option<Pod>,
}

impl Lab {
    pub(super) fn new(place: Place, programs: Programs, keep: bool, restarts: u32) -> Self {
        let (namespaces, pods) = (BTreeMap::new(), Vec::new());
        Self { place, programs, keep, restarts, agent: None, servers: Vec::new(), namespaces, pods, far: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path_at(&NODE, name)
    }
    fn path_at(&self, site: &Site, name: &str) -> PathBuf {
        self.place.dir().join(site.folder).join(name)
    }
    fn bpf_root(&self, site: &Site) -> PathBuf {
        self.place.bpf_root().join(site.folder)
    }

    pub(super) fn is_kept(&self) -> bool {
        self.keep
    }

    /// Node, world, directories.
    pub(super) fn build(&mut self) -> Result<()> {
        for site in [&NODE, &FAR] {
            for dir in ["run", "lib", "policies"] {
                fs::create_dir_all(self.path_at(site, dir))?;
            }
            fs::create_dir_all(self.bpf_root(site)).context("is /sys/fs/bpf mounted? try `cargo xtask setup`")?;
        }
        let (node, world) = outside::build(&self.place)?;
        self.namespaces.insert("far".into(), outside::build_far(&self.place, &node, &world)?);
        self.namespaces.insert("node".into(), node);
        self.namespaces.insert("world".into(), world);
        self.serve("world")
    }

    pub(super) fn namespace(&self, name: &str) -> &Namespace {
        self.namespaces.get(name).expect("the lab makes every namespace before it is used")
    }
    pub(super) fn pod(&self, name: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.name == name).expect("the lab's own pods")
    }

    fn spawn(&mut self, command: &mut Command, inside: &str) -> Result<Child> {
        namespace::inside(command, &self.place.namespace(inside), !self.keep)?;
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        self.place.remember(child.id())?;
        Ok(child)
    }

    /// Starts the servers of one pod, or of the world.
    pub(super) fn serve(&mut self, name: &str) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["lab-serve", name]).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::options().create(true).append(true).open(self.path("servers.log"))?);
        let child = self.spawn(&mut command, name)?;
        self.servers.push(child);
        Ok(())
    }

    /// Starts the agent and waits until it says that it is well.
    pub(super) fn start_agent(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let child = self.spawn_agent(&NODE)?;
        self.agent = Some(child);
        loop {
            if let Some(status) = self.agent.as_mut().expect("just started").try_wait()? {
                self.agent = None;
                bail!("the agent ended: {status}");
            }
            if self.is_well(&NODE, began)? {
                return Ok(began.elapsed());
            }
        }
    }

    /// Starts the other node's agent, with a pod of its own.
    pub(super) fn start_far(&mut self, pod: Pod) -> Result<()> {
        let began = Instant::now();
        let child = self.spawn_agent(&FAR)?;
        self.servers.push(child);
        while !self.is_well(&FAR, began)? {}
        self.make_namespace(&pod)?;
        let (pod, _) = self.attach_at(&FAR, pod)?;
        self.serve(pod.name)?;
        self.far = Some(pod);
        Ok(())
    }

    /// Looks once whether an agent is well, after a moment.
    fn is_well(&self, site: &Site, began: Instant) -> Result<bool> {
        breathe()?;
        if began.elapsed() > START_PATIENCE {
            bail!("the agent is not well after {START_PATIENCE:?}");
        }
        let is_well = self.cilium_at(site, &["status", "--brief", "--timeout", "5"]).is_ok();
        if !is_well {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(is_well)
    }

    fn spawn_agent(&mut self, site: &Site) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.path_at(site, "agent.log"))?;
        let mut command = Command::new(&self.programs.agent);
        let mut flag = |name: &str, value: &str| {
            command.arg(format!("--{name}={value}"));
        };
        flag("state-dir", &self.path_at(site, "run").display().to_string());
        flag("lib-dir", &self.path_at(site, "lib").display().to_string());
        flag("bpf-root", &self.bpf_root(site).display().to_string());
        flag("bpf-object", &self.programs.object.display().to_string());
        flag("static-cnp-path", &self.path_at(site, "policies").display().to_string());
        flag("node-name", &format!("{}-{}", self.place.name(), site.namespace));
        flag("devices", site.devices);
        // Node ports are served where packets come in: in XDP, native where the driver can.
        flag("enable-node-port", "true");
        flag("bpf-lb-acceleration", "best-effort");
        // Services say themselves whether backends of other nodes answer clients directly.
        flag("bpf-lb-mode", "annotation");
        flag("ipv4-node", site.addresses[0]);
        flag("ipv6-node", site.addresses[1]);
        flag("ipv4-range", site.pods[0]);
        flag("ipv6-range", site.pods[1]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.spawn(&mut command, site.namespace)
    }

    /// `kill -9`.
    pub(super) fn kill_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("the agent does not run")?;
        agent.kill()?;
        agent.wait()?;
        Ok(())
    }

    /// Runs the plugin for a pod, as a container runtime would.
    pub(super) fn cni(&self, command: &str, pod: &Pod) -> Result<Value> {
        self.cni_at(&NODE, command, pod)
    }
    fn cni_at(&self, site: &Site, command: &str, pod: &Pod) -> Result<Value> {
        let node = self.place.namespace(site.namespace);
        let mut plugin = Command::new(&self.programs.plugin);
        let mut labels = vec![format!("k8s:io.kubernetes.pod.namespace={}", pod.namespace)];
        labels.extend(pod.labels.iter().map(|label| format!("k8s:{label}")));
        let conf = json!({"cniVersion": "1.1.0", "name": "cilium", "type": "cilium-cni",
                          "args": {"cilium": {"labels": labels}}});
        plugin
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", self.container_id(pod))
            .env("CNI_NETNS", namespace::path(&self.place.namespace(pod.name)))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={}", pod.namespace, pod.name))
            .env("CILIUM_SOCK", self.path_at(site, "run/cilium.sock"))
            .env("CILIUM_RUN_DIR", self.path_at(site, "run"))
            .env("CILIUM_CNI_PATIENCE", "2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        namespace::inside(&mut plugin, &node, true)?;
        let mut child = plugin.spawn().context("cannot start cilium-cni")?;
        child.stdin.take().expect("piped").write_all(conf.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("cilium-cni {command} for {}: {text}{}", pod.name, String::from_utf8_lossy(&output.stderr));
        }
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }

    /// Deletions that wait for an agent.
    pub(super) fn queued_deletions(&self) -> usize {
        let files = fs::read_dir(self.path("run/deleteQueue")).into_iter().flatten().flatten();
        files.filter(|file| file.file_name().to_str().is_some_and(|name| name.ends_with(".delete"))).count()
    }

    pub(super) fn container_id(&self, pod: &Pod) -> String {
        format!("{}-{}", self.place.name(), pod.name)
    }

    /// The namespace of a pod that is to be added.
    pub(super) fn make_namespace(&mut self, pod: &Pod) -> Result<()> {
        let name = self.place.namespace(pod.name);
        self.namespaces.insert(pod.name.to_owned(), namespace::make(&name)?);
        Ok(())
    }

    /// Has the plugin add a pod whose namespace exists; says how long that took.
    pub(super) fn attach(&self, pod: Pod) -> Result<(Pod, Duration)> {
        self.attach_at(&NODE, pod)
    }
    fn attach_at(&self, site: &Site, mut pod: Pod) -> Result<(Pod, Duration)> {
        let began = Instant::now();
        let result = self.cni_at(site, "ADD", &pod)?;
        let took = began.elapsed();
        let addresses = result["ips"].as_array().context("the result has no ips")?;
        let ip = |value: &Value| value["address"].as_str()?.split('/').next()?.parse::<IpAddr>().ok();
        pod.ips = addresses.iter().filter_map(ip).collect();
        pod.ips.sort_by_key(IpAddr::is_ipv6);
        if pod.ips.len() != 2 {
            bail!("{} should have an address of each family: {result}", pod.name);
        }
        Ok((pod, took))
    }

    /// Adds a pod through the plugin and starts its servers; says how long ADD took.
    pub(super) fn add(&mut self, pod: Pod) -> Result<Duration> {
        self.make_namespace(&pod)?;
        let (pod, took) = self.attach(pod)?;
        let name = pod.name;
        self.pods.push(pod);
        self.serve(name)?;
        Ok(took)
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
    pub(super) fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Child::id)
    }

    /// The command line of the agent; what it printed.
    pub(super) fn cilium(&self, args: &[&str]) -> Result<String> {
        self.cilium_at(&NODE, args)
    }
    fn cilium_at(&self, site: &Site, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.programs.cilium);
        command
            .env("CILIUM_SOCK", self.path_at(site, "run/cilium.sock"))
            .env("CILIUM_BPF_ROOT", self.bpf_root(site))
            .args(args);
        crate::shell::output(&mut command)
    }
    pub(super) fn cilium_json(&self, args: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.cilium(&[args, &["-o", "json"]].concat())?)?)
    }
    /// A command of the agent's command line that goes on until it is ended.
    pub(super) fn cilium_live(&self, args: &[&str]) -> Result<Child> {
        let mut command = Command::new(&self.programs.cilium);
        command
            .env("CILIUM_SOCK", self.path("run/cilium.sock"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command.spawn().context("cannot start cilium")
    }
    pub(super) fn hubble(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.programs.hubble);
        command.args(args).arg("--server").arg(format!("unix://{}", self.path("run/hubble.sock").display()));
        crate::shell::output(&mut command)
    }

    /// Puts a policy into the watched directory and waits until every endpoint enforces it.
    pub(super) fn apply(&self, file: &str, text: &str) -> Result<Duration> {
        let before = self.revision()?;
        let began = Instant::now();
        let path = self.path("policies").join(file);
        // Written aside and renamed, as an editor would: the agent never sees half of it.
        let aside = self.path(file);
        fs::write(&aside, text)?;
        fs::rename(&aside, &path)?;
        self.settle(before)?;
        Ok(began.elapsed())
    }
    /// Takes a policy out of the watched directory.
    pub(super) fn withdraw(&self, file: &str) -> Result<()> {
        let before = self.revision()?;
        fs::remove_file(self.path("policies").join(file))?;
        self.settle(before)
    }
    fn revision(&self) -> Result<i64> {
        self.cilium_json(&["policy", "get"])?["revision"].as_i64().context("policy get shows no revision")
    }
    /// Waits until the policy moved on from a revision and is enforced.
    pub(super) fn settle(&self, before: i64) -> Result<()> {
        let began = Instant::now();
        loop {
            breathe()?;
            let now = self.revision()?;
            if now > before {
                self.cilium(&["policy", "wait", &now.to_string(), "--max-wait-time", "10"])?;
                return Ok(());
            }
            if began.elapsed() > Duration::from_secs(10) {
                bail!("the agent did not take up the change within 10 s; its log says why");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    /// Writes a policy for importing through the command line.
    pub(super) fn draft(&self, file: &str, text: &str) -> Result<String> {
        let path = self.path(file);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }
    pub(super) fn policy_revision(&self) -> Result<i64> {
        self.revision()
    }

    /// The last lines of the agent's log, for whoever must find out what went wrong.
    pub(super) fn show_log_tail(&self) {
        let text = fs::read_to_string(self.path("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        println!("\nThe last lines of the agent's log:");
        for line in &lines[lines.len().saturating_sub(25)..] {
            println!("  {line}");
        }
    }

    pub(super) fn say_how_to_enter(&self) {
        let name = self.place.name();
        let sock = self.path("run/cilium.sock");
        let node = namespace::path(&self.place.namespace("frontend"));
        let bin = self.programs.cilium.parent().expect("a file has a folder");
        println!("\nThe lab is left running. To use it:");
        println!(
            "  export PATH={}:$PATH CILIUM_SOCK={} CILIUM_BPF_ROOT={}",
            bin.display(),
            sock.display(),
            self.place.bpf_root().display()
        );
        println!("  cilium status; cilium endpoint list; cilium service list; cilium bpf ct list");
        println!("  cilium monitor -t drop                         # and in another terminal:");
        println!("  nsenter --net={} bash                 # a shell in the pod frontend, and in it:", node.display());
        if let Some(ip) = self.pods.iter().find(|pod| pod.name == "backend-1").and_then(|pod| pod.ips.first()) {
            println!("    exec 3<>/dev/tcp/{ip}/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
        }
        let hubble = self.path("run/hubble.sock");
        println!("  hubble observe --follow --server unix://{}", hubble.display());
        println!(
            "  hubble-relay serve --peer-service unix://{} --disable-client-tls --disable-server-tls \\",
            hubble.display()
        );
        println!(
            "    --listen-address 127.0.0.1:4245 --health-listen-address 127.0.0.1:4222   # and in another terminal:"
        );
        println!("  hubble status --server 127.0.0.1:4245; hubble observe --last 20 --server 127.0.0.1:4245");
        println!(
            "  $EDITOR {}/my-policy.yaml      # policies take effect as they are saved",
            self.path("policies").display()
        );
        for pod in &self.pods {
            println!("    {:<10} {}", pod.name, pod.ips.iter().map(ToString::to_string).collect::<Vec<_>>().join("  "));
        }
        println!(
            "To take it down: cargo xtask lab --down{}",
            if name == "lab" { String::new() } else { format!(" --name {name}") }
        );
    }

    /// Ends and removes everything.
    pub(super) fn take_down(&mut self) {
        for mut child in self.agent.take().into_iter().chain(self.servers.drain(..)) {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.namespaces.clear();
        self.place.take_down();
    }
}

impl Drop for Lab {
    /// Also when a step panics.
    fn drop(&mut self) {
        if !self.keep {
            self.take_down();
        }
    }
}
