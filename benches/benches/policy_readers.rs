//! Time and memory of reading policies, for texts of 1, 2 and 4 MiB: linear, if each column is twice the one before.
//! The test `readers` demands the same of the bytes, which no other work on the machine disturbs.

#![allow(missing_docs, reason = "a benchmark's parts are its own")]

use cilium_benches::{
    counting::{Counting, count},
    documents::SHAPES,
};
use std::{hint::black_box, time::Instant};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    println!(
        "| text | 1 MiB | 2 MiB | 4 MiB | allocated, a byte of text | held at most, a byte of text |\n|---|---|---|---|---|---|"
    );
    for shape in SHAPES {
        print!("| {} |", shape.name);
        let mut last = String::new();
        for bytes in [1 << 20, 2 << 20, 4 << 20] {
            let text = (shape.make)(bytes);
            let start = Instant::now();
            let (_, used) = count(|| black_box(policy::parse(&text)).is_ok());
            print!(" {:.1?} |", start.elapsed());
            last = format!(" {} | {} |", used.allocated / text.len(), used.peak.unsigned_abs() / text.len());
        }
        println!("{last}");
    }
}
