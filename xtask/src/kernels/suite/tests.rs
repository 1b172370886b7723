use super::{Answer, judge, skipped};

const SAID: &str = "running 2 tests\ntest a_link ... skipped: this kernel has no TCX\nok\ntest all ... native: 3\nok\n\n\
                    test result: ok. 2 passed; 0 failed\n";

fn answer(status: i32, output: &str) -> Answer {
    Answer { release: "6.1.0".into(), output: output.into(), status }
}

fn judged(status: i32, output: &str, lacks: &[&str]) -> Result<(), String> {
    judge(&answer(status, output), &skipped(output), lacks).map_err(|why| format!("{why:#}"))
}

#[test]
fn what_is_skipped_is_named_with_its_test() {
    assert_eq!(skipped(SAID), [("a_link".to_owned(), "skipped: this kernel has no TCX".to_owned())]);
    let twice = "test twice ... skipped: this is not root\nskipped: this is not root\nok\n";
    assert_eq!(skipped(twice).len(), 1, "one test, one reason");
}

#[test]
fn only_what_the_kernel_lacks_may_be_skipped() {
    assert_eq!(judged(0, SAID, &["TCX"]), Ok(()));
    let why = judged(0, SAID, &[]).expect_err("this one has it");
    assert!(why.contains("a_link must run on Linux 6.1.0"), "{why}");
    let other = SAID.replace("this kernel has no TCX", "this is not root");
    assert!(judged(0, &other, &["TCX"]).is_err(), "another reason");
}

#[test]
fn a_program_that_fails_or_ends_early_is_told() {
    let why = judged(101, SAID, &["TCX"]).expect_err("it failed");
    assert!(why.contains("ended with 101") && why.contains("a_link"), "{why}");
    assert!(judged(0, "running 2 tests\n", &["TCX"]).is_err(), "no result at all");
    assert!(judged(0, "test result: ok. 0 passed; 0 failed\n", &[]).is_err(), "nothing that was tested");
}
