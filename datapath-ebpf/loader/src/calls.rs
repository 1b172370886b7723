//! The arrays in which programs find the stages they go on in, one of tc and one of XDP for each load of the programs (a
//! generation).
//!
//! The kernel empties an array of programs when user space lets go of it, whoever still calls through it. So each is
//! pinned, as `<bpffs>/cilium/calls/<id of the array>`, and filled before any of its programs is attached: a packet that entered
//! by a program of one generation finds the whole of that generation, also while another takes over device by
//! device, and also while no agent runs. The pin of a generation goes when no program that could be entered
//! calls through it, and no packet is under way in one.

use std::{
    fs,
    io::{self, ErrorKind},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use abi::stage::{EARLY, Stage};
use aya::{Ebpf, maps::ProgramArray, programs::Program as AyaProgram};

use crate::{
    error::{LoadError, MapError},
    program::Program,
    sys,
    xdp::XDP_ENTRY,
};

/// The array's name in the object file.
pub(crate) const CALLS: &str = "cilium_calls";
/// That of the array of XDP.
pub(crate) const CALLS_XDP: &str = "cilium_calls_xdp";

/// Where arrays of programs are pinned under a BPF file system.
pub fn calls_directory(bpffs: &Path) -> PathBuf {
    bpffs.join("cilium/calls")
}

/// Puts every stage's program, which must be loaded, into the array of tc, and pins that. Returns the array's id.
pub(crate) fn establish(ebpf: &mut Ebpf, directory: &Path) -> Result<u32, LoadError> {
    let stages: Vec<_> = Stage::ALL.iter().map(|stage| (*stage, stage.name())).collect();
    fill(ebpf, directory, CALLS, &stages)
}

/// The same for the array of XDP.
pub(crate) fn establish_early(ebpf: &mut Ebpf, directory: &Path) -> Result<u32, LoadError> {
    fill(ebpf, directory, CALLS_XDP, &EARLY)
}

fn fill(ebpf: &mut Ebpf, directory: &Path, name: &str, stages: &[(Stage, &str)]) -> Result<u32, LoadError> {
    let aya = |step: String| move |source: aya::EbpfError| LoadError::Aya { step, source: Box::new(source) };
    let mut programs = Vec::new();
    for (stage, program) in stages {
        let fd = match ebpf.program(program) {
            Some(AyaProgram::SchedClassifier(program)) => program.fd(),
            Some(AyaProgram::Xdp(program)) => program.fd(),
            _ => return Err(LoadError::Object { problem: format!("the program {program} is not in it") }),
        };
        let fd = fd.and_then(|fd| Ok(fd.try_clone()?));
        programs.push((*stage, fd.map_err(|e| aya((*program).to_owned())(e.into()))?));
    }
    let Some(map) = ebpf.map_mut(name) else {
        return Err(LoadError::Object { problem: format!("the map {name} is not in it") });
    };
    let mut array = ProgramArray::try_from(map).map_err(|e| aya(name.to_owned())(e.into()))?;
    for (stage, program) in &programs {
        array.set(*stage as u32, program, 0).map_err(|e| aya(format!("{} into {name}", stage.name()))(e.into()))?;
    }
    let fd = descriptor(ebpf, name)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| LoadError::Directory { path, source }
    };
    let id = sys::map_info(fd).map_err(failed(directory))?.id;
    let path = directory.join(id.to_string());
    fs::create_dir_all(directory).map_err(failed(directory))?;
    // A number that was in use before the machine's BPF file system was last unmounted, or never.
    remove(&path).map_err(failed(&path))?;
    sys::pin(fd, &path).map_err(failed(&path))?;
    Ok(id)
}

fn descriptor<'a>(ebpf: &'a Ebpf, name: &str) -> Result<BorrowedFd<'a>, LoadError> {
    match ebpf.map(name) {
        Some(aya::maps::Map::ProgramArray(map)) => Ok(map.fd().as_fd()),
        _ => Err(LoadError::Object { problem: format!("the map {name} is not an array of programs") }),
    }
}

/// Removes the pins of generations, other than `ours`, by whose programs no packet can come in any more. Returns how many.
pub(crate) fn retire(directory: &Path, ours: &[u32]) -> Result<usize, MapError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| MapError::Pin { path, source }
    };
    let pinned = pinned(directory).map_err(failed(directory))?;
    let mut old: Vec<(u32, PathBuf)> = pinned.into_iter().filter(|(id, _)| !ours.contains(id)).collect();
    if old.is_empty() {
        return Ok(0);
    }
    let used = match in_use() {
        // Without CAP_SYS_ADMIN nobody may look through the programs: what may be in use stays.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => return Ok(0),
        other => other.map_err(failed(directory))?,
    };
    old.retain(|(id, _)| !used.contains(id));
    if !old.is_empty() {
        // A packet may still be on its way between two programs that were replaced a moment ago.
        sys::wait_for_packets_under_way();
    }
    for (_, path) in &old {
        remove(path).map_err(failed(path))?;
    }
    Ok(old.len())
}

/// Removes all pins.
pub(crate) fn remove_all(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The pinned arrays by id. What is not named by a number is nobody's of ours.
fn pinned(directory: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut out = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        out.extend(id.map(|id| (id, path)));
    }
    Ok(out)
}

/// Ids of all maps used by a program that can be entered (attached, or held by a process).
fn in_use() -> io::Result<Vec<u32>> {
    let mut used = Vec::new();
    let mut last = 0;
    while let Some(id) = sys::prog_next_id(last)? {
        last = id;
        match sys::prog_maps(id) {
            Ok((name, maps)) => {
                let hooks = Program::ALL.iter().map(|program| program.kernel_name()).chain([XDP_ENTRY]);
                if hooks.into_iter().any(|hook| hook.as_bytes() == name) {
                    used.extend(maps);
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {} // It went in the meantime.
            Err(e) => return Err(e),
        }
    }
    Ok(used)
}
