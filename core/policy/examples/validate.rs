//! Reads policy files and prints what is in them or what is wrong: `validate FILE…`.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a program that reads files and prints")]

fn main() {
    let mut failed = false;
    for file in std::env::args().skip(1) {
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) => {
                eprintln!("{file}: {e}");
                failed = true;
                continue;
            }
        };
        match policy::parse(&text) {
            Ok(objects) => {
                for object in objects {
                    println!("{file}: {} ({} rules)", object.key, object.rules.len());
                    for notice in &object.notices {
                        println!("{file}:   {}: {}", notice.path, notice.what);
                    }
                }
            }
            Err(errors) => {
                failed = true;
                for error in errors {
                    println!("{file}: {error}");
                }
            }
        }
    }
    std::process::exit(i32::from(failed));
}
