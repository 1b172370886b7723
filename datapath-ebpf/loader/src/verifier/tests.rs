use super::{Figures, Rejection};

const REFUSED: &str = "\
0: R1=ctx() R10=fp0
0: (bf) r6 = r1
1: (61) r0 = *(u32 *)(r2 +0)
R2 !read_ok
verification time 41 usec
stack depth 0
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
";

#[test]
fn a_rejection_names_the_error_and_what_led_to_it() {
    let rejection = Rejection::parse("Permission denied".into(), REFUSED);
    assert_eq!(rejection.error, "R2 !read_ok");
    assert_eq!(rejection.context.last().map(String::as_str), Some("1: (61) r0 = *(u32 *)(r2 +0)"));
    assert!(rejection.stats.as_deref().is_some_and(|s| s.starts_with("processed 2 insns")));
    let text = rejection.to_string();
    assert!(text.starts_with("R2 !read_ok (Permission denied)"), "{text}");
    assert!(text.contains("r0 = *(u32 *)(r2 +0)"), "{text}");
}

#[test]
fn of_a_long_log_only_the_end_is_kept() {
    let mut log: String = (0..10_000).map(|n| format!("{n}: (b7) r0 = {n}\n")).collect();
    log.push_str("invalid access to packet\nprocessed 10000 insns (limit 1000000) peak_states 7 mark_read 0\n");
    let rejection = Rejection::parse("EACCES".into(), &log);
    assert_eq!(rejection.error, "invalid access to packet");
    assert_eq!(rejection.context.len(), super::CONTEXT_LINES);
    assert_eq!(rejection.context[0], "9976: (b7) r0 = 9976");
    assert_eq!(rejection.log, log);
}

#[test]
fn an_empty_log_still_gives_a_message() {
    assert_eq!(Rejection::parse("EPERM".into(), "").to_string(), "the kernel gave no reason (EPERM)");
}

#[test]
fn the_figures_of_an_accepted_program_are_read() {
    let log = "verification time 5821 usec\nstack depth 208+64\n\
        processed 12031 insns (limit 1000000) max_states_per_insn 6 total_states 500 peak_states 480 mark_read 0\n";
    let figures = Figures::parse(log);
    assert_eq!(figures, Figures { verified_insns: 12031, stack_bytes: 272, peak_states: 480, verification_us: 5821 });
    assert_eq!(Figures::parse("nothing to see"), Figures::default());
}
