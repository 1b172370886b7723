//! Loads every program of an object on its own, unpinned, with the verifier's figures: for budgets and for kernels under test.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use abi::maps::MapKind;
use aya_obj::{
    EbpfSectionKind, Object, ProgramSection,
    btf::BtfFeatures,
    generated::{bpf_attach_type, bpf_insn},
};

use crate::{
    datapath::{NODE_CONFIG, read_object},
    error::LoadError,
    maglev, sys,
    verifier::{Figures, Rejection},
};

/// Verifier figures only (`BPF_LOG_STATS`).
const LOG_STATS: u32 = 4;
/// Every instruction and the figures.
const LOG_ALL: u32 = 1 | LOG_STATS;

/// What became of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Its name.
    pub program: String,
    /// Instructions in the object file.
    pub object_insns: usize,
    /// The kernel's answer.
    pub outcome: Result<Loaded, Rejection>,
}

/// Figures of a program that loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The verifier's figures.
    pub figures: Figures,
    /// Bytes after the kernel rewrote it.
    pub xlated_bytes: u32,
    /// Bytes of machine code; 0: the JIT is off.
    pub jited_bytes: u32,
}

/// Loads each program of `object` with the given constants. Maps are made for the occasion, small, and vanish again.
pub fn inspect(object: &Path, node: &abi::config::NodeConfig) -> Result<Vec<Inspection>, LoadError> {
    crate::kernel::check()?;
    let bytes = read_object(object)?;
    let wrong = |problem: &dyn std::fmt::Display| LoadError::Object { problem: problem.to_string() };
    let mut obj = Object::parse(&bytes).map_err(|e| wrong(&e))?;
    let config = zerocopy::IntoBytes::as_bytes(node);
    obj.patch_map_data(HashMap::from([(NODE_CONFIG, (config, false))])).map_err(|e| wrong(&e))?;
    let maglev_size = if node.maglev_size == 0 { abi::lb::MAGLEV_SIZE_DEFAULT } else { node.maglev_size };
    let maps = make_maps(&obj, maglev_size)?;
    // The kernels that are supported know all of these.
    let features = BtfFeatures::new(true, true, true, true, true, true, true, true);
    let types = obj.fixup_and_sanitize_btf(&features).map_err(|e| wrong(&e))?.map(aya_obj::btf::Btf::to_bytes);
    let types = types.map(|types| sys::btf_load(&types)).transpose();
    let types = types.map_err(|e| wrong(&format!("the kernel does not take its types: {e}")))?;
    let text: std::collections::HashSet<usize> = obj.functions.keys().map(|(section, _)| *section).collect();
    let known: Vec<(String, aya_obj::Map)> = obj.maps.iter().map(|(n, m)| (n.clone(), m.clone())).collect();
    obj.relocate_maps(known.iter().map(|(n, m)| (n.as_str(), maps[n].as_raw_fd(), m)), &text).map_err(|e| wrong(&e))?;
    obj.relocate_calls(&text).map_err(|e| wrong(&e))?;
    let programs: BTreeMap<_, _> = obj.programs.iter().collect();
    programs
        .into_iter()
        .map(|(name, program)| {
            let function = &obj.functions[&program.function_key()];
            let insns: Vec<u8> = function.instructions.iter().flat_map(encode).collect();
            let info: Vec<[u32; 2]> =
                function.func_info.func_info.iter().map(|info| [info.insn_off, info.type_id]).collect();
            Ok(load(&sys::Code {
                name,
                kind: kind(&program.section),
                insns: &insns,
                license: &program.license,
                functions: types.as_ref().map(|types| sys::Functions { btf: types.as_fd(), info: &info }),
            }))
        })
        .collect()
}

/// How the kernel is told what a section's program is for.
fn kind(section: &ProgramSection) -> sys::ProgKind {
    match section {
        ProgramSection::CgroupSock { attach_type } => {
            sys::ProgKind { kind: sys::PROG_TYPE_CGROUP_SOCK, attach_type: bpf_attach_type::from(*attach_type) as u32 }
        }
        ProgramSection::CgroupSockAddr { attach_type } => sys::ProgKind {
            kind: sys::PROG_TYPE_CGROUP_SOCK_ADDR,
            attach_type: bpf_attach_type::from(*attach_type) as u32,
        },
        ProgramSection::Xdp { .. } => sys::ProgKind { kind: sys::PROG_TYPE_XDP, attach_type: 0 },
        _ => sys::ProgKind { kind: sys::PROG_TYPE_SCHED_CLS, attach_type: 0 },
    }
}

fn make_maps(obj: &Object, maglev_size: u32) -> Result<HashMap<String, OwnedFd>, LoadError> {
    let wrong = |problem: String| LoadError::Object { problem };
    let mut out = HashMap::new();
    for (name, map) in &obj.maps {
        let data = matches!(map.section_kind(), EbpfSectionKind::Rodata | EbpfSectionKind::Data | EbpfSectionKind::Bss);
        let ring = map.map_type() == sys::map_type(MapKind::RingBuf);
        let shape = sys::MapShape {
            kind: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: if ring { 1 << 16 } else { map.max_entries().min(64) },
            flags: map.map_flags(),
        };
        let made = if map.map_type() == sys::map_type(MapKind::HashOfMaps) {
            maglev::inner(maglev_size).and_then(|pattern| sys::map_of_maps_create(name, &shape, pattern.as_fd()))
        } else {
            sys::map_create(name, &shape)
        };
        let fd = made.map_err(|e| wrong(format!("the kernel did not make map {name}: {e}")))?;
        if data {
            sys::map_update(fd.as_fd(), &0_u32.to_ne_bytes(), map.data(), sys::ANY)
                .map_err(|e| wrong(format!("{name} could not be filled: {e}")))?;
        }
        if map.section_kind() == EbpfSectionKind::Rodata {
            sys::map_freeze(fd.as_fd()).map_err(|e| wrong(format!("{name} could not be frozen: {e}")))?;
        }
        out.insert(name.clone(), fd);
    }
    Ok(out)
}

fn load(code: &sys::Code<'_>) -> Inspection {
    let mut log = vec![0; 64 << 10];
    let outcome = match sys::prog_load(code, LOG_STATS, &mut log) {
        Ok(fd) => Ok(Loaded { figures: Figures::parse(&text(&log)), ..sizes(&fd) }),
        Err(_) => {
            let mut log = vec![0; 16 << 20];
            match sys::prog_load(code, LOG_ALL, &mut log) {
                Ok(fd) => Ok(Loaded { figures: Figures::parse(&text(&log)), ..sizes(&fd) }),
                Err(e) => Err(Rejection::parse(e.to_string(), &text(&log))),
            }
        }
    };
    Inspection { program: code.name.to_owned(), object_insns: code.insns.len() / 8, outcome }
}

fn sizes(fd: &OwnedFd) -> Loaded {
    let info = sys::prog_info_of(fd.as_fd());
    Loaded {
        figures: Figures::default(),
        xlated_bytes: info.as_ref().map_or(0, |i| i.xlated_len),
        jited_bytes: info.as_ref().map_or(0, |i| i.jited_len),
    }
}

/// An instruction as it lies in memory.
fn encode(insn: &bpf_insn) -> [u8; 8] {
    let [o0, o1] = insn.off.to_ne_bytes();
    let [i0, i1, i2, i3] = insn.imm.to_ne_bytes();
    [insn.code, insn.dst_reg() | insn.src_reg() << 4, o0, o1, i0, i1, i2, i3]
}

fn text(log: &[u8]) -> String {
    let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
    String::from_utf8_lossy(log.get(..end).unwrap_or_default()).into_owned()
}
