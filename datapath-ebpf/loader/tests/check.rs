//! `bpf-check` as a stranger meets it: figures as JSON, or one line that says what is missing.

mod support;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Output},
};

fn check(object: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bpf-check"));
    command.arg(object);
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the binary was just built");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn without_rights_it_names_what_is_missing() {
    // SAFETY: geteuid(2) takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        let (code, _, stderr) = run(&mut check(Path::new("/nowhere.o")));
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("CAP_BPF"), "{stderr}");
        return;
    }
    // As root: hand the binary to somebody else, from where they can read it.
    let copy = std::env::temp_dir().join(format!("bpf-check-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_bpf-check"), &copy).expect("a temporary file");
    let (code, _, stderr) = run(Command::new(&copy).arg("/nowhere.o").current_dir("/").uid(65_534).gid(65_534));
    fs::remove_file(&copy).expect("it was just copied");
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("CAP_BPF") && stderr.contains("run as root"), "{stderr}");
}

#[test]
fn a_missing_or_foreign_object_is_named() {
    if let Err(why) = loader::check_kernel() {
        return support::skip(&why.to_string());
    }
    let (code, _, stderr) = run(&mut check(Path::new("/nowhere.o")));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("/nowhere.o") && stderr.contains("cargo xtask bpf"), "{stderr}");
    let (code, _, stderr) = run(&mut check(Path::new("/proc/version")));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("does not fit"), "{stderr}");
}

#[test]
fn every_program_loads_and_its_cost_is_told() {
    let Some(object) = support::object() else { return };
    if let Err(why) = loader::check_kernel() {
        return support::skip(&why.to_string());
    }
    let (code, stdout, stderr) = run(&mut check(&object));
    assert_eq!(code, Some(0), "{stderr}");
    for field in ["cil_from_container", "\"verified\":", "\"stack\":", "\"jited_bytes\":"] {
        assert!(stdout.contains(field), "{field} in {stdout}");
    }
}
