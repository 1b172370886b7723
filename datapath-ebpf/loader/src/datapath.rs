//! The loaded programs with their maps.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use abi::{
    config::{LB_DSR_GENEVE, LB_DSR_IPIP, LB_DSR_XLATE_BACKEND, NODE_HOST_ROUTING, NodeConfig},
    lb::MAGLEV_SIZE_DEFAULT,
    stage::{EARLY, Stage},
};
use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier},
};
use zerocopy::IntoBytes;

use crate::{
    attach::{
        AtHook, Attacher, Attachment, Direction, Hook, Interface, Outcome, PinnedLink, Site, attached, list_pins,
    },
    calls::{self, calls_directory},
    clock,
    error::{AttachError, LoadError, MapError, Missing, TestRunError},
    events::Events,
    kernel,
    maps::Maps,
    program::Program,
    schema::{self, Moved},
    sock::{self, SockAttached, SockError, SockProgram, sock_links_directory},
    sys,
    test_run::{self, SkBuff, TestRun, XdpRun},
    verifier::Rejection,
    xdp::{self, XdpAttachment, XdpChoice},
};

/// The program of a stage or of a hook, by the name it has in the object file.
fn names() -> impl Iterator<Item = &'static str> {
    Program::ALL.iter().map(|program| program.name()).chain(Stage::ALL.iter().map(|stage| stage.name()))
}

/// Name of the programs' read-only configuration.
pub(crate) const NODE_CONFIG: &str = "NODE_CONFIG";

/// Which kind of hook to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookChoice {
    /// TCX where the kernel has it, else clsact.
    #[default]
    Auto,
    /// This one, or fail.
    Only(Hook),
}

/// What to load, and where to keep it.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// The object file (`cargo xtask bpf` builds it).
    pub object: PathBuf,
    /// The BPF file system; mounted if it is not yet one. Default `/sys/fs/bpf`.
    pub bpffs: PathBuf,
    /// Number of entries by map name, where it should not be that of `abi::maps`.
    pub map_sizes: BTreeMap<String, u32>,
    /// Constants of the programs.
    pub node: NodeConfig,
    /// Which hook to use.
    pub hook: HookChoice,
    /// Whether to load the programs of control groups, for [`Datapath::attach_sockets`].
    pub sockets: bool,
}

impl LoaderConfig {
    /// Everything but the object file and the constants as usual.
    pub fn new(object: impl Into<PathBuf>, node: NodeConfig) -> Self {
        Self {
            object: object.into(),
            bpffs: PathBuf::from("/sys/fs/bpf"),
            map_sizes: BTreeMap::new(),
            node,
            hook: HookChoice::Auto,
            sockets: false,
        }
    }
}

/// Where maps are pinned under a BPF file system.
pub fn maps_directory(bpffs: &Path) -> PathBuf {
    bpffs.join("tc/globals")
}

/// Where links are pinned under a BPF file system.
pub fn links_directory(bpffs: &Path) -> PathBuf {
    bpffs.join("cilium/links")
}

/// The programs, loaded once, and their maps. Dropping it leaves everything attached and pinned.
#[derive(Debug)]
pub struct Datapath {
    /// aya needs it for filters and test runs; links need only the descriptors.
    ebpf: Mutex<Ebpf>,
    host_routing: bool,
    programs: BTreeMap<Program, OwnedFd>,
    /// The XDP program, or why there is none.
    xdp: Result<OwnedFd, LoadError>,
    sockets: BTreeMap<SockProgram, OwnedFd>,
    sock_links: PathBuf,
    maps: Arc<Maps>,
    moved: Mutex<Vec<Moved>>,
    attacher: Attacher,
    links: PathBuf,
    calls: PathBuf,
    /// Ids of the arrays in which these programs find their stages.
    generation: Vec<u32>,
}

impl Datapath {
    /// Prepares the pinned maps, loads every program, and removes pinned links of devices that are gone.
    ///
    /// Nothing that runs is disturbed: programs attached before keep running until [`Self::attach`] replaces them.
    /// Afterwards call [`Self::settle`].
    pub fn open(config: &LoaderConfig) -> Result<Self, LoadError> {
        kernel::check()?;
        let hook = choose_hook(config.hook)?;
        let object = read_object(&config.object)?;
        check_object(&object)?;
        kernel::ensure_bpffs(&config.bpffs)?;
        let (pins, links) = (maps_directory(&config.bpffs), links_directory(&config.bpffs));
        for path in [&pins, &links] {
            fs::create_dir_all(path).map_err(|source| LoadError::Directory { path: path.clone(), source })?;
        }
        refuse_contradictions(&config.node)?;
        let mut node = clock::with_ticks(config.node);
        if node.maglev_size == 0 {
            node.maglev_size = MAGLEV_SIZE_DEFAULT;
        }
        let prepared = schema::prepare(&pins, &config.map_sizes, node.maglev_size)?;
        let mut loaded = load(&object, &pins, &node);
        // No kernel that was tried (6.1, 6.12, 6.18) gives up on a stage. On one that does, packets between pods go through the
        // host's stack, where the other hook polices them.
        if too_large(&loaded) && node.flags & NODE_HOST_ROUTING != 0 {
            node.flags &= !NODE_HOST_ROUTING;
            loaded = load(&object, &pins, &node);
        }
        let mut ebpf = loaded?;
        let sockets = if config.sockets { sock::load_all(&mut ebpf)? } else { BTreeMap::new() };
        let programs = descriptors(&ebpf)?;
        let calls = calls_directory(&config.bpffs);
        let mut generation = vec![calls::establish(&mut ebpf, &calls)?];
        let xdp = load_xdp(&mut ebpf, &calls, &mut generation);
        let attacher = Attacher::new(hook, links.clone());
        Ok(Self {
            ebpf: Mutex::new(ebpf),
            host_routing: node.flags & NODE_HOST_ROUTING != 0,
            programs,
            xdp,
            sockets,
            sock_links: sock_links_directory(&config.bpffs),
            maps: Arc::new(prepared.maps),
            moved: Mutex::new(prepared.moved),
            attacher,
            links,
            calls,
            generation,
        })
    }

    /// The maps.
    pub fn maps(&self) -> &Arc<Maps> {
        &self.maps
    }

    /// The programs of the object file.
    pub fn programs(&self) -> impl Iterator<Item = Program> + '_ {
        self.programs.keys().copied()
    }

    /// Whether packets between pods of this node go past the host's stack: asked for, and this kernel's verifier bears it.
    pub fn host_routing(&self) -> bool {
        self.host_routing
    }

    /// The hook in use.
    pub fn hook(&self) -> Hook {
        self.attacher.hook()
    }

    /// Attaches a program, or puts it in place of the one an earlier agent left there, at one instant.
    ///
    /// With TCX a first attachment waits for the kernel (two ticks of its clock or more, during which other changes to
    /// devices wait too); see [`Self::attach_soon`].
    pub fn attach(
        &self,
        program: Program,
        interface: &Interface,
        direction: Direction,
    ) -> Result<Attachment, AttachError> {
        let site = Site { program, interface, direction };
        match self.hook() {
            Hook::Tcx => self.attacher.attach_link(self.descriptor(program)?, &site),
            Hook::Clsact => self.attach_filter(&site),
        }
    }

    /// Attaches without that wait: where no link is there to be replaced, the program runs as a filter at once
    /// ([`Outcome::Provisional`]) until [`Self::attach`], called when there is time, makes the link and removes the
    /// filter. At no instant does the program run twice on a packet, or not at all.
    pub fn attach_soon(
        &self,
        program: Program,
        interface: &Interface,
        direction: Direction,
    ) -> Result<Attachment, AttachError> {
        let site = Site { program, interface, direction };
        if self.hook() == Hook::Clsact {
            return self.attach_filter(&site);
        }
        if let Some(replaced) = self.attacher.replace_link(self.descriptor(program)?, &site)? {
            return Ok(replaced);
        }
        match self.attach_filter(&site) {
            Ok(attachment) => Ok(Attachment { outcome: Outcome::Provisional, ..attachment }),
            // A kernel without clsact has TCX: it takes its time.
            Err(_) => self.attach(program, interface, direction),
        }
    }

    fn attach_filter(&self, site: &Site<'_>) -> Result<Attachment, AttachError> {
        let mut ebpf = self.ebpf();
        let classifier =
            classifier(&mut ebpf, site.program.name()).ok_or(AttachError::Absent { program: site.program })?;
        self.attacher.attach_filter(classifier, site)
    }

    fn descriptor(&self, program: Program) -> Result<BorrowedFd<'_>, AttachError> {
        self.programs.get(&program).map(AsFd::as_fd).ok_or(AttachError::Absent { program })
    }

    /// Nothing in here is left half-changed by a panic, so a poisoned lock is as good as another.
    fn ebpf(&self) -> MutexGuard<'_, Ebpf> {
        self.ebpf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches the XDP program, or puts it in place of the one an earlier agent left there, at one instant.
    pub fn attach_xdp(&self, interface: &Interface, choice: XdpChoice) -> Result<XdpAttachment, AttachError> {
        match &self.xdp {
            Ok(program) => xdp::attach(program.as_fd(), &self.links, interface, choice),
            Err(why) => Err(AttachError::NoXdp { device: interface.name.clone(), why: why.to_string() }),
        }
    }

    /// Detaches the XDP program; says whether it was attached.
    pub fn detach_xdp(&self, interface: &Interface) -> Result<bool, AttachError> {
        xdp::detach(&self.links, interface)
    }

    /// Attaches the socket programs to a control group (version 2), each in place of what an earlier agent left there. From then
    /// on sockets that are made in the group or below it name services by themselves.
    pub fn attach_sockets(&self, cgroup: &Path) -> Result<SockAttached, SockError> {
        if self.sockets.is_empty() {
            return Err(SockError::NotLoaded);
        }
        sock::attach_all(&self.sock_links, cgroup, |which| self.sockets.get(&which).map(AsFd::as_fd))
    }

    /// Detaches the socket programs, wherever they are attached; returns how many were.
    pub fn detach_sockets(&self) -> Result<usize, SockError> {
        sock::detach_all(&self.sock_links)
    }

    /// Detaches a program; says whether it was attached.
    pub fn detach(&self, program: Program, interface: &Interface, direction: Direction) -> Result<bool, AttachError> {
        self.attacher.detach(program, interface, direction)
    }

    /// The programs at one side of a device, ours and others', in the order in which they run. TCX only.
    pub fn attached(&self, interface: &Interface, direction: Direction) -> Result<Vec<AtHook>, AttachError> {
        attached(interface, direction)
    }

    /// All pinned links.
    pub fn links(&self) -> Result<Vec<PinnedLink>, AttachError> {
        list_pins(&self.links)
    }

    /// Removes pinned links of devices that are gone; returns their pins.
    pub fn remove_stale_links(&self) -> Result<Vec<PathBuf>, AttachError> {
        self.attacher.remove_stale()
    }

    /// Once every device has the new programs: copies what the old ones still wrote into maps that were replaced
    /// because their size changed, and lets go of the stages of generations whose programs are at no device any more.
    /// Returns how many entries.
    pub fn settle(&self) -> Result<usize, MapError> {
        calls::retire(&self.calls, &self.generation)?;
        let mut copied = 0;
        let mut all = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        for moved in all.iter() {
            copied += moved.settle()?;
        }
        all.clear();
        Ok(copied)
    }

    /// Names of maps that were moved into others of a new size by [`Self::open`].
    pub fn resized(&self) -> Vec<&'static str> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Moved::name).collect()
    }

    /// A reader of the event ring.
    pub fn events(&self) -> Result<Events, MapError> {
        Events::open_pinned(self.maps.directory())
    }

    /// Runs a program on one packet, `repeat` times in a row.
    pub fn test_run(
        &self,
        program: Program,
        packet: &[u8],
        ctx: &SkBuff,
        repeat: u32,
    ) -> Result<TestRun, TestRunError> {
        match self.ebpf().program(program.name()) {
            Some(aya::programs::Program::SchedClassifier(classifier)) => {
                test_run::run(classifier, program, packet, ctx, repeat)
            }
            _ => Err(TestRunError::Absent { program }),
        }
    }

    /// Runs the XDP program on one packet that came in at `ifindex` (an index in this network namespace), `repeat` times.
    pub fn test_run_xdp(&self, packet: &[u8], ifindex: u32, repeat: u32) -> Result<XdpRun, TestRunError> {
        match self.ebpf().program(xdp::XDP_ENTRY) {
            Some(aya::programs::Program::Xdp(program)) => test_run::run_xdp(program, packet, ifindex, repeat),
            _ => Err(TestRunError::NoXdp),
        }
    }

    /// The kernel's id of the XDP program, if it is loaded.
    pub fn xdp_id(&self) -> Option<u32> {
        sys::prog_info_of(self.xdp.as_ref().ok()?.as_fd()).ok().map(|info| info.id)
    }

    /// What the kernel says of each loaded program.
    pub fn load_stats(&self) -> Vec<LoadStats> {
        let stats = |(program, fd): (&Program, &OwnedFd)| {
            let info = sys::prog_info_of(fd.as_fd()).ok()?;
            Some(LoadStats {
                program: *program,
                id: info.id,
                verified_insns: info.verified_insns,
                xlated_bytes: info.xlated_len,
                jited_bytes: info.jited_len,
            })
        };
        self.programs.iter().filter_map(stats).collect()
    }
}

/// The kernel's figures of a loaded program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadStats {
    /// Which program.
    pub program: Program,
    /// The kernel's id.
    pub id: u32,
    /// Instructions the verifier walked.
    pub verified_insns: u32,
    /// Bytes after the kernel rewrote it.
    pub xlated_bytes: u32,
    /// Bytes of machine code; 0: the JIT is off.
    pub jited_bytes: u32,
}

/// Removes every pin of ours under a BPF file system: programs detach, maps and what they hold vanish.
pub fn remove_all(bpffs: &Path) -> Result<(), AttachError> {
    let removed = |path: &Path, result: std::io::Result<()>| match result {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(AttachError::Pins { step: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    };
    for links in [sock_links_directory(bpffs), links_directory(bpffs)] {
        removed(&links, fs::remove_dir_all(&links))?;
    }
    let calls = calls_directory(bpffs);
    removed(&calls, calls::remove_all(&calls))?;
    for path in schema::pinned(&maps_directory(bpffs)) {
        removed(&path, fs::remove_file(&path))?;
    }
    Ok(())
}

/// Refuses constants of which the programs could only obey a part.
fn refuse_contradictions(node: &NodeConfig) -> Result<(), LoadError> {
    let has = |flag: u32| node.lb_flags & flag != 0;
    let problem = if has(LB_DSR_GENEVE) && has(LB_DSR_IPIP) {
        "DSR by Geneve and by IPIP at once"
    } else if has(LB_DSR_GENEVE) && node.geneve_port.raw == 0 {
        "DSR by Geneve without a port for it (geneve_port is 0)"
    } else if has(LB_DSR_XLATE_BACKEND) && !has(LB_DSR_IPIP) {
        "the backend's port in packets by IPIP (LB_DSR_XLATE_BACKEND), but no DSR by IPIP"
    } else {
        return Ok(());
    };
    Err(LoadError::Contradiction { problem })
}

fn choose_hook(choice: HookChoice) -> Result<Hook, Missing> {
    let tcx = kernel::has_tcx();
    match choice {
        HookChoice::Auto => Ok(if tcx { Hook::Tcx } else { Hook::Clsact }),
        HookChoice::Only(Hook::Tcx) if !tcx => Err(Missing::Tcx { release: sys::kernel_release() }),
        HookChoice::Only(hook) => Ok(hook),
    }
}

pub(crate) fn read_object(path: &Path) -> Result<Vec<u8>, LoadError> {
    fs::read(path).map_err(|source| LoadError::ObjectFile { path: path.to_owned(), source })
}

/// Compares the object's maps with those of `abi`, so that an object of another version is refused before it runs.
fn check_object(bytes: &[u8]) -> Result<(), LoadError> {
    let wrong = |problem: String| LoadError::Object { problem };
    let object = aya_obj::Object::parse(bytes).map_err(|e| wrong(e.to_string()))?;
    for spec in abi::maps::ALL {
        let Some(map) = object.maps.get(spec.name) else { continue };
        let info = sys::MapInfo {
            kind: map.map_type(),
            id: 0,
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: map.max_entries(),
            flags: 0,
        };
        schema::shape(spec, &info).map_err(|mismatch| wrong(format!("map {}: {mismatch}", spec.name)))?;
    }
    if Program::ALL.into_iter().any(|program| object.programs.contains_key(program.name())) {
        return Ok(());
    }
    Err(wrong(format!("there is no program of ours in it, such as {}", Program::FromContainer)))
}

fn load(object: &[u8], pins: &Path, node: &NodeConfig) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    loader.override_global(NODE_CONFIG, node.as_bytes(), true);
    for spec in abi::maps::ALL {
        loader.map_pin_path(spec.name, pins.join(spec.name));
    }
    let mut ebpf = loader
        .load(object)
        .map_err(|source| LoadError::Aya { step: "the object file".to_owned(), source: Box::new(source) })?;
    for program in names() {
        let Some(classifier) = classifier(&mut ebpf, program) else { continue };
        patiently(program, || classifier.load())?;
    }
    Ok(ebpf)
}

/// Loads a program. The verifier stops when a signal waits for this thread, and says "try again".
fn patiently(program: &str, mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), LoadError> {
    let mut loaded = load();
    for _ in 0..LOAD_ATTEMPTS {
        match &loaded {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.raw_os_error() == Some(libc::EAGAIN) => {
                loaded = load();
            }
            _ => break,
        }
    }
    loaded.map_err(|error| match error {
        ProgramError::LoadError { io_error, verifier_log } => LoadError::Rejected {
            program: program.to_string(),
            rejection: Box::new(Rejection::parse(io_error.to_string(), &verifier_log.to_string())),
        },
        other => LoadError::Aya { step: program.to_string(), source: Box::new(other.into()) },
    })
}

/// How often a program is loaded again after the verifier was interrupted (as libbpf does).
const LOAD_ATTEMPTS: u32 = 5;

/// Whether the verifier gave up because of the number of instructions it walked.
fn too_large(loaded: &Result<Ebpf, LoadError>) -> bool {
    matches!(loaded, Err(LoadError::Rejected { rejection, .. }) if rejection.error.contains("too large"))
}

/// Descriptors of the loaded programs.
fn descriptors(ebpf: &Ebpf) -> Result<BTreeMap<Program, OwnedFd>, LoadError> {
    let mut out = BTreeMap::new();
    for program in Program::ALL {
        let Some(aya::programs::Program::SchedClassifier(classifier)) = ebpf.program(program.name()) else { continue };
        let failed =
            |source: ProgramError| LoadError::Aya { step: program.to_string(), source: Box::new(source.into()) };
        let fd = classifier.fd().map_err(failed)?.as_fd().try_clone_to_owned().map_err(|e| failed(e.into()))?;
        out.insert(program, fd);
    }
    Ok(out)
}

/// Loads the XDP program and its stages. It only makes faster what tc does as well, so a kernel that refuses it is no reason to
/// go without the rest: [`Datapath::attach_xdp`] says why it is not there.
fn load_xdp(ebpf: &mut Ebpf, calls: &Path, generation: &mut Vec<u32>) -> Result<OwnedFd, LoadError> {
    for name in EARLY.iter().map(|(_, name)| *name).chain([xdp::XDP_ENTRY]) {
        let Some(aya::programs::Program::Xdp(program)) = ebpf.program_mut(name) else {
            return Err(LoadError::Object { problem: format!("the program {name} is not in it") });
        };
        patiently(name, || program.load())?;
    }
    generation.push(calls::establish_early(ebpf, calls)?);
    let Some(aya::programs::Program::Xdp(program)) = ebpf.program(xdp::XDP_ENTRY) else {
        return Err(LoadError::Object { problem: format!("the program {} is not in it", xdp::XDP_ENTRY) });
    };
    let failed =
        |source: ProgramError| LoadError::Aya { step: xdp::XDP_ENTRY.to_owned(), source: Box::new(source.into()) };
    program.fd().map_err(failed)?.as_fd().try_clone_to_owned().map_err(|e| failed(e.into()))
}

fn classifier<'a>(ebpf: &'a mut Ebpf, program: &str) -> Option<&'a mut SchedClassifier> {
    match ebpf.program_mut(program) {
        Some(aya::programs::Program::SchedClassifier(classifier)) => Some(classifier),
        _ => None,
    }
}
