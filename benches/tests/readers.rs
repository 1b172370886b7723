//! Reading policies takes work and memory linear in the text, whatever the text is. Counted in bytes, not in time: what is
//! allocated in all, and what is held at most. (`cargo bench --bench policy_readers` measures the time of the same texts.)

use cilium_benches::{
    counting::{Counting, count},
    documents::SHAPES,
};
use policy::parse::{Options, parse_rules, parse_with};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// For each byte of text: a value of 32 bytes may stand for two of them, and lists double while they grow.
const PER_BYTE: usize = 400;
/// For each value an alias may stand for.
const PER_NODE: usize = 100;
/// Beside that: the mistakes listed, which are bounded, and the tables of the readers.
const BESIDE: usize = 4 << 20;

#[test]
fn reading_takes_work_and_memory_linear_in_the_text() {
    let options = Options::default();
    let (mut most, mut worst) = (0, "");
    for shape in SHAPES {
        for bytes in [64 << 10, 128 << 10, 256 << 10, 512 << 10] {
            let text = (shape.make)(bytes);
            assert!((bytes / 2..bytes * 2).contains(&text.len()), "{}: {} for {bytes}", shape.name, text.len());
            for (reader, read) in [
                ("objects", &(|text: &str| parse_with(text, &options).is_ok()) as &dyn Fn(&str) -> bool),
                ("bare rules", &|text: &str| parse_rules(text, &options).is_ok()),
            ] {
                let (_, used) = count(|| read(&text));
                // A value of a bomb is an alias of others: what it stands for is bounded by number, not by the text.
                let aliases = if shape.name == "an alias bomb" { options.limits.nodes_max * PER_NODE } else { 0 };
                let allowed = text.len() * PER_BYTE + BESIDE + aliases;
                let what = format!("{}, read as {reader}: {} bytes of text took {used:?}", shape.name, text.len());
                assert!(used.allocated <= allowed && used.peak.unsigned_abs() <= allowed, "{what}");
                assert_eq!(used.kept, 0, "{what}");
                let per_byte = used.allocated / text.len();
                if bytes > 256 << 10 && aliases == 0 && per_byte > most {
                    (most, worst) = (per_byte, shape.name);
                }
            }
        }
    }
    println!("most: {most} bytes allocated for each of the text: {worst}");
}

/// The limits by their names, in every form a text may have.
#[test]
fn ten_megabytes_and_deep_nesting_are_refused_by_a_limit_with_a_name() {
    let options = Options::default();
    let errors = |text: &str, bare: bool| -> String {
        let errors = if bare { parse_rules(text, &options).err() } else { parse_with(text, &options).err() };
        errors.unwrap_or_default().iter().map(|e| format!("{e}\n")).collect()
    };
    for shape in SHAPES {
        let text = (shape.make)(10 << 20);
        for bare in [false, true] {
            let found = errors(&text, bare);
            assert!(found.contains("exceeds the limit policy-bytes-max of 8388608"), "{}: {found}", shape.name);
            assert_eq!(found.lines().count(), 1, "{}: {found}", shape.name);
        }
    }
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(40), close.repeat(40));
    let (lists, maps) = (deep("[", "]"), deep("{\"a\":", "}"));
    let block: String = (0..40).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    let dashes = format!("{}x", "- ".repeat(40));
    let head = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec:\n  endpointSelector: ";
    for text in [
        lists.clone(),
        maps.clone(),
        block.clone(),
        dashes.clone(),
        format!("a: {lists}"),
        format!("--- 1\n---\n{dashes}\n"),
        format!("{head}{maps}\n"),
        format!("{{}}\n{lists}"),
        format!("{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{maps}]}}"),
        format!("apiVersion: v1\nkind: List\nitems:\n- {maps}\n"),
        format!("a: &a {}\nb: {}*a{}\n", deep("[", "]").replace('1', "x"), "[".repeat(20), "]".repeat(20)),
    ] {
        for bare in [false, true] {
            let found = errors(&text, bare);
            assert!(found.contains("exceeds the limit policy-depth-max of 32"), "{text}: {found}");
        }
    }
}
