//! What is in a BPF object: its programs, and calls that must not be there.
//!
//! Read from the ELF file alone. Calls to `mem*` and to arithmetic helpers of the compiler's runtime become slow byte
//! loops, a panic path means an unchecked index: each is a mistake in the source that shows nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolKind};

const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;
const LOAD_64: u8 = 0x18;

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
    /// Names of the programs; subprograms are not among them.
    pub programs: BTreeSet<String>,
    /// `caller calls callee` for every forbidden call.
    pub forbidden: Vec<String>,
}

/// Reads the object's programs and calls.
pub fn inspect(bytes: &[u8]) -> Result<Contents> {
    let elf = object::File::parse(bytes).context("the BPF object is not an ELF file")?;
    let functions = functions(&elf)?;
    let mut contents = Contents { programs: BTreeSet::new(), forbidden: Vec::new() };
    for function in &functions {
        let section = elf.section_by_index(function.section)?;
        if section.name()? != ".text" {
            contents.programs.insert(function.name.clone());
        }
        // The linker adds the memory loops to every object; only a call of them from outside counts.
        if is_forbidden(&function.name) {
            continue;
        }
        let callees = callees(&elf, &section, function, &functions)?;
        let forbidden = callees.iter().filter(|callee| is_forbidden(callee));
        contents.forbidden.extend(forbidden.map(|callee| format!("{} calls {callee}", function.name)));
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
    functions: &[Function],
) -> Result<BTreeSet<String>> {
    let code = usize::try_from(function.start)
        .ok()
        .zip(usize::try_from(function.end).ok())
        .zip(section.data().ok())
        .and_then(|((start, end), data)| data.get(start..end))
        .with_context(|| format!("`{}` reaches beyond its section", function.name))?;
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

#[cfg(test)]
mod tests;
