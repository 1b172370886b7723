use super::{inspect, instructions, is_forbidden};
use object::write::{Object, Relocation, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind, SymbolScope, elf,
};

const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
/// `call` of the function that the relocation names.
const CALL_OTHER: [u8; 8] = [0x85, 0x10, 0, 0, 0xff, 0xff, 0xff, 0xff];

/// An object with one program that calls one function of the given name.
fn calling(callee: &str) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let text = object.add_section(Vec::new(), b".text".to_vec(), SectionKind::Text);
    object.append_section_data(text, &EXIT, 8);
    let program = object.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
    object.append_section_data(program, &[CALL_OTHER, EXIT].concat(), 8);
    let mut function = |name: &str, section, size| {
        object.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: 0,
            size,
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        })
    };
    let callee = function(callee, text, 8);
    function("cil_program", program, 16);
    let relocation =
        Relocation { offset: 0, symbol: callee, addend: 0, flags: RelocationFlags::Elf { r_type: elf::R_BPF_64_32 } };
    object.add_relocation(program, relocation).expect("the section exists");
    object.write().expect("a small object can be written")
}

#[test]
fn a_planted_call_of_memset_is_found() {
    let contents = inspect(&calling("memset")).expect("the object is well formed");
    assert_eq!(contents.forbidden, ["cil_program calls memset"]);
}

#[test]
fn an_ordinary_subprogram_is_allowed_and_is_no_program() {
    let contents = inspect(&calling("lookup_backend")).expect("the object is well formed");
    assert!(contents.forbidden.is_empty());
    assert_eq!(contents.programs.into_iter().collect::<Vec<_>>(), ["cil_program"]);
}

#[test]
fn runtime_and_panic_functions_are_forbidden_by_name() {
    for name in ["memcpy", "bcmp", "__multi3", "__udivti3", "_ZN4core9panicking5panic17h0123456789abcdefE"] {
        assert!(is_forbidden(name), "{name}");
    }
    for name in ["lookup_backend", "cil_from_container", "memory_of_flow"] {
        assert!(!is_forbidden(name), "{name}");
    }
}

#[test]
fn the_second_half_of_a_wide_load_is_not_an_instruction() {
    let wide = [[0x18, 1, 0, 0, 0, 0, 0, 0], [0x85, 0x10, 0, 0, 0, 0, 0, 0]].concat();
    let code = [wide.as_slice(), &EXIT].concat();
    assert_eq!(instructions(&code).map(|(offset, _)| offset).collect::<Vec<_>>(), [0, 16]);
}
