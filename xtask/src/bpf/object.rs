//! What is in a BPF object: its programs, their stack, and calls that must not be there.
//!
//! Read from the ELF file alone. Calls to `mem*` and to arithmetic helpers of the compiler's runtime become slow byte
//! loops, a panic path means an unchecked index: each is a mistake in the source that shows nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolKind};

const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;
const LOAD_64: u8 = 0x18;
const FRAME: u8 = 10;

/// One function of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Function {
    name: String,
    section: SectionIndex,
    start: u64,
    end: u64,
}

/// What [`inspect`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Contents {
    /// Program name to the stack of its deepest chain of calls, in bytes.
    pub programs: BTreeMap<String, u32>,
    /// `caller calls callee` for every forbidden call.
    pub forbidden: Vec<String>,
}

/// Reads the object's programs and calls.
pub fn inspect(bytes: &[u8]) -> Result<Contents> {
    let elf = object::File::parse(bytes).context("the BPF object is not an ELF file")?;
    let functions = functions(&elf)?;
    let mut calls: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut frames: BTreeMap<&str, u32> = BTreeMap::new();
    for function in &functions {
        let section = elf.section_by_index(function.section)?;
        let data = section.data()?;
        let code = usize::try_from(function.start)
            .ok()
            .zip(usize::try_from(function.end).ok())
            .and_then(|(start, end)| data.get(start..end))
            .with_context(|| format!("`{}` reaches beyond its section", function.name))?;
        frames.insert(&function.name, frame_size(code));
        calls.insert(&function.name, callees(&elf, &section, function, code, &functions)?);
    }
    let mut contents = Contents { programs: BTreeMap::new(), forbidden: Vec::new() };
    for function in &functions {
        let section = elf.section_by_index(function.section)?;
        if section.name()? != ".text" {
            let stack = deepest(&function.name, &calls, &frames, 0)?;
            contents.programs.insert(function.name.clone(), stack);
        }
        for callee in calls[function.name.as_str()].iter().filter(|callee| is_forbidden(callee)) {
            if !is_forbidden(&function.name) {
                contents.forbidden.push(format!("{} calls {callee}", function.name));
            }
        }
    }
    Ok(contents)
}

/// Compiler runtime, memory loops and panics.
fn is_forbidden(name: &str) -> bool {
    let memory = ["memcpy", "memmove", "memset", "memcmp", "bcmp", "strlen"].contains(&name);
    // __multi3, __udivti3, __ashlti3, __divdi3 and their like.
    let runtime = name.starts_with("__") && ["i2", "i3", "i4", "f2", "f3"].iter().any(|end| name.ends_with(end));
    memory || runtime || name.contains("panic")
}

fn functions(elf: &object::File<'_>) -> Result<Vec<Function>> {
    let mut found = Vec::new();
    for symbol in elf.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition()) {
        let Some(section) = symbol.section_index() else { continue };
        let (start, size) = (symbol.address(), symbol.size());
        found.push(Function { name: symbol.name()?.to_owned(), section, start, end: start + size });
    }
    Ok(found)
}

fn instructions(code: &[u8]) -> impl Iterator<Item = (u64, &[u8; 8])> {
    let mut second_half = false;
    code.as_chunks::<8>().0.iter().zip(0u64..).filter_map(move |(insn, index)| {
        let is_half = second_half;
        second_half = insn[0] == LOAD_64 && !is_half;
        (!is_half).then_some((index * 8, insn))
    })
}

fn callees(
    elf: &object::File<'_>,
    section: &object::Section<'_, '_>,
    function: &Function,
    code: &[u8],
    functions: &[Function],
) -> Result<BTreeSet<String>> {
    let relocations: BTreeMap<u64, RelocationTarget> =
        section.relocations().map(|(offset, relocation)| (offset, relocation.target())).collect();
    let at = |section: SectionIndex, address: u64| {
        functions.iter().find(|f| f.section == section && f.start == address).map(|f| f.name.clone())
    };
    let mut found = BTreeSet::new();
    for (offset, insn) in instructions(code) {
        if insn[0] != CALL {
            continue;
        }
        let here = function.start + offset;
        let imm = i64::from(i32::from_le_bytes([insn[4], insn[5], insn[6], insn[7]]));
        let in_bytes = |base: i64| u64::try_from((base + 1) * 8).ok();
        let name = match relocations.get(&here) {
            Some(RelocationTarget::Symbol(index)) => {
                let symbol = elf.symbol_by_index(*index)?;
                if symbol.kind() == SymbolKind::Section {
                    // The target's place in that section stands in the instruction, counted in instructions less one.
                    symbol.section_index().zip(in_bytes(imm)).and_then(|(section, address)| at(section, address))
                } else {
                    Some(symbol.name()?.to_owned())
                }
            }
            Some(_) => None,
            None if insn[1] >> 4 == PSEUDO_CALL => {
                let base = i64::try_from(here / 8)? + imm;
                in_bytes(base).and_then(|address| at(function.section, address))
            }
            // A kernel helper, by number.
            None => continue,
        };
        found.insert(name.with_context(|| format!("`{}` calls something unknown at byte {here}", function.name))?);
    }
    Ok(found)
}

/// The deepest byte of its stack frame that a function touches or takes the address of.
fn frame_size(code: &[u8]) -> u32 {
    const MOVE: u8 = 0xbf;
    const ADD_CONST: u8 = 0x07;
    const CLASS: u8 = 0x07;
    let (load, store_const, store) = (0x01, 0x02, 0x03);
    let mut deepest = 0i64;
    let mut is_frame = [false; 16];
    for (_, insn) in instructions(code) {
        let (destination, source) = (usize::from(insn[1] & 0xf), insn[1] >> 4);
        let offset = i64::from(i16::from_le_bytes([insn[2], insn[3]]));
        let imm = i64::from(i32::from_le_bytes([insn[4], insn[5], insn[6], insn[7]]));
        let class = insn[0] & CLASS;
        let base = if class == load { source } else { insn[1] & 0xf };
        if [load, store_const, store].contains(&class) && base == FRAME {
            deepest = deepest.min(offset);
        }
        if insn[0] == ADD_CONST && is_frame[destination] {
            deepest = deepest.min(imm);
        }
        if class == load || class == 0x07 || class == 0x04 || class == 0x00 {
            is_frame[destination] = insn[0] == MOVE && source == FRAME;
        }
    }
    u32::try_from(-deepest).unwrap_or(u32::MAX)
}

/// The kernel counts each frame of a chain of calls in steps of 32 bytes.
fn deepest(
    name: &str,
    calls: &BTreeMap<&str, BTreeSet<String>>,
    frames: &BTreeMap<&str, u32>,
    depth: u32,
) -> Result<u32> {
    if depth > 8 {
        bail!("`{name}` is called more than eight calls deep, which the kernel refuses");
    }
    let mut below = 0;
    for callee in calls.get(name).into_iter().flatten() {
        below = below.max(deepest(callee, calls, frames, depth + 1)?);
    }
    let own = frames.get(name).copied().unwrap_or(0);
    let counted = if depth > 0 || below > 0 { own.max(1).next_multiple_of(32) } else { own };
    Ok(counted + below)
}

#[cfg(test)]
mod tests;
