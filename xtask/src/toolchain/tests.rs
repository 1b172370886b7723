use super::{new_enough, versions};

#[test]
fn the_release_and_llvm_major_version_are_read_from_rustc() {
    let verbose = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
    assert_eq!(versions(verbose), Some(("1.96.0".to_owned(), 22)));
    assert_eq!(versions("rustc 1.96.0\nrelease: 1.96.0\n"), None, "a compiler without LLVM cannot build BPF");
}

#[test]
fn a_compiler_older_than_the_workspace_asks_for_is_passed_over() {
    assert!(new_enough(env!("CARGO_PKG_RUST_VERSION")));
    assert!(new_enough("1.99.0-nightly"));
    assert!(new_enough("2.0.0"));
    assert!(!new_enough("1.85.0"));
    assert!(!new_enough("nonsense"));
}
