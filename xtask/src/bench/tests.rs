use super::{LOAD_BALANCING, Program, aims::ROWS, rows, selection};

fn program(name: &str) -> &'static Program {
    LOAD_BALANCING.iter().find(|program| program.name == name).expect("it is one of them")
}

#[test]
fn a_word_selects_programs_and_rows() {
    let all = |only| LOAD_BALANCING.iter().map(move |program| selection(program, only)).collect::<Vec<_>>();
    assert_eq!(all(""), [Some(""); 4]);
    assert_eq!(all("connects"), [None, None, Some(""), None]);
    assert_eq!(all("services: "), [None, None, None, Some("")]);
    assert_eq!(all("XDP SNAT"), [Some("XDP SNAT"), None, None, None]);
    assert_eq!(all("connects: socket LB, 1"), [None, None, Some("socket LB, 1"), None]);
    assert_eq!(all("nothing like it"), [None; 4]);
}

#[test]
fn every_row_is_of_a_program() {
    ROWS.iter().for_each(|row| assert_eq!(program(row.from.0).name, row.from.0));
}

#[test]
fn lines_that_are_no_rows_are_refused() {
    assert_eq!(rows("maglev", "{\"row\":\"a\",\"value\":1}\n{\"row\":\"b\",\"value\":2.5}\n").expect("rows").len(), 2);
    for bad in ["hello", "{}", "{\"row\":\"a\"}", "{\"row\":\"a\",\"value\":\"1\"}"] {
        assert!(rows("maglev", bad).is_err(), "{bad}");
    }
}
