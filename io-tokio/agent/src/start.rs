//! Getting ready: everything that must be there before the first effect is carried out.
//!
//! Order matters for a restart. What can refuse comes first, before anything is touched. Then what an earlier agent left
//! is read. Programs are loaded but not attached: those of the earlier agent go on with the maps as they are until the
//! core has compared what they hold with what it wants.

use std::path::PathBuf;
use std::sync::Arc;

use agent_core::{Failure, Snapshot};
use kvstore::{Embedded, OpenError};
use loader::{AttachError, Datapath, LoadError, LoaderConfig, MapError, Missing};
use netlink::host::{HostConfig, HostError};
use netlink::{Netlink, NetlinkError};
use types::MacAddr;

use crate::config::{Settings, SettingsError};
use crate::delete_queue::{DeleteQueue, QueueError};
use crate::host::Host;
use crate::options::Options;
use crate::policy_dir::{Watch, WatchError};
use crate::process::{PidError, PidFile};
use crate::sinks::{SinkError, Sinks};
use crate::state::{StateDir, StateError};

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each says itself")]
pub enum StartError {
    #[error("this host cannot run the agent: {0}")]
    Missing(#[from] Missing),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Pid(#[from] PidError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("loading the programs {}: {source}", object.display())]
    Load { object: PathBuf, source: LoadError },
    #[error(transparent)]
    Maps(#[from] MapError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Namespace(#[from] netlink::NamespaceError),
    #[error(transparent)]
    Sockets(#[from] loader::SockError),
    #[error(transparent)]
    Policies(#[from] WatchError),
    #[error(transparent)]
    Sinks(#[from] SinkError),
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    #[error("cannot read /dev/urandom: {0}")]
    Random(std::io::Error),
}

/// Everything that is ready.
#[derive(Debug)]
pub struct Started {
    /// How the agent is to be.
    pub settings: Arc<Settings>,
    /// Keeps a second agent out.
    pub pid: PidFile,
    /// Keeps CNI plugins from queueing while the agent looks.
    pub queue: DeleteQueue,
    /// State files.
    pub state: StateDir,
    /// The store, with its events.
    pub store: (Embedded, kvstore::Events),
    /// Metrics, exports and history of flows.
    pub sinks: Arc<Sinks>,
    /// Programs and maps.
    pub datapath: Arc<Datapath>,
    /// The watched policies.
    pub policies: Option<Watch>,
    /// The watched services.
    pub services: Option<Watch>,
    /// What an earlier agent left.
    pub snapshot: Snapshot,
}

/// Gets ready. Needs a tokio runtime; blocks while the kernel verifies programs.
///
/// # Errors
/// See [`StartError`].
pub fn start(options: &Options) -> Result<Started, StartError> {
    loader::check_kernel()?;
    let mut netlink = Netlink::open()?;
    let host = Host::read(&mut netlink)?;
    let mut settings = Settings::new(options, &host, random()?)?;
    let places = settings.places.clone();
    let pid = PidFile::take(&places.pid)?;
    let queue = DeleteQueue::lock(&places.delete_queue)?;
    let state = StateDir::open(&places.state)?;
    let files = state.read()?;
    let mut store = kvstore::Config::new(&places.store, settings.agent.node_name.to_string());
    store.lease_ttl = settings.lease_ttl;
    let store = Embedded::open(&store)?;
    let (policies, policy_files) = match &settings.policy_dir {
        Some(dir) => {
            let (watch, files) = Watch::begin("static-cnp-path", dir)?;
            (Some(watch), Some(files))
        }
        None => (None, None),
    };
    let (services, service_files) = match &settings.service_dir {
        Some(dir) => {
            let (watch, files) = Watch::begin("static-service-path", dir)?;
            (Some(watch), Some(files))
        }
        None => (None, None),
    };
    let sinks = match &settings.hubble {
        Some(_) => Sinks::open(&settings.sinks, &settings.observer().node())?,
        None => Sinks::default(),
    };
    devices(&mut netlink, &mut settings)?;
    let datapath = load(&settings)?;
    let maps = bpf::dump(datapath.maps())?;
    let links = netlink.links()?.into_iter().map(|link| (link.index, link.name.into())).collect();
    tracing::info!(
        files = files.len(),
        entries = maps.len(),
        policies = policy_files.as_ref().map_or(0, |files| files.changes.len()),
        services = service_files.as_ref().map_or(0, |files| files.changes.len()),
        "read what was there"
    );
    let snapshot = Snapshot { files, maps, links, policy_files, service_files };
    Ok(Started {
        settings: Arc::new(settings),
        pid,
        queue,
        state,
        store,
        sinks: Arc::new(sinks),
        datapath: Arc::new(datapath),
        policies,
        services,
        snapshot,
    })
}

/// Makes `cilium_host` what it should be and fills its numbers in.
fn devices(netlink: &mut Netlink, settings: &mut Settings) -> Result<(), StartError> {
    let devices = netlink::host::ensure(
        netlink,
        &HostConfig {
            router: settings.routers(),
            pods: settings.pod_ranges(),
            mtu: settings.mtu,
            macs: [mac()?, mac()?],
        },
    )?;
    settings.node.host_ifindex = devices.host.index;
    settings.node.net_ifindex = devices.net.index;
    let MacAddr(bytes) = devices.host.mac.unwrap_or_default();
    settings.node.host_mac[..6].copy_from_slice(&bytes);
    if let Some(name) = &settings.direct_routing_device {
        settings.node.direct_routing_ifindex = loader::Interface::by_name(name)?.index;
    }
    settings.node.seed = seed(&settings.agent.node_name);
    let cookie = netlink::Namespace::current().and_then(|host| host.cookie())?;
    settings.node.host_netns_cookie = [cookie as u32, (cookie >> 32) as u32];
    Ok(())
}

fn load(settings: &Settings) -> Result<Datapath, StartError> {
    let places = &settings.places;
    let mut config = LoaderConfig::new(&places.object, settings.node);
    config.bpffs.clone_from(&places.bpffs);
    config.map_sizes.clone_from(&settings.map_sizes);
    config.sockets = settings.sockets.cgroup.is_some();
    let began = std::time::Instant::now();
    let datapath =
        Datapath::open(&config).map_err(|source| StartError::Load { object: places.object.clone(), source })?;
    for stats in datapath.load_stats() {
        tracing::debug!(program = %stats.program, verified = stats.verified_insns, "program loaded");
    }
    let resized = datapath.resized();
    tracing::info!(took = ?began.elapsed(), hook = ?datapath.hook(), ?resized, "programs loaded");
    give_back();
    Ok(datapath)
}

/// Gives back the memory that loading took: the C library would keep some 20 MB of it for as long as the agent lives.
fn give_back() {
    // SAFETY: no pointers are taken; any thread may call it at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

fn random() -> Result<u64, StartError> {
    use std::io::Read;
    let mut bytes = [0; 8];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(StartError::Random)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// A random address that is nobody's: locally administered, unicast.
fn mac() -> Result<MacAddr, StartError> {
    let [a, b, c, d, e, f, ..] = random()?.to_ne_bytes();
    Ok(MacAddr([(a & 0xfc) | 0x02, b, c, d, e, f]))
}

/// The same for each life of a node: what the programs choose by hash stays chosen over a restart.
fn seed(node: &str) -> u32 {
    node.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A failure for the core, in words.
pub fn failure(why: impl std::fmt::Display) -> Failure {
    Failure { message: why.to_string().into() }
}
