use super::parse;

#[test]
fn release_output_and_status_come_back_apart() {
    let answer =
        parse("6.1.0-56-cloud-amd64\n[{\"program\":\"p\"}]\nguest-exit-status 0\n").expect("all three are there");
    assert_eq!((answer.release.as_str(), answer.status), ("6.1.0-56-cloud-amd64", 0));
    assert_eq!(answer.output, "[{\"program\":\"p\"}]");
}

#[test]
fn a_guest_that_died_halfway_has_no_answer() {
    assert!(parse("6.1.0-56-cloud-amd64\n[{\"program\":").is_none());
    assert!(parse("").is_none());
}
